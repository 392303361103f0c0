//! A house without shards: machines with disks, the nodes that run on them, and the copies of the map they keep.

use crate::support::{Machine, Port, Wire, boot_nonce, wait_until};
use bytes::Bytes;
use kvorum_api::{AdminError, ClusterId, NodeId, Sharding, StartCount};
use kvorum_consensus::{
    Node, NodeConfig,
    metadata::{ClusterMap, Founding, KeyspaceWish, METADATA_SHARD, MetadataCommand, MetadataReply, NodeRow},
    node::{Budget, Timing},
    replicator::Role,
};
use kvorum_storage::journal::{JournalOptions, MemJournal};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

pub struct House {
    pub wire: Arc<Wire>,
    pub founding: Founding,
    pub nodes: BTreeMap<u64, Arc<Node>>,
    machines: BTreeMap<u64, Machine>,
    /// The journals of the present lives.
    pub journals: BTreeMap<u64, Arc<MemJournal>>,
    /// The copies of the map that survive.
    pub kept: BTreeMap<u64, ClusterMap>,
    pub budget: Budget,
    began: Instant,
}

impl House {
    pub fn empty(founders: u64, keyspaces: Vec<(String, KeyspaceWish)>) -> Self {
        House {
            wire: Arc::default(),
            founding: Founding { nodes: (1..=founders).map(row).collect(), keyspaces },
            nodes: BTreeMap::new(),
            machines: BTreeMap::new(),
            journals: BTreeMap::new(),
            kept: BTreeMap::new(),
            budget: Budget::default(),
            began: Instant::now(),
        }
    }

    /// Nodes that have founded their metadata, and all know it.
    pub async fn founded(founders: u64) -> Self {
        House::founded_with(founders, Budget::default()).await
    }

    pub async fn founded_with(founders: u64, budget: Budget) -> Self {
        let mut house = House::empty(founders, Vec::new());
        house.budget = budget;
        for id in 1..=founders {
            house.start(id).await;
        }
        house.wait_for_revision(2).await;
        house
    }

    pub async fn start(&mut self, id: u64) -> Arc<Node> {
        let founding = self.founding.clone();
        self.start_as(id, founding).await
    }

    /// A new life on what the machine holds, with another founding list.
    pub async fn start_as(&mut self, id: u64, founding: Founding) -> Arc<Node> {
        let machine = self.machines.entry(id).or_default();
        machine.starts += 1;
        let config = NodeConfig {
            cluster: ClusterId(*b"a house of study"),
            node: NodeId(id),
            start: StartCount(machine.starts),
            boot_nonce: boot_nonce(),
            founding,
            map: self.kept.get(&id).cloned(),
            nodes: BTreeMap::new(),
            shards: Vec::new(),
            timing: Timing::default(),
            budget: self.budget,
        };
        let port = Port::new(&self.wire, id);
        let (env, journal) = machine.env(machine.engine.open(), port, self.began, JournalOptions::small());
        self.journals.insert(id, journal);
        let node = Node::new(env, config).expect("an honest note can be read");
        self.wire.connect(NodeId(id), node.clone());
        node.open().await.expect("an honest node starts");
        self.nodes.insert(id, Arc::clone(&node));
        node
    }

    /// The machine loses power; its copy of the map was kept.
    pub async fn crash(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("a node that runs");
        self.kept.insert(id, ClusterMap::clone(&node.map()));
        self.machines[&id].crash(node, &self.wire, id).await;
    }

    /// These can reach each other and nobody else; the others likewise.
    pub fn cut(&self, nodes: &[u64]) {
        self.wire.split(nodes);
    }

    pub fn leader(&self) -> Option<u64> {
        let leads = |node: &Node| {
            let status = node.status().replicas.into_iter().find(|replica| replica.shard == METADATA_SHARD)?;
            (status.role == Role::Leader).then_some(status.term)
        };
        let leaders = self.nodes.iter().filter_map(|(id, node)| Some((leads(node)?, *id)));
        leaders.max().map(|(_, id)| id)
    }

    pub async fn wait_for_leader(&self) -> u64 {
        wait_until("a leader", || self.leader().is_some()).await;
        self.leader().expect("just seen")
    }

    /// Until every node has that much of the map.
    pub async fn wait_for_revision(&self, revision: u64) {
        wait_until("the map everywhere", || self.nodes.values().all(|node| node.map().revision >= revision)).await;
        let newest = self.nodes.values().map(|node| node.map().revision).max().unwrap_or(0);
        wait_until("one map", || self.nodes.values().all(|node| node.map().revision >= newest)).await;
        let maps: Vec<_> = self.nodes.values().map(|node| node.map()).collect();
        for map in &maps {
            if map.revision == maps[0].revision {
                assert_eq!(map, &maps[0], "two nodes at one revision hold the same map");
            }
        }
    }
}

pub fn row(id: u64) -> NodeRow {
    let (client, peer) = (format!("node-{id}:7101"), format!("node-{id}:7201"));
    NodeRow::of_this_build(NodeId(id), client, peer, String::new(), 0)
}

pub fn hash(shards: u32) -> KeyspaceWish {
    KeyspaceWish { sharding: Some(Sharding::Hash), shards: Some(shards), ..KeyspaceWish::default() }
}

pub fn create(name: &str, shards: u32) -> MetadataCommand {
    MetadataCommand::CreateKeyspace { name: name.to_owned(), wish: hash(shards) }
}

/// Shards that are told apart by long keys: a map of few shards and many bytes.
pub fn bulky(name: &str, points: u32) -> MetadataCommand {
    let split_at = (0..points).map(|point| Bytes::from(format!("{point:04096}"))).collect();
    let wish = KeyspaceWish { split_at, replicas: Some(1), ..KeyspaceWish::default() };
    MetadataCommand::CreateKeyspace { name: name.to_owned(), wish }
}

/// As small as a keyspace can be.
pub fn small(name: &str) -> MetadataCommand {
    let wish = KeyspaceWish { replicas: Some(1), ..KeyspaceWish::default() };
    MetadataCommand::CreateKeyspace { name: name.to_owned(), wish }
}

pub fn drop_keyspace(name: &str) -> MetadataCommand {
    MetadataCommand::DropKeyspace { name: name.to_owned() }
}

pub fn join(directory: u128) -> MetadataCommand {
    let place = |port| format!("joined-{directory}:{port}");
    MetadataCommand::Join { directory, client: place(7101), peer: place(7201), zone: String::new() }
}

pub async fn change(node: &Node, command: MetadataCommand) -> Result<MetadataReply, AdminError> {
    node.metadata(command, Duration::from_secs(10)).await
}
