//! A set: `add`, `remove`, and `read` that shows every element.
//!
//! **Deliberately absent.** Speed: a state is a whole set. `check/set.rs` judges sets that only grow, of any size.

use super::{Model, unfit, unknown_operation};
use crate::history::{Operation, Outcome, Value};
use std::collections::BTreeSet;

/// Elements.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetModel;

/// What happens to the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetCall {
    /// It was this.
    Read(BTreeSet<Value>),
    /// It has this.
    Add(Value),
    /// It has this no more.
    Remove(Value),
}

/// The elements a read was told.
pub fn elements(operation: &Operation) -> Result<&[Value], String> {
    match &operation.result {
        Value::Nil => Ok(&[]),
        Value::List(members) => Ok(members),
        other => Err(unfit(operation, other, "a list")),
    }
}

impl Model for SetModel {
    type State = BTreeSet<Value>;
    type Call = SetCall;

    fn initial(&self) -> BTreeSet<Value> {
        BTreeSet::new()
    }

    fn call(&self, operation: &Operation) -> Result<Option<SetCall>, String> {
        Ok(match (operation.name.as_str(), operation.outcome) {
            (_, Outcome::Fail) | ("read" | "get", Outcome::Unknown) => None,
            ("read" | "get", Outcome::Ok) => Some(SetCall::Read(elements(operation)?.iter().cloned().collect())),
            ("add", _) => Some(SetCall::Add(operation.argument.clone())),
            ("remove", _) => Some(SetCall::Remove(operation.argument.clone())),
            _ => return Err(unknown_operation(operation, "add, remove, read, get")),
        })
    }

    fn step(&self, state: &BTreeSet<Value>, call: &SetCall) -> Option<BTreeSet<Value>> {
        let mut next = state.clone();
        match call {
            SetCall::Read(members) => return (state == members).then_some(next),
            SetCall::Add(element) => next.insert(element.clone()),
            SetCall::Remove(element) => next.remove(element),
        };
        Some(next)
    }

    fn is_read(&self, call: &SetCall) -> bool {
        matches!(call, SetCall::Read(_))
    }

    fn state_bytes(&self, state: &BTreeSet<Value>) -> u64 {
        128 + 2 * 64 * state.len() as u64
    }

    fn describe(&self, state: &BTreeSet<Value>) -> String {
        Value::List(state.iter().cloned().collect()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::operation, *};

    #[test]
    fn elements_come_and_go() {
        let step = |state: &BTreeSet<Value>, operation: &Operation| {
            SetModel.step(state, &SetModel.call(operation).unwrap().unwrap())
        };
        let one = step(&BTreeSet::new(), &operation("add", 1.into(), Outcome::Unknown, Value::Nil)).unwrap();
        let read = operation("read", Value::Nil, Outcome::Ok, Value::List(vec![1.into()]));
        assert_eq!(step(&one, &read), Some(one.clone()));
        let none = step(&one, &operation("remove", 1.into(), Outcome::Ok, Value::Nil)).unwrap();
        assert_eq!(step(&none, &read), None);
    }
}
