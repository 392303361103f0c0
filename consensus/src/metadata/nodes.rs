//! Planning what becomes of nodes: drained, taken back, forgotten; and what all of them are wished to apply. Pure.
//!
//! **Invariant.** Nobody is drained whose replicas have nowhere to go, and nobody who lives is forgotten. Whoever was
//! forgotten is recognised by its id: ids only grow.

use super::{
    map::{Behaviour, ClusterMap, NodeRow, NodeState, Row, RowEdit, RowKey},
    plan::Draft,
    wish::invalid,
};
use kvorum_api::{AdminError, NodeId};
use std::collections::BTreeSet;

/// Nodes that a message names.
const NODES_SHOWN: usize = 16;

impl Draft<'_> {
    pub(super) fn set_node_state(
        &mut self,
        node: NodeId,
        state: NodeState,
        lost: &BTreeSet<NodeId>,
    ) -> Result<(), AdminError> {
        let Some(row) = self.map.nodes.get(&node) else {
            return Err(unknown_node(self.map, node));
        };
        self.node = Some(node);
        let holds = self.holds(node);
        match state {
            NodeState::Active => {}
            NodeState::Draining => self.check_room_without(row, lost)?,
            NodeState::Forgetting => {
                if !lost.contains(&node) {
                    let problem = format!(
                        "node {node} is alive: drain it (kvctl node drain {node}), stop it, and forget it then"
                    );
                    return Err(invalid("node", problem));
                }
                if !holds {
                    self.edits.push(RowEdit::Remove(RowKey::Node(node)));
                    return Ok(());
                }
                self.check_room_without(row, lost)?;
            }
        }
        if row.state != state {
            self.put(Row::Node(NodeRow { state, ..row.clone() }));
        }
        Ok(())
    }

    /// Whether a node holds anything, or is to.
    fn holds(&self, node: NodeId) -> bool {
        let replicas = self.map.shards.values().flat_map(|row| &row.replicas);
        replicas.chain(&self.map.metadata).any(|replica| replica.node == node)
    }

    /// Whether the others can hold what this one does.
    fn check_room_without(&self, leaving: &NodeRow, lost: &BTreeSet<NodeId>) -> Result<(), AdminError> {
        let others = self.map.nodes.values().filter(|row| row.node != leaving.node);
        let left = others.filter(|row| row.state == NodeState::Active && !lost.contains(&row.node)).count();
        let is_here = |keyspace| {
            let mut shards = self.map.shards.values().filter(|row| row.keyspace == keyspace);
            shards.any(|row| row.replicas.iter().any(|replica| replica.node == leaving.node))
        };
        let largest = self.map.keyspaces.values().filter(|row| is_here(row.id)).max_by_key(|row| row.replicas);
        let held_up = largest.filter(|row| row.replicas as usize > left);
        if let Some(row) = held_up {
            let problem = format!(
                "keyspace {:?} has {} replicas of each shard, and without node {} only {left} nodes that are up could hold \
                 them: add a node first",
                row.name, row.replicas, leaving.node
            );
            return Err(invalid("node", problem));
        }
        if left == 0 {
            return Err(invalid("node", format!("node {} is the last one that is up: add a node first", leaving.node)));
        }
        Ok(())
    }

    /// Has every shard apply a newer behaviour, `None` = the newest that every node can.
    pub(super) fn raise_behaviour(
        &mut self,
        wanted: Option<Behaviour>,
        lost: &BTreeSet<NodeId>,
    ) -> Result<(), AdminError> {
        let standing = self.map.behaviour;
        if let Some(wanted) = wanted.filter(|wanted| *wanted < standing) {
            let problem = format!(
                "the cluster applies behaviour {} already, and behaviours are not taken back: {} cannot be asked for",
                standing.0, wanted.0
            );
            return Err(invalid("behaviour", problem));
        }
        let in_the_way = upgrade_obstacles(self.map, lost);
        if !in_the_way.is_empty() {
            return Err(invalid("behaviour", in_the_way.join("; ")));
        }
        let newest = common_behaviour(self.map);
        let wanted = wanted.unwrap_or(newest.max(standing));
        if wanted > newest {
            let behind = self.map.nodes.values().filter(|row| row.behaviour < wanted);
            let behind: Vec<String> =
                behind.map(|row| format!("node {} ({:?}, up to {})", row.node, row.build, row.behaviour.0)).collect();
            let problem = format!(
                "not every node can apply behaviour {}: {}. Upgrade them, or forget them, first",
                wanted.0,
                behind.join(", ")
            );
            return Err(invalid("behaviour", problem));
        }
        if wanted > standing {
            self.put(Row::Behaviour(wanted));
        }
        Ok(())
    }
}

/// The newest behaviour that every node of the cluster says it can apply.
#[must_use]
pub fn common_behaviour(map: &ClusterMap) -> Behaviour {
    map.nodes.values().map(|row| row.behaviour).min().unwrap_or(map.behaviour)
}

/// Why nobody knows what all nodes can apply: those that have not said it, and those that do not answer. A dead node
/// may come back with any build, so it holds an upgrade up until it is forgotten.
#[must_use]
pub fn upgrade_obstacles(map: &ClusterMap, lost: &BTreeSet<NodeId>) -> Vec<String> {
    let obstacle = |row: &NodeRow| {
        let node = row.node;
        if lost.contains(&node) {
            return Some(format!(
                "node {node} does not answer, and may come back with an older build: start it, or forget it first \
                 (kvctl node forget {node})"
            ));
        }
        let why = format!("node {node} has not said yet which behaviours it can apply: wait until it has");
        row.build.is_empty().then_some(why)
    };
    map.nodes.values().filter_map(obstacle).collect()
}

/// Why a node of this build must not go on in a cluster of that map; `None` = it may.
#[must_use]
pub fn too_old_for(map: &ClusterMap, can: Behaviour) -> Option<String> {
    (map.behaviour > can).then(|| {
        format!(
            "this build applies behaviours up to {}, and the cluster has been raised to {}: start a newer build",
            can.0, map.behaviour.0
        )
    })
}

/// A node that is none, and those that are.
pub(super) fn unknown_node(map: &ClusterMap, node: NodeId) -> AdminError {
    let known: Vec<String> = map.nodes.keys().take(NODES_SHOWN).map(ToString::to_string).collect();
    let more = map.nodes.len() - known.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let is_gone = if map.has_forgotten(node) { " any more, it was forgotten" } else { "" };
    AdminError::NotFound { what: format!("node {node}{is_gone}: the cluster has {}{more}", known.join(", ")) }
}
