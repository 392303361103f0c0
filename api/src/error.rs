//! Errors that answer "did it happen?".
//!
//! ```text
//!   Refused      nothing was tried            Effect::None
//!   WriteError   Refused, or tried and lost   Effect::None only where it is proven
//!   ReadError    reads have no effect
//! ```
//!
//! **Invariant.** `Effect::None` is a proof that the write did not and will not happen. When in doubt: `Unknown`.

use crate::{
    ids::{NodeId, ShardId},
    level::{Mode, ReadLevel},
    version::LogPosition,
};
use std::time::Duration;
use thiserror::Error;

/// Whether a failed write may have happened, or may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It did not happen and never will.
    None,
    /// It may have happened, or may still.
    Unknown,
}

/// What the caller should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Asking again will not help: the request itself is at fault.
    Never,
    /// Ask the leader it names, or any other node, at once.
    Elsewhere,
    /// Ask again after a pause.
    Later(Duration),
    /// The outcome is unknown: repeat only under the same request id.
    SameRequestId,
}

/// Where a leader can be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// Its node.
    pub node: NodeId,
    /// Its client address, `host:port`.
    pub address: String,
}

/// Refused at the door: nothing was tried.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// A request that cannot be understood; `field` says where.
    #[error("{field}: {problem}")]
    Malformed {
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it and how to fix it.
        problem: String,
    },
    /// Something is larger than its limit.
    #[error("{field} has {actual}, the limit {limit} is {max}: {fix}")]
    OverLimit {
        /// The field at fault.
        field: &'static str,
        /// Its size.
        actual: u64,
        /// The name of the limit.
        limit: &'static str,
        /// The limit.
        max: u64,
        /// What to do about it.
        fix: &'static str,
    },
    /// A key of no bytes.
    #[error("key is empty: a key has 1 to {max} bytes", max = crate::limits::KEY_BYTES_MAX)]
    KeyEmpty,
    /// No keyspace of that name.
    #[error("unknown keyspace {name:?}: this cluster has {known}")]
    UnknownKeyspace {
        /// What was asked for.
        name: String,
        /// What there is, for people.
        known: String,
    },
    /// The mode of the keyspace cannot honour the level.
    #[error("level {level} is not offered by a {mode} keyspace: use {offered}")]
    LevelNotOffered {
        /// What was asked for.
        level: ReadLevel,
        /// The keyspace's mode.
        mode: Mode,
        /// What the mode offers, for people.
        offered: &'static str,
    },
    /// More bytes or calls in flight than the node admits.
    #[error("node is at its limit {limit} of {max}: try again later")]
    Overloaded {
        /// The name of the limit.
        limit: &'static str,
        /// The limit.
        max: u64,
    },
    /// The node is stopping.
    #[error("node is draining: ask another node")]
    Draining,
    /// A stamp too far ahead of this node's clock.
    #[error(
        "stamp is {ahead_ms} ms ahead of this node's clock, the limit max_clock_offset is {max_ms} ms: send the highest stamp a server gave you"
    )]
    StampAhead {
        /// How far.
        ahead_ms: u64,
        /// The limit.
        max_ms: u64,
    },
}

/// Why a write was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WriteError {
    /// Refused at the door.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// This replica does not lead the shard; checked before proposing.
    #[error("node does not lead shard {shard}{}", hint_text(.leader.as_ref()))]
    NotLeader {
        /// The shard.
        shard: ShardId,
        /// Who leads, if this replica knows.
        leader: Option<LeaderHint>,
    },
    /// This replica leads but cannot reach a majority, or not yet; checked before proposing.
    #[error("shard {shard} has no leader with a majority: {why}")]
    NoQuorum {
        /// The shard.
        shard: ShardId,
        /// What is missing.
        why: String,
    },
    /// Below the low-water mark of free disk space.
    #[error("disk_full: {why}")]
    DiskFull {
        /// Which node, how much is left.
        why: String,
    },
    /// The node's clock is off: it neither leads nor coordinates.
    #[error("clock_suspect: {why}")]
    ClockSuspect {
        /// By how much.
        why: String,
    },
    /// After a failed write or sync the node promises nothing any more.
    #[error("node is poisoned: {why}")]
    Poisoned {
        /// The first failure.
        why: String,
        /// Whether this write had been handed over before the node was known to be poisoned.
        effect: Effect,
    },
    /// The request id is too old, or below what the shard remembers.
    #[error("request_id_expired: {why}")]
    RequestIdExpired {
        /// What is too old.
        why: String,
    },
    /// The shard is being rebuilt on this node.
    #[error("shard {shard} is installing a snapshot on this node")]
    Installing {
        /// The shard.
        shard: ShardId,
    },
    /// The key lies outside the shard's range, or the asker knows an older epoch of the shard.
    #[error("stale_epoch: shard {shard} is at epoch {epoch}: {why}")]
    StaleEpoch {
        /// The shard.
        shard: ShardId,
        /// Its epoch.
        epoch: u64,
        /// What does not fit.
        why: String,
    },
    /// Handed over, and no answer in time.
    #[error("no outcome for shard {shard} within the deadline of {deadline:?}")]
    DeadlineExceeded {
        /// The shard.
        shard: ShardId,
        /// The caller's deadline.
        deadline: Duration,
        /// Whether it had been proposed.
        effect: Effect,
    },
    /// Handed over, and the leader lost its office meanwhile.
    #[error("shard {shard} changed leaders while the write was under way: {why}")]
    LeadershipLost {
        /// The shard.
        shard: ShardId,
        /// What openraft said.
        why: String,
    },
    /// The replica stopped while the write was under way.
    #[error("shard {shard} stopped on this node: {why}")]
    Stopped {
        /// The shard.
        shard: ShardId,
        /// Why.
        why: String,
        /// Whether it had been proposed.
        effect: Effect,
    },
}

impl WriteError {
    /// Whether the write may have happened.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            WriteError::Refused(_)
            | WriteError::NotLeader { .. }
            | WriteError::NoQuorum { .. }
            | WriteError::DiskFull { .. }
            | WriteError::ClockSuspect { .. }
            | WriteError::StaleEpoch { .. }
            | WriteError::Installing { .. } => Effect::None,
            WriteError::Poisoned { effect, .. }
            | WriteError::DeadlineExceeded { effect, .. }
            | WriteError::Stopped { effect, .. } => *effect,
            // The id may name a write that did happen, long ago.
            WriteError::RequestIdExpired { .. } | WriteError::LeadershipLost { .. } => Effect::Unknown,
        }
    }

    /// What the caller should do next.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            WriteError::Refused(refused) => refused.retry(),
            WriteError::RequestIdExpired { .. } => Retry::Never,
            WriteError::NotLeader { .. }
            | WriteError::ClockSuspect { .. }
            | WriteError::StaleEpoch { .. }
            | WriteError::Installing { .. } => Retry::Elsewhere,
            WriteError::NoQuorum { .. } => Retry::Later(Duration::from_millis(100)),
            WriteError::DiskFull { .. } => Retry::Later(Duration::from_secs(1)),
            WriteError::Poisoned { effect, .. }
            | WriteError::DeadlineExceeded { effect, .. }
            | WriteError::Stopped { effect, .. } => match effect {
                Effect::None => Retry::Elsewhere,
                Effect::Unknown => Retry::SameRequestId,
            },
            WriteError::LeadershipLost { .. } => Retry::SameRequestId,
        }
    }
}

/// Why a read was not answered. Reads have no effect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// Refused at the door.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// This replica does not lead the shard and the level needs the leader.
    #[error("node does not lead shard {shard}{}", hint_text(.leader.as_ref()))]
    NotLeader {
        /// The shard.
        shard: ShardId,
        /// Who leads, if this replica knows.
        leader: Option<LeaderHint>,
    },
    /// The level could not be proven: no majority answered.
    #[error("shard {shard} cannot prove the level: {why}")]
    NoQuorum {
        /// The shard.
        shard: ShardId,
        /// What is missing.
        why: String,
    },
    /// The shard is being rebuilt on this node.
    #[error("shard {shard} is installing a snapshot on this node")]
    Installing {
        /// The shard.
        shard: ShardId,
    },
    /// No answer in time.
    #[error("no answer from shard {shard} within the deadline of {deadline:?}")]
    DeadlineExceeded {
        /// The shard.
        shard: ShardId,
        /// The caller's deadline.
        deadline: Duration,
    },
    /// The node's clock is off: it does not lead.
    #[error("clock_suspect: {why}")]
    ClockSuspect {
        /// By how much.
        why: String,
    },
    /// The key lies outside the shard's range, or the asker knows an older epoch of the shard.
    #[error("stale_epoch: shard {shard} is at epoch {epoch}: {why}")]
    StaleEpoch {
        /// The shard.
        shard: ShardId,
        /// Its epoch.
        epoch: u64,
        /// What does not fit.
        why: String,
    },
    /// This replica has not applied what the session token covers.
    #[error("session_not_met: shard {shard} on this node is at {at}, the session has seen {wanted}")]
    SessionNotMet {
        /// The shard.
        shard: ShardId,
        /// Where the replica stands.
        at: LogPosition,
        /// What the token asks for.
        wanted: LogPosition,
        /// Who surely has it.
        leader: Option<LeaderHint>,
    },
    /// The asked staleness could not be proven.
    #[error("staleness of shard {shard} within {bound:?} cannot be proven: {why}")]
    TooStale {
        /// The shard.
        shard: ShardId,
        /// What was asked.
        bound: Duration,
        /// What is missing.
        why: String,
        /// Who surely is fresh.
        leader: Option<LeaderHint>,
    },
    /// The bytes could not be read.
    #[error("storage of shard {shard} cannot be read: {why}")]
    Storage {
        /// The shard.
        shard: ShardId,
        /// What the engine said.
        why: String,
    },
    /// The replica stopped.
    #[error("shard {shard} stopped on this node: {why}")]
    Stopped {
        /// The shard.
        shard: ShardId,
        /// Why.
        why: String,
    },
}

impl ReadError {
    /// What the caller should do next.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            ReadError::Refused(refused) => refused.retry(),
            ReadError::NotLeader { .. }
            | ReadError::StaleEpoch { .. }
            | ReadError::SessionNotMet { .. }
            | ReadError::TooStale { .. }
            | ReadError::Installing { .. }
            | ReadError::ClockSuspect { .. }
            | ReadError::Storage { .. }
            | ReadError::Stopped { .. } => Retry::Elsewhere,
            ReadError::NoQuorum { .. } | ReadError::DeadlineExceeded { .. } => Retry::Later(Duration::from_millis(100)),
        }
    }
}

/// Why a change of the cluster (a keyspace, a node) was not made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdminError {
    /// Refused at the door.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The wish itself cannot be: `field` says where, the sentence what works.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it and how to fix it.
        problem: String,
    },
    /// There is one of that name already.
    #[error("{what} already exists")]
    Exists {
        /// What.
        what: String,
    },
    /// There is none of that name.
    #[error("there is no {what}")]
    NotFound {
        /// What.
        what: String,
    },
    /// A joining node does not know the cluster's key.
    #[error("the proof does not fit the cluster's key: start the node with the key file of a node that is in")]
    WrongKey,
    /// The metadata has no leader with a majority, or the answer got lost.
    #[error("the metadata cannot decide now: {why}")]
    Unavailable {
        /// What is missing.
        why: String,
        /// Whether the change may have been made.
        effect: Effect,
    },
}

impl AdminError {
    /// Whether the change may have been made.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            AdminError::Unavailable { effect, .. } => *effect,
            AdminError::Refused(_)
            | AdminError::Invalid { .. }
            | AdminError::Exists { .. }
            | AdminError::NotFound { .. }
            | AdminError::WrongKey => Effect::None,
        }
    }

    /// What the caller should do next.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            AdminError::Refused(refused) => refused.retry(),
            AdminError::Unavailable { effect: Effect::None, .. } => Retry::Later(Duration::from_millis(250)),
            // Every change is made at most once by name, so asking for it again is safe; the answer may differ.
            AdminError::Unavailable { effect: Effect::Unknown, .. } => Retry::SameRequestId,
            AdminError::Invalid { .. }
            | AdminError::Exists { .. }
            | AdminError::NotFound { .. }
            | AdminError::WrongKey => Retry::Never,
        }
    }
}

impl Refused {
    /// What the caller should do next.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Refused::Malformed { .. }
            | Refused::OverLimit { .. }
            | Refused::KeyEmpty
            | Refused::UnknownKeyspace { .. }
            | Refused::LevelNotOffered { .. }
            | Refused::StampAhead { .. } => Retry::Never,
            Refused::Overloaded { .. } => Retry::Later(Duration::from_millis(50)),
            Refused::Draining => Retry::Elsewhere,
        }
    }
}

fn hint_text(leader: Option<&LeaderHint>) -> String {
    match leader {
        Some(hint) => format!(", node {} at {} does", hint.node, hint.address),
        None => ", and knows no leader".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_checked_before_proposing_has_no_effect() {
        let error = WriteError::NotLeader { shard: ShardId(1), leader: None };
        assert_eq!(error.effect(), Effect::None);
        assert_eq!(error.retry(), Retry::Elsewhere);
        assert_eq!(error.to_string(), "node does not lead shard 1, and knows no leader");
    }

    #[test]
    fn what_was_lost_on_the_way_is_unknown() {
        let error = WriteError::LeadershipLost { shard: ShardId(1), why: "x".into() };
        assert_eq!(error.effect(), Effect::Unknown);
        assert_eq!(error.retry(), Retry::SameRequestId);
    }
}
