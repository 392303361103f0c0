//! Carrying operators out: whoever leads a shard takes the next step, whoever began it.
//!
//! ```text
//!   map: operator ──▶ led here? ──▶ is there a step? ──▶ again, of what is certain: add a learner, hand over, …
//!                        │       (steps: pure)                             └─ over ──▶ OperatorEnded ──▶ group 0
//!                        └ closed: whoever would open it for an expiry opens it
//! ```
//!
//! A step is looked for in what this node knows, and decided on what is certain: the operator as the metadata has it
//! now, and the membership as a leader sees it whom a majority has confirmed in the same term before and after. Else
//! one with an old copy of the map could carry out what was cancelled, and one that was deposed could say that nobody
//! has come when somebody has.
//!
//! **Invariant.** One step of a group at a time; every step is found from what is, so that a crash anywhere loses
//! nothing. A joint configuration that nobody asked for any more is finished too, and a learner whom nobody asked for
//! is removed.

use super::{
    decide::{How, Opener, opens_for_expiry},
    replica::Replica,
    steps::{Facts, Step, next_step, tidy},
};
use crate::{
    cp::{Group, membership::Grounds},
    metadata::{ClusterMap, Ending, MetadataCommand, OperatorRow, Study},
    node::Node,
    worker::Step as ChoreStep,
};
use kvorum_api::{GroupId, NodeId, ReplicaId};
use std::{sync::Arc, time::Duration};

/// How long one step may take to be agreed on. One that takes longer is found half done, and gone on with.
const STEP_PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to be certain of what a step is decided on.
const CERTAINTY_PATIENCE: Duration = Duration::from_secs(3);

/// How long telling the metadata may take before it is tried again.
const REPORT_PATIENCE: Duration = Duration::from_secs(5);

impl Node {
    /// One round of the chore.
    pub(crate) async fn operate(self: Arc<Self>) -> ChoreStep {
        let map = self.map();
        // Steps need no trusted clock, and a full disk is a reason to move away: only who promises nothing more stops.
        let causes = self.health.causes();
        let stopped = causes.poisoned.or_else(|| causes.draining.then(|| "it is stopping".to_owned()));
        for row in map.operators.values().filter(|row| row.is_open()) {
            let Some(replica) = self.groups.get(GroupId::from(row.shard)) else { continue };
            match &stopped {
                Some(why) => replica.wait_for(format!("node {} takes no steps: {why}", self.groups.shared.me())),
                None => self.step_soon(replica, &map),
            }
        }
        if stopped.is_some() {
            return Ok(());
        }
        for replica in self.groups.open() {
            let is_left = || replica.group().is_some_and(|group| group.leads_a_change());
            if map.operator_of(replica.shard_id()).is_none() && is_left() {
                self.step_soon(replica, &map);
            }
        }
        Ok(())
    }

    /// Takes one step beside everything else, unless one is under way.
    fn step_soon(&self, replica: Arc<Replica>, map: &Arc<ClusterMap>) {
        let (study, map) = (Arc::clone(&self.study), Arc::clone(map));
        self.groups.shared.tasks.spawn(async move {
            let Ok(_one_at_a_time) = replica.step.try_lock() else { return };
            let taken = replica.take_step(&study, &map).await;
            *replica.waits_for.lock() = taken.err();
        });
    }
}

impl Replica {
    /// What the change of this shard waits for, if its leader is here.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        self.waits_for.lock().clone()
    }

    fn wait_for(&self, why: String) {
        *self.waits_for.lock() = Some(why);
    }

    /// Takes the next step, if this replica leads.
    async fn take_step(&self, study: &Study, map: &ClusterMap) -> Result<(), String> {
        if self.group().is_none() {
            return self.open_for_change(map);
        }
        let Some((_inside, group)) = self.gate.try_enter().zip(self.group()) else { return Ok(()) };
        let shard = self.shard_id();
        let Some((facts, grounds)) = group.membership_facts(comes(map.operator_of(shard)).map(|(replica, _)| replica))
        else {
            return Ok(());
        };
        match self.next_step(map, &facts) {
            None => return Ok(()),
            Some(Step::Wait(why)) => return Err(why),
            Some(_) => {}
        }
        // What was begun is finished whatever the map says, also while nobody can say what it says.
        let fresh = if facts.voters.len() == 1 { Some(study.fresh_map(CERTAINTY_PATIENCE).await?) } else { None };
        let map = fresh.as_deref().unwrap_or(map);
        let operator = map.operator_of(shard);
        let (facts, confirmed) =
            group.confirmed_facts(comes(operator).map(|(replica, _)| replica), CERTAINTY_PATIENCE).await?;
        if confirmed.term != grounds.term {
            return Err("its leader was elected anew meanwhile".to_owned());
        }
        if fresh.is_none() && facts.voters.len() == 1 {
            return Err("the change of its voters was finished meanwhile".to_owned());
        }
        match self.next_step(map, &facts) {
            None => Ok(()),
            Some(Step::Wait(why)) => Err(why),
            Some(Step::End(ending)) => match operator {
                Some(operator) => report(study, operator, ending).await,
                None => Ok(()),
            },
            Some(step) => {
                tracing::info!(%shard, ?step, "takes a step");
                self.carry_out(&group, step, comes(operator), confirmed).await
            }
        }
    }

    fn next_step(&self, map: &ClusterMap, facts: &Facts) -> Option<Step> {
        let shard = self.shard_id();
        match map.operator_of(shard) {
            Some(operator) => Some(next_step(operator, self.shared.me(), facts)),
            None => tidy(facts, &map.replicas_of(shard).iter().map(|row| row.replica).collect()),
        }
    }

    async fn carry_out(
        &self,
        group: &Arc<Group>,
        step: Step,
        added: Option<(ReplicaId, NodeId)>,
        grounds: Grounds,
    ) -> Result<(), String> {
        match (step, added) {
            (Step::AddLearner(_), Some(seat)) => group.add_learner(seat, grounds, STEP_PATIENCE).await,
            (Step::RemoveLearner(learner), _) => group.remove_learner(learner, grounds, STEP_PATIENCE).await,
            (Step::Change(voters), _) => group.change_voters(&voters, grounds, STEP_PATIENCE).await,
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
    fn open_for_change(&self, map: &ClusterMap) -> Result<(), String> {
        let lives: Vec<_> = self.place().config.holders().map(|node| (node, self.shared.liveness.of(node))).collect();
        let is_mine = opens_for_expiry(self.recorded_leader(), &lives, self.shared.me());
        if let (true, Opener::Here(how)) = (is_mine, self.opener()) {
            self.open_soon(how);
            return Ok(());
        }
        // Whoever should open it may not be able to lead, or may believe the same of this one.
        let is_in = map.replicas_of(self.shard_id()).iter().any(|row| row.replica == self.id && row.is_in());
        if is_in && self.sends_away_in_vain() {
            self.open_soon(How::Stand);
            return Ok(());
        }
        Err("its group is closed, and the node that led it last has not opened it yet".to_owned())
    }
}

/// The replica that an operator lets in.
fn comes(operator: Option<&OperatorRow>) -> Option<(ReplicaId, NodeId)> {
    operator.and_then(|operator| operator.task.added())
}

async fn report(study: &Study, operator: &OperatorRow, ending: Ending) -> Result<(), String> {
    let OperatorRow { id, shard, task, .. } = operator;
    tracing::info!(%shard, operator = %id, %task, ?ending, "the operator has ended");
    let told = study.command(MetadataCommand::OperatorEnded { operator: *id, ending }, REPORT_PATIENCE).await;
    told.map(drop).map_err(|error| format!("the metadata has to be told that it is over: {error}"))
}
