//! Versions: they name writes, and grow with time. No search: every reply says where it stands.
//!
//! ```text
//!   real time   ├── write a ──┤      ├── read ──┤       a was acknowledged before the read began:
//!   versions         v7                  v≥7            the read must show v7 or newer
//! ```
//!
//! Judged: linearizable reads and writes of one key against real time; two writes never share a version; what is read
//! is what the write of that version wrote; nothing refused with proof is ever seen.
//!
//! **Invariant.** Needs versions in the receipts of writes and reads; replies without one say nothing.
//!
//! **Deliberately absent.** Deletes (an absent key has no version to compare).

use super::{
    coverage::Coverage,
    report::{Finding, Options, Report, Unfit},
};
use crate::history::{History, Operation, Outcome, Rank, Value};
use kvorum_api::ReadLevel;
use std::collections::BTreeMap;

/// Judges every key of a history.
pub fn check(history: &History, _options: &Options) -> Result<Report, Unfit> {
    let mut keys: BTreeMap<Option<&str>, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        keys.entry(operation.key.as_deref()).or_default().push(operation);
    }
    let mut findings = Vec::new();
    let mut judged = 0;
    for (key, operations) in keys {
        judged += operations.iter().filter(|operation| is_read(operation) && operation.receipt.is_some()).count();
        name_one_write(key, &operations, &mut findings);
        show_what_was_written(key, &operations, &mut findings);
        grow_with_time(key, &operations, &mut findings);
    }
    Ok(Report::weigh("versions", Coverage::of(history, judged, "read with a receipt"), findings, Vec::new()))
}

/// The version an answered operation wrote or saw.
pub(super) fn version(operation: &Operation) -> Option<&Rank> {
    operation.receipt.as_ref().filter(|_| operation.is_ok()).and_then(|receipt| receipt.version.as_ref())
}

pub(super) fn is_read(operation: &Operation) -> bool {
    ["read", "get"].contains(&operation.name.as_str())
}

/// A swap that found something else wrote nothing; its version is what it found.
fn is_write(operation: &Operation) -> bool {
    !is_read(operation) && operation.result != Value::Bool(false)
}

/// What an operation wants to write, if it says so.
fn wanted(operation: &Operation) -> Option<&Value> {
    match operation.name.as_str() {
        "write" | "put" => Some(&operation.argument),
        "cas" => operation.argument.as_list().and_then(<[Value]>::last),
        _ => None,
    }
}

fn name_one_write(key: Option<&str>, operations: &[&Operation], findings: &mut Vec<Finding>) {
    let mut writers: BTreeMap<&Rank, &Operation> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| is_write(operation)) {
        let Some(version) = version(operation) else { continue };
        if let Some(other) = writers.insert(version, operation) {
            let what = format!("two writes have version {version}: {other} and {operation}");
            findings.push(Finding::new(key, what, &[other.id, operation.id]));
        }
    }
}

fn show_what_was_written(key: Option<&str>, operations: &[&Operation], findings: &mut Vec<Finding>) {
    let writes = || operations.iter().filter(|operation| is_write(operation));
    let writers: BTreeMap<&Rank, &Operation> = writes().filter_map(|write| Some((version(write)?, *write))).collect();
    let refused =
        writes().filter(|write| write.outcome == Outcome::Fail).filter_map(|write| Some((wanted(write)?, *write)));
    let mut refused: BTreeMap<&Value, &Operation> = refused.collect();
    // A value that somebody else may have written proves nothing against the refusal.
    for write in writes().filter(|write| write.may_have_happened()) {
        wanted(write).map(|value| refused.remove(value));
    }
    for read in operations.iter().filter(|operation| is_read(operation) && operation.is_ok()) {
        if let Some(write) = refused.get(&read.result) {
            let what = format!("refused with proof, and happened: {read} shows what {write} wanted to write");
            findings.push(Finding::new(key, what, &[write.id, read.id]));
        }
        let Some(write) = version(read).and_then(|version| writers.get(version)) else { continue };
        if wanted(write).is_some_and(|value| *value != read.result) {
            let what = format!("wrong value: {read} shows another value than {write} wrote with the same version");
            findings.push(Finding::new(key, what, &[write.id, read.id]));
        }
        if read.precedes(write) {
            let what = format!("from the future: {read} shows what {write} had not begun to write");
            findings.push(Finding::new(key, what, &[write.id, read.id]));
        }
    }
}

fn grow_with_time(key: Option<&str>, operations: &[&Operation], findings: &mut Vec<Finding>) {
    let has_deletes = operations.iter().any(|operation| operation.name == "delete");
    let is_held_to_it = |operation: &&&Operation| {
        let level = matches!(operation.level, None | Some(ReadLevel::Linearizable));
        level && operation.is_ok() && (version(operation).is_some() || (saw_nothing(operation) && !has_deletes))
    };
    let mut by_end: Vec<&Operation> = operations.iter().filter(is_held_to_it).copied().collect();
    by_end.sort_by_key(|operation| operation.ended_ns);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&Operation> = None;
    for operation in operations.iter().filter(is_held_to_it) {
        while let Some(earlier) = ended.next_if(|earlier| earlier.precedes(operation)) {
            if newest.is_none_or(|newest| version(earlier) > version(newest)) {
                newest = Some(earlier);
            }
        }
        let Some(newest) = newest else { continue };
        let is_older = match is_write(operation) {
            true => version(operation) <= version(newest),
            false => version(operation) < version(newest),
        };
        if is_older && newest.id != operation.id {
            let shown = |operation| version(operation).map_or("nothing there".to_owned(), Rank::to_string);
            let what = format!(
                "went back: {operation} ({}) began after {newest} ({}) had ended",
                shown(operation),
                shown(newest)
            );
            findings.push(Finding::new(key, what, &[newest.id, operation.id]));
        }
    }
}

/// A read with a receipt that found no entry.
fn saw_nothing(operation: &Operation) -> bool {
    is_read(operation) && operation.result.is_nil() && operation.receipt.is_some()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{history, reasons};
    use super::*;

    fn judge(lines: &str) -> String {
        reasons(check(&history(lines), &Options::default()).unwrap()).join("\n")
    }

    #[test]
    fn versions_that_grow_are_fine() {
        let fine = "1-4 c1 write:x 1 ok version=5\n2-6 c2 write:x 2 ok version=4\n7-8 c3 read:x - 1 version=5\n\
                    9-10 c1 cas:x [9,3] false version=5\n9-12 c2 write:x 7 ?";
        assert_eq!(judge(fine), "");
    }

    #[test]
    fn what_versions_cannot_do_is_found() {
        let write = "1-2 c1 write:x 1 ok version=5\n3-4 c1 write:x 2 ok version=6";
        assert!(judge(&format!("{write}\n5-6 c2 read:x - 1 version=5")).contains("went back"));
        assert!(judge(&format!("{write}\n5-6 c2 read:x - null version=")).contains("went back"));
        assert!(judge(&format!("{write}\n5-6 c2 write:x 3 ok version=5")).contains("two writes have version 5"));
        assert!(
            judge(&format!("{write}\n5-6 c2 write:x 3 ok version=4\n7-8 c2 read:x - 2 version=6"))
                .contains("went back")
        );
        assert!(judge(&format!("{write}\n5-6 c2 read:x - 9 version=6")).contains("wrong value"));
        let denied = format!("{write}\n5-6 c2 write:x 3 fail\n7-8 c3 read:x - 3 version=7");
        assert!(judge(&denied).contains("refused with proof"));
        let future = "1-2 c1 read:x - 1 version=5\n3-4 c2 write:x 1 ok version=5";
        assert!(judge(future).contains("from the future"));
    }
}
