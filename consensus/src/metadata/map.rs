//! The map: nodes, keyspaces, shards, at one revision.
//!
//! **Invariant.** A plain value: no lock, no clock, no opinion. The shards of a keyspace cover every placement key once.

use bytes::Bytes;
use kvorum_api::{KeyspaceId, Limits, Mode, NodeId, PlacementRange, ReadLevel, ReplicaId, ShardId, Sharding};
use kvorum_storage::command::Images;
use std::collections::BTreeMap;

/// What the cluster has agreed about itself, at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterMap {
    /// Grows with every change: the seq after the last change of group 0's diary that is in it.
    pub revision: u64,
    /// Every node that was ever let in and not forgotten.
    pub nodes: BTreeMap<NodeId, NodeRow>,
    /// Every keyspace.
    pub keyspaces: BTreeMap<KeyspaceId, KeyspaceRow>,
    /// Every shard of every keyspace.
    pub shards: BTreeMap<ShardId, ShardRow>,
    /// Where the metadata itself is: the founding replicas of group 0.
    pub metadata: Vec<(ReplicaId, NodeId)>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Its id, never reused.
    pub node: NodeId,
    /// Client address, `host:port`.
    pub client: String,
    /// Peer address, `host:port`.
    pub peer: String,
    /// Where it stands; replicas are spread over zones.
    pub zone: String,
    /// Made by a directory that joined; 0 for a founder.
    pub directory: u128,
}

/// One keyspace: the wish. What its shards have made of it is their replicated settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceRow {
    /// Its number, never reused.
    pub id: KeyspaceId,
    /// Its name.
    pub name: String,
    /// Its promise.
    pub mode: Mode,
    /// How keys are placed.
    pub sharding: Sharding,
    /// Replicas of each shard.
    pub replicas: u32,
    /// Level of a read that names none.
    pub read_level: ReadLevel,
    /// What requests are checked against.
    pub limits: Limits,
    /// Images of a change record.
    pub images: Images,
    /// Whether linearizable reads may be answered by the leader's lease.
    pub has_leases: bool,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// How far the making of a shard has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardStage {
    /// Its group may be initialized by its first founder (rule G8).
    Creating,
    /// Its group has been founded: it is never initialized again.
    Ready,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardRow {
    /// Its id, never reused; its group has the same number.
    pub shard: ShardId,
    /// Its keyspace.
    pub keyspace: KeyspaceId,
    /// Its range.
    pub range: PlacementRange,
    /// Grows with every change of the range.
    pub epoch: u64,
    /// Grows when a lost majority is recovered by a new group.
    pub incarnation: u32,
    /// The founding replicas, immutable; the first one initializes.
    pub founders: Vec<(ReplicaId, NodeId)>,
    /// The node that should lead, so that leaders are spread evenly.
    pub leader_wish: NodeId,
    /// How far its making has come.
    pub stage: ShardStage,
}

impl ClusterMap {
    /// The keyspace of that name.
    #[must_use]
    pub fn keyspace(&self, name: &str) -> Option<&KeyspaceRow> {
        self.keyspaces.values().find(|row| row.name == name)
    }

    /// The shards of a keyspace, in placement order.
    #[must_use]
    pub fn shards_of(&self, keyspace: KeyspaceId) -> Vec<&ShardRow> {
        let mut shards: Vec<&ShardRow> = self.shards.values().filter(|row| row.keyspace == keyspace).collect();
        shards.sort_by(|left, right| left.range.start.cmp(&right.range.start));
        shards
    }

    /// The shard of a placement key.
    #[must_use]
    pub fn shard_of(&self, keyspace: KeyspaceId, placement: &Bytes) -> Option<&ShardRow> {
        self.shards.values().find(|row| row.keyspace == keyspace && row.range.contains(placement))
    }

    /// The replica of a shard on a node, if it has one there.
    #[must_use]
    pub fn replica_on(&self, shard: ShardId, node: NodeId) -> Option<ReplicaId> {
        let founders = &self.shards.get(&shard)?.founders;
        founders.iter().find(|(_, holder)| *holder == node).map(|(replica, _)| *replica)
    }
}
