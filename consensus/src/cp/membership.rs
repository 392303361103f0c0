//! Changing who takes part in a group, one step at a time; which step is decided elsewhere (`groups/steps`).
//!
//! **Invariant.** A change is proposed only by a leader, and only on the grounds on which it was decided: in the same
//! term, of the same membership. It is over when it is committed; one that is given up in its middle is found in the
//! membership, and finished by whoever leads then.

use super::{
    codec::raft::decode_stored_membership,
    group::Group,
    types::{LogId, Member, Types},
};
use crate::groups::steps::Facts;
use kvorum_api::{NodeId, ReplicaId};
use kvorum_storage::Shard;
use openraft::{ChangeMembers, ServerState, async_runtime::Instant as _, raft::Precondition};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::timeout;

/// On what a change of the membership is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grounds {
    /// The term in which the leader leads who decides.
    pub(crate) term: u64,
    /// The entry that says who takes part until then.
    membership: Option<LogId>,
}

impl Grounds {
    fn preconditions(self) -> [Precondition<Types>; 2] {
        [
            Precondition::CommittedLeaderId { committed_leader_id: LogId::new_term_index(self.term, 0).leader_id },
            Precondition::LastMembershipLogId { last_membership_log_id: self.membership },
        ]
    }
}

impl Group {
    /// What this leader sees of the membership, and how far `learner` is behind; `None` = it does not lead. It may have
    /// been deposed without having heard of it.
    pub(crate) fn membership_facts(&self, learner: Option<ReplicaId>) -> Option<(Facts, Grounds)> {
        let me = self.core.replica;
        let is_fresh = self.core.context.timing.election_min;
        let seen = self.core.look(|metrics| {
            if metrics.state != ServerState::Leader || metrics.running_state.is_err() {
                return None;
            }
            let stored = &metrics.membership_config;
            let membership = stored.membership();
            let set = |ids: &BTreeSet<u64>| ids.iter().copied().map(ReplicaId).collect();
            let last = metrics.last_log_index.unwrap_or(0);
            let matched = |replica: ReplicaId| {
                let matched = metrics.replication.as_ref()?.get(&replica.0).copied().flatten()?;
                Some(last.saturating_sub(LogId::index(&matched)))
            };
            let answers = metrics
                .heartbeat
                .iter()
                .flatten()
                .filter(|(_, heard)| heard.is_some_and(|heard| heard.elapsed() < is_fresh));
            let facts = Facts {
                me,
                voters: membership.get_joint_config().iter().map(set).collect(),
                learners: membership.learner_ids().map(ReplicaId).collect(),
                is_committed: stored
                    .log_id()
                    .as_ref()
                    .is_some_and(|changed| Some(*changed) <= metrics.cluster_committed),
                lag: learner.and_then(matched),
                heard: answers.map(|(replica, _)| ReplicaId(*replica)).chain([me]).collect(),
            };
            Some((facts, Grounds { term: metrics.current_term, membership: *stored.log_id() }))
        });
        seen.flatten()
    }

    /// The same, once a majority has said that it follows this leader, and an entry of its own term is committed: what
    /// it sees then no former leader can change any more, and no later one had changed before.
    ///
    /// # Errors
    /// Why it is not certain.
    pub(crate) async fn confirmed_facts(
        &self,
        learner: Option<ReplicaId>,
        patience: Duration,
    ) -> Result<(Facts, Grounds), String> {
        let confirmed = timeout(patience, self.read_index.confirm(&self.core)).await;
        confirmed
            .map_err(|_| "no majority has confirmed its leader in time".to_owned())?
            .map_err(|error| format!("no majority has confirmed its leader: {error}"))?;
        let is_settled = self.core.look(|metrics| {
            metrics.cluster_committed.is_some_and(|committed| committed.leader_id.term == metrics.current_term)
        });
        if is_settled != Some(true) {
            return Err("its leader has not committed anything of its term yet".to_owned());
        }
        self.membership_facts(learner).ok_or_else(|| "its leader was deposed meanwhile".to_owned())
    }

    /// Whether anybody comes or goes now, by Raft's own account; somebody does, as far as one knows who does not lead.
    pub(crate) fn is_changing(&self) -> bool {
        self.membership_facts(None).is_none_or(|(facts, _)| facts.is_changing())
    }

    /// Whether it leads while somebody comes or goes: whoever began that may be gone.
    pub(crate) fn leads_a_change(&self) -> bool {
        self.membership_facts(None).is_some_and(|(facts, _)| facts.is_changing())
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
        grounds: Grounds,
        patience: Duration,
    ) -> Result<(), String> {
        let comes = ChangeMembers::AddNodes(BTreeMap::from([(replica.0, Member { node })]));
        self.change((comes, true), grounds, patience).await
    }

    /// Has these vote, and nobody else: a joint configuration first, then theirs alone.
    ///
    /// # Errors
    /// As [`Group::add_learner`].
    pub(crate) async fn change_voters(
        &self,
        voters: &BTreeSet<ReplicaId>,
        grounds: Grounds,
        patience: Duration,
    ) -> Result<(), String> {
        let voters: BTreeSet<u64> = voters.iter().map(|voter| voter.0).collect();
        self.change((ChangeMembers::ReplaceAllVoters(voters), false), grounds, patience).await
    }

    /// Has a learner get the log no more.
    ///
    /// # Errors
    /// As [`Group::add_learner`].
    pub(crate) async fn remove_learner(
        &self,
        learner: ReplicaId,
        grounds: Grounds,
        patience: Duration,
    ) -> Result<(), String> {
        let goes = ChangeMembers::RemoveNodes(BTreeSet::from([learner.0]));
        self.change((goes, false), grounds, patience).await
    }

    async fn change(
        &self,
        (change, retain): (ChangeMembers<u64, Member>, bool),
        grounds: Grounds,
        patience: Duration,
    ) -> Result<(), String> {
        let changed = self.ask(move |raft| async move {
            let changed = raft.change_membership_if(change, retain, grounds.preconditions()).await;
            changed.map(drop).map_err(|error| error.to_string())
        });
        // What was asked may be done later all the same.
        match timeout(patience, changed).await {
            Ok(answered) => answered.flatten(),
            Err(_) => Err("it was not agreed on in time".to_owned()),
        }
    }
}

/// Whether the newest membership that is applied names that replica on that node: what a closed group knows.
pub(crate) fn applied_names(shard: &Shard, (replica, node): (ReplicaId, NodeId)) -> bool {
    let membership = shard.state().applied.membership.clone();
    let Ok(stored) = decode_stored_membership(membership) else { return false };
    stored.membership().get_node(&replica.0).is_some_and(|member| member.node == node)
}
