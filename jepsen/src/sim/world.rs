//! # World: three nodes, their machines, and what befalls them
//!
//! ```text
//!   machine 1   clock · disk ─┐
//!   machine 2   clock · disk ─┼─ network ─ clients        one thread, one seed, paused time
//!   machine 3   clock · disk ─┘
//!
//!   found ─▶ clients work while the plan of faults unfolds ─▶ heal ─▶ everybody finishes ─▶ judge
//! ```
//!
//! **Invariant.** Nothing here asks the real world anything: one seed, one run.
//!
//! **Deliberately absent.** RocksDB, sockets and files: their halves of the suites are tested elsewhere.

use super::{
    audit::{Audit, TraceHash},
    chance::Chance,
    clock::SimClock,
    disk::{SimDisk, SlowJournal},
    faults::{Fault, Plan, plan},
    history::violations,
    network::{Life, Link, Network},
    observe::{Observer, position},
    workload::{Client, Desk, SHARD},
};
use bytes::Bytes;
use kvorum_api::{ClusterId, KeyspaceId, NodeId, ReplicaId, StartCount};
use kvorum_consensus::{
    Env, Node, NodeConfig,
    node::{Budget, ShardConfig, Timing},
};
use kvorum_storage::{
    Blocking, Journal,
    command::{Images, Settings},
    shard::ShardSpec,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// How long the cluster may take to found itself, and to agree at the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at every node.
const LOOK_PACE: Duration = Duration::from_millis(50);

/// The one keyspace.
const KEYSPACE: KeyspaceId = KeyspaceId(1);

/// Clients at work.
const CLIENTS: u64 = 5;

/// How one run went.
#[derive(Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The hash of everything that happened.
    pub trace: TraceHash,
    /// What must not be; empty = the run passed.
    pub violations: Vec<String>,
    /// Operations with an outcome that is known.
    pub decided: usize,
    /// Operations whose outcome is unknown for ever.
    pub unknown: usize,
    /// Losses of power.
    pub crashes: usize,
    /// The newest events, for whoever must understand a violation.
    pub newest: Vec<String>,
}

/// One machine: it outlives its node's processes.
struct Machine {
    clock: SimClock,
    disk: SimDisk,
    running: Option<Running>,
}

/// One life of a node.
struct Running {
    node: Arc<Node>,
    life: Life,
    journal: Arc<SlowJournal>,
}

/// One simulated world.
pub struct World {
    seed: u64,
    audit: Audit,
    network: Arc<Network>,
    chance: Chance,
    budget: Budget,
    machines: BTreeMap<NodeId, Machine>,
    violations: Arc<Mutex<Vec<String>>>,
    observer: Observer,
    /// What ends with a life, or after it: journals at work, and former lives on their way out.
    graveyard: JoinSet<()>,
    crashes: usize,
}

impl World {
    /// An empty world; nobody runs yet.
    pub fn new(seed: u64, prints: bool) -> Self {
        let audit = Audit::new(prints);
        let began = Instant::now();
        let mut chance = Chance::new(seed, "world");
        // Some worlds have room for little, so that logs are purged and snapshots travel.
        let log_bytes = *chance.pick(&[16 << 10, 64 << 10, 1 << 20]);
        let budget = Budget {
            journal_bytes_max: log_bytes,
            follower_log_bytes_max: log_bytes,
            snapshot_chunk_bytes: 4 << 10,
            ..Budget::default()
        };
        let machine = || Machine { clock: SimClock::new(began), disk: SimDisk::new(), running: None };
        World {
            seed,
            network: Network::new(seed, audit.clone()),
            audit,
            chance,
            budget,
            machines: (1..=3).map(|id| (NodeId(id), machine())).collect(),
            violations: Arc::default(),
            observer: Observer::default(),
            graveyard: JoinSet::new(),
            crashes: 0,
        }
    }

    /// Lives through one whole run.
    pub async fn run(mut self, length: Duration) -> Report {
        let nodes: Vec<NodeId> = self.machines.keys().copied().collect();
        let plan = plan(self.seed, &nodes, length);
        self.audit.event(format_args!(
            "seed {} for {length:?} with {} bytes of log",
            self.seed, self.budget.journal_bytes_max
        ));
        for (at, fault) in &plan {
            self.audit.event(format_args!("planned at {at:?}: {fault}"));
        }
        for node in &nodes {
            self.start(*node);
        }
        let history = Arc::new(Mutex::new(Vec::new()));
        if self.wait_until(PATIENCE, World::has_leader).await {
            let desk = Desk {
                network: Arc::clone(&self.network),
                nodes: Arc::new(nodes),
                audit: self.audit.clone(),
                history: Arc::clone(&history),
                violations: Arc::clone(&self.violations),
                moments: Arc::new(AtomicU64::new(0)),
                until: Instant::now() + length,
            };
            self.work(desk, plan).await;
        } else {
            self.complain(format!("three whole nodes founded nothing within {PATIENCE:?}"));
        }
        for id in self.machines.keys().copied().collect::<Vec<_>>() {
            self.end(id).await;
        }
        let ended = async { while self.graveyard.join_next().await.is_some() {} };
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            self.complain(format!("a former life does not end within {PATIENCE:?}"));
        }
        self.network.close();
        let history = history.lock();
        let unknown = history.iter().filter(|record| record.told == super::history::Told::Unknown).count();
        Report {
            seed: self.seed,
            trace: self.audit.hash(),
            violations: self.violations.lock().clone(),
            decided: history.len() - unknown,
            unknown,
            crashes: self.crashes,
            newest: self.audit.newest(),
        }
    }

    /// Clients work while the plan unfolds; then all must come to an end, and what they were told is judged.
    async fn work(&mut self, desk: Desk, plan: Plan) {
        let mut clients = JoinSet::new();
        for id in 1..=CLIENTS {
            clients.spawn(Client::new(id, self.seed, desk.clone()).run());
        }
        let began = Instant::now();
        for (at, fault) in plan {
            self.look_until(began + at).await;
            self.befall(fault);
        }
        while !clients.is_empty() {
            self.look();
            let pause = Instant::now() + LOOK_PACE;
            while let Ok(Some(ended)) = tokio::time::timeout_at(pause, clients.join_next()).await {
                if let Err(error) = ended {
                    self.complain(format!("a client failed: {error}"));
                }
            }
        }
        let finally = self.read_everything(&desk).await;
        for violation in violations(&desk.history.lock(), &finally) {
            self.complain(violation);
        }
        if !self.wait_until(PATIENCE, World::agrees).await {
            let stands: Vec<String> = self.running().map(|(id, node)| format!("{id}: {:?}", position(node))).collect();
            self.complain(format!("replicas do not agree within {PATIENCE:?}: {}", stands.join(", ")));
        }
    }

    async fn read_everything(&self, desk: &Desk) -> BTreeMap<Bytes, Option<(kvorum_api::Version, Bytes)>> {
        let keys: BTreeSet<Bytes> = desk.history.lock().iter().map(|record| record.key.clone()).collect();
        let mut reader = Client::new(CLIENTS + 1, self.seed, desk.clone());
        let mut finally = BTreeMap::new();
        for key in keys {
            match reader.read_finally(&key).await {
                Ok(found) => {
                    finally.insert(key, found);
                }
                Err(why) => {
                    self.complain(why);
                    break;
                }
            }
        }
        finally
    }

    fn befall(&mut self, fault: Fault) {
        self.audit.event(format_args!("now: {fault}"));
        match fault {
            Fault::Crash(node) => self.crash(node),
            Fault::Restart(node) => self.start(node),
            Fault::Cut(links) => self.network.set_cut(links),
            Fault::Weather(weather) => self.network.set_weather(weather),
            Fault::Clock(node, ahead_ms) => self.machine(node).clock.set_ahead_ms(ahead_ms),
            Fault::SlowDisk(node, sync_ms) => self.machine(node).disk.set_sync_ms(sync_ms),
        }
    }

    /// Starts a node that does not run.
    fn start(&mut self, id: NodeId) {
        if self.machine(id).running.is_some() {
            return;
        }
        let boot_nonce = self.chance.any();
        let seed = self.chance.any();
        let life = Life::begin();
        let link = Link { from: id, life: life.clone(), network: Arc::clone(&self.network) };
        let budget = self.budget;
        let machine = self.machines.get_mut(&id).expect("the plan names machines of this world");
        let spec = ShardSpec { shard: SHARD, keyspace: KEYSPACE };
        let opened = match machine.disk.open(spec) {
            Ok(opened) => opened,
            Err(error) => return self.complain(format!("honest node {id} cannot open its disk: {error}")),
        };
        for violation in opened.violations {
            complain(&self.audit, &self.violations, format!("node {id} lost power: {violation}"));
        }
        let journal = opened.journal;
        self.graveyard.spawn(Arc::clone(&journal).pump(life.clone()));
        let env = Env {
            engine: opened.engine,
            journal: Arc::clone(&journal) as Arc<dyn Journal>,
            transport: Arc::new(link),
            clock: machine.clock.as_clock(),
            blocking: Blocking::inline(),
            seed,
        };
        let config = node_config(id, opened.start, boot_nonce, budget);
        let node = match Node::new(env, config) {
            Ok(node) => node,
            Err(error) => return self.complain(format!("honest node {id} does not start: {error}")),
        };
        machine.running = Some(Running { node: Arc::clone(&node), life: life.clone(), journal });
        self.network.connect(id, Arc::clone(&node), life.clone());
        let (audit, violations) = (self.audit.clone(), Arc::clone(&self.violations));
        // Beside everything else: the next crash may come while it opens.
        self.graveyard.spawn(async move {
            tokio::select! {
                biased;
                () = life.ended() => {}
                opened = node.open() => match opened {
                    Ok(()) => audit.event(format_args!("node {id} runs")),
                    Err(error) => complain(&audit, &violations, format!("honest node {id} does not start: {error}")),
                },
            }
        });
    }

    /// Cuts the power of a machine.
    fn crash(&mut self, id: NodeId) {
        let fate = self.chance.any();
        let machine = self.machine(id);
        let Some(Running { node, life, journal }) = machine.running.take() else { return };
        life.end();
        machine.disk.lose_power(fate);
        // Whoever waits for the dead disk is told so: nothing that was is left waiting for ever.
        journal.stop();
        self.network.disconnect(id);
        self.crashes += 1;
        self.graveyard.spawn(async move { node.stop().await });
    }

    /// Stops a node in order.
    async fn end(&mut self, id: NodeId) {
        if let Some(Running { node, life, .. }) = self.machine(id).running.take() {
            node.stop().await;
            life.end();
            self.network.disconnect(id);
        }
    }

    async fn look_until(&mut self, moment: Instant) {
        while Instant::now() < moment {
            self.look();
            sleep_until(moment.min(Instant::now() + LOOK_PACE)).await;
        }
    }

    fn look(&mut self) {
        let mut found = Vec::new();
        for (id, machine) in &self.machines {
            if let Some(Running { node, .. }) = &machine.running {
                found.extend(self.observer.look(*id, node));
            }
        }
        for violation in found {
            self.complain(violation);
        }
    }

    async fn wait_until(&mut self, patience: Duration, holds: fn(&World) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            self.look();
            if holds(self) {
                return true;
            }
            sleep(LOOK_PACE).await;
        }
        false
    }

    fn has_leader(&self) -> bool {
        self.running().any(|(_, node)| {
            let replicas = node.status().replicas;
            let leads = |role| role == kvorum_consensus::replicator::Role::Leader;
            replicas.iter().any(|replica| leads(replica.role) && replica.state.settings.is_some())
        })
    }

    /// Whether all nodes run and stand at one position with one hash.
    fn agrees(&self) -> bool {
        let stands: Vec<_> = self.running().map(|(_, node)| position(node)).collect();
        stands.len() == self.machines.len() && stands[0].is_some() && stands.iter().all(|stand| *stand == stands[0])
    }

    fn running(&self) -> impl Iterator<Item = (NodeId, &Arc<Node>)> {
        self.machines.iter().filter_map(|(id, machine)| Some((*id, &machine.running.as_ref()?.node)))
    }

    fn machine(&mut self, id: NodeId) -> &mut Machine {
        self.machines.get_mut(&id).expect("the plan names machines of this world")
    }

    fn complain(&self, violation: String) {
        complain(&self.audit, &self.violations, violation);
    }
}

/// Says each sentence once: a violation that lasts would be found at every look.
fn complain(audit: &Audit, violations: &Mutex<Vec<String>>, violation: String) {
    let mut violations = violations.lock();
    if !violations.contains(&violation) {
        audit.event(format_args!("VIOLATION: {violation}"));
        violations.push(violation);
    }
}

fn node_config(node: NodeId, start: StartCount, boot_nonce: u64, budget: Budget) -> NodeConfig {
    let settings = Settings {
        behaviour: 1,
        images: Images::NewAndOld,
        request_window_ms: kvorum_api::limits::REQUEST_ID_AGE_MS_MAX,
        request_outcomes_max: 16,
        range: kvorum_api::PlacementRange::all(),
        epoch: 1,
        has_leases: false,
    };
    let shard = ShardConfig {
        shard: SHARD,
        keyspace: KEYSPACE,
        incarnation: 0,
        founders: (1..=3).map(|id| (ReplicaId(100 + id), NodeId(id))).collect(),
        settings,
    };
    NodeConfig {
        cluster: ClusterId(*b"simulated world."),
        node,
        start,
        boot_nonce,
        founding: kvorum_consensus::metadata::Founding::default(),
        map: None,
        nodes: (1..=3).map(|id| (NodeId(id), format!("node-{id}:1"))).collect(),
        shards: vec![shard],
        timing: Timing::default(),
        budget,
    }
}
