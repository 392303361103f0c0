//! Rolling hashes: replicas that stand at the same position of a shard have the same.
//!
//! `hash` on the shard's name as key; its result is the hash, its receipt says at which position and on which node.
//!
//! **Invariant.** Positions are compared only within one shard.

use super::{
    coverage::Coverage,
    report::{Finding, Options, Report, Unfit},
};
use crate::history::{History, Operation, Rank};
use std::collections::BTreeMap;

/// Judges every hash of a history.
pub fn check(history: &History, _options: &Options) -> Result<Report, Unfit> {
    let mut known: BTreeMap<(Option<&str>, &Rank), &Operation> = BTreeMap::new();
    let mut findings = Vec::new();
    let mut compared = 0;
    let is_hash = |operation: &&Operation| operation.name == "hash" && operation.is_ok();
    for operation in history.operations.iter().filter(is_hash) {
        let receipt = operation.receipt.as_ref();
        let Some(position) = receipt.and_then(|receipt| receipt.position.as_ref()) else {
            return Err(Unfit(format!(
                "line {}: receipt: a hash without a position cannot be compared",
                operation.line
            )));
        };
        let shard = operation.key.as_deref();
        let Some(other) = known.get(&(shard, position)) else {
            known.insert((shard, position), operation);
            continue;
        };
        compared += 1;
        if other.result != operation.result {
            let (one, two) = (node(other), node(operation));
            let what = format!(
                "replicas differ at position {position}: {} on {one}, {} on {two}",
                other.result, operation.result
            );
            findings.push(Finding::new(shard, what, &[other.id, operation.id]));
        }
    }
    Ok(Report::weigh("hashes", Coverage::of(history, compared, "two hashes at one position"), findings, Vec::new()))
}

fn node(operation: &Operation) -> &str {
    operation.receipt.as_ref().and_then(|receipt| receipt.node.as_deref()).unwrap_or("an unnamed node")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{history, reasons};
    use super::*;

    #[test]
    fn replicas_that_differ_are_found() {
        let judge = |lines: &str| reasons(check(&history(lines), &Options::default()).unwrap());
        let one = "1-2 c1 hash:s - 77 position=2.9 node=n1";
        assert_eq!(judge(one), ["there is nothing to judge: no two hashes at one position"]);
        assert!(judge(&format!("{one}\n3-4 c1 hash:s - 77 position=2.9 node=n2")).is_empty());
        let differs = format!("{one}\n3-4 c1 hash:s - 78 position=2.9 node=n2");
        assert_eq!(judge(&differs), ["replicas differ at position 2.9: 77 on n1, 78 on n2"]);
        assert!(judge(&format!("{one}\n3-4 c1 hash:t - 78 position=2.9 node=n2"))[0].contains("nothing to judge"));
    }
}
