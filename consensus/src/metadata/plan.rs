//! Plan: what a change would make of the map. Pure.
//!
//! ```text
//!   map, command, now, who is lost ──▶ refused: field, limit, the nearest thing that works
//!                                  └─▶ row edits, the counters last: one batch
//! ```
//!
//! **Invariant.** The same map and command give the same edits. A plan without edits is of a change that is made
//! already. Every other plan writes the counters, so of two plans from one map only one can be carried out. Ids only
//! grow: nothing that was dropped comes back under its number.

use super::{
    Founding, KeyspaceWish, MetadataCommand,
    map::{
        ClusterMap, Counters, KeyspaceRow, NodeRow, NodeState, ReplicaRow, Row, RowEdit, RowKey, ShardRow, ShardStage,
    },
    placement::{Candidate, Placed, place},
    wish::{self, CLUSTER_SHARDS_MAX, Cut},
};
use kvorum_api::{AdminError, KeyspaceId, Limits, Mode, NodeId, OperatorId, ReplicaId, ShardId};
use kvorum_storage::command::Images;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes of one cluster, at most.
pub const NODES_MAX: usize = 256;

/// Bytes of an address or of a zone.
const TEXT_BYTES_MAX: usize = 255;

/// What a change would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The rows, the counters last; empty = the change is made already.
    pub edits: Vec<RowEdit>,
    /// The keyspace it is about.
    pub keyspace: Option<KeyspaceId>,
    /// The node it is about.
    pub node: Option<NodeId>,
    /// The operator it is about.
    pub operator: Option<OperatorId>,
}

/// Plans one change.
///
/// # Errors
/// What the command asks for and cannot be.
pub fn plan(
    map: &ClusterMap,
    command: &MetadataCommand,
    now_ms: u64,
    lost: &BTreeSet<NodeId>,
) -> Result<Plan, AdminError> {
    let mut draft = Draft::new(map);
    match command {
        MetadataCommand::CreateKeyspace { name, wish } => draft.create(name, wish, now_ms, lost)?,
        MetadataCommand::AlterKeyspace { name, wish } => draft.alter(name, wish)?,
        MetadataCommand::DropKeyspace { name } => draft.drop_keyspace(name, now_ms)?,
        MetadataCommand::Join { directory, client, peer, zone } => {
            // What its build can do it says itself once it is in: until then it is taken for as old as may be.
            let row = NodeRow {
                behaviour: map.behaviour,
                build: String::new(),
                ..NodeRow::of_this_build(NodeId(0), client.clone(), peer.clone(), zone.clone(), *directory)
            };
            draft.join(row, lost)?;
        }
        MetadataCommand::Announce { node, client, peer, zone, behaviour, build } => {
            let (client, peer, zone, build) = (client.clone(), peer.clone(), zone.clone(), build.clone());
            let (node, behaviour, state) = (*node, *behaviour, NodeState::Active);
            draft.announce(NodeRow { node, client, peer, zone, directory: 0, state, behaviour, build })?;
        }
        MetadataCommand::Operate { shard, wish, origin, cause } => {
            draft.operate(*shard, *wish, (*origin, cause), now_ms, lost)?;
        }
        MetadataCommand::CancelOperator { operator } => draft.cancel(*operator)?,
        MetadataCommand::OperatorEnded { operator, ending } => draft.ended(*operator, ending, now_ms),
        MetadataCommand::SetNodeState { node, state } => draft.set_node_state(*node, *state, lost)?,
        MetadataCommand::RaiseBehaviour { behaviour } => draft.raise_behaviour(*behaviour, lost)?,
        MetadataCommand::ShardsReady { shards } => draft.shards_ready(shards),
    }
    Ok(draft.finish())
}

/// Plans the first change of all: the first nodes, where the metadata is, the first keyspaces.
///
/// # Errors
/// What the founding asks for and cannot be.
pub fn found(founding: &Founding, now_ms: u64) -> Result<Plan, AdminError> {
    let mut map = ClusterMap::default();
    let mut edits = Vec::new();
    let mut take = |map: &mut ClusterMap, edit: RowEdit| {
        map.apply(edit.clone());
        edits.push(edit);
    };
    if founding.nodes.is_empty() {
        return Err(wish::invalid("nodes", "a cluster is founded by at least one node"));
    }
    for row in &founding.nodes {
        check_addresses(row)?;
        if map.nodes.contains_key(&row.node) {
            return Err(wish::invalid(
                "nodes",
                format!("node {} is listed twice: give every node its own id", row.node),
            ));
        }
        take(&mut map, RowEdit::Put(Row::Node(row.clone())));
    }
    take(&mut map, RowEdit::Put(Row::Metadata(ReplicaRow::members(&founding.metadata()))));
    map.counters = founding.first_counters();
    for (name, wish) in &founding.keyspaces {
        let mut draft = Draft::new(&map);
        draft.create(name, wish, now_ms, &BTreeSet::new())?;
        let (rows, counters) = (draft.edits, draft.counters);
        rows.into_iter().for_each(|edit| take(&mut map, edit));
        map.counters = counters;
    }
    map.counters.serial = 1;
    edits.push(RowEdit::Put(Row::Counters(map.counters)));
    Ok(Plan { edits, ..Plan::default() })
}

impl Founding {
    /// The founding replicas of group 0: on the first five nodes by id, or three, or one.
    #[must_use]
    pub fn metadata(&self) -> Vec<(ReplicaId, NodeId)> {
        let nodes: BTreeSet<NodeId> = self.nodes.iter().map(|row| row.node).collect();
        (1..).map(ReplicaId).zip(nodes.iter().copied()).take(metadata_replicas(nodes.len())).collect()
    }

    /// Checks everything that the founding would make, so that a node can refuse it before it starts.
    ///
    /// # Errors
    /// What it asks for and cannot be.
    pub fn check(&self) -> Result<(), AdminError> {
        found(self, 0).map(drop)
    }

    /// Founders keep the ids they were configured with; everything later comes above them.
    fn first_counters(&self) -> Counters {
        let last = self.nodes.iter().map(|row| row.node.0).max().unwrap_or(0);
        Counters {
            next_node: NodeId(last + 1),
            next_replica: ReplicaId(METADATA_REPLICAS_MAX + 1),
            ..Counters::default()
        }
    }
}

/// Replicas of group 0 on the first nodes, at most.
const METADATA_REPLICAS_MAX: u64 = 5;

/// How many replicas the metadata has on a cluster of so many nodes that may hold some.
#[must_use]
pub fn metadata_replicas(nodes: usize) -> usize {
    match nodes {
        0 => 0,
        1 | 2 => 1,
        3 | 4 => 3,
        _ => METADATA_REPLICAS_MAX as usize,
    }
}

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub(super) map: &'a ClusterMap,
    pub(super) edits: Vec<RowEdit>,
    pub(super) counters: Counters,
    pub(super) keyspace: Option<KeyspaceId>,
    pub(super) node: Option<NodeId>,
    pub(super) operator: Option<OperatorId>,
}

impl<'a> Draft<'a> {
    fn new(map: &'a ClusterMap) -> Self {
        Draft { map, edits: Vec::new(), counters: map.counters, keyspace: None, node: None, operator: None }
    }

    pub(super) fn put(&mut self, row: Row) {
        self.edits.push(RowEdit::Put(row));
    }

    fn finish(mut self) -> Plan {
        if !self.edits.is_empty() {
            self.counters.serial += 1;
            self.put(Row::Counters(self.counters));
        }
        Plan { edits: self.edits, keyspace: self.keyspace, node: self.node, operator: self.operator }
    }

    fn create(
        &mut self,
        name: &str,
        wish: &KeyspaceWish,
        now_ms: u64,
        lost: &BTreeSet<NodeId>,
    ) -> Result<(), AdminError> {
        wish::check_name(name)?;
        wish::check_values(wish)?;
        if self.map.keyspace(name).is_some() {
            return Err(AdminError::Exists { what: format!("keyspace {name:?}") });
        }
        let Cut { sharding, ranges } = wish::cut(wish)?;
        let total = self.map.shards.len() + ranges.len();
        if total > CLUSTER_SHARDS_MAX {
            let room = CLUSTER_SHARDS_MAX.saturating_sub(self.map.shards.len());
            let problem = format!(
                "{} shards would make {total} in the cluster, the limit is {CLUSTER_SHARDS_MAX}: ask for at most {room}",
                ranges.len()
            );
            return Err(wish::invalid("shards", problem));
        }
        let active = self.map.nodes.values().filter(|row| row.state == NodeState::Active).count();
        let replicas = wish::replicas(wish, active)?;
        let id = self.counters.next_keyspace;
        self.counters.next_keyspace = KeyspaceId(id.0 + 1);
        self.keyspace = Some(id);
        self.put(Row::Keyspace(KeyspaceRow {
            id,
            name: name.to_owned(),
            mode: Mode::Cp,
            sharding,
            replicas,
            read_level: wish.read_level.unwrap_or(kvorum_api::ReadLevel::Linearizable),
            limits: wish::limits(wish, Limits::default()),
            images: wish.images.unwrap_or(Images::Keys),
            has_leases: wish.has_leases.unwrap_or(false),
            created_ms: now_ms,
        }));
        let placed = place(&candidates(self.map, lost), ranges.len(), replicas as usize);
        for (range, placed) in ranges.into_iter().zip(placed) {
            let shard = self.new_shard(&placed);
            self.put(Row::Shard(ShardRow { keyspace: id, range, ..shard }));
        }
        Ok(())
    }

    /// Ids for a shard and its replicas. Whoever should lead founds the group, and so is the first to stand.
    fn new_shard(&mut self, placed: &Placed) -> ShardRow {
        let counters = &mut self.counters;
        let shard = counters.next_shard;
        counters.next_shard = ShardId(shard.0 + 1);
        let founders = placed.nodes.iter().map(|node| {
            let replica = counters.next_replica;
            counters.next_replica = ReplicaId(replica.0 + 1);
            (replica, *node)
        });
        let founders: Vec<(ReplicaId, NodeId)> = founders.collect();
        ShardRow {
            shard,
            keyspace: KeyspaceId(0),
            range: kvorum_api::PlacementRange::all(),
            epoch: 1,
            incarnation: 0,
            replicas: ReplicaRow::members(&founders),
            founders,
            leader_wish: placed.leader_wish(),
            stage: ShardStage::Creating,
        }
    }

    fn alter(&mut self, name: &str, wish: &KeyspaceWish) -> Result<(), AdminError> {
        let row = self.existing(name)?;
        wish::check_values(wish)?;
        wish::check_unalterable(wish, row, self.map.shards_of(row.id).len())?;
        let altered = KeyspaceRow {
            read_level: wish.read_level.unwrap_or(row.read_level),
            limits: wish::limits(wish, row.limits),
            images: wish.images.unwrap_or(row.images),
            has_leases: wish.has_leases.unwrap_or(row.has_leases),
            ..row.clone()
        };
        self.keyspace = Some(row.id);
        if altered != *row {
            self.put(Row::Keyspace(altered));
        }
        Ok(())
    }

    fn drop_keyspace(&mut self, name: &str, now_ms: u64) -> Result<(), AdminError> {
        let id = self.existing(name)?.id;
        self.keyspace = Some(id);
        self.end_operators_of(id, now_ms);
        let shards = self.map.shards.values().filter(|row| row.keyspace == id);
        self.edits.extend(shards.map(|row| RowEdit::Remove(RowKey::Shard(row.shard))));
        self.edits.push(RowEdit::Remove(RowKey::Keyspace(id)));
        Ok(())
    }

    fn existing(&self, name: &str) -> Result<&'a KeyspaceRow, AdminError> {
        self.map.keyspace(name).ok_or_else(|| AdminError::NotFound { what: wish::unknown_keyspace(self.map, name) })
    }

    /// The same directory gets the same id, however often it asks; what it says of itself is taken anew.
    fn join(&mut self, said: NodeRow, lost: &BTreeSet<NodeId>) -> Result<(), AdminError> {
        check_addresses(&said)?;
        if said.directory == 0 {
            return Err(wish::invalid(
                "directory",
                "0 is no directory: make 16 random bytes and keep them before asking",
            ));
        }
        let known = self.map.nodes.values().find(|row| row.directory == said.directory);
        let node = match known {
            Some(row) => row.node,
            None => {
                self.check_is_no_member(&said, lost)?;
                self.new_node()?
            }
        };
        self.node = Some(node);
        let row = match known {
            Some(known) => {
                NodeRow { node, state: known.state, behaviour: known.behaviour, build: known.build.clone(), ..said }
            }
            None => NodeRow { node, ..said },
        };
        if known != Some(&row) {
            self.put(Row::Node(row));
        }
        Ok(())
    }

    /// Two nodes at one address are one too many. A member that does not answer may be replaced where it stood.
    fn check_is_no_member(&self, said: &NodeRow, lost: &BTreeSet<NodeId>) -> Result<(), AdminError> {
        let mut members = self.map.nodes.values().filter(|row| !lost.contains(&row.node));
        let Some(member) = members.find(|row| row.peer == said.peer || row.client == said.client) else {
            return Ok(());
        };
        let (field, address) = match member.peer == said.peer {
            true => ("peer", &said.peer),
            false => ("client", &said.client),
        };
        let node = member.node;
        let problem = format!(
            "{address} is the address of node {node}, which is a member: start that one on its own data directory, give \
             this one another address, or, if node {node} is gone for good, wait until the others miss it and ask again"
        );
        Err(wish::invalid(field, problem))
    }

    fn new_node(&mut self) -> Result<NodeId, AdminError> {
        if self.map.nodes.len() >= NODES_MAX {
            return Err(wish::invalid("nodes", format!("the cluster has {NODES_MAX} nodes, which is the limit")));
        }
        let node = self.counters.next_node;
        self.counters.next_node = NodeId(node.0 + 1);
        Ok(node)
    }

    /// It says where it is and what it can do; what is to become of it is not its own to say.
    fn announce(&mut self, said: NodeRow) -> Result<(), AdminError> {
        let node = said.node;
        let Some(known) = self.map.nodes.get(&node) else {
            let what = if self.map.has_forgotten(node) {
                format!("node {node} any more: it was forgotten. Empty its data directory and start it with --join")
            } else {
                format!("node {node}: start it with --join to give it an id")
            };
            return Err(AdminError::NotFound { what });
        };
        let row = NodeRow { directory: known.directory, state: known.state, ..said };
        check_addresses(&row)?;
        if row.build.len() > TEXT_BYTES_MAX {
            return Err(wish::invalid("build", format!("{} bytes: use at most {TEXT_BYTES_MAX}", row.build.len())));
        }
        if row.behaviour < self.map.behaviour {
            let (can, asked) = (row.behaviour.0, self.map.behaviour.0);
            let problem = format!(
                "build {:?} applies behaviours up to {can}, and the cluster has been raised to {asked}: start a newer build",
                row.build
            );
            return Err(wish::invalid("build", problem));
        }
        self.node = Some(node);
        if row != *known {
            self.put(Row::Node(row));
        }
        Ok(())
    }

    /// A shard that is gone, or known to be ready, needs nothing.
    fn shards_ready(&mut self, shards: &[ShardId]) {
        for shard in shards.iter().collect::<BTreeSet<_>>() {
            if let Some(row) = self.map.shards.get(shard).filter(|row| row.stage == ShardStage::Creating) {
                self.put(Row::Shard(ShardRow { stage: ShardStage::Ready, ..row.clone() }));
            }
        }
    }
}

/// The nodes, and what the map has put on them. Who is not to keep what it holds gets nothing, like one that is lost.
pub(super) fn candidates(map: &ClusterMap, lost: &BTreeSet<NodeId>) -> Vec<Candidate> {
    let mut loads: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
    for row in map.shards.values() {
        row.replicas.iter().for_each(|replica| loads.entry(replica.node).or_default().0 += 1);
        loads.entry(row.leader_wish).or_default().1 += 1;
    }
    let candidates = map.nodes.values().map(|row| {
        let (replicas, leads) = loads.get(&row.node).copied().unwrap_or_default();
        let is_lost = lost.contains(&row.node) || row.state != NodeState::Active;
        Candidate { node: row.node, zone: row.zone.clone(), replicas, leads, is_lost }
    });
    candidates.collect()
}

fn check_addresses(row: &NodeRow) -> Result<(), AdminError> {
    for (field, address) in [("client", &row.client), ("peer", &row.peer)] {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) || address.len() > TEXT_BYTES_MAX {
            let problem = format!("{address:?} is no address: write HOST:PORT, for instance 10.0.0.4:7201");
            return Err(wish::invalid(field, problem));
        }
    }
    if row.zone.len() > TEXT_BYTES_MAX || row.zone.chars().any(char::is_control) {
        return Err(wish::invalid("zone", format!("{:?}: use at most {TEXT_BYTES_MAX} printable bytes", row.zone)));
    }
    Ok(())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
