//! # Gossip: who is there, as a hint
//!
//! ```text
//!   summary of this node ─▶ chitchat ◀─ sealed datagrams ─▶ the nodes of the map
//!                              │
//!                              ▼
//!   board: node ─▶ alive? · which life · summary              for people, status and hints
//! ```
//!
//! A task looks after chitchat's: it tells the summary when it changed, at most once a second, calls on nodes of the
//! map that are not heard, follows the map's addresses, and starts chitchat again if it ended.
//!
//! **Invariant.** Nothing that agrees or acknowledges looks at the board (invariant 7 of ARCHITECTURE.md). A node is
//! judged by its newest life: what an older one is said to do counts for nothing.
//!
//! **Deliberately absent.** Anything larger than a summary: maps, positions and digests travel on the lanes.

pub mod seal;
mod transport;
mod view;

pub use transport::SealedTransport;
pub use view::{GossipPeer, GossipView, Summary};

use crate::cluster_key::ClusterKey;
use arc_swap::ArcSwap;
use chitchat::{Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, ProtocolVersion};
use kvorum_api::{ClusterId, NodeId, StartCount};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{UdpSocket, lookup_host},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(1);

/// How often a changed summary is told, and nodes that are not heard are called on: each change travels to every node.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Silence of this many mean intervals between heartbeats is death.
const PHI_MAX: f64 = 8.0;

/// How long the dead are remembered.
const DEAD_REMEMBERED: Duration = Duration::from_secs(3_600);

/// Before chitchat is started again after it ended by itself.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Restarts of chitchat within one life of the process that its number tells apart.
const RESTARTS_MAX: u64 = 1 << 16;

/// Who gossips, and with whom.
pub struct GossipConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Which of its lives this is.
    pub start: StartCount,
    /// Where the others reach it.
    pub advertised: SocketAddr,
    /// Between two rounds; `None` = as usual.
    pub round: Option<Duration>,
}

/// Peer addresses of the nodes of the map, by node; asked again and again.
pub type Nodes = Box<dyn Fn() -> BTreeMap<NodeId, String> + Send + Sync>;

/// What this node says of itself; asked again and again.
pub type SummaryNow = Box<dyn Fn() -> Summary + Send + Sync>;

/// Where the newest view hangs. Cheap to clone.
#[derive(Clone, Default)]
pub struct GossipBoard(Arc<ArcSwap<GossipView>>);

impl GossipBoard {
    /// What gossip says now.
    #[must_use]
    pub fn view(&self) -> Arc<GossipView> {
        self.0.load_full()
    }
}

/// Gossips until dropped.
pub struct Gossip {
    board: GossipBoard,
    // Aborted when dropped, and the chitchat it holds with it.
    _task: JoinSet<()>,
}

impl Gossip {
    /// Begins.
    #[must_use]
    pub fn start(config: GossipConfig, key: &ClusterKey, socket: UdpSocket, nodes: Nodes, summary: SummaryNow) -> Self {
        let transport = SealedTransport::new(Arc::new(socket), seal::Seal::new(key, config.cluster));
        let board = GossipBoard::default();
        let keeper = Keeper { config, transport, nodes, summary, board: board.clone() };
        let mut task = JoinSet::new();
        task.spawn(keeper.run());
        Gossip { board, _task: task }
    }

    /// Where its view hangs.
    #[must_use]
    pub fn board(&self) -> GossipBoard {
        self.board.clone()
    }
}

/// Looks after chitchat.
struct Keeper {
    config: GossipConfig,
    transport: SealedTransport,
    nodes: Nodes,
    summary: SummaryNow,
    board: GossipBoard,
}

/// Stops chitchat's task when it is let go.
struct Running(ChitchatHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Keeper {
    async fn run(self) {
        for restart in 0.. {
            match chitchat::spawn_chitchat(self.settings(restart), Vec::new(), &self.transport).await {
                Ok(handle) => {
                    let why = self.look_after(Running(handle)).await;
                    tracing::warn!(%why, "gossip ended by itself and is started again");
                }
                Err(error) => tracing::warn!(%error, "gossip cannot start and tries again"),
            }
            sleep(RESTART_PAUSE).await;
        }
    }

    fn settings(&self, restart: u64) -> ChitchatConfig {
        let GossipConfig { cluster, node, start, advertised, .. } = &self.config;
        let round = self.config.round.unwrap_or(ROUND);
        // A restarted chitchat counts its heartbeats from 0: without a number of its own it would be taken for dead.
        let life = start.0 * RESTARTS_MAX + restart.min(RESTARTS_MAX - 1);
        ChitchatConfig {
            chitchat_id: ChitchatId::new(node.to_string(), life, *advertised),
            cluster_id: cluster.to_string(),
            gossip_interval: round,
            listen_addr: *advertised,
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI_MAX,
                sampling_window_size: 1_000,
                max_interval: 10 * round,
                initial_interval: 2 * round,
                dead_node_grace_period: DEAD_REMEMBERED,
            },
            marked_for_deletion_grace_period: DEAD_REMEMBERED,
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V1,
        }
    }

    /// Until chitchat ends, which it does not do in order.
    async fn look_after(&self, running: Running) -> String {
        let ended = running.0.termination_watcher();
        tokio::pin!(ended);
        let round = self.config.round.unwrap_or(ROUND);
        let mut rounds = interval(round);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told: Option<(Summary, Instant)> = None;
        let mut called: Option<Instant> = None;
        loop {
            // The end first: a chitchat that is gone shows nothing new.
            tokio::select! {
                biased;
                end = &mut ended => return end.err().map_or_else(|| "it stopped".to_owned(), |error| error.to_string()),
                _ = rounds.tick() => {}
            }
            let summary = (self.summary)();
            let is_due = |at: Instant| at.elapsed() >= TELL_EVERY.min(4 * round);
            let is_news = told.as_ref().is_none_or(|(before, at)| *before != summary && is_due(*at));
            let mut chitchat = running.0.chitchat().lock_owned().await;
            if is_news {
                summary.write(|name, value| chitchat.self_node_state().set(name, value));
                told = Some((summary, Instant::now()));
            }
            let nodes = (self.nodes)();
            let view = self.look(&chitchat, &nodes);
            drop(chitchat);
            if called.is_none_or(is_due) {
                called = Some(Instant::now());
                self.call_on(&running.0, &nodes, &view).await;
            }
            self.board.0.store(Arc::new(view));
        }
    }

    fn look(&self, chitchat: &Chitchat, nodes: &BTreeMap<NodeId, String>) -> GossipView {
        let live: std::collections::BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
        let said = chitchat.node_states().iter().filter_map(|(id, state)| {
            let node = NodeId(id.node_id.parse().ok()?);
            let is_alive = live.contains(id);
            let start = StartCount(id.generation_id / RESTARTS_MAX);
            let summary = Summary::read(|name| state.get(name).map(str::to_owned));
            Some((node, id.generation_id, GossipPeer { is_alive, start, summary }))
        });
        GossipView::of(said, nodes.keys().copied())
    }

    /// Calls on every node of the map that is not heard: that is how the first contact is made, and how a node is found
    /// again that has another address now.
    async fn call_on(&self, handle: &ChitchatHandle, nodes: &BTreeMap<NodeId, String>, view: &GossipView) {
        let silent = |node: &NodeId| view.peers.get(node).is_none_or(|peer| !peer.is_alive);
        for (_, address) in nodes.iter().filter(|(node, _)| **node != self.config.node && silent(node)) {
            if let Some(address) = resolve(address).await
                && handle.gossip(address).is_err()
            {
                // It ended: the watcher says so next.
                return;
            }
        }
    }
}

/// The socket address of a `host:port`.
pub async fn resolve(address: &str) -> Option<SocketAddr> {
    match address.parse() {
        Ok(address) => Some(address),
        Err(_) => lookup_host(address).await.ok()?.next(),
    }
}

/// Binds the port gossip uses.
///
/// # Errors
/// One sentence that names the port.
pub async fn bind(address: SocketAddr) -> Result<UdpSocket, String> {
    UdpSocket::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "cannot gossip on {address} (UDP): the port is in use, stop who has it or choose another node.listen_peer"
        ),
        _ => format!("cannot gossip on {address} (UDP, node.listen_peer): {error}"),
    })
}

#[cfg(test)]
mod tests;
