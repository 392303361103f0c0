//! The diary: what its readers were handed, in what order.
//!
//! ```text
//!   read-changes → [[seq, key, version], …]      the key of the operation names the shard
//!                  [seq, key, version, "expire"] its time had come: the version of what was there
//!
//!   within one reader   seq 5, 6, 7, … without a gap; a `resync` (the operation of that name) starts anew
//!   within one key      versions grow; what expires may be the newest, never older
//!   between readers     the same seq of the same shard is the same change
//! ```
//!
//! **Invariant.** A reader may be handed a change again after it reconnects; it may never miss one.

use super::{
    coverage::Coverage,
    report::{Finding, Options, Report, Unfit},
};
use crate::history::{History, Operation, Rank, Value};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    seq: u64,
    key: String,
    version: Rank,
    is_expiry: bool,
}

#[derive(Default)]
struct Diary<'a> {
    /// Per reader: the seq it was handed last.
    readers: BTreeMap<String, (u64, &'a Operation)>,
    /// Per seq: the change, and who saw it first.
    changes: BTreeMap<u64, (Change, &'a Operation)>,
}

/// Judges every diary of a history.
pub fn check(history: &History, _options: &Options) -> Result<Report, Unfit> {
    let mut diaries: BTreeMap<Option<&str>, Diary<'_>> = BTreeMap::new();
    let mut findings = Vec::new();
    let mut judged = 0;
    for operation in history.operations.iter().filter(|operation| operation.is_ok()) {
        let shard = operation.key.as_deref();
        let diary = diaries.entry(shard).or_default();
        match operation.name.as_str() {
            "read-changes" => {
                let changes = changes(operation)?;
                judged += changes.len();
                follow(diary, operation, &changes, &mut findings);
            }
            "resync" => {
                diary.readers.remove(&operation.session_name());
            }
            _ => {}
        }
    }
    for (shard, diary) in &diaries {
        versions_grow(*shard, diary, &mut findings);
    }
    Ok(Report::weigh("diary", Coverage::of(history, judged, "change that was handed out"), findings, Vec::new()))
}

fn changes(operation: &Operation) -> Result<Vec<Change>, Unfit> {
    let unfit = |value: &Value| {
        let line = operation.line;
        Unfit(format!(
            "line {line}: value: {value} of read-changes is not a list of [seq, key, version (, \"expire\")]"
        ))
    };
    let number = |value: &Value| value.as_int().and_then(|number| u64::try_from(number).ok());
    let rank = |value: &Value| match value {
        Value::List(numbers) => numbers.iter().map(number).collect::<Option<Vec<u64>>>().map(Rank),
        one => number(one).map(|number| Rank(vec![number])),
    };
    let change = |value: &Value| {
        let (seq, key, version, is_expiry) = match value.as_list()? {
            [seq, key, version] => (seq, key, version, false),
            [seq, key, version, kind] if kind.as_text() == Some("expire") => (seq, key, version, true),
            _ => return None,
        };
        Some(Change { seq: number(seq)?, key: key.as_text()?.to_owned(), version: rank(version)?, is_expiry })
    };
    let told = match &operation.result {
        Value::Nil => return Ok(Vec::new()),
        told => told.as_list().ok_or_else(|| unfit(told))?,
    };
    told.iter().map(|value| change(value).ok_or_else(|| unfit(value))).collect()
}

fn follow<'a>(diary: &mut Diary<'a>, operation: &'a Operation, changes: &[Change], findings: &mut Vec<Finding>) {
    let shard = operation.key.as_deref();
    let reader = operation.session_name();
    for (at, change) in changes.iter().enumerate() {
        let seq = change.seq;
        if let Some((last, earlier)) = diary.readers.get(&reader).copied() {
            if seq > last + 1 {
                let what = format!("a gap: {reader} was handed seq {seq} after {last}");
                findings.push(Finding::new(shard, what, &[earlier.id, operation.id]));
            } else if at > 0 && seq != last + 1 {
                let what = format!("out of order: {reader} was handed seq {seq} after {last} in one reply");
                findings.push(Finding::new(shard, what, &[operation.id]));
            }
        }
        diary.readers.insert(reader.clone(), (seq, operation));
        match diary.changes.get(&seq) {
            None => {
                diary.changes.insert(seq, (change.clone(), operation));
            }
            Some((known, other)) if known != change => {
                let what = format!(
                    "two changes have seq {seq}: {} {} and {} {}",
                    known.key, known.version, change.key, change.version
                );
                findings.push(Finding::new(shard, what, &[other.id, operation.id]));
            }
            Some(_) => {}
        }
    }
}

fn versions_grow(shard: Option<&str>, diary: &Diary<'_>, findings: &mut Vec<Finding>) {
    let mut newest: BTreeMap<&str, (&Change, &Operation)> = BTreeMap::new();
    for (change, operation) in diary.changes.values() {
        if let Some((before, earlier)) = newest.insert(&change.key, (change, operation))
            && (change.version < before.version || change.version == before.version && !change.is_expiry)
        {
            let what = format!(
                "a version went back: {} has {} at seq {} and {} at seq {}",
                change.key, before.version, before.seq, change.version, change.seq
            );
            findings.push(Finding::new(shard, what, &[earlier.id, operation.id]));
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

    const FIRST: &str = r#"1-2 c1 read-changes:s - [[5,"x",[1,1]],[6,"y",[1,2]]]"#;

    #[test]
    fn a_diary_without_gaps_is_fine() {
        let again = r#"3-4 c1 read-changes:s - [[6,"y",[1,2]],[7,"x",[2,1]]]"#;
        assert!(judge(&format!("{FIRST}\n{again}")).is_empty(), "handed out again after reconnecting");
        let anew = "3-4 c1 resync:s - ok\n5-6 c1 read-changes:s - [[90,\"x\",[9,1]]]";
        assert!(judge(&format!("{FIRST}\n{anew}")).is_empty());
    }

    #[test]
    fn what_expires_has_the_version_of_what_was_there() {
        let then = |line: &str| judge(&format!("{FIRST}\n3-4 {line}")).join("\n");
        assert_eq!(then(r#"c1 read-changes:s - [[7,"x",[1,1],"expire"],[8,"x",[3,1]]]"#), "");
        assert!(then(r#"c1 read-changes:s - [[7,"x",[1,0],"expire"]]"#).starts_with("a version went back: x has 1.1"));
        assert!(then(r#"c1 read-changes:s - [[7,"x",[1,1],"expire"],[8,"x",[1,1]]]"#).contains("went back"));
        assert!(check(&history(r#"1-2 c1 read-changes:s - [[7,"x",[1,1],"gone"]]"#), &Options::default()).is_err());
    }

    #[test]
    fn gaps_disorder_disagreement_and_old_versions_are_found() {
        let then = |line: &str| judge(&format!("{FIRST}\n3-4 {line}")).join("\n");
        assert!(then(r#"c1 read-changes:s - [[8,"x",[2,1]]]"#).starts_with("a gap: client 1 was handed seq 8 after 6"));
        assert!(then(r#"c2 read-changes:s - [[7,"x",[2,1]],[7,"x",[2,1]]]"#).starts_with("out of order"));
        assert!(then(r#"c2 read-changes:s - [[6,"z",[1,2]]]"#).starts_with("two changes have seq 6"));
        assert!(then(r#"c2 read-changes:s - [[7,"x",[1,1]]]"#).starts_with("a version went back: x has 1.1 at seq 5"));
        assert!(check(&history("1-2 c1 read-changes:s - [7]"), &Options::default()).is_err());
    }
}
