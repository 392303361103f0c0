//! The wire: who can reach whom, what gets lost or late, and what was sent.
//!
//! **Invariant.** What has arrived is worked on to its end, also when its sender has given up or died.

use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::NodeId;
use kvorum_consensus::{Lane, Node, Transport, TransportError, envelope::Envelope, peers::MessageKind};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;

/// One way between two nodes.
const ONE_WAY: Duration = Duration::from_micros(500);

/// Ids that nodes of a test may have.
const NODES_MAX: u64 = 9;

/// What answers under an id.
pub trait Receiver: Send + Sync {
    /// `None` = no answer leaves.
    fn receive(self: Arc<Self>, envelope: Bytes) -> BoxFuture<'static, Option<Bytes>>;
}

impl Receiver for Node {
    fn receive(self: Arc<Self>, envelope: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        Box::pin(async move { Some(self.handle(envelope).await) })
    }
}

/// Messages of a kind that something happens to, and how many more.
#[derive(Default)]
struct Doomed(Mutex<Option<(MessageKind, u32)>>);

impl Doomed {
    fn set(&self, kind: MessageKind, count: u32) {
        *self.0.lock() = Some((kind, count));
    }

    /// Whether this one is meant; one fewer after it.
    fn takes(&self, kind: u8) -> bool {
        match &mut *self.0.lock() {
            Some((doomed, count)) if *doomed as u8 == kind && *count > 0 => {
                *count -= 1;
                true
            }
            Some(_) | None => false,
        }
    }
}

/// The network of one test.
#[derive(Default)]
pub struct Wire {
    receivers: Mutex<BTreeMap<NodeId, Arc<dyn Receiver>>>,
    /// From, to.
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    slow: Mutex<BTreeMap<(NodeId, NodeId), Duration>>,
    lost_requests: Doomed,
    lost_replies: Doomed,
    sent: Mutex<BTreeMap<(NodeId, NodeId), u64>>,
    departed: Mutex<BTreeMap<u8, u64>>,
    arrived: Mutex<BTreeMap<u8, u64>>,
    /// Bytes answered to each node.
    pub answered: Mutex<BTreeMap<NodeId, usize>>,
    /// Where each node was last told that the others are.
    pub addresses: Mutex<BTreeMap<NodeId, BTreeMap<NodeId, String>>>,
}

impl Wire {
    /// From now on this answers under that id.
    pub fn connect(&self, id: NodeId, receiver: Arc<dyn Receiver>) {
        self.receivers.lock().insert(id, receiver);
    }

    pub fn disconnect(&self, id: NodeId) {
        self.receivers.lock().remove(&id);
    }

    /// Nobody reaches these nodes, and they reach nobody; all others reach each other.
    pub fn cut(&self, nodes: &[u64]) {
        self.cut_where(|from, to| nodes.contains(&from) || nodes.contains(&to));
    }

    /// These reach each other and nobody else; the others likewise.
    pub fn split(&self, nodes: &[u64]) {
        self.cut_where(|from, to| nodes.contains(&from) != nodes.contains(&to));
    }

    fn cut_where(&self, is_cut: impl Fn(u64, u64) -> bool) {
        let pairs = (1..=NODES_MAX).flat_map(|from| (1..=NODES_MAX).map(move |to| (from, to)));
        let cut = pairs.filter(|(from, to)| is_cut(*from, *to));
        *self.cut.lock() = cut.map(|(from, to)| (NodeId(from), NodeId(to))).collect();
    }

    /// Cuts one more node off from all others.
    pub fn isolate(&self, node: u64) {
        (1..=NODES_MAX).for_each(|other| self.cut_pair(node, other));
    }

    /// Cuts two nodes off from each other.
    pub fn cut_pair(&self, one: u64, other: u64) {
        self.cut.lock().extend([(NodeId(one), NodeId(other)), (NodeId(other), NodeId(one))]);
    }

    /// All reach each other in time.
    pub fn heal(&self) {
        self.cut.lock().clear();
        self.slow.lock().clear();
    }

    /// Delays what `from` sends to `to`.
    pub fn delay(&self, from: u64, to: u64, by: Duration) {
        self.slow.lock().insert((NodeId(from), NodeId(to)), by);
    }

    /// Loses the next `count` messages of a kind on their way.
    pub fn lose_requests(&self, kind: MessageKind, count: u32) {
        self.lost_requests.set(kind, count);
    }

    /// Loses the replies to the next `count` messages of a kind.
    pub fn lose_replies(&self, kind: MessageKind, count: u32) {
        self.lost_replies.set(kind, count);
    }

    /// Messages `from` has tried to send to `to`.
    pub fn sent(&self, from: u64, to: u64) -> u64 {
        self.sent.lock().get(&(NodeId(from), NodeId(to))).copied().unwrap_or(0)
    }

    /// Messages of a kind that left for a node that is there.
    pub fn departed(&self, kind: MessageKind) -> u64 {
        self.departed.lock().get(&(kind as u8)).copied().unwrap_or(0)
    }

    /// Messages of a kind that arrived anywhere.
    pub fn arrived(&self, kind: MessageKind) -> u64 {
        self.arrived.lock().get(&(kind as u8)).copied().unwrap_or(0)
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.lock().contains(&(from, to))
    }

    fn receiver(&self, from: NodeId, to: NodeId) -> Option<Arc<dyn Receiver>> {
        self.receivers.lock().get(&to).cloned().filter(|_| !self.is_cut(from, to))
    }

    /// There, and back.
    async fn carry(&self, way: Duration, receiver: Arc<dyn Receiver>, envelope: Bytes) -> Option<Bytes> {
        let kind = Envelope::decode(&envelope).expect("nodes send envelopes").kind;
        *self.departed.lock().entry(kind).or_default() += 1;
        sleep(way).await;
        *self.arrived.lock().entry(kind).or_default() += 1;
        if self.lost_requests.takes(kind) {
            return None;
        }
        let answer = receiver.receive(envelope).await;
        sleep(ONE_WAY).await;
        answer.filter(|_| !self.lost_replies.takes(kind))
    }
}

/// The end of the wire that one process holds.
pub struct Port {
    pub wire: Arc<Wire>,
    pub from: NodeId,
    /// Cleared when the process ends: its tasks may linger, its messages do not.
    pub is_alive: Arc<AtomicBool>,
}

impl Port {
    pub fn new(wire: &Arc<Wire>, from: u64) -> Self {
        Port { wire: Arc::clone(wire), from: NodeId(from), is_alive: Arc::new(AtomicBool::new(true)) }
    }
}

impl Transport for Port {
    fn call(
        &self,
        to: NodeId,
        _lane: Lane,
        envelope: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (wire, from, is_alive) = (Arc::clone(&self.wire), self.from, Arc::clone(&self.is_alive));
        *wire.sent.lock().entry((from, to)).or_default() += 1;
        Box::pin(async move {
            let unreachable = || TransportError::Unreachable { node: to, why: "connection refused".to_owned() };
            let receiver = wire.receiver(from, to).filter(|_| is_alive.load(Ordering::Relaxed));
            let receiver = receiver.ok_or_else(unreachable)?;
            let way = ONE_WAY + wire.slow.lock().get(&(from, to)).copied().unwrap_or_default();
            let travels = {
                let wire = Arc::clone(&wire);
                async move { wire.carry(way, receiver, envelope).await }
            };
            #[expect(clippy::disallowed_methods, reason = "a message on its way belongs to nobody")]
            let travels = tokio::spawn(travels);
            let answer = tokio::time::timeout(timeout, travels).await;
            let answer = answer.map_err(|_| TransportError::Timeout { node: to, after: timeout })?;
            // An answer does not leave a dead machine, or a cut-off one.
            let is_there = wire.receivers.lock().contains_key(&to) && !wire.is_cut(to, from);
            let answer = answer.ok().flatten().filter(|_| is_there).ok_or_else(unreachable)?;
            *wire.answered.lock().entry(from).or_default() += answer.len();
            Ok(answer)
        })
    }

    fn set_peers(&self, peers: &BTreeMap<NodeId, String>) {
        self.wire.addresses.lock().insert(self.from, peers.clone());
    }
}
