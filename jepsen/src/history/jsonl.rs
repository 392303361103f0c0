//! JSON Lines: our own format, one record a line. Fields that say nothing are left out.
//!
//! **Invariant.** Reading what was written gives the same records. A field nobody knows is refused: a typing error must
//! not silently weaken a check.
//!
//! **Deliberately absent.** Anything after the last record: a history that stops in the middle of a line is refused,
//! one that stops between two lines is a shorter history, whose open operations are of unknown outcome.

use super::{
    error::{HistoryError, Malformed},
    record::{Kind, Process, Rank, Receipt, Record, parse_level},
    value::Value,
};
use kvorum_api::{Effect, ReadLevel};
use serde_json::Map;
use std::io::{BufRead, Write};

type Json = serde_json::Value;

/// A longer line is no record.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Records of a reader, with their lines, as they come.
pub struct JsonLines<R> {
    reader: R,
    line: usize,
    buffer: Vec<u8>,
}

impl<R: BufRead> JsonLines<R> {
    /// Reads nothing yet.
    pub fn new(reader: R) -> Self {
        JsonLines { reader, line: 0, buffer: Vec::new() }
    }

    fn read_next(&mut self) -> Result<Option<(usize, Record)>, HistoryError> {
        loop {
            self.buffer.clear();
            if self.reader.read_until(b'\n', &mut self.buffer)? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(self.malformed(format!("longer than {LINE_BYTES_MAX} bytes")).into());
            }
            let is_whole = self.buffer.last() == Some(&b'\n');
            let Ok(text) = std::str::from_utf8(&self.buffer) else {
                return Err(self.malformed("not UTF-8").into());
            };
            if !text.trim().is_empty() {
                return Ok(Some((self.line, parse_line(self.line, text, is_whole)?)));
            }
        }
    }

    fn malformed(&self, reason: impl Into<String>) -> Malformed {
        Malformed::new(self.line, "record", reason)
    }
}

impl<R: BufRead> Iterator for JsonLines<R> {
    type Item = Result<(usize, Record), HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().transpose()
    }
}

fn parse_line(line: usize, text: &str, is_whole: bool) -> Result<Record, Malformed> {
    let json: Json = serde_json::from_str(text).map_err(|error| {
        let cut = if is_whole && !error.is_eof() { "" } else { "truncated in the middle of a record: " };
        Malformed::new(line, "record", format!("{cut}{error}"))
    })?;
    match json {
        Json::Object(fields) => Fields { line, at: "", fields }.record(),
        _ => Err(Malformed::new(line, "record", "a record is a JSON object")),
    }
}

/// The fields of an object that nobody has asked for so far.
struct Fields {
    line: usize,
    /// The object's own name with a dot, if it lies in another.
    at: &'static str,
    fields: Map<String, Json>,
}

impl Fields {
    fn record(mut self) -> Result<Record, Malformed> {
        let time_ns = self.number("time_ns")?.ok_or_else(|| self.missing("time_ns"))?;
        let process = match self.fields.remove("process") {
            Some(Json::String(word)) if word == "nemesis" => Process::Nemesis,
            Some(json) => match json.as_u64() {
                Some(number) => Process::Client(number),
                None => return Err(self.refuse("process", format!("{json} is neither a number nor \"nemesis\""))),
            },
            None => return Err(self.missing("process")),
        };
        let kind = self.text("kind")?.ok_or_else(|| self.missing("kind"))?;
        let Some(kind) = Kind::parse(&kind) else {
            return Err(self.refuse("kind", format!("{kind:?} is none of invoke, ok, fail, info")));
        };
        let record = Record {
            time_ns,
            process,
            kind,
            operation: self.text("operation")?.ok_or_else(|| self.missing("operation"))?,
            key: self.text("key")?,
            value: self.value()?,
            level: self.level()?,
            error: self.text("error")?,
            effect: self.effect()?,
            receipt: self.receipt()?,
            session: self.text("session")?,
        };
        self.finish().map(|()| record)
    }

    fn receipt(&mut self) -> Result<Option<Receipt>, Malformed> {
        let fields = match self.fields.remove("receipt") {
            None | Some(Json::Null) => return Ok(None),
            Some(Json::Object(fields)) => fields,
            Some(other) => return Err(self.refuse("receipt", format!("{other} is not an object"))),
        };
        let mut inside = Fields { line: self.line, at: "receipt.", fields };
        let receipt = Receipt {
            level: inside.level()?,
            within_ms: inside.number("within_ms")?,
            version: inside.rank("version")?,
            shard: inside.text("shard")?,
            position: inside.rank("position")?,
            node: inside.text("node")?,
        };
        inside.finish().map(|()| Some(receipt))
    }

    fn value(&mut self) -> Result<Value, Malformed> {
        let json = self.fields.remove("value").unwrap_or_default();
        Value::from_json(json).map_err(|reason| self.refuse("value", reason))
    }

    fn level(&mut self) -> Result<Option<ReadLevel>, Malformed> {
        let Some(word) = self.text("level")? else { return Ok(None) };
        let level = parse_level(&word);
        level
            .map(Some)
            .ok_or_else(|| self.refuse("level", format!("{word:?} is no level, such as session, bounded(250ms)")))
    }

    fn effect(&mut self) -> Result<Option<Effect>, Malformed> {
        match self.text("effect")?.as_deref() {
            None => Ok(None),
            Some("none") => Ok(Some(Effect::None)),
            Some("unknown") => Ok(Some(Effect::Unknown)),
            Some(word) => Err(self.refuse("effect", format!("{word:?} is neither none nor unknown"))),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Malformed> {
        match self.fields.remove(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.refuse(name, format!("{other} is not a text"))),
        }
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>, Malformed> {
        match self.fields.remove(name) {
            None | Some(Json::Null) => Ok(None),
            Some(json) => match json.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.refuse(name, format!("{json} is not a whole number from 0 on"))),
            },
        }
    }

    /// `7`, or `[7, 1]`.
    fn rank(&mut self, name: &str) -> Result<Option<Rank>, Malformed> {
        let numbers = match self.fields.remove(name) {
            None | Some(Json::Null) => return Ok(None),
            Some(Json::Array(numbers)) => numbers,
            Some(number) => vec![number],
        };
        match numbers.iter().map(Json::as_u64).collect() {
            Some(numbers) => Ok(Some(Rank(numbers))),
            None => Err(self.refuse(name, "neither a whole number nor a list of them")),
        }
    }

    fn missing(&self, name: &str) -> Malformed {
        self.refuse(name, "missing")
    }

    fn refuse(&self, name: &str, reason: impl Into<String>) -> Malformed {
        Malformed::new(self.line, &format!("{}{name}", self.at), reason)
    }

    fn finish(self) -> Result<(), Malformed> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.refuse(name, "no such field")),
        }
    }
}

/// Writes records, one a line.
pub fn write_jsonl<'a>(writer: &mut impl Write, records: impl IntoIterator<Item = &'a Record>) -> std::io::Result<()> {
    for record in records {
        writeln!(writer, "{}", to_json(record))?;
    }
    Ok(())
}

/// One record as a line of a file, without its end.
#[must_use]
pub fn to_json(record: &Record) -> String {
    let mut fields = Map::new();
    fields.insert("time_ns".to_owned(), record.time_ns.into());
    let process = match record.process {
        Process::Client(number) => number.into(),
        Process::Nemesis => "nemesis".into(),
    };
    fields.insert("process".to_owned(), process);
    fields.insert("kind".to_owned(), record.kind.as_str().into());
    fields.insert("operation".to_owned(), record.operation.as_str().into());
    set(&mut fields, "key", record.key.as_deref());
    set(&mut fields, "value", Some(record.value.to_json()).filter(|json| !json.is_null()));
    set(&mut fields, "level", record.level.map(|level| level.to_string()));
    set(&mut fields, "error", record.error.as_deref());
    set(&mut fields, "effect", record.effect.map(effect_word));
    set(&mut fields, "receipt", record.receipt.as_ref().map(receipt_to_json));
    set(&mut fields, "session", record.session.as_deref());
    Json::Object(fields).to_string()
}

fn receipt_to_json(receipt: &Receipt) -> Json {
    let mut fields = Map::new();
    set(&mut fields, "level", receipt.level.map(|level| level.to_string()));
    set(&mut fields, "within_ms", receipt.within_ms);
    set(&mut fields, "version", receipt.version.as_ref().map(|rank| Json::from(rank.0.clone())));
    set(&mut fields, "shard", receipt.shard.as_deref());
    set(&mut fields, "position", receipt.position.as_ref().map(|rank| Json::from(rank.0.clone())));
    set(&mut fields, "node", receipt.node.as_deref());
    Json::Object(fields)
}

fn set(fields: &mut Map<String, Json>, name: &str, value: Option<impl Into<Json>>) {
    if let Some(value) = value {
        fields.insert(name.to_owned(), value.into());
    }
}

/// The word for an effect in every format.
pub(super) const fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::None => "none",
        Effect::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::spoil::raw_and_spoiled;

    fn read(text: &str) -> Result<Vec<Record>, String> {
        JsonLines::new(text.as_bytes()).map(|next| next.map(|(_, record)| record).map_err(|e| e.to_string())).collect()
    }

    #[test]
    fn a_fixture_of_the_format_is_read() {
        let text = r#"{"time_ns":12,"process":3,"kind":"invoke","operation":"read","key":"x","level":"session"}
{"time_ns":19,"process":3,"kind":"ok","operation":"read","key":"x","value":4,"session":"a","receipt":{}}
{"time_ns":20,"process":3,"kind":"invoke","operation":"read","key":"x"}
{"time_ns":21,"process":3,"kind":"ok","operation":"read","receipt":{"level":"bounded(20ms)","within_ms":20}}
{"time_ns":22,"process":3,"kind":"invoke","operation":"read"}
{"time_ns":22,"process":3,"kind":"ok","operation":"read","receipt":{"version":[7,1],"position":40,"node":"n2"}}

{"time_ns":30,"process":"nemesis","kind":"info","operation":"partition","value":{"phase":"start"}}
{"time_ns":31,"process":4,"kind":"fail","operation":"write","error":"not_leader","effect":"none"}
"#;
        let records = read(text).unwrap();
        assert_eq!(records.len(), 8);
        let receipt = records[5].receipt.as_ref().unwrap();
        assert_eq!(receipt.version, Some(Rank(vec![7, 1])));
        assert_eq!(receipt.position, Some(Rank(vec![40])));
        assert_eq!((records[6].process, records[7].effect), (Process::Nemesis, Some(Effect::None)));
        let mut written = Vec::new();
        write_jsonl(&mut written, &records).unwrap();
        assert_eq!(read(std::str::from_utf8(&written).unwrap()).unwrap(), records);
    }

    #[test]
    fn what_is_malformed_is_refused_with_line_and_field() {
        let good = "{\"time_ns\":1,\"process\":3,\"kind\":\"invoke\",\"operation\":\"read\"}\n";
        let cases = [
            (r#"{"process":3,"kind":"ok","operation":"read"}"#, "line 2: time_ns: missing"),
            (
                r#"{"time_ns":-1,"process":3,"kind":"ok","operation":"read"}"#,
                "line 2: time_ns: -1 is not a whole number",
            ),
            (r#"{"time_ns":1,"process":"x","kind":"ok","operation":"read"}"#, "line 2: process: \"x\" is neither"),
            (r#"{"time_ns":1,"process":3,"kind":"okay","operation":"read"}"#, "line 2: kind: \"okay\" is none of"),
            (r#"{"time_ns":1,"process":3,"kind":"ok"}"#, "line 2: operation: missing"),
            (r#"{"time_ns":1,"process":3,"kind":"ok","operation":"read","value":1.5}"#, "line 2: value: 1.5 is not"),
            (r#"{"time_ns":1,"process":3,"kind":"ok","operation":"read","keys":"x"}"#, "line 2: keys: no such field"),
            (r#"{"time_ns":1,"process":3,"kind":"ok","operation":"read","effect":"no"}"#, "line 2: effect: \"no\""),
            (r#"{"time_ns":1,"process":3,"kind":"ok","operation":"read","level":"best"}"#, "line 2: level: \"best\""),
            (
                r#"{"time_ns":1,"process":3,"kind":"ok","operation":"read","receipt":{"version":"x"}}"#,
                "line 2: receipt.version: neither",
            ),
            ("[1]", "line 2: record: a record is a JSON object"),
            ("{\"time_ns\":1,\"proc", "line 2: record: truncated in the middle of a record"),
        ];
        for (line, expected) in cases {
            let refused = read(&format!("{good}{line}")).unwrap_err();
            assert!(refused.starts_with(expected), "{refused:?} should begin with {expected:?}");
        }
    }

    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_what_they_say() {
        let sound = r#"{"time_ns":12,"process":3,"kind":"invoke","operation":"read","key":"x","level":"bounded(20ms)"}
{"time_ns":22,"process":3,"kind":"ok","operation":"read","value":[1,null,"a"],"session":"a","receipt":{"version":[7,1]}}
{"time_ns":30,"process":"nemesis","kind":"info","operation":"partition","value":{"phase":"start"}}
"#;
        bolero::check!().with_iterations(2_000).with_max_len(200).for_each(|input: &[u8]| {
            for bytes in raw_and_spoiled(sound.as_bytes(), input) {
                let Ok(records) = JsonLines::new(&bytes[..]).collect::<Result<Vec<_>, _>>() else { continue };
                let records: Vec<Record> = records.into_iter().map(|(_, record)| record).collect();
                let mut written = Vec::new();
                write_jsonl(&mut written, &records).unwrap();
                assert_eq!(read(std::str::from_utf8(&written).unwrap()).unwrap(), records);
            }
        });
    }
}
