//! What every history must obey before anybody judges it.
//!
//! **Invariant.** Holds one small state per process under way, so a history of any length streams through it.

use super::{
    error::Malformed,
    record::{Kind, Process, Record},
};
use std::collections::BTreeMap;

/// An operation under way.
struct Open {
    line: usize,
    operation: String,
    key: Option<String>,
}

/// Refuses records that contradict what came before.
#[derive(Default)]
pub struct Validator {
    open: BTreeMap<u64, Open>,
    time_ns: u64,
    /// Others' histories may hold completions only; then there is nothing to match them with.
    has_invocations: bool,
    records: usize,
}

impl Validator {
    /// Judges the next record.
    pub fn admit(&mut self, line: usize, record: &Record) -> Result<(), Malformed> {
        if record.time_ns < self.time_ns {
            let reason = format!("{} is before {}, the time of an earlier line", record.time_ns, self.time_ns);
            return Err(Malformed::new(line, "time_ns", reason));
        }
        self.time_ns = record.time_ns;
        let Process::Client(process) = record.process else { return Ok(()) };
        let is_first = self.records == 0;
        self.records += 1;
        if record.kind == Kind::Invoke {
            if !is_first && !self.has_invocations {
                return Err(Malformed::new(line, "kind", "the first invocation comes after completions"));
            }
            self.has_invocations = true;
            return self.begin(line, process, record);
        }
        if self.has_invocations { self.end(line, process, record) } else { Ok(()) }
    }

    fn begin(&mut self, line: usize, process: u64, record: &Record) -> Result<(), Malformed> {
        let open = Open { line, operation: record.operation.clone(), key: record.key.clone() };
        match self.open.insert(process, open) {
            None => Ok(()),
            Some(open) => {
                let reason = format!("{process} has {} of line {} under way", open.operation, open.line);
                Err(Malformed::new(line, "process", reason))
            }
        }
    }

    fn end(&mut self, line: usize, process: u64, record: &Record) -> Result<(), Malformed> {
        let Some(open) = self.open.remove(&process) else {
            let reason = format!("{process} completes {} and has nothing under way", record.operation);
            return Err(Malformed::new(line, "process", reason));
        };
        if open.operation != record.operation {
            let reason =
                format!("{} completes what line {} invoked as {}", record.operation, open.line, open.operation);
            return Err(Malformed::new(line, "operation", reason));
        }
        if record.key.is_some() && record.key != open.key {
            let name = |key: &Option<String>| key.clone().unwrap_or_else(|| "no key".to_owned());
            let reason = format!("{} completes line {} on {}", name(&record.key), open.line, name(&open.key));
            return Err(Malformed::new(line, "key", reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(time_ns: u64, kind: Kind, operation: &str) -> Record {
        Record::new(time_ns, Process::Client(1), kind, operation).with_key("x")
    }

    fn refusal(records: &[Record]) -> String {
        let mut validator = Validator::default();
        for (at, record) in records.iter().enumerate() {
            if let Err(malformed) = validator.admit(at + 1, record) {
                return malformed.to_string();
            }
        }
        String::new()
    }

    #[test]
    fn a_process_has_one_operation_under_way() {
        let twice = [record(1, Kind::Invoke, "read"), record(2, Kind::Invoke, "write")];
        assert_eq!(refusal(&twice), "line 2: process: 1 has read of line 1 under way");
    }

    #[test]
    fn a_completion_matches_its_invocation() {
        let (begin, end) = (record(1, Kind::Invoke, "read"), record(2, Kind::Ok, "read"));
        assert_eq!(refusal(&[begin.clone(), end.clone()]), "");
        let other = record(2, Kind::Ok, "write");
        assert_eq!(refusal(&[begin.clone(), other]), "line 2: operation: write completes what line 1 invoked as read");
        let elsewhere = end.clone().with_key("y");
        assert_eq!(refusal(&[begin.clone(), elsewhere]), "line 2: key: y completes line 1 on x");
        let again = refusal(&[begin, end.clone(), end]);
        assert_eq!(again, "line 3: process: 1 completes read and has nothing under way");
    }

    #[test]
    fn the_clock_does_not_go_back() {
        let back = [record(5, Kind::Invoke, "read"), record(4, Kind::Ok, "read")];
        assert_eq!(refusal(&back), "line 2: time_ns: 4 is before 5, the time of an earlier line");
    }

    #[test]
    fn completions_alone_are_a_history_and_a_mixture_is_not() {
        let ends = [record(1, Kind::Ok, "txn"), record(2, Kind::Fail, "txn")];
        assert_eq!(refusal(&ends), "");
        let mixed = [record(1, Kind::Ok, "txn"), record(2, Kind::Invoke, "txn")];
        assert!(refusal(&mixed).contains("the first invocation comes after completions"));
    }
}
