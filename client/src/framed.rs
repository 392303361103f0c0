//! Operations and answers, between what a caller holds and what rides in a frame.
//!
//! **Invariant.** A frame carries no keys back: an entry that was there before takes its key from the operation that
//! asked.

use crate::reply::{Entry, OperationResult, OperationStatus};
use bytes::Bytes;
use kvorum_api::{Actor, NodeId, Stamp, StartCount, Version, frame, proto};
use proto::{condition::Kind as ConditionKind, operation::Kind};

/// An operation as a frame carries it. `None`: one that says nothing.
pub(crate) fn operation(operation: &proto::Operation) -> Option<frame::Operation> {
    Some(match operation.kind.as_ref()? {
        Kind::Put(put) => self::put(put),
        Kind::Delete(delete) => self::delete(delete),
        Kind::Increment(increment) => self::increment(increment),
    })
}

pub(crate) fn put(put: &proto::Put) -> frame::Operation {
    frame::Operation::Put {
        key: put.key.clone(),
        value: put.value.clone(),
        ttl_ms: put.ttl_ms,
        condition: condition(put.condition.as_ref()),
        return_previous: put.return_previous,
    }
}

pub(crate) fn delete(delete: &proto::Delete) -> frame::Operation {
    frame::Operation::Delete {
        key: delete.key.clone(),
        condition: condition(delete.condition.as_ref()),
        return_previous: delete.return_previous,
    }
}

pub(crate) fn increment(increment: &proto::Increment) -> frame::Operation {
    frame::Operation::Increment {
        key: increment.key.clone(),
        delta: increment.delta,
        return_previous: increment.return_previous,
    }
}

fn condition(condition: Option<&proto::Condition>) -> frame::Condition {
    match condition.and_then(|condition| condition.kind.as_ref()) {
        None => frame::Condition::None,
        Some(ConditionKind::Absent(_)) => frame::Condition::Absent,
        Some(ConditionKind::Present(_)) => frame::Condition::Present,
        Some(ConditionKind::Value(value)) => frame::Condition::Value(value.clone()),
        Some(ConditionKind::Version(version)) => frame::Condition::Version(Version {
            stamp: Stamp(version.stamp),
            actor: Actor { node: NodeId(version.node), start: StartCount(version.start) },
        }),
    }
}

/// What is stored under `key`.
pub(crate) fn entry(key: &Bytes, entry: frame::Entry) -> Entry {
    Entry { key: key.clone(), value: entry.value, version: entry.version, expires_ms: entry.expires_ms }
}

/// What the operation on `key` did.
pub(crate) fn result(key: &Bytes, result: frame::OperationResult) -> OperationResult {
    let status = match result.status {
        frame::OperationStatus::Applied => OperationStatus::Applied,
        frame::OperationStatus::ConditionFailed => OperationStatus::ConditionFailed,
        frame::OperationStatus::NotANumber => OperationStatus::NotANumber,
        frame::OperationStatus::Overflow => OperationStatus::Overflow,
        frame::OperationStatus::Skipped => OperationStatus::Skipped,
    };
    let (previous, previous_forgotten) = match result.previous {
        frame::Previous::None => (None, false),
        frame::Previous::Found(there) => (Some(entry(key, there)), false),
        frame::Previous::Forgotten(_) => (None, true),
    };
    OperationResult { status, previous, number: result.number, version: result.version, previous_forgotten }
}
