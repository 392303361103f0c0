//! # The composition root: everything a running process holds
//!
//! ```text
//!   engine, journal ─▶ Node ─┬─▶ hall ──▶ doors
//!                            ├─▶ routing copy on disk
//!                            ├─▶ gossip
//!                            └─▶ join desk
//! ```
//!
//! **Invariant.** Every task that is begun here ends with the house.

use crate::{
    admission::Admission,
    beginning::{Beginning, Fatal, random_number},
    cellar::Cellar,
    config::{self, Config},
    disk::DiskWatch,
    founding::node_config,
    gossip::{self, Gossip, GossipConfig, Summary},
    identity::DataDirectory,
    join::Applicant,
    metrics,
    router::Router,
    routing_copy::{self, RoutingCopy},
    rpc::{
        door::Door,
        join::{JoinDesk, LetIn},
        status_out::Facts,
    },
    transport::GrpcTransport,
};
use kvorum_api::{AdminError, Effect};
use kvorum_consensus::{
    Clock, Env, Node,
    metadata::{Behaviour, ClusterMap, MetadataCommand, too_old_for},
};
use kvorum_storage::{Blocking, Engine, shard::BEHAVIOUR};
use metrics_exporter_prometheus::PrometheusHandle;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::UdpSocket,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tonic_health::{ServingStatus, server::HealthReporter};

/// Jobs that may wait for the blocking pool.
const BLOCKING_QUEUE_MAX: usize = 1_024;

/// How often the disk, the node's verdicts and its readiness are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long letting a node in may take, and how long until this node's copy of the map shows it.
const JOIN_PATIENCE: Duration = Duration::from_secs(4);

/// How often a drain looks whether the last request is answered.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(10);

/// Everything a running process holds.
pub struct House {
    config: Config,
    env: Env,
    facts: Arc<Facts>,
    disk: Arc<DiskWatch>,
    // These end with the house.
    _gossip: Gossip,
    _chores: JoinSet<()>,
}

impl House {
    /// Opens the cellar, the node and the hall; the doors are somebody else's.
    ///
    /// # Errors
    /// One sentence that says what to correct.
    pub async fn build(
        config: Config,
        directory: &DataDirectory,
        disk: Arc<DiskWatch>,
        beginning: Beginning,
        gossip_port: UdpSocket,
        clock: Clock,
    ) -> Result<House, Fatal> {
        let identity = &beginning.identity;
        let advertised = gossip::resolve(&beginning.peer).await.unwrap_or(config.node.listen_peer);
        if let Some(why) = beginning.map.as_ref().and_then(too_old) {
            return Err(Fatal::of(why));
        }
        let cellar = Cellar::open(&config, directory.path()).map_err(|error| Fatal::of(disk.explain(&error)))?;
        let transport = GrpcTransport::default();
        let env = Env {
            engine: cellar.engine,
            journal: cellar.journal,
            transport: Arc::new(transport),
            clock,
            blocking: Blocking::pool(config.storage.blocking_threads, BLOCKING_QUEUE_MAX),
            seed: random_number()? as u64,
        };
        let node = Node::start(env.clone(), node_config(&config, &beginning)?).await.map_err(Fatal::of)?;
        let held = node.clone();
        let router = Router::new(identity.node, Arc::new(move |shard| held.replicator(shard)));
        router.take_in(&node.map());
        let door = Arc::new(Door {
            router,
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
        let gossip = gossip(&config, &beginning, advertised, &door.node, gossip_port);
        let mut chores = JoinSet::new();
        let copy = RoutingCopy::new(directory.path(), identity.cluster);
        chores.spawn(routing_copy::keep(copy, door.node.watch_map(), env.blocking.clone()));
        chores.spawn(keep_hall(door.clone()));
        let facts = Arc::new(Facts {
            join_desk: Arc::new(JoinDesk::new(beginning.key.clone(), identity.cluster, let_in(door.node.clone()))),
            gossip: gossip.board(),
            door,
            journal: env.journal.clone(),
            start: identity.start,
            started: Instant::now(),
        });
        let house = House { config, env, facts, disk, _gossip: gossip, _chores: chores };
        // The first look comes before the first request: a node that starts on a full disk admits nothing.
        house.look_at_disk().await;
        Ok(house)
    }

    /// Looks at the disk and at the node's verdicts, until one says that it must not go on.
    pub async fn look_after(&self, health: &HealthReporter, recorder: &PrometheusHandle) -> String {
        let mut is_compared = false;
        loop {
            let status = self.facts.door.node.status();
            if let Some(why) = status.refused.clone().or_else(|| too_old(&self.facts.door.node.map())) {
                return why;
            }
            self.compare(&mut is_compared);
            let reasons = self.facts.unready(&status);
            say_serving(health, reasons.is_empty()).await;
            recorder.run_upkeep();
            sleep(LOOK_EVERY).await;
            self.look_at_disk().await;
        }
    }

    /// What is listed and is otherwise by the map is without effect: said once a start, as soon as there is a map.
    fn compare(&self, is_compared: &mut bool) {
        let map = self.facts.door.node.map();
        if *is_compared || map.revision == 0 {
            return;
        }
        *is_compared = true;
        for why in config::differences(&self.config, &map) {
            tracing::warn!(%why, "[[keyspaces]] is not in force");
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
    pub async fn leave(
        &self,
        health: &HealthReporter,
        stop: &watch::Sender<bool>,
        mut doors: JoinSet<Result<(), String>>,
    ) {
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

    /// The end of a node that its peers decided against: it hands nothing over.
    pub async fn stop_at_once(&self) {
        self.facts.door.node.stop().await;
    }

    /// What the doors serve from.
    #[must_use]
    pub fn facts(&self) -> Arc<Facts> {
        self.facts.clone()
    }

    /// The engine, for its figures.
    #[must_use]
    pub fn engine(&self) -> Arc<dyn Engine> {
        self.env.engine.clone()
    }

    /// Numbers on what the doors admit.
    #[must_use]
    pub fn limits(&self) -> config::Limits {
        self.config.limits
    }

    async fn finish_requests(&self, until: Instant) {
        while self.facts.door.admission.in_flight().requests > 0 && Instant::now() < until {
            sleep(DRAIN_LOOK_EVERY).await;
        }
    }
}

/// Why this build must not serve in a cluster of that map: it would not apply what the others do.
fn too_old(map: &ClusterMap) -> Option<String> {
    too_old_for(map, Behaviour(BEHAVIOUR))
}

async fn say_serving(health: &HealthReporter, is_ready: bool) {
    let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    health.set_service_status("", status).await;
    health.set_service_status("kv.v1.Kv", status).await;
}

/// Keeps the hall as the newest map says.
async fn keep_hall(door: Arc<Door>) {
    let mut maps = door.node.watch_map();
    loop {
        let map = Arc::clone(&maps.borrow_and_update());
        door.router.take_in(&map);
        if maps.changed().await.is_err() {
            return;
        }
    }
}

/// Lets nodes in, through the metadata, and gives them the map that knows them.
fn let_in(node: Arc<Node>) -> LetIn {
    Box::new(move |applicant: Applicant| {
        let node = node.clone();
        Box::pin(async move {
            let Applicant { directory, client, peer, zone } = applicant;
            let command = MetadataCommand::Join { directory, client, peer, zone };
            let reply = node.metadata(command, JOIN_PATIENCE).await?;
            let unknown = |why: &str| AdminError::Unavailable { why: why.to_owned(), effect: Effect::Unknown };
            let given = reply.node.ok_or_else(|| unknown("the metadata named no node"))?;
            let mut maps = node.watch_map();
            let shown = timeout(JOIN_PATIENCE, maps.wait_for(|map| map.nodes.contains_key(&given))).await;
            match shown {
                Ok(Ok(map)) => Ok((given, map.encode())),
                _ => Err(unknown("this node's copy of the map does not know the new node yet")),
            }
        })
    })
}

fn gossip(config: &Config, beginning: &Beginning, advertised: SocketAddr, node: &Arc<Node>, port: UdpSocket) -> Gossip {
    let identity = &beginning.identity;
    let gossip =
        GossipConfig { cluster: identity.cluster, node: identity.node, start: identity.start, advertised, round: None };
    let maps = node.watch_map();
    let nodes = move || {
        let map = maps.borrow();
        map.nodes.values().map(|row| (row.node, row.peer.clone())).collect()
    };
    let (node, zone) = (Arc::downgrade(node), config.node.zone.clone());
    let summary = move || {
        let status = node.upgrade().map(|node| (node.map().revision, node.status().replicas.len() as u64));
        let (map_revision, replicas) = status.unwrap_or_default();
        Summary { map_revision, build: crate::BUILD.into(), replicas, zone: zone.clone() }
    };
    Gossip::start(gossip, &beginning.key, port, Box::new(nodes), Box::new(summary))
}
