//! A plain search for an order of registers, written for being obviously right: no lists, no fingerprints, no cuts.
//!
//! An operation may come next if no other that is left had ended before it began.

use kvorum_jepsen::history::{History, Operation, Outcome, Value};
use std::collections::BTreeSet;

/// Whether one order explains every answer about every key.
pub fn is_linearizable(history: &History) -> bool {
    let keys: BTreeSet<Option<&str>> = history.operations.iter().map(|operation| operation.key.as_deref()).collect();
    keys.into_iter().all(|key| {
        let tells = |operation: &&Operation| match operation.outcome {
            Outcome::Ok => true,
            Outcome::Fail => false,
            Outcome::Unknown => operation.name != "read",
        };
        let on_key = history.operations.iter().filter(|operation| operation.key.as_deref() == key);
        let operations: Vec<&Operation> = on_key.filter(tells).collect();
        let left = vec![true; operations.len()];
        has_order(&operations, left, Value::Nil, &mut BTreeSet::new())
    })
}

fn has_order(
    operations: &[&Operation],
    left: Vec<bool>,
    holds: Value,
    tried: &mut BTreeSet<(Vec<bool>, Value)>,
) -> bool {
    let remaining: Vec<usize> = (0..operations.len()).filter(|at| left[*at]).collect();
    if remaining.iter().all(|at| !operations[*at].is_ok()) {
        return true;
    }
    if !tried.insert((left.clone(), holds.clone())) {
        return false;
    }
    remaining.iter().any(|at| {
        let may_come_next = remaining.iter().all(|other| !operations[*other].precedes(operations[*at]));
        let Some(next) = after(operations[*at], &holds).filter(|_| may_come_next) else { return false };
        let mut left = left.clone();
        left[*at] = false;
        has_order(operations, left, next, tried)
    })
}

fn after(operation: &Operation, holds: &Value) -> Option<Value> {
    match operation.name.as_str() {
        "read" => (operation.result == *holds).then(|| holds.clone()),
        "write" => Some(operation.argument.clone()),
        "cas" => {
            let [from, to] = operation.argument.as_list().unwrap() else { panic!("a swap has two values") };
            let swaps = from == holds;
            let was_told = match operation.result {
                Value::Bool(told) => Some(told),
                _ => operation.is_ok().then_some(true),
            };
            if was_told.is_some_and(|told| told != swaps) {
                return None;
            }
            Some(if swaps { to.clone() } else { holds.clone() })
        }
        other => panic!("a register has no {other}"),
    }
}
