//! # Group: one replica of one Raft group
//!
//! ```text
//!   open:  finish an interrupted installation ─▶ open the shard ─▶ read the log ─▶ make the Raft instance ─▶ run
//! ```
//!
//! **Invariant.** A replica never resumes leading without an election (rule G1): a leader that crashed before its own
//! flush could give one log id to two entries.

use super::{
    core::{Core, Office},
    figures,
    install::finish_interrupted,
    log_store::LogStore,
    network::Network,
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
use kvorum_api::{Actor, GroupId, NodeId, ReplicaId};
use kvorum_storage::{Shard, shard::ShardSpec};
use openraft::{Config, Raft, SnapshotPolicy, async_runtime::watch::WatchReceiver};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::task::JoinSet;

/// How long a snapshot may take to be sent and installed; also the deadline of the view it is read from.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Entries of one append; bytes are bounded besides.
const APPEND_ENTRIES_MAX: u64 = 1_024;

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
    pub nodes: Arc<BTreeMap<NodeId, String>>,
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
}

impl Group {
    /// Finishes an interrupted installation, opens the shard, and makes the Raft instance with `enable_leader_restore`
    /// off (rule G1). Does not initialize the group.
    ///
    /// # Errors
    /// Storage that cannot be opened, or what openraft refuses.
    pub async fn open(context: GroupContext) -> Result<Arc<Group>, StartError> {
        let shard_id = context.config.shard;
        let refuse = |why: String| StartError::Group { shard: shard_id, why };
        let own = context.config.founders.iter().find(|(_, node)| *node == context.actor.node);
        let Some((replica, _)) = own.copied() else {
            return Err(refuse(format!("node {} is none of its founders", context.actor.node)));
        };
        let store = open_store(&context).await?;
        let config = raft_config(&context).validate().map_err(|error| refuse(error.to_string()))?;
        let core = Core::new(context, replica, store.clone());
        let raft = {
            let (core, store) = (core.clone(), store.clone());
            let seed = seed(&core);
            Runtime::scope(seed, async move {
                let log = LogStore::new(store.clone());
                let machine = StateMachine::new(store.clone());
                let raft = Raft::build(replica.0, Arc::new(config), Network::new(core.clone()), log, machine).await?;
                store.is_starting.store(false, Ordering::Release);
                core.follow(raft.metrics());
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
        tasks.spawn(watch_office(core.clone(), queue.clone()));
        Ok(Arc::new(Group {
            receiving: Receiving::new(core.clone()),
            core,
            raft,
            queue,
            read_index,
            expiring: tokio::sync::Mutex::new(()),
            tasks: Mutex::new(tasks),
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
        let initialized = self.raft.initialize(members).await;
        initialized.map_err(|error| StartError::Group { shard: self.core.shard_id(), why: error.to_string() })
    }

    /// Read-index rounds run so far: many reads share one.
    pub fn read_rounds(&self) -> u64 {
        self.read_index.rounds()
    }

    /// Stops the Raft instance and waits for it.
    pub async fn stop(&self) {
        self.end("stopped in order").await;
    }

    /// Ends the replica for the reason given; the first reason is kept.
    pub(super) async fn end(&self, why: &str) {
        let _ = self.core.stopped.set(why.to_owned());
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
        self.receiving.end().await;
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(shard = %self.core.shard_id(), %error, "the raft task ended badly");
        }
    }
}

/// Opens what the replica stands on.
async fn open_store(context: &GroupContext) -> Result<Arc<ReplicaStore>, StartError> {
    let Env { engine, journal, blocking, .. } = &context.env;
    let spec = ShardSpec { shard: context.config.shard, keyspace: context.config.keyspace };
    let shard = {
        let engine = engine.clone();
        blocking.run(move || Shard::open(engine, spec)).await?
    };
    finish_interrupted(journal, engine, blocking, &shard).await?;
    let parts = (journal.clone(), engine.clone(), blocking.clone());
    let (health, read_bytes_max) = (context.health.clone(), context.budget.proposal_bytes_max);
    Ok(blocking.run(move || ReplicaStore::open(parts, shard, health, read_bytes_max)).await?)
}

/// Which chance a replica has in this life: different ones for its peers and for its other lives, so that they do not
/// stand for election in step.
fn seed(core: &Core) -> u64 {
    let mixed = [core.group.0, core.replica.0, core.context.actor.start.0];
    mixed
        .iter()
        .fold(core.context.env.seed, |seed, part| (seed ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
}

fn raft_config(context: &GroupContext) -> Config {
    let timing = context.timing;
    Config {
        cluster_name: format!("shard {}", GroupId::from(context.config.shard)),
        heartbeat_interval: timing.heartbeat.as_millis() as u64,
        election_timeout_min: timing.election_min.as_millis() as u64,
        election_timeout_max: timing.election_max.as_millis() as u64,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        max_payload_entries: APPEND_ENTRIES_MAX,
        install_snapshot_timeout: SNAPSHOT_PATIENCE.as_millis() as u64,
        // Snapshots are promises and purging is ours to decide (rule S2).
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
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
