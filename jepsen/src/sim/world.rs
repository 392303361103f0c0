//! # World: a few nodes, their machines, and what befalls them
//!
//! ```text
//!   machine 1   clock · disk ─┐
//!   machine 2   clock · disk ─┼─ network ─ clients, readers, steward        one thread, one seed, paused time
//!   machine …   clock · disk ─┘
//!
//!   found ─▶ clients work while the plan of faults unfolds ─▶ heal ─▶ everybody finishes ─▶ judge
//! ```
//!
//! **Invariant.** Nothing here asks the real world anything: one seed, one run.
//!
//! **Deliberately absent.** RocksDB, sockets and files: their halves of the suites are tested elsewhere. What must be
//! true at the end: that is `settle`.

use super::{
    audit::Audit,
    chance::Chance,
    crew::Crew,
    diary::{self, Handed},
    diary_reader::DiaryReader,
    disk::Opened,
    draw::Drawn,
    faults::{Fault, around_leader},
    history::{self, Told},
    machine::{Machine, Running, node_config, node_row},
    members::Members,
    moving::Moving,
    network::{Life, Link, Network},
    observe::{Looked, Observer},
    plan::{Plan, plan},
    report::Report,
    steward::Steward,
    trimmer::Trimmer,
    verdict,
    workload::{Client, Desk},
};
use kvorum_api::NodeId;
use kvorum_consensus::{
    Env, Node,
    metadata::{Founding, METADATA_SHARD},
    node::{Budget, StartError},
};
use kvorum_storage::{Blocking, Journal, StorageError, shard::ShardSpec};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// How long the cluster may take to found itself, and to agree at the end.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at every node.
const LOOK_PACE: Duration = Duration::from_millis(50);

/// What clients were told.
type History = Arc<Mutex<Vec<history::Record>>>;

/// Clients at work.
pub(super) const CLIENTS: u64 = 5;

/// One simulated world.
pub struct World {
    pub(super) seed: u64,
    pub(super) audit: Audit,
    pub(super) network: Arc<Network>,
    chance: Chance,
    pub(super) drawn: Arc<Drawn>,
    pub(super) members: Members,
    pub(super) machines: BTreeMap<NodeId, Machine>,
    violations: Arc<Mutex<Vec<String>>>,
    pub(super) observer: Observer,
    /// What ends with a life, or after it: journals at work, and former lives on their way out.
    pub(super) graveyard: JoinSet<()>,
    crashes: usize,
    /// What was read at the end.
    pub(super) finally: Vec<history::Record>,
    pub(super) born: Instant,
}

impl World {
    /// An empty world; nobody runs yet.
    pub fn new(seed: u64, prints: bool) -> Self {
        let audit = Audit::new(prints);
        let began = Instant::now();
        let drawn = Arc::new(Drawn::new(seed));
        let ids: Vec<NodeId> = (1..=drawn.nodes).map(NodeId).collect();
        let rows = ids.iter().copied().map(node_row).collect();
        let founding = Founding { nodes: rows, keyspaces: drawn.keyspaces.clone() };
        let machine = |id: &NodeId| (*id, Machine::new(began, drawn.journal.clone(), founding.clone()));
        World {
            seed,
            network: Network::new(seed, audit.clone()),
            audit,
            chance: Chance::new(seed, "world"),
            machines: ids.iter().map(machine).collect(),
            members: Members::new(seed, ids),
            violations: Arc::default(),
            drawn,
            observer: Observer::default(),
            graveyard: JoinSet::new(),
            crashes: 0,
            finally: Vec::new(),
            born: began,
        }
    }

    /// Lives through one whole run.
    pub async fn run(mut self, length: Duration) -> Report {
        let founders: Vec<NodeId> = self.machines.keys().copied().collect();
        // Who joins is given the next numbers.
        let moving = self.drawn.moving.as_ref();
        let nodes: Vec<NodeId> = (1..=moving.map_or(self.drawn.nodes, Moving::everybody)).map(NodeId).collect();
        let plan = plan(self.seed, moving, &nodes, length);
        self.audit.event(format_args!("seed {} for {length:?}: {}; {plan}", self.seed, self.drawn));
        let drawn = format!("{}; {plan}", self.drawn);
        for (at, fault) in &plan.steps {
            self.audit.event(format_args!("planned at {at:?}: {fault}"));
        }
        for node in founders {
            self.start(node);
        }
        let (history, handed) = (Arc::new(Mutex::new(Vec::new())), Arc::default());
        if self.wait_until(PATIENCE, World::is_founded).await {
            let desk = self.desk(length, &history, &handed);
            self.work(&desk, plan).await;
            self.settle(&desk).await;
        } else {
            self.complain(format!("{} whole nodes founded nothing within {PATIENCE:?}", self.machines.len()));
        }
        for id in self.machines.keys().copied().collect::<Vec<_>>() {
            self.end(id).await;
        }
        let ended = async { while self.graveyard.join_next().await.is_some() {} };
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            self.complain(format!("a former life does not end within {PATIENCE:?}"));
        }
        self.network.close();
        let (history, handed) = (history.lock(), handed.lock());
        let (changes, resyncs) = diary::counted(&handed);
        let mut histories = verdict::files(&history, &self.finally);
        histories.push(("diary.jsonl", diary::written(&handed)));
        let unknown = history.iter().filter(|record| record.told == Told::Unknown).count();
        Report {
            seed: self.seed,
            trace: self.audit.hash(),
            violations: self.violations.lock().clone(),
            decided: history.len() - unknown,
            unknown,
            changes,
            resyncs,
            crashes: self.crashes,
            closings: self.observer.closings,
            openings: self.observer.openings,
            drawn,
            histories,
            simulated: self.born.elapsed(),
            took: Duration::ZERO,
            newest: self.audit.newest(),
        }
    }

    /// What all who work share.
    fn desk(&self, length: Duration, history: &History, handed: &Arc<Mutex<Vec<Handed>>>) -> Desk {
        let now = Instant::now();
        Desk {
            network: Arc::clone(&self.network),
            members: Arc::clone(&self.members.there),
            drawn: Arc::clone(&self.drawn),
            audit: self.audit.clone(),
            history: Arc::clone(history),
            handed: Arc::clone(handed),
            readers: Arc::default(),
            ledger: Arc::clone(&self.members.ledger),
            handed_on: Arc::default(),
            violations: Arc::clone(&self.violations),
            moments: Arc::default(),
            hurry: Arc::default(),
            began: now,
            until: now + length,
        }
    }

    /// Clients work while the plan unfolds; then all must come to an end.
    async fn work(&mut self, desk: &Desk, plan: Plan) {
        let mut clients = JoinSet::new();
        for id in 1..=CLIENTS {
            clients.spawn(Client::new(id, self.seed, desk.clone()).run());
        }
        for id in 1..=self.drawn.diary_readers {
            clients.spawn(DiaryReader::new(id, self.seed, desk.clone()).run());
        }
        clients.spawn(Trimmer::new(self.seed, desk.clone()).run());
        clients.spawn(Steward::new(self.seed, desk.clone()).run());
        clients.spawn(Crew::new(self.seed, desk.clone()).run());
        let began = Instant::now();
        for (at, fault) in plan.steps {
            self.look_until(began + at).await;
            self.befall(fault, desk);
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
    }

    fn befall(&mut self, fault: Fault, desk: &Desk) {
        // Where the power has failed a moment ago, that comes first.
        self.look();
        if fault.subject().is_some_and(|node| !self.machines.contains_key(&node)) {
            return;
        }
        self.audit.event(format_args!("now: {fault}"));
        match fault {
            Fault::Crash(node) => self.crash(node),
            Fault::Restart(node) => self.start(node),
            Fault::Cut(cut, links) => self.network.cut(cut, links),
            Fault::CutLeader(cut, draw) => {
                if let Some((leader, ..)) = self.leader(draw) {
                    let links = around_leader(leader, &desk.nodes(), draw);
                    self.audit.event(format_args!("node {leader} leads: {}", Fault::Cut(cut, links.clone())));
                    self.network.cut(cut, links);
                }
            }
            Fault::Mend(cut) => {
                self.calm_down();
                self.network.mend(cut);
            }
            Fault::MendAll => {
                self.calm_down();
                self.network.mend_all();
            }
            Fault::Weather(weather) => self.network.set_weather(weather),
            Fault::Clock(node, ahead_ms) => self.machine(node).clock.set_ahead_ms(ahead_ms),
            Fault::ClockGains(node, gains) => self.machine(node).clock.set_gains(gains),
            Fault::SlowDisk(node, sync_ms) => self.machine(node).disk.set_sync_ms(sync_ms),
            Fault::FailPowerAfter(node, store, operations) => {
                let machine = self.machine(node);
                machine.disk.fail_power_after(store, operations, machine.running.is_some());
            }
            Fault::KeepPower(node) => self.keep_power(node),
            Fault::FailDisk(node, part) => {
                let machine = self.machine(node);
                if machine.running.is_some() {
                    machine.disk.fail_next(part);
                }
            }
            Fault::ReplaceDisk(node) => {
                if self.machine(node).disk.has_failed() {
                    self.crash(node);
                }
            }
            Fault::Full(node, is_full) => self.machine(node).disk.set_full(is_full),
            Fault::Rot(node, draw) => {
                self.crash(node);
                let rotten = self.machine(node).disk.rot(&mut Chance::new(draw, "rot"));
                self.audit.event(format_args!("node {node}: {rotten:?}"));
            }
            Fault::Pause(node, is_paused) => self.network.set_paused(node, is_paused),
            Fault::Move(draw, to) => self.move_leader(draw, to),
            Fault::Hurry => desk.hurry.notify_one(),
            Fault::CrashMetadataLeader => {
                if let Some(leader) = self.leader_of(METADATA_SHARD) {
                    self.crash(leader);
                }
            }
            Fault::RestartAll => {
                self.calm_down();
                for id in self.machines.keys().copied().collect::<Vec<_>>() {
                    self.start(id);
                }
            }
            other => self.befall_members(other),
        }
    }

    /// The power of a machine lasts; where it has just failed, the machine is down.
    fn keep_power(&mut self, id: NodeId) {
        if self.machine(id).disk.is_out_of_power() {
            self.crash(id);
        }
        self.machine(id).disk.keep_power();
    }

    /// Starts a node that does not run, unless nobody would.
    pub(super) fn start(&mut self, id: NodeId) {
        if self.machine(id).running.is_some() || self.members.away.contains(&id) {
            return;
        }
        let boot_nonce = self.chance.any();
        let seed = self.chance.any();
        let life = Life::begin();
        let link = Link { from: id, life: life.clone(), network: Arc::clone(&self.network) };
        let is_doubtful = self.members.is_doubtful(id);
        let Some(opened) = self.open_disk(id, &life, seed) else { return };
        let machine = self.machines.get_mut(&id).expect("the plan names machines of this world");
        let (engine, journal) = (opened.engine, opened.journal);
        self.graveyard.spawn(Arc::clone(&journal).pump(id, Arc::clone(&self.network)));
        let env = Env {
            engine: Arc::clone(&engine),
            journal: Arc::clone(&journal) as Arc<dyn Journal>,
            transport: Arc::new(link),
            clock: machine.clock.as_clock(),
            blocking: Blocking::inline(),
            seed,
        };
        let mut config = node_config(id, opened.start, boot_nonce, machine.founding.clone());
        config.map = machine.kept_map(&mut self.chance);
        config.timing = self.drawn.timing(id, config.timing);
        let log_bytes = self.drawn.log_bytes;
        config.budget = Budget {
            journal_bytes_max: log_bytes,
            follower_log_bytes_max: log_bytes,
            snapshot_chunk_bytes: 4 << 10,
            ..self.drawn.budget()
        };
        let found = config.map.as_ref().map_or(0, |map| map.revision);
        self.audit.event(format_args!("node {id} starts with the map of revision {found}"));
        let node = match Node::new(env, config) {
            Ok(node) => node,
            Err(error) => return self.complain(format!("honest node {id} does not start: {error}")),
        };
        let has_ended = Arc::new(AtomicBool::new(false));
        let (node_, life_) = (Arc::clone(&node), life.clone());
        machine.running =
            Some(Running { node: node_, life: life_, engine, journal, has_ended: Arc::clone(&has_ended) });
        self.network.connect(id, Arc::clone(&node), life.clone());
        let (audit, violations) = (self.audit.clone(), Arc::clone(&self.violations));
        let disk = &self.machine(id).disk;
        let (may_fail, is_full) = (disk.failures(), disk.fullness());
        // Beside everything else: the next crash may come while it opens.
        self.graveyard.spawn(async move {
            tokio::select! {
                biased;
                () = life.ended() => {}
                opened = node.open() => match opened {
                    Ok(()) => audit.event(format_args!("node {id} runs")),
                    Err(StartError::Storage(StorageError::DiskFull(why))) if is_full() => {
                        audit.event(format_args!("node {id} ends, for its disk is full: {why}"));
                        has_ended.store(true, Ordering::SeqCst);
                    }
                    Err(error) if may_fail() || is_doubtful => {
                        audit.event(format_args!("node {id} does not start: {error}"));
                    }
                    Err(error) => complain(&audit, &violations, format!("honest node {id} does not start: {error}")),
                },
            }
        });
    }

    /// What a new life finds, unless there is no room for it.
    fn open_disk(&mut self, id: NodeId, life: &Life, seed: u64) -> Option<Opened> {
        let known = self.observer.shards.iter();
        let shards: Vec<ShardSpec> =
            known.map(|(shard, keyspace)| ShardSpec { shard: *shard, keyspace: *keyspace }).collect();
        let machine = self.machines.get_mut(&id).expect("the plan names machines of this world");
        let is_named = |shard, replica| self.observer.is_named(id, shard, replica);
        let opened = match machine.disk.open(&shards, &is_named, life.clone(), seed) {
            Ok(opened) => opened,
            // It says so, and starts once there is room.
            Err(StorageError::DiskFull(why)) if machine.disk.is_full() => {
                self.audit.event(format_args!("node {id} does not start on a full disk: {why}"));
                return None;
            }
            Err(error) => {
                self.complain(format!("honest node {id} cannot open its disk: {error}"));
                return None;
            }
        };
        for event in &opened.events {
            self.audit.event(format_args!("node {id}: {event}"));
        }
        for violation in &opened.violations {
            complain(&self.audit, &self.violations, format!("node {id} lost power: {violation}"));
        }
        Some(opened)
    }

    /// Cuts the power of a machine.
    pub(super) fn crash(&mut self, id: NodeId) {
        self.look();
        self.end_in_a_crash(id);
    }

    pub(super) fn end_in_a_crash(&mut self, id: NodeId) {
        let fate = self.chance.any();
        let running = self.machines.get_mut(&id).and_then(|machine| machine.running.take());
        let newest = running.as_ref().map(|running| running.node.map());
        let found = newest.map(|map| self.observer.look_at_map(id, &map));
        found.into_iter().flatten().for_each(|violation| self.complain(violation));
        self.observer.forget_life(id);
        let Some(Running { node, life, journal, .. }) = running else { return };
        let machine = self.machine(id);
        machine.keep_map(&node.map());
        life.end();
        let told = journal.last_synced();
        machine.disk.lose_power(fate, told);
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

    pub(super) fn look(&mut self) {
        let ended = self.machines.iter().filter(|(_, machine)| {
            let has_ended = |running: &Running| running.has_ended.load(Ordering::SeqCst);
            machine.running.as_ref().is_some_and(|running| machine.disk.is_out_of_power() || has_ended(running))
        });
        for id in ended.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.audit.event(format_args!("the power of node {id} has failed, or it has ended by itself"));
            self.end_in_a_crash(id);
        }
        self.tend_members();
        for machine in self.machines.values_mut() {
            if let Some(node) = machine.running.as_ref().map(|running| Arc::clone(&running.node)) {
                machine.keep_map(&node.map());
            }
        }
        let looked = self.machines.iter().filter_map(|(id, machine)| {
            let running = machine.running.as_ref()?;
            let (node, journal, has_failed) = (&*running.node, &*running.journal, machine.disk.has_failed());
            let is_doubtful = self.members.is_doubtful(*id);
            Some(Looked { id: *id, node, journal, has_failed, is_doubtful })
        });
        for violation in self.observer.look(looked) {
            self.complain(violation);
        }
    }

    pub(super) async fn wait_until(&mut self, patience: Duration, holds: fn(&World) -> bool) -> bool {
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

    /// Whether every node knows the first keyspaces.
    fn is_founded(&self) -> bool {
        self.running().all(|(_, node)| node.map().keyspaces.len() >= self.drawn.keyspaces.len())
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (NodeId, &Arc<Node>)> {
        self.machines.iter().filter_map(|(id, machine)| Some((*id, &machine.running.as_ref()?.node)))
    }

    pub(super) fn machine(&mut self, id: NodeId) -> &mut Machine {
        self.machines.get_mut(&id).expect("the plan names machines of this world")
    }

    pub(super) fn complain(&self, violation: String) {
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
