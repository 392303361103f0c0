//! Who takes part in a group, by what one replica has applied: for whoever compares that with the map.
//!
//! **Invariant.** Says what is, decides nothing.

use super::codec::raft::decode_stored_membership;
use kvorum_api::ReplicaId;
use kvorum_storage::shard::ShardState;
use std::collections::BTreeSet;

/// The members of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The voters: one set, or two while they change; none before the group is founded.
    pub voters: Vec<BTreeSet<ReplicaId>>,
    /// Who gets the log and has no vote.
    pub learners: BTreeSet<ReplicaId>,
}

impl Members {
    /// Those that a replica has applied last; `None` = they cannot be read.
    #[must_use]
    pub fn applied(state: &ShardState) -> Option<Self> {
        let stored = decode_stored_membership(state.applied.membership.clone()).ok()?;
        let membership = stored.membership();
        let set = |ids: &BTreeSet<u64>| ids.iter().copied().map(ReplicaId).collect();
        Some(Members {
            voters: membership.get_joint_config().iter().map(set).collect(),
            learners: membership.learner_ids().map(ReplicaId).collect(),
        })
    }
}
