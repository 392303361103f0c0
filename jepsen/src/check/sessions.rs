//! What a session may count on, judged by versions of keys and by positions of shards.
//!
//! ```text
//!   write x v7 ──▶ read x ≥ v7            read your writes
//!   read x v7  ──▶ read x ≥ v7            monotonic reads
//!   write x v7 ──▶ write x > v7           monotonic writes
//!   read x v7  ──▶ write x > v7           writes follow reads
//!   reply at position 40 ──▶ read at level session at position ≥ 40 of the same shard
//! ```
//!
//! A session is named in the history; without a name it is the process. An absent key has no version: it comes before
//! all.
//!
//! **Invariant.** Only reads that promise it (`session`, `linearizable`, `quorum` and `all`, or no level at all) are
//! held to what the session has seen; others still add to it.
//!
//! **Deliberately absent.** Deletes (an absent key has no version to compare).

use super::{
    coverage::Coverage,
    report::{Finding, Options, Report, Unfit},
};
use crate::history::{History, Operation, Rank};
use kvorum_api::ReadLevel;
use std::collections::BTreeMap;

/// What a session has seen of one key or shard, and by which operation.
type Seen<'a> = BTreeMap<(String, String), (Option<Rank>, &'a Operation)>;

/// Judges every session of a history.
pub fn check(history: &History, _options: &Options) -> Result<Report, Unfit> {
    let (mut versions, mut positions) = (Seen::new(), Seen::new());
    let mut findings = Vec::new();
    let mut judged = 0;
    let answered = history.operations.iter().filter(|operation| operation.is_ok());
    // A session has one operation under way, so the order of invocation is its own order.
    for operation in answered.filter(|operation| operation.receipt.is_some()) {
        judged += 1;
        on_versions(&mut versions, operation, &mut findings);
        on_positions(&mut positions, operation, &mut findings);
    }
    Ok(Report::weigh("sessions", Coverage::of(history, judged, "reply with a receipt"), findings, Vec::new()))
}

fn is_read(operation: &Operation) -> bool {
    ["read", "get"].contains(&operation.name.as_str())
}

fn promises(operation: &Operation) -> bool {
    match operation.level {
        None | Some(ReadLevel::Session | ReadLevel::Linearizable | ReadLevel::Quorum | ReadLevel::All) => true,
        Some(ReadLevel::Bounded(_) | ReadLevel::Local | ReadLevel::One) => false,
    }
}

fn on_versions<'a>(seen: &mut Seen<'a>, operation: &'a Operation, findings: &mut Vec<Finding>) {
    let Some(receipt) = &operation.receipt else { return };
    let Some(key) = &operation.key else { return };
    // A write that says no version says nothing; a read without one saw nothing there.
    if receipt.version.is_none() && !(is_read(operation) && operation.result.is_nil()) {
        return;
    }
    let place = (operation.session_name(), key.clone());
    let Some((before, earlier)) = seen.get(&place) else {
        seen.insert(place, (receipt.version.clone(), operation));
        return;
    };
    let is_broken =
        if is_read(operation) { promises(operation) && receipt.version < *before } else { receipt.version <= *before };
    if is_broken && earlier.precedes(operation) {
        let guarantee = match (is_read(earlier), is_read(operation)) {
            (false, true) => "read your writes",
            (true, true) => "monotonic reads",
            (false, false) => "monotonic writes",
            (true, false) => "writes follow reads",
        };
        let what =
            format!("{guarantee}: {operation} ({}) after {earlier} ({})", shown(&receipt.version), shown(before));
        findings.push(Finding::new(Some(key), what, &[earlier.id, operation.id]));
    }
    if receipt.version > *before {
        seen.insert(place, (receipt.version.clone(), operation));
    }
}

fn on_positions<'a>(seen: &mut Seen<'a>, operation: &'a Operation, findings: &mut Vec<Finding>) {
    let Some(receipt) = &operation.receipt else { return };
    let (Some(shard), Some(position)) = (&receipt.shard, &receipt.position) else { return };
    let place = (operation.session_name(), shard.clone());
    let position = Some(position.clone());
    let Some((before, earlier)) = seen.get(&place) else {
        seen.insert(place, (position, operation));
        return;
    };
    if is_read(operation) && promises(operation) && position < *before && earlier.precedes(operation) {
        let at = shown(&position);
        let what =
            format!("a session went back on shard {shard}: {operation} at {at} after {earlier} at {}", shown(before));
        findings.push(Finding::new(operation.key.as_deref(), what, &[earlier.id, operation.id]));
    }
    if position > *before {
        seen.insert(place, (position, operation));
    }
}

fn shown(rank: &Option<Rank>) -> String {
    rank.as_ref().map_or("nothing there".to_owned(), Rank::to_string)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{history, reasons};
    use super::*;

    fn judge(lines: &str) -> Vec<String> {
        reasons(check(&history(lines), &Options::default()).unwrap())
    }

    #[test]
    fn each_guarantee_is_judged_by_versions() {
        assert!(
            judge("1-2 c1 write:x 1 ok version=7\n3-4 c1 read:x - 1 version=7\n5-6 c2 read:x - null version=")
                .is_empty()
        );
        let cases = [
            ("1-2 c1 write:x 1 ok version=7\n3-4 c1 read:x - 0 version=6", "read your writes"),
            ("1-2 c1 read:x - 1 version=7\n3-4 c1 read:x - null version=", "monotonic reads"),
            ("1-2 c1 write:x 1 ok version=7\n3-4 c1 write:x 2 ok version=7", "monotonic writes"),
            ("1-2 c1 read:x - 1 version=7\n3-4 c1 write:x 2 ok version=5", "writes follow reads"),
        ];
        for (lines, guarantee) in cases {
            assert!(judge(lines)[0].starts_with(guarantee), "{guarantee}: {:?}", judge(lines));
        }
    }

    #[test]
    fn a_session_that_goes_back_on_a_shard_is_found() {
        let back = "1-2 c1 write:x 1 ok shard=s position=2.40\n3-4 c1 read:y - 1 shard=s position=2.39";
        assert!(judge(back)[0].starts_with("a session went back on shard s"));
        assert!(judge(&back.replace("read:y -", "read:y@local -")).is_empty(), "a local read promises nothing");
        let elsewhere = "1-2 c1 write:x 1 ok shard=s position=40\n3-4 c1 read:y - 1 shard=t position=1";
        assert!(judge(elsewhere).is_empty());
    }

    #[test]
    fn a_session_goes_on_in_another_process() {
        let moved = "1-2 c1 write:x 1 ok version=7 session=a\n3-4 c2 read:x - 0 version=6 session=a";
        assert!(judge(moved)[0].starts_with("read your writes"));
        assert!(judge(&moved.replace("6 session=a", "6 session=b")).is_empty());
    }
}
