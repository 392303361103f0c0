//! A town: three machines, the network between them, and a map that places shards on all of them.

use crate::support::{Machine, PATIENCE, Port, Wire, boot_nonce, put, wait_until};
use bytes::Bytes;
use kvorum_api::{
    ClusterId, KeyspaceId, Limits, Mode, NodeId, PlacementRange, ReadError, ReadLevel, ReplicaId, ShardId, Sharding,
    StartCount, WriteError,
};
use kvorum_consensus::{
    Node, NodeConfig, Replicator as _, RequestContext, Written,
    groups::Replica,
    metadata::{ClusterMap, Counters, Founding, KeyspaceRow, NodeRow, ReplicaRow, ShardRow, ShardStage},
    node::{Budget, StartError, Timing},
    replicator::{ReplicaStatus, Role},
};
use kvorum_storage::{
    Outcome,
    command::Images,
    engine::{Column, Direction, Engine as _, KeyRange},
    journal::{Journal as _, JournalOptions, MemJournal},
    shard::suite::Fuse,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

pub const SHARD: ShardId = ShardId(1);

pub struct Town {
    pub wire: Arc<Wire>,
    pub machines: BTreeMap<u64, Machine>,
    pub nodes: BTreeMap<u64, Arc<Node>>,
    pub journals: BTreeMap<u64, Arc<MemJournal>>,
    pub engines: BTreeMap<u64, Arc<Fuse>>,
    pub map: Arc<Mutex<ClusterMap>>,
    pub timing: Timing,
    began: Instant,
}

/// Every shard has a keyspace of its own, of the same number.
pub fn keyspace_of(shard: ShardId) -> KeyspaceId {
    KeyspaceId(shard.0 as u32)
}

/// The lowest id of its replicas.
pub fn first_replica_of(shard: ShardId) -> ReplicaId {
    ReplicaId(shard.0 * 10 + 1)
}

/// A map with `shards` shards on nodes 1, 2 and 3, none of them founded.
pub fn map_of(shards: u64) -> ClusterMap {
    let nodes = (1..=3).map(NodeId).map(|node| {
        let (client, peer) = (format!("node-{node}:1"), format!("node-{node}:2"));
        let row = NodeRow::of_this_build(node, client, peer, String::new(), 0);
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
        created_ms: crate::support::BEGIN_MS,
    };
    let rows = (1..=shards).map(|shard| {
        let founders: Vec<_> = (0..3)
            .map(|n| (ReplicaId(first_replica_of(ShardId(shard)).0 + (shard + n) % 3), NodeId(1 + (shard + n) % 3)))
            .collect();
        let row = ShardRow {
            shard: ShardId(shard),
            keyspace: keyspace_of(ShardId(shard)),
            range: PlacementRange::all(),
            epoch: 1,
            incarnation: 0,
            replicas: ReplicaRow::members(&founders),
            founders,
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
        counters: Counters {
            serial: 1,
            next_replica: first_replica_of(ShardId(shards + 1)),
            next_shard: ShardId(shards + 1),
            next_keyspace: keyspace_of(ShardId(shards + 1)),
            ..Counters::default()
        },
        ..ClusterMap::default()
    }
}

impl Town {
    pub async fn empty(shards: u64) -> Self {
        Town {
            wire: Arc::default(),
            machines: (1..=3).map(|id| (id, Machine::default())).collect(),
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
        town.found().await;
        town
    }

    /// Starts all nodes; they found every shard and agree that they have.
    pub async fn found(&mut self) {
        for id in 1..=3 {
            self.start(id).await;
        }
        wait_until("every shard is founded", || {
            self.map.lock().shards.values().all(|row| row.stage == ShardStage::Ready)
        })
        .await;
        self.spread().await;
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

    /// The map names these shards no more, nor their keyspaces. Nobody has learnt it yet.
    pub fn drop_shards(&self, dropped: &[ShardId]) {
        let mut map = self.map.lock();
        map.shards.retain(|shard, _| !dropped.contains(shard));
        map.keyspaces.retain(|keyspace, _| !dropped.iter().any(|shard| keyspace_of(*shard) == *keyspace));
        map.counters.serial += 1;
        map.revision += 1;
    }

    /// A new life that knows the newest map.
    pub async fn start(&mut self, id: u64) -> Arc<Node> {
        let map = self.map.lock().clone();
        self.start_from(id, &map).await
    }

    /// A new life that knows this map.
    pub async fn start_from(&mut self, id: u64, known: &ClusterMap) -> Arc<Node> {
        self.try_start_from(id, known).await.expect("an honest node follows the map");
        Arc::clone(&self.nodes[&id])
    }

    /// A new life that is told this map, and whether it could hold all that it says.
    pub async fn try_start_from(&mut self, id: u64, known: &ClusterMap) -> Result<(), StartError> {
        let machine = self.machines.get_mut(&id).expect("a machine of this town");
        machine.starts += 1;
        let engine = Fuse::new(machine.engine.open(), u64::MAX);
        let port = Port::new(&self.wire, id);
        let (env, journal) = machine.env(engine.clone(), port, self.began, JournalOptions::small());
        self.journals.insert(id, journal);
        self.engines.insert(id, engine);
        let config = NodeConfig {
            cluster: ClusterId(*b"a town for tests"),
            node: NodeId(id),
            start: StartCount(machine.starts),
            boot_nonce: boot_nonce(),
            nodes: (1..=3).map(|id| (NodeId(id), format!("node-{id}:1"))).collect(),
            founding: Founding::default(),
            map: None,
            shards: Vec::new(),
            timing: self.timing,
            budget: Budget::default(),
        };
        let node = Node::new(env, config).expect("an honest note can be read");
        self.wire.connect(NodeId(id), node.clone());
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
        let reconciled = node.reconcile(known).await;
        self.nodes.insert(id, node);
        reconciled
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

    /// What the disks of a node still hold of a shard that is alone in its keyspace.
    pub fn remains(&self, id: u64, shard: ShardId) -> Vec<String> {
        let mut found = Vec::new();
        if self.journals[&id].groups().contains(&shard.into()) {
            found.push("its journal".to_owned());
        }
        let (keyspace, number) = (keyspace_of(shard).0.to_be_bytes(), shard.0.to_be_bytes());
        let view = self.engines[&id].view();
        for column in Column::ALL {
            let mut rows = view.cursor(column, KeyRange::all(), Direction::Forward);
            while let Some((key, _)) = rows.next().expect("an engine in memory answers") {
                let is_own = match column {
                    Column::Data | Column::History | Column::Locks => key.starts_with(&keyspace),
                    Column::Changes => key.starts_with(&number),
                    Column::Meta => key[1..].starts_with(&number),
                };
                if is_own {
                    found.push(format!("{key:?} in {column:?}"));
                }
            }
        }
        let stages = self.engines[&id].stages().expect("an engine in memory answers");
        found.extend(stages.iter().filter(|stage| *stage >> 24 == shard.0).map(|stage| format!("stage {stage}")));
        found
    }

    /// Whether every node has applied the same.
    pub fn is_converged(&self, shard: ShardId) -> bool {
        let mut states = self.nodes.keys().map(|id| self.status(*id, shard).state);
        let first = states.next().expect("a node runs");
        states.all(|state| state.applied.position == first.applied.position && state.rolling_hash == first.rolling_hash)
    }
}

pub fn is_written(written: &Written) -> bool {
    matches!(written.outcome, Outcome::Written { .. })
}

pub fn context() -> RequestContext {
    crate::support::context(5_000)
}
