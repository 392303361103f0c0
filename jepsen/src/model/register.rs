//! A register: `read` (`get`), `write` (`put`), `delete`, and `cas` with `[from to]`.
//!
//! A `cas` that ended well swapped, unless its result is `false`: then the comparison failed, and the register did not
//! hold `from`. A key that was never written holds nil.
//!
//! **Invariant.** A nil that a read was told is the answer "nothing there"; a read without an answer says nothing.

use super::{Model, unfit, unknown_operation};
use crate::history::{Operation, Outcome, Value};

/// One value, read, written and compared.
#[derive(Clone, Debug, Default)]
pub struct RegisterModel {
    /// What it holds at first.
    pub initial: Value,
}

/// What happens to a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterCall {
    /// It held this.
    Read(Value),
    /// It holds this.
    Write(Value),
    /// It held the first and holds the second.
    Swap(Value, Value),
    /// It did not hold this.
    Differs(Value),
    /// If it held the first it holds the second; nobody was told.
    MaybeSwap(Value, Value),
}

impl RegisterModel {
    /// The two values of a `cas`.
    fn pair(operation: &Operation) -> Result<(Value, Value), String> {
        match operation.argument.as_list() {
            Some([from, to]) => Ok((from.clone(), to.clone())),
            _ => Err(unfit(operation, &operation.argument, "[from to]")),
        }
    }
}

impl Model for RegisterModel {
    type State = Value;
    type Call = RegisterCall;

    fn initial(&self) -> Value {
        self.initial.clone()
    }

    fn call(&self, operation: &Operation) -> Result<Option<RegisterCall>, String> {
        if operation.outcome == Outcome::Fail {
            return Ok(None);
        }
        let is_known = operation.outcome == Outcome::Ok;
        Ok(match operation.name.as_str() {
            "read" | "get" => is_known.then(|| RegisterCall::Read(operation.result.clone())),
            "write" | "put" => Some(RegisterCall::Write(operation.argument.clone())),
            "delete" => Some(RegisterCall::Write(Value::Nil)),
            "cas" => {
                let (from, to) = Self::pair(operation)?;
                Some(match (is_known, &operation.result) {
                    (false, _) => RegisterCall::MaybeSwap(from, to),
                    (true, Value::Bool(false)) => RegisterCall::Differs(from),
                    (true, _) => RegisterCall::Swap(from, to),
                })
            }
            _ => return Err(unknown_operation(operation, "read, get, write, put, delete, cas")),
        })
    }

    fn step(&self, state: &Value, call: &RegisterCall) -> Option<Value> {
        match call {
            RegisterCall::Read(value) => (state == value).then(|| state.clone()),
            RegisterCall::Write(value) => Some(value.clone()),
            RegisterCall::Swap(from, to) => (state == from).then(|| to.clone()),
            RegisterCall::Differs(from) => (state != from).then(|| state.clone()),
            RegisterCall::MaybeSwap(from, to) => Some(if state == from { to.clone() } else { state.clone() }),
        }
    }

    fn is_read(&self, call: &RegisterCall) -> bool {
        matches!(call, RegisterCall::Read(_) | RegisterCall::Differs(_))
    }

    fn may_explain(&self, call: &RegisterCall, kept: &[RegisterCall]) -> bool {
        let (RegisterCall::Write(made) | RegisterCall::Swap(_, made) | RegisterCall::MaybeSwap(_, made)) = call else {
            return false;
        };
        kept.iter().any(|other| match other {
            RegisterCall::Read(needed) | RegisterCall::Swap(needed, _) | RegisterCall::MaybeSwap(needed, _) => {
                made == needed
            }
            RegisterCall::Differs(from) => made != from,
            RegisterCall::Write(_) => false,
        })
    }

    fn describe(&self, state: &Value) -> String {
        state.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::operation, *};

    fn pair(from: i64, to: i64) -> Value {
        Value::List(vec![from.into(), to.into()])
    }

    fn after(state: Value, operation: &Operation) -> Option<Value> {
        let model = RegisterModel::default();
        model.step(&state, &model.call(operation).unwrap().unwrap())
    }

    #[test]
    fn a_read_shows_what_was_written() {
        let read = operation("read", Value::Nil, Outcome::Ok, 3.into());
        assert_eq!(after(3.into(), &read), Some(3.into()));
        assert_eq!(after(4.into(), &read), None);
        let nothing = operation("get", Value::Nil, Outcome::Ok, Value::Nil);
        assert_eq!(after(Value::Nil, &nothing), Some(Value::Nil));
        assert_eq!(after(3.into(), &nothing), None, "nil is an answer");
        assert_eq!(after(4.into(), &operation("delete", Value::Nil, Outcome::Ok, Value::Nil)), Some(Value::Nil));
    }

    #[test]
    fn a_swap_needs_what_it_compares_with_and_a_failed_one_needs_anything_else() {
        let swapped = operation("cas", pair(1, 2), Outcome::Ok, Value::Nil);
        assert_eq!((after(1.into(), &swapped), after(3.into(), &swapped)), (Some(2.into()), None));
        let differed = operation("cas", pair(1, 2), Outcome::Ok, Value::Bool(false));
        assert_eq!((after(1.into(), &differed), after(3.into(), &differed)), (None, Some(3.into())));
        let unknown = operation("cas", pair(1, 2), Outcome::Unknown, Value::Nil);
        assert_eq!((after(1.into(), &unknown), after(3.into(), &unknown)), (Some(2.into()), Some(3.into())));
    }

    #[test]
    fn what_failed_and_a_read_without_an_answer_say_nothing() {
        let model = RegisterModel::default();
        assert_eq!(model.call(&operation("write", 1.into(), Outcome::Fail, Value::Nil)), Ok(None));
        assert_eq!(model.call(&operation("read", Value::Nil, Outcome::Unknown, Value::Nil)), Ok(None));
        assert!(model.call(&operation("push", 1.into(), Outcome::Ok, Value::Nil)).unwrap_err().contains("\"push\""));
        assert!(model.call(&operation("cas", 1.into(), Outcome::Ok, Value::Nil)).unwrap_err().contains("[from to]"));
    }
}
