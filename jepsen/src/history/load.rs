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
    use kvorum_storage::spoil::raw_and_spoiled;

    /// What one format reads, as a file of that format or as a file that says itself what it is.
    #[test]
    fn fuzz_any_file_is_refused_or_read() {
        let edn = "[{:process 1, :type :invoke, :f :cas, :value [1 2], :time 5}\n{:process 1, :type :ok, :f :cas}\n\
                   {:process :nemesis, :type :info, :f :start, :value nil}]";
        let log = "INFO  jepsen.util - 1\t:invoke\t:cas\t[1 2]\nINFO  jepsen.util - 1\t:fail\t:cas\t[1 2]\n\
                   INFO  jepsen.util - 2\t:invoke\t:read\tnil\nINFO  jepsen.util - 2\t:info\t:read\t:timed-out\n";
        let json = "{\"time_ns\":1,\"process\":1,\"kind\":\"invoke\",\"operation\":\"read\",\"key\":\"x\"}\n\
                    {\"time_ns\":2,\"process\":1,\"kind\":\"ok\",\"operation\":\"read\",\"value\":4}\n";
        let formats = [Format::Auto, Format::Jsonl, Format::Edn, Format::PorcupineEtcd, Format::PorcupineKv];
        bolero::check!().with_iterations(1_000).with_max_len(100).for_each(|input: &[u8]| {
            for bytes in [edn, log, json].iter().flat_map(|sound| raw_and_spoiled(sound.as_bytes(), input)) {
                for format in formats {
                    let Ok(history) = read(&bytes[..], format) else { continue };
                    let lines = bytes.split(|byte| *byte == b'\n' || *byte == b'{').count();
                    assert!(
                        history.operations.len() <= lines,
                        "{} operations of {lines} lines",
                        history.operations.len()
                    );
                }
            }
        });
    }

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
