//! Ids that nobody else ever got: `generate` tells one.

use super::{
    coverage::Coverage,
    report::{Finding, Options, Report, Unfit},
};
use crate::history::{History, Operation, Value};
use std::collections::BTreeMap;

/// Judges a history of ids.
pub fn check(history: &History, _options: &Options) -> Result<Report, Unfit> {
    let mut owners: BTreeMap<(Option<&str>, &Value), &Operation> = BTreeMap::new();
    let mut findings = Vec::new();
    let mut judged = 0;
    for operation in &history.operations {
        if operation.name != "generate" {
            return Err(Unfit(format!("line {}: operation: {:?} is not generate", operation.line, operation.name)));
        }
        if !operation.is_ok() {
            continue;
        }
        judged += 1;
        let key = operation.key.as_deref();
        match owners.get(&(key, &operation.result)) {
            None => {
                owners.insert((key, &operation.result), operation);
            }
            Some(owner) => {
                let what = format!("{} was given out twice", operation.result);
                findings.push(Finding::new(key, what, &[owner.id, operation.id]));
            }
        }
    }
    Ok(Report::weigh("unique-ids", Coverage::of(history, judged, "id"), findings, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{history, reasons};
    use super::*;

    #[test]
    fn an_id_given_out_twice_is_found() {
        let judge = |lines: &str| reasons(check(&history(lines), &Options::default()).unwrap());
        assert!(judge("1-2 c1 generate - 1\n1-3 c2 generate - 2\n4-5 c1 generate - ?").is_empty());
        assert_eq!(judge("1-2 c1 generate - 1\n1-3 c2 generate - 1"), ["1 was given out twice"]);
        assert_eq!(judge("1-2 c1 generate - ?"), ["there is nothing to judge: no id"]);
    }
}
