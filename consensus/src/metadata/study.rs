//! # Study: the one object that holds the map, changes it and follows it
//!
//! ```text
//!   command ─▶ find who leads group 0 ─▶ there: read row `i` (linearizable) ─▶ map at that serial ─▶ plan ─▶ one batch
//!                      │ nobody: nothing was sent, Effect::None                                    on condition of `i`
//!                      └ the answer got lost: Effect::Unknown
//! ```
//!
//! **Invariant.** The published map never goes back in revision. A command is sent to one node at a time, and only to
//! one that has said that it leads; it is tried again only if it was provably not done, or if doing it twice is doing
//! it once.
//!
//! **Deliberately absent.** What a change is (`plan`), who leads (`search`), and how the map gets here (`follow`).

use super::{
    Founding, METADATA_KEYSPACE, METADATA_SHARD, MetadataCommand, MetadataReply,
    figures::Figures,
    follow::{Reading, Whole},
    map::{Behaviour, ClusterMap, Counters, NodeRow, ReplicaRow, Row, RowEdit, RowKey, Standing},
    plan::{Plan, found, plan},
    wire::{Answer, Ask, Verdict},
};
use crate::{
    config::ShardConfig,
    env::Env,
    groups::Liveness,
    message::{Incoming, MessageKind},
    peers::Peers,
    replicator::{Replicator, RequestContext, Role},
};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use kvorum_api::{AdminError, Effect, NodeId, PlacementRange, ReadLevel, ReplicaId, Version, limits};
use kvorum_storage::{
    Condition, Operation, Outcome, Shard, WriteCommand,
    command::{Images, Settings},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

/// How long one linearizable read of the counters may take before the search for a leader begins anew.
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// Between two searches for a leader.
const SEARCH_PACE: Duration = Duration::from_millis(100);

/// How long a caller waits for its own copy of the map to show what it changed.
const OWN_COPY_PATIENCE: Duration = Duration::from_secs(1);

/// Plans that may lose against others before the caller is told.
const PLANS_MAX: u32 = 16;

/// What the cluster has agreed about itself, as one node knows it and changes it.
pub struct Study {
    pub(super) me: NodeId,
    pub(super) env: Env,
    pub(super) peers: Arc<Peers>,
    pub(super) liveness: Arc<Liveness>,
    founding: Founding,
    map: watch::Sender<Arc<ClusterMap>>,
    pub(super) seat: ArcSwapOption<Seat>,
    /// One plan at a time on this node: a second one would only lose.
    turn: tokio::sync::Mutex<()>,
    /// Where this node's own replica of group 0 was read up to.
    pub(super) reading: tokio::sync::Mutex<Option<Reading>>,
    /// Whose turn it is to be followed, if no replica of the metadata is here.
    pub(super) followed: AtomicUsize,
    /// The revision that the replicas here are in line with.
    pub(super) reconciled: AtomicU64,
    /// Since when nodes are seen to be lost, while the metadata is led here.
    pub(super) watched: Mutex<BTreeMap<NodeId, Instant>>,
    /// What the balancer would do and cannot, and why; empty where the metadata is not led.
    pub(super) held_up: Mutex<Vec<String>>,
    /// About how many bytes each shard has, while the metadata is led here.
    pub(super) figures: Mutex<Figures>,
    /// The whole map as it is handed out, in pages.
    pub(super) whole: Mutex<Option<Whole>>,
}

/// The replica of group 0 on this node.
pub(super) struct Seat {
    pub(super) replicator: Arc<dyn Replicator>,
    pub(super) shard: Arc<Shard>,
}

impl Study {
    /// Begins with the durable copy of the map, or with what the founding says.
    pub fn new(
        me: NodeId,
        (env, peers): (Env, Arc<Peers>),
        liveness: Arc<Liveness>,
        founding: Founding,
        kept: Option<ClusterMap>,
    ) -> Arc<Self> {
        let study = Arc::new(Study {
            me,
            env,
            peers,
            liveness,
            map: watch::Sender::new(Arc::new(first_map(&founding, kept))),
            founding,
            seat: ArcSwapOption::empty(),
            turn: tokio::sync::Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            followed: AtomicUsize::new(0),
            reconciled: AtomicU64::new(0),
            watched: Mutex::default(),
            held_up: Mutex::default(),
            figures: Mutex::default(),
            whole: Mutex::default(),
        });
        study.introduce(&study.map());
        study
    }

    /// The newest map this node has.
    pub fn map(&self) -> Arc<ClusterMap> {
        Arc::clone(&self.map.borrow())
    }

    /// The newest map, as it changes.
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.map.subscribe()
    }

    /// What the replica of group 0 here is opened with; `None` = there is none. It is the one that the map places here,
    /// or else the one that the journal has `recorded` and the map has not dropped: a copy of the map that is older
    /// than the replica does not know it, and without its vote there may never be a newer one.
    pub(crate) fn shard_config(&self, map: &ClusterMap, recorded: Option<ReplicaId>) -> Option<ShardConfig> {
        let mut replicas = map.metadata.clone();
        if replicas.iter().all(|row| row.node != self.me) {
            let replica = recorded.filter(|replica| !map.has_dropped(METADATA_SHARD, *replica))?;
            replicas.push(ReplicaRow { replica, node: self.me, standing: Standing::Joining });
        }
        Some(metadata_shard(self.founding.metadata(), replicas, map.behaviour))
    }

    /// Tells of the replica of group 0 on this node, once it is in and open; `None` = there is none any more.
    pub(crate) async fn take_seat(&self, seat: Option<(Arc<dyn Replicator>, Arc<Shard>)>) {
        // Whoever reads its diary now finishes, and what was read of another replica is of no use.
        *self.reading.lock().await = None;
        self.seat.store(seat.map(|(replicator, shard)| Arc::new(Seat { replicator, shard })));
    }

    /// Whether a replica of group 0 is here, and in.
    pub(crate) fn has_seat(&self) -> bool {
        self.seat.load().is_some()
    }

    /// Changes the map, through whoever leads group 0, and returns once this node's own copy shows it or a second
    /// later.
    ///
    /// # Errors
    /// What cannot be, or `Unavailable` with its effect.
    pub async fn command(&self, command: MetadataCommand, patience: Duration) -> Result<MetadataReply, AdminError> {
        let deadline = Instant::now() + patience;
        let is_repeatable = is_repeatable(&command);
        let mut effect = Effect::None;
        loop {
            let why = match self.attempt(&command, deadline).await {
                Verdict::Done(reply) => {
                    let patience = deadline.min(Instant::now() + OWN_COPY_PATIENCE);
                    let mut map = self.watch();
                    let _ = timeout_at(patience, map.wait_for(|map| map.revision >= reply.revision)).await;
                    return Ok(reply);
                }
                Verdict::Refused(error) => return Err(error),
                Verdict::NotDone(why) => why,
                Verdict::Unknown(why) if is_repeatable => {
                    effect = Effect::Unknown;
                    why
                }
                Verdict::Unknown(why) => return Err(AdminError::Unavailable { why, effect: Effect::Unknown }),
            };
            if Instant::now() + SEARCH_PACE >= deadline {
                return Err(AdminError::Unavailable { why, effect });
            }
            sleep(SEARCH_PACE).await;
        }
    }

    /// Answers another node.
    ///
    /// # Errors
    /// Why it cannot be answered.
    pub async fn answer(&self, incoming: Incoming) -> Result<Bytes, String> {
        match incoming.kind {
            MessageKind::MetadataFollow => self.answer_follow(incoming.payload).await,
            MessageKind::MetadataCommand => {
                let answer = match Ask::decode(incoming.payload).map_err(|error| error.to_string())? {
                    Ask::WhoLeads if self.leads() => Answer::Leads,
                    Ask::WhoLeads => Answer::Follows(self.leader().or_else(|| self.holder())),
                    Ask::Do(command, patience) => {
                        Answer::Verdict(self.decide(&command, Instant::now() + patience).await)
                    }
                    Ask::Foresee(command) => self.foresee(&command).await,
                    Ask::Figures => Answer::Figures(self.weigh().await),
                };
                Ok(answer.encode())
            }
            other => Err(format!("{other:?} is no question about the metadata")),
        }
    }

    /// Makes the first change of all, once this node leads group 0 and nothing is there.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn found(&self) -> Result<(), String> {
        if self.map().is_founded() || !self.leads() || self.founding.nodes.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let deadline = Instant::now() + READ_PATIENCE;
        if self.counters(deadline).await?.is_some() {
            return Ok(());
        }
        let plan = found(&self.founding, self.env.clock.now_ms()).map_err(|error| error.to_string())?;
        match self.write(plan, None, deadline).await {
            // Another leader was quicker.
            Ok(false) => Ok(()),
            Ok(true) => {
                tracing::info!(nodes = self.founding.nodes.len(), "founded the metadata");
                Ok(())
            }
            Err(verdict) => Err(format!("the metadata is not founded yet: {verdict:?}")),
        }
    }

    /// Says where this node is, if the map says something else.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn announce(&self) -> Result<(), String> {
        let map = self.map();
        let (Some(wish), true) = (self.founding.nodes.iter().find(|row| row.node == self.me), map.is_founded()) else {
            return Ok(());
        };
        let known = map.nodes.get(&self.me);
        if known.is_some_and(|known| {
            let NodeRow { directory, state, .. } = known.clone();
            *known == NodeRow { directory, state, ..wish.clone() }
        }) {
            return Ok(());
        }
        let NodeRow { client, peer, zone, behaviour, build, .. } = wish.clone();
        let command = MetadataCommand::Announce { node: self.me, client, peer, zone, behaviour, build };
        self.command(command, READ_PATIENCE).await.map(drop).map_err(|error| error.to_string())
    }

    /// Takes a newer map; an older one changes nothing, nor does one that nobody has founded.
    pub(super) fn publish(&self, map: ClusterMap) {
        if !map.is_founded() {
            return;
        }
        let map = Arc::new(map);
        let is_newer = self.map.send_if_modified(|current| {
            let is_newer = map.revision > current.revision;
            if is_newer {
                *current = Arc::clone(&map);
            }
            is_newer
        });
        if is_newer {
            self.introduce(&map);
        }
    }

    /// Lets the peers and the transport know who is in the cluster, and where.
    fn introduce(&self, map: &ClusterMap) {
        if map.nodes.is_empty() {
            return;
        }
        self.peers.set_nodes(&map.nodes.keys().copied().collect(), map.holders());
        self.peers.note_given(map.counters.next_node);
        self.env.transport.set_peers(&map.nodes.values().map(|row| (row.node, row.peer.clone())).collect());
    }

    /// The node that leads group 0, as far as this one's replica knows.
    pub(super) fn leader(&self) -> Option<NodeId> {
        self.seat.load().as_ref()?.replicator.status().leader
    }

    pub(crate) fn leads(&self) -> bool {
        self.seat.load().as_ref().is_some_and(|seat| seat.replicator.status().role == Role::Leader)
    }

    async fn attempt(&self, command: &MetadataCommand, deadline: Instant) -> Verdict {
        if self.leads() {
            return self.decide(command, deadline).await;
        }
        match self.find_leader(deadline).await {
            Ok(node) => self.hand_on(node, command, deadline).await,
            Err(why) => Verdict::NotDone(why),
        }
    }

    /// Carries a command out here, if this node leads.
    async fn decide(&self, command: &MetadataCommand, deadline: Instant) -> Verdict {
        let Ok(_turn) = timeout_at(deadline, self.turn.lock()).await else {
            return Verdict::NotDone("other changes took all the time".to_owned());
        };
        for _ in 0..PLANS_MAX {
            let (version, counters) = match self.counters(deadline).await {
                Ok(Some(found)) => found,
                Ok(None) => return Verdict::NotDone("the metadata is not founded yet".to_owned()),
                Err(why) => return Verdict::NotDone(why),
            };
            let Some(map) = self.map_of(counters.serial, deadline).await else {
                return Verdict::NotDone("this node's copy of the map did not catch up in time".to_owned());
            };
            if map.counters != counters {
                // Another change came between: what was read is old already.
                continue;
            }
            let plan = match self.plan(Arc::clone(&map), command).await {
                Ok(plan) => plan,
                Err(error) => return Verdict::Refused(error),
            };
            let Plan { keyspace, node, operator, .. } = plan;
            let mut reply = MetadataReply { revision: map.revision, keyspace, node, operator };
            if plan.edits.is_empty() {
                return Verdict::Done(reply);
            }
            // Every edit is one change of the diary, and nothing else can come between.
            reply.revision += plan.edits.len() as u64;
            match self.write(plan, Some(version), deadline).await {
                Ok(true) => return Verdict::Done(reply),
                Ok(false) => {}
                Err(verdict) => return verdict,
            }
        }
        Verdict::NotDone(format!("{PLANS_MAX} other changes came first"))
    }

    /// This node's copy, once it has seen that many changes.
    async fn map_of(&self, serial: u64, deadline: Instant) -> Option<Arc<ClusterMap>> {
        let mut map = self.watch();
        let seen = timeout_at(deadline, map.wait_for(|map| map.counters.serial >= serial)).await;
        seen.ok()?.ok().map(|map| Arc::clone(&map))
    }

    /// Placing thousands of shards takes its time.
    async fn plan(&self, map: Arc<ClusterMap>, command: &MetadataCommand) -> Result<Plan, AdminError> {
        let (command, now_ms, lost) = (command.clone(), self.env.clock.now_ms(), self.lost());
        self.env.blocking.run(move || plan(&map, &command, now_ms, &lost)).await
    }

    /// Who is lost, and for how long this node has seen that without a break.
    pub(super) fn lost_for(&self) -> BTreeMap<NodeId, Duration> {
        let (now, lost) = (Instant::now(), self.lost());
        let mut watched = self.watched.lock();
        watched.retain(|node, _| lost.contains(node));
        lost.into_iter().map(|node| (node, now - *watched.entry(node).or_insert(now))).collect()
    }

    /// What the balancer would do and cannot, and why; nothing where the metadata is not led.
    pub fn balance_held_up(&self) -> Vec<String> {
        if self.leads() { self.held_up.lock().clone() } else { Vec::new() }
    }

    pub(crate) fn lost(&self) -> BTreeSet<NodeId> {
        self.map().nodes.keys().copied().filter(|node| self.is_lost(*node)).collect()
    }

    pub(super) fn is_lost(&self, node: NodeId) -> bool {
        self.liveness.is_lost(node)
    }

    /// The counters as they are now, and their version; `None` = nothing was founded.
    async fn counters(&self, deadline: Instant) -> Result<Option<(Version, Counters)>, String> {
        let seat = self.seat.load_full().ok_or("this node holds no metadata")?;
        let timeout = READ_PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
        let context = RequestContext { timeout, ..RequestContext::default() };
        let key = RowKey::Counters.encode();
        let found = seat.replicator.get(key, ReadLevel::Linearizable, context).await;
        let entry = found.map_err(|error| error.to_string())?.entry;
        let Some((version, value)) = entry.and_then(|entry| Some((entry.version, entry.value?))) else {
            return Ok(None);
        };
        match Row::decode(RowKey::Counters, value).map_err(|error| error.to_string())? {
            Row::Counters(counters) => Ok(Some((version, counters))),
            other => Err(format!("the counters are {other:?}")),
        }
    }

    /// Writes a plan, if the counters are still in this version; whether they were.
    async fn write(&self, plan: Plan, before: Option<Version>, deadline: Instant) -> Result<bool, Verdict> {
        let seat = self.seat.load_full().ok_or_else(|| Verdict::NotDone("this node holds no metadata".to_owned()))?;
        let condition = before.map_or(Condition::Absent, Condition::Version);
        let operations = plan.edits.into_iter().map(|edit| operation(edit, &condition)).collect();
        let timeout = deadline.saturating_duration_since(Instant::now());
        let context = RequestContext { timeout, ..RequestContext::default() };
        match seat.replicator.write(WriteCommand { request: None, operations }, context).await {
            Ok(written) => Ok(matches!(written.outcome, Outcome::Written { applied: true, .. })),
            Err(error) => Err(match error.effect() {
                Effect::None => Verdict::NotDone(error.to_string()),
                Effect::Unknown => Verdict::Unknown(error.to_string()),
            }),
        }
    }
}

/// Doing it twice is doing it once.
fn is_repeatable(command: &MetadataCommand) -> bool {
    match command {
        MetadataCommand::Join { .. }
        | MetadataCommand::Announce { .. }
        | MetadataCommand::CancelOperator { .. }
        | MetadataCommand::OperatorEnded { .. }
        | MetadataCommand::SetNodeState { .. }
        | MetadataCommand::RaiseBehaviour { .. }
        | MetadataCommand::ShardsReady { .. } => true,
        MetadataCommand::CreateKeyspace { .. }
        | MetadataCommand::AlterKeyspace { .. }
        | MetadataCommand::Operate { .. }
        | MetadataCommand::DropKeyspace { .. } => false,
    }
}

fn operation(edit: RowEdit, before: &Condition) -> Operation {
    match edit {
        RowEdit::Put(row) => Operation::Put {
            key: row.key().encode(),
            value: row.encode(),
            ttl_ms: None,
            condition: if matches!(row, Row::Counters(_)) { before.clone() } else { Condition::Always },
            return_previous: false,
        },
        RowEdit::Remove(key) => {
            Operation::Delete { key: key.encode(), condition: Condition::Always, return_previous: false }
        }
    }
}

/// The durable copy, or until something is founded: the first nodes, and where the metadata will be.
pub(crate) fn first_map(founding: &Founding, kept: Option<ClusterMap>) -> ClusterMap {
    kept.unwrap_or_else(|| ClusterMap {
        nodes: founding.nodes.iter().map(|row| (row.node, row.clone())).collect::<BTreeMap<_, _>>(),
        metadata: ReplicaRow::members(&founding.metadata()),
        ..ClusterMap::default()
    })
}

/// Group 0 keeps new images: its diary alone must be enough to follow.
pub(crate) fn metadata_shard(
    founders: Vec<(ReplicaId, NodeId)>,
    replicas: Vec<ReplicaRow>,
    behaviour: Behaviour,
) -> ShardConfig {
    ShardConfig {
        shard: METADATA_SHARD,
        keyspace: METADATA_KEYSPACE,
        incarnation: 0,
        founders,
        replicas,
        settings: Settings {
            behaviour: behaviour.0,
            images: Images::New,
            request_window_ms: limits::REQUEST_ID_AGE_MS_MAX,
            request_outcomes_max: limits::REQUEST_OUTCOMES_MAX,
            range: PlacementRange::all(),
            epoch: 1,
            has_leases: false,
        },
    }
}
