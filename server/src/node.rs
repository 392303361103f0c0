//! # The composition root: a process from its configuration
//!
//! ```text
//!   lock directory ─▶ bind ports ─▶ count the start ─▶ engine, journal ─▶ Node ─▶ doors
//!                                                                           │
//!   first signal:  readiness off ─▶ in flight ─▶ leadership on ─▶ doors shut ─▶ flush, stop
//!   second signal: at once
//! ```
//!
//! **Invariant.** Nothing is served before the start count is durable; nothing is acknowledged after the journal stopped.

use crate::{
    admin::Admin,
    admission::Admission,
    beginning::{self, Beginning, Fatal, Options},
    cellar::Cellar,
    config::{Config, Member},
    disk::DiskWatch,
    gossip::{self, Gossip, GossipConfig, Summary},
    identity::{DataDirectory, Identity},
    listen::{self, Listeners},
    metrics,
    router::Router,
    rpc::{door::Door, join::JoinDesk, status_out::Facts},
    study::Study,
    transport::GrpcTransport,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::{AdminError, Effect, NodeId, PlacementRange, ReplicaId, ShardId, Sharding, limits};
use kvorum_consensus::{
    Clock, Env, Node, NodeConfig, Transport as _,
    metadata::{ClusterMap, KeyspaceRow, NodeRow, ShardRow, ShardStage},
    node::{Budget, ShardConfig, Timing},
    status::NodeStatus,
};
use kvorum_storage::{Blocking, command::Settings, shard::BEHAVIOUR};
use metrics_exporter_prometheus::PrometheusHandle;
use rand::{TryRngCore as _, rngs::OsRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::UdpSocket,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tonic_health::{ServingStatus, server::HealthReporter};

/// Epoch of a shard of a static configuration: its range never changes.
const EPOCH: u64 = 1;

/// Jobs that may wait for the blocking pool.
const BLOCKING_QUEUE_MAX: usize = 1_024;

/// How often the disk, the node's verdicts and its readiness are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a drain looks whether the last request is answered.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(10);

/// Runs a node until a signal ends it.
///
/// # Errors
/// Why it cannot start, or cannot go on.
pub async fn run(config: Config, options: Options, recorder: PrometheusHandle) -> Result<(), Fatal> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Fatal::of)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Fatal::of)?;
    let directory = DataDirectory::open(&config.node.data).map_err(Fatal::of)?;
    let listeners = Listeners::bind(&config).await.map_err(Fatal::of)?;
    let gossip_port = gossip::bind(config.node.listen_peer).await.map_err(Fatal::of)?;
    let clock = wall_clock(config.fault.clock_offset_ms);
    let beginning = tokio::select! {
        biased;
        () = any(&mut terminate, &mut interrupt) => return Ok(()),
        beginning = beginning::begin(&config, &options, &directory, &clock) => beginning?,
    };
    announce(&config, &beginning.identity);

    let house = House::build(config, &directory, beginning, gossip_port, clock).await?;
    let (health, _) = tonic_health::server::health_reporter();
    let (stop, stopped) = watch::channel(false);
    let mut doors = JoinSet::new();
    let admin = Admin { facts: house.facts.clone(), engine: house.env.engine.clone(), recorder: recorder.clone() };
    let limits = house.config.limits;
    doors.spawn(listen::clients(listeners.client, house.facts.clone(), health.clone(), limits, stopped.clone()));
    doors.spawn(listen::peers(listeners.peer, house.facts.clone(), stopped.clone()));
    doors.spawn(listen::admins(listeners.admin, admin, stopped));

    // A signal before a verdict: an order to stop is obeyed even by a node that could not go on.
    let verdict = tokio::select! {
        biased;
        () = any(&mut terminate, &mut interrupt) => None,
        Some(ended) = doors.join_next() => Some(door_ended(ended)),
        why = house.look_after(&health, &recorder) => Some(why),
    };
    if let Some(why) = verdict {
        tracing::error!(%why, "the node cannot go on");
        // The peers decided against this node: it hands nothing over, and what it has stays for whoever looks into it.
        let _ = timeout(house.config.limits.drain_timeout, house.facts.door.node.stop()).await;
        return Err(Fatal::of(why));
    }
    tokio::select! {
        biased;
        () = any(&mut terminate, &mut interrupt) => Err(Fatal::of("stopped at once by a second signal")),
        () = house.leave(&health, &stop, doors) => Ok(()),
    }
}

async fn any(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn door_ended(ended: Result<Result<(), String>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Err(why)) => why,
        Ok(Ok(())) => "a door was shut while the node was open".to_owned(),
        Err(error) => format!("a door failed: {error}"),
    }
}

/// The wall clock of this machine, shifted if a test wants it so.
fn wall_clock(offset_ms: i64) -> Clock {
    Clock::new(move || {
        #[expect(clippy::disallowed_methods, reason = "the one place where the process reads the wall clock")]
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (since.as_millis() as u64).saturating_add_signed(offset_ms)
    })
}

fn random() -> Result<u64, Fatal> {
    OsRng.try_next_u64().map_err(|error| Fatal::of(format!("the system gives no random numbers: {error}")))
}

fn announce(config: &Config, identity: &Identity) {
    let node = &config.node;
    tracing::info!(
        build = crate::BUILD, cluster = %identity.cluster, node = %identity.node, start = %identity.start,
        data = %node.data.display(), client = %node.listen_client, peer = %node.listen_peer, admin = %node.listen_admin,
        zone = %node.zone, "node starts"
    );
    tracing::info!(config = %config.to_toml(), "effective configuration");
    for (field, address) in config.open_addresses() {
        tracing::warn!(%address, field, "open to the network without encryption: node.insecure is set");
    }
    if config.fault.clock_offset_ms != 0 || config.fault.disk_free_from.is_some() {
        tracing::warn!("the section [fault] is set: this node is under test");
    }
}

/// Everything a running process holds.
struct House {
    config: Config,
    env: Env,
    facts: Arc<Facts>,
    disk: Arc<DiskWatch>,
    // Ends with the house.
    _gossip: Gossip,
}

impl House {
    async fn build(
        config: Config,
        directory: &DataDirectory,
        beginning: Beginning,
        gossip_port: UdpSocket,
        clock: Clock,
    ) -> Result<House, Fatal> {
        let identity = &beginning.identity;
        let members = members(&config, &beginning);
        let cellar = Cellar::open(&config, directory.path()).map_err(Fatal::of)?;
        let others = members.iter().filter(|member| member.id != identity.node);
        let transport = GrpcTransport::default();
        transport.set_peers(&others.map(|member| (member.id, member.peer.clone())).collect());
        let env = Env {
            engine: cellar.engine,
            journal: cellar.journal,
            transport: Arc::new(transport),
            clock,
            blocking: Blocking::pool(config.storage.blocking_threads, BLOCKING_QUEUE_MAX),
            seed: random()?,
        };
        let disk = Arc::new(DiskWatch::new(
            directory.path(),
            config.fault.disk_free_from.clone(),
            config.storage.low_water,
            config.storage.ballast,
        ));
        let node = Node::start(env.clone(), node_config(&config, &members, identity)?).await.map_err(Fatal::of)?;
        let study = Study::of(map(&config, &members));
        let door = Arc::new(Door {
            router: router(&node, identity, &study),
            study,
            node,
            admission: Admission::new(
                config.limits.request_bytes_in_flight_max,
                config.limits.requests_in_flight_max,
                config.limits.scans_max,
            ),
            cluster: identity.cluster,
            id: identity.node,
            limits: config.limits,
            clock_offset_max: config.raft.clock_offset_max,
            tasks: TaskTracker::new(),
            draining: watch::Sender::new(false),
        });
        let gossip = gossip(&config, &beginning, &members, gossip_port);
        let let_in = |_| -> BoxFuture<'static, Result<(NodeId, Bytes), AdminError>> {
            let why = "this node does not follow the metadata".to_owned();
            Box::pin(async move { Err(AdminError::Unavailable { why, effect: Effect::None }) })
        };
        let facts = Arc::new(Facts {
            join_desk: Arc::new(JoinDesk::new(beginning.key.clone(), identity.cluster, Box::new(let_in))),
            gossip: gossip.board(),
            door,
            journal: env.journal.clone(),
            start: identity.start,
            started: Instant::now(),
        });
        let house = House { config, env, facts, disk, _gossip: gossip };
        // The first look comes before the first request: a node that starts on a full disk admits nothing.
        house.look_at_disk().await;
        Ok(house)
    }

    /// Looks at the disk and at the node's verdicts, until one says that it must not go on.
    async fn look_after(&self, health: &HealthReporter, recorder: &PrometheusHandle) -> String {
        let mut compared = BTreeSet::new();
        loop {
            let status = self.facts.door.node.status();
            if let Some(why) = status.refused {
                return why;
            }
            self.compare_images(&status, &mut compared);
            let reasons = self.facts.unready(&status);
            say_serving(health, reasons.is_empty()).await;
            recorder.run_upkeep();
            sleep(LOOK_EVERY).await;
            self.look_at_disk().await;
        }
    }

    /// A keyspace keeps the images it was founded with: a configuration that says otherwise is told so, once a start.
    fn compare_images(&self, status: &NodeStatus, compared: &mut BTreeSet<ShardId>) {
        for keyspace in &self.config.keyspaces {
            let shard = shard_of(keyspace);
            let replica = status.replicas.iter().find(|replica| replica.shard == shard);
            let Some(founded) = replica.and_then(|replica| replica.state.settings.as_ref()) else { continue };
            if compared.insert(shard) && founded.images != keyspace.images {
                tracing::warn!(
                    keyspace = %keyspace.name, founded = ?founded.images, configured = ?keyspace.images,
                    "keyspaces.changes is not in force: the keyspace keeps what it was founded with"
                );
            }
        }
    }

    async fn look_at_disk(&self) {
        let disk = self.disk.clone();
        match self.env.blocking.run(move || disk.look()).await {
            Ok(report) => {
                metrics::disk(report.free, report.full.is_some());
                self.facts.door.node.set_disk_full(report.full);
            }
            // Space that cannot be asked for is not taken as space.
            Err(error) => {
                let why = format!("free space of {} is unknown: {error}", self.config.node.data.display());
                self.facts.door.node.set_disk_full(Some(why));
            }
        }
    }

    /// An orderly stop.
    async fn leave(&self, health: &HealthReporter, stop: &watch::Sender<bool>, mut doors: JoinSet<Result<(), String>>) {
        let patience = self.config.limits.drain_timeout;
        let until = Instant::now() + patience;
        tracing::info!(patience_ms = patience.as_millis() as u64, "draining");
        self.facts.door.drain();
        say_serving(health, false).await;
        // Writes in flight are done in milliseconds: finishing them first spares their clients an unknown outcome.
        self.finish_requests(Instant::now() + patience / 4).await;
        if self.facts.door.router.hall().map.nodes.len() > 1 {
            // Whoever is up to date takes over within an election; where nobody is, waiting longer brings nobody.
            let handing_over = (2 * self.config.raft.election_max).min(until.duration_since(Instant::now()));
            self.facts.door.node.drain(handing_over).await;
        }
        self.finish_requests(until).await;
        stop.send_replace(true);
        let shut = async { while doors.join_next().await.is_some() {} };
        if timeout(until.duration_since(Instant::now()), shut).await.is_err() {
            tracing::warn!("requests were cut off: the drain took longer than limits.drain_timeout");
        }
        self.facts.door.node.stop().await;
        tracing::info!("node stopped");
    }

    async fn finish_requests(&self, until: Instant) {
        while self.facts.door.admission.in_flight().requests > 0 && Instant::now() < until {
            sleep(DRAIN_LOOK_EVERY).await;
        }
    }
}

async fn say_serving(health: &HealthReporter, is_ready: bool) {
    let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    health.set_service_status("", status).await;
    health.set_service_status("kv.v1.Kv", status).await;
}

/// One shard per keyspace for now; the shard's number is its keyspace's.
fn shard_of(keyspace: &crate::config::Keyspace) -> ShardId {
    ShardId(keyspace.id.0.into())
}

/// A replica's number says its shard and its node, and is no other replica's.
fn replica_of(shard: ShardId, node: NodeId) -> ReplicaId {
    ReplicaId(shard.0 * (crate::config::fields::NODE_ID_MAX + 1) + node.0)
}

/// The founding nodes: those listed, or this one by itself.
fn members(config: &Config, beginning: &Beginning) -> Vec<Member> {
    let (client, peer) = (beginning.client.clone(), beginning.peer.clone());
    match config.founders.is_empty() {
        true => vec![Member { id: beginning.identity.node, client, peer }],
        false => config.founders.clone(),
    }
}

fn gossip(config: &Config, beginning: &Beginning, members: &[Member], port: UdpSocket) -> Gossip {
    let identity = &beginning.identity;
    let gossip = GossipConfig {
        cluster: identity.cluster,
        node: identity.node,
        start: identity.start,
        advertised: config.node.listen_peer,
        round: None,
    };
    let nodes: BTreeMap<NodeId, String> = members.iter().map(|member| (member.id, member.peer.clone())).collect();
    let summary = Summary { map_revision: 0, build: crate::BUILD.into(), replicas: 0, zone: config.node.zone.clone() };
    Gossip::start(gossip, &beginning.key, port, Box::new(move || nodes.clone()), Box::new(move || summary.clone()))
}

fn node_config(config: &Config, members: &[Member], identity: &Identity) -> Result<NodeConfig, Fatal> {
    let shards = config.keyspaces.iter().map(|keyspace| {
        let shard = shard_of(keyspace);
        ShardConfig {
            shard,
            keyspace: keyspace.id,
            incarnation: 0,
            founders: members.iter().map(|member| (replica_of(shard, member.id), member.id)).collect(),
            settings: Settings {
                behaviour: BEHAVIOUR,
                images: keyspace.images,
                request_window_ms: limits::REQUEST_ID_AGE_MS_MAX,
                request_outcomes_max: limits::REQUEST_OUTCOMES_MAX,
                range: kvorum_api::PlacementRange::all(),
                epoch: 1,
                has_leases: false,
            },
        }
    });
    Ok(NodeConfig {
        cluster: identity.cluster,
        node: identity.node,
        start: identity.start,
        boot_nonce: random()?,
        founding: kvorum_consensus::metadata::Founding::default(),
        map: None,
        nodes: members.iter().map(|member| (member.id, member.client.clone())).collect(),
        shards: shards.collect(),
        timing: Timing {
            heartbeat: config.raft.heartbeat,
            election_min: config.raft.election_min,
            election_max: config.raft.election_max,
            clock_offset_max: config.raft.clock_offset_max,
            ..Timing::default()
        },
        budget: Budget {
            journal_bytes_max: config.storage.journal_bytes_max,
            follower_log_bytes_max: config.raft.follower_log_bytes_max,
            snapshot_chunk_bytes: config.raft.snapshot_chunk as usize,
            change_bytes_max: config.storage.change_bytes_max,
            change_age_max: config.storage.change_age_max,
            ..Budget::default()
        },
    })
}

/// What the configuration says, as a map: one shard a keyspace, on every founding node.
fn map(config: &Config, members: &[Member]) -> ClusterMap {
    let mut map = ClusterMap { revision: 1, ..ClusterMap::default() };
    for member in members {
        let (client, peer) = (member.client.clone(), member.peer.clone());
        let row = NodeRow { node: member.id, client, peer, zone: String::new(), directory: 0 };
        map.nodes.insert(member.id, row);
    }
    for keyspace in &config.keyspaces {
        let shard = shard_of(keyspace);
        let founders: Vec<_> = members.iter().map(|member| (replica_of(shard, member.id), member.id)).collect();
        let row = ShardRow {
            shard,
            keyspace: keyspace.id,
            range: PlacementRange::all(),
            epoch: EPOCH,
            incarnation: 0,
            leader_wish: founders.first().expect("a cluster has a node").1,
            founders,
            stage: ShardStage::Ready,
        };
        let keyspace = KeyspaceRow {
            id: keyspace.id,
            name: keyspace.name.clone(),
            mode: keyspace.mode,
            sharding: Sharding::Range,
            replicas: row.founders.len() as u32,
            read_level: keyspace.read_level,
            limits: keyspace.limits,
            images: keyspace.images,
            has_leases: false,
            created_ms: 0,
        };
        map.keyspaces.insert(keyspace.id, keyspace);
        map.shards.insert(shard, row);
    }
    map
}

/// The hall, by the map that the configuration is.
fn router(node: &Arc<Node>, identity: &Identity, study: &Study) -> Router {
    let held = node.clone();
    let router = Router::new(identity.node, Arc::new(move |shard| held.replicator(shard)));
    router.take_in(&study.watch_map().borrow());
    router
}
