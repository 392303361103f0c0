//! # Group: one replica of one Raft group
//!
//! ```text
//!   shard, once per process:  open the shard ─▶ finish an interrupted installation
//!   open, as often as needed: read the log ─▶ make the Raft instance ─▶ run
//! ```
//!
//! **Invariant.** A replica resumes leading without an election only if this process closed it (rule G1): a leader that
//! crashed before its own flush could give one log id to two entries.

use super::{
    core::{Core, Office},
    door::{Door, Pass},
    figures,
    install::finish_interrupted,
    lease::stand_after_guard,
    log_store::LogStore,
    network::Network,
    pace::Pace,
    proposer::Proposer,
    queue::Queue,
    read_index::{ReadIndex, read_index},
    snapshot_receive::Receiving,
    state_machine::StateMachine,
    store::ReplicaStore,
    types::{Member, Runtime, Types},
};
use crate::{
    env::Env,
    health::Health,
    hlc::Hlc,
    node::{Budget, ShardConfig, StartError, Timing},
    peers::Peers,
};
use arc_swap::ArcSwap;
use kvorum_api::{Actor, GroupId, NodeId, ReplicaId};
use kvorum_storage::{Shard, shard::ShardSpec};
use openraft::{Config, Raft, SnapshotPolicy, async_runtime::watch::WatchReceiver};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};

/// How long a snapshot that is sent may make no progress; its installation at the end is one step.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Largest election timeouts that a replica opened as a follower waits for a leader before it stands itself.
const FOLLOWER_PATIENCE_TIMEOUTS: u32 = 2;

/// Entries of one append; bytes are bounded besides.
const APPEND_ENTRIES_MAX: u64 = 1_024;

/// Client addresses of all nodes, for leader hints: they follow the map.
pub type Addresses = Arc<ArcSwap<BTreeMap<NodeId, String>>>;

/// One opening of a replica.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The right to change the shard.
    pub pass: Pass,
    /// Whether a leader goes on leading in its term without an election: only if this process closed it (rule G1).
    pub may_restore: bool,
    /// Whether it may stand for election before a leader has spoken (rule G3).
    pub may_stand: bool,
    /// What earlier openings and lives of the replica have promised a leader, they promised before then (rule G5).
    pub promised_before: Instant,
}

/// What a group needs from its node.
#[derive(Clone)]
pub struct GroupContext {
    /// The world.
    pub env: Env,
    /// The shard and its founders.
    pub config: ShardConfig,
    /// This node and its life.
    pub actor: Actor,
    /// Client addresses, for leader hints.
    pub nodes: Addresses,
    /// Timings.
    pub timing: Timing,
    /// Sizes.
    pub budget: Budget,
    /// The node's clock.
    pub hlc: Arc<Hlc>,
    /// What keeps the node from its duties.
    pub health: Arc<Health>,
    /// Other nodes.
    pub peers: Arc<Peers>,
    /// How fast the node sends snapshots.
    pub pace: Arc<Pace>,
}

/// One replica of one Raft group. It is the CP `Replicator`.
pub struct Group {
    pub(super) core: Arc<Core>,
    pub(super) raft: Raft<Types, StateMachine>,
    pub(super) queue: Arc<Queue>,
    pub(super) read_index: ReadIndex,
    pub(super) receiving: Receiving,
    /// One `expire` at a time.
    pub(super) expiring: tokio::sync::Mutex<()>,
    /// Proposer, read rounds and the watch over the office: they end with the group.
    tasks: Mutex<JoinSet<()>>,
    /// What openraft was asked on behalf of somebody who may go away.
    asking: Mutex<JoinSet<()>>,
}

impl Group {
    /// Opens a replica whose shard is not open yet, for the first time in this process.
    ///
    /// # Errors
    /// Storage that cannot be opened, or what openraft refuses.
    pub async fn open(context: GroupContext) -> Result<Arc<Group>, StartError> {
        let shard = open_shard(&context.env, &context.config).await?;
        let pass = Arc::new(Door::default()).open();
        let promised_before = Instant::now();
        let opening = Opening { pass, may_restore: false, may_stand: true, promised_before };
        Group::open_on(context, shard, opening).await
    }

    /// Makes the Raft instance over a shard that is open. Does not initialize the group.
    ///
    /// # Errors
    /// Storage that cannot be read, or what openraft refuses.
    pub async fn open_on(context: GroupContext, shard: Arc<Shard>, opening: Opening) -> Result<Arc<Group>, StartError> {
        let shard_id = context.config.shard;
        let refuse = |why: String| StartError::Group { shard: shard_id, why };
        let Some(replica) = context.config.replica_on(context.actor.node) else {
            return Err(refuse(format!("node {} holds none of its replicas", context.actor.node)));
        };
        let store = open_store(&context, shard).await?;
        let config = raft_config(&context, &opening).validate().map_err(|error| refuse(error.to_string()))?;
        let core = Core::new(context, replica, store.clone(), opening.promised_before);
        core.may_stand.store(opening.may_stand, Ordering::Relaxed);
        let raft = {
            let (core, store) = (core.clone(), store.clone());
            let seed = seed(&core, opening.pass.number());
            Runtime::scope(seed, async move {
                let log = LogStore::new(store.clone());
                let machine = StateMachine::through(store.clone(), opening.pass);
                let raft = Raft::build(replica.0, Arc::new(config), Network::new(core.clone()), log, machine).await?;
                store.is_starting.store(false, Ordering::Release);
                core.follow(raft.metrics());
                core.allow_standing(&raft);
                raft.run();
                Ok::<_, openraft::errors::Fatal<Types>>(raft)
            })
            .await
            .map_err(|fatal| refuse(fatal.to_string()))?
        };
        let queue = Arc::new(Queue::new(core.context.budget.queue_bytes_max));
        let (read_index, rounds) = read_index(core.clone(), raft.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(Proposer::new(core.clone(), raft.clone(), queue.clone()).run());
        tasks.spawn(rounds.run());
        tasks.spawn(stand_after_guard(core.clone(), raft.clone()));
        tasks.spawn(watch_office(core.clone(), queue.clone()));
        if !opening.may_stand {
            tasks.spawn(stand_after_silence(core.clone(), raft.clone()));
        }
        Ok(Arc::new(Group {
            receiving: Receiving::new(core.clone()),
            core,
            raft,
            queue,
            read_index,
            expiring: tokio::sync::Mutex::new(()),
            tasks: Mutex::new(tasks),
            asking: Mutex::default(),
        }))
    }

    /// This replica's id.
    pub fn replica(&self) -> ReplicaId {
        self.core.replica
    }

    /// The shard behind it.
    pub fn shard(&self) -> &Arc<Shard> {
        &self.core.store.shard
    }

    /// Whether this replica has ever voted, logged or applied anything.
    pub fn is_pristine(&self) -> bool {
        let state = self.core.store.journal.group(self.core.group);
        let is_unlogged =
            state.vote.is_none() && state.purged.is_none() && state.entries.is_none() && state.installing.is_none();
        is_unlogged && self.shard().state().applied.position.is_none()
    }

    /// Makes the founding membership (rule G8). Whoever then leads proposes the founding `Configure` before anything
    /// else (rule C1). Only the first founder calls it, only after every founder said it is pristine.
    ///
    /// # Errors
    /// What openraft refuses.
    pub async fn initialize(&self) -> Result<(), StartError> {
        let founders = &self.core.context.config.founders;
        let members: BTreeMap<u64, Member> =
            founders.iter().map(|(replica, node)| (replica.0, Member { node: *node })).collect();
        let initialized =
            self.ask(|raft| async move { raft.initialize(members).await.map_err(|error| error.to_string()) }).await;
        initialized.flatten().map_err(|why| StartError::Group { shard: self.core.shard_id(), why })
    }

    /// Read-index rounds run so far: many reads share one.
    pub fn read_rounds(&self) -> u64 {
        self.read_index.rounds()
    }

    /// Marks asked of the leader so far: many reads share one.
    pub fn marks(&self) -> u64 {
        self.read_index.marks()
    }

    /// The term whose lease this replica trusts now, if it leads and does.
    pub(crate) fn trusted_term(&self) -> Option<u64> {
        self.core.trusted_term()
    }

    /// Stops the Raft instance and waits for it.
    pub async fn stop(&self) {
        self.end("stopped in order").await;
    }

    /// Stops the Raft instance and waits for it; whoever still waits for it learns why.
    pub(crate) async fn stop_because(&self, why: &str) {
        self.end(why).await;
    }

    /// Whether it takes no part any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.core.stopped.get().is_some()
    }

    /// Its node is not fit to lead: it does not stand for election until told otherwise.
    pub(crate) fn begin_unfit(&self) {
        self.core.is_electable.store(false, Ordering::Relaxed);
        self.allow_standing();
    }

    /// Ends the replica for the reason given; the first reason is kept.
    pub(super) async fn end(&self, why: &str) {
        let _ = self.core.stopped.set(why.to_owned());
        self.queue.close();
        self.core.store.end();
        // First of all openraft: whoever asks it something while it ends waits for that, and must not be dropped there.
        match self.ask(|raft| async move { raft.shutdown().await.map_err(|error| error.to_string()) }).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) | Err(why) => {
                tracing::error!(shard = %self.core.shard_id(), why, "the raft task ended badly");
            }
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
        self.receiving.end().await;
    }

    /// Asks openraft, and goes on asking if the caller goes away: the first of those who wait for the end of its task
    /// must wait until it has ended, or openraft panics in all the others.
    ///
    /// # Errors
    /// The question was dropped with the group.
    pub(super) async fn ask<T, A>(&self, question: impl FnOnce(Raft<Types, StateMachine>) -> A) -> Result<T, String>
    where
        T: Send + 'static,
        A: Future<Output = T> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let answer = question(self.raft.clone());
        {
            let mut asking = self.asking.lock();
            while asking.try_join_next().is_some() {}
            asking.spawn(async move {
                let _ = tell.send(answer.await);
            });
        }
        told.await.map_err(|_| "the replica has ended".to_owned())
    }
}

/// Opens a shard, and finishes what an earlier life began to install there. Once per process and replica.
///
/// # Errors
/// Storage that cannot be opened.
pub async fn open_shard(env: &Env, config: &ShardConfig) -> Result<Arc<Shard>, StartError> {
    let Env { engine, journal, blocking, .. } = env;
    let spec = ShardSpec { shard: config.shard, keyspace: config.keyspace };
    let shard = {
        let engine = engine.clone();
        blocking.run(move || Shard::open(engine, spec)).await?
    };
    finish_interrupted(journal, engine, blocking, &shard).await?;
    Ok(shard)
}

/// Opens what the replica stands on.
async fn open_store(context: &GroupContext, shard: Arc<Shard>) -> Result<Arc<ReplicaStore>, StartError> {
    let Env { engine, journal, blocking, .. } = &context.env;
    let parts = (journal.clone(), engine.clone(), blocking.clone());
    let (health, read_bytes_max) = (context.health.clone(), context.budget.proposal_bytes_max);
    Ok(blocking.run(move || ReplicaStore::open(parts, shard, health, read_bytes_max)).await?)
}

/// Which chance a replica has in this opening: different ones for its peers, its other lives and openings, so that they
/// do not stand for election in step.
fn seed(core: &Core, opening: u64) -> u64 {
    let mixed = [core.group.0, core.replica.0, core.context.actor.start.0, opening];
    mixed
        .iter()
        .fold(core.context.env.seed, |seed, part| (seed ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
}

fn raft_config(context: &GroupContext, opening: &Opening) -> Config {
    let timing = context.timing;
    Config {
        cluster_name: format!("shard {}", GroupId::from(context.config.shard)),
        heartbeat_interval: timing.heartbeat.as_millis() as u64,
        election_timeout_min: timing.election_min.as_millis() as u64,
        election_timeout_max: timing.election_max.as_millis() as u64,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(opening.may_restore),
        enable_elect: opening.may_stand,
        allow_log_reversion: Some(false),
        max_payload_entries: APPEND_ENTRIES_MAX,
        install_snapshot_timeout: SNAPSHOT_PATIENCE.as_millis() as u64,
        // Snapshots are promises and purging is ours to decide (rule S2).
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    }
}

/// A replica that was opened to follow stands for election only after a leader spoke, or after a silence that is longer
/// than any leader keeps (rule G3).
async fn stand_after_silence(core: Arc<Core>, raft: Raft<Types, StateMachine>) {
    tokio::time::sleep(FOLLOWER_PATIENCE_TIMEOUTS * core.context.timing.election_max).await;
    if !core.may_stand.swap(true, Ordering::Relaxed) {
        core.allow_standing(&raft);
    }
}

/// Tells the proposer of a new office, and the log of the end of the Raft instance.
async fn watch_office(core: Arc<Core>, queue: Arc<Queue>) {
    let Some(mut metrics) = core.metrics() else { return };
    let mut known = Office::Follows { leader: None };
    loop {
        let office = core.office();
        if office != known {
            match &office {
                Office::Leads { term } => {
                    tracing::info!(shard = %core.shard_id(), replica = %core.replica, term, "leads");
                    figures::took_office();
                    // It may have to found the group.
                    queue.nudge();
                }
                Office::Follows { leader } => {
                    tracing::info!(shard = %core.shard_id(), replica = %core.replica, ?leader, "follows");
                    // What waits is refused.
                    queue.nudge();
                }
                Office::Stopped { why } => {
                    tracing::error!(shard = %core.shard_id(), replica = %core.replica, why, "replica ended");
                    return;
                }
            }
            known = office;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
