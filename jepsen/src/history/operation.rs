//! Operations: invocations joined with what became of them.
//!
//! ```text
//!   invoke ──── ok      took effect once, somewhere in between
//!   invoke ──── fail    never happened
//!   invoke ──── …       (info, or the history ends): may happen at any later time, or never
//! ```
//!
//! **Invariant.** An operation of unknown outcome is never closed; the effect of an error decides, not its kind.

use super::{
    error::Malformed,
    record::{Kind, Process, Receipt, Record},
    validate::Validator,
    value::Value,
};
use kvorum_api::{Effect, ReadLevel};
use std::{collections::BTreeMap, fmt};

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect between its two ends.
    Ok,
    /// It had no effect and never will.
    Fail,
    /// Nobody knows.
    Unknown,
}

/// An invocation and its completion.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its place among the operations of the history, by invocation.
    pub id: usize,
    /// The line that invoked it.
    pub line: usize,
    /// Which client.
    pub process: u64,
    /// Whose session.
    pub session: Option<String>,
    /// What was done.
    pub name: String,
    /// To which key.
    pub key: Option<String>,
    /// The arguments.
    pub argument: Value,
    /// The level asked for.
    pub level: Option<ReadLevel>,
    /// When it was invoked.
    pub invoked_ns: u64,
    /// When the client stopped waiting, if it did. Says when it took effect only if the outcome is known.
    pub ended_ns: Option<u64>,
    /// What became of it.
    pub outcome: Outcome,
    /// What the client was told.
    pub result: Value,
    /// What went wrong.
    pub error: Option<String>,
    /// What the reply said about itself.
    pub receipt: Option<Receipt>,
}

impl Operation {
    /// The moment before which it took effect, if there is one.
    #[must_use]
    pub fn completed_ns(&self) -> Option<u64> {
        if self.outcome == Outcome::Ok { self.ended_ns } else { None }
    }

    /// Whether it took effect for certain.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }

    /// Whether it may have taken effect.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        self.outcome != Outcome::Fail
    }

    /// Whether it had ended, with its effect, before the other was invoked.
    #[must_use]
    pub fn precedes(&self, other: &Operation) -> bool {
        self.completed_ns().is_some_and(|completed_ns| completed_ns < other.invoked_ns)
    }

    /// Who remembers what this operation showed: the session, or else the process.
    #[must_use]
    pub fn session_name(&self) -> String {
        self.session.clone().unwrap_or_else(|| format!("client {}", self.process))
    }
}

/// For people: `write 3 on x → ok`.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.argument.is_nil() {
            write!(f, " {}", self.argument)?;
        }
        if let Some(key) = &self.key {
            write!(f, " on {key}")?;
        }
        match self.outcome {
            Outcome::Ok if !self.argument.is_nil() && (self.result.is_nil() || self.result == self.argument) => {
                f.write_str(" → ok")
            }
            Outcome::Ok => write!(f, " → {}", self.result),
            Outcome::Fail => write!(f, " → failed: {}", self.error.as_deref().unwrap_or("no reason given")),
            Outcome::Unknown => write!(f, " → unknown: {}", self.error.as_deref().unwrap_or("no answer")),
        }
    }
}

/// What the nemesis did, from when to when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its name: `partition`, `kill`, …
    pub name: String,
    /// What it said about it.
    pub value: Value,
    /// Since when.
    pub from_ns: u64,
    /// Until when; `None` = to the end of the history.
    pub until_ns: Option<u64>,
}

/// A whole history, ready to be judged.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By invocation.
    pub operations: Vec<Operation>,
    /// By beginning.
    pub faults: Vec<Fault>,
    /// The time of the last record.
    pub end_ns: u64,
}

impl History {
    /// From records in the order they were written; the line of each is its place, counted from 1.
    pub fn from_records(records: impl IntoIterator<Item = Record>) -> Result<History, Malformed> {
        let mut pairing = Pairing::default();
        for (at, record) in records.into_iter().enumerate() {
            pairing.admit(at + 1, record)?;
        }
        Ok(pairing.finish())
    }
}

/// Joins records as they come.
#[derive(Default)]
pub struct Pairing {
    validator: Validator,
    open: BTreeMap<u64, usize>,
    history: History,
}

impl Pairing {
    /// Takes the next record, or refuses it.
    pub fn admit(&mut self, line: usize, record: Record) -> Result<(), Malformed> {
        self.validator.admit(line, &record)?;
        self.history.end_ns = record.time_ns;
        match (record.process, record.kind) {
            (Process::Nemesis, _) => self.note_fault(record),
            (Process::Client(process), Kind::Invoke) => {
                self.open.insert(process, self.history.operations.len());
                self.begin(line, process, record);
            }
            (Process::Client(process), _) => {
                // A history of completions alone: each is an operation that took no time.
                let at = self.open.remove(&process).unwrap_or_else(|| {
                    self.begin(line, process, record.clone());
                    self.history.operations.len() - 1
                });
                complete(&mut self.history.operations[at], record);
            }
        }
        Ok(())
    }

    /// What is under way at the end stays of unknown outcome.
    #[must_use]
    pub fn finish(self) -> History {
        self.history
    }

    fn begin(&mut self, line: usize, process: u64, record: Record) {
        self.history.operations.push(Operation {
            id: self.history.operations.len(),
            line,
            process,
            session: record.session,
            name: record.operation,
            key: record.key,
            argument: record.value,
            level: record.level,
            invoked_ns: record.time_ns,
            ended_ns: None,
            outcome: Outcome::Unknown,
            result: Value::Nil,
            error: None,
            receipt: None,
        });
    }

    /// `start` and `stop` of the same name make an interval; anything else is a moment.
    fn note_fault(&mut self, record: Record) {
        let (name, phase) = fault_phase(&record);
        let (from_ns, value) = (record.time_ns, record.value);
        match phase {
            Phase::Start => self.history.faults.push(Fault { name, value, from_ns, until_ns: None }),
            Phase::Moment => self.history.faults.push(Fault { name, value, from_ns, until_ns: Some(from_ns) }),
            Phase::Stop => {
                let is_open = |fault: &&mut Fault| fault.until_ns.is_none() && (fault.name == name || name.is_empty());
                self.history.faults.iter_mut().filter(is_open).for_each(|fault| fault.until_ns = Some(from_ns));
            }
        }
    }
}

enum Phase {
    Start,
    Stop,
    Moment,
}

/// Ours say `"value": {"phase": "start"}`; Jepsen's say `:start-partition`, or plain `:start` and `:stop`.
fn fault_phase(record: &Record) -> (String, Phase) {
    match record.value.field("phase").and_then(Value::as_text) {
        Some("start") => return (record.operation.clone(), Phase::Start),
        Some("stop") => return (record.operation.clone(), Phase::Stop),
        _ => {}
    }
    let rest = |prefix: &str| Some(record.operation.strip_prefix(prefix)?.trim_start_matches('-').to_owned());
    match (rest("start"), rest("stop")) {
        (Some(name), _) => (name, Phase::Start),
        (None, Some(name)) => (name, Phase::Stop),
        (None, None) => (record.operation.clone(), Phase::Moment),
    }
}

fn complete(operation: &mut Operation, record: Record) {
    operation.ended_ns = Some(record.time_ns);
    operation.outcome = match (record.kind, record.effect) {
        (Kind::Ok, _) => Outcome::Ok,
        (Kind::Fail | Kind::Info, Some(Effect::None)) | (Kind::Fail, None) => Outcome::Fail,
        (Kind::Fail, Some(Effect::Unknown)) | (Kind::Info | Kind::Invoke, _) => Outcome::Unknown,
    };
    operation.result = record.value;
    operation.error = record.error;
    operation.receipt = record.receipt;
    operation.session = operation.session.take().or(record.session);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(kind: Kind, effect: Option<Effect>) -> Operation {
        let begin = Record::new(1, Process::Client(1), Kind::Invoke, "write").with_key("x").with_value(3);
        let end = Record { effect, ..Record::new(4, Process::Client(1), kind, "write") };
        History::from_records([begin, end]).unwrap().operations.remove(0)
    }

    #[test]
    fn the_effect_of_an_error_decides() {
        assert_eq!(pair(Kind::Fail, None).outcome, Outcome::Fail);
        assert_eq!(pair(Kind::Fail, Some(Effect::Unknown)).outcome, Outcome::Unknown);
        assert_eq!(pair(Kind::Info, Some(Effect::None)).outcome, Outcome::Fail);
        assert_eq!(pair(Kind::Info, None).outcome, Outcome::Unknown);
        assert_eq!(pair(Kind::Info, None).completed_ns(), None, "its time-out does not close it");
        assert_eq!(pair(Kind::Ok, None).completed_ns(), Some(4));
    }

    #[test]
    fn what_is_under_way_at_the_end_is_unknown() {
        let begin = Record::new(1, Process::Client(1), Kind::Invoke, "write").with_value(3);
        let history = History::from_records([begin]).unwrap();
        assert_eq!((history.operations[0].outcome, history.operations[0].ended_ns), (Outcome::Unknown, None));
    }

    #[test]
    fn faults_last_from_start_to_stop() {
        let nemesis = |time_ns, name: &str| Record::new(time_ns, Process::Nemesis, Kind::Info, name);
        let phase = |word: &str| Value::Map(BTreeMap::from([("phase".to_owned(), Value::from(word))]));
        let records = [
            nemesis(1, "start-partition"),
            nemesis(2, "kill"),
            nemesis(3, "pause").with_value(phase("start")),
            nemesis(4, "stop-partition"),
            nemesis(6, "pause").with_value(phase("stop")),
            nemesis(7, "start-loss"),
        ];
        let history = History::from_records(records).unwrap();
        let spans: Vec<_> = history.faults.iter().map(|f| (f.name.as_str(), f.from_ns, f.until_ns)).collect();
        let expected = [("partition", 1, Some(4)), ("kill", 2, Some(2)), ("pause", 3, Some(6)), ("loss", 7, None)];
        assert_eq!(spans, expected);
    }
}
