//! What there was to judge: a check of nothing must not pass.
//!
//! **Invariant.** Counts only; which of them a check needs is its `needs`.

use crate::history::{History, Operation, Outcome};
use std::collections::BTreeMap;

/// Fewer answered operations of a kind than this in a hundred say nothing about it, once it was tried often.
const ANSWERED_PERCENT_MIN: usize = 5;

/// How often is often.
const TRIED_MIN: usize = 20;

/// How the operations of one name ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// With their effect.
    pub ok: usize,
    /// Proven without.
    pub fail: usize,
    /// Nobody knows.
    pub unknown: usize,
}

/// What was there.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// By name of the operation.
    pub ended: BTreeMap<String, Ended>,
    /// How many keys there are; operations without a key share one.
    pub keys: usize,
    /// On how many of them two operations overlapped.
    pub keys_with_overlap: usize,
    /// How many answers this check judged.
    pub judged: usize,
    /// Faults in the history.
    pub faults: usize,
    needs: &'static str,
}

impl Coverage {
    /// Counts. `judged` answers bore on the verdict, and `needs` says what they are, for people.
    #[must_use]
    pub fn of(history: &History, judged: usize, needs: &'static str) -> Self {
        let mut coverage = Coverage { judged, faults: history.faults.len(), needs, ..Coverage::default() };
        let mut keys: BTreeMap<Option<&str>, (u64, bool)> = BTreeMap::new();
        for operation in &history.operations {
            let ended = coverage.ended.entry(operation.name.clone()).or_default();
            match operation.outcome {
                Outcome::Ok => ended.ok += 1,
                Outcome::Fail => ended.fail += 1,
                Outcome::Unknown => ended.unknown += 1,
            }
            let (until_ns, has_overlap) = keys.entry(operation.key.as_deref()).or_default();
            *has_overlap |= *until_ns > operation.invoked_ns;
            *until_ns = (*until_ns).max(end_of(operation));
        }
        coverage.keys = keys.len();
        coverage.keys_with_overlap = keys.values().filter(|(_, has_overlap)| *has_overlap).count();
        coverage
    }

    /// Why this history shows nothing; empty if it shows something.
    #[must_use]
    pub fn vacuous(&self) -> Vec<String> {
        if self.ended.is_empty() {
            return vec!["the history is empty".to_owned()];
        }
        if self.judged == 0 {
            return vec![format!("there is nothing to judge: no {}", self.needs)];
        }
        let is_silent = |ended: &Ended| {
            let tried = ended.ok + ended.fail + ended.unknown;
            tried >= TRIED_MIN && ended.ok * 100 < tried * ANSWERED_PERCENT_MIN
        };
        let silent = self.ended.iter().filter(|(_, ended)| is_silent(ended));
        silent
            .map(|(name, ended)| {
                let tried = ended.ok + ended.fail + ended.unknown;
                format!("only {} of {tried} operations {name:?} ended well: too few to show anything", ended.ok)
            })
            .collect()
    }
}

fn end_of(operation: &Operation) -> u64 {
    operation.ended_ns.unwrap_or(operation.invoked_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Format, parse};

    fn history(lines: &[(u64, u64, &str, &str)]) -> History {
        let line = |(time_ns, process, kind, name): &(u64, u64, &str, &str)| {
            format!("{{\"time_ns\":{time_ns},\"process\":{process},\"kind\":\"{kind}\",\"operation\":\"{name}\"}}\n")
        };
        parse(&lines.iter().map(line).collect::<String>(), Format::Jsonl).unwrap()
    }

    #[test]
    fn a_history_that_shows_nothing_is_vacuous() {
        assert_eq!(Coverage::of(&history(&[]), 0, "read").vacuous(), ["the history is empty"]);
        let one = history(&[(1, 1, "invoke", "write"), (2, 1, "ok", "write")]);
        assert_eq!(Coverage::of(&one, 0, "read").vacuous(), ["there is nothing to judge: no read"]);
        assert!(Coverage::of(&one, 1, "read").vacuous().is_empty());
        let silent: Vec<_> = (0..30).map(|client| (1, client, "invoke", "write")).collect();
        let reasons = Coverage::of(&history(&silent), 1, "read").vacuous();
        assert_eq!(reasons, ["only 0 of 30 operations \"write\" ended well: too few to show anything"]);
    }

    #[test]
    fn overlaps_are_counted_by_key() {
        let overlap = history(&[(1, 1, "invoke", "read"), (2, 2, "invoke", "read"), (3, 1, "ok", "read")]);
        assert_eq!(Coverage::of(&overlap, 1, "").keys_with_overlap, 1);
        let apart = history(&[(1, 1, "invoke", "read"), (2, 1, "ok", "read"), (3, 2, "invoke", "read")]);
        assert_eq!((Coverage::of(&apart, 1, "").keys, Coverage::of(&apart, 1, "").keys_with_overlap), (1, 0));
    }
}
