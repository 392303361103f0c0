//! The nodes this client can ask: one lazily connected channel each, and what handshakes taught.
//!
//! ```text
//!   endpoint ──▶ channel ──▶ handshake ──▶ stamp · cluster · nodes · maps of keyspaces ──▶ ready for requests
//!                   ▲                                                                   │
//!                   └───────── a broken connection is greeted again before it is used ◀─┘
//! ```
//!
//! **Invariant.** All nodes of one client belong to one cluster. A greeting asks about one keyspace, so that a large
//! cluster does not tell everything to everybody; it is repeated only for a keyspace not known yet, and after a
//! failure.
//!
//! **Deliberately absent.** Retrying: this file knows nodes, `retry.rs` decides.

use crate::{
    clock::Stamps,
    failure::Failure,
    map::{Address, Target},
    maps::Maps,
    node::Node,
    options::Options,
    reply::Delivered,
    routing::{Health, Knowledge, Look, Route, order},
    session::Memory,
    stream::{Stream, Words},
    unanswered::Unanswered,
};
use kvorum_api::{Effect, NodeId, ReadLevel, Refused, Retry, Stamp, proto};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tonic::transport::{Channel, Endpoint};

/// A connection with a stream on it that is silent for this long is asked for a sign of life, and given up after as
/// long again: else one that a partition swallowed would hang for minutes after the partition is over.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Known {
    cluster: Option<String>,
    nodes: BTreeMap<Address, Arc<Node>>,
    /// Whom the cluster names as its nodes.
    members: BTreeMap<NodeId, Address>,
}

/// All nodes of one cluster, as far as this client knows them.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) maps: Maps,
    endpoints: Vec<Address>,
    known: Mutex<Known>,
    words: Arc<Words>,
    turn: AtomicUsize,
    options: Options,
    /// Streams and probes; they end with the client.
    tasks: Mutex<JoinSet<()>>,
}

impl Nodes {
    /// Reads the endpoints; connects to nobody.
    pub(crate) fn new(
        endpoints: &[String],
        options: &Options,
        client: u128,
        unanswered: Arc<Unanswered>,
    ) -> Result<Self, Refused> {
        let endpoints = endpoints.iter().map(|text| address_of(text)).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(malformed("none given: name at least one node as host:port".to_owned()));
        }
        for address in &endpoints {
            endpoint_of(address)?;
        }
        let traceparent = options.traceparent.clone().unwrap_or_default();
        let words = Words {
            client,
            traceparent,
            operations_max: options.in_flight_operations_max.max(1),
            stamps: Arc::default(),
            unanswered: unanswered.clone(),
        };
        Ok(Nodes {
            maps: Maps::new(unanswered),
            endpoints: endpoints.into_iter().map(Address::from).collect(),
            known: Mutex::default(),
            words: Arc::new(words),
            turn: AtomicUsize::new(0),
            options: options.clone(),
            tasks: Mutex::default(),
        })
    }

    fn stamps(&self) -> &Stamps {
        &self.words.stamps
    }

    /// The stamp of a request sent now.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamps().at(Instant::now())
    }

    /// Takes note of a stamp a server gave.
    pub(crate) fn observe(&self, stamp: Stamp) {
        self.stamps().observe(stamp, Instant::now());
    }

    /// Where the answers about `keyspace` are noted: in its session; outside of one, in the memory of the handle, if
    /// the keyspace is read at level `session`.
    pub(crate) fn memory<'a>(
        &self,
        keyspace: &str,
        session: Option<&'a Arc<Memory>>,
        own: &'a Arc<Memory>,
    ) -> Option<&'a Memory> {
        let is_session = || self.maps.default_level(keyspace) == Some(ReadLevel::Session);
        session.or_else(|| is_session().then_some(own)).map(|memory| &**memory)
    }

    /// Takes note of what an answer about `keyspace` says: its stamp, its keyspace, what its session has seen. `false`:
    /// the map was of a dropped keyspace of that name.
    pub(crate) fn saw(&self, keyspace: &str, delivered: &Delivered, session: Option<&Memory>) -> bool {
        self.observe(delivered.receipt.stamp);
        let id = delivered.keyspace.or_else(|| self.maps.kind(keyspace).map(|(id, _)| id));
        if let Some((session, id)) = session.zip(id) {
            session.saw(id, &delivered.receipt);
        }
        delivered.keyspace.is_none_or(|id| self.maps.confirm(keyspace, id))
    }

    /// A server found our stamp ahead of its clock: forget it, and let the next greeting give another.
    pub(crate) fn forget_stamp(&self) {
        self.stamps().forget();
        self.forget_greetings();
    }

    /// The node at `address`, greeted if it was not since it last failed, or not about this keyspace.
    pub(crate) async fn greeted(
        &self,
        address: &str,
        keyspace: Option<&str>,
        within: Duration,
    ) -> Result<Arc<Node>, Failure> {
        let node = self.node(address)?;
        let is_ready = || node.is_greeted() && keyspace.is_none_or(|keyspace| self.maps.knows(keyspace));
        if is_ready() {
            return Ok(node);
        }
        let within = within.min(self.options.connect_timeout);
        let greeting = async {
            let _one_at_a_time = node.greeting.lock().await;
            if is_ready() {
                return Ok(());
            }
            let keyspaces = keyspace.map(str::to_owned).into_iter().collect();
            let mut request = tonic::Request::new(proto::HandshakeRequest { stamp: self.stamp().0, keyspaces });
            request.set_timeout(within);
            let reply = node.kv().handshake(request).await;
            let reply = reply.map_err(|status| Failure::from_status(&status, address))?.into_inner();
            self.learn(reply, address, keyspace)?;
            node.greeted();
            Ok(())
        };
        let outcome = match timeout(within, greeting).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(Failure::no_answer(address, within)),
        };
        outcome.map(|()| node.clone()).map_err(without_effect)
    }

    /// The stream of a greeted node, if it offers one.
    pub(crate) async fn stream(&self, node: &Node, within: Duration) -> Result<Option<Arc<Stream>>, Failure> {
        let spawn = |pump: crate::stream::Pump| self.spawn(pump.run());
        match timeout(within.min(self.options.connect_timeout), node.stream(&self.words, spawn)).await {
            Ok(stream) => stream,
            Err(_elapsed) => Err(without_effect(Failure::no_answer(&node.address, within))),
        }
    }

    /// The channel to a node, for the other services.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, Failure> {
        Ok(self.node(address)?.channel.clone())
    }

    /// The node at `address` did not answer, or only to say that it cannot.
    pub(crate) fn failed(&self, address: &str, failure: &Failure, asked: Instant) {
        let node = self.known.lock().nodes.get(address).cloned();
        if let Some((node, trouble)) = node.zip(failure.trouble()) {
            node.failed(trouble, asked);
        }
    }

    /// How the node behaved when it was asked last.
    pub(crate) fn health(&self, address: &str) -> Health {
        look(&self.known.lock(), address).health
    }

    /// Greets this node again before the next use, to learn its map.
    pub(crate) fn forget_greeting(&self, address: &str) {
        let node = self.known.lock().nodes.get(address).cloned();
        node.iter().for_each(|node| node.forget_greeting());
    }

    /// Another node says that this one leads: if it is being left alone, that does not last as long as it might.
    pub(crate) fn vouch(&self, address: &str) {
        let node = self.known.lock().nodes.get(address).cloned();
        node.iter().for_each(|node| node.vouched());
    }

    /// Greets everybody again before the next use, to learn stamps and leaders anew.
    pub(crate) fn forget_greetings(&self) {
        self.known.lock().nodes.values().for_each(|node| node.forget_greeting());
    }

    /// Whom to ask, in which order.
    pub(crate) fn round(&self, keyspace: &str, target: &Target, route: Route) -> VecDeque<Address> {
        let aim = self.maps.aim(keyspace, target);
        let turn = if route == Route::Any { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let known = Knowledge {
            leader: aim.as_ref().and_then(|aim| aim.leader.as_ref()),
            replicas: aim.as_ref().map_or(&[], |aim| &aim.replicas),
            endpoints: &self.endpoints,
            turn,
        };
        let nodes = self.known.lock();
        let resting = known.replicas.iter().filter_map(|address| nodes.nodes.get(address));
        let to_probe: Vec<Arc<Node>> = resting.filter(|node| node.takes_probe()).cloned().collect();
        let round = order(route, &known, |address| look(&nodes, address));
        drop(nodes);
        to_probe.into_iter().for_each(|node| self.probe(node, keyspace));
        round
    }

    /// Finds out whether a node is back. Nobody waits for it.
    fn probe(&self, node: Arc<Node>, keyspace: &str) {
        let within = self.options.connect_timeout;
        let keyspaces = vec![keyspace.to_owned()];
        let mut request = tonic::Request::new(proto::HandshakeRequest { stamp: self.stamp().0, keyspaces });
        request.set_timeout(within);
        self.spawn(async move {
            let answer = match timeout(within, node.kv().handshake(request)).await {
                Ok(Ok(_reply)) => Ok(()),
                Ok(Err(status)) => Err(Failure::from_status(&status, &node.address)),
                Err(_elapsed) => Err(Failure::no_answer(&node.address, within)),
            };
            // A refusal of its own shows that it is there.
            node.probed(answer.or_else(|failure| failure.trouble().map_or(Ok(()), Err)));
        });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Every address known: the endpoints first, then the cluster's nodes, then whoever holds a shard.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        let mut all = self.endpoints.clone();
        let members: Vec<Address> = self.known.lock().members.values().cloned().collect();
        for address in members.into_iter().chain(self.maps.addresses()) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    /// Whether the cluster named this address as a node's.
    pub(crate) fn is_member(&self, address: &str) -> bool {
        let is_named = self.known.lock().members.values().any(|known| **known == *address);
        is_named || self.maps.addresses().iter().any(|known| **known == *address)
    }

    fn node(&self, address: &str) -> Result<Arc<Node>, Failure> {
        let mut known = self.known.lock();
        if let Some(node) = known.nodes.get(address) {
            return Ok(node.clone());
        }
        let endpoint =
            endpoint_of(address).map_err(|refused| Failure::not_sent("ADDRESS", refused.to_string(), Some(address)))?;
        let endpoint = endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
        let endpoint = endpoint.connect_timeout(self.options.connect_timeout);
        let address = Address::from(address);
        let node = Arc::new(Node::new(address.clone(), endpoint, &self.options));
        known.nodes.insert(address, node.clone());
        Ok(node)
    }

    fn learn(&self, reply: proto::HandshakeReply, address: &str, asked: Option<&str>) -> Result<(), Failure> {
        let mut known = self.known.lock();
        if let Some(cluster) = known.cluster.as_ref().filter(|cluster| **cluster != reply.cluster) {
            let text = format!(
                "node {} belongs to cluster {}, the others to {cluster}: give endpoints of one cluster",
                reply.node, reply.cluster
            );
            return Err(Failure::not_sent("WRONG_CLUSTER", text, Some(address)));
        }
        known.cluster = Some(reply.cluster);
        let named = reply.nodes.iter().filter(|node| !node.address.is_empty());
        known.members.extend(named.map(|node| (NodeId(node.id), Address::from(node.address.as_str()))));
        drop(known);
        self.maps.learn(&reply.keyspaces, reply.map_revision, asked);
        self.observe(Stamp(reply.stamp));
        Ok(())
    }
}

/// Greetings and openings change nothing, so their failures have no effect whatever the transport says.
fn without_effect(failure: Failure) -> Failure {
    Failure { effect: Effect::None, retry: Retry::Elsewhere, ..failure }
}

fn look(known: &Known, address: &str) -> Look {
    known.nodes.get(address).map(|node| node.look()).unwrap_or_default()
}

/// `host:port`, with or without `http://`.
fn address_of(text: &str) -> Result<String, Refused> {
    let address = text.trim().strip_prefix("http://").unwrap_or(text.trim()).trim_end_matches('/');
    let port = address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>()));
    match port {
        Some(Ok(port)) if port > 0 && !address.contains('/') => Ok(address.to_owned()),
        _ => Err(malformed(format!("{text:?} is not host:port, such as 127.0.0.1:7101"))),
    }
}

fn endpoint_of(address: &str) -> Result<Endpoint, Refused> {
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| malformed(format!("{address:?} is not host:port: {error}")))
}

fn malformed(problem: String) -> Refused {
    Refused::Malformed { field: "endpoints", problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_host_and_port() {
        for good in ["127.0.0.1:7101", "http://node-1:80", " [::1]:7101 ", "a:1/"] {
            assert!(address_of(good).is_ok(), "{good:?}");
        }
        for bad in ["", "a", ":7101", "a:", "a:0", "a:70000", "https://a:1", "a:1/b"] {
            let refused = address_of(bad).unwrap_err().to_string();
            assert!(refused.contains("is not host:port"), "{bad:?}: {refused}");
        }
    }
}
