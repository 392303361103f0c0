//! A house without shards: machines with disks, the nodes that run on them, and the copies of the map they keep.

use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::{AdminError, ClusterId, NodeId, Sharding, StartCount};
use kvorum_consensus::{
    Clock, Env, Lane, Node, NodeConfig, Transport, TransportError,
    metadata::{ClusterMap, Founding, KeyspaceWish, METADATA_SHARD, MetadataCommand, MetadataReply, NodeRow},
    node::{Budget, Timing},
    replicator::Role,
};
use kvorum_storage::{
    Blocking, engine,
    journal::{self, JournalOptions, MemJournal},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};

pub const PATIENCE: Duration = Duration::from_secs(20);
const BEGIN_MS: u64 = 1_700_000_000_000;

/// Every process has its own.
static NONCES: AtomicU64 = AtomicU64::new(1_000);

/// What outlives a process.
#[derive(Clone, Default)]
struct Machine {
    engine: Arc<Mutex<Option<engine::mem::MemDisk>>>,
    journal: Arc<Mutex<Option<journal::MemDisk>>>,
    starts: u64,
}

impl Machine {
    fn engine(&self) -> engine::mem::MemDisk {
        self.engine.lock().get_or_insert_with(engine::mem::MemDisk::new).clone()
    }

    fn journal(&self) -> journal::MemDisk {
        self.journal.lock().get_or_insert_with(journal::MemDisk::new).clone()
    }
}

/// Who can be reached, and by whom.
#[derive(Default)]
pub struct Wire {
    nodes: Mutex<BTreeMap<NodeId, Arc<Node>>>,
    cut: Mutex<BTreeSet<NodeId>>,
    /// Bytes answered to each node.
    pub answered: Mutex<BTreeMap<NodeId, usize>>,
    /// Where the nodes were last said to be.
    pub addresses: Mutex<BTreeMap<NodeId, BTreeMap<NodeId, String>>>,
}

struct WireEnd {
    from: NodeId,
    wire: Arc<Wire>,
}

impl WireEnd {
    fn is_cut(wire: &Wire, from: NodeId, to: NodeId) -> bool {
        let cut = wire.cut.lock();
        cut.contains(&from) != cut.contains(&to)
    }
}

impl Transport for WireEnd {
    fn call(
        &self,
        to: NodeId,
        _lane: Lane,
        envelope: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (from, wire) = (self.from, Arc::clone(&self.wire));
        Box::pin(async move {
            let lost = TransportError::Timeout { node: to, after: timeout };
            let node = wire.nodes.lock().get(&to).cloned();
            let Some(node) = node.filter(|_| !Self::is_cut(&wire, from, to)) else {
                return Err(TransportError::Unreachable { node: to, why: "connection refused".to_owned() });
            };
            sleep(Duration::from_millis(1)).await;
            let answer = tokio::time::timeout(timeout, node.handle(envelope)).await.map_err(|_| lost)?;
            // An answer does not leave a dead machine, or a cut-off one.
            if Self::is_cut(&wire, from, to) || !wire.nodes.lock().contains_key(&to) {
                return Err(TransportError::Unreachable { node: to, why: "connection lost".to_owned() });
            }
            *wire.answered.lock().entry(from).or_default() += answer.len();
            Ok(answer)
        })
    }

    fn set_peers(&self, peers: &BTreeMap<NodeId, String>) {
        self.wire.addresses.lock().insert(self.from, peers.clone());
    }
}

pub struct House {
    pub wire: Arc<Wire>,
    pub founding: Founding,
    pub nodes: BTreeMap<u64, Arc<Node>>,
    machines: BTreeMap<u64, Machine>,
    /// The copies of the map that survive.
    pub kept: BTreeMap<u64, ClusterMap>,
    began: Instant,
}

impl House {
    pub fn empty(founders: u64, keyspaces: Vec<(String, KeyspaceWish)>) -> Self {
        House {
            wire: Arc::default(),
            founding: Founding { nodes: (1..=founders).map(row).collect(), keyspaces },
            nodes: BTreeMap::new(),
            machines: BTreeMap::new(),
            kept: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    /// Nodes that have founded their metadata, and all know it.
    pub async fn founded(founders: u64) -> Self {
        let mut house = House::empty(founders, Vec::new());
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
            boot_nonce: NONCES.fetch_add(1, Ordering::Relaxed),
            founding,
            map: self.kept.get(&id).cloned(),
            nodes: BTreeMap::new(),
            shards: Vec::new(),
            timing: Timing::default(),
            budget: Budget::default(),
        };
        let journal = MemJournal::open(machine.journal(), JournalOptions::small()).expect("an honest disk opens");
        let began = self.began;
        let env = Env {
            engine: machine.engine().open(),
            journal,
            transport: Arc::new(WireEnd { from: NodeId(id), wire: Arc::clone(&self.wire) }),
            clock: Clock::new(move || BEGIN_MS + began.elapsed().as_millis() as u64),
            blocking: Blocking::inline(),
            seed: id,
        };
        let node = Node::new(env, config).expect("an honest note can be read");
        self.wire.nodes.lock().insert(NodeId(id), Arc::clone(&node));
        node.open().await.expect("an honest node starts");
        self.nodes.insert(id, Arc::clone(&node));
        node
    }

    /// The machine loses power; its copy of the map was kept.
    pub async fn crash(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("a node that runs");
        self.wire.nodes.lock().remove(&NodeId(id));
        self.kept.insert(id, ClusterMap::clone(&node.map()));
        self.machines[&id].engine().lose_power();
        self.machines[&id].journal().lose_power(|_| false);
        node.stop().await;
    }

    /// These can reach each other and nobody else; the others likewise.
    pub fn cut(&self, nodes: &[u64]) {
        *self.wire.cut.lock() = nodes.iter().map(|id| NodeId(*id)).collect();
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
    NodeRow {
        node: NodeId(id),
        client: format!("node-{id}:7101"),
        peer: format!("node-{id}:7201"),
        zone: String::new(),
        directory: 0,
    }
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

/// Waits in paused time: the wait costs nothing, and its end is the failure of the test.
pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
}
