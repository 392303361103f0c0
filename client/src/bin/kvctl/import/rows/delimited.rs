//! CSV and TSV: a header, then one record a row.

use super::{Bad, ROW_BYTES_MAX, Row, shown};
use crate::{
    exit::Usage,
    import::{
        cells::{is_null, push_json, push_text},
        source::Source,
        template::Template,
    },
};
use anyhow::{Context as _, bail};
use csv::{ByteRecord, Reader, ReaderBuilder};
use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Rows of a table with a header.
pub struct Delimited {
    reader: Reader<Fence>,
    name: String,
    header: Vec<String>,
    /// `"name":` of each column, as JSON.
    labels: Vec<Vec<u8>>,
    template: Template,
    nulls: Vec<String>,
    record: ByteRecord,
    since_record: Arc<AtomicUsize>,
}

impl Delimited {
    pub fn new(source: Source, delimiter: u8, template: Template, nulls: Vec<String>) -> anyhow::Result<Self> {
        let since_record = Arc::new(AtomicUsize::new(0));
        let fence = Fence { inner: source.text, since_record: since_record.clone() };
        let mut reader = ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(fence);
        let name = source.name;
        let header = reader.headers().with_context(|| format!("cannot read the header of {name}"))?;
        let header: Vec<String> = header.iter().map(str::to_owned).collect();
        if header.is_empty() || header == [""] {
            bail!("{name} is empty: its first line must name the columns");
        }
        for (place, column) in header.iter().enumerate() {
            if header[..place].contains(column) {
                bail!("the header of {name} names the column {column:?} twice");
            }
        }
        if let Some(unknown) = template.columns().find(|column| !header.iter().any(|known| known == column)) {
            let columns = header.join(", ");
            return Err(Usage(format!("--key: unknown column {unknown:?}: {name} has {columns}")).into());
        }
        let labels = header.iter().map(|column| {
            let mut label = Vec::new();
            push_text(&mut label, column);
            label.push(b':');
            label
        });
        let labels = labels.collect();
        Ok(Delimited { reader, name, header, labels, template, nulls, record: ByteRecord::new(), since_record })
    }

    /// The next row, good or bad; an error ends the reading.
    pub fn next_row(&mut self) -> anyhow::Result<Option<Result<Row, Bad>>> {
        self.since_record.store(0, Ordering::Relaxed);
        let line = self.reader.position().line();
        let found = self.reader.read_byte_record(&mut self.record);
        let found = found.with_context(|| format!("{} cannot be read on after line {line}", self.name))?;
        if !found {
            return Ok(None);
        }
        let line = self.record.position().map_or(line, csv::Position::line);
        Ok(Some(self.row(line).map_err(|problem| {
            let text: Vec<&[u8]> = self.record.iter().collect();
            Bad { line, problem, text: shown(&text.join(&b","[..])) }
        })))
    }

    fn row(&self, line: u64) -> Result<Row, String> {
        if self.record.len() != self.header.len() {
            return Err(format!("{} fields, the header has {}", self.record.len(), self.header.len()));
        }
        let mut cells = Vec::with_capacity(self.header.len());
        for (column, cell) in self.header.iter().zip(&self.record) {
            let text = std::str::from_utf8(cell).map_err(|error| format!("column {column}: {error}"))?;
            cells.push(text);
        }
        let key = self.template.render(|name| {
            let place = self.header.iter().position(|column| column == name);
            let cell = place.map_or("", |place| cells[place]);
            if is_null(cell, &self.nulls) {
                return Err(format!("column {name} is empty, and the key needs it"));
            }
            Ok(cell)
        })?;
        let mut value = vec![b'{'];
        for (label, cell) in self.labels.iter().zip(cells) {
            if value.len() > 1 {
                value.push(b',');
            }
            value.extend_from_slice(label);
            push_json(&mut value, cell, &self.nulls);
        }
        value.push(b'}');
        Ok(Row { line, key: key.into(), value: value.into(), expires_ms: None, chunk: 0 })
    }
}

/// Stops a record that never ends: a quote left open would take the rest of the file into memory.
struct Fence {
    inner: Box<dyn io::BufRead + Send>,
    since_record: Arc<AtomicUsize>,
}

impl Read for Fence {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let since = self.since_record.fetch_add(count, Ordering::Relaxed) + count;
        if since > ROW_BYTES_MAX {
            let text = format!("a record is longer than {ROW_BYTES_MAX} bytes: is a quote left open?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn rows_of(text: &[u8], key: &str, nulls: &[&str]) -> anyhow::Result<Delimited> {
        let source = Source {
            name: "test.csv".to_owned(),
            bytes_total: None,
            bytes_read: Arc::new(AtomicU64::new(0)),
            text: Box::new(io::Cursor::new(text.to_vec())),
        };
        let nulls = nulls.iter().map(|null| (*null).to_owned()).collect();
        Delimited::new(source, b',', Template::parse(key).unwrap(), nulls)
    }

    fn all(rows: &mut Delimited) -> Vec<Result<Row, Bad>> {
        std::iter::from_fn(|| rows.next_row().unwrap()).collect()
    }

    #[test]
    fn a_row_becomes_a_key_and_a_json_object_in_column_order() {
        let text = "origin,flight,tail,note\nEWR,1545,NA,\"a \"\"b\"\", c\"\nLGA,007,,\"two\nlines\"\n";
        let mut rows = rows_of(text.as_bytes(), "{origin}/{flight}", &["NA"]).unwrap();
        let rows: Vec<Row> = all(&mut rows).into_iter().map(Result::unwrap).collect();
        assert_eq!(rows[0].key, "EWR/1545");
        let first = r#"{"origin":"EWR","flight":1545,"tail":null,"note":"a \"b\", c"}"#;
        assert_eq!(String::from_utf8_lossy(&rows[0].value), first);
        let second = r#"{"origin":"LGA","flight":"007","tail":null,"note":"two\nlines"}"#;
        assert_eq!(String::from_utf8_lossy(&rows[1].value), second);
        assert_eq!((rows[0].line, rows[1].line), (2, 3));
    }

    #[test]
    fn a_bad_row_is_told_with_its_line_and_the_rest_is_read() {
        let text = b"a,b\n1,2\n3\n4,5,6\n\xff,7\nNA,8\n9,10\n";
        let mut rows = rows_of(text, "{a}", &["NA"]).unwrap();
        let rows = all(&mut rows);
        let bad: Vec<(u64, &str)> =
            rows.iter().filter_map(|row| row.as_ref().err().map(|bad| (bad.line, bad.problem.as_str()))).collect();
        assert_eq!(bad[0], (3, "1 fields, the header has 2"));
        assert_eq!(bad[1], (4, "3 fields, the header has 2"));
        assert!(bad[2].0 == 5 && bad[2].1.starts_with("column a: invalid utf-8"), "{bad:?}");
        assert_eq!(bad[3], (6, "column a is empty, and the key needs it"));
        assert_eq!(rows.last().unwrap().as_ref().unwrap().key, "9");
        assert_eq!(rows.len(), 6);
    }

    #[test]
    fn an_unknown_column_is_named_with_the_columns_there_are() {
        let error = rows_of(b"a,b\n", "{a}{c}", &[]).err().unwrap();
        assert_eq!(error.to_string(), "--key: unknown column \"c\": test.csv has a, b");
        assert!(rows_of(b"a,a\n", "{a}", &[]).err().unwrap().to_string().contains("twice"));
        assert!(rows_of(b"", "{a}", &[]).err().unwrap().to_string().contains("is empty"));
    }

    /// Every row is told, good or bad, with lines that never go down; the value of a good one is a JSON object.
    #[test]
    fn fuzz_any_table_is_refused_or_told_row_by_row() {
        let sound = "a,b\n1,x\n\"2\",\"y \"\"q\"\"\"\n3,NA\r\n,5\n";
        bolero::check!().with_iterations(3_000).with_max_len(60).for_each(|input: &[u8]| {
            for text in [[b"a,b\n", input].concat(), crate::typed::miswritten(sound, input)] {
                let Ok(mut rows) = rows_of(&text, "{a}", &["NA"]) else { continue };
                let mut last = 0;
                // An error ends the reading.
                while let Ok(Some(row)) = rows.next_row() {
                    let line = row.as_ref().map_or_else(|bad| bad.line, |row| row.line);
                    // Records may also end with a carriage return, which counts as no line.
                    assert!(line >= last && line <= 2 + text.len() as u64, "{line} after {last}");
                    last = line;
                    if let Ok(row) = row {
                        let value: serde_json::Value = serde_json::from_slice(&row.value).unwrap();
                        assert!(value.is_object() && !row.key.is_empty());
                    }
                }
            }
        });
    }

    #[test]
    fn a_quote_left_open_does_not_take_the_file_into_memory() {
        let mut text = b"a,b\n1,\"open\n".to_vec();
        text.resize(text.len() + ROW_BYTES_MAX + (1 << 20), b'x');
        let mut rows = rows_of(&text, "{a}", &[]).unwrap();
        let error = format!("{:#}", rows.next_row().unwrap_err());
        assert!(error.contains("line 2") && error.contains("quote"), "{error}");
    }
}
