//! The words of a frame into protobuf, for unary calls and scans.

use bytes::Bytes;
use kvorum_api::{
    LogPosition, Sharding, Version,
    frame::{Delivered, Entry, OperationResult, OperationStatus, Previous},
    proto,
};
use kvorum_storage::shard::Row;

/// A version.
#[must_use]
pub fn version(version: Version) -> proto::Version {
    proto::Version { stamp: version.stamp.0, node: version.actor.node.0, start: version.actor.start.0 }
}

fn position(position: LogPosition) -> proto::Position {
    proto::Position { term: position.term, index: position.index }
}

/// A receipt, with the token of what was seen by it. A write has no level, a read no acknowledgement.
#[must_use]
pub fn receipt(delivered: &Delivered) -> proto::Receipt {
    let receipt = &delivered.receipt;
    proto::Receipt {
        mode: receipt.mode.to_string(),
        level: receipt.level.map(|level| level.to_string()).unwrap_or_default(),
        ack: if receipt.level.is_none() { "majority".to_owned() } else { String::new() },
        shard: receipt.shard.0,
        epoch: receipt.epoch,
        version: receipt.version.map(version),
        position: Some(position(receipt.position)),
        // Rounded up: what is answered is no older than this.
        staleness_ms: receipt.staleness.map(|staleness| staleness.as_nanos().div_ceil(1_000_000) as u64),
        session_token: delivered.session_token().encode(),
        durable_replicas: receipt.durable_replicas,
        stamp: receipt.stamp.0,
        node: receipt.node.0,
        incarnation: receipt.incarnation,
    }
}

/// An entry under its key.
#[must_use]
pub fn entry(key: Bytes, entry: Entry) -> proto::Entry {
    proto::Entry { key, value: entry.value, version: Some(version(entry.version)), expires_ms: entry.expires_ms }
}

/// A row of a scan, under its key.
#[must_use]
pub fn row(row: Row, sharding: Sharding) -> proto::Entry {
    proto::Entry {
        key: sharding.key(&row.key),
        value: row.entry.value.unwrap_or_default(),
        version: Some(version(row.entry.version)),
        expires_ms: row.entry.expires_ms,
    }
}

/// What came of the operation on a key.
#[must_use]
pub fn result(key: Bytes, result: OperationResult) -> proto::OperationResult {
    use proto::operation_result::Status;
    let status = match result.status {
        OperationStatus::Applied => Status::Applied,
        OperationStatus::ConditionFailed => Status::ConditionFailed,
        OperationStatus::NotANumber => Status::NotANumber,
        OperationStatus::Overflow => Status::Overflow,
        OperationStatus::Skipped => Status::Skipped,
    };
    let (previous, previous_forgotten) = match result.previous {
        Previous::None => (None, false),
        Previous::Found(found) => (Some(entry(key, found)), false),
        Previous::Forgotten(seen) => {
            (Some(proto::Entry { key, version: Some(version(seen)), ..proto::Entry::default() }), true)
        }
    };
    proto::OperationResult {
        status: status.into(),
        previous,
        number: result.number,
        version: result.version.map(version),
        previous_forgotten,
    }
}
