//! Rows: from text to keys and JSON values, a chunk at a time.
//!
//! **Invariant.** A row that cannot be read is a [`Bad`] row with its line number; the rows after it are read. Only an
//! input that cannot be read on (a broken disk, a cut gzip, a quote left open) ends the import, and says where.

mod delimited;
mod lines;

use super::{source::Source, template::Template};
use crate::{
    args::{Import, Rows as Format},
    exit::Usage,
};
use anyhow::Context as _;
use bytes::Bytes;
use delimited::Delimited;
use kvorum_api::limits;
use lines::Lines;
use std::{io::BufRead, path::Path};

/// Rows of one chunk.
const CHUNK_ROWS_MAX: usize = 512;

/// Bytes of one chunk, about.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Bytes of one row as text: the largest value and its field names.
const ROW_BYTES_MAX: usize = limits::VALUE_BYTES_CEILING + (1 << 20);

/// Bytes of a bad row that are kept to show it.
const SHOWN_BYTES_MAX: usize = 200;

/// A row to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub line: u64,
    pub key: Bytes,
    pub value: Bytes,
    /// Unix milliseconds at which it goes; `None` = it stays.
    pub expires_ms: Option<u64>,
    /// The chunk it came in.
    pub chunk: u64,
}

/// A row that is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    pub line: u64,
    pub problem: String,
    /// The beginning of its text.
    pub text: String,
}

/// Some rows, in file order.
#[derive(Debug, Default)]
pub struct Chunk {
    pub rows: Vec<Row>,
    pub bad: Vec<Bad>,
}

impl Chunk {
    pub fn len(&self) -> usize {
        self.rows.len() + self.bad.len()
    }
}

/// All rows of a source.
pub enum Rows {
    Delimited(Delimited),
    Lines(Lines),
}

impl Rows {
    pub fn new(mut source: Source, import: &Import, template: Option<Template>) -> anyhow::Result<Self> {
        let format = match import.format {
            Some(format) => format,
            None => match format_of_name(&import.file) {
                Some(format) => format,
                None => format_of_text(source.text.as_mut()).with_context(|| format!("cannot read {}", source.name))?,
            },
        };
        let delimiter = match format {
            Format::Csv => b',',
            Format::Tsv => b'\t',
            Format::Jsonl if import.null.is_empty() => return Ok(Rows::Lines(Lines::new(source, template))),
            Format::Jsonl => return Err(Usage("--null is for csv and tsv: JSON has its own null".to_owned()).into()),
        };
        let Some(template) = template else {
            let problem = "rows need --key: how their keys are made of their columns, as in --key '{id}'";
            return Err(Usage(problem.to_owned()).into());
        };
        Ok(Rows::Delimited(Delimited::new(source, delimiter, template, import.null.clone())?))
    }

    /// The next rows; `None` at the end.
    pub fn next_chunk(&mut self) -> anyhow::Result<Option<Chunk>> {
        let mut chunk = Chunk::default();
        let mut bytes = 0;
        while chunk.len() < CHUNK_ROWS_MAX && bytes < CHUNK_BYTES_MAX {
            let next = match self {
                Rows::Delimited(rows) => rows.next_row()?,
                Rows::Lines(rows) => rows.next_row()?,
            };
            match next {
                Some(Ok(row)) => {
                    bytes += row.key.len() + row.value.len();
                    chunk.rows.push(row);
                }
                Some(Err(bad)) => chunk.bad.push(bad),
                None => break,
            }
        }
        Ok((!chunk.rows.is_empty() || !chunk.bad.is_empty()).then_some(chunk))
    }
}

fn format_of_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "csv" => Some(Format::Csv),
        "tsv" => Some(Format::Tsv),
        "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
        _ => None,
    }
}

/// A JSON line begins with a brace; a header of a table hardly does.
fn format_of_text(text: &mut dyn BufRead) -> std::io::Result<Format> {
    let head = text.fill_buf()?;
    let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
    Ok(if first == Some(&b'{') { Format::Jsonl } else { Format::Csv })
}

/// The beginning of a bad row's text.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]);
    text.trim_end_matches(['\r', '\n']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_told_by_the_name_or_the_first_byte() {
        assert_eq!(format_of_name(Path::new("/a/flights.CSV.gz")), Some(Format::Csv));
        assert_eq!(format_of_name(Path::new("x.ndjson")), Some(Format::Jsonl));
        assert_eq!(format_of_name(Path::new("-")), None);
        assert_eq!(format_of_name(Path::new("x.gz")), None);
        assert_eq!(format_of_text(&mut &b"  {\"a\":1}"[..]).unwrap(), Format::Jsonl);
        assert_eq!(format_of_text(&mut &b"a,b"[..]).unwrap(), Format::Csv);
        assert_eq!(format_of_text(&mut &b""[..]).unwrap(), Format::Csv);
    }
}
