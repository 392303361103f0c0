//! # Observe: what must be true at every step
//!
//! **Invariant.** Looks from outside, at what every node says of itself; keeps what it saw of *all* lives.

use kvorum_api::{LogPosition, NodeId};
use kvorum_consensus::{
    Node,
    replicator::{ReplicaStatus, Role},
};
use std::collections::BTreeMap;

/// What was ever seen of the replicas.
#[derive(Default)]
pub struct Observer {
    /// Who led in each term.
    leaders: BTreeMap<u64, NodeId>,
    /// The rolling hash at each position.
    hashes: BTreeMap<LogPosition, (u128, NodeId)>,
}

impl Observer {
    /// Looks at one node; every sentence is a violation.
    pub fn look(&mut self, id: NodeId, node: &Node) -> Vec<String> {
        let status = node.status();
        let mut found = Vec::new();
        if let Some(why) = status.refused {
            found.push(format!("honest node {id} was refused: {why}"));
        }
        if let Some(poison) = status.degraded.iter().find(|cause| cause.starts_with("poisoned")) {
            found.push(format!("node {id} is {poison}, and its disk never failed"));
        }
        for replica in &status.replicas {
            self.look_at_replica(id, replica, &mut found);
        }
        found
    }

    fn look_at_replica(&mut self, id: NodeId, replica: &ReplicaStatus, found: &mut Vec<String>) {
        if replica.role == Role::Leader {
            let leader = *self.leaders.entry(replica.term).or_insert(id);
            if leader != id {
                found.push(format!("term {} has two leaders: nodes {leader} and {id}", replica.term));
            }
        }
        let state = &replica.state;
        let Some(position) = state.applied.position else { return };
        if state.is_installing {
            return;
        }
        let (hash, first) = *self.hashes.entry(position).or_insert((state.rolling_hash, id));
        if hash != state.rolling_hash {
            found.push(format!(
                "replicas differ at {position}: node {first} had {hash:032x}, node {id} has {:032x}",
                state.rolling_hash
            ));
        }
    }
}

/// Where a node stands, if it holds one replica that is not being rebuilt.
pub fn position(node: &Node) -> Option<(LogPosition, u128)> {
    let status = node.status();
    let state = &status.replicas.first()?.state;
    if state.is_installing {
        return None;
    }
    Some((state.applied.position?, state.rolling_hash))
}
