//! The map: nodes, keyspaces, shards, at one revision.
//!
//! **Invariant.** A plain value: no lock, no clock, no opinion. The shards of a keyspace cover every placement key
//! once. A node holds at most one replica of a shard.

use super::{METADATA_SHARD, operator::OperatorRow};
use bytes::Bytes;
use kvorum_api::{
    KeyspaceId, Limits, Mode, NodeId, OperatorId, PlacementRange, ReadLevel, ReplicaId, ShardId, Sharding,
};
use kvorum_storage::{command::Images, shard::BEHAVIOUR};
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
    /// Where the metadata itself is: the replicas of group 0.
    pub metadata: Vec<ReplicaRow>,
    /// What is being done to shards, and what was done last.
    pub operators: BTreeMap<OperatorId, OperatorRow>,
    /// The behaviour that all shards are wished to apply; every node of the cluster can.
    pub behaviour: Behaviour,
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
    /// The next operator's id.
    pub next_operator: OperatorId,
}

/// The behaviour of `apply` that the cluster has agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Behaviour(pub u32);

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour(1)
    }
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            serial: 0,
            next_node: NodeId(1),
            next_keyspace: KeyspaceId(1),
            next_shard: ShardId(1),
            next_replica: ReplicaId(1),
            next_operator: OperatorId(1),
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
    Metadata(Vec<ReplicaRow>),
    /// The counters.
    Counters(Counters),
    /// An operator.
    Operator(OperatorRow),
    /// What all shards are wished to apply.
    Behaviour(Behaviour),
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
    /// An operator.
    Operator(OperatorId),
    /// What all shards are wished to apply.
    Behaviour,
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
            Row::Operator(row) => RowKey::Operator(row.id),
            Row::Behaviour(_) => RowKey::Behaviour,
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
    /// What is to become of it.
    pub state: NodeState,
    /// The newest behaviour that its build can apply.
    pub behaviour: Behaviour,
    /// Its build, for people.
    pub build: String,
}

/// What is to become of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeState {
    /// It may hold replicas.
    #[default]
    Active,
    /// Its replicas go elsewhere, and it gets no new ones.
    Draining,
    /// As draining; once it holds nothing it is forgotten, and never let in again.
    Forgetting,
}

/// One replica of a shard: who holds it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaRow {
    /// Its id, never reused.
    pub replica: ReplicaId,
    /// The node that holds it.
    pub node: NodeId,
    /// How it stands.
    pub standing: Standing,
}

/// How a replica stands, as the map says; who votes is Raft's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is one of the shard's replicas.
    Member,
    /// It is to become one: it is made, and catches up.
    Joining,
    /// It is one until another, or fewer, will do.
    Leaving,
}

impl ReplicaRow {
    /// One that is wholly in.
    #[must_use]
    pub fn member((replica, node): (ReplicaId, NodeId)) -> Self {
        ReplicaRow { replica, node, standing: Standing::Member }
    }

    /// Those of a shard that was just founded.
    #[must_use]
    pub fn members(founders: &[(ReplicaId, NodeId)]) -> Vec<Self> {
        founders.iter().copied().map(ReplicaRow::member).collect()
    }

    /// Which replica it is, and where.
    #[must_use]
    pub fn seat(&self) -> (ReplicaId, NodeId) {
        (self.replica, self.node)
    }

    /// Whether it counts among the shard's replicas: everybody but who is still to come.
    #[must_use]
    pub fn is_in(&self) -> bool {
        self.standing != Standing::Joining
    }
}

impl NodeRow {
    /// A node as it comes in, with what this build can do.
    #[must_use]
    pub fn of_this_build(node: NodeId, client: String, peer: String, zone: String, directory: u128) -> Self {
        let build = env!("CARGO_PKG_VERSION").to_owned();
        NodeRow {
            node,
            client,
            peer,
            zone,
            directory,
            state: NodeState::Active,
            behaviour: Behaviour(BEHAVIOUR),
            build,
        }
    }
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
    /// Its replicas now.
    pub replicas: Vec<ReplicaRow>,
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
        let replicas = self.shards.values().flat_map(|row| &row.replicas);
        replicas.chain(&self.metadata).filter(|replica| replica.is_in()).map(|replica| replica.node).collect()
    }

    /// The replicas of a shard, be it the metadata's; none of one that there is not.
    #[must_use]
    pub fn replicas_of(&self, shard: ShardId) -> &[ReplicaRow] {
        if shard == METADATA_SHARD {
            return &self.metadata;
        }
        self.shards.get(&shard).map_or(&[], |row| &row.replicas)
    }

    /// Whether it has given that replica its id, and names it no more.
    #[must_use]
    pub fn has_dropped(&self, shard: ShardId, replica: ReplicaId) -> bool {
        let is_named = self.replicas_of(shard).iter().any(|row| row.replica == replica);
        self.is_founded() && replica < self.counters.next_replica && !is_named
    }

    /// The unfinished operator of a shard.
    #[must_use]
    pub fn operator_of(&self, shard: ShardId) -> Option<&OperatorRow> {
        self.operators.values().find(|row| row.shard == shard && row.is_open())
    }

    /// Whether a node was let in once and is none of the cluster any more: ids only grow.
    #[must_use]
    pub fn has_forgotten(&self, node: NodeId) -> bool {
        node < self.counters.next_node && !self.nodes.contains_key(&node)
    }

    /// Takes one edit in. The revision is the caller's: it knows where the edit came from.
    pub fn apply(&mut self, edit: RowEdit) {
        match edit {
            RowEdit::Put(Row::Node(row)) => drop(self.nodes.insert(row.node, row)),
            RowEdit::Put(Row::Keyspace(row)) => drop(self.keyspaces.insert(row.id, row)),
            RowEdit::Put(Row::Shard(row)) => drop(self.shards.insert(row.shard, row)),
            RowEdit::Put(Row::Metadata(replicas)) => self.metadata = replicas,
            RowEdit::Put(Row::Counters(counters)) => self.counters = counters,
            RowEdit::Put(Row::Operator(row)) => drop(self.operators.insert(row.id, row)),
            RowEdit::Put(Row::Behaviour(behaviour)) => self.behaviour = behaviour,
            RowEdit::Remove(RowKey::Node(node)) => drop(self.nodes.remove(&node)),
            RowEdit::Remove(RowKey::Keyspace(keyspace)) => drop(self.keyspaces.remove(&keyspace)),
            RowEdit::Remove(RowKey::Shard(shard)) => drop(self.shards.remove(&shard)),
            RowEdit::Remove(RowKey::Metadata) => self.metadata.clear(),
            RowEdit::Remove(RowKey::Counters) => self.counters = Counters::default(),
            RowEdit::Remove(RowKey::Operator(operator)) => drop(self.operators.remove(&operator)),
            RowEdit::Remove(RowKey::Behaviour) => self.behaviour = Behaviour::default(),
        }
    }

    /// Every row, in the order of the rows' kinds: the map is the fold of them.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let nodes = self.nodes.values().cloned().map(Row::Node);
        let keyspaces = self.keyspaces.values().cloned().map(Row::Keyspace);
        let shards = self.shards.values().cloned().map(Row::Shard);
        let metadata = std::iter::once_with(|| Row::Metadata(self.metadata.clone()));
        let operators = self.operators.values().cloned().map(Row::Operator);
        let last = [Row::Behaviour(self.behaviour), Row::Counters(self.counters)];
        nodes.chain(keyspaces).chain(shards).chain(metadata).chain(operators).chain(last)
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
        self.replicas_of(shard).iter().find(|replica| replica.node == node).map(|replica| replica.replica)
    }
}
