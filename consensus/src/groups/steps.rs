//! The next step of an operator, as a function from what is to what should be.
//!
//! ```text
//!   add a learner ─▶ wait until it has caught up ─▶ hand over, if the leader is the one that goes
//!        ─▶ change the voters: joint, then uniform ─▶ committed: done
//! ```
//!
//! **Invariant.** Nothing is remembered: any leader, also after any crash, finds the same step from the operator and
//! from Raft's membership. A joint configuration is finished before anything else, and begun only with voters who
//! answer. Done is said only of a uniform configuration that is committed.

use crate::{
    hello::majority,
    metadata::{Ending, OperatorRow, OperatorState, Task},
};
use kvorum_api::{NodeId, ReplicaId};
use kvorum_storage::planted;
use std::collections::BTreeSet;

/// Entries a learner may be behind and still become a voter: it catches up while the change is agreed on.
pub const LAG_MAX: u64 = 1_024;

/// What the leader of a group sees of its membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The leader itself.
    pub me: ReplicaId,
    /// The voters: one set, or two while they change.
    pub voters: Vec<BTreeSet<ReplicaId>>,
    /// Who gets the log and has no vote.
    pub learners: BTreeSet<ReplicaId>,
    /// Whether the newest membership is committed.
    pub is_committed: bool,
    /// Entries that a learner is behind; `None` = it has not answered yet.
    pub lag: Option<u64>,
    /// Who answered a moment ago, the leader among them.
    pub heard: BTreeSet<ReplicaId>,
}

impl Facts {
    /// Whether somebody comes or goes.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.voters.len() != 1 || !self.learners.is_empty()
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This replica gets the log from now on.
    AddLearner(ReplicaId),
    /// These vote from now on: joint first, then alone.
    Change(BTreeSet<ReplicaId>),
    /// A learner gets the log no more.
    RemoveLearner(ReplicaId),
    /// This leader is to go: another voter leads first.
    HandOver,
    /// The replica on that node should lead.
    Lead(NodeId),
    /// Nothing can be done now; why.
    Wait(String),
    /// It is over: tell the metadata.
    End(Ending),
}

/// The next step of an operator.
#[must_use]
pub fn next_step(operator: &OperatorRow, leads_on: NodeId, facts: &Facts) -> Step {
    let [voters] = facts.voters.as_slice() else {
        if planted!("bug-joint-left-open") {
            return Step::End(Ending::Done);
        }
        // Somebody began a change and did not finish it.
        let target = facts.voters.last().cloned().unwrap_or_default();
        return Step::Change(target);
    };
    if !facts.is_committed {
        return Step::Wait("the newest membership is not committed yet".to_owned());
    }
    let is_cancelled = operator.state == OperatorState::Cancelling;
    match operator.task {
        Task::Lead(node) if node == leads_on => Step::End(Ending::Done),
        Task::Lead(_) if is_cancelled => Step::End(Ending::Cancelled),
        Task::Lead(node) => Step::Lead(node),
        Task::Change { add, remove } => {
            let (add, remove) = (add.map(|(replica, _)| replica), remove.map(|(replica, _)| replica));
            if is_cancelled { undo(voters, add, remove, facts) } else { advance(voters, add, remove, facts) }
        }
    }
}

/// The next step in a group to whose shard nothing is being done: a joint configuration is finished, and a learner that
/// the map does not name is none any more. It would keep the group open for ever, and nobody else would ever remove it.
#[must_use]
pub fn tidy(facts: &Facts, named: &BTreeSet<ReplicaId>) -> Option<Step> {
    match facts.voters.as_slice() {
        [_] if facts.is_committed => facts.learners.difference(named).next().map(|stray| Step::RemoveLearner(*stray)),
        [_] => None,
        _ if planted!("bug-joint-left-open") => None,
        _ => facts.voters.last().cloned().map(Step::Change),
    }
}

/// Lets these vote, unless it could not be finished: in the middle of a change a majority of both sets must agree, so
/// one that is begun with voters who do not answer leaves the group without anybody who can lead it.
fn change(target: BTreeSet<ReplicaId>, facts: &Facts) -> Step {
    let is_voter = |replica: &ReplicaId| facts.voters.iter().any(|voters| voters.contains(replica));
    if let Some(silent) = target.iter().find(|replica| !is_voter(replica) && !facts.heard.contains(replica)) {
        return Step::Wait(format!("replica {silent} does not answer any more"));
    }
    let heard = target.intersection(&facts.heard).count();
    if heard < majority(target.len()) {
        return Step::Wait(format!("of the {} voters there would be, {heard} answer", target.len()));
    }
    Step::Change(target)
}

fn advance(voters: &BTreeSet<ReplicaId>, add: Option<ReplicaId>, remove: Option<ReplicaId>, facts: &Facts) -> Step {
    let missing = add.filter(|add| !voters.contains(add));
    if let Some(add) = missing {
        if !facts.learners.contains(&add) {
            return Step::AddLearner(add);
        }
        match facts.lag {
            None => return Step::Wait(format!("replica {add} has not answered yet")),
            Some(lag) if lag > LAG_MAX => return Step::Wait(format!("replica {add} is {lag} entries behind")),
            Some(_) => {}
        }
    }
    let surplus = remove.filter(|remove| voters.contains(remove));
    if missing.is_none() && surplus.is_none() {
        return Step::End(Ending::Done);
    }
    let with: BTreeSet<ReplicaId> = voters.iter().copied().chain(missing).collect();
    match surplus {
        // The only voter cannot hand over before there is another one.
        Some(remove) if remove == facts.me && voters.len() == 1 && missing.is_some() => change(with, facts),
        Some(remove) if remove == facts.me && voters.len() == 1 => {
            Step::End(Ending::Failed(format!("replica {remove} is the only one")))
        }
        Some(remove) if remove == facts.me => Step::HandOver,
        surplus => change(with.into_iter().filter(|voter| Some(*voter) != surplus).collect(), facts),
    }
}

/// Undoes what can be undone: once the voters have changed, it is too late.
fn undo(voters: &BTreeSet<ReplicaId>, add: Option<ReplicaId>, remove: Option<ReplicaId>, facts: &Facts) -> Step {
    let has_added = add.filter(|add| voters.contains(add));
    let has_removed = remove.is_some_and(|remove| !voters.contains(&remove));
    match (has_added, add) {
        // The one that goes has gone.
        (_, _) if has_removed => Step::End(Ending::Done),
        (Some(_), _) if remove.is_none() => Step::End(Ending::Done),
        (Some(added), _) if added == facts.me => Step::HandOver,
        (Some(added), _) => change(voters.iter().copied().filter(|voter| *voter != added).collect(), facts),
        (None, Some(add)) if facts.learners.contains(&add) => Step::RemoveLearner(add),
        (None, _) => Step::End(Ending::Cancelled),
    }
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
