//! Errors of the client. Each answers first: may the write have happened?
//!
//! ```text
//!   Refused      found wrong before anything was sent                Effect::None
//!   NotApplied   answered: a condition did not hold                  Effect::None, with a receipt
//!   Failed       no node could do it, within the deadline            Effect::None (proven), or asked for without an id
//!   Unknown      it may have happened: a handle that keeps the id    Effect::Unknown
//! ```

use crate::{
    failure::Failure,
    reply::{OperationResult, OperationStatus, Written},
    request_id::RequestId,
    unknown::UnknownWrite,
};
use kvorum_api::{Effect, Refused};
use std::fmt;
use thiserror::Error;

/// Why a call did not do what was asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Refused by this client: nothing was sent.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Answered and refused by the data: a condition did not hold, or a value was not a number. Nothing happened.
    #[error(transparent)]
    NotApplied(Box<NotApplied>),
    /// Not answered; of a write with a request id it is proven that it did not happen.
    #[error("{0}")]
    Failed(Box<Failure>),
    /// Not answered, and the write may have happened. The handle repeats it under its id; dropping the handle gives
    /// that up, and a copy still under way will be refused once this client writes again.
    #[error("{0}")]
    Unknown(Box<UnknownWrite>),
}

impl ClientError {
    /// Whether the write may have happened.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            ClientError::Refused(_) | ClientError::NotApplied(_) => Effect::None,
            ClientError::Failed(failure) => failure.effect,
            ClientError::Unknown(_) => Effect::Unknown,
        }
    }

    /// What the last node said, if it came to asking one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            ClientError::Refused(_) | ClientError::NotApplied(_) => None,
            ClientError::Failed(failure) => Some(failure),
            ClientError::Unknown(unknown) => Some(unknown.failure()),
        }
    }

    /// The id of a write whose outcome is unknown.
    #[must_use]
    pub fn request_id(&self) -> Option<RequestId> {
        match self {
            ClientError::Unknown(unknown) => Some(unknown.request_id()),
            ClientError::Refused(_) | ClientError::NotApplied(_) | ClientError::Failed(_) => None,
        }
    }

    /// What the data said, if a condition did not hold.
    #[must_use]
    pub fn not_applied(&self) -> Option<&NotApplied> {
        match self {
            ClientError::NotApplied(answer) => Some(answer),
            ClientError::Refused(_) | ClientError::Failed(_) | ClientError::Unknown(_) => None,
        }
    }
}

impl From<Failure> for ClientError {
    fn from(failure: Failure) -> Self {
        ClientError::Failed(Box::new(failure))
    }
}

/// The answer to a write that changed nothing, because of what is there. Atomic: not one operation of a batch happened.
#[derive(Clone, Debug, Error)]
pub struct NotApplied {
    /// The whole answer: the receipt, and one result per operation.
    pub answer: Written,
}

impl NotApplied {
    /// The first operation that stood in the way, and its place in the batch.
    #[must_use]
    pub fn first(&self) -> Option<(usize, &OperationResult)> {
        let in_the_way = |status| !matches!(status, OperationStatus::Applied | OperationStatus::Skipped);
        self.answer.results.iter().enumerate().find(|(_, result)| in_the_way(result.status))
    }
}

impl fmt::Display for NotApplied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((place, result)) = self.first() else { return f.write_str("not applied") };
        if self.answer.results.len() > 1 {
            write!(f, "operation {}: ", place + 1)?;
        }
        let what = match result.status {
            OperationStatus::ConditionFailed => "condition failed",
            OperationStatus::NotANumber => "the value is not a decimal 64-bit signed integer",
            OperationStatus::Overflow => "the sum does not fit a 64-bit signed integer",
            OperationStatus::Applied | OperationStatus::Skipped => "not applied",
        };
        match &result.previous {
            Some(entry) => write!(f, "{what}: the key holds version {}", entry.version),
            None if result.status == OperationStatus::ConditionFailed => write!(f, "{what}: the key is absent"),
            None => f.write_str(what),
        }
    }
}
