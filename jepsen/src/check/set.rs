//! Sets that only grow: is what was acknowledged there, and nothing else?
//!
//! ```text
//!   add 7 ├──┤                     7 is known from the moment its add ended, or a read that shows it ended
//!              read ├──┤  no 7     stale if a later read shows it again, lost if none does
//! ```
//!
//! **Invariant.** An element whose add is of unknown outcome may be there or not, until somebody has seen it.
//!
//! **Deliberately absent.** Removing: `linearizable-set` searches for an order of sets that shrink.

use super::{
    coverage::Coverage,
    report::{Finding, Options, Report, Unfit},
};
use crate::history::{History, Operation, Outcome, Value};
use std::collections::{BTreeMap, BTreeSet};

struct Read<'a> {
    operation: &'a Operation,
    elements: BTreeSet<&'a Value>,
}

/// One set: its adds and its answered reads, by invocation.
#[derive(Default)]
struct Set<'a> {
    adds: BTreeMap<&'a Value, Vec<&'a Operation>>,
    reads: Vec<Read<'a>>,
}

/// Judges every set of a history.
pub fn check(history: &History, _options: &Options) -> Result<Report, Unfit> {
    let mut findings = Vec::new();
    let mut reads = 0;
    for (key, set) in sets(history, &mut findings)? {
        reads += set.reads.len();
        unexpected(key, &set, &mut findings);
        missing(key, &set, &mut findings);
    }
    Ok(Report::weigh("set", Coverage::of(history, reads, "read that was answered"), findings, Vec::new()))
}

fn sets<'a>(history: &'a History, findings: &mut Vec<Finding>) -> Result<BTreeMap<Option<&'a str>, Set<'a>>, Unfit> {
    let mut sets: BTreeMap<Option<&str>, Set<'_>> = BTreeMap::new();
    for operation in &history.operations {
        let key = operation.key.as_deref();
        let set = sets.entry(key).or_default();
        match operation.name.as_str() {
            "add" => set.adds.entry(&operation.argument).or_default().push(operation),
            "read" | "get" if operation.is_ok() => {
                let told = crate::model::elements(operation)?;
                let elements: BTreeSet<&Value> = told.iter().collect();
                if elements.len() < told.len() {
                    let what = format!("a read shows an element more than once: {operation}");
                    findings.push(Finding::new(key, what, &[operation.id]));
                }
                set.reads.push(Read { operation, elements });
            }
            "read" | "get" => {}
            other => {
                return Err(Unfit(format!("line {}: operation: {other:?} is none of add, read, get", operation.line)));
            }
        }
    }
    Ok(sets)
}

/// Elements that nobody can have added.
fn unexpected(key: Option<&str>, set: &Set<'_>, findings: &mut Vec<Finding>) {
    let mut reported = BTreeSet::new();
    for read in &set.reads {
        for element in &read.elements {
            let adds = set.adds.get(element).map_or(&[][..], Vec::as_slice);
            let ended_ns = read.operation.ended_ns.unwrap_or(u64::MAX);
            let is_possible = |add: &&&Operation| add.may_have_happened() && add.invoked_ns <= ended_ns;
            if adds.iter().any(|add| is_possible(&add)) || !reported.insert(*element) {
                continue;
            }
            let why = match adds.first() {
                None => "nobody added",
                Some(add) if add.outcome == Outcome::Fail => "was refused with proof",
                Some(_) => "nobody had begun to add",
            };
            let ids: Vec<usize> = adds.iter().map(|add| add.id).chain([read.operation.id]).collect();
            findings.push(Finding::new(key, format!("unexpected: a read shows {element}, which {why}"), &ids));
        }
    }
}

/// Elements that are known and not shown.
fn missing(key: Option<&str>, set: &Set<'_>, findings: &mut Vec<Finding>) {
    let mut known: BTreeMap<&Value, &Operation> = BTreeMap::new();
    let mut proofs: Vec<(u64, &Value, &Operation)> = Vec::new();
    for (element, adds) in &set.adds {
        proofs.extend(adds.iter().filter_map(|add| Some((add.completed_ns()?, *element, *add))));
    }
    for read in &set.reads {
        let ended_ns = read.operation.ended_ns.unwrap_or(u64::MAX);
        proofs.extend(read.elements.iter().map(|element| (ended_ns, *element, read.operation)));
    }
    proofs.sort_by_key(|(ended_ns, _, operation)| (*ended_ns, operation.id));
    let mut proofs = proofs.into_iter().peekable();
    let mut reported: BTreeSet<&Value> = BTreeSet::new();
    for (at, read) in set.reads.iter().enumerate() {
        while let Some((_, element, proof)) = proofs.next_if(|(ended_ns, ..)| *ended_ns < read.operation.invoked_ns) {
            known.entry(element).or_insert(proof);
        }
        for (element, proof) in &known {
            if read.elements.contains(element) || !reported.insert(*element) {
                continue;
            }
            let comes_back = set.reads[at + 1..].iter().any(|later| later.elements.contains(element));
            let word = if comes_back { "stale" } else { "lost" };
            let what = format!("{word}: a read misses {element}, which was there before it began: {proof}");
            findings.push(Finding::new(key, what, &[proof.id, read.operation.id]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{history, reasons};
    use super::*;

    fn judge(lines: &str) -> Vec<String> {
        reasons(check(&history(lines), &Options::default()).unwrap())
    }

    #[test]
    fn what_was_added_is_there_and_what_is_open_may_be() {
        assert!(judge("1-2 c1 add 1 ok\n3-4 c1 add 2 ?\n5-6 c2 read - [1]\n7-8 c2 read - [1,2]").is_empty());
        assert!(judge("1-9 c1 add 1 ok\n3-4 c2 read - []").is_empty(), "a read beside an add may miss it");
    }

    #[test]
    fn what_is_lost_stale_or_unexpected_is_found() {
        assert!(judge("1-2 c1 add 1 ok\n3-4 c2 read - []")[0].starts_with("lost: a read misses 1"));
        let stale = judge("1-2 c1 add 1 ok\n3-4 c2 read - []\n5-6 c2 read - [1]");
        assert!(stale[0].starts_with("stale: a read misses 1"));
        let seen = judge("1-2 c1 add 1 ?\n3-4 c2 read - [1]\n5-6 c3 read - []");
        assert!(seen[0].starts_with("lost: a read misses 1"), "seen once, it is known");
        assert!(judge("1-2 c2 read - [1]")[0].contains("nobody added"));
        assert!(judge("1-2 c1 add 1 fail\n3-4 c2 read - [1]")[0].contains("refused with proof"));
        assert!(judge("1-2 c2 read - [1]\n3-4 c1 add 1 ok")[0].contains("nobody had begun"));
        assert!(judge("1-2 c1 add 1 ok\n3-4 c2 read - [1,1]")[0].contains("more than once"));
    }
}
