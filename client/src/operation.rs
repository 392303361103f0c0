//! The operations a write is made of, and the conditions on them.

use crate::into_bytes::IntoBytes;
use bytes::Bytes;
use kvorum_api::{Refused, Version, limits, proto};
use std::time::Duration;

/// What must hold for an operation to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key is not there.
    Absent,
    /// The key is there.
    Present,
    /// The entry has exactly this version.
    Version(Version),
    /// The entry has exactly this value.
    Value(Bytes),
}

impl Condition {
    fn into_proto(self) -> proto::Condition {
        use proto::condition::{Absent, Kind, Present};
        let kind = match self {
            Condition::Absent => Kind::Absent(Absent {}),
            Condition::Present => Kind::Present(Present {}),
            Condition::Version(version) => Kind::Version(proto::Version {
                stamp: version.stamp.0,
                node: version.actor.node.0,
                start: version.actor.start.0,
            }),
            Condition::Value(value) => Kind::Value(value),
        };
        proto::Condition { kind: Some(kind) }
    }
}

/// Stores a value.
#[derive(Clone, Debug)]
pub struct Put(pub(crate) proto::Put);

/// Removes a key. Removing what is not there succeeds.
#[derive(Clone, Debug)]
pub struct Delete(pub(crate) proto::Delete);

/// Adds to a decimal 64-bit signed integer; an absent key counts from 0.
#[derive(Clone, Debug)]
pub struct Increment(pub(crate) proto::Increment);

impl Put {
    /// Stores `value` under `key`.
    pub fn new(key: impl IntoBytes, value: impl IntoBytes) -> Self {
        Put(proto::Put { key: key.into_bytes(), value: value.into_bytes(), ..proto::Put::default() })
    }

    /// The entry lives at least this long. Shorter than a millisecond counts as one.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl_ms = Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        self
    }

    /// Only if `condition` holds.
    #[must_use]
    pub fn condition(mut self, condition: Condition) -> Self {
        self.0.condition = Some(condition.into_proto());
        self
    }

    /// Answers what was there before.
    #[must_use]
    pub fn return_previous(mut self) -> Self {
        self.0.return_previous = true;
        self
    }
}

impl Delete {
    /// Removes `key`.
    pub fn new(key: impl IntoBytes) -> Self {
        Delete(proto::Delete { key: key.into_bytes(), ..proto::Delete::default() })
    }

    /// Only if `condition` holds.
    #[must_use]
    pub fn condition(mut self, condition: Condition) -> Self {
        self.0.condition = Some(condition.into_proto());
        self
    }

    /// Answers what was there before.
    #[must_use]
    pub fn return_previous(mut self) -> Self {
        self.0.return_previous = true;
        self
    }
}

impl Increment {
    /// Adds `delta` to the number under `key`.
    pub fn new(key: impl IntoBytes, delta: i64) -> Self {
        Increment(proto::Increment { key: key.into_bytes(), delta, ..proto::Increment::default() })
    }

    /// Answers what was there before.
    #[must_use]
    pub fn return_previous(mut self) -> Self {
        self.0.return_previous = true;
        self
    }
}

/// One operation of an atomic batch.
#[derive(Clone, Debug)]
pub struct Operation(pub(crate) proto::Operation);

impl From<Put> for Operation {
    fn from(put: Put) -> Self {
        Operation(proto::Operation { kind: Some(proto::operation::Kind::Put(put.0)) })
    }
}

impl From<Delete> for Operation {
    fn from(delete: Delete) -> Self {
        Operation(proto::Operation { kind: Some(proto::operation::Kind::Delete(delete.0)) })
    }
}

impl From<Increment> for Operation {
    fn from(increment: Increment) -> Self {
        Operation(proto::Operation { kind: Some(proto::operation::Kind::Increment(increment.0)) })
    }
}

/// The limits that hold for every keyspace; what a keyspace limits further, its servers say.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Refused> {
    match key.len() {
        0 => Err(Refused::KeyEmpty),
        length if length > limits::KEY_BYTES_MAX => Err(Refused::OverLimit {
            field: "key",
            actual: length as u64,
            limit: "key_bytes_max",
            max: limits::KEY_BYTES_MAX as u64,
            fix: "use a shorter key",
        }),
        _ => Ok(()),
    }
}

/// See [`check_key`].
pub(crate) fn check_value(value: &[u8]) -> Result<(), Refused> {
    if value.len() <= limits::VALUE_BYTES_CEILING {
        return Ok(());
    }
    Err(Refused::OverLimit {
        field: "value",
        actual: value.len() as u64,
        limit: "value_bytes_ceiling",
        max: limits::VALUE_BYTES_CEILING as u64,
        fix: "split the value",
    })
}
