//! Carrying operators out: whoever leads a shard takes the next step, whoever began it.
//!
//! ```text
//!   map: operator ──▶ led here? ──▶ steps::next_step ──▶ add a learner, change the voters, hand over, …
//!                        │                        └─ over ──▶ OperatorEnded ──▶ group 0
//!                        └ closed: whoever would open it for an expiry opens it
//! ```
//!
//! **Invariant.** One step of a group at a time; every step is found from what is, so that a crash anywhere loses nothing.
//! A joint configuration that nobody asked for any more is finished too.

use super::{
    decide::{Opener, opens_for_expiry},
    replica::Replica,
    steps::{Step, next_step},
};
use crate::{
    cp::Group,
    metadata::{Ending, OperatorRow},
    node::Node,
    worker::Step as ChoreStep,
};
use kvorum_api::{GroupId, NodeId};
use std::{sync::Arc, time::Duration};

/// How long one step may take to be agreed on. One that takes longer is found half done, and gone on with.
const STEP_PATIENCE: Duration = Duration::from_secs(10);

/// How long telling the metadata may take before it is tried again.
const REPORT_PATIENCE: Duration = Duration::from_secs(5);

impl Node {
    /// One round of the chore.
    pub(crate) async fn operate(self: Arc<Self>) -> ChoreStep {
        if !self.duties.lock().is_fit {
            return Ok(());
        }
        let map = self.map();
        let open = map.operators.values().filter(|row| row.is_open());
        for row in open {
            if let Some(replica) = self.groups.get(GroupId::from(row.shard)) {
                self.step_soon(replica, Some(row.clone()));
            }
        }
        for replica in self.groups.open() {
            if map.operator_of(replica.shard_id()).is_none() && replica.group().is_some_and(|group| group.is_joint()) {
                self.step_soon(replica, None);
            }
        }
        Ok(())
    }

    /// Takes one step beside everything else, unless one is under way.
    fn step_soon(self: &Arc<Self>, replica: Arc<Replica>, operator: Option<OperatorRow>) {
        let node = Arc::downgrade(self);
        self.groups.shared.tasks.spawn(async move {
            let Ok(_one_at_a_time) = replica.step.try_lock() else { return };
            let ending = replica.take_step(operator.as_ref()).await;
            let (Some(node), Some(operator), Some(ending)) = (node.upgrade(), operator, ending) else { return };
            let shard = replica.shard_id();
            tracing::info!(%shard, operator = %operator.id, task = %operator.task, ?ending, "the operator has ended");
            if let Err(error) = node.report_ending(&operator, ending).await {
                *replica.waits_for.lock() = Some(format!("the metadata has to be told that it is over: {error}"));
            }
        });
    }

    async fn report_ending(&self, operator: &OperatorRow, ending: Ending) -> Result<(), kvorum_api::AdminError> {
        let told = crate::metadata::MetadataCommand::OperatorEnded { operator: operator.id, ending };
        self.metadata(told, REPORT_PATIENCE).await.map(drop)
    }
}

impl Replica {
    /// What the change of this shard waits for, if its leader is here.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        self.waits_for.lock().clone()
    }

    /// Takes the next step, if this replica leads; how it ended, if it is over.
    async fn take_step(&self, operator: Option<&OperatorRow>) -> Option<Ending> {
        if self.group().is_none() {
            self.open_for_change();
            return None;
        }
        let (_inside, group) = self.gate.try_enter().zip(self.group())?;
        if !group.is_leading() {
            *self.waits_for.lock() = None;
            return None;
        }
        let added = operator.and_then(|operator| operator.task.added());
        let facts = group.membership_facts(added.map(|(replica, _)| replica))?;
        let step = match operator {
            Some(operator) => next_step(operator, self.shared.me(), &facts),
            None if facts.voters.len() > 1 => Step::Change(facts.voters.last().cloned().unwrap_or_default()),
            None => return None,
        };
        let taken = match step {
            Step::End(ending) => return Some(ending),
            Step::Wait(why) => Err(why),
            step => {
                tracing::info!(shard = %self.shard_id(), ?step, "takes a step");
                self.carry_out(&group, step, added).await
            }
        };
        *self.waits_for.lock() = taken.err();
        None
    }

    async fn carry_out(
        &self,
        group: &Arc<Group>,
        step: Step,
        added: Option<(kvorum_api::ReplicaId, NodeId)>,
    ) -> Result<(), String> {
        match (step, added) {
            (Step::AddLearner(_), Some(seat)) => group.add_learner(seat, STEP_PATIENCE).await,
            (Step::RemoveLearner(learner), _) => group.remove_learner(learner, STEP_PATIENCE).await,
            (Step::Change(voters), _) => group.change_voters(&voters, STEP_PATIENCE).await,
            (Step::HandOver, _) => match group.hand_over(self.shared.timing.election_max).await {
                true => Ok(()),
                false => Err("its leader is to go, and no other voter is ready to lead".to_owned()),
            },
            (Step::Lead(node), _) => {
                let heir = self.place().config.replica_on(node);
                let heir = heir.ok_or_else(|| format!("node {node} holds no replica"))?;
                match group.hand_over_to(heir).await {
                    true => Ok(()),
                    false => Err(format!("the replica on node {node} is not ready to lead")),
                }
            }
            (Step::AddLearner(_) | Step::Wait(_) | Step::End(_), _) => Ok(()),
        }
    }

    /// A closed group is opened where it would be for an expiry: one node's task.
    fn open_for_change(&self) {
        let lives: Vec<_> = self.place().config.holders().map(|node| (node, self.shared.liveness.of(node))).collect();
        let is_mine = opens_for_expiry(self.recorded_leader(), &lives, self.shared.me());
        if let (true, Opener::Here(how)) = (is_mine, self.opener()) {
            self.open_soon(how);
        }
    }
}
