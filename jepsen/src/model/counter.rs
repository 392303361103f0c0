//! A counter: `increment` (by one, or by its argument; told the new number, or nothing) and `read`.
//!
//! **Deliberately absent.** Bounds without an order: `check/counter.rs` has those, for counters too busy to search.

use super::{Model, unfit, unknown_operation};
use crate::history::{Operation, Outcome, Value};

/// A number that grows and shrinks.
#[derive(Clone, Copy, Debug, Default)]
pub struct CounterModel;

/// What happens to the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterCall {
    /// It was this.
    Read(i64),
    /// It grew by the first; somebody was told that it is the second.
    Add(i64, Option<i64>),
}

/// By how much an `increment` grows a counter.
pub fn step_of(operation: &Operation) -> Result<i64, String> {
    match &operation.argument {
        Value::Nil => Ok(1),
        Value::Int(step) => Ok(*step),
        other => Err(unfit(operation, other, "a number")),
    }
}

/// The number a reply names; nil is 0 to a read.
pub fn number_of(operation: &Operation) -> Result<Option<i64>, String> {
    match &operation.result {
        Value::Nil => Ok(None),
        Value::Int(number) => Ok(Some(*number)),
        other => Err(unfit(operation, other, "a number")),
    }
}

impl Model for CounterModel {
    type State = i64;
    type Call = CounterCall;

    fn initial(&self) -> i64 {
        0
    }

    fn call(&self, operation: &Operation) -> Result<Option<CounterCall>, String> {
        let is_known = operation.outcome == Outcome::Ok;
        Ok(match (operation.name.as_str(), operation.outcome) {
            (_, Outcome::Fail) | ("read" | "get", Outcome::Unknown) => None,
            ("read" | "get", Outcome::Ok) => Some(CounterCall::Read(number_of(operation)?.unwrap_or(0))),
            // Jepsen's counters echo the step of an `add`; only an `increment` tells the new number.
            ("add", _) => Some(CounterCall::Add(step_of(operation)?, None)),
            ("increment", _) => {
                let told = if is_known { number_of(operation)? } else { None };
                Some(CounterCall::Add(step_of(operation)?, told))
            }
            _ => return Err(unknown_operation(operation, "increment, add, read, get")),
        })
    }

    fn step(&self, state: &i64, call: &CounterCall) -> Option<i64> {
        match call {
            CounterCall::Read(number) => (state == number).then_some(*state),
            CounterCall::Add(step, told) => {
                let next = state.checked_add(*step)?;
                told.is_none_or(|told| told == next).then_some(next)
            }
        }
    }

    fn is_read(&self, call: &CounterCall) -> bool {
        matches!(call, CounterCall::Read(_))
    }

    fn describe(&self, state: &i64) -> String {
        state.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::operation, *};

    #[test]
    fn increments_add_and_tell_the_sum() {
        let call = |operation: &Operation| CounterModel.call(operation).unwrap().unwrap();
        let told = call(&operation("increment", Value::Nil, Outcome::Ok, 5.into()));
        assert_eq!((CounterModel.step(&4, &told), CounterModel.step(&5, &told)), (Some(5), None));
        let by_three = call(&operation("add", 3.into(), Outcome::Ok, 3.into()));
        assert_eq!(CounterModel.step(&4, &by_three), Some(7));
        assert_eq!(CounterModel.step(&i64::MAX, &by_three), None, "no wrapping");
        assert_eq!(CounterModel.step(&0, &call(&operation("read", Value::Nil, Outcome::Ok, Value::Nil))), Some(0));
    }
}
