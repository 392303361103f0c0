//! A house: machines with disks and clocks, and the nodes that run on them.

use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::{ClusterId, KeyspaceId, NodeId, ReadLevel, ReplicaId, ShardId, StartCount};
use kvorum_consensus::{
    Clock, Env, Lane, Node, NodeConfig, RequestContext, Transport, TransportError,
    node::{Budget, NodeStatus, ShardConfig, Timing},
    replicator::Role,
};
use kvorum_storage::{
    Blocking, Condition, Operation, WriteCommand,
    command::{Images, Settings},
    engine,
    journal::{self, JournalOptions, MemJournal},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};

pub const CLUSTER: ClusterId = ClusterId(*b"a house for test");
pub const SHARD: ShardId = ShardId(1);
pub const BEGIN_MS: u64 = 1_700_000_000_000;
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Every process has its own.
static NONCES: AtomicU64 = AtomicU64::new(1_000);

/// What outlives a process.
#[derive(Clone)]
pub struct Machine {
    pub engine: engine::mem::MemDisk,
    pub journal: journal::MemDisk,
    pub starts: u64,
    pub ahead_ms: Arc<AtomicI64>,
}

impl Machine {
    pub fn new() -> Self {
        Machine {
            engine: engine::mem::MemDisk::new(),
            journal: journal::MemDisk::new(),
            starts: 0,
            ahead_ms: Arc::default(),
        }
    }

    /// A copy of its directory, as a backup would take it, on another machine.
    pub fn image(&self) -> Machine {
        Machine {
            engine: self.engine.duplicate(),
            journal: self.journal.image(),
            starts: self.starts,
            ahead_ms: Arc::default(),
        }
    }

    /// The process dies; everything that is not durable is gone.
    pub fn lose_power(&self) {
        self.engine.lose_power();
        self.journal.lose_power(|_| false);
    }
}

/// Who can be reached under which id.
#[derive(Default)]
pub struct Wire {
    nodes: Mutex<BTreeMap<NodeId, Arc<Node>>>,
    cut: Mutex<BTreeSet<NodeId>>,
}

impl Wire {
    pub fn connect(&self, id: NodeId, node: Arc<Node>) {
        self.nodes.lock().insert(id, node);
    }

    pub fn disconnect(&self, id: NodeId) {
        self.nodes.lock().remove(&id);
    }

    /// Nobody reaches these nodes, and they reach nobody.
    pub fn cut(&self, nodes: &[u64]) {
        *self.cut.lock() = nodes.iter().map(|id| NodeId(*id)).collect();
    }
}

struct WireEnd {
    from: NodeId,
    wire: Arc<Wire>,
}

impl Transport for WireEnd {
    fn call(
        &self,
        to: NodeId,
        _lane: Lane,
        envelope: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let is_cut = {
            let cut = self.wire.cut.lock();
            cut.contains(&self.from) || cut.contains(&to)
        };
        let node = self.wire.nodes.lock().get(&to).cloned().filter(|_| !is_cut);
        Box::pin(async move {
            let Some(node) = node else {
                return Err(TransportError::Unreachable { node: to, why: "connection refused".to_owned() });
            };
            sleep(Duration::from_millis(1)).await;
            let answer = tokio::time::timeout(timeout, node.handle(envelope)).await;
            answer.map_err(|_| TransportError::Timeout { node: to, after: timeout })
        })
    }

    fn set_peers(&self, _peers: &BTreeMap<NodeId, String>) {}
}

/// Three machines, one cluster.
pub struct House {
    pub wire: Arc<Wire>,
    pub machines: BTreeMap<u64, Machine>,
    pub nodes: BTreeMap<u64, Arc<Node>>,
    /// The boot nonces of the newest lives.
    pub nonces: BTreeMap<u64, u64>,
    /// The journals of the newest lives.
    pub journals: BTreeMap<u64, Arc<MemJournal>>,
    began: Instant,
}

impl House {
    pub fn empty() -> Self {
        House {
            wire: Arc::default(),
            machines: (1..=3).map(|id| (id, Machine::new())).collect(),
            nodes: BTreeMap::new(),
            nonces: BTreeMap::new(),
            journals: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    /// Three nodes that have founded their group.
    pub async fn founded() -> Self {
        let mut house = House::empty();
        for id in 1..=3 {
            house.start(id).await;
        }
        house.put("first", "1").await;
        house
    }

    pub fn config(&self, id: u64) -> NodeConfig {
        let settings = Settings {
            behaviour: 1,
            images: Images::Keys,
            request_window_ms: 600_000,
            request_outcomes_max: 16,
            range: kvorum_api::PlacementRange::all(),
            epoch: 1,
            has_leases: false,
        };
        NodeConfig {
            cluster: CLUSTER,
            node: NodeId(id),
            start: StartCount(self.machines[&id].starts),
            boot_nonce: NONCES.fetch_add(1, Ordering::Relaxed),
            founding: kvorum_consensus::metadata::Founding::default(),
            map: None,
            nodes: (1..=3).map(|id| (NodeId(id), format!("node-{id}:1"))).collect(),
            shards: vec![ShardConfig {
                shard: SHARD,
                keyspace: KeyspaceId(1),
                incarnation: 0,
                founders: (1..=3).map(|id| (ReplicaId(10 + id), NodeId(id))).collect(),
                settings,
            }],
            timing: Timing::default(),
            budget: Budget::default(),
        }
    }

    pub fn env(&mut self, id: u64) -> Env {
        let machine = &self.machines[&id];
        let journal = MemJournal::open(machine.journal.clone(), JournalOptions::small()).expect("an honest disk opens");
        self.journals.insert(id, Arc::clone(&journal));
        let (began, ahead_ms) = (self.began, Arc::clone(&machine.ahead_ms));
        Env {
            engine: machine.engine.open(),
            journal,
            transport: Arc::new(WireEnd { from: NodeId(id), wire: Arc::clone(&self.wire) }),
            clock: Clock::new(move || {
                let truth_ms = BEGIN_MS + began.elapsed().as_millis() as u64;
                truth_ms.saturating_add_signed(ahead_ms.load(Ordering::SeqCst))
            }),
            blocking: Blocking::inline(),
            seed: id,
        }
    }

    /// A new life on what the machine holds.
    pub async fn start(&mut self, id: u64) -> Arc<Node> {
        self.machines.get_mut(&id).expect("a machine of this house").starts += 1;
        let config = self.config(id);
        self.start_as(id, config).await
    }

    /// A new life that believes something else.
    pub async fn start_as(&mut self, id: u64, config: NodeConfig) -> Arc<Node> {
        self.nonces.insert(id, config.boot_nonce);
        let node = Node::new(self.env(id), config).expect("an honest note can be read");
        self.wire.connect(NodeId(id), Arc::clone(&node));
        node.open().await.expect("an honest node starts");
        self.nodes.insert(id, Arc::clone(&node));
        node
    }

    /// Stops a node in order.
    pub async fn stop(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("a node that runs");
        node.stop().await;
        self.wire.disconnect(NodeId(id));
        self.machines[&id].journal.kill();
    }

    /// A node dies with its machine.
    pub async fn crash(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("a node that runs");
        self.wire.disconnect(NodeId(id));
        self.machines[&id].lose_power();
        node.stop().await;
    }

    /// Writes through whoever leads, within `PATIENCE`.
    pub async fn put(&self, key: &'static str, value: &'static str) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for node in self.nodes.values() {
                if put(node, key, value).await.is_ok() {
                    return;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody takes a write: {:#?}", self.nodes.values().map(|node| node.status()).collect::<Vec<_>>());
    }

    /// Who leads, in the highest term.
    pub fn leader(&self) -> Option<u64> {
        // One that cannot sync, or was cut off, may not know yet that it leads no more.
        let leaders = self.nodes.iter().filter(|(_, node)| role(node) == Role::Leader);
        leaders.max_by_key(|(_, node)| node.status().replicas[0].term).map(|(id, _)| *id)
    }

    pub async fn wait_for_leader(&self) -> u64 {
        wait_until("a leader", || self.leader().is_some()).await;
        self.leader().expect("just seen")
    }
}

/// One write, through this node alone.
pub async fn put(node: &Node, key: &'static str, value: &'static str) -> Result<(), String> {
    let operation = Operation::Put {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
        ttl_ms: None,
        condition: Condition::Always,
        return_previous: false,
    };
    let command = WriteCommand { request: None, operations: vec![operation] };
    let replicator = node.replicator(SHARD).expect("every node holds the shard");
    replicator.write(command, context()).await.map(|_| ()).map_err(|error| error.to_string())
}

/// A read through this node alone.
pub async fn get(node: &Node, key: &'static str, level: ReadLevel) -> Result<Option<Bytes>, String> {
    let replicator = node.replicator(SHARD).expect("every node holds the shard");
    let found = replicator.get(Bytes::from_static(key.as_bytes()), level, context()).await;
    found.map(|found| found.entry.and_then(|entry| entry.value)).map_err(|error| error.to_string())
}

pub fn context() -> RequestContext {
    RequestContext { timeout: Duration::from_secs(2), ..RequestContext::default() }
}

pub fn role(node: &Node) -> Role {
    node.status().replicas[0].role
}

pub fn refused(status: &NodeStatus) -> &str {
    status.refused.as_deref().unwrap_or("")
}

/// Waits in paused time: the wait costs nothing, and its end is the failure of the test.
pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
}
