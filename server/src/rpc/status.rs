//! Errors for the wire: the one place where an error becomes a `tonic::Status`.
//!
//! ```text
//!   code       what a generic gRPC client understands
//!   message    one sentence for people
//!   details    google.rpc.ErrorInfo { domain "kvorum", reason, metadata }, what our client decides by:
//!                effect          none | unknown          may the write have happened?
//!                retry           never | elsewhere | later | same_request_id
//!                retry_after_ms  with `later`
//!                limit           the name of the limit that was met
//!                shard, leader, leader_address           where they apply
//! ```
//!
//! **Invariant.** Every status that leaves a handler says its effect; whoever finds a status without one takes it as
//! unknown.

use kvorum_api::{AdminError, Effect, ReadError, Refused, Retry, WriteError, error::LeaderHint};
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

    fn finish(mut self, message: String, effect: Effect, retry: Retry) -> Status {
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
        let metadata = self.metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let info = ErrorInfo { reason: self.reason.to_owned(), domain: DOMAIN.to_owned(), metadata };
        Status::with_error_details_vec(self.code, message, vec![info.into()])
    }
}

/// Refused at the door.
#[must_use]
pub fn refused(error: &Refused) -> Status {
    refused_shape(error).finish(error.to_string(), Effect::None, error.retry())
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

/// A write that was not acknowledged.
#[must_use]
pub fn write_error(error: &WriteError) -> Status {
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

/// A read that was not answered. Reads have no effect.
#[must_use]
pub fn read_error(error: &ReadError) -> Status {
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
    shape.finish(error.to_string(), error.effect(), error.retry())
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
    shape.finish(message, Effect::None, Retry::Never)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::{NodeId, ShardId};
    use std::time::Duration;

    fn info(status: &Status) -> (String, BTreeMap<String, String>) {
        let info = status.get_details_error_info().expect("every status carries an ErrorInfo");
        assert_eq!(info.domain, DOMAIN);
        (info.reason, info.metadata.into_iter().collect())
    }

    #[test]
    fn a_leader_hint_travels_with_not_leader() {
        let leader = Some(LeaderHint { node: NodeId(2), address: "127.0.0.1:7102".into() });
        let status = write_error(&WriteError::NotLeader { shard: ShardId(1), leader });
        assert_eq!(status.code(), Code::FailedPrecondition);
        let (reason, metadata) = info(&status);
        assert_eq!(reason, "NOT_LEADER");
        assert_eq!(metadata["effect"], "none");
        assert_eq!(metadata["retry"], "elsewhere");
        assert_eq!(metadata["leader"], "2");
        assert_eq!(metadata["leader_address"], "127.0.0.1:7102");
        assert_eq!(metadata["shard"], "1");
    }

    #[test]
    fn a_deadline_tells_its_true_effect() {
        for (effect, word, retry) in
            [(Effect::None, "none", "elsewhere"), (Effect::Unknown, "unknown", "same_request_id")]
        {
            let error = WriteError::DeadlineExceeded { shard: ShardId(1), deadline: Duration::from_secs(1), effect };
            let status = write_error(&error);
            assert_eq!(status.code(), Code::DeadlineExceeded);
            let (_, metadata) = info(&status);
            assert_eq!((metadata["effect"].as_str(), metadata["retry"].as_str()), (word, retry));
        }
    }

    #[test]
    fn a_limit_is_named_and_a_pause_is_given() {
        let over = Refused::OverLimit { field: "value", actual: 9, limit: "value_bytes_max", max: 8, fix: "split it" };
        let (reason, metadata) = info(&refused(&over));
        assert_eq!((reason.as_str(), metadata["limit"].as_str()), ("OVER_LIMIT", "value_bytes_max"));
        let busy = read_error(&ReadError::Refused(Refused::Overloaded { limit: "scans_max", max: 1 }));
        assert_eq!(busy.code(), Code::ResourceExhausted);
        let (_, metadata) = info(&busy);
        assert_eq!((metadata["retry"].as_str(), metadata["retry_after_ms"].as_str()), ("later", "50"));
    }
}
