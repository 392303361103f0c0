//! Errors for the wire: the one place where an error becomes a `frame::Failure`, and that a `tonic::Status`.
//!
//! ```text
//!   error ──▶ Failure ─┬─ stream: an answer of its own
//!                      └─ unary: Status
//!   code       what a generic gRPC client understands
//!   message    one sentence for people
//!   details    google.rpc.ErrorInfo { domain "kvorum", reason, metadata }, what our client decides by:
//!                effect          none | unknown          may the write have happened?
//!                retry           never | elsewhere | later | same_request_id
//!                retry_after_ms  with `later`
//!                limit           the name of the limit that was met
//!                shard, epoch, leader, leader_address    where they apply
//!                shard_entry     with stale_epoch: the map's row, a `kv.v1.Shard` in base64
//! ```
//!
//! Every reason is described in `docs/errors.md`.
//!
//! **Invariant.** Every status that leaves a handler says its effect; whoever finds a status without one takes it as
//! unknown.

use crate::router::Hall;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use kvorum_api::{
    AdminError, Effect, ReadError, Refused, Retry, ShardId, WriteError,
    error::LeaderHint,
    frame::{Failure, FrameUnreadable},
};
use prost::Message as _;
use std::collections::BTreeMap;
use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt as _};

/// Domain of every `ErrorInfo`.
pub const DOMAIN: &str = "kvorum";

/// What goes into a status besides its sentence.
struct Shape {
    code: Code,
    reason: &'static str,
    metadata: BTreeMap<&'static str, String>,
}

impl Shape {
    fn new(code: Code, reason: &'static str) -> Self {
        Shape { code, reason, metadata: BTreeMap::new() }
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.metadata.insert(name, value.to_string());
        self
    }

    fn with_leader(self, leader: Option<&LeaderHint>) -> Self {
        match leader {
            Some(hint) => self.with("leader", hint.node).with("leader_address", &hint.address),
            None => self,
        }
    }

    fn finish(mut self, message: String, effect: Effect, retry: Retry) -> Failure {
        let effect = match effect {
            Effect::None => "none",
            Effect::Unknown => "unknown",
        };
        self.metadata.insert("effect", effect.to_owned());
        let word = match retry {
            Retry::Never => "never",
            Retry::Elsewhere => "elsewhere",
            Retry::Later(pause) => {
                self.metadata.insert("retry_after_ms", pause.as_millis().to_string());
                "later"
            }
            Retry::SameRequestId => "same_request_id",
        };
        self.metadata.insert("retry", word.to_owned());
        Failure {
            code: self.code as i32 as u8,
            reason: self.reason.to_owned(),
            message,
            metadata: self.metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }
}

/// A failure as the status of a unary call, or of a whole stream.
#[must_use]
pub fn of(failure: Failure) -> Status {
    let metadata = failure.metadata.into_iter().collect();
    let info = ErrorInfo { reason: failure.reason, domain: DOMAIN.to_owned(), metadata };
    let code = Code::from_i32(failure.code.into());
    Status::with_error_details_vec(code, failure.message, vec![info.into()])
}

/// What the map says about a shard, for an asker whose map is older (rule C3).
fn shard_entry(hall: &Hall, shard: ShardId) -> Option<String> {
    let route = hall.route_to(shard)?;
    Some(BASE64.encode(super::describe::shard(hall, route).encode_to_vec()))
}

/// A write that was not acknowledged, with the map's row where the asker's is older.
#[must_use]
pub fn write_failure(error: &WriteError, hall: Option<&Hall>) -> Failure {
    let mut failure = of_write(error);
    if let (WriteError::StaleEpoch { shard, .. }, Some(hall)) = (error, hall) {
        failure.metadata.extend(shard_entry(hall, *shard).map(|entry| ("shard_entry".to_owned(), entry)));
    }
    failure
}

/// A read that was not answered, with the map's row where the asker's is older.
#[must_use]
pub fn read_failure(error: &ReadError, hall: Option<&Hall>) -> Failure {
    let mut failure = of_read(error);
    if let (ReadError::StaleEpoch { shard, .. }, Some(hall)) = (error, hall) {
        failure.metadata.extend(shard_entry(hall, *shard).map(|entry| ("shard_entry".to_owned(), entry)));
    }
    failure
}

/// Refused before its shard was known.
#[must_use]
pub fn refusal(error: &Refused) -> Failure {
    refused_shape(error).finish(error.to_string(), Effect::None, error.retry())
}

/// A write that was not acknowledged.
#[must_use]
pub fn write_error(error: &WriteError) -> Status {
    of(of_write(error))
}

/// A read that was not answered. Reads have no effect.
#[must_use]
pub fn read_error(error: &ReadError) -> Status {
    of(of_read(error))
}

/// Refused at the door.
#[must_use]
pub fn refused(error: &Refused) -> Status {
    of(refusal(error))
}

fn refused_shape(error: &Refused) -> Shape {
    match error {
        Refused::Malformed { field, .. } => Shape::new(Code::InvalidArgument, "MALFORMED").with("field", field),
        Refused::OverLimit { field, limit, max, .. } => {
            let shape = Shape::new(Code::InvalidArgument, "OVER_LIMIT").with("field", field);
            shape.with("limit", limit).with("limit_max", max)
        }
        Refused::KeyEmpty => Shape::new(Code::InvalidArgument, "KEY_EMPTY").with("field", "key"),
        Refused::UnknownKeyspace { .. } => Shape::new(Code::NotFound, "UNKNOWN_KEYSPACE"),
        Refused::LevelNotOffered { .. } => {
            Shape::new(Code::InvalidArgument, "LEVEL_NOT_OFFERED").with("field", "level")
        }
        Refused::Overloaded { limit, max } => {
            Shape::new(Code::ResourceExhausted, "OVERLOADED").with("limit", limit).with("limit_max", max)
        }
        Refused::Draining => Shape::new(Code::Unavailable, "DRAINING"),
        Refused::StampAhead { max_ms, .. } => {
            let shape = Shape::new(Code::InvalidArgument, "STAMP_AHEAD").with("field", "stamp");
            shape.with("limit", "max_clock_offset").with("limit_max", max_ms)
        }
    }
}

fn of_write(error: &WriteError) -> Failure {
    let shape = match error {
        WriteError::Refused(refused) => refused_shape(refused),
        WriteError::NotLeader { shard, leader } => {
            Shape::new(Code::FailedPrecondition, "NOT_LEADER").with("shard", shard).with_leader(leader.as_ref())
        }
        WriteError::NoQuorum { shard, .. } => Shape::new(Code::Unavailable, "NO_QUORUM").with("shard", shard),
        WriteError::DiskFull { .. } => Shape::new(Code::ResourceExhausted, "DISK_FULL").with("limit", "low_water"),
        WriteError::ClockSuspect { .. } => {
            Shape::new(Code::Unavailable, "CLOCK_SUSPECT").with("limit", "max_clock_offset")
        }
        WriteError::Poisoned { .. } => Shape::new(Code::Unavailable, "POISONED"),
        WriteError::RequestIdExpired { .. } => Shape::new(Code::FailedPrecondition, "REQUEST_ID_EXPIRED"),
        WriteError::Installing { shard } => Shape::new(Code::Unavailable, "INSTALLING").with("shard", shard),
        WriteError::DeadlineExceeded { shard, .. } => {
            Shape::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED").with("shard", shard)
        }
        WriteError::StaleEpoch { shard, epoch, .. } => {
            Shape::new(Code::FailedPrecondition, "STALE_EPOCH").with("shard", shard).with("epoch", epoch)
        }
        WriteError::LeadershipLost { shard, .. } => Shape::new(Code::Aborted, "LEADERSHIP_LOST").with("shard", shard),
        WriteError::Stopped { shard, .. } => Shape::new(Code::Unavailable, "STOPPED").with("shard", shard),
    };
    shape.finish(error.to_string(), error.effect(), error.retry())
}

fn of_read(error: &ReadError) -> Failure {
    let shape = match error {
        ReadError::Refused(refused) => refused_shape(refused),
        ReadError::NotLeader { shard, leader } => {
            Shape::new(Code::FailedPrecondition, "NOT_LEADER").with("shard", shard).with_leader(leader.as_ref())
        }
        ReadError::NoQuorum { shard, .. } => Shape::new(Code::Unavailable, "NO_QUORUM").with("shard", shard),
        ReadError::Installing { shard } => Shape::new(Code::Unavailable, "INSTALLING").with("shard", shard),
        ReadError::DeadlineExceeded { shard, .. } => {
            Shape::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED").with("shard", shard)
        }
        ReadError::ClockSuspect { .. } => {
            Shape::new(Code::Unavailable, "CLOCK_SUSPECT").with("limit", "max_clock_offset")
        }
        ReadError::StaleEpoch { shard, epoch, .. } => {
            Shape::new(Code::FailedPrecondition, "STALE_EPOCH").with("shard", shard).with("epoch", epoch)
        }
        ReadError::SessionNotMet { shard, leader, .. } => {
            Shape::new(Code::FailedPrecondition, "SESSION_NOT_MET").with("shard", shard).with_leader(leader.as_ref())
        }
        ReadError::TooStale { shard, leader, .. } => {
            Shape::new(Code::FailedPrecondition, "TOO_STALE").with("shard", shard).with_leader(leader.as_ref())
        }
        ReadError::Storage { shard, .. } => Shape::new(Code::Internal, "STORAGE").with("shard", shard),
        ReadError::Stopped { shard, .. } => Shape::new(Code::Unavailable, "STOPPED").with("shard", shard),
    };
    shape.finish(error.to_string(), Effect::None, error.retry())
}

/// A change of the cluster that was not made.
#[must_use]
pub fn admin_error(error: &AdminError) -> Status {
    let shape = match error {
        AdminError::Refused(refused) => refused_shape(refused),
        AdminError::Invalid { field, .. } => Shape::new(Code::InvalidArgument, "INVALID").with("field", field),
        AdminError::Exists { .. } => Shape::new(Code::AlreadyExists, "EXISTS"),
        AdminError::NotFound { .. } => Shape::new(Code::NotFound, "NOT_FOUND"),
        AdminError::WrongKey => Shape::new(Code::PermissionDenied, "WRONG_KEY").with("field", "proof"),
        AdminError::Unavailable { .. } => Shape::new(Code::Unavailable, "METADATA_UNAVAILABLE"),
    };
    of(shape.finish(error.to_string(), error.effect(), error.retry()))
}

/// What tonic refused before a handler saw it: no protobuf, or a message beyond the decode limit.
#[must_use]
pub fn undecodable(status: &Status) -> Status {
    let shape = match status.code() {
        Code::OutOfRange => Shape::new(Code::InvalidArgument, "OVER_LIMIT")
            .with("field", "request")
            .with("limit", "request_bytes_max")
            .with("limit_max", super::REQUEST_BYTES_MAX),
        _ => Shape::new(Code::InvalidArgument, "MALFORMED").with("field", "request"),
    };
    let message = match status.code() {
        Code::OutOfRange => format!("request is over the limit request_bytes_max: {}", status.message()),
        _ => format!("request: no message of this method: {}", status.message()),
    };
    of(shape.finish(message, Effect::None, Retry::Never))
}

/// Bytes within a stream that are no frame: everything before them was answered, nothing from them on was tried.
#[must_use]
pub fn unreadable_frame(error: &FrameUnreadable) -> Status {
    let shape = Shape::new(Code::InvalidArgument, "MALFORMED").with("field", "frame");
    of(shape.finish(error.to_string(), Effect::None, Retry::Never))
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
