//! # Network: messages that get lost, late, doubled and cut off
//!
//! ```text
//!   node 1 ──call──▶ Link ──weather──▶ Network ──▶ node 2 (its newest life)
//!              ◀────────── weather ◀── answer
//! ```
//!
//! A message is handled in a task of its own: a caller that gives up does not stop what it asked for. A link belongs to
//! one life of a node; when that life ends nothing it sends arrives any more, and nothing it answers.
//!
//! **Invariant.** Every fate is drawn from the seed, in the order in which messages are sent.
//!
//! Messages of one lane arrive in the order in which they were sent, as on a connection, except those that are late:
//! these are overtaken, as by what follows on the next connection.
//!
//! **Deliberately absent.** Connections. Every message meets its own weather, which is worse than any of them would be.

use super::{
    audit::Audit,
    chance::Chance,
    faults::{CutId, Links},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::NodeId;
use kvorum_consensus::{Lane, Node, Transport, TransportError};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

/// How bad it is out there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Messages lost, of a thousand.
    pub lost_per_mille: u32,
    /// Messages delivered twice, of a thousand.
    pub doubled_per_mille: u32,
    /// Messages that take up to twenty times as long, of a thousand: they are overtaken.
    pub late_per_mille: u32,
    /// The usual time under way, milliseconds, at most.
    pub delay_ms_max: u64,
}

impl Weather {
    /// A quiet day.
    pub const FAIR: Weather = Weather { lost_per_mille: 0, doubled_per_mille: 0, late_per_mille: 0, delay_ms_max: 2 };
}

/// The network of one simulated world.
pub struct Network {
    audit: Audit,
    state: Mutex<State>,
    under_way: Mutex<JoinSet<()>>,
    /// Machines that get no turns: nothing reaches them, and what they do is heard later.
    paused: watch::Sender<BTreeSet<NodeId>>,
}

struct State {
    chance: Chance,
    weather: Weather,
    nodes: BTreeMap<NodeId, (Arc<Node>, Life)>,
    /// A link is whole if none of them has cut it.
    cuts: BTreeMap<CutId, Links>,
    /// When the last message on a lane arrives: those after it do not overtake it.
    arrivals: BTreeMap<(NodeId, NodeId, Lane), Instant>,
}

/// Whether one life of a node goes on. Clones share it.
#[derive(Clone)]
pub struct Life(Arc<watch::Sender<bool>>);

impl Life {
    /// A life that has begun.
    pub fn begin() -> Self {
        Life(Arc::new(watch::Sender::new(true)))
    }

    /// Ends it.
    pub fn end(&self) {
        self.0.send_replace(false);
    }

    /// Whether it goes on.
    pub fn goes_on(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        let mut goes_on = self.0.subscribe();
        goes_on.wait_for(|goes_on| !goes_on).await.expect("this handle keeps the sender");
    }
}

/// What happens to one message.
struct Fate {
    is_lost: bool,
    is_doubled: bool,
    is_late: bool,
    delay: Duration,
}

impl Network {
    /// A network on a quiet day.
    pub fn new(seed: u64, audit: Audit) -> Arc<Self> {
        Arc::new(Network {
            audit,
            state: Mutex::new(State {
                chance: Chance::new(seed, "network"),
                weather: Weather::FAIR,
                nodes: BTreeMap::new(),
                cuts: BTreeMap::new(),
                arrivals: BTreeMap::new(),
            }),
            under_way: Mutex::new(JoinSet::new()),
            paused: watch::Sender::default(),
        })
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    /// Cuts these directed links, until they are mended.
    pub fn cut(&self, cut: CutId, links: Links) {
        self.state.lock().cuts.insert(cut, links);
    }

    /// What was cut under this number is whole again, unless another cut goes through it.
    pub fn mend(&self, cut: CutId) {
        self.state.lock().cuts.remove(&cut);
    }

    /// All links are whole.
    pub fn mend_all(&self) {
        self.state.lock().cuts.clear();
    }

    /// From now on a machine gets no turns, or its turns again.
    pub fn set_paused(&self, id: NodeId, is_paused: bool) {
        self.paused.send_modify(|paused| {
            if is_paused {
                paused.insert(id)
            } else {
                paused.remove(&id)
            };
        });
    }

    /// Waits until a machine gets its turns.
    pub async fn awake(&self, id: NodeId) {
        let mut paused = self.paused.subscribe();
        paused.wait_for(|paused| !paused.contains(&id)).await.expect("the network keeps the sender");
    }

    /// Connects a node in one of its lives.
    pub fn connect(&self, id: NodeId, node: Arc<Node>, life: Life) {
        self.state.lock().nodes.insert(id, (node, life));
    }

    /// Disconnects a node: its life has ended.
    pub fn disconnect(&self, id: NodeId) {
        self.state.lock().nodes.remove(&id);
    }

    /// The newest life of a node, if it has one.
    pub fn node(&self, id: NodeId) -> Option<(Arc<Node>, Life)> {
        self.state.lock().nodes.get(&id).cloned()
    }

    /// Ends every message that is still under way.
    pub fn close(&self) {
        self.state.lock().nodes.clear();
        *self.under_way.lock() = JoinSet::new();
    }

    /// Draws what happens to a message from one node to another. Cut links take no draw of the weather away: a message
    /// that is cut off was drawn like any other.
    fn fate(&self, from: NodeId, to: NodeId) -> Fate {
        let mut state = self.state.lock();
        let weather = state.weather;
        let is_cut = state.cuts.values().any(|links| links.contains(&(from, to)));
        let is_lost = state.chance.hits(weather.lost_per_mille);
        let is_doubled = state.chance.hits(weather.doubled_per_mille);
        let is_late = state.chance.hits(weather.late_per_mille);
        let stretch = if is_late { 20 } else { 1 };
        let delay = state.chance.millis(0..weather.delay_ms_max * stretch + 1);
        Fate { is_lost: is_lost || is_cut, is_doubled, is_late, delay }
    }

    /// How long a message is under way if it keeps the order of its lane.
    fn in_order(&self, route: &Route, delay: Duration) -> Duration {
        let mut state = self.state.lock();
        let now = Instant::now();
        let arrival = state.arrivals.entry((route.from, route.to, route.lane)).or_insert(now);
        *arrival = (*arrival).max(now + delay);
        arrival.duration_since(now)
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut under_way = self.under_way.lock();
        while under_way.try_join_next().is_some() {}
        under_way.spawn(work);
    }

    /// Carries one copy of a message to its addressee, and the answer back to `answered`.
    async fn carry(self: Arc<Self>, route: Route, delay: Duration, answered: oneshot::Sender<Bytes>) {
        sleep(delay).await;
        self.awake(route.to).await;
        let Some((node, life)) = self.node(route.to) else { return };
        self.audit.event(route.arrow("▶"));
        let answer = node.handle(route.envelope.clone()).await;
        self.awake(route.to).await;
        // The life that was asked may have ended meanwhile: the dead do not answer.
        let fate = self.fate(route.to, route.from);
        if !life.goes_on() || fate.is_lost {
            return;
        }
        sleep(fate.delay).await;
        self.awake(route.from).await;
        if route.sender.goes_on() {
            self.audit.event(route.arrow("◀"));
            // A caller that gave up does not listen any more.
            let _ = answered.send(answer);
        }
    }
}

/// One message and its way.
#[derive(Clone)]
struct Route {
    from: NodeId,
    to: NodeId,
    lane: Lane,
    envelope: Bytes,
    sender: Life,
}

impl Route {
    fn arrow(&self, head: &str) -> String {
        let hash = xxhash_rust::xxh3::xxh3_64(&self.envelope) as u32;
        format!("{}{head}{} {:?} {} {hash:08x}", self.from, self.to, self.lane, self.envelope.len())
    }
}

/// The network as one life of one node sees it.
pub struct Link {
    /// Whose.
    pub from: NodeId,
    /// Which of its lives.
    pub life: Life,
    /// The network.
    pub network: Arc<Network>,
}

impl Transport for Link {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        envelope: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let route = Route { from: self.from, to, lane, envelope, sender: self.life.clone() };
        let network = Arc::clone(&self.network);
        Box::pin(async move {
            let deadline = Instant::now() + timeout;
            let lost = Err(TransportError::Timeout { node: to, after: timeout });
            if timeout_at(deadline, network.awake(route.from)).await.is_err() {
                return lost;
            }
            let fate = network.fate(route.from, to);
            if !route.sender.goes_on() || fate.is_lost {
                sleep_until(deadline).await;
                return lost;
            }
            let delay = if fate.is_late { fate.delay } else { network.in_order(&route, fate.delay) };
            let (answered, answer) = oneshot::channel();
            network.spawn(Arc::clone(&network).carry(route.clone(), delay, answered));
            if fate.is_doubled {
                // Nobody waits for the answer to the second copy.
                let (unheard, _) = oneshot::channel();
                network.spawn(Arc::clone(&network).carry(route.clone(), fate.delay * 3, unheard));
            }
            if let Ok(Ok(answer)) = timeout_at(deadline, answer).await {
                return Ok(answer);
            }
            // Lost on the way, or nobody there: silence until the deadline, as in a real network.
            sleep_until(deadline).await;
            lost
        })
    }

    fn set_peers(&self, _peers: &BTreeMap<NodeId, String>) {}
}
