//! # Models: what one object does when operations happen one after another
//!
//! ```text
//!   operation ──call()──▶ call ──step(state)──▶ the next state, or "this cannot have happened here"
//! ```
//!
//! A model knows nothing of time, clients or keys: [`crate::check`] splits a history by key and searches for an order
//! that the model allows. A new model is a file with a type that implements [`Model`] and a row in the registry of
//! checks.
//!
//! **Invariant.** `step` is pure. A call of unknown outcome steps as if it had happened; whether it did is for the
//! search to decide.

mod counter;
mod kv;
mod register;
mod set;

pub use counter::{CounterModel, number_of, step_of};
pub use kv::KvModel;
pub use register::{RegisterCall, RegisterModel};
pub use set::{SetModel, elements};

use crate::history::{Operation, Value};
use std::hash::Hash;

/// A sequential object.
pub trait Model: Sync {
    /// What it holds.
    type State: Clone + Eq + Ord + Hash + Send + Sync;
    /// An operation, as far as it matters to the state.
    type Call: Clone + Send + Sync;

    /// What it holds before anything happened.
    fn initial(&self) -> Self::State;

    /// What an operation asks and was told. `None` says nothing about the state: a read without an answer, an operation
    /// that failed. Fails with a reason on what this object cannot do.
    fn call(&self, operation: &Operation) -> Result<Option<Self::Call>, String>;

    /// The state after the call; `None` if the call cannot have happened in this state.
    fn step(&self, state: &Self::State, call: &Self::Call) -> Option<Self::State>;

    /// Whether the call never changes the state.
    fn is_read(&self, call: &Self::Call) -> bool;

    /// Whether an optional `call` could help to explain one of `kept`. Saying yes is always right, no makes
    /// explanations short.
    fn may_explain(&self, _call: &Self::Call, _kept: &[Self::Call]) -> bool {
        true
    }

    /// About how much memory a state takes that a search remembers.
    fn state_bytes(&self, _state: &Self::State) -> u64 {
        128
    }

    /// A state for people.
    fn describe(&self, state: &Self::State) -> String;
}

/// Complains about an operation that an object does not have.
fn unknown_operation(operation: &Operation, known: &str) -> String {
    format!("line {}: operation: {:?} is none of {known}", operation.line, operation.name)
}

/// Complains about arguments or a result.
fn unfit(operation: &Operation, value: &Value, expected: &str) -> String {
    format!("line {}: value: {value} of {} is not {expected}", operation.line, operation.name)
}

#[cfg(test)]
pub(crate) mod testing {
    //! Operations for tests of models.

    use super::{Operation, Value};
    use crate::history::Outcome;

    pub fn operation(name: &str, argument: Value, outcome: Outcome, result: Value) -> Operation {
        Operation {
            id: 0,
            line: 1,
            process: 1,
            session: None,
            name: name.to_owned(),
            key: None,
            argument,
            level: None,
            invoked_ns: 1,
            ended_ns: Some(2),
            outcome,
            result,
            error: None,
            receipt: None,
        }
    }
}
