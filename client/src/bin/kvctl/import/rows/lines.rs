//! JSON Lines: one object a line, stored as it stands, or an entry a line, as `export` wrote it.

use super::{Bad, ROW_BYTES_MAX, Row, shown};
use crate::{
    export::line::{LINE_BYTES_MAX, parse},
    import::{source::Source, template::Template},
};
use anyhow::Context as _;
use bytes::Bytes;
use serde_json::value::RawValue;
use std::{collections::BTreeMap, io::BufRead};

/// Rows of a file of JSON objects.
pub struct Lines {
    text: Box<dyn BufRead + Send>,
    name: String,
    /// `None` = the lines of an export, which bring their keys.
    template: Option<Template>,
    line: u64,
    buffer: Vec<u8>,
}

impl Lines {
    pub fn new(source: Source, template: Option<Template>) -> Self {
        Lines { text: source.text, name: source.name, template, line: 0, buffer: Vec::new() }
    }

    /// The next row, good or bad; an error ends the reading.
    pub fn next_row(&mut self) -> anyhow::Result<Option<Result<Row, Bad>>> {
        loop {
            let length = self
                .next_line()
                .with_context(|| format!("{} cannot be read on after line {}", self.name, self.line))?;
            let Some(length) = length else { return Ok(None) };
            self.line += 1;
            if self.buffer.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let bytes_max = self.line_bytes_max();
            let row = if length > bytes_max {
                Err(format!("the line has {length} bytes, at most {bytes_max} are read"))
            } else {
                self.row()
            };
            let bad = |problem| Bad { line: self.line, problem, text: shown(&self.buffer) };
            return Ok(Some(row.map_err(bad)));
        }
    }

    fn line_bytes_max(&self) -> usize {
        if self.template.is_some() { ROW_BYTES_MAX } else { LINE_BYTES_MAX }
    }

    /// Reads a line into the buffer, no more of it than a row may have, and says how long it was.
    fn next_line(&mut self) -> std::io::Result<Option<usize>> {
        let bytes_max = self.line_bytes_max();
        self.buffer.clear();
        let mut length = 0;
        loop {
            let ahead = self.text.fill_buf()?;
            if ahead.is_empty() {
                return Ok((length > 0).then_some(length));
            }
            let end = ahead.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(ahead.len());
            let kept = taken.min(bytes_max.saturating_sub(self.buffer.len()));
            self.buffer.extend_from_slice(&ahead[..kept]);
            length += taken + usize::from(end.is_some());
            self.text.consume(taken + usize::from(end.is_some()));
            if end.is_some() {
                return Ok(Some(length));
            }
        }
    }

    fn row(&self) -> Result<Row, String> {
        let text = self.buffer.trim_ascii();
        let Some(template) = &self.template else {
            let entry = parse(text)?;
            let (key, value, expires_ms) = (entry.key, entry.value, entry.expires_ms);
            return Ok(Row { line: self.line, key, value, expires_ms, chunk: 0 });
        };
        let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(text).map_err(|error| {
            if text.first() == Some(&b'{') { format!("not JSON: {error}") } else { "not a JSON object".to_owned() }
        })?;
        let key = template.render(|name| {
            let field = fields.get(name).ok_or_else(|| {
                let known: Vec<&str> = fields.keys().map(String::as_str).collect();
                format!("no field {name:?}: the row has {}", known.join(", "))
            })?;
            cell(name, field.get())
        })?;
        let value = Bytes::copy_from_slice(text);
        Ok(Row { line: self.line, key: key.into(), value, expires_ms: None, chunk: 0 })
    }
}

/// A field as part of a key: text without its quotes, numbers and truth values as they are written.
fn cell(name: &str, json: &str) -> Result<String, String> {
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str(json).map_err(|error| format!("field {name}: {error}")),
        Some(b'n') => Err(format!("field {name} is null, and the key needs it")),
        Some(b'{' | b'[') => Err(format!("field {name} is not a single value: a key needs text or a number")),
        _ => Ok(json.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, atomic::AtomicU64};

    fn all(text: &[u8], key: &str) -> Vec<Result<Row, Bad>> {
        let source = Source {
            name: "test.jsonl".to_owned(),
            bytes_total: None,
            bytes_read: Arc::new(AtomicU64::new(0)),
            text: Box::new(std::io::Cursor::new(text.to_vec())),
        };
        let mut rows = Lines::new(source, (!key.is_empty()).then(|| Template::parse(key).unwrap()));
        std::iter::from_fn(|| rows.next_row().unwrap()).collect()
    }

    #[test]
    fn a_line_is_stored_as_it_stands() {
        let text = b" {\"id\": 10000000000000000001, \"n\": 1.10, \"name\": \"\\u00fc\"} \r\n\n{\"id\":\"b\",\"name\":true,\"n\":0}";
        let rows: Vec<Row> = all(text, "{id}/{name}/{n}").into_iter().map(Result::unwrap).collect();
        assert_eq!(rows[0].key, "10000000000000000001/ü/1.10");
        let value = "{\"id\": 10000000000000000001, \"n\": 1.10, \"name\": \"\\u00fc\"}";
        assert_eq!(String::from_utf8_lossy(&rows[0].value), value);
        assert_eq!((&rows[1].key[..], rows[1].line), (&b"b/true/0"[..], 3));
    }

    /// Every line that is not blank is told, good or bad; what is stored is JSON, as it stood.
    #[test]
    fn fuzz_any_lines_are_told_one_by_one() {
        let sound = "{\"a\":1,\"b\":\"x\"}\n{\"a\":\"\\u00fc\",\"b\":null}\n\n{\"a\":true}\n";
        bolero::check!().with_iterations(3_000).with_max_len(60).for_each(|input: &[u8]| {
            for text in [input.to_vec(), crate::typed::miswritten(sound, input)] {
                let blank = |line: &&[u8]| line.iter().all(u8::is_ascii_whitespace);
                let told = text.split(|byte| *byte == b'\n').filter(|line| !blank(line)).count();
                for key in ["{a}", ""] {
                    let rows = all(&text, key);
                    assert_eq!(rows.len(), told);
                    for row in rows.into_iter().flatten().filter(|_| !key.is_empty()) {
                        assert!(serde_json::from_slice::<serde_json::Value>(&row.value).unwrap().is_object());
                    }
                }
            }
        });
    }

    #[test]
    fn a_bad_line_is_told_with_its_number_and_the_rest_is_read() {
        let text = b"{\"a\":1}\nnonsense\n[1]\n{\"a\":\n{\"b\":1}\n{\"a\":null}\n{\"a\":[]}\n{\"a\":2}\n";
        let rows = all(text, "{a}");
        let bad: Vec<(u64, &str)> =
            rows.iter().filter_map(|row| row.as_ref().err().map(|bad| (bad.line, bad.problem.as_str()))).collect();
        assert_eq!(bad.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7]);
        assert_eq!(bad[0].1, "not a JSON object");
        assert!(bad[2].1.starts_with("not JSON: "), "{bad:?}");
        assert_eq!(bad[3].1, "no field \"a\": the row has b");
        assert_eq!(rows.last().unwrap().as_ref().unwrap().key, "2");
    }

    #[test]
    fn lines_of_an_export_bring_their_keys() {
        let text =
            b"{\"key\":\"a\",\"value\":\"1\"}\n{\"id\":5}\n{\"key_base64\":\"/w==\",\"value\":\"\",\"expires_ms\":7}\n";
        let rows = all(text, "");
        let [Ok(first), Err(bad), Ok(last)] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((&first.key[..], &first.value[..], first.expires_ms), (&b"a"[..], &b"1"[..], None));
        assert!(bad.problem.contains("--key") && bad.line == 2, "{bad:?}");
        assert_eq!((&last.key[..], &last.value[..], last.expires_ms), (&[0xff][..], &b""[..], Some(7)));
    }

    #[test]
    fn an_endless_line_is_a_bad_row_and_not_a_full_memory() {
        let mut text = vec![b'x'; ROW_BYTES_MAX + 5];
        text.extend_from_slice(b"\n{\"a\":1}\n");
        let rows = all(&text, "{a}");
        assert_eq!(rows.len(), 2);
        let bad = rows[0].as_ref().unwrap_err();
        assert!(bad.problem.contains("bytes, at most") && bad.text.len() <= 200, "{}", bad.problem);
    }
}
