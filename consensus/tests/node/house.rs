//! A house: machines with disks and clocks, and the nodes that run on them.

pub use crate::support::{BEGIN_MS, Machine, PATIENCE};
use crate::support::{Port, Wire, boot_nonce, wait_until};
use bytes::Bytes;
use kvorum_api::{ClusterId, KeyspaceId, NodeId, ReadLevel, ReplicaId, ShardId, StartCount};
use kvorum_consensus::{
    Env, Node, NodeConfig, RequestContext,
    node::{Budget, NodeStatus, ShardConfig, Timing},
    replicator::Role,
};
use kvorum_storage::{
    command::{Images, Settings},
    journal::{JournalOptions, MemJournal},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

pub const CLUSTER: ClusterId = ClusterId(*b"a house for test");
pub const SHARD: ShardId = ShardId(1);

/// Where the replicas are.
const FOUNDERS: [(ReplicaId, NodeId); 3] =
    [(ReplicaId(11), NodeId(1)), (ReplicaId(12), NodeId(2)), (ReplicaId(13), NodeId(3))];

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
            machines: (1..=3).map(|id| (id, Machine::default())).collect(),
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
            boot_nonce: boot_nonce(),
            founding: kvorum_consensus::metadata::Founding::default(),
            map: None,
            nodes: (1..=3).map(|id| (NodeId(id), format!("node-{id}:1"))).collect(),
            shards: vec![ShardConfig {
                shard: SHARD,
                keyspace: KeyspaceId(1),
                incarnation: 0,
                founders: FOUNDERS.to_vec(),
                replicas: kvorum_consensus::metadata::ReplicaRow::members(&FOUNDERS),
                settings,
            }],
            timing: Timing::default(),
            budget: Budget::default(),
        }
    }

    pub fn env(&mut self, id: u64) -> Env {
        let port = Port::new(&self.wire, id);
        let machine = &self.machines[&id];
        let (env, journal) = machine.env(machine.engine.open(), port, self.began, JournalOptions::small());
        self.journals.insert(id, journal);
        env
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
        self.wire.connect(NodeId(id), node.clone());
        node.open().await.expect("an honest node starts");
        self.nodes.insert(id, Arc::clone(&node));
        node
    }

    /// Stops a node in order.
    pub async fn stop(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("a node that runs");
        self.machines[&id].stop(node, &self.wire, id).await;
    }

    /// A node dies with its machine.
    pub async fn crash(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("a node that runs");
        self.machines[&id].crash(node, &self.wire, id).await;
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
    let replicator = node.replicator(SHARD).expect("every node holds the shard");
    let command = crate::support::put(key, value, None);
    replicator.write(command, context()).await.map(|_| ()).map_err(|error| error.to_string())
}

/// A read through this node alone.
pub async fn get(node: &Node, key: &'static str, level: ReadLevel) -> Result<Option<Bytes>, String> {
    let replicator = node.replicator(SHARD).expect("every node holds the shard");
    let found = replicator.get(Bytes::from_static(key.as_bytes()), level, context()).await;
    found.map(|found| found.entry.and_then(|entry| entry.value)).map_err(|error| error.to_string())
}

pub fn context() -> RequestContext {
    crate::support::context(2_000)
}

pub fn role(node: &Node) -> Role {
    node.status().replicas[0].role
}

pub fn refused(status: &NodeStatus) -> &str {
    status.refused.as_deref().unwrap_or("")
}
