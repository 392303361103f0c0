//! The map: nodes, keyspaces, shards, at one revision.
//!
//! **Invariant.** A plain value: no lock, no clock, no opinion. The shards of a keyspace cover every placement key
//! once.

use bytes::Bytes;
use kvorum_api::{KeyspaceId, Limits, Mode, NodeId, PlacementRange, ReadLevel, ReplicaId, ShardId, Sharding};
use kvorum_storage::command::Images;
use std::collections::{BTreeMap, BTreeSet};

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
    /// The next ids, and how many changes were made.
    pub counters: Counters,
}

/// The ids that were never given, and the number of changes: every change writes it, which makes changes serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Changes made so far; 0 = the metadata is not founded yet.
    pub serial: u64,
    /// The next node's id.
    pub next_node: NodeId,
    /// The next keyspace's number.
    pub next_keyspace: KeyspaceId,
    /// The next shard's id.
    pub next_shard: ShardId,
    /// The next replica's id.
    pub next_replica: ReplicaId,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            serial: 0,
            next_node: NodeId(1),
            next_keyspace: KeyspaceId(1),
            next_shard: ShardId(1),
            next_replica: ReplicaId(1),
        }
    }
}

/// One row of group 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// A node.
    Node(NodeRow),
    /// A keyspace.
    Keyspace(KeyspaceRow),
    /// A shard.
    Shard(ShardRow),
    /// Where the metadata is.
    Metadata(Vec<(ReplicaId, NodeId)>),
    /// The counters.
    Counters(Counters),
}

/// The name of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKey {
    /// A node.
    Node(NodeId),
    /// A keyspace.
    Keyspace(KeyspaceId),
    /// A shard.
    Shard(ShardId),
    /// Where the metadata is.
    Metadata,
    /// The counters.
    Counters,
}

/// What becomes of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowEdit {
    /// It is this now.
    Put(Row),
    /// It is gone.
    Remove(RowKey),
}

impl Row {
    /// Its name.
    #[must_use]
    pub fn key(&self) -> RowKey {
        match self {
            Row::Node(row) => RowKey::Node(row.node),
            Row::Keyspace(row) => RowKey::Keyspace(row.id),
            Row::Shard(row) => RowKey::Shard(row.shard),
            Row::Metadata(_) => RowKey::Metadata,
            Row::Counters(_) => RowKey::Counters,
        }
    }
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
    /// Whether the metadata was founded: a map without it is what the configuration says.
    #[must_use]
    pub fn is_founded(&self) -> bool {
        self.counters.serial > 0
    }

    /// The nodes that hold something: a replica, or a part of the metadata.
    #[must_use]
    pub fn holders(&self) -> BTreeSet<NodeId> {
        let founders = self.shards.values().flat_map(|row| &row.founders);
        founders.chain(&self.metadata).map(|(_, node)| *node).collect()
    }

    /// Takes one edit in. The revision is the caller's: it knows where the edit came from.
    pub fn apply(&mut self, edit: RowEdit) {
        match edit {
            RowEdit::Put(Row::Node(row)) => drop(self.nodes.insert(row.node, row)),
            RowEdit::Put(Row::Keyspace(row)) => drop(self.keyspaces.insert(row.id, row)),
            RowEdit::Put(Row::Shard(row)) => drop(self.shards.insert(row.shard, row)),
            RowEdit::Put(Row::Metadata(replicas)) => self.metadata = replicas,
            RowEdit::Put(Row::Counters(counters)) => self.counters = counters,
            RowEdit::Remove(RowKey::Node(node)) => drop(self.nodes.remove(&node)),
            RowEdit::Remove(RowKey::Keyspace(keyspace)) => drop(self.keyspaces.remove(&keyspace)),
            RowEdit::Remove(RowKey::Shard(shard)) => drop(self.shards.remove(&shard)),
            RowEdit::Remove(RowKey::Metadata) => self.metadata.clear(),
            RowEdit::Remove(RowKey::Counters) => self.counters = Counters::default(),
        }
    }

    /// Every row, in the order of the rows' kinds: the map is the fold of them.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let nodes = self.nodes.values().cloned().map(Row::Node);
        let keyspaces = self.keyspaces.values().cloned().map(Row::Keyspace);
        let shards = self.shards.values().cloned().map(Row::Shard);
        let metadata = std::iter::once_with(|| Row::Metadata(self.metadata.clone()));
        let counters = std::iter::once(Row::Counters(self.counters));
        nodes.chain(keyspaces).chain(shards).chain(metadata).chain(counters)
    }

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
