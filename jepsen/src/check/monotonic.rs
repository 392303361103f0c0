//! Reads that never go back: each client, on each key, sees versions grow; where replies have no versions, numbers.
//!
//! **Invariant.** Only what one client was told, one after the other, is compared: two clients may see different times.

use super::{
    coverage::Coverage,
    report::{Finding, Options, Report, Unfit},
};
use crate::history::{History, Operation, Rank, Value};
use std::collections::BTreeMap;

/// What can be compared. Absent comes before everything; versions and numbers never meet on one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shown {
    Nothing,
    Number(i64),
    Version(Rank),
}

/// Judges a history of keys that only grow.
pub fn check(history: &History, _options: &Options) -> Result<Report, Unfit> {
    let mut seen: BTreeMap<(u64, Option<&str>), (&Operation, Shown)> = BTreeMap::new();
    let mut findings = Vec::new();
    let mut judged = 0;
    for operation in history.operations.iter().filter(|operation| operation.is_ok()) {
        if !["read", "get"].contains(&operation.name.as_str()) {
            continue;
        }
        judged += 1;
        let shown = shown(operation)?;
        let key = operation.key.as_deref();
        let place = (operation.process, key);
        if let Some((earlier, before)) = seen.get(&place)
            && shown < *before
        {
            let what = format!("client {} went back: {operation} after {earlier}", operation.process);
            findings.push(Finding::new(key, what, &[earlier.id, operation.id]));
            continue;
        }
        seen.insert(place, (operation, shown));
    }
    Ok(Report::weigh("monotonic-reads", Coverage::of(history, judged, "read that was answered"), findings, Vec::new()))
}

fn shown(operation: &Operation) -> Result<Shown, Unfit> {
    if let Some(version) = operation.receipt.as_ref().and_then(|receipt| receipt.version.clone()) {
        return Ok(Shown::Version(version));
    }
    match &operation.result {
        Value::Nil => Ok(Shown::Nothing),
        Value::Int(number) => Ok(Shown::Number(*number)),
        other => Err(Unfit(format!("line {}: value: {other} has no version and is no number", operation.line))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{history, reasons};
    use super::*;

    #[test]
    fn a_client_that_goes_back_is_found() {
        let judge = |lines: &str| reasons(check(&history(lines), &Options::default()).unwrap());
        assert!(judge("1-2 c1 read - 1\n3-4 c2 read - 0\n5-6 c1 read - 1\n7-8 c1 read - 2").is_empty());
        assert!(judge("1-2 c1 read - 2\n5-6 c1 read - 1")[0].starts_with("client 1 went back"));
        assert!(judge("1-2 c1 read - 2\n5-6 c1 read - null")[0].starts_with("client 1 went back"));
        let versions = "1-2 c1 read - \"b\" version=2\n5-6 c1 read - \"a\" version=1";
        assert!(judge(versions)[0].starts_with("client 1 went back"));
    }
}
