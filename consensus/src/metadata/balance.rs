//! Balance: what should be done next so that every replica stands where it should. Pure.
//!
//! ```text
//!   1  an operator whose new node is gone          is cancelled
//!   2  replicas on nodes that are to go, or lost   go to whoever holds least, in a zone of its own
//!   3  too few replicas, or too many               one more, or one less; the metadata's among them
//!   4  nodes to be forgotten that hold nothing     are forgotten
//!   5  two replicas in one zone                    one goes to a zone without      ┐ only when nothing
//!   6  replicas, then bytes, then leaders,         one goes from most to least     ┘ of the above is left
//!      unevenly spread
//! ```
//!
//! **Invariant.** The same map and facts give the same answer. Carried out and asked again, it ends: what is done for
//! the balance makes it strictly better, and nothing is moved for it while a node is lost or to go. Nothing is asked
//! for that the plan would refuse.

mod weights;

use super::{
    METADATA_SHARD, MetadataCommand, OperatorWish,
    map::{ClusterMap, NodeState, ReplicaRow, ShardStage},
    operator::{OperatorState, Origin, Task},
    plan::{metadata_replicas, plan},
};
use kvorum_api::{NodeId, ShardId};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A new node that does not answer for longer is given up: another one may.
const NEWCOMER_PATIENCE: Duration = Duration::from_secs(60);

/// Leaders that are moved at a time, in the whole cluster.
const LEADS_MAX: usize = 4;

/// What the balancer knows beside the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Who does not answer, and for how long.
    pub lost: BTreeMap<NodeId, Duration>,
    /// About how many bytes each shard has, of those whose nodes have told.
    pub bytes: BTreeMap<ShardId, u64>,
}

/// What it keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether it does anything by itself; nodes that are drained or forgotten are emptied in any case.
    pub is_on: bool,
    /// A node that has been lost for longer is replaced.
    pub replace_after: Duration,
    /// Replicas that one node takes in at a time.
    pub moves_max: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { is_on: false, replace_after: Duration::from_secs(600), moves_max: 2 }
    }
}

/// What should be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// Changes of the map, in order.
    pub commands: Vec<MetadataCommand>,
    /// What should be done as well, and why it is not, or not yet.
    pub held_up: Vec<String>,
}

/// What should be done next.
#[must_use]
pub fn balance(map: &ClusterMap, facts: &Facts, rules: Rules) -> Advice {
    let mut desk = Desk::new(map, facts, rules);
    desk.cancel_hopeless();
    desk.empty_nodes();
    desk.right_counts();
    desk.forget_empty();
    if rules.is_on && desk.is_calm() {
        desk.spread_zones();
        desk.spread_replicas();
        if desk.is_calm() {
            desk.spread_bytes();
        }
        if desk.is_calm() {
            desk.spread_leaders();
        }
    }
    desk.advice
}

/// The map, while advice is given: what is advised counts as done for whatever follows.
struct Desk<'a> {
    map: &'a ClusterMap,
    facts: &'a Facts,
    rules: Rules,
    lost: BTreeSet<NodeId>,
    /// Replicas that every node holds or is to hold, those of the metadata included.
    loads: BTreeMap<NodeId, usize>,
    /// Replicas that are on their way to a node.
    arriving: BTreeMap<NodeId, usize>,
    /// Shards that are being changed, or are advised to be.
    busy: BTreeSet<ShardId>,
    advice: Advice,
}

impl<'a> Desk<'a> {
    fn new(map: &'a ClusterMap, facts: &'a Facts, rules: Rules) -> Self {
        let mut desk = Desk {
            map,
            facts,
            rules,
            lost: facts.lost.keys().copied().collect(),
            loads: map.nodes.keys().map(|node| (*node, 0)).collect(),
            arriving: BTreeMap::new(),
            busy: map.operators.values().filter(|row| row.is_open()).map(|row| row.shard).collect(),
            advice: Advice::default(),
        };
        for (shard, replicas) in shards(map) {
            let removed = map.operator_of(shard).and_then(|operator| operator.task.removed());
            for replica in replicas.iter().filter(|replica| Some(replica.seat()) != removed) {
                *desk.loads.entry(replica.node).or_default() += 1;
                *desk.arriving.entry(replica.node).or_default() += usize::from(!replica.is_in());
            }
        }
        desk
    }

    /// Nothing is being changed, and nobody is lost or to go: the balance may be looked at.
    fn is_calm(&self) -> bool {
        let is_steady = self.map.nodes.values().all(|row| row.state == NodeState::Active);
        is_steady && self.lost.is_empty() && self.advice.commands.is_empty() && self.advice.held_up.is_empty()
    }

    fn cancel_hopeless(&mut self) {
        for row in self.map.operators.values().filter(|row| row.state == OperatorState::Running) {
            let to = match row.task {
                Task::Change { add: Some((_, to)), .. } | Task::Lead(to) => to,
                Task::Change { add: None, .. } => continue,
            };
            let is_gone = self.facts.lost.get(&to).is_some_and(|lost_for| *lost_for > NEWCOMER_PATIENCE);
            let is_to_go = self.map.nodes.get(&to).is_none_or(|node| node.state != NodeState::Active);
            if is_gone || is_to_go {
                self.advice.commands.push(MetadataCommand::CancelOperator { operator: row.id });
            }
        }
    }

    /// Whether a replica must leave its node, and why.
    fn must_leave(&self, node: NodeId) -> Option<(Origin, String)> {
        let Some(row) = self.map.nodes.get(&node) else {
            return Some((Origin::Repair, format!("node {node} is none of the cluster any more")));
        };
        let lost_for = self.facts.lost.get(&node);
        match (row.state, lost_for) {
            (NodeState::Draining, _) => Some((Origin::Drain, format!("node {node} is drained"))),
            (NodeState::Forgetting, _) => Some((Origin::Drain, format!("node {node} is to be forgotten"))),
            (NodeState::Active, Some(lost_for)) if self.rules.is_on && *lost_for >= self.rules.replace_after => {
                Some((Origin::Repair, format!("node {node} has not answered for {} s", lost_for.as_secs())))
            }
            (NodeState::Active, _) => None,
        }
    }

    fn empty_nodes(&mut self) {
        for (shard, replicas) in shards(self.map) {
            let leaving = replicas.iter().find_map(|replica| Some((replica.node, self.must_leave(replica.node)?)));
            let Some((from, (origin, cause))) = leaving else { continue };
            if self.busy.contains(&shard) || self.is_creating(shard) {
                continue;
            }
            // The metadata may simply become smaller.
            if shard == METADATA_SHARD && replicas.len() > self.metadata_wish() {
                self.advise(shard, OperatorWish::Remove(from), origin, cause);
                continue;
            }
            match self.best_target(replicas, from) {
                Ok(to) => self.advise(shard, OperatorWish::Move { from, to }, origin, cause),
                Err(why) => self.advice.held_up.push(format!("shard {shard}: {cause}, and {why}")),
            }
        }
    }

    fn metadata_wish(&self) -> usize {
        metadata_replicas(self.map.nodes.values().filter(|row| row.state == NodeState::Active).count())
    }

    fn right_counts(&mut self) {
        for (shard, replicas) in shards(self.map) {
            let wished = match self.map.shards.get(&shard) {
                None => self.metadata_wish(),
                Some(row) => self.map.keyspaces.get(&row.keyspace).map_or(replicas.len(), |row| row.replicas as usize),
            };
            if self.busy.contains(&shard) || self.is_creating(shard) || replicas.len() == wished || !self.rules.is_on {
                continue;
            }
            let cause = format!("it has {} replicas and should have {wished}", replicas.len());
            if replicas.len() < wished {
                match self.best_target(replicas, NodeId(0)) {
                    Ok(to) => self.advise(shard, OperatorWish::Add(to), Origin::Repair, cause),
                    Err(why) => self.advice.held_up.push(format!("shard {shard}: {cause}, and {why}")),
                }
                continue;
            }
            let most = replicas.iter().map(|row| row.node).max_by_key(|node| {
                (self.lost.contains(node), self.zone_mates(replicas, *node), self.loads[node], *node)
            });
            if let Some(from) = most {
                self.advise(shard, OperatorWish::Remove(from), Origin::Balance, cause);
            }
        }
    }

    fn forget_empty(&mut self) {
        let forgetting = self.map.nodes.values().filter(|row| row.state == NodeState::Forgetting);
        let empty = forgetting.map(|row| row.node).filter(|node| self.loads[node] == 0 && self.lost.contains(node));
        let forget = |node| MetadataCommand::SetNodeState { node, state: NodeState::Forgetting };
        let commands: Vec<MetadataCommand> = empty.map(forget).collect();
        self.advice.commands.extend(commands);
    }

    /// One of two replicas in one zone goes to a zone that has none.
    fn spread_zones(&mut self) {
        for (shard, replicas) in shards(self.map) {
            if self.busy.contains(&shard) || self.is_creating(shard) {
                continue;
            }
            let crowded = replicas.iter().map(|row| row.node).filter(|node| self.zone_mates(replicas, *node) > 0);
            let Some(from) = crowded.max_by_key(|node| (self.loads[node], *node)) else { continue };
            let used: BTreeSet<&str> = replicas.iter().map(|row| self.zone(row.node)).collect();
            let to = self.best_target(replicas, from).ok().filter(|to| !used.contains(self.zone(*to)));
            if let Some(to) = to {
                let cause = format!("two of its replicas are in zone {:?}", self.zone(from));
                self.advise(shard, OperatorWish::Move { from, to }, Origin::Balance, cause);
            }
        }
    }

    /// One replica after the other goes from who holds most to who holds at least two fewer.
    fn spread_replicas(&mut self) {
        for (shard, replicas) in shards(self.map) {
            if shard == METADATA_SHARD || self.busy.contains(&shard) || self.is_creating(shard) {
                continue;
            }
            let mut holders: Vec<NodeId> = replicas.iter().map(|row| row.node).collect();
            holders.sort_by_key(|node| (std::cmp::Reverse(self.loads[node]), *node));
            let moves = holders.into_iter().filter_map(|from| {
                let to = self.best_target(replicas, from).ok()?;
                let is_as_spread = self.zone(to) == self.zone(from) || !self.is_zone_used(replicas, from, to);
                (self.loads[&to] + 2 <= self.loads[&from] && is_as_spread).then_some((from, to))
            });
            let Some((from, to)) = moves.into_iter().next() else { continue };
            let cause = format!("node {from} holds {} replicas and node {to} {}", self.loads[&from], self.loads[&to]);
            self.advise(shard, OperatorWish::Move { from, to }, Origin::Balance, cause);
        }
    }

    /// Leaders go from who should lead most to who should lead at least two fewer.
    fn spread_leaders(&mut self) {
        let mut leads: BTreeMap<NodeId, usize> = self.map.nodes.keys().map(|node| (*node, 0)).collect();
        self.map.shards.values().for_each(|row| *leads.entry(row.leader_wish).or_default() += 1);
        for row in self.map.shards.values() {
            if self.advice.commands.len() >= LEADS_MAX {
                return;
            }
            if self.busy.contains(&row.shard) || row.stage == ShardStage::Creating {
                continue;
            }
            let from = row.leader_wish;
            let to = row.replicas.iter().map(|replica| replica.node).min_by_key(|node| (leads[node], *node));
            let Some(to) = to.filter(|to| leads[to] + 2 <= leads[&from]) else { continue };
            let cause = format!("node {from} leads {} shards and node {to} {}", leads[&from], leads[&to]);
            *leads.entry(from).or_default() -= 1;
            *leads.entry(to).or_default() += 1;
            self.advise(row.shard, OperatorWish::Lead(to), Origin::Balance, cause);
        }
    }

    fn is_creating(&self, shard: ShardId) -> bool {
        self.map.shards.get(&shard).is_some_and(|row| row.stage == ShardStage::Creating)
    }

    fn zone(&self, node: NodeId) -> &'a str {
        self.map.nodes.get(&node).map_or("", |row| row.zone.as_str())
    }

    /// How many other replicas stand in the zone of this node.
    fn zone_mates(&self, replicas: &[ReplicaRow], node: NodeId) -> usize {
        replicas.iter().filter(|row| row.node != node && self.zone(row.node) == self.zone(node)).count()
    }

    /// Whether a replica other than the one that goes stands in the zone of `to`.
    fn is_zone_used(&self, replicas: &[ReplicaRow], from: NodeId, to: NodeId) -> bool {
        replicas.iter().any(|row| row.node != from && self.zone(row.node) == self.zone(to))
    }

    /// Who should take the replica that goes from `from`.
    fn best_target(&self, replicas: &[ReplicaRow], from: NodeId) -> Result<NodeId, String> {
        let free = self.map.nodes.values().filter(|row| {
            let is_fit = row.state == NodeState::Active && !self.lost.contains(&row.node);
            is_fit && replicas.iter().all(|replica| replica.node != row.node)
        });
        let free: Vec<NodeId> = free.map(|row| row.node).collect();
        if free.is_empty() {
            return Err("no other node is up that could take it".to_owned());
        }
        let ready =
            free.iter().copied().filter(|node| self.arriving.get(node).copied().unwrap_or(0) < self.rules.moves_max);
        let best = ready.min_by_key(|node| (self.is_zone_used(replicas, from, *node), self.loads[node], *node));
        best.ok_or_else(|| {
            let names: Vec<String> = free.iter().map(ToString::to_string).collect();
            format!("waits its turn: node {} takes in {} at a time", names.join(", "), self.rules.moves_max)
        })
    }

    /// Advises what the plan would not refuse.
    fn advise(&mut self, shard: ShardId, wish: OperatorWish, origin: Origin, cause: String) {
        let command = MetadataCommand::Operate { shard, wish, origin, cause };
        if let Err(why) = plan(self.map, &command, 0, &self.lost) {
            self.advice.held_up.push(format!("shard {shard}: {why}"));
            return;
        }
        let (from, to) = match wish {
            OperatorWish::Move { from, to } => (Some(from), Some(to)),
            OperatorWish::Add(to) => (None, Some(to)),
            OperatorWish::Remove(from) => (Some(from), None),
            OperatorWish::Lead(_) => (None, None),
        };
        if let Some(node) = from {
            *self.loads.entry(node).or_default() -= 1;
        }
        if let Some(node) = to {
            *self.loads.entry(node).or_default() += 1;
            *self.arriving.entry(node).or_default() += 1;
        }
        self.busy.insert(shard);
        self.advice.commands.push(command);
    }
}

/// Every shard and its replicas, the metadata first.
fn shards(map: &ClusterMap) -> impl Iterator<Item = (ShardId, &[ReplicaRow])> {
    let metadata = std::iter::once((METADATA_SHARD, map.metadata.as_slice()));
    metadata.chain(map.shards.values().map(|row| (row.shard, row.replicas.as_slice())))
}

#[cfg(test)]
#[path = "balance_tests.rs"]
pub(super) mod tests;
