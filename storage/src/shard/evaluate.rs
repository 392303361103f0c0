//! Evaluate: what a write would do, from the command, the rows it names and the shard's replicated state alone.
//!
//! ```text
//!   operations ──▶ judge each against what is there ──▶ all hold:   rows before and after, versions
//!                     (later ones see earlier ones)     one fails:  its reason; the others skipped
//! ```
//!
//! **Invariant.** A pure function (invariant 3): it edits nothing, so a command that fails halfway leaves nothing to
//! undo and has used no version.
//!
//! **Deliberately absent.** Request ids, positions, the diary: the shell's.

use crate::{
    command::{Condition, Operation, OperationResult, OperationStatus, Previous, WriteCommand},
    entry::Entry,
    error::StorageError,
    planted,
};
use bytes::Bytes;
use kvorum_api::{Actor, Stamp, Version};
use std::collections::BTreeMap;

/// What a write is judged by besides the rows it names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground {
    /// The shard's logged time.
    pub(super) time_ms: u64,
    /// The highest version assigned so far.
    pub(super) last_version: Version,
    /// The proposer's stamp.
    pub(super) hint: Stamp,
    /// The proposer.
    pub(super) actor: Actor,
}

impl Ground {
    fn next_version(&mut self) -> Version {
        let stamp = self.hint.max(self.last_version.stamp.next());
        self.last_version = Version { stamp, actor: self.actor };
        self.last_version
    }
}

/// What a write would do.
#[derive(Debug)]
pub(super) struct Evaluated {
    /// Whether it happens.
    pub(super) is_applied: bool,
    /// One per operation.
    pub(super) results: Vec<OperationResult>,
    /// What becomes of rows, in order. Empty if it does not happen.
    pub(super) rows: Vec<RowChange>,
    /// The highest version assigned now.
    pub(super) last_version: Version,
}

/// What becomes of one row.
#[derive(Debug)]
pub(super) struct RowChange {
    pub(super) key: Bytes,
    /// What is stored there, gone or not.
    pub(super) stored: Option<Entry>,
    /// Whether what is stored there was gone already, by logged time.
    pub(super) was_gone: bool,
    /// What will be there; `None` = nothing.
    pub(super) after: Option<Entry>,
    /// The version of this change.
    pub(super) version: Version,
}

/// What one operation would do to what is there.
enum Judged {
    Nothing,
    Remove,
    Put { value: Bytes, expires_ms: Option<u64>, number: Option<i64> },
}

/// Evaluates a write. `stored` gives the row of a key as the shard holds it, gone or not.
pub(super) fn evaluate(
    write: &WriteCommand,
    mut ground: Ground,
    mut stored: impl FnMut(&Bytes) -> Result<Option<Entry>, StorageError>,
) -> Result<Evaluated, StorageError> {
    let before = ground.last_version;
    let count = write.operations.len();
    let mut results = Vec::with_capacity(count);
    let mut rows = Vec::with_capacity(count);
    let mut staged: BTreeMap<&Bytes, Option<Entry>> = BTreeMap::new();
    for (at, operation) in write.operations.iter().enumerate() {
        let key = operation.key();
        let row = match staged.get(key) {
            Some(entry) => entry.clone(),
            None => stored(key)?,
        };
        let was_gone = row.as_ref().is_some_and(|entry| entry.is_gone(ground.time_ms));
        let found = row.as_ref().filter(|_| !was_gone);
        let judged = match judge(operation, found, ground.time_ms) {
            Ok(judged) => judged,
            Err(status) => {
                let results = refusal(count, at, status, found);
                return Ok(Evaluated { is_applied: false, results, rows: Vec::new(), last_version: before });
            }
        };
        let previous = if returns_previous(operation) { previous(found) } else { Previous::NotAsked };
        let (after, number) = match judged {
            Judged::Nothing => {
                results.push(applied(previous, None, None));
                continue;
            }
            Judged::Remove => (None, None),
            Judged::Put { value, expires_ms, number } => (Some((value, expires_ms)), number),
        };
        let version = ground.next_version();
        let after = after.map(|(value, expires_ms)| Entry { version, value: Some(value), expires_ms });
        results.push(applied(previous, number, Some(version)));
        if at + 1 < count {
            staged.insert(key, after.clone());
        }
        rows.push(RowChange { key: key.clone(), stored: row, was_gone, after, version });
    }
    Ok(Evaluated { is_applied: true, results, rows, last_version: ground.last_version })
}

fn judge(operation: &Operation, found: Option<&Entry>, time_ms: u64) -> Result<Judged, OperationStatus> {
    match operation {
        Operation::Put { value, ttl_ms, condition, .. } => {
            require(condition, found)?;
            let expires_ms = ttl_ms.map(|ttl_ms| time_ms.saturating_add(ttl_ms));
            Ok(Judged::Put { value: value.clone(), expires_ms, number: None })
        }
        Operation::Delete { condition, .. } => {
            require(condition, found)?;
            Ok(if found.is_some() { Judged::Remove } else { Judged::Nothing })
        }
        Operation::Increment { delta, .. } => {
            let number = match found {
                Some(entry) => number(entry).ok_or(OperationStatus::NotANumber)?,
                None => 0,
            };
            let number = number.checked_add(*delta).ok_or(OperationStatus::Overflow)?;
            let expires_ms = found.and_then(|entry| entry.expires_ms);
            Ok(Judged::Put { value: Bytes::from(number.to_string()), expires_ms, number: Some(number) })
        }
    }
}

fn require(condition: &Condition, found: Option<&Entry>) -> Result<(), OperationStatus> {
    let holds = match condition {
        Condition::Always => true,
        Condition::Absent => found.is_none(),
        Condition::Present => found.is_some(),
        Condition::Version(version) => found
            .is_some_and(|entry| entry.version == *version || (planted!("bug-stale-swap") && entry.version > *version)),
        Condition::Value(value) => found.is_some_and(|entry| entry.value.as_ref() == Some(value)),
    };
    if holds { Ok(()) } else { Err(OperationStatus::ConditionFailed) }
}

/// A decimal 64-bit signed integer as people write it; no plus sign, no blanks.
fn number(entry: &Entry) -> Option<i64> {
    let text = std::str::from_utf8(entry.value.as_deref()?).ok()?;
    if text.starts_with('+') { None } else { text.parse().ok() }
}

fn returns_previous(operation: &Operation) -> bool {
    match operation {
        Operation::Put { return_previous, .. }
        | Operation::Delete { return_previous, .. }
        | Operation::Increment { return_previous, .. } => *return_previous,
    }
}

fn previous(found: Option<&Entry>) -> Previous {
    found.cloned().map_or(Previous::Absent, Previous::Found)
}

fn applied(previous: Previous, number: Option<i64>, version: Option<Version>) -> OperationResult {
    OperationResult { status: OperationStatus::Applied, previous, number, version }
}

/// Everything skipped but the operation at `at`, which says why and what it met.
fn refusal(count: usize, at: usize, status: OperationStatus, found: Option<&Entry>) -> Vec<OperationResult> {
    let skipped =
        OperationResult { status: OperationStatus::Skipped, previous: Previous::NotAsked, number: None, version: None };
    let mut results = vec![skipped; count];
    results[at] = OperationResult { status, previous: previous(found), number: None, version: None };
    results
}
