//! Proto ↔ domain: the only place where one becomes the other. Pure.
//!
//! **Invariant.** What leaves here towards the hall is within its limits and means exactly one thing; what does not is
//! refused with the name of the field.

use crate::router::Keyspace;
use bytes::Bytes;
use kvorum_api::{
    Limits, LogPosition, ReadLevel, Receipt, Refused, Stamp, Version, WriteError,
    ids::{Actor, NodeId, StartCount},
    limits,
    proto::{self, condition, operation, read_level::Kind},
};
use kvorum_storage::{
    Condition, Entry, Operation, OperationResult, Outcome, RequestId, WriteCommand,
    command::{ExpiredBecause, OperationStatus, Previous},
    shard::{Row, ScanRange},
};
use std::time::Duration;

fn malformed(field: &'static str, problem: impl Into<String>) -> Refused {
    Refused::Malformed { field, problem: problem.into() }
}

/// Checks a key.
///
/// # Errors
/// It is empty or too long.
pub fn key(key: Bytes, limits: &Limits) -> Result<Bytes, Refused> {
    match key.len() {
        0 => Err(Refused::KeyEmpty),
        actual if actual > limits.key_bytes_max => Err(Refused::OverLimit {
            field: "key",
            actual: actual as u64,
            limit: "key_bytes_max",
            max: limits.key_bytes_max as u64,
            fix: "use a shorter key, or move a part of it into the value",
        }),
        _ => Ok(key),
    }
}

fn value(field: &'static str, value: Bytes, limits: &Limits) -> Result<Bytes, Refused> {
    if value.len() > limits.value_bytes_max {
        return Err(Refused::OverLimit {
            field,
            actual: value.len() as u64,
            limit: "value_bytes_max",
            max: limits.value_bytes_max as u64,
            fix: "split the value, or raise keyspaces.value_bytes_max",
        });
    }
    Ok(value)
}

fn ttl_ms(ttl_ms: Option<u64>) -> Result<Option<u64>, Refused> {
    match ttl_ms {
        Some(0) => Err(malformed("ttl_ms", "is 0: leave it out for an entry that stays, or write at least 1")),
        Some(actual) if actual > limits::TTL_MS_MAX => Err(Refused::OverLimit {
            field: "ttl_ms",
            actual,
            limit: "ttl_ms_max",
            max: limits::TTL_MS_MAX,
            fix: "leave it out for an entry that stays",
        }),
        other => Ok(other),
    }
}

fn condition(condition: Option<proto::Condition>, limits: &Limits) -> Result<Condition, Refused> {
    let Some(condition) = condition else { return Ok(Condition::Always) };
    match condition.kind {
        None => Err(malformed("condition", "has no kind: leave it out, or say absent, present, version or value")),
        Some(condition::Kind::Absent(_)) => Ok(Condition::Absent),
        Some(condition::Kind::Present(_)) => Ok(Condition::Present),
        Some(condition::Kind::Version(wanted)) => Ok(Condition::Version(version(&wanted))),
        Some(condition::Kind::Value(wanted)) => Ok(Condition::Value(value("condition.value", wanted, limits)?)),
    }
}

fn operation(operation: proto::Operation, limits: &Limits) -> Result<Operation, Refused> {
    match operation.kind {
        None => Err(malformed("operations", "has an operation without a kind: say put, delete or increment")),
        Some(operation::Kind::Put(put)) => Ok(Operation::Put {
            key: key(put.key, limits)?,
            value: value("value", put.value, limits)?,
            ttl_ms: ttl_ms(put.ttl_ms)?,
            condition: condition(put.condition, limits)?,
            return_previous: put.return_previous,
        }),
        Some(operation::Kind::Delete(delete)) => Ok(Operation::Delete {
            key: key(delete.key, limits)?,
            condition: condition(delete.condition, limits)?,
            return_previous: delete.return_previous,
        }),
        Some(operation::Kind::Increment(increment)) => Ok(Operation::Increment {
            key: key(increment.key, limits)?,
            delta: increment.delta,
            return_previous: increment.return_previous,
        }),
    }
}

/// The key of an operation.
#[must_use]
pub fn operation_key(operation: &Operation) -> &Bytes {
    match operation {
        Operation::Put { key, .. } | Operation::Delete { key, .. } | Operation::Increment { key, .. } => key,
    }
}

fn operation_bytes(operation: &Operation) -> usize {
    let wanted = |condition: &Condition| match condition {
        Condition::Value(value) => value.len(),
        Condition::Always | Condition::Absent | Condition::Present | Condition::Version(_) => 0,
    };
    match operation {
        Operation::Put { key, value, condition, .. } => key.len() + value.len() + wanted(condition),
        Operation::Delete { key, condition, .. } => key.len() + wanted(condition),
        Operation::Increment { key, .. } => key.len(),
    }
}

/// A write: one operation, or a batch of them.
///
/// # Errors
/// A field is malformed or over its limit.
pub fn write_command(
    request: Option<proto::RequestId>,
    operations: Vec<proto::Operation>,
    limits: &Limits,
) -> Result<WriteCommand, Refused> {
    if operations.is_empty() {
        return Err(malformed("operations", "is empty: a batch has at least one operation"));
    }
    if operations.len() > limits.batch_operations_max {
        return Err(Refused::OverLimit {
            field: "operations",
            actual: operations.len() as u64,
            limit: "batch_operations_max",
            max: limits.batch_operations_max as u64,
            fix: "send several batches",
        });
    }
    let is_batch = operations.len() > 1;
    let request = request.map(request_id).transpose()?;
    let operations = operations.into_iter().map(|one| operation(one, limits)).collect::<Result<Vec<_>, _>>()?;
    let bytes: usize = operations.iter().map(operation_bytes).sum();
    // A single operation is bounded by its own limits; its condition may hold a second value of the largest size.
    if is_batch && bytes > limits.batch_bytes_max {
        return Err(Refused::OverLimit {
            field: "operations",
            actual: bytes as u64,
            limit: "batch_bytes_max",
            max: limits.batch_bytes_max as u64,
            fix: "send several batches",
        });
    }
    Ok(WriteCommand { request, operations })
}

fn request_id(id: proto::RequestId) -> Result<RequestId, Refused> {
    let client: [u8; limits::REQUEST_CLIENT_BYTES] = id.client.as_ref().try_into().map_err(|_| {
        let problem = format!("has {} bytes: write exactly {}", id.client.len(), limits::REQUEST_CLIENT_BYTES);
        malformed("request_id.client", problem)
    })?;
    if id.sequence == 0 {
        return Err(malformed("request_id.sequence", "is 0: the first request of a client is number 1"));
    }
    if id.lowest_unanswered > id.sequence {
        let problem = "is above request_id.sequence: this request itself is unanswered";
        return Err(malformed("request_id.lowest_unanswered", problem));
    }
    if id.first_sent == 0 {
        let problem = "is missing: write the client's stamp at the first attempt, which the handshake starts";
        return Err(malformed("request_id.first_sent", problem));
    }
    Ok(RequestId {
        client: u128::from_be_bytes(client),
        sequence: id.sequence,
        first_sent: Stamp(id.first_sent),
        lowest_unanswered: id.lowest_unanswered,
    })
}

/// The level of a read: the keyspace's own unless the request names one.
///
/// # Errors
/// The keyspace's mode cannot honour it, or it is none.
pub fn read_level(level: Option<proto::ReadLevel>, keyspace: &Keyspace) -> Result<ReadLevel, Refused> {
    let level = level.unwrap_or_default();
    let kind = Kind::try_from(level.kind)
        .map_err(|_| malformed("level.kind", format!("is {}, which this build does not know", level.kind)))?;
    let refuse = |level| Err(Refused::LevelNotOffered { level, mode: keyspace.mode, offered: "linearizable or local" });
    match kind {
        Kind::Default => Ok(keyspace.read_level),
        Kind::Linearizable => Ok(ReadLevel::Linearizable),
        Kind::Local => Ok(ReadLevel::Local),
        Kind::Session => refuse(ReadLevel::Session),
        Kind::Bounded => refuse(ReadLevel::Bounded(Duration::from_millis(level.staleness_ms_max.into()))),
        Kind::One => refuse(ReadLevel::One),
        Kind::Quorum => refuse(ReadLevel::Quorum),
        Kind::All => refuse(ReadLevel::All),
    }
}

/// The range of a scan.
///
/// # Errors
/// A bound is too long, or the range is upside down.
pub fn scan_range(request: &proto::ScanRequest, limits: &Limits) -> Result<ScanRange, Refused> {
    for (field, bound) in [("start", &request.start), ("end", &request.end)] {
        // One byte more than a key may have: the first bound after the longest key.
        if bound.len() > limits.key_bytes_max + 1 {
            return Err(Refused::OverLimit {
                field,
                actual: bound.len() as u64,
                limit: "key_bytes_max",
                max: limits.key_bytes_max as u64,
                fix: "no key is longer, so no bound needs to be",
            });
        }
    }
    if !request.end.is_empty() && request.start > request.end {
        return Err(malformed("end", "is below start: swap them, and say reverse to walk downwards"));
    }
    Ok(ScanRange {
        start: request.start.clone(),
        end: (!request.end.is_empty()).then(|| request.end.clone()),
        reverse: request.reverse,
        keys_only: request.keys_only,
    })
}

fn version(version: &proto::Version) -> Version {
    let actor = Actor { node: NodeId(version.node), start: StartCount(version.start) };
    Version { stamp: Stamp(version.stamp), actor }
}

/// A version for the wire.
#[must_use]
pub fn version_out(version: Version) -> proto::Version {
    proto::Version { stamp: version.stamp.0, node: version.actor.node.0, start: version.actor.start.0 }
}

fn position_out(position: LogPosition) -> proto::Position {
    proto::Position { term: position.term, index: position.index }
}

/// A receipt for the wire. A write has no level, a read no acknowledgement.
#[must_use]
pub fn receipt_out(receipt: &Receipt) -> proto::Receipt {
    proto::Receipt {
        mode: receipt.mode.to_string(),
        level: receipt.level.map(|level| level.to_string()).unwrap_or_default(),
        ack: if receipt.level.is_none() { "majority".to_owned() } else { String::new() },
        shard: receipt.shard.0,
        epoch: receipt.epoch,
        version: receipt.version.map(version_out),
        position: Some(position_out(receipt.position)),
        staleness_ms: receipt.staleness.map(|staleness| staleness.as_millis() as u64),
        session_token: Bytes::new(),
        durable_replicas: receipt.durable_replicas,
        stamp: receipt.stamp.0,
        node: receipt.node.0,
        incarnation: receipt.incarnation,
    }
}

/// An entry for the wire; a tombstone has no value and never leaves a CP shard.
#[must_use]
pub fn entry_out(key: Bytes, entry: Entry) -> proto::Entry {
    proto::Entry {
        key,
        value: entry.value.unwrap_or_default(),
        version: Some(version_out(entry.version)),
        expires_ms: entry.expires_ms,
    }
}

/// A row of a scan for the wire.
#[must_use]
pub fn row_out(row: Row) -> proto::Entry {
    entry_out(row.key, row.entry)
}

/// What came of a write; `keys` are those of its operations, in order.
///
/// # Errors
/// `RequestIdExpired`.
pub fn write_reply(outcome: Outcome, receipt: &Receipt, keys: Vec<Bytes>) -> Result<proto::WriteReply, WriteError> {
    match outcome {
        Outcome::Written { applied, repeated, results } => Ok(proto::WriteReply {
            receipt: Some(receipt_out(receipt)),
            applied,
            results: keys.into_iter().zip(results).map(|(key, result)| result_out(key, result)).collect(),
            repeated_request: repeated,
        }),
        Outcome::RequestIdExpired { why } => Err(WriteError::RequestIdExpired { why: expired_because(why).to_owned() }),
        Outcome::Expired { .. }
        | Outcome::Configured
        | Outcome::OutOfRange { .. }
        | Outcome::ConfigureRefused { .. } => {
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

fn result_out(key: Bytes, result: OperationResult) -> proto::OperationResult {
    use proto::operation_result::Status;
    let status = match result.status {
        OperationStatus::Applied => Status::Applied,
        OperationStatus::ConditionFailed => Status::ConditionFailed,
        OperationStatus::NotANumber => Status::NotANumber,
        OperationStatus::Overflow => Status::Overflow,
        OperationStatus::Skipped => Status::Skipped,
    };
    let (previous, previous_forgotten) = match result.previous {
        Previous::NotAsked | Previous::Absent => (None, false),
        Previous::Found(entry) => (Some(entry_out(key, entry)), false),
        Previous::Forgotten(version) => {
            let known = proto::Entry { key, version: Some(version_out(version)), ..proto::Entry::default() };
            (Some(known), true)
        }
    };
    proto::OperationResult {
        status: status.into(),
        previous,
        number: result.number,
        version: result.version.map(version_out),
        previous_forgotten,
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
