//! The handle of a write that may have happened.

use crate::{call::WriteCall, error::ClientError, failure::Failure, reply::Written, request_id::RequestId};
use kvorum_api::Effect;
use std::{fmt, time::Duration};

/// A write whose outcome is not known: it may have happened, and may still happen as long as this handle lives.
///
/// [`UnknownWrite::retry`] asks again under the same id: it is applied at most once, and if it had been, its first
/// outcome is answered. Dropping the handle gives the write up: the next write of this client tells the shard to
/// refuse any copy that is still under way.
///
/// Holding it for long holds back writes to its shard: a shard remembers a bounded number of outcomes of one client, so
/// after 768 writes of this client to the shard (one that is not answered counts from its first sending) the next ones
/// wait until this one is settled or dropped, and are refused with the limit `outcomes_ahead_max` at their deadline.
pub struct UnknownWrite {
    call: WriteCall,
    id: RequestId,
    failure: Failure,
    timeout: Duration,
}

impl UnknownWrite {
    pub(crate) fn new(call: WriteCall, id: RequestId, failure: Failure, timeout: Duration) -> Self {
        UnknownWrite { call, id, failure, timeout }
    }

    /// The id it was sent under: enough for another process to repeat the write by hand.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.id
    }

    /// What left it in doubt.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Asks again under the same id, as long as the first call was allowed to take.
    ///
    /// # Errors
    /// As the write itself; without an answer the outcome is still unknown, whatever the new attempts ran into.
    pub async fn retry(self) -> Result<Written, ClientError> {
        let timeout = self.timeout;
        self.retry_within(timeout).await
    }

    /// Asks again under the same id, for at most `within`.
    ///
    /// # Errors
    /// As [`UnknownWrite::retry`].
    pub async fn retry_within(self, within: Duration) -> Result<Written, ClientError> {
        match self.call.send_until(within).await {
            Ok(outcome) => outcome,
            Err(lost) => {
                let failure = Failure { effect: Effect::Unknown, ..lost.failure };
                Err(ClientError::Unknown(Box::new(UnknownWrite { failure, timeout: within, ..self })))
            }
        }
    }
}

impl fmt::Display for UnknownWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outcome unknown: {}; request id {}", self.failure, self.id)
    }
}

impl fmt::Debug for UnknownWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnknownWrite").field("id", &self.id).field("failure", &self.failure).finish_non_exhaustive()
    }
}
