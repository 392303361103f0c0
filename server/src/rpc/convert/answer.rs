//! What a shard decided, in the words of a frame.

use kvorum_api::{
    Receipt, ShardId, WriteError,
    frame::{self, Delivered},
};
use kvorum_consensus::{Written, replicator::Found};
use kvorum_storage::{
    Entry, OperationResult, Outcome,
    command::{ExpiredBecause, OperationStatus, Previous},
};

/// What came of a read.
#[must_use]
pub fn found(found: Found, keyspace: kvorum_api::KeyspaceId) -> frame::Outcome {
    frame::Outcome::Found { delivered: Delivered { keyspace, receipt: found.receipt }, entry: found.entry.map(entry) }
}

/// What came of a write.
///
/// # Errors
/// It was not tried: its request id is too old, or a key is not the shard's.
pub fn written(written: Written, keyspace: kvorum_api::KeyspaceId) -> Result<frame::Outcome, WriteError> {
    let Written { outcome, receipt } = written;
    match outcome {
        Outcome::Written { applied, repeated, results } => Ok(frame::Outcome::Written {
            results: results.into_iter().map(result).collect(),
            applied,
            repeated,
            delivered: Delivered { keyspace, receipt },
        }),
        other => Err(untried(other, receipt.shard)),
    }
}

fn untried(outcome: Outcome, shard: ShardId) -> WriteError {
    match outcome {
        Outcome::RequestIdExpired { why } => WriteError::RequestIdExpired { why: expired_because(why).to_owned() },
        Outcome::OutOfRange { epoch } => {
            WriteError::StaleEpoch { shard, epoch, why: "a key lies outside the shard's range".to_owned() }
        }
        Outcome::Written { .. } | Outcome::Expired { .. } | Outcome::Configured | Outcome::ConfigureRefused { .. } => {
            unreachable!("apply answers a client's write with its outcome")
        }
    }
}

fn expired_because(why: ExpiredBecause) -> &'static str {
    match why {
        ExpiredBecause::TooOld => "it was first sent too long ago for its outcome to be remembered",
        ExpiredBecause::BelowFloor => "it is below what the shard remembers of this client",
    }
}

/// A tombstone has no value and never leaves a CP shard.
fn entry(entry: Entry) -> frame::Entry {
    frame::Entry { value: entry.value.unwrap_or_default(), version: entry.version, expires_ms: entry.expires_ms }
}

fn result(result: OperationResult) -> frame::OperationResult {
    frame::OperationResult {
        status: match result.status {
            OperationStatus::Applied => frame::OperationStatus::Applied,
            OperationStatus::ConditionFailed => frame::OperationStatus::ConditionFailed,
            OperationStatus::NotANumber => frame::OperationStatus::NotANumber,
            OperationStatus::Overflow => frame::OperationStatus::Overflow,
            OperationStatus::Skipped => frame::OperationStatus::Skipped,
        },
        previous: match result.previous {
            Previous::NotAsked | Previous::Absent => frame::Previous::None,
            Previous::Found(found) => frame::Previous::Found(entry(found)),
            Previous::Forgotten(version) => frame::Previous::Forgotten(version),
        },
        number: result.number,
        version: result.version,
    }
}

/// A receipt of a keyspace.
#[must_use]
pub fn delivered(receipt: &Receipt, keyspace: kvorum_api::KeyspaceId) -> Delivered {
    Delivered { keyspace, receipt: receipt.clone() }
}
