//! JSON Lines: one object a line, stored as it stands.

use super::{Bad, ROW_BYTES_MAX, Row, shown};
use crate::import::{source::Source, template::Template};
use anyhow::Context as _;
use serde_json::value::RawValue;
use std::{collections::BTreeMap, io::BufRead};

/// Rows of a file of JSON objects.
pub struct Lines {
    text: Box<dyn BufRead + Send>,
    name: String,
    template: Template,
    line: u64,
    buffer: Vec<u8>,
}

impl Lines {
    pub fn new(source: Source, template: Template) -> Self {
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
            let row = if length > ROW_BYTES_MAX {
                Err(format!("the line has {length} bytes, at most {ROW_BYTES_MAX} are read"))
            } else {
                self.row()
            };
            let bad = |problem| Bad { line: self.line, problem, text: shown(&self.buffer) };
            return Ok(Some(row.map_err(bad)));
        }
    }

    /// Reads a line into the buffer, no more of it than a row may have, and says how long it was.
    fn next_line(&mut self) -> std::io::Result<Option<usize>> {
        self.buffer.clear();
        let mut length = 0;
        loop {
            let ahead = self.text.fill_buf()?;
            if ahead.is_empty() {
                return Ok((length > 0).then_some(length));
            }
            let end = ahead.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(ahead.len());
            let kept = taken.min(ROW_BYTES_MAX.saturating_sub(self.buffer.len()));
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
        let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(text).map_err(|error| {
            if text.first() == Some(&b'{') { format!("not JSON: {error}") } else { "not a JSON object".to_owned() }
        })?;
        let key = self.template.render(|name| {
            let field = fields.get(name).ok_or_else(|| {
                let known: Vec<&str> = fields.keys().map(String::as_str).collect();
                format!("no field {name:?}: the row has {}", known.join(", "))
            })?;
            cell(name, field.get())
        })?;
        Ok(Row { line: self.line, key, value: text.to_vec() })
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
        let mut rows = Lines::new(source, Template::parse(key).unwrap());
        std::iter::from_fn(|| rows.next_row().unwrap()).collect()
    }

    #[test]
    fn a_line_is_stored_as_it_stands() {
        let text = b" {\"id\": 10000000000000000001, \"n\": 1.10, \"name\": \"\\u00fc\"} \r\n\n{\"id\":\"b\",\"name\":true,\"n\":0}";
        let rows: Vec<Row> = all(text, "{id}/{name}/{n}").into_iter().map(Result::unwrap).collect();
        assert_eq!(rows[0].key, "10000000000000000001/ü/1.10");
        let value = "{\"id\": 10000000000000000001, \"n\": 1.10, \"name\": \"\\u00fc\"}";
        assert_eq!(String::from_utf8_lossy(&rows[0].value), value);
        assert_eq!((rows[1].key.as_str(), rows[1].line), ("b/true/0", 3));
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
    fn an_endless_line_is_a_bad_row_and_not_a_full_memory() {
        let mut text = vec![b'x'; ROW_BYTES_MAX + 5];
        text.extend_from_slice(b"\n{\"a\":1}\n");
        let rows = all(&text, "{a}");
        assert_eq!(rows.len(), 2);
        let bad = rows[0].as_ref().unwrap_err();
        assert!(bad.problem.contains("bytes, at most") && bad.text.len() <= 200, "{}", bad.problem);
    }
}
