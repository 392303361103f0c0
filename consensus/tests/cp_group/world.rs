//! Three nodes, their disks, and the network between them.

use crate::support::{BEGIN_MS, Machine, Port, Receiver, Wire};
pub use crate::support::{context, increment};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use kvorum_api::{
    Actor, ClusterId, KeyspaceId, NodeId, ReadError, ReadLevel, ReplicaId, ShardId, Stamp, StartCount, WriteError,
};
use kvorum_consensus::{
    Env, Replicator, Written,
    cp::{Group, GroupContext},
    envelope::{Envelope, Form},
    health::Health,
    hello::Hello,
    hlc::Hlc,
    identity::{Identity, Life, Lives, PastLife},
    node::{Budget, ShardConfig, Timing},
    peers::{Incoming, MessageKind, Peers},
    replicator::{Found, Role},
};
use kvorum_storage::{
    Shard, WriteCommand,
    command::{Images, Settings},
    engine::mem::MemEngine,
    journal::{BatchNumber, Journal, JournalOptions, MemJournal, NODE_GROUP},
    shard::ShardSpec,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

pub const SPEC: ShardSpec = ShardSpec { shard: ShardId(7), keyspace: KeyspaceId(1) };

/// Where the replicas are.
const FOUNDERS: [(ReplicaId, NodeId); 3] =
    [(ReplicaId(10), NodeId(1)), (ReplicaId(20), NodeId(2)), (ReplicaId(30), NodeId(3))];

/// The network, and what else can happen to a message.
#[derive(Default)]
pub struct Net {
    wire: Arc<Wire>,
    doors: Mutex<BTreeMap<NodeId, Arc<Peers>>>,
    hung_up: Mutex<BTreeMap<u8, u32>>,
    damaged: Mutex<Option<(MessageKind, u32)>>,
    last_begin: Mutex<Bytes>,
    rivals: Mutex<Vec<Result<Bytes, String>>>,
    traces: Mutex<BTreeSet<(NodeId, Bytes)>>,
}

impl Deref for Net {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.wire
    }
}

impl Net {
    /// What a node does before anything else in a new life: says hello to all who are there.
    fn introduce(&self, me: Identity, last_synced: BatchNumber, past: &[PastLife]) {
        let payload = Hello { past: past.to_vec(), ..Hello::default() }.encode();
        for (to, peers) in self.doors.lock().iter() {
            let hello = Envelope {
                form: Form::Request,
                cluster: me.cluster,
                from: me.node,
                to: *to,
                life: Life { start: me.start, boot_nonce: me.boot_nonce, last_synced },
                stamp: Stamp::default(),
                physical_ms: BEGIN_MS,
                group: NODE_GROUP,
                from_replica: ReplicaId(0),
                to_replica: ReplicaId(0),
                kind: MessageKind::Hello as u8,
                trace: Bytes::new(),
                payload: payload.clone(),
            };
            assert!(peers.receive(&hello.encode()).is_ok(), "an honest node is known by its history");
        }
    }

    /// Whether an append on behalf of `trace` arrived at a node.
    pub fn has_seen(&self, node: u64, trace: &'static str) -> bool {
        self.traces.lock().contains(&(NodeId(node), Bytes::from_static(trace.as_bytes())))
    }

    /// Gives up the calls of the next `count` messages of a kind in the middle: the answering future is dropped.
    pub fn hang_up(&self, kind: MessageKind, count: u32) {
        self.hung_up.lock().insert(kind as u8, count);
    }

    /// Flips a bit in the last byte of the next `count` messages of a kind.
    pub fn damage(&self, kind: MessageKind, count: u32) {
        *self.damaged.lock() = Some((kind, count));
    }

    /// What newer snapshots were answered that began while a call to finish one was given up.
    pub fn rivals(&self) -> Vec<Result<Bytes, String>> {
        self.rivals.lock().clone()
    }

    fn is_hung_up(&self, kind: MessageKind) -> bool {
        let mut hung_up = self.hung_up.lock();
        let count = hung_up.get_mut(&(kind as u8)).filter(|count| **count > 0);
        count.map(|count| *count -= 1).is_some()
    }

    fn may_damage(&self, kind: MessageKind, payload: Bytes) -> Bytes {
        match &mut *self.damaged.lock() {
            Some((damaged, count)) if *damaged == kind && *count > 0 => {
                *count -= 1;
                let mut bytes = payload.to_vec();
                *bytes.last_mut().unwrap() ^= 1;
                bytes.into()
            }
            Some(_) | None => payload,
        }
    }
}

/// A node as the wire sees it.
struct Door {
    net: Arc<Net>,
    group: Arc<Group>,
    peers: Arc<Peers>,
}

impl Receiver for Door {
    fn receive(self: Arc<Self>, envelope: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        Box::pin(async move { self.answer(&envelope).await })
    }
}

impl Door {
    async fn answer(&self, envelope: &Bytes) -> Option<Bytes> {
        let Door { net, group, peers } = self;
        let received = match peers.receive(envelope) {
            Ok(received) => received,
            Err(refusal) => return Some(refusal),
        };
        if received.kind == MessageKind::Append {
            net.traces.lock().insert((received.envelope.to, received.envelope.trace.clone()));
        }
        let incoming = Incoming {
            from: received.envelope.from,
            from_replica: received.envelope.from_replica,
            kind: received.kind,
            payload: net.may_damage(received.kind, received.envelope.payload.clone()),
        };
        if received.kind == MessageKind::SnapshotBegin {
            *net.last_begin.lock() = incoming.payload.clone();
        }
        if net.is_hung_up(received.kind) {
            hang_up(net, group, incoming);
            return None;
        }
        Some(match group.handle(incoming).await {
            Ok(payload) => peers.reply(&received, payload),
            Err(why) => peers.refuse(&received, kvorum_consensus::envelope::Refusal::Replica, why),
        })
    }
}

/// Begins to answer and gives up.
fn hang_up(net: &Net, group: &Group, incoming: Incoming) {
    let (from, from_replica, kind) = (incoming.from, incoming.from_replica, incoming.kind);
    let is_answered = group.handle(incoming).now_or_never().is_some();
    if kind == MessageKind::SnapshotFinish && !is_answered {
        let mut newer = net.last_begin.lock().to_vec();
        // The last byte of the session, behind the format.
        newer[8] ^= 1;
        let begin = Incoming { from, from_replica, kind: MessageKind::SnapshotBegin, payload: newer.into() };
        net.rivals.lock().extend(group.handle(begin).now_or_never());
    }
}

/// A running node.
pub struct Running {
    pub group: Arc<Group>,
    pub health: Arc<Health>,
    pub engine: Arc<MemEngine>,
    pub journal: Arc<MemJournal>,
    is_alive: Arc<AtomicBool>,
    _chores: JoinSet<()>,
}

pub struct World {
    pub net: Arc<Net>,
    pub disks: BTreeMap<u64, Machine>,
    lives: BTreeMap<u64, Lives>,
    pub running: BTreeMap<u64, Running>,
    pub budget: Budget,
    pub has_chores: bool,
    /// What the founding `Configure` says.
    pub settings: Settings,
    began: Instant,
}

pub fn settings() -> Settings {
    Settings {
        behaviour: 1,
        images: Images::Keys,
        request_window_ms: 600_000,
        request_outcomes_max: 1_024,
        range: kvorum_api::PlacementRange::all(),
        epoch: 1,
        has_leases: false,
    }
}

impl World {
    /// Nothing runs yet.
    pub fn new() -> Self {
        World {
            net: Arc::default(),
            disks: (1..=3).map(|node| (node, Machine::default())).collect(),
            lives: BTreeMap::new(),
            running: BTreeMap::new(),
            budget: Budget::default(),
            has_chores: true,
            settings: settings(),
            began: Instant::now(),
        }
    }

    /// Three nodes, founded, with a leader that has been heard.
    pub async fn founded() -> Self {
        let mut world = World::new();
        world.start_all().await;
        world.found().await;
        world
    }

    /// Like [`World::founded`], and the leader has leases.
    pub async fn founded_with_leases() -> Self {
        let mut world = World::new();
        world.settings.has_leases = true;
        world.start_all().await;
        world.found().await;
        world
    }

    pub async fn start_all(&mut self) {
        for node in 1..=3 {
            self.start(node).await;
        }
    }

    /// The first founder initializes; waits until the founding settings are in force on every running node.
    pub async fn found(&self) {
        self.group(1).initialize().await.unwrap();
        self.leader().await;
        self.eventually("the founding settings are applied", || {
            self.running.values().all(|node| node.group.shard().state().settings.as_ref() == Some(&self.settings))
        })
        .await;
    }

    pub async fn start(&mut self, node: u64) {
        let running = self.open(node).await.unwrap();
        self.running.insert(node, running);
    }

    pub async fn open(&mut self, node: u64) -> Result<Running, kvorum_consensus::node::StartError> {
        let machine = self.disks.get_mut(&node).unwrap();
        machine.starts += 1;
        let engine = machine.engine.open();
        let applied = Shard::open(engine.clone(), SPEC)?.state().applied;
        let options = JournalOptions { resume_above: applied.batch, ..JournalOptions::small() };
        let port = Port::new(&self.net.wire, node);
        let is_alive = Arc::clone(&port.is_alive);
        let (env, journal) = machine.env(engine.clone(), port, self.began, options);
        let env = Env { seed: 42, ..env };
        let timing = Timing::default();
        let start = StartCount(machine.starts);
        let bound = Stamp::from_ms(env.clock.now_ms());
        let hlc = Arc::new(Hlc::new(env.clock.clone(), bound, 500));
        let health = Arc::new(Health::default());
        let me = Identity { cluster: ClusterId([1; 16]), node: NodeId(node), start, boot_nonce: node * 100 + start.0 };
        let nodes: BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
        let peers = Peers::new(me, &nodes, &BTreeMap::new(), &env, hlc.clone(), health.clone());
        peers.admit();
        let context = GroupContext {
            env,
            config: ShardConfig {
                shard: SPEC.shard,
                keyspace: SPEC.keyspace,
                incarnation: 0,
                founders: FOUNDERS.to_vec(),
                replicas: kvorum_consensus::metadata::ReplicaRow::members(&FOUNDERS),
                settings: self.settings.clone(),
            },
            actor: Actor { node: NodeId(node), start },
            nodes: Arc::new(ArcSwap::from_pointee(
                (1..=3).map(|node| (NodeId(node), format!("node{node}:7100"))).collect(),
            )),
            timing,
            budget: self.budget,
            hlc,
            health: health.clone(),
            peers: peers.clone(),
            pace: Arc::new(kvorum_consensus::cp::Pace::new(0)),
        };
        let group = Group::open(context).await?;
        let last_synced = journal.status().last_synced;
        let lives = self.lives.remove(&node).unwrap_or_default();
        let lives = lives.begin(start, me.boot_nonce, BatchNumber(last_synced.0 - 1));
        self.net.introduce(me, last_synced, &lives.past);
        self.lives.insert(node, lives);
        self.net.doors.lock().insert(NodeId(node), peers.clone());
        let door = Door { net: self.net.clone(), group: group.clone(), peers };
        self.net.wire.connect(NodeId(node), Arc::new(door));
        let mut chores = JoinSet::new();
        if self.has_chores {
            let group = group.clone();
            chores.spawn(async move {
                for round in 0_u64.. {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    group.expire_due().await;
                    if round % 4 == 3 {
                        group.retain().await;
                    }
                }
            });
        }
        Ok(Running { group, health, engine, journal, is_alive, _chores: chores })
    }

    /// The process ends without warning and the power fails: nothing unsynced survives.
    pub async fn crash(&mut self, node: u64) {
        self.net.doors.lock().remove(&NodeId(node));
        self.net.wire.disconnect(NodeId(node));
        let running = self.running.remove(&node).unwrap();
        running.is_alive.store(false, Ordering::Relaxed);
        self.disks[&node].lose_power();
        drop(running);
        // Its tasks notice.
        tokio::task::yield_now().await;
    }

    pub fn group(&self, node: u64) -> Arc<Group> {
        self.running[&node].group.clone()
    }

    /// Waits until one running node leads and every other one that can reach it agrees.
    pub async fn leader(&self) -> u64 {
        self.eventually("somebody leads", || self.leader_now().is_some()).await;
        self.leader_now().unwrap()
    }

    /// Who leads in the highest term.
    pub fn leader_now(&self) -> Option<u64> {
        let leading = self.running.iter().filter(|(_, node)| node.group.status().role == Role::Leader);
        leading.max_by_key(|(_, node)| node.group.status().term).map(|(node, _)| *node)
    }

    pub fn follower_of(&self, leader: u64) -> u64 {
        *self.running.keys().find(|node| **node != leader).unwrap()
    }

    /// Waits for a condition; time is paused, so this costs nothing.
    pub async fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds() {
            if Instant::now() > deadline {
                let statuses = self.running.iter().map(|(node, running)| (node, running.group.status()));
                panic!("not within a minute: {what}\n{:#?}", statuses.collect::<Vec<_>>());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until every running node has applied the same and holds the same.
    pub async fn converged(&self) {
        self.eventually("all replicas are equal", || {
            let states: Vec<_> = self.running.values().map(|node| node.group.shard().state()).collect();
            states.iter().all(|state| {
                state.applied.position == states[0].applied.position && state.rolling_hash == states[0].rolling_hash
            })
        })
        .await;
    }

    pub async fn put(&self, node: u64, key: &str, value: &str) -> Result<Written, WriteError> {
        self.group(node).write(put(key, value), context(5_000)).await
    }

    pub async fn get(&self, node: u64, key: &str, level: ReadLevel) -> Result<Found, ReadError> {
        self.group(node).get(Bytes::copy_from_slice(key.as_bytes()), level, context(5_000)).await
    }

    /// The value a linearizable read finds at whoever leads, retrying while nobody does.
    pub async fn value(&self, key: &str) -> Option<String> {
        for _ in 0..100 {
            let leader = self.leader().await;
            if let Ok(found) = self.get(leader, key, ReadLevel::Linearizable).await {
                return found
                    .entry
                    .and_then(|entry| entry.value)
                    .map(|value| String::from_utf8(value.to_vec()).unwrap());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no linearizable read succeeds");
    }
}

pub fn put(key: &str, value: &str) -> WriteCommand {
    put_for(key, value, None)
}

pub fn put_for(key: &str, value: &str, ttl_ms: Option<u64>) -> WriteCommand {
    crate::support::put(key, value, ttl_ms)
}
