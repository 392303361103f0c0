//! Histories from files, in whatever format.
//!
//! **Invariant.** The format is named or plain from the first line that is not empty; it is never tried out.

use super::{
    error::HistoryError,
    jepsen::read_edn,
    jsonl::JsonLines,
    operation::{History, Pairing},
    porcupine::read_etcd_log,
    record::Record,
};
use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

/// How a history is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Told by the first line.
    #[default]
    Auto,
    /// Our own: a JSON object a line.
    Jsonl,
    /// Jepsen's.
    Edn,
    /// etcd's logs as Porcupine's test data keeps them.
    PorcupineEtcd,
    /// Porcupine's key-value logs: EDN with keys.
    PorcupineKv,
}

/// Reads a file. JSON Lines stream; the other formats are read whole.
pub fn load(path: &Path, format: Format) -> Result<History, HistoryError> {
    read(BufReader::new(File::open(path)?), format)
}

/// Reads a text.
pub fn parse(text: &str, format: Format) -> Result<History, HistoryError> {
    read(text.as_bytes(), format)
}

fn read(mut reader: impl BufRead, format: Format) -> Result<History, HistoryError> {
    let mut start = Vec::new();
    let format = if format == Format::Auto { told_by_first_line(&mut reader, &mut start)? } else { format };
    let mut reader = start.as_slice().chain(reader);
    let mut pairing = Pairing::default();
    if format == Format::Jsonl {
        for next in JsonLines::new(reader) {
            let (line, record) = next?;
            pairing.admit(line, record)?;
        }
        return Ok(pairing.finish());
    }
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    let records: Vec<(usize, Record)> =
        if format == Format::PorcupineEtcd { read_etcd_log(&text)? } else { read_edn(&text)? };
    for (line, record) in records {
        pairing.admit(line, record)?;
    }
    Ok(pairing.finish())
}

/// Takes lines from the reader into `start` until one says what this is. An empty file is an empty history of ours.
fn told_by_first_line(reader: &mut impl BufRead, start: &mut Vec<u8>) -> Result<Format, HistoryError> {
    let mut line = 0;
    loop {
        line += 1;
        let begin = start.len();
        if reader.read_until(b'\n', start)? == 0 {
            return Ok(Format::Jsonl);
        }
        let text = String::from_utf8_lossy(&start[begin..]);
        let text = text.trim();
        if text.is_empty() || text.starts_with(';') {
            continue;
        }
        let inside = text.strip_prefix('{').map(str::trim_start);
        return match inside {
            Some(inside) if inside.starts_with('"') || inside.starts_with('}') => Ok(Format::Jsonl),
            Some(_) => Ok(Format::Edn),
            None if text.starts_with(['[', '(', '#']) => Ok(Format::Edn),
            None if text.contains("jepsen.util - ") => Ok(Format::PorcupineEtcd),
            None => Err(HistoryError::UnknownFormat { line }),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_told_by_the_first_line() {
        let json = "\n{\"time_ns\":1,\"process\":1,\"kind\":\"invoke\",\"operation\":\"read\"}\n";
        let edn = "; recorded yesterday\n[{:process 1, :type :invoke, :f :read, :value nil}]";
        let log = "INFO  jepsen.util - 1\t:invoke\t:read\tnil\n";
        for text in [json, edn, log] {
            assert_eq!(parse(text, Format::Auto).unwrap().operations.len(), 1, "{text}");
        }
        assert!(parse("", Format::Auto).unwrap().operations.is_empty());
        let refused = parse("\nhello", Format::Auto).unwrap_err().to_string();
        assert!(refused.starts_with("line 2: this is neither JSON Lines"), "{refused}");
        assert!(parse(edn, Format::Jsonl).unwrap_err().to_string().starts_with("line 1: record:"));
    }
}
