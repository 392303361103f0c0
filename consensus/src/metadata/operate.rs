//! Planning what becomes of the replicas of one shard. Pure, as all of [`plan`](super::plan).
//!
//! ```text
//!   Operate ──▶ refused: what is in the way, and the way out
//!           └─▶ a fresh replica id, the replicas with who comes and who goes, the operator
//!   OperatorEnded ──▶ done: who came is in, who went is out     undone: as it was
//! ```
//!
//! **Invariant.** A shard has one unfinished operator at most. A replica leaves the map only when its shard's leader
//! has said that it is none any more.

use super::{
    METADATA_SHARD, OperatorWish,
    map::{ClusterMap, KeyspaceRow, NodeState, ReplicaRow, Row, RowEdit, RowKey, ShardRow, ShardStage, Standing},
    nodes::unknown_node,
    operator::{Ending, OperatorRow, OperatorState, Origin, Task},
    plan::{Draft, metadata_replicas},
    wish::invalid,
};
use crate::hello::majority;
use kvorum_api::{AdminError, KeyspaceId, NodeId, OperatorId, ReplicaId, ShardId};
use kvorum_storage::planted;
use std::collections::BTreeSet;

/// Finished operators that are kept for people to look at.
pub const FINISHED_MAX: usize = 256;

/// Bytes of a sentence that says why.
const CAUSE_BYTES_MAX: usize = 512;

impl Draft<'_> {
    pub(super) fn operate(
        &mut self,
        shard: ShardId,
        wish: OperatorWish,
        (origin, cause): (Origin, &str),
        now_ms: u64,
        lost: &BTreeSet<NodeId>,
    ) -> Result<(), AdminError> {
        let subject = Subject::of(self.map, shard, lost)?;
        subject.check(wish, origin)?;
        let mut add = |node| {
            let replica = self.counters.next_replica;
            if !planted!("bug-replica-id-reused") {
                self.counters.next_replica = ReplicaId(replica.0 + 1);
            }
            (replica, node)
        };
        let task = match wish {
            OperatorWish::Lead(node) => Task::Lead(node),
            OperatorWish::Move { from, to } => Task::Change { add: Some(add(to)), remove: subject.seat_on(from) },
            OperatorWish::Add(to) => Task::Change { add: Some(add(to)), remove: None },
            OperatorWish::Remove(from) => Task::Change { add: None, remove: subject.seat_on(from) },
        };
        let mut replicas = subject.replicas.to_vec();
        for row in replicas.iter_mut().filter(|row| Some(row.seat()) == task.removed()) {
            row.standing = Standing::Leaving;
        }
        let joining = |(replica, node)| ReplicaRow { replica, node, standing: Standing::Joining };
        replicas.extend(task.added().map(joining));
        if planted!("bug-dropped-too-early") {
            replicas.retain(|row| row.standing != Standing::Leaving);
        }
        let id = self.counters.next_operator;
        self.counters.next_operator = OperatorId(id.0 + 1);
        self.operator = Some(id);
        let mut cause = cause.to_owned();
        cause.truncate(cause.floor_char_boundary(CAUSE_BYTES_MAX));
        let state = OperatorState::Running;
        self.put(Row::Operator(OperatorRow { id, shard, task, origin, cause, state, created_ms: now_ms, ended_ms: 0 }));
        self.put_replicas(shard, replicas, None);
        self.forget_finished();
        Ok(())
    }

    /// Asks the shard's leader to undo it. One that has ended cannot be.
    pub(super) fn cancel(&mut self, operator: OperatorId) -> Result<(), AdminError> {
        let Some(row) = self.map.operators.get(&operator) else {
            return Err(AdminError::NotFound { what: format!("operator {operator}: kvctl operator list shows them") });
        };
        self.operator = Some(operator);
        match row.state {
            OperatorState::Running => {
                self.put(Row::Operator(OperatorRow { state: OperatorState::Cancelling, ..row.clone() }));
                Ok(())
            }
            OperatorState::Cancelling => Ok(()),
            OperatorState::Done | OperatorState::Cancelled | OperatorState::Failed(_) => {
                let problem = format!("operator {operator} has ended ({}): ask for the reverse instead", row.state);
                Err(invalid("operator", problem))
            }
        }
    }

    /// What a shard's leader says has become of an operator; one that has ended, or is gone, needs nothing.
    pub(super) fn ended(&mut self, operator: OperatorId, ending: &Ending, now_ms: u64) {
        let Some(row) = self.map.operators.get(&operator).filter(|row| row.is_open()) else { return };
        self.operator = Some(operator);
        let (added, removed) = (row.task.added(), row.task.removed());
        let is_done = *ending == Ending::Done;
        let mut replicas = self.map.replicas_of(row.shard).to_vec();
        let gone = if is_done { removed } else { added };
        replicas.retain(|replica| Some(replica.seat()) != gone);
        for replica in replicas.iter_mut().filter(|replica| [added, removed].contains(&Some(replica.seat()))) {
            replica.standing = Standing::Member;
        }
        let leader_wish = self.map.shards.get(&row.shard).and_then(|shard| {
            // Only now: what is cancelled leaves everything as it was.
            if let (Task::Lead(node), true) = (&row.task, is_done) {
                return Some(*node);
            }
            let is_gone = gone.is_some_and(|(_, node)| node == shard.leader_wish);
            let others = || replicas.iter().find(|replica| replica.is_in()).map(|replica| replica.node);
            if is_gone { added.filter(|_| is_done).map(|(_, node)| node).or_else(others) } else { None }
        });
        let state = match ending {
            Ending::Done => OperatorState::Done,
            Ending::Cancelled => OperatorState::Cancelled,
            Ending::Failed(why) => OperatorState::Failed(why.clone()),
        };
        self.put(Row::Operator(OperatorRow { state, ended_ms: now_ms, ..row.clone() }));
        self.put_replicas(row.shard, replicas, leader_wish);
    }

    /// A keyspace goes, and with it whatever is done to its shards.
    pub(super) fn end_operators_of(&mut self, keyspace: KeyspaceId, now_ms: u64) {
        let map = self.map;
        let is_of = |row: &&OperatorRow| map.shards.get(&row.shard).is_some_and(|shard| shard.keyspace == keyspace);
        for row in map.operators.values().filter(|row| row.is_open()).filter(is_of) {
            let state = OperatorState::Failed("its keyspace was dropped".to_owned());
            self.put(Row::Operator(OperatorRow { state, ended_ms: now_ms, ..row.clone() }));
        }
    }

    fn put_replicas(&mut self, shard: ShardId, replicas: Vec<ReplicaRow>, leader_wish: Option<NodeId>) {
        if shard == METADATA_SHARD {
            if replicas != self.map.metadata {
                self.put(Row::Metadata(replicas));
            }
            return;
        }
        let Some(row) = self.map.shards.get(&shard) else { return };
        let changed = ShardRow { replicas, leader_wish: leader_wish.unwrap_or(row.leader_wish), ..row.clone() };
        if changed != *row {
            self.put(Row::Shard(changed));
        }
    }

    /// The oldest of those that have ended go, once there are too many.
    fn forget_finished(&mut self) {
        let finished: Vec<OperatorId> =
            self.map.operators.values().filter(|row| !row.is_open()).map(|row| row.id).collect();
        let spare = finished.len().saturating_sub(FINISHED_MAX);
        self.edits.extend(finished.into_iter().take(spare).map(|id| RowEdit::Remove(RowKey::Operator(id))));
    }
}

/// A shard whose replicas are to change, and what is known of those who hold them.
struct Subject<'a> {
    map: &'a ClusterMap,
    shard: ShardId,
    replicas: &'a [ReplicaRow],
    /// How many it should have.
    wished: usize,
    lost: &'a BTreeSet<NodeId>,
}

impl<'a> Subject<'a> {
    fn of(map: &'a ClusterMap, shard: ShardId, lost: &'a BTreeSet<NodeId>) -> Result<Self, AdminError> {
        let wished = if shard == METADATA_SHARD {
            metadata_replicas(map.nodes.values().filter(|row| row.state == NodeState::Active).count())
        } else {
            let Some(row) = map.shards.get(&shard) else {
                let what = format!("shard {shard}: kvctl shard list KEYSPACE shows them");
                return Err(AdminError::NotFound { what });
            };
            if row.stage == ShardStage::Creating {
                let problem = format!("shard {shard} is still being created: try again in a moment");
                return Err(invalid("shard", problem));
            }
            map.keyspaces.get(&row.keyspace).map_or(1, |keyspace: &KeyspaceRow| keyspace.replicas as usize)
        };
        if let Some(operator) = map.operator_of(shard) {
            let (id, task) = (operator.id, operator.task);
            let problem = format!(
                "operator {id} ({task}) is under way on shard {shard}: wait for it (kvctl operator show {id}), or cancel it (kvctl operator cancel {id})"
            );
            return Err(invalid("shard", problem));
        }
        Ok(Subject { map, shard, replicas: map.replicas_of(shard), wished, lost })
    }

    fn seat_on(&self, node: NodeId) -> Option<(ReplicaId, NodeId)> {
        self.replicas.iter().find(|row| row.node == node).map(ReplicaRow::seat)
    }

    fn holders(&self) -> Vec<NodeId> {
        self.replicas.iter().map(|row| row.node).collect()
    }

    fn check(&self, wish: OperatorWish, origin: Origin) -> Result<(), AdminError> {
        let (shard, count) = (self.shard, self.replicas.len());
        match wish {
            OperatorWish::Move { from, to } => {
                self.check_holds("from", from)?;
                self.check_target(to)?;
                if origin == Origin::User {
                    self.check_zones(from, to)?;
                }
                self.check_majority(Some(from), Some(to))
            }
            OperatorWish::Add(to) if count < self.wished => {
                self.check_target(to)?;
                self.check_majority(None, Some(to))
            }
            OperatorWish::Add(_) => {
                let problem = format!("shard {shard} has all of its {count} replicas: move one instead");
                Err(invalid("shard", problem))
            }
            OperatorWish::Remove(from) if count > self.wished => {
                self.check_holds("from", from)?;
                self.check_majority(Some(from), None)
            }
            OperatorWish::Remove(_) => {
                let problem = format!(
                    "shard {shard} has {count} replicas and should have {}: move one instead of removing it",
                    self.wished
                );
                Err(invalid("shard", problem))
            }
            OperatorWish::Lead(node) => {
                self.check_holds("to", node)?;
                self.check_fit("to", node)
            }
        }
    }

    fn check_holds(&self, field: &'static str, node: NodeId) -> Result<(), AdminError> {
        if self.seat_on(node).is_some() {
            return Ok(());
        }
        let holders = names(&self.holders());
        Err(invalid(field, format!("node {node} holds no replica of shard {}: nodes {holders} do", self.shard)))
    }

    fn check_target(&self, node: NodeId) -> Result<(), AdminError> {
        if self.seat_on(node).is_some() {
            let free = self.free();
            let problem = match free.is_empty() {
                true => format!("node {node} holds a replica of shard {} already, and so does every other", self.shard),
                false => format!("node {node} holds a replica of shard {} already: take {}", self.shard, names(&free)),
            };
            return Err(invalid("to", problem));
        }
        self.check_fit("to", node)
    }

    /// Whether a node may hold more, or lead.
    fn check_fit(&self, field: &'static str, node: NodeId) -> Result<(), AdminError> {
        let Some(row) = self.map.nodes.get(&node) else {
            return Err(unknown_node(self.map, node));
        };
        match row.state {
            NodeState::Active if self.lost.contains(&node) => {
                Err(invalid(field, format!("node {node} does not answer: start it, or take another one")))
            }
            NodeState::Active => Ok(()),
            NodeState::Draining | NodeState::Forgetting => {
                let problem =
                    format!("node {node} is being drained: take another one, or kvctl node recommission {node}");
                Err(invalid(field, problem))
            }
        }
    }

    /// Nodes that could take a replica.
    fn free(&self) -> Vec<NodeId> {
        let is_free = |node: &NodeId| self.seat_on(*node).is_none() && self.check_fit("to", *node).is_ok();
        self.map.nodes.keys().copied().filter(is_free).collect()
    }

    /// A person does not put two replicas into one zone by mistake.
    fn check_zones(&self, from: NodeId, to: NodeId) -> Result<(), AdminError> {
        let zone = |node: NodeId| self.map.nodes.get(&node).map_or("", |row| row.zone.as_str());
        let stay: BTreeSet<&str> = self.holders().into_iter().filter(|node| *node != from).map(zone).collect();
        let loses_one = !stay.contains(zone(from)) && stay.contains(zone(to));
        let better: Vec<NodeId> = self.free().into_iter().filter(|node| !stay.contains(zone(*node))).collect();
        if loses_one && !better.is_empty() {
            let problem = format!(
                "node {to} is in zone {:?}, where shard {} has a replica already: take node {}, or one replica less \
                 survives the loss of that zone",
                zone(to),
                self.shard,
                names(&better)
            );
            return Err(invalid("to", problem));
        }
        Ok(())
    }

    /// A change needs a majority of the replicas before it and of those after it.
    fn check_majority(&self, from: Option<NodeId>, to: Option<NodeId>) -> Result<(), AdminError> {
        let before = self.holders();
        let after: Vec<NodeId> = before.iter().copied().filter(|node| Some(*node) != from).chain(to).collect();
        for replicas in [&before, &after] {
            let (dead, living): (Vec<NodeId>, Vec<NodeId>) =
                replicas.iter().copied().partition(|node| self.lost.contains(node));
            if living.len() < majority(replicas.len()) {
                let problem = format!(
                    "shard {} would need {} of nodes {} to agree, and {} do not answer: start one of them first",
                    self.shard,
                    majority(replicas.len()),
                    names(replicas),
                    names(&dead)
                );
                return Err(invalid("shard", problem));
            }
        }
        Ok(())
    }
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
