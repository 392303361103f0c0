//! # Node: what a process is, without its doors
//!
//! The same `Node` runs under `kvd` and in simulation; only [`Env`] differs.
//!
//! ```text
//!   new ──▶ knows who it is; refuses peers: "starting"
//!    │ open: life and clock bound durable, shards and groups open, chores run
//!    ▼
//!   answers hello ──▶ a majority answered its own ──▶ replicas vote, append, lead
//!    │ drain: no new requests, leadership handed on
//!    ▼
//!   stop: chores, groups, clock bound, engine, journal, in this order
//! ```
//!
//! A server that must hand out the node before it is open (its peers may call while it opens) uses [`Node::new`] and
//! [`Node::open`]; [`Node::start`] is both.
//!
//! **Invariant.** A replica votes and appends only after a majority of the cluster (this node included) has confirmed
//! in this life who the node is. Nothing here is fenced by an epoch.
//!
//! **Deliberately absent.** What is answered to peers (`answers`), which replicas there are (`groups`), what a
//! message between them means (`cp`), and when the chores run (`chores`).

use crate::{
    chores::Hellos,
    cp::Pace,
    env::Env,
    groups::{Flushing, Groups, Liveness, ReadyReport, Replica, Shared, Tasks},
    health::Health,
    hello::{HeldReplica, Hello, has_met_majority, majority},
    hlc::{BOUND_AHEAD_MS, Hlc},
    identity::Identity,
    keeper::NoteKeeper,
    metadata::{ClusterMap, ShardStage, Study},
    peers::{Peers, TRACE},
    replicator::Replicator,
    steady::Steady,
    suspect::Judgement,
    worker::Workers,
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::join_all;
use kvorum_api::{Actor, GroupId, ShardId, Stamp};
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use thiserror::Error;
use tokio::time::{Instant, sleep};

pub use crate::{
    config::{Budget, NodeConfig, ShardConfig, Timing},
    status::{NodeStatus, PeerStatus, WorkerFailure, WorkerStatus},
};

/// A hello to a node that does not answer is given up after this.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the last note and the last flush of a node that stops may take.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Why a node does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its storage could not be opened.
    #[error(transparent)]
    Storage(#[from] kvorum_storage::StorageError),
    /// The consensus library refused.
    #[error("group of shard {shard}: {why}")]
    Group {
        /// The shard.
        shard: ShardId,
        /// What was said.
        why: String,
    },
}

/// A node without its doors.
pub struct Node {
    pub(crate) env: Env,
    pub(crate) config: NodeConfig,
    pub(crate) hlc: Arc<Hlc>,
    pub(crate) steady: Arc<Steady>,
    pub(crate) health: Arc<Health>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) note: NoteKeeper,
    pub(crate) duties: Mutex<Duties>,
    pub(crate) groups: Groups,
    pub(crate) study: Arc<Study>,
    /// Set once the node answers hellos.
    pub(crate) is_open: AtomicBool,
    pub(crate) hellos: Hellos,
    workers: Workers,
}

/// What the watch found last.
pub(crate) struct Duties {
    /// Whether this node is fit to lead.
    pub(crate) is_fit: bool,
    /// What its replicas were told last about standing for election.
    pub(crate) is_electable: bool,
    pub(crate) clock: Judgement,
    pub(crate) sync_overdue: Option<String>,
    /// Since when its disk is full.
    pub(crate) full_since: Option<Instant>,
}

impl Node {
    /// Both [`Node::new`] and [`Node::open`].
    ///
    /// # Errors
    /// Storage that cannot be opened, or a group the library refuses.
    pub async fn start(env: Env, config: NodeConfig) -> Result<Arc<Node>, StartError> {
        let node = Node::new(env, config)?;
        node.open().await?;
        Ok(node)
    }

    /// A node that knows who it is and what it noted in earlier lives, and refuses every peer until it is open.
    ///
    /// # Errors
    /// A note that this build cannot read.
    pub fn new(env: Env, config: NodeConfig) -> Result<Arc<Node>, StartError> {
        let note = NoteKeeper::read(Arc::clone(&env.journal), config.start, config.boot_nonce)?;
        let offset_max_ms = config.timing.clock_offset_max.as_millis() as u64;
        // Peers are shown the clock on the wall; everything else goes by the steady one.
        let walled = env.clone();
        let steady = Steady::new(env.clock.clone(), offset_max_ms);
        let env = Env { clock: steady.as_clock(), ..env };
        let hlc = Arc::new(Hlc::bounded(env.clock.clone(), note.kept().bound, offset_max_ms));
        let health = Arc::new(Health::default());
        let me =
            Identity { cluster: config.cluster, node: config.node, start: config.start, boot_nonce: config.boot_nonce };
        let nodes: BTreeSet<_> = config.nodes.keys().copied().collect();
        let peers = Peers::new(me, &nodes, &note.kept().peers, &walled, Arc::clone(&hlc), Arc::clone(&health));
        let duties = Duties {
            is_fit: true,
            is_electable: true,
            clock: Judgement::TooFewHeard,
            sync_overdue: None,
            full_since: None,
        };
        let liveness = Arc::new(Liveness::new(config.node));
        let erased_serial = note.erased_serial();
        let (founding, map) = (config.founding.clone(), config.map.clone());
        let study = Study::new(config.node, (env.clone(), Arc::clone(&peers)), Arc::clone(&liveness), founding, map);
        let (openings, closings) = Shared::limits();
        let shared = Shared {
            env: env.clone(),
            actor: Actor { node: config.node, start: config.start },
            addresses: Arc::new(ArcSwap::from_pointee(config.nodes.clone())),
            timing: config.timing,
            budget: config.budget,
            hlc: Arc::clone(&hlc),
            health: Arc::clone(&health),
            peers: Arc::clone(&peers),
            pace: Arc::new(Pace::new(config.budget.move_bytes_per_second)),
            liveness,
            openings,
            closings,
            tasks: Tasks::default(),
            flushing: Flushing::default(),
            is_electable: AtomicBool::new(true),
            open: Mutex::default(),
        };
        Ok(Arc::new(Node {
            env,
            config,
            hlc,
            steady,
            health,
            peers,
            note,
            duties: Mutex::new(duties),
            groups: Groups::new(Arc::new(shared), erased_serial),
            study,
            is_open: AtomicBool::new(false),
            hellos: Hellos::default(),
            workers: Workers::default(),
        }))
    }

    /// Finishes interrupted installations, opens every shard and its group, starts the chores. Returns before any peer
    /// was met: the caller can let peers in as soon as it has the node.
    ///
    /// # Errors
    /// Storage that cannot be opened, or a group the library refuses.
    pub async fn open(self: &Arc<Self>) -> Result<(), StartError> {
        // First of all: what an aborted start adds to the journal before this would count for the life before it.
        self.note.keep_first(&self.peers).await?;
        self.wait_for_clock().await;
        self.note.keep(&self.hlc, &self.peers).await?;
        for config in &self.config.shards {
            self.groups.keep(config.clone(), ShardStage::Creating).await?;
        }
        let map = self.map();
        self.note_addresses(&map);
        // What cannot be held yet, because a former replica is not erased, the chore will.
        if let Some(place) =
            self.metadata_place(&map).filter(|place| self.groups.may_hold(place, map.counters.serial).is_ok())
        {
            self.groups.hold_or_place(place, map.counters.serial).await?;
        }
        self.seat_metadata(&map).await;
        self.groups.begin_with(&map).await?;
        self.is_open.store(true, Ordering::Release);
        self.admit_if_known();
        self.start_chores(&self.workers);
        Ok(())
    }

    /// Answers one envelope of a peer. Never fails: a refusal is an envelope too, and what is no envelope at all gets
    /// an answer that says so.
    pub async fn handle(&self, envelope: Bytes) -> Bytes {
        let request = match self.peers.receive(&envelope) {
            Ok(request) => request,
            Err(refusal) => return refusal,
        };
        let trace = request.envelope.trace.clone();
        TRACE.scope(trace, self.respond(request)).await
    }

    /// The replica of a shard on this node.
    pub fn replicator(&self, shard: ShardId) -> Option<Arc<dyn Replicator>> {
        self.replica(shard).map(|replica| replica as Arc<dyn Replicator>)
    }

    /// The same, with what only this house needs to know.
    pub fn replica(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.groups.get(GroupId::from(shard))
    }

    /// Brings what this node holds in line with the newest map: replicas, and the addresses that hints name. An older
    /// map than the last changes nothing.
    ///
    /// # Errors
    /// The first replica that could not be held, erased or forgotten; the others are in line.
    pub async fn reconcile(&self, map: &ClusterMap) -> Result<(), StartError> {
        self.note_addresses(map);
        if self.groups.erases_by(map) {
            self.groups.note_erased(map.counters.serial);
            self.note.keep_erased(map.counters.serial, &self.hlc, &self.peers).await?;
        }
        self.seat_metadata(map).await;
        let reconciled = self.groups.reconcile(map).await;
        let metadata = self.reconcile_metadata(map).await;
        reconciled.and(metadata)
    }

    fn note_addresses(&self, map: &ClusterMap) {
        if !map.nodes.is_empty() {
            let addresses = map.nodes.values().map(|row| (row.node, row.client.clone())).collect();
            self.groups.shared.addresses.store(Arc::new(addresses));
        }
    }

    /// Whom to tell that shards led here are founded.
    pub fn set_ready_report(&self, report: ReadyReport) {
        self.groups.set_ready_report(report);
    }

    /// Which nodes are there, as far as this one has heard.
    pub fn liveness(&self) -> &Arc<Liveness> {
        &self.groups.shared.liveness
    }

    /// Bytes of snapshots that this node has sent: replicas that come, and those that were too far behind.
    pub fn move_bytes(&self) -> u64 {
        self.groups.shared.pace.sent_bytes()
    }

    /// The replicas held here.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The node's hybrid logical clock, now, as others take it.
    pub fn stamp(&self) -> Stamp {
        self.hlc.now_told()
    }

    /// Adopts a stamp received from a client; `Err(ahead_ms)` if it is too far ahead (rule T1).
    ///
    /// # Errors
    /// How far it is ahead of this node's physical clock, milliseconds.
    pub fn observe(&self, stamp: Stamp) -> Result<(), u64> {
        self.hlc.observe(stamp)
    }

    /// Tells the node whether the disk is below its low-water mark (rule S5): writes are refused, deletes and reads
    /// served, leadership handed on while another node has room.
    pub fn set_disk_full(&self, why: Option<String>) {
        self.health.set_disk_full(why);
    }

    /// How it is doing.
    pub fn status(&self) -> NodeStatus {
        let duties = self.duties.lock();
        let causes = self.health.causes();
        let degraded = [
            causes.poisoned.map(|why| format!("poisoned: {why}")),
            causes.clock_suspect.map(|why| format!("clock_suspect: {why}")),
            causes.disk_full.map(|why| format!("disk_full: {why}")),
            duties.sync_overdue.as_ref().map(|why| format!("sync_overdue: {why}")),
            causes.draining.then(|| "draining".to_owned()),
            self.cut_off(),
        ];
        let replicas: Vec<_> = self.groups.all().iter().map(|replica| replica.status()).collect();
        let held_up = replicas
            .iter()
            .filter_map(|replica| Some(format!("held_up: shard {}: {}", replica.shard, replica.held_up.as_ref()?)));
        let peers = self.peers.seen().into_iter().map(|(node, seen)| PeerStatus {
            node,
            start: seen.life.map(|life| life.start),
            heard_ago: seen.heard.map(|heard| heard.elapsed()),
            clock_offset_ms: seen.clock.map(|(offset_ms, _)| offset_ms),
            refused: seen.refused,
        });
        NodeStatus {
            degraded: degraded.into_iter().flatten().chain(held_up).collect(),
            replicas,
            peers: peers.collect(),
            workers: self.workers.status(),
            clock_offset_ms: duties.clock.ahead_ms(),
            refused: self.peers.refused(),
        }
    }

    /// Whether too few nodes live, as seen from here, to agree on anything.
    fn cut_off(&self) -> Option<String> {
        let others = self.peers.voices();
        let lost = others.iter().filter(|node| self.liveness().is_lost(**node)).count();
        let (all, living) = (others.len() + 1, others.len() + 1 - lost);
        (living < majority(all)).then(|| format!("cut_off: {living} of {all} nodes live, as seen from here"))
    }

    /// Refuses new requests, hands leadership on and waits until others lead, at most `patience`.
    pub async fn drain(&self, patience: Duration) {
        self.health.set_draining();
        {
            // Handing over is done here, so the chore need not do it as well.
            let mut duties = self.duties.lock();
            (duties.is_fit, duties.is_electable) = (false, false);
        }
        let open = self.groups.open();
        let groups = open.iter().filter_map(|replica| replica.group());
        join_all(groups.map(|group| async move { group.hand_over(patience).await })).await;
        self.groups.set_electable(false).await;
    }

    /// Stops every group and chore, flushes the engine, stops the journal.
    pub async fn stop(&self) {
        self.health.set_draining();
        self.workers.stop().await;
        self.groups.stop().await;
        // A later life need not wait for a bound that this one never used up.
        let last_note = tokio::time::timeout(STOP_PATIENCE, self.note.keep_last(&self.hlc, &self.peers));
        if !matches!(last_note.await, Ok(Ok(()))) {
            tracing::warn!("the last note of this life is not known durable");
        }
        let engine = Arc::clone(&self.env.engine);
        if let Err(error) = self.env.blocking.run(move || engine.flush()).await {
            tracing::warn!(%error, "the engine was not flushed at the end");
        }
        self.env.journal.stop();
    }

    /// What this node says of itself.
    pub(crate) fn hello(&self) -> Hello {
        // A group that was founded needs no newcomers sorted out: a hello stays small however many groups there are.
        let creating = self.groups.creating();
        let groups = creating.iter().map(|replica| {
            (replica.group_id(), HeldReplica { replica: replica.id(), is_pristine: replica.is_pristine() })
        });
        Hello {
            is_disk_full: self.health.causes().disk_full.is_some(),
            is_poisoned: self.health.is_poisoned(),
            groups: groups.collect(),
            past: self.note.lives().past.clone(),
        }
    }

    /// How many nodes count where a majority is asked, this one included.
    pub(crate) fn node_count(&self) -> usize {
        self.peers.voices().len() + 1
    }

    /// Lets replicas speak once a majority has confirmed who this node is.
    pub(crate) fn admit_if_known(&self) {
        let voices = self.peers.voices();
        let answered = self.peers.answers().keys().filter(|node| voices.contains(node)).count();
        if has_met_majority(voices.len() + 1, answered) {
            self.peers.admit();
        }
    }

    /// A crash left the bound of the clock a little ahead of the clock: a node whose stamps are too far ahead would be
    /// refused by others (rule T1). A clock that was set back far is not waited for; it will be suspect.
    async fn wait_for_clock(&self) {
        let ahead_ms = self.hlc.highest().ms().saturating_sub(self.hlc.physical_ms());
        let wait_ms = ahead_ms.saturating_sub(self.config.timing.clock_offset_max.as_millis() as u64 / 2);
        sleep(Duration::from_millis(wait_ms.min(BOUND_AHEAD_MS))).await;
    }

    /// Clock offsets measured within `age_max`, and after a moment if there is one.
    pub(crate) fn clock_offsets_ms(&self, age_max: Duration, after: Option<Instant>) -> Vec<i64> {
        let now = Instant::now();
        let fresh =
            |measured: Instant| now.duration_since(measured) <= age_max && after.is_none_or(|after| measured > after);
        let seen = self.peers.seen();
        seen.values()
            .filter_map(|seen| seen.clock)
            .filter(|(_, at)| fresh(*at))
            .map(|(offset_ms, _)| offset_ms)
            .collect()
    }
}
