//! One event of a history.
//!
//! ```text
//!   {"time_ns":12,"process":3,"kind":"invoke","operation":"read","key":"x","level":"session"}
//!   {"time_ns":19,"process":3,"kind":"ok","operation":"read","key":"x","value":4,
//!    "receipt":{"level":"session","within_ms":20,"version":[7,1],"shard":"s1","position":[2,40],"node":"n2"}}
//!   {"time_ns":30,"process":"nemesis","kind":"info","operation":"partition","value":{"phase":"start"}}
//! ```
//!
//! **Invariant.** `fail` says that nothing happened and never will; whoever cannot prove it says `info`.

use super::value::Value;
use kvorum_api::{Effect, ReadLevel};
use std::{fmt, time::Duration};

/// What kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An operation begins.
    Invoke,
    /// It ended, and had its effect.
    Ok,
    /// It ended, and has no effect: proven.
    Fail,
    /// Nobody knows: it may take effect at any later time, or never. Of the nemesis: something it did.
    Info,
}

impl Kind {
    /// The word in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        }
    }

    /// The kind that a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Kind::Invoke, Kind::Ok, Kind::Fail, Kind::Info].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// A client: one operation at a time.
    Client(u64),
    /// Whoever breaks things.
    Nemesis,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Client(number) => write!(f, "{number}"),
            Process::Nemesis => f.write_str("nemesis"),
        }
    }
}

/// Something that grows: a version, or a position in a log. Compared number by number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(pub Vec<u64>);

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(u64::to_string).collect();
        f.write_str(&numbers.join("."))
    }
}

/// What a reply said about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Reads: the level delivered.
    pub level: Option<ReadLevel>,
    /// Reads: the answer is no older than this; absent = unknown, never "fresh".
    pub within_ms: Option<u64>,
    /// Version of the entry read or written, if there is one.
    pub version: Option<Rank>,
    /// Which shard answered.
    pub shard: Option<String>,
    /// Where the answering replica stood.
    pub position: Option<Rank>,
    /// Who answered.
    pub node: Option<String>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, by one monotonic clock for all processes.
    pub time_ns: u64,
    /// Who.
    pub process: Process,
    /// Which kind of event.
    pub kind: Kind,
    /// What is done: `read`, `write`, `cas`, …
    pub operation: String,
    /// To which key, if to one.
    pub key: Option<String>,
    /// Of an invocation the arguments, of a completion the result.
    pub value: Value,
    /// Of an invocation: the level asked for.
    pub level: Option<ReadLevel>,
    /// What went wrong.
    pub error: Option<String>,
    /// What the error says about the effect. It decides: `fail` with an unknown effect is read as `info`.
    pub effect: Option<Effect>,
    /// What the reply said about itself.
    pub receipt: Option<Receipt>,
    /// Whose session: a client that goes on as another process keeps it.
    pub session: Option<String>,
}

impl Record {
    /// A record with nothing but what every record has.
    #[must_use]
    pub fn new(time_ns: u64, process: Process, kind: Kind, operation: &str) -> Self {
        Record {
            time_ns,
            process,
            kind,
            operation: operation.to_owned(),
            key: None,
            value: Value::Nil,
            level: None,
            error: None,
            effect: None,
            receipt: None,
            session: None,
        }
    }

    /// The same on a key.
    #[must_use]
    pub fn with_key(self, key: &str) -> Self {
        Record { key: Some(key.to_owned()), ..self }
    }

    /// The same with arguments or a result.
    #[must_use]
    pub fn with_value(self, value: impl Into<Value>) -> Self {
        Record { value: value.into(), ..self }
    }
}

/// A level as receipts and the command line write it: `session`, `bounded(250ms)`.
#[must_use]
pub fn parse_level(word: &str) -> Option<ReadLevel> {
    let plain = [
        ReadLevel::Linearizable,
        ReadLevel::Session,
        ReadLevel::Local,
        ReadLevel::One,
        ReadLevel::Quorum,
        ReadLevel::All,
    ];
    if let Some(level) = plain.into_iter().find(|level| level.as_str() == word) {
        return Some(level);
    }
    let bound = word.strip_prefix("bounded(")?.strip_suffix("ms)")?;
    Some(ReadLevel::Bounded(Duration::from_millis(bound.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_read_as_it_is_written() {
        for level in [ReadLevel::Linearizable, ReadLevel::All, ReadLevel::Bounded(Duration::from_millis(250))] {
            assert_eq!(parse_level(&level.to_string()), Some(level));
        }
        assert_eq!(parse_level("bounded"), None);
        assert_eq!(parse_level("bounded(-1ms)"), None);
    }

    #[test]
    fn ranks_compare_number_by_number() {
        assert!(Rank(vec![2, 9]) < Rank(vec![10]));
        assert!(Rank(vec![2, 9]) < Rank(vec![2, 10]));
    }
}
