//! Changing who takes part in a group, one step at a time; which step is decided elsewhere (`groups/steps`).
//!
//! **Invariant.** A change is proposed only by a leader, and is over when it is committed; one that is given up in its
//! middle is found in the membership, and finished by whoever leads then.

use super::{
    codec::raft::decode_stored_membership,
    group::Group,
    types::{LogId, Member},
};
use crate::groups::steps::Facts;
use kvorum_api::{NodeId, ReplicaId};
use kvorum_storage::Shard;
use std::{collections::BTreeSet, time::Duration};
use tokio::time::timeout;

impl Group {
    /// What this leader sees of the membership, and how far `learner` is behind.
    pub(crate) fn membership_facts(&self, learner: Option<ReplicaId>) -> Option<Facts> {
        let me = self.core.replica;
        self.core.look(|metrics| {
            let stored = &metrics.membership_config;
            let membership = stored.membership();
            let set = |ids: &BTreeSet<u64>| ids.iter().copied().map(ReplicaId).collect();
            let last = metrics.last_log_index.unwrap_or(0);
            let matched = |replica: ReplicaId| {
                let matched = metrics.replication.as_ref()?.get(&replica.0).copied().flatten()?;
                Some(last.saturating_sub(LogId::index(&matched)))
            };
            Facts {
                me,
                voters: membership.get_joint_config().iter().map(set).collect(),
                learners: membership.learner_ids().map(ReplicaId).collect(),
                is_committed: stored
                    .log_id()
                    .as_ref()
                    .is_some_and(|changed| Some(*changed) <= metrics.cluster_committed),
                lag: learner.and_then(matched),
            }
        })
    }

    /// Whether anybody comes or goes now, by Raft's own account.
    pub(crate) fn is_changing(&self) -> bool {
        self.membership_facts(None).is_none_or(|facts| facts.voters.len() != 1 || !facts.learners.is_empty())
    }

    /// Whether it leads while its voters change: whoever began that may be gone.
    pub(crate) fn is_joint(&self) -> bool {
        self.is_leading() && self.membership_facts(None).is_some_and(|facts| facts.voters.len() > 1)
    }

    /// Whether Raft's newest membership names that replica on that node.
    pub(crate) fn has_member(&self, (replica, node): (ReplicaId, NodeId)) -> bool {
        let named = self.core.look(|metrics| {
            metrics.membership_config.membership().get_node(&replica.0).is_some_and(|member| member.node == node)
        });
        named == Some(true)
    }

    /// Has a replica get the log, without a vote.
    ///
    /// # Errors
    /// Why not; it may have been done all the same.
    pub(crate) async fn add_learner(
        &self,
        (replica, node): (ReplicaId, NodeId),
        patience: Duration,
    ) -> Result<(), String> {
        let member = Member { node };
        let added = self.ask(move |raft| async move { text(raft.add_learner(replica.0, member, false).await) });
        in_time(timeout(patience, added).await)
    }

    /// Has these vote, and nobody else: a joint configuration first, then theirs alone.
    ///
    /// # Errors
    /// As [`Group::add_learner`].
    pub(crate) async fn change_voters(&self, voters: &BTreeSet<ReplicaId>, patience: Duration) -> Result<(), String> {
        let voters: BTreeSet<u64> = voters.iter().map(|voter| voter.0).collect();
        let changed = self.ask(move |raft| async move { text(raft.change_membership(voters, false).await) });
        in_time(timeout(patience, changed).await)
    }

    /// Has a learner get the log no more.
    ///
    /// # Errors
    /// As [`Group::add_learner`].
    pub(crate) async fn remove_learner(&self, learner: ReplicaId, patience: Duration) -> Result<(), String> {
        let gone = openraft::ChangeMembers::RemoveNodes(BTreeSet::from([learner.0]));
        let removed = self.ask(move |raft| async move { text(raft.change_membership(gone, false).await) });
        in_time(timeout(patience, removed).await)
    }
}

fn text<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

/// What was asked, if it was answered in time; it may be done later all the same.
fn in_time(asked: Result<Result<Result<(), String>, String>, tokio::time::error::Elapsed>) -> Result<(), String> {
    match asked {
        Ok(answered) => answered.flatten(),
        Err(_) => Err("it was not agreed on in time".to_owned()),
    }
}

/// Whether the newest membership that is applied names that replica on that node: what a closed group knows.
pub(crate) fn applied_names(shard: &Shard, (replica, node): (ReplicaId, NodeId)) -> bool {
    let membership = shard.state().applied.membership.clone();
    let Ok(stored) = decode_stored_membership(membership) else { return false };
    stored.membership().get_node(&replica.0).is_some_and(|member| member.node == node)
}
