//! Protobuf into the words of a frame: shapes only, limits are checked afterwards.

use super::malformed;
use kvorum_api::{
    Actor, NodeId, ReadLevel, Refused, Stamp, StartCount, Version,
    frame::{Condition, Operation, RequestParts},
    limits,
    proto::{self, condition, operation, read_level::Kind},
};
use std::time::Duration;

/// A whole request id: the parts a call says itself, and those its frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedId {
    /// Who asks.
    pub client: u128,
    /// Below it nothing is waited for.
    pub lowest_unanswered: u64,
    /// The call's own parts.
    pub parts: RequestParts,
}

/// A request id.
///
/// # Errors
/// The client part has another length.
pub fn request_id(id: &proto::RequestId) -> Result<AskedId, Refused> {
    let client: [u8; limits::REQUEST_CLIENT_BYTES] = id.client.as_ref().try_into().map_err(|_| {
        let problem = format!("has {} bytes: write exactly {}", id.client.len(), limits::REQUEST_CLIENT_BYTES);
        malformed("request_id.client", problem)
    })?;
    Ok(AskedId {
        client: u128::from_be_bytes(client),
        lowest_unanswered: id.lowest_unanswered,
        parts: RequestParts { sequence: id.sequence, first_sent: Stamp(id.first_sent) },
    })
}

/// An operation.
///
/// # Errors
/// It, or its condition, has no kind.
pub fn operation(operation: proto::Operation) -> Result<Operation, Refused> {
    match operation.kind {
        None => Err(malformed("operations", "has an operation without a kind: say put, delete or increment")),
        Some(operation::Kind::Put(put)) => Ok(Operation::Put {
            key: put.key,
            value: put.value,
            ttl_ms: put.ttl_ms,
            condition: condition(put.condition)?,
            return_previous: put.return_previous,
        }),
        Some(operation::Kind::Delete(delete)) => Ok(Operation::Delete {
            key: delete.key,
            condition: condition(delete.condition)?,
            return_previous: delete.return_previous,
        }),
        Some(operation::Kind::Increment(increment)) => Ok(Operation::Increment {
            key: increment.key,
            delta: increment.delta,
            return_previous: increment.return_previous,
        }),
    }
}

fn condition(condition: Option<proto::Condition>) -> Result<Condition, Refused> {
    let Some(condition) = condition else { return Ok(Condition::None) };
    match condition.kind {
        None => Err(malformed("condition", "has no kind: leave it out, or say absent, present, version or value")),
        Some(condition::Kind::Absent(_)) => Ok(Condition::Absent),
        Some(condition::Kind::Present(_)) => Ok(Condition::Present),
        Some(condition::Kind::Version(wanted)) => Ok(Condition::Version(version(&wanted))),
        Some(condition::Kind::Value(wanted)) => Ok(Condition::Value(wanted)),
    }
}

/// A version.
#[must_use]
pub fn version(version: &proto::Version) -> Version {
    let actor = Actor { node: NodeId(version.node), start: StartCount(version.start) };
    Version { stamp: Stamp(version.stamp), actor }
}

/// A level; `None` = the keyspace's own.
///
/// # Errors
/// It is none.
pub fn read_level(level: Option<proto::ReadLevel>) -> Result<Option<ReadLevel>, Refused> {
    let level = level.unwrap_or_default();
    let kind = Kind::try_from(level.kind)
        .map_err(|_| malformed("level.kind", format!("is {}, which this build does not know", level.kind)))?;
    Ok(Some(match kind {
        Kind::Default => return Ok(None),
        Kind::Linearizable => ReadLevel::Linearizable,
        Kind::Session => ReadLevel::Session,
        Kind::Bounded => ReadLevel::Bounded(Duration::from_millis(level.staleness_ms_max.into())),
        Kind::Local => ReadLevel::Local,
        Kind::One => ReadLevel::One,
        Kind::Quorum => ReadLevel::Quorum,
        Kind::All => ReadLevel::All,
    }))
}
