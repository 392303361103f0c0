//! Three nodes, their disks, and the network between them.

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use kvorum_api::{
    Actor, ClusterId, KeyspaceId, NodeId, ReadError, ReadLevel, ReplicaId, ShardId, Stamp, StartCount, WriteError,
};
use kvorum_consensus::{
    Clock, Env, Lane, Replicator, RequestContext, Transport, TransportError, Written,
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
    Blocking, Operation, RequestId, Shard, WriteCommand,
    command::{Condition, Images, Settings},
    engine::mem::{MemDisk as EngineDisk, MemEngine},
    journal::{BatchNumber, Journal, JournalOptions, MemDisk as JournalDisk, MemJournal, NODE_GROUP},
    shard::ShardSpec,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// Unix milliseconds when the test begins.
const BEGAN_MS: u64 = 1_700_000_000_000;

/// One way between two nodes.
const ONE_WAY: Duration = Duration::from_millis(1);

pub const SPEC: ShardSpec = ShardSpec { shard: ShardId(7), keyspace: KeyspaceId(1) };

/// What answers on a node.
type Endpoint = (Arc<Group>, Arc<Peers>);

/// Who can reach whom, and what was sent.
#[derive(Default)]
pub struct Net {
    endpoints: Mutex<BTreeMap<NodeId, Endpoint>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    slow: Mutex<BTreeMap<(NodeId, NodeId), Duration>>,
    lossy: Mutex<Option<(MessageKind, u32)>>,
    swallowed: Mutex<Option<(MessageKind, u32)>>,
    hung_up: Mutex<BTreeMap<u8, u32>>,
    damaged: Mutex<Option<(MessageKind, u32)>>,
    last_begin: Mutex<Bytes>,
    rivals: Mutex<Vec<Result<Bytes, String>>>,
    sent: Mutex<BTreeMap<(NodeId, NodeId), u64>>,
    kinds: Mutex<BTreeMap<u8, u64>>,
    traces: Mutex<BTreeSet<(NodeId, Bytes)>>,
}

impl Net {
    /// What a node does before anything else in a new life: says hello to all who are there.
    fn introduce(&self, me: Identity, last_synced: BatchNumber, past: &[PastLife]) {
        let payload = Hello { past: past.to_vec(), ..Hello::default() }.encode();
        for (to, (_, peers)) in self.endpoints.lock().iter() {
            let hello = Envelope {
                form: Form::Request,
                cluster: me.cluster,
                from: me.node,
                to: *to,
                life: Life { start: me.start, boot_nonce: me.boot_nonce, last_synced },
                stamp: Stamp::default(),
                physical_ms: BEGAN_MS,
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

    /// Messages `from` has tried to send to `to`.
    pub fn sent(&self, from: u64, to: u64) -> u64 {
        self.sent.lock().get(&(NodeId(from), NodeId(to))).copied().unwrap_or(0)
    }

    /// Messages of a kind that arrived anywhere.
    pub fn arrived(&self, kind: MessageKind) -> u64 {
        self.kinds.lock().get(&(kind as u8)).copied().unwrap_or(0)
    }

    /// Whether an append on behalf of `trace` arrived at a node.
    pub fn has_seen(&self, node: u64, trace: &'static str) -> bool {
        self.traces.lock().contains(&(NodeId(node), Bytes::from_static(trace.as_bytes())))
    }

    /// Cuts a node off in both directions.
    pub fn isolate(&self, node: u64) {
        let mut cut = self.cut.lock();
        for other in 1..=3 {
            cut.insert((NodeId(node), NodeId(other)));
            cut.insert((NodeId(other), NodeId(node)));
        }
    }

    /// Cuts two nodes off from each other.
    pub fn cut_pair(&self, one: u64, other: u64) {
        self.cut.lock().extend([(NodeId(one), NodeId(other)), (NodeId(other), NodeId(one))]);
    }

    pub fn heal(&self) {
        self.cut.lock().clear();
        self.slow.lock().clear();
    }

    /// Delays what `from` sends to `to`.
    pub fn delay(&self, from: u64, to: u64, by: Duration) {
        self.slow.lock().insert((NodeId(from), NodeId(to)), by);
    }

    /// Loses the next `count` messages of a kind on their way.
    pub fn lose_requests(&self, kind: MessageKind, count: u32) {
        *self.swallowed.lock() = Some((kind, count));
    }

    /// Loses the replies to the next `count` messages of a kind.
    pub fn lose_replies(&self, kind: MessageKind, count: u32) {
        *self.lossy.lock() = Some((kind, count));
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

    fn is_reply_lost(&self, kind: MessageKind) -> bool {
        is_next(&self.lossy, kind)
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.lock().contains(&(from, to))
    }
}

/// Whether the next one of a kind is meant, and one fewer after it.
fn is_next(meant: &Mutex<Option<(MessageKind, u32)>>, kind: MessageKind) -> bool {
    match &mut *meant.lock() {
        Some((meant, count)) if *meant == kind && *count > 0 => {
            *count -= 1;
            true
        }
        Some(_) | None => false,
    }
}

struct Port {
    net: Arc<Net>,
    from: NodeId,
    /// Cleared when the process ends: its tasks may linger, its messages do not.
    is_alive: Arc<AtomicBool>,
}

impl Transport for Port {
    fn call(
        &self,
        to: NodeId,
        _lane: Lane,
        envelope: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (net, from, is_alive) = (self.net.clone(), self.from, self.is_alive.clone());
        *net.sent.lock().entry((from, to)).or_default() += 1;
        let unreachable = move || TransportError::Unreachable { node: to, why: "cut".to_owned() };
        Box::pin(async move {
            let endpoint = net.endpoints.lock().get(&to).cloned().filter(|_| is_alive.load(Ordering::Relaxed));
            let Some((group, peers)) = endpoint.filter(|_| !net.is_cut(from, to)) else {
                return Err(unreachable());
            };
            let way = ONE_WAY + net.slow.lock().get(&(from, to)).copied().unwrap_or_default();
            let travels = {
                let net = net.clone();
                async move {
                    tokio::time::sleep(way).await;
                    let answer = answer(&net, &group, &peers, &envelope).await;
                    tokio::time::sleep(ONE_WAY).await;
                    answer
                }
            };
            // What arrived is worked on even if the sender has given up.
            #[expect(clippy::disallowed_methods, reason = "a message on its way belongs to nobody")]
            let travels = tokio::spawn(travels);
            match tokio::time::timeout(timeout, travels).await {
                Ok(Ok(Some(answer))) if !net.is_cut(to, from) => Ok(answer),
                Ok(Ok(_)) => Err(unreachable()),
                Ok(Err(_)) => Err(unreachable()),
                Err(_) => Err(TransportError::Timeout { node: to, after: timeout }),
            }
        })
    }

    fn set_peers(&self, _peers: &BTreeMap<NodeId, String>) {}
}

/// What the receiving node does with an envelope; `None` = the reply is lost.
async fn answer(net: &Net, group: &Group, peers: &Peers, envelope: &Bytes) -> Option<Bytes> {
    let received = match peers.receive(envelope) {
        Ok(received) => received,
        Err(refusal) => return Some(refusal),
    };
    *net.kinds.lock().entry(received.kind as u8).or_default() += 1;
    if received.kind == MessageKind::Append {
        net.traces.lock().insert((received.envelope.to, received.envelope.trace.clone()));
    }
    if is_next(&net.swallowed, received.kind) {
        return None;
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
    let answer = match group.handle(incoming).await {
        Ok(payload) => peers.reply(&received, payload),
        Err(why) => peers.refuse(&received, kvorum_consensus::envelope::Refusal::Replica, why),
    };
    (!net.is_reply_lost(received.kind)).then_some(answer)
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

/// What outlives a node.
#[derive(Default)]
pub struct Disks {
    pub journal: JournalDisk,
    pub engine: EngineDisk,
    starts: u64,
    lives: Lives,
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
    pub disks: BTreeMap<u64, Disks>,
    pub running: BTreeMap<u64, Running>,
    pub budget: Budget,
    pub has_chores: bool,
    /// What the founding `Configure` says.
    pub settings: Settings,
    /// Milliseconds by which a node's wall clock is ahead.
    pub clock_ahead_ms: BTreeMap<u64, u64>,
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
            disks: (1..=3).map(|node| (node, Disks::default())).collect(),
            running: BTreeMap::new(),
            budget: Budget::default(),
            has_chores: true,
            settings: settings(),
            clock_ahead_ms: BTreeMap::new(),
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
        let ahead_ms = self.clock_ahead_ms.get(&node).copied().unwrap_or(0);
        let disks = self.disks.get_mut(&node).unwrap();
        disks.starts += 1;
        let engine = disks.engine.open();
        let applied = Shard::open(engine.clone(), SPEC)?.state().applied;
        let options = JournalOptions { resume_above: applied.batch, ..JournalOptions::small() };
        let journal = MemJournal::open(disks.journal.clone(), options)?;
        let began = self.began;
        let is_alive = Arc::new(AtomicBool::new(true));
        let env = Env {
            engine: engine.clone(),
            journal: journal.clone(),
            transport: Arc::new(Port { net: self.net.clone(), from: NodeId(node), is_alive: is_alive.clone() }),
            clock: Clock::new(move || BEGAN_MS + ahead_ms + began.elapsed().as_millis() as u64),
            blocking: Blocking::inline(),
            seed: 42,
        };
        let timing = Timing::default();
        let start = StartCount(disks.starts);
        let bound = Stamp::from_ms(BEGAN_MS + began.elapsed().as_millis() as u64 + ahead_ms);
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
                founders: (1..=3).map(|node| (ReplicaId(node * 10), NodeId(node))).collect(),
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
        };
        let group = Group::open(context).await?;
        let last_synced = journal.status().last_synced;
        let lives = std::mem::take(&mut disks.lives);
        disks.lives = lives.begin(start, me.boot_nonce, BatchNumber(last_synced.0 - 1));
        self.net.introduce(me, last_synced, &disks.lives.past);
        self.net.endpoints.lock().insert(NodeId(node), (group.clone(), peers));
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
        self.net.endpoints.lock().remove(&NodeId(node));
        let running = self.running.remove(&node).unwrap();
        running.is_alive.store(false, Ordering::Relaxed);
        let disks = &self.disks[&node];
        disks.journal.lose_power(|_| false);
        disks.engine.lose_power();
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

pub fn context(timeout_ms: u64) -> RequestContext {
    RequestContext { timeout: Duration::from_millis(timeout_ms), ..RequestContext::default() }
}

pub fn put(key: &str, value: &str) -> WriteCommand {
    put_for(key, value, None)
}

pub fn put_for(key: &str, value: &str, ttl_ms: Option<u64>) -> WriteCommand {
    WriteCommand {
        request: None,
        operations: vec![Operation::Put {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            ttl_ms,
            condition: Condition::Always,
            return_previous: false,
        }],
    }
}

pub fn increment(key: &str, request: Option<RequestId>) -> WriteCommand {
    WriteCommand {
        request,
        operations: vec![Operation::Increment {
            key: Bytes::copy_from_slice(key.as_bytes()),
            delta: 1,
            return_previous: false,
        }],
    }
}
