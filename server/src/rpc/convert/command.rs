//! What is asked, checked against the keyspace's limits, in placement keys.

use super::{asked::AskedId, malformed};
use bytes::Bytes;
use kvorum_api::{Limits, Mode, ReadLevel, Refused, Sharding, capabilities, frame, limits};
use kvorum_consensus::metadata::KeyspaceRow;
use kvorum_storage::{Condition, Operation, RequestId, WriteCommand};

/// The placement key of a key.
///
/// # Errors
/// The key is empty or too long.
pub fn placement(key: &Bytes, limits: &Limits, sharding: Sharding) -> Result<Bytes, Refused> {
    match key.len() {
        0 => Err(Refused::KeyEmpty),
        actual if actual > limits.key_bytes_max => Err(Refused::OverLimit {
            field: "key",
            actual: actual as u64,
            limit: "key_bytes_max",
            max: limits.key_bytes_max as u64,
            fix: "use a shorter key, or move a part of it into the value",
        }),
        _ => Ok(sharding.placement_key(key)),
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

fn condition(condition: frame::Condition, limits: &Limits) -> Result<Condition, Refused> {
    Ok(match condition {
        frame::Condition::None => Condition::Always,
        frame::Condition::Absent => Condition::Absent,
        frame::Condition::Present => Condition::Present,
        frame::Condition::Version(version) => Condition::Version(version),
        frame::Condition::Value(wanted) => Condition::Value(value("condition.value", wanted, limits)?),
    })
}

fn operation(operation: frame::Operation, keyspace: &KeyspaceRow) -> Result<Operation, Refused> {
    let limits = &keyspace.limits;
    let key = placement(operation.key(), limits, keyspace.sharding)?;
    Ok(match operation {
        frame::Operation::Put { value: new, ttl_ms: ttl, condition: wanted, return_previous, .. } => Operation::Put {
            key,
            value: value("value", new, limits)?,
            ttl_ms: ttl_ms(ttl)?,
            condition: condition(wanted, limits)?,
            return_previous,
        },
        frame::Operation::Delete { condition: wanted, return_previous, .. } => {
            Operation::Delete { key, condition: condition(wanted, limits)?, return_previous }
        }
        frame::Operation::Increment { delta, return_previous, .. } => {
            Operation::Increment { key, delta, return_previous }
        }
    })
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

fn returns_previous(operation: &Operation) -> bool {
    match operation {
        Operation::Put { return_previous, .. } | Operation::Delete { return_previous, .. } => *return_previous,
        // A number is small.
        Operation::Increment { .. } => false,
    }
}

/// One operation.
///
/// # Errors
/// A field is malformed or over its limit.
pub fn single(id: Option<AskedId>, asked: frame::Operation, keyspace: &KeyspaceRow) -> Result<WriteCommand, Refused> {
    let request = id.map(request_id).transpose()?;
    Ok(WriteCommand { request, operations: vec![operation(asked, keyspace)?] })
}

/// Several operations that happen together or not at all.
///
/// # Errors
/// There are none or too many, or a field is malformed or over its limit.
pub fn batch(
    id: Option<AskedId>,
    asked: Vec<frame::Operation>,
    keyspace: &KeyspaceRow,
) -> Result<WriteCommand, Refused> {
    let limits = &keyspace.limits;
    if asked.is_empty() {
        return Err(malformed("operations", "is empty: a batch has at least one operation"));
    }
    if asked.len() > limits.batch_operations_max {
        return Err(Refused::OverLimit {
            field: "operations",
            actual: asked.len() as u64,
            limit: "batch_operations_max",
            max: limits.batch_operations_max as u64,
            fix: "send several batches",
        });
    }
    // A single operation is bounded by its own limits; its condition may hold a second value of the largest size.
    let is_alone = asked.len() == 1;
    let request = id.map(request_id).transpose()?;
    let operations = asked.into_iter().map(|one| operation(one, keyspace)).collect::<Result<Vec<_>, _>>()?;
    let bytes: usize = operations.iter().map(operation_bytes).sum();
    if !is_alone && bytes > limits.batch_bytes_max {
        return Err(Refused::OverLimit {
            field: "operations",
            actual: bytes as u64,
            limit: "batch_bytes_max",
            max: limits.batch_bytes_max as u64,
            fix: "send several batches",
        });
    }
    // What was there before is known only when it is too late to refuse.
    let asking = operations.iter().filter(|operation| returns_previous(operation)).count();
    if !is_alone && asking * limits.value_bytes_max > limits::BATCH_PREVIOUS_BYTES_MAX {
        return Err(Refused::OverLimit {
            field: "return_previous",
            actual: (asking * limits.value_bytes_max) as u64,
            limit: "batch_previous_bytes_max",
            max: limits::BATCH_PREVIOUS_BYTES_MAX as u64,
            fix: "ask for fewer previous values in one batch (each counts as keyspaces.value_bytes_max)",
        });
    }
    Ok(WriteCommand { request, operations })
}

fn request_id(id: AskedId) -> Result<RequestId, Refused> {
    if id.parts.sequence == 0 {
        return Err(malformed("request_id.sequence", "is 0: the first request of a client is number 1"));
    }
    if id.lowest_unanswered > id.parts.sequence {
        let problem = "is above request_id.sequence: this request itself is unanswered";
        return Err(malformed("request_id.lowest_unanswered", problem));
    }
    if id.parts.first_sent.0 == 0 {
        let problem = "is missing: write the client's stamp at the first attempt, which the handshake starts";
        return Err(malformed("request_id.first_sent", problem));
    }
    Ok(RequestId {
        client: id.client,
        sequence: id.parts.sequence,
        first_sent: id.parts.first_sent,
        lowest_unanswered: id.lowest_unanswered,
    })
}

/// The level of a read: the keyspace's own unless it names one.
///
/// # Errors
/// The keyspace's mode does not honour it, or it is a bound of nothing.
pub fn read_level(asked: Option<ReadLevel>, keyspace: &KeyspaceRow) -> Result<ReadLevel, Refused> {
    let Some(level) = asked else { return Ok(keyspace.read_level) };
    offered(level, keyspace.mode)?;
    match level {
        ReadLevel::Bounded(bound) if bound.is_zero() => {
            Err(malformed("level.staleness_ms_max", "is 0: write how old an answer may be, or ask for linearizable"))
        }
        level => Ok(level),
    }
}

/// Whether a mode serves a level.
///
/// # Errors
/// It does not; the refusal names those it does.
pub fn offered(level: ReadLevel, mode: Mode) -> Result<(), Refused> {
    match capabilities::offer_of_level(level, mode).is_served() {
        true => Ok(()),
        false => Err(Refused::LevelNotOffered { level, mode, offered: mode.levels() }),
    }
}
