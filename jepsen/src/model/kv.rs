//! A text under a key: `get` (`read`), `put` (`write`), `append`, `delete`. A key that was never written holds the
//! empty text, and a read that was told nil saw it.
//!
//! **Deliberately absent.** Several keys in one state: keys are independent, so each is judged by itself.

use super::{Model, unfit, unknown_operation};
use crate::history::{Operation, Outcome, Value};

/// A text that grows.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvModel;

/// What happens to the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvCall {
    /// It was this.
    Get(String),
    /// It is this.
    Put(String),
    /// It has this at its end.
    Append(String),
}

fn text(operation: &Operation, value: &Value) -> Result<String, String> {
    match value {
        Value::Nil => Ok(String::new()),
        Value::Text(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Map(_) => Err(unfit(operation, value, "a text")),
    }
}

impl Model for KvModel {
    type State = String;
    type Call = KvCall;

    fn initial(&self) -> String {
        String::new()
    }

    fn call(&self, operation: &Operation) -> Result<Option<KvCall>, String> {
        if operation.outcome == Outcome::Fail {
            return Ok(None);
        }
        Ok(match operation.name.as_str() {
            "get" | "read" if operation.outcome == Outcome::Unknown => None,
            "get" | "read" => Some(KvCall::Get(text(operation, &operation.result)?)),
            "put" | "write" => Some(KvCall::Put(text(operation, &operation.argument)?)),
            "append" => Some(KvCall::Append(text(operation, &operation.argument)?)),
            "delete" => Some(KvCall::Put(String::new())),
            _ => return Err(unknown_operation(operation, "get, read, put, write, append, delete")),
        })
    }

    fn step(&self, state: &String, call: &KvCall) -> Option<String> {
        match call {
            KvCall::Get(value) => (state == value).then(|| state.clone()),
            KvCall::Put(value) => Some(value.clone()),
            KvCall::Append(value) => Some(format!("{state}{value}")),
        }
    }

    fn is_read(&self, call: &KvCall) -> bool {
        matches!(call, KvCall::Get(_))
    }

    fn may_explain(&self, call: &KvCall, kept: &[KvCall]) -> bool {
        let (KvCall::Put(made) | KvCall::Append(made)) = call else { return false };
        kept.iter().any(|other| matches!(other, KvCall::Get(seen) if seen.contains(made.as_str())))
    }

    fn state_bytes(&self, state: &String) -> u64 {
        128 + 2 * state.len() as u64
    }

    fn describe(&self, state: &String) -> String {
        format!("{state:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::operation, *};

    #[test]
    fn texts_grow_and_are_read_whole() {
        let step = |state: &str, operation: &Operation| {
            KvModel.step(&state.to_owned(), &KvModel.call(operation).unwrap().unwrap())
        };
        let append = operation("append", "b".into(), Outcome::Ok, Value::Nil);
        assert_eq!(step("a", &append).as_deref(), Some("ab"));
        assert_eq!(step("a", &operation("put", "b".into(), Outcome::Unknown, Value::Nil)).as_deref(), Some("b"));
        assert_eq!(step("a", &operation("delete", Value::Nil, Outcome::Ok, Value::Nil)).as_deref(), Some(""));
        let get = operation("get", Value::Nil, Outcome::Ok, "ab".into());
        assert_eq!((step("ab", &get).as_deref(), step("a", &get)), (Some("ab"), None));
        assert_eq!(step("", &operation("get", Value::Nil, Outcome::Ok, Value::Nil)).as_deref(), Some(""));
        assert!(KvModel.call(&operation("put", 1.into(), Outcome::Ok, Value::Nil)).unwrap_err().contains("not a text"));
    }
}
