//! A door over shards that are a map in memory, for tests of the doors alone.

use super::door::Door;
use crate::{admission::Admission, config::Config, router::Router, router::tests::HERE};
use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::{
    ClusterId, LogPosition, Mode, ReadError, ReadLevel, Receipt, ShardId, Stamp, StartCount, Version, WriteError,
};
use kvorum_consensus::{
    Clock, Env, Lane, Node, NodeConfig, Replicator, RequestContext, Transport, TransportError, Written,
    metadata::{ClusterMap, Founding},
    node::{Budget, Timing},
    replicator::{Found, ReplicaStatus, Rows},
};
use kvorum_storage::{
    Blocking, Entry, Operation, OperationResult, Outcome, WriteCommand,
    command::{OperationStatus, Previous},
    engine,
    journal::{self, JournalOptions, MemJournal},
    shard::ScanRange,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

/// The wall clock of the fake world.
pub const NOW_MS: u64 = 1_700_000_000_000;

/// One shard: puts and gets, nothing else.
pub struct FakeShard {
    shard: ShardId,
    /// What it holds.
    pub entries: Mutex<BTreeMap<Bytes, Bytes>>,
    /// How many commands each call of `write_many` brought, and in which context.
    pub handed: Mutex<Vec<(usize, RequestContext)>>,
    /// Writes wait for a permit each call.
    pub gate: Semaphore,
    index: AtomicU64,
}

impl FakeShard {
    fn new(shard: ShardId) -> Arc<Self> {
        Arc::new(FakeShard {
            shard,
            entries: Mutex::default(),
            handed: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            index: AtomicU64::new(0),
        })
    }

    /// Lets nothing be decided until permits are added.
    pub fn shut(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn receipt(&self, level: Option<ReadLevel>) -> Receipt {
        Receipt {
            mode: Mode::Cp,
            level,
            shard: self.shard,
            epoch: 2,
            incarnation: 0,
            node: HERE,
            version: None,
            position: LogPosition { term: 1, index: self.index.load(Ordering::Relaxed) },
            staleness: None,
            durable_replicas: u32::from(level.is_none()),
            stamp: Stamp::from_ms(NOW_MS),
        }
    }

    fn apply(&self, command: WriteCommand) -> Written {
        self.index.fetch_add(1, Ordering::Relaxed);
        let results = command.operations.into_iter().map(|operation| {
            let Operation::Put { key, value, .. } = operation else { panic!("this shard only knows puts") };
            self.entries.lock().insert(key, value);
            let (status, previous) = (OperationStatus::Applied, Previous::NotAsked);
            OperationResult { status, previous, number: None, version: Some(Version::default()) }
        });
        let outcome = Outcome::Written { applied: true, repeated: false, results: results.collect() };
        Written { outcome, receipt: self.receipt(None) }
    }
}

impl Replicator for FakeShard {
    fn write_many(
        &self,
        commands: Vec<WriteCommand>,
        context: RequestContext,
    ) -> BoxFuture<'_, Vec<Result<Written, WriteError>>> {
        self.handed.lock().push((commands.len(), context));
        Box::pin(async move {
            self.gate.acquire().await.expect("the gate stays").forget();
            commands.into_iter().map(|command| Ok(self.apply(command))).collect()
        })
    }

    fn get(&self, key: Bytes, level: ReadLevel, _: RequestContext) -> BoxFuture<'_, Result<Found, ReadError>> {
        Box::pin(async move {
            let value = self.entries.lock().get(&key).cloned();
            let entry = value.map(|value| Entry { version: Version::default(), value: Some(value), expires_ms: None });
            Ok(Found { entry, receipt: self.receipt(Some(level)) })
        })
    }

    fn scan(&self, _: ScanRange, _: ReadLevel, _: RequestContext) -> BoxFuture<'_, Result<Box<dyn Rows>, ReadError>> {
        unreachable!("no test of the doors alone scans")
    }

    fn status(&self) -> ReplicaStatus {
        unreachable!("no test of the doors alone looks at it")
    }
}

/// Nobody is there.
struct NoWire;

impl Transport for NoWire {
    fn call(
        &self,
        node: kvorum_api::NodeId,
        _: Lane,
        _: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        Box::pin(async move { Err(TransportError::Unreachable { node, why: "no wire".to_owned() }) })
    }

    fn set_peers(&self, _: &BTreeMap<kvorum_api::NodeId, String>) {}
}

/// A door over the shards of a map.
pub struct World {
    /// The door.
    pub door: Arc<Door>,
    /// The shards that the map places here.
    pub shards: BTreeMap<ShardId, Arc<FakeShard>>,
}

impl World {
    /// Behind the door lies what the map says; `[limits]` is in its words.
    pub fn new(map: ClusterMap, limits: &str) -> World {
        let here = map.shards.keys().filter(|shard| map.replica_on(**shard, HERE).is_some());
        let shards: BTreeMap<_, _> = here.map(|shard| (*shard, FakeShard::new(*shard))).collect();
        let config = Config::parse(Some(&format!("[limits]\n{limits}")), []).unwrap();
        let known = shards.clone();
        let router = Router::new(
            HERE,
            Arc::new(move |shard| known.get(&shard).map(|shard| shard.clone() as Arc<dyn Replicator>)),
        );
        router.take_in(&Arc::new(map.clone()));
        let limits = config.limits;
        let door = Door {
            node: node(map),
            router,
            admission: Admission::new(
                limits.request_bytes_in_flight_max,
                limits.requests_in_flight_max,
                limits.scans_max,
            ),
            cluster: ClusterId::default(),
            id: HERE,
            limits,
            clock_offset_max: Duration::from_millis(500),
            tasks: TaskTracker::new(),
            draining: watch::Sender::new(false),
        };
        World { door: Arc::new(door), shards }
    }

    /// A shard that is here.
    pub fn shard(&self, shard: u64) -> &FakeShard {
        &self.shards[&ShardId(shard)]
    }
}

/// A node that holds nothing: the doors ask it for the time and for its peers.
fn node(map: ClusterMap) -> Arc<Node> {
    let journal = MemJournal::open(journal::MemDisk::new(), JournalOptions::small()).unwrap();
    let env = Env {
        engine: engine::mem::MemDisk::new().open(),
        journal,
        transport: Arc::new(NoWire),
        clock: Clock::new(|| NOW_MS),
        blocking: Blocking::inline(),
        seed: 1,
    };
    let config = NodeConfig {
        cluster: ClusterId::default(),
        node: HERE,
        start: StartCount(1),
        boot_nonce: 1,
        founding: Founding::default(),
        map: Some(map),
        nodes: BTreeMap::new(),
        shards: Vec::new(),
        timing: Timing::default(),
        budget: Budget::default(),
    };
    Node::new(env, config).unwrap()
}
