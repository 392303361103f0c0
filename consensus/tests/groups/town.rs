//! A town: three machines, the network between them, and a map that places shards on all of them.

use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::{
    ClusterId, KeyspaceId, Limits, Mode, NodeId, PlacementRange, ReadError, ReadLevel, ReplicaId, ShardId, Sharding,
    StartCount, WriteError,
};
use kvorum_consensus::{
    Clock, Env, Lane, Node, NodeConfig, Replicator as _, RequestContext, Transport, TransportError, Written,
    envelope::Envelope,
    groups::Replica,
    metadata::{ClusterMap, Counters, Founding, KeyspaceRow, NodeRow, ShardRow, ShardStage},
    node::{Budget, Timing},
    peers::MessageKind,
    replicator::{ReplicaStatus, Role},
};
use kvorum_storage::{
    Blocking, Condition, Operation, Outcome, WriteCommand,
    command::Images,
    engine,
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

pub const BEGIN_MS: u64 = 1_700_000_000_000;
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const SHARD: ShardId = ShardId(1);

/// Every process has its own.
static NONCES: AtomicU64 = AtomicU64::new(1_000);

/// What outlives a process.
#[derive(Clone)]
pub struct Machine {
    pub engine: engine::mem::MemDisk,
    pub journal: journal::MemDisk,
    pub starts: u64,
}

/// Who can be reached, and what was sent.
#[derive(Default)]
pub struct Wire {
    nodes: Mutex<BTreeMap<NodeId, Arc<Node>>>,
    cut: Mutex<BTreeSet<NodeId>>,
    deaf: Mutex<Option<MessageKind>>,
    arrived: Mutex<BTreeMap<u8, u64>>,
}

impl Wire {
    /// Nobody reaches these nodes, and they reach nobody.
    pub fn cut(&self, nodes: &[u64]) {
        *self.cut.lock() = nodes.iter().map(|id| NodeId(*id)).collect();
    }

    /// Replies to messages of this kind get lost.
    pub fn lose_replies(&self, kind: Option<MessageKind>) {
        *self.deaf.lock() = kind;
    }

    /// Messages of a kind that arrived.
    pub fn arrived(&self, kind: MessageKind) -> u64 {
        self.arrived.lock().get(&(kind as u8)).copied().unwrap_or(0)
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
        let (wire, from) = (self.wire.clone(), self.from);
        Box::pin(async move {
            let refused = || TransportError::Unreachable { node: to, why: "connection refused".to_owned() };
            let is_cut = || {
                let cut = wire.cut.lock();
                cut.contains(&from) || cut.contains(&to)
            };
            let node = wire.nodes.lock().get(&to).cloned().filter(|_| !is_cut()).ok_or_else(refused)?;
            sleep(Duration::from_micros(500)).await;
            let kind = Envelope::decode(&envelope).expect("nodes send envelopes").kind;
            *wire.arrived.lock().entry(kind).or_default() += 1;
            let answer = tokio::time::timeout(timeout, node.handle(envelope)).await;
            let answer = answer.map_err(|_| TransportError::Timeout { node: to, after: timeout })?;
            sleep(Duration::from_micros(500)).await;
            let is_lost = wire.deaf.lock().is_some_and(|deaf| deaf as u8 == kind);
            if is_lost || is_cut() { Err(refused()) } else { Ok(answer) }
        })
    }

    fn set_peers(&self, _addresses: &BTreeMap<NodeId, String>) {}
}

pub struct Town {
    pub wire: Arc<Wire>,
    pub machines: BTreeMap<u64, Machine>,
    pub nodes: BTreeMap<u64, Arc<Node>>,
    pub journals: BTreeMap<u64, Arc<MemJournal>>,
    pub engines: BTreeMap<u64, Arc<engine::mem::MemEngine>>,
    pub map: Arc<Mutex<ClusterMap>>,
    pub timing: Timing,
    began: Instant,
}

/// Every shard has a keyspace of its own, of the same number.
pub fn keyspace_of(shard: ShardId) -> KeyspaceId {
    KeyspaceId(shard.0 as u32)
}

/// A map with `shards` shards on nodes 1, 2 and 3, none of them founded.
pub fn map_of(shards: u64) -> ClusterMap {
    let nodes = (1..=3).map(NodeId).map(|node| {
        let row = NodeRow {
            node,
            client: format!("node-{node}:1"),
            peer: format!("node-{node}:2"),
            zone: String::new(),
            directory: 0,
        };
        (node, row)
    });
    let keyspace = |id: KeyspaceId| KeyspaceRow {
        id,
        name: format!("town-{id}"),
        mode: Mode::Cp,
        sharding: Sharding::Range,
        replicas: 3,
        read_level: ReadLevel::Linearizable,
        limits: Limits::default(),
        images: Images::Keys,
        has_leases: false,
        created_ms: BEGIN_MS,
    };
    let rows = (1..=shards).map(|shard| {
        let row = ShardRow {
            shard: ShardId(shard),
            keyspace: keyspace_of(ShardId(shard)),
            range: PlacementRange::all(),
            epoch: 1,
            incarnation: 0,
            founders: (0..3)
                .map(|n| (ReplicaId(shard * 10 + 1 + (shard + n) % 3), NodeId(1 + (shard + n) % 3)))
                .collect(),
            leader_wish: NodeId(1 + shard % 3),
            stage: ShardStage::Creating,
        };
        (row.shard, row)
    });
    ClusterMap {
        revision: 1,
        nodes: nodes.collect(),
        keyspaces: (1..=shards).map(|shard| keyspace_of(ShardId(shard))).map(|id| (id, keyspace(id))).collect(),
        shards: rows.collect(),
        metadata: Vec::new(),
        counters: Counters { next_shard: ShardId(shards + 1), ..Counters::default() },
    }
}

impl Town {
    pub async fn empty(shards: u64) -> Self {
        let machine = || Machine { engine: engine::mem::MemDisk::new(), journal: journal::MemDisk::new(), starts: 0 };
        Town {
            wire: Arc::default(),
            machines: (1..=3).map(|id| (id, machine())).collect(),
            nodes: BTreeMap::new(),
            journals: BTreeMap::new(),
            engines: BTreeMap::new(),
            map: Arc::new(Mutex::new(map_of(shards))),
            timing: Timing::default(),
            began: Instant::now(),
        }
    }

    /// Three nodes that have founded every shard and agree that they have.
    pub async fn founded(shards: u64) -> Self {
        Town::founded_with(shards, Timing::default()).await
    }

    pub async fn founded_with(shards: u64, timing: Timing) -> Self {
        let mut town = Town::empty(shards).await;
        town.timing = timing;
        for id in 1..=3 {
            town.start(id).await;
        }
        wait_until("every shard is founded", || {
            town.map.lock().shards.values().all(|row| row.stage == ShardStage::Ready)
        })
        .await;
        town.spread().await;
        town
    }

    /// Every node learns the newest map.
    pub async fn spread(&self) {
        let map = self.map.lock().clone();
        for node in self.nodes.values() {
            node.reconcile(&map).await.expect("an honest node follows the map");
        }
    }

    /// Changes the map, and every node learns of it.
    pub async fn change(&self, change: impl FnOnce(&mut ClusterMap)) {
        {
            let mut map = self.map.lock();
            change(&mut map);
            map.revision += 1;
        }
        self.spread().await;
    }

    pub async fn start(&mut self, id: u64) -> Arc<Node> {
        let machine = self.machines.get_mut(&id).expect("a machine of this town");
        machine.starts += 1;
        let machine = machine.clone();
        let journal = MemJournal::open(machine.journal.clone(), JournalOptions::small()).expect("an honest disk opens");
        self.journals.insert(id, journal.clone());
        let engine = machine.engine.open();
        self.engines.insert(id, engine.clone());
        let began = self.began;
        let env = Env {
            engine,
            journal,
            transport: Arc::new(WireEnd { from: NodeId(id), wire: self.wire.clone() }),
            clock: Clock::new(move || BEGIN_MS + began.elapsed().as_millis() as u64),
            blocking: Blocking::inline(),
            seed: id,
        };
        let config = NodeConfig {
            cluster: ClusterId(*b"a town for tests"),
            node: NodeId(id),
            start: StartCount(machine.starts),
            boot_nonce: NONCES.fetch_add(1, Ordering::Relaxed),
            nodes: (1..=3).map(|id| (NodeId(id), format!("node-{id}:1"))).collect(),
            founding: Founding::default(),
            map: None,
            shards: Vec::new(),
            timing: self.timing,
            budget: Budget::default(),
        };
        let node = Node::new(env, config).expect("an honest note can be read");
        self.wire.nodes.lock().insert(NodeId(id), node.clone());
        node.open().await.expect("an honest node starts");
        // The town is its own metadata.
        let map = self.map.clone();
        node.set_ready_report(Arc::new(move |shards| {
            let mut map = map.lock();
            for shard in shards {
                map.shards.get_mut(&shard).expect("a shard of the map").stage = ShardStage::Ready;
            }
            map.revision += 1;
            Box::pin(async { Ok(()) })
        }));
        let map = self.map.lock().clone();
        node.reconcile(&map).await.expect("an honest node follows the map");
        self.nodes.insert(id, node.clone());
        node
    }

    /// Stops a node in order.
    pub async fn stop(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("a node that runs");
        node.stop().await;
        self.wire.nodes.lock().remove(&NodeId(id));
        self.machines[&id].journal.kill();
    }

    /// A node dies with its machine.
    pub async fn crash(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("a node that runs");
        self.wire.nodes.lock().remove(&NodeId(id));
        self.machines[&id].journal.lose_power(|_| false);
        self.machines[&id].engine.lose_power();
        node.stop().await;
    }

    pub fn replica(&self, id: u64, shard: ShardId) -> Arc<Replica> {
        self.nodes[&id].replica(shard).expect("every node holds every shard")
    }

    pub fn status(&self, id: u64, shard: ShardId) -> ReplicaStatus {
        self.replica(id, shard).status()
    }

    /// Who leads, in the highest term.
    pub fn leader(&self, shard: ShardId) -> Option<u64> {
        let statuses = self.nodes.keys().map(|id| (*id, self.status(*id, shard)));
        let leaders = statuses.filter(|(_, status)| status.role == Role::Leader);
        leaders.max_by_key(|(_, status)| status.term).map(|(id, _)| id)
    }

    pub async fn wait_for_leader(&self, shard: ShardId) -> u64 {
        wait_until("a leader", || self.leader(shard).is_some()).await;
        self.leader(shard).expect("just seen")
    }

    pub fn is_closed(&self, shard: ShardId) -> bool {
        self.nodes.keys().all(|id| self.status(*id, shard).role == Role::Closed)
    }

    pub fn is_open_somewhere(&self, shard: ShardId) -> bool {
        self.nodes.keys().any(|id| self.status(*id, shard).role != Role::Closed)
    }

    /// Waits until the group is closed everywhere; gives the node that led it.
    pub async fn wait_closed(&self, shard: ShardId) -> u64 {
        wait_until("the group is closed", || self.is_closed(shard)).await;
        self.last_leader(shard)
    }

    /// Whom the records of a closed group name.
    pub fn last_leader(&self, shard: ShardId) -> u64 {
        let newest = self.nodes.keys().map(|id| self.status(*id, shard)).max_by_key(|status| status.term);
        newest.and_then(|status| status.leader).expect("somebody led").0
    }

    /// Writes through one node alone.
    pub async fn put(&self, id: u64, shard: ShardId, key: &str, value: &str) -> Result<Written, WriteError> {
        self.replica(id, shard).write(put(key, value, None), context()).await
    }

    /// Writes through whoever leads, within `PATIENCE`.
    pub async fn put_anywhere(&self, shard: ShardId, key: &str, value: &str) -> Written {
        let deadline = Instant::now() + PATIENCE;
        let mut last = String::new();
        while Instant::now() < deadline {
            for id in self.nodes.keys() {
                match self.put(*id, shard, key, value).await {
                    Ok(written) => return written,
                    Err(error) => last = error.to_string(),
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        let statuses: Vec<_> = self.nodes.keys().map(|id| self.status(*id, shard)).collect();
        panic!("nobody takes a write: {last}\n{statuses:#?}");
    }

    /// Reads through one node alone.
    pub async fn get(&self, id: u64, shard: ShardId, key: &str, level: ReadLevel) -> Result<Option<String>, ReadError> {
        let found = self.replica(id, shard).get(Bytes::copy_from_slice(key.as_bytes()), level, context()).await?;
        let value = found.entry.and_then(|entry| entry.value);
        Ok(value.map(|value| String::from_utf8(value.to_vec()).expect("tests write words")))
    }

    /// Whether every node has applied the same.
    pub fn is_converged(&self, shard: ShardId) -> bool {
        let mut states = self.nodes.keys().map(|id| self.status(*id, shard).state);
        let first = states.next().expect("a node runs");
        states.all(|state| state.applied.position == first.applied.position && state.rolling_hash == first.rolling_hash)
    }
}

pub fn put(key: &str, value: &str, ttl_ms: Option<u64>) -> WriteCommand {
    let operation = Operation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ttl_ms,
        condition: Condition::Always,
        return_previous: false,
    };
    WriteCommand { request: None, operations: vec![operation] }
}

pub fn increment(key: &str) -> WriteCommand {
    let operation =
        Operation::Increment { key: Bytes::copy_from_slice(key.as_bytes()), delta: 1, return_previous: false };
    WriteCommand { request: None, operations: vec![operation] }
}

pub fn is_written(written: &Written) -> bool {
    matches!(written.outcome, Outcome::Written { .. })
}

pub fn context() -> RequestContext {
    RequestContext { timeout: Duration::from_secs(5), ..RequestContext::default() }
}

/// Waits in paused time: the wait costs nothing, and its end is the failure of the test.
pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
}
