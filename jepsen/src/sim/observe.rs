//! # Observe: what must be true at every step
//!
//! **Invariant.** Looks from outside, at what every node says of itself; keeps what it saw of *all* lives. What is said
//! of shards that were dropped counts no more.

use super::{
    logs::Logs,
    offices::{Offices, Seen},
};
use kvorum_api::{KeyspaceId, LogPosition, NodeId, ReplicaId, ShardId};
use kvorum_consensus::{
    Node,
    metadata::{ClusterMap, METADATA_KEYSPACE, METADATA_SHARD},
    replicator::{ReplicaStatus, Role},
};
use kvorum_storage::Journal;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A node that runs.
pub struct Looked<'a> {
    /// Its number.
    pub id: NodeId,
    /// Itself.
    pub node: &'a Node,
    /// What lies under it.
    pub journal: &'a dyn Journal,
    /// Whether something of its disk was made to fail.
    pub has_failed: bool,
    /// Whether its machine has lost what it had: it is to be refused.
    pub is_doubtful: bool,
}

/// What was ever seen of the nodes.
pub struct Observer {
    /// Who leads, and how far everybody has come.
    offices: Offices,
    /// What lies in the journals.
    logs: Logs,
    /// The rolling hash at each position.
    hashes: BTreeMap<(ShardId, LogPosition), (u128, NodeId)>,
    /// The map at each revision.
    maps: BTreeMap<u64, (Arc<ClusterMap>, NodeId)>,
    /// The revision each running node was seen at last.
    revisions: BTreeMap<NodeId, u64>,
    /// Whether a replica was closed when it was seen last.
    closed: BTreeMap<(NodeId, ShardId), bool>,
    /// Names of keyspaces that were ever on a map.
    pub names: BTreeSet<String>,
    /// Every shard that was ever on a map.
    pub shards: BTreeMap<ShardId, KeyspaceId>,
    /// Groups that were seen to close, and to open again.
    pub closings: usize,
    /// The reverse.
    pub openings: usize,
}

impl Default for Observer {
    fn default() -> Self {
        Observer {
            offices: Offices::default(),
            logs: Logs::default(),
            hashes: BTreeMap::new(),
            maps: BTreeMap::new(),
            revisions: BTreeMap::new(),
            closed: BTreeMap::new(),
            names: BTreeSet::new(),
            shards: BTreeMap::from([(METADATA_SHARD, METADATA_KEYSPACE)]),
            closings: 0,
            openings: 0,
        }
    }
}

impl Observer {
    /// Looks at all nodes that run, at one moment; every sentence is a violation.
    pub fn look<'a>(&mut self, nodes: impl Iterator<Item = Looked<'a>>) -> Vec<String> {
        let (mut found, mut seen) = (Vec::new(), Vec::new());
        for looked in nodes {
            found.extend(self.look_at(&looked, &mut seen));
            found.extend(self.logs.look(looked.id, looked.journal));
        }
        seen.retain(|seen: &Seen| !self.is_dropped(seen.status.shard));
        found.extend(self.offices.look(&seen));
        found
    }

    fn look_at(&mut self, looked: &Looked<'_>, seen: &mut Vec<Seen>) -> Vec<String> {
        let Looked { id, node, .. } = *looked;
        let status = node.status();
        let mut found = Vec::new();
        if let Some(why) = status.refused.filter(|_| !looked.is_doubtful) {
            found.push(format!("honest node {id} was refused: {why}"));
        }
        if !looked.has_failed
            && !looked.is_doubtful
            && let Some(poison) = status.degraded.iter().find(|cause| cause.starts_with("poisoned"))
        {
            found.push(format!("node {id} is {poison}, and its disk never failed"));
        }
        found.extend(self.look_at_map(id, &node.map()));
        for replica in &status.replicas {
            if !self.is_dropped(replica.shard) {
                self.look_at_replica(id, replica, &mut found);
            }
        }
        seen.extend(status.replicas.into_iter().map(|status| {
            let leads = status.role == Role::Leader;
            let trusted_term = node.replica(status.shard).filter(|_| leads).and_then(|replica| replica.trusted_term());
            Seen { node: id, status, trusted_term }
        }));
        found
    }

    /// A life has ended: what comes next on that machine begins anew.
    pub fn forget_life(&mut self, id: NodeId) {
        self.revisions.remove(&id);
        self.offices.forget_life(id);
        self.logs.forget_life(id);
        self.closed.retain(|(node, _), _| *node != id);
    }

    /// A machine has lost what it had.
    pub fn forget_machine(&mut self, id: NodeId) {
        self.forget_life(id);
        self.offices.forget_machine(id);
    }

    /// Whether the newest map knows a replica of a shard; one without a name is any on that node.
    pub fn is_named(&self, node: NodeId, shard: ShardId, replica: Option<ReplicaId>) -> bool {
        let Some(map) = self.newest_map() else { return true };
        match replica {
            Some(replica) => map.replicas_of(shard).iter().any(|row| row.replica == replica),
            None => map.replica_on(shard, node).is_some(),
        }
    }

    /// The newest map that any node had.
    pub fn newest_map(&self) -> Option<&Arc<ClusterMap>> {
        self.maps.last_key_value().map(|(_, (map, _))| map)
    }

    /// Whether the newest map knows a shard no more.
    pub fn is_dropped(&self, shard: ShardId) -> bool {
        shard != METADATA_SHARD && self.newest_map().is_none_or(|map| !map.shards.contains_key(&shard))
    }

    /// The last index of a shard that is known to be decided.
    pub fn decided(&self, shard: ShardId) -> u64 {
        self.offices.decided(shard)
    }

    /// Looks at what a node takes for the newest map.
    pub fn look_at_map(&mut self, id: NodeId, map: &Arc<ClusterMap>) -> Vec<String> {
        let mut found = Vec::new();
        let before = self.revisions.insert(id, map.revision).unwrap_or(0);
        if map.revision < before {
            found.push(format!("the map of node {id} went back from revision {before} to {}", map.revision));
        }
        if !map.is_founded() || (before == map.revision && self.maps.contains_key(&before)) {
            return found;
        }
        let (known, first) = self.maps.entry(map.revision).or_insert_with(|| (Arc::clone(map), id));
        if known != map {
            found.push(format!("nodes {first} and {id} have different maps of revision {}", map.revision));
        }
        self.shards.extend(map.shards.values().map(|row| (row.shard, row.keyspace)));
        self.names.extend(map.keyspaces.values().map(|row| row.name.clone()));
        found
    }

    fn look_at_replica(&mut self, id: NodeId, replica: &ReplicaStatus, found: &mut Vec<String>) {
        let shard = replica.shard;
        let is_closed = replica.role == Role::Closed;
        if let Some(was_closed) = self.closed.insert((id, shard), is_closed) {
            self.closings += usize::from(is_closed && !was_closed);
            self.openings += usize::from(was_closed && !is_closed);
        }
        let state = &replica.state;
        let Some(position) = state.applied.position else { return };
        if state.is_installing {
            return;
        }
        let (hash, first) = *self.hashes.entry((shard, position)).or_insert((state.rolling_hash, id));
        if hash != state.rolling_hash {
            found.push(format!(
                "replicas of shard {shard} differ at {position}: node {first} had {hash:032x}, node {id} has {:032x}",
                state.rolling_hash
            ));
        }
    }
}

/// Where each replica of a node stands, if it is not being rebuilt.
pub fn positions(node: &Node) -> BTreeMap<ShardId, Option<(LogPosition, u128)>> {
    let stands = |replica: &ReplicaStatus| {
        let state = &replica.state;
        state.applied.position.filter(|_| !state.is_installing).map(|position| (position, state.rolling_hash))
    };
    node.status().replicas.iter().map(|replica| (replica.shard, stands(replica))).collect()
}
