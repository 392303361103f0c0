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
    diary,
    diary_reader::DiaryReader,
    draw::Drawn,
    faults::{Fault, around_leader},
    history::{self, Told},
    machine::{Machine, Running, node_config, node_row},
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
    groups::Replica,
    metadata::{Founding, METADATA_SHARD},
    node::Budget,
    replicator::{ReplicaStatus, Role},
};
use kvorum_storage::{Blocking, Journal, StorageError, shard::ShardSpec};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// How long the cluster may take to found itself, and to agree at the end.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at every node.
const LOOK_PACE: Duration = Duration::from_millis(50);

/// How long moving a leader may take.
const MOVE_PATIENCE: Duration = Duration::from_secs(2);

/// Clients at work.
pub(super) const CLIENTS: u64 = 5;

/// One simulated world.
pub struct World {
    pub(super) seed: u64,
    audit: Audit,
    network: Arc<Network>,
    chance: Chance,
    drawn: Arc<Drawn>,
    founding: Founding,
    pub(super) machines: BTreeMap<NodeId, Machine>,
    violations: Arc<Mutex<Vec<String>>>,
    pub(super) observer: Observer,
    /// What ends with a life, or after it: journals at work, and former lives on their way out.
    graveyard: JoinSet<()>,
    crashes: usize,
    /// What was read at the end.
    pub(super) finally: Vec<history::Record>,
    born: Instant,
}

impl World {
    /// An empty world; nobody runs yet.
    pub fn new(seed: u64, prints: bool) -> Self {
        let audit = Audit::new(prints);
        let began = Instant::now();
        let drawn = Arc::new(Drawn::new(seed));
        let ids = (1..=drawn.nodes).map(NodeId);
        let founding = Founding { nodes: ids.clone().map(node_row).collect(), keyspaces: drawn.keyspaces.clone() };
        World {
            seed,
            network: Network::new(seed, audit.clone()),
            audit,
            chance: Chance::new(seed, "world"),
            founding,
            machines: ids.map(|id| (id, Machine::new(began, drawn.journal.clone()))).collect(),
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
        let nodes: Vec<NodeId> = self.machines.keys().copied().collect();
        let plan = plan(self.seed, &nodes, length);
        self.audit.event(format_args!("seed {} for {length:?}: {}; {plan}", self.seed, self.drawn));
        let drawn = format!("{}; {plan}", self.drawn);
        for (at, fault) in &plan.steps {
            self.audit.event(format_args!("planned at {at:?}: {fault}"));
        }
        for node in &nodes {
            self.start(*node);
        }
        let (history, handed) = (Arc::new(Mutex::new(Vec::new())), Arc::default());
        if self.wait_until(PATIENCE, World::is_founded).await {
            let now = Instant::now();
            let desk = Desk {
                network: Arc::clone(&self.network),
                nodes: Arc::new(nodes),
                drawn: Arc::clone(&self.drawn),
                audit: self.audit.clone(),
                history: Arc::clone(&history),
                handed: Arc::clone(&handed),
                readers: Arc::default(),
                ledger: Arc::default(),
                handed_on: Arc::default(),
                violations: Arc::clone(&self.violations),
                moments: Arc::new(AtomicU64::new(0)),
                hurry: Arc::new(Notify::new()),
                began: now,
                until: now + length,
            };
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
        self.audit.event(format_args!("now: {fault}"));
        match fault {
            Fault::Crash(node) => self.crash(node),
            Fault::Restart(node) => self.start(node),
            Fault::Cut(cut, links) => self.network.cut(cut, links),
            Fault::CutLeader(cut, draw) => {
                if let Some((leader, ..)) = self.leader(draw) {
                    let links = around_leader(leader, &desk.nodes, draw);
                    self.audit.event(format_args!("node {leader} leads: {}", Fault::Cut(cut, links.clone())));
                    self.network.cut(cut, links);
                }
            }
            Fault::Mend(cut) => self.network.mend(cut),
            Fault::MendAll => self.network.mend_all(),
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
                let leader = self.running().find_map(|(id, node)| {
                    let leads =
                        |replica: &ReplicaStatus| replica.shard == METADATA_SHARD && replica.role == Role::Leader;
                    node.status().replicas.iter().any(leads).then_some(id)
                });
                if let Some(leader) = leader {
                    self.crash(leader);
                }
            }
            Fault::RestartAll => {
                for id in self.machines.keys().copied().collect::<Vec<_>>() {
                    self.start(id);
                }
            }
        }
    }

    /// The power of a machine lasts; where it has just failed, the machine is down.
    fn keep_power(&mut self, id: NodeId) {
        if self.machine(id).disk.is_out_of_power() {
            self.crash(id);
        }
        self.machine(id).disk.keep_power();
    }

    /// An operator asks whoever leads a shard to hand leadership to a node.
    fn move_leader(&mut self, draw: u64, to: NodeId) {
        let Some((_, replica, life)) = self.leader(draw) else { return };
        let shard = replica.shard_id();
        let audit = self.audit.clone();
        self.graveyard.spawn(async move {
            tokio::select! {
                biased;
                () = life.ended() => {}
                moved = replica.transfer(Some(to), MOVE_PATIENCE) => {
                    audit.event(format_args!("shard {shard} was moved: {moved:?}"));
                }
            }
        });
    }

    /// Some replica that leads, the node it is on, and the life of that.
    fn leader(&self, draw: u64) -> Option<(NodeId, Arc<Replica>, Life)> {
        let running = || self.machines.iter().filter_map(|(id, machine)| Some((*id, machine.running.as_ref()?)));
        let leaders = running().flat_map(|(id, running)| {
            let status = running.node.status();
            let led = status.replicas.into_iter().filter(|replica| replica.role == Role::Leader);
            led.filter_map(move |replica| Some((id, running.node.replica(replica.shard)?, running.life.clone())))
                .collect::<Vec<_>>()
        });
        let leaders: Vec<_> = leaders.collect();
        let at = (draw as usize).checked_rem(leaders.len())?;
        leaders.into_iter().nth(at)
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
        let known = &self.observer.shards;
        let shards: Vec<(ShardSpec, bool)> = known
            .iter()
            .map(|(shard, keyspace)| {
                (ShardSpec { shard: *shard, keyspace: *keyspace }, self.observer.is_dropped(*shard))
            })
            .collect();
        let machine = self.machines.get_mut(&id).expect("the plan names machines of this world");
        let opened = match machine.disk.open(&shards, life.clone(), seed) {
            Ok(opened) => opened,
            // It says so, and starts once there is room.
            Err(StorageError::DiskFull(why)) if machine.disk.is_full() => {
                return self.audit.event(format_args!("node {id} does not start on a full disk: {why}"));
            }
            Err(error) => return self.complain(format!("honest node {id} cannot open its disk: {error}")),
        };
        for event in opened.events {
            self.audit.event(format_args!("node {id}: {event}"));
        }
        for violation in opened.violations {
            complain(&self.audit, &self.violations, format!("node {id} lost power: {violation}"));
        }
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
        let mut config = node_config(id, opened.start, boot_nonce, self.founding.clone());
        config.map = machine.kept_map(&mut self.chance);
        config.timing = self.drawn.timing(id, config.timing);
        let log_bytes = self.drawn.log_bytes;
        config.budget = Budget {
            journal_bytes_max: log_bytes,
            follower_log_bytes_max: log_bytes,
            snapshot_chunk_bytes: 4 << 10,
            ..Budget::default()
        };
        let found = config.map.as_ref().map_or(0, |map| map.revision);
        self.audit.event(format_args!("node {id} starts with the map of revision {found}"));
        let node = match Node::new(env, config) {
            Ok(node) => node,
            Err(error) => return self.complain(format!("honest node {id} does not start: {error}")),
        };
        machine.running = Some(Running { node: Arc::clone(&node), life: life.clone(), engine, journal });
        self.network.connect(id, Arc::clone(&node), life.clone());
        let (audit, violations) = (self.audit.clone(), Arc::clone(&self.violations));
        let may_fail = self.machine(id).disk.failures();
        // Beside everything else: the next crash may come while it opens.
        self.graveyard.spawn(async move {
            tokio::select! {
                biased;
                () = life.ended() => {}
                opened = node.open() => match opened {
                    Ok(()) => audit.event(format_args!("node {id} runs")),
                    Err(error) if may_fail() => audit.event(format_args!("node {id} does not start: {error}")),
                    Err(error) => complain(&audit, &violations, format!("honest node {id} does not start: {error}")),
                },
            }
        });
    }

    /// Cuts the power of a machine.
    fn crash(&mut self, id: NodeId) {
        self.look();
        self.end_in_a_crash(id);
    }

    fn end_in_a_crash(&mut self, id: NodeId) {
        let fate = self.chance.any();
        self.observer.forget_life(id);
        let machine = self.machine(id);
        let Some(Running { node, life, journal, .. }) = machine.running.take() else { return };
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
        let powerless =
            self.machines.iter().filter(|(_, machine)| machine.disk.is_out_of_power() && machine.running.is_some());
        for id in powerless.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.audit.event(format_args!("the power of node {id} has failed"));
            self.end_in_a_crash(id);
        }
        for machine in self.machines.values_mut() {
            if let Some(node) = machine.running.as_ref().map(|running| Arc::clone(&running.node)) {
                machine.keep_map(&node.map());
            }
        }
        let looked = self.machines.iter().filter_map(|(id, machine)| {
            let running = machine.running.as_ref()?;
            let (node, journal, has_failed) = (&*running.node, &*running.journal, machine.disk.has_failed());
            Some(Looked { id: *id, node, journal, has_failed })
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
        self.running().all(|(_, node)| node.map().keyspaces.len() >= self.founding.keyspaces.len())
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (NodeId, &Arc<Node>)> {
        self.machines.iter().filter_map(|(id, machine)| Some((*id, &machine.running.as_ref()?.node)))
    }

    fn machine(&mut self, id: NodeId) -> &mut Machine {
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
