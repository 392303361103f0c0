//! The one place where openraft's type parameters are chosen.
//!
//! **Invariant.** openraft's node id is our replica id, its log id is (term, index) as in the Raft paper, and all its
//! chance comes from a seed: two runs with one seed behave alike.

use bytes::Bytes;
use kvorum_api::{LogPosition, NodeId};
use kvorum_storage::Outcome;
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use std::fmt;

/// tokio with seeded chance. Everything that makes openraft spawn must run inside [`Runtime::scope`].
pub type Runtime = DeterministicRng<TokioRuntime>;

/// A member of a group, as its membership entry names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The node that holds the replica.
    pub node: NodeId,
}

/// A proposal as it stands in the log: encoded once, shared by journal, cache and socket.
///
/// The bytes are the whole payload of the log record, so that nothing is copied to put it there.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    pub(crate) bytes: Bytes,
    /// On whose behalf it is proposed (W3C trace context, empty = nobody's). No part of the log.
    pub(crate) trace: Bytes,
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl fmt::Display for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying one entry answered: one outcome per command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// In the order of the commands.
    pub outcomes: Vec<Outcome>,
}

openraft::declare_raft_types!(
    /// Kvorum's choice of openraft's types.
    pub Types:
        D = Encoded,
        R = Answer,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = Runtime,
);

/// The name of a log entry.
pub type LogId = openraft::alias::LogIdOf<Types>;
/// Who was voted for, in which term, and whether a majority did.
pub type Vote = openraft::alias::VoteOf<Types>;
/// An entry of the log.
pub type Entry = openraft::alias::EntryOf<Types>;
/// What an entry does.
pub type Payload = openraft::alias::PayloadOf<Types>;
/// Who takes part.
pub type Membership = openraft::Membership<u64, Member>;
/// Who takes part, and which entry said so.
pub type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
/// What a snapshot is of.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
/// A group's figures.
pub type Metrics = openraft::RaftMetrics<Types>;

/// The position under which a shard knows a log entry.
#[must_use]
pub fn position(log_id: &LogId) -> LogPosition {
    LogPosition { term: log_id.leader_id.term, index: log_id.index }
}

/// The reverse of [`position`].
#[must_use]
pub fn log_id(position: LogPosition) -> LogId {
    LogId::new_term_index(position.term, position.index)
}
