//! The nodes this client can ask: one lazily connected channel each, and what handshakes taught.
//!
//! ```text
//!   endpoint ──▶ channel ──▶ handshake ──▶ stamp · cluster · keyspaces, replicas, leaders ──▶ ready for requests
//!                   ▲                                                                     │
//!                   └───────── a broken connection is greeted again before it is used ◀───┘
//! ```
//!
//! **Invariant.** No write is handed to a connection that has not been greeted since it last failed: while nobody answers
//! the greeting, the failure is provably without effect. All nodes of one client belong to one cluster.
//!
//! **Deliberately absent.** Retrying: this file knows nodes, `retry.rs` decides.

use crate::{
    clock::Stamps,
    failure::Failure,
    options::Options,
    routing::{Health, Knowledge, Route, order},
};
use kvorum_api::{Refused, Stamp, proto};
use parking_lot::Mutex;
use proto::kv_client::KvClient;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};

/// Bytes of one reply: a full batch of previous values, with room for its frame.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// One node, by the address it is reached at.
#[derive(Debug)]
struct Node {
    channel: Channel,
    greeted: AtomicBool,
    greeting: tokio::sync::Mutex<()>,
    failed: Mutex<Option<(Instant, Health)>>,
}

/// What is known of one keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyspaceKnown {
    pub(crate) mode: String,
    pub(crate) value_bytes_max: u64,
    pub(crate) leader: Option<String>,
    pub(crate) replicas: Vec<String>,
}

#[derive(Debug, Default)]
struct Learnt {
    cluster: Option<String>,
    keyspaces: BTreeMap<String, KeyspaceKnown>,
    nodes: BTreeMap<String, Arc<Node>>,
}

/// All nodes of one cluster, as far as this client knows them.
#[derive(Debug)]
pub(crate) struct Nodes {
    endpoints: Vec<String>,
    learnt: Mutex<Learnt>,
    stamps: Stamps,
    turn: AtomicUsize,
    connect_timeout: Duration,
    avoid: Duration,
}

impl Nodes {
    /// Reads the endpoints; connects to nobody.
    pub(crate) fn new(endpoints: &[String], options: &Options) -> Result<Self, Refused> {
        let endpoints = endpoints.iter().map(|text| address_of(text)).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(malformed("none given: name at least one node as host:port".to_owned()));
        }
        for address in &endpoints {
            endpoint_of(address)?;
        }
        Ok(Nodes {
            endpoints,
            learnt: Mutex::default(),
            stamps: Stamps::default(),
            turn: AtomicUsize::new(0),
            connect_timeout: options.connect_timeout,
            avoid: options.avoid,
        })
    }

    /// The stamp of a request sent now.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamps.at(Instant::now())
    }

    /// Takes note of a stamp a server gave.
    pub(crate) fn observe(&self, stamp: Stamp) {
        self.stamps.observe(stamp, Instant::now());
    }

    /// A client for the node at `address`, greeted if it was not since it last failed.
    pub(crate) async fn greeted(&self, address: &str, within: Duration) -> Result<KvClient<Channel>, Failure> {
        let node = self.node(address)?;
        let client = KvClient::new(node.channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX);
        if node.greeted.load(Ordering::Acquire) {
            return Ok(client);
        }
        let within = within.min(self.connect_timeout);
        let greeting = async {
            let _one_at_a_time = node.greeting.lock().await;
            if node.greeted.load(Ordering::Acquire) {
                return Ok(());
            }
            let mut request =
                tonic::Request::new(proto::HandshakeRequest { stamp: self.stamp().0, keyspaces: Vec::new() });
            request.set_timeout(within);
            let reply = client.clone().handshake(request).await;
            let reply = reply.map_err(|status| Failure::from_status(&status, address))?.into_inner();
            self.learn(reply, address)?;
            node.greeted.store(true, Ordering::Release);
            *node.failed.lock() = None;
            Ok(())
        };
        let outcome = match timeout(within, greeting).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(Failure::no_answer(address, within)),
        };
        // A handshake changes nothing, so its failure has no effect whatever the transport says.
        outcome.map(|()| client).map_err(|failure| Failure {
            effect: kvorum_api::Effect::None,
            retry: kvorum_api::Retry::Elsewhere,
            ..failure
        })
    }

    /// The channel to a node, for the other services.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, Failure> {
        Ok(self.node(address)?.channel.clone())
    }

    /// The node failed: greet it before it is used again, and ask others first for a while.
    pub(crate) fn failed(&self, address: &str, health: Health) {
        let node = self.learnt.lock().nodes.get(address).cloned();
        if let Some(node) = node.filter(|_| health != Health::Good) {
            node.greeted.store(false, Ordering::Release);
            *node.failed.lock() = Some((Instant::now(), health));
        }
    }

    /// How the node behaved when it was asked last, unless that is long ago.
    pub(crate) fn health(&self, address: &str) -> Health {
        health_of(&self.learnt.lock(), address, self.avoid)
    }

    /// Greets everybody again before the next use, to learn stamps and leaders anew.
    pub(crate) fn forget_greetings(&self) {
        self.learnt.lock().nodes.values().for_each(|node| node.greeted.store(false, Ordering::Release));
    }

    /// The node at `address` leads the keyspace, or is said to.
    pub(crate) fn learn_leader(&self, keyspace: &str, address: &str) {
        let mut learnt = self.learnt.lock();
        match learnt.keyspaces.get_mut(keyspace) {
            Some(known) if known.leader.as_deref() == Some(address) => {}
            Some(known) => known.leader = Some(address.to_owned()),
            None => {
                let known = KeyspaceKnown { leader: Some(address.to_owned()), ..KeyspaceKnown::default() };
                learnt.keyspaces.insert(keyspace.to_owned(), known);
            }
        }
    }

    /// Whom to ask, in which order.
    pub(crate) fn round(&self, keyspace: &str, route: Route) -> VecDeque<String> {
        let start = if route == Route::Any { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let learnt = self.learnt.lock();
        let keyspace = learnt.keyspaces.get(keyspace);
        let known = Knowledge {
            leader: keyspace.and_then(|known| known.leader.as_deref()),
            replicas: keyspace.map_or(&[], |known| &known.replicas),
            endpoints: &self.endpoints,
            start,
        };
        order(route, &known, |address| health_of(&learnt, address, self.avoid))
    }

    /// What handshakes said of a keyspace.
    pub(crate) fn keyspace(&self, name: &str) -> Option<KeyspaceKnown> {
        self.learnt.lock().keyspaces.get(name).cloned()
    }

    /// Every address known: the endpoints first, then the replicas handshakes named.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let learnt = self.learnt.lock();
        let mut all = self.endpoints.clone();
        for address in learnt.keyspaces.values().flat_map(|keyspace| &keyspace.replicas) {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }

    /// Whether a handshake named this address as a replica's.
    pub(crate) fn is_replica(&self, address: &str) -> bool {
        self.learnt.lock().keyspaces.values().any(|keyspace| keyspace.replicas.iter().any(|known| known == address))
    }

    fn node(&self, address: &str) -> Result<Arc<Node>, Failure> {
        let mut learnt = self.learnt.lock();
        if let Some(node) = learnt.nodes.get(address) {
            return Ok(node.clone());
        }
        let endpoint =
            endpoint_of(address).map_err(|refused| Failure::not_sent("ADDRESS", refused.to_string(), Some(address)))?;
        let channel = endpoint.connect_timeout(self.connect_timeout).connect_lazy();
        let node = Arc::new(Node {
            channel,
            greeted: AtomicBool::new(false),
            greeting: tokio::sync::Mutex::new(()),
            failed: Mutex::new(None),
        });
        learnt.nodes.insert(address.to_owned(), node.clone());
        Ok(node)
    }

    fn learn(&self, reply: proto::HandshakeReply, address: &str) -> Result<(), Failure> {
        let mut learnt = self.learnt.lock();
        if let Some(cluster) = learnt.cluster.as_ref().filter(|cluster| **cluster != reply.cluster) {
            let text = format!(
                "node {} belongs to cluster {}, the others to {cluster}: give endpoints of one cluster",
                reply.node, reply.cluster
            );
            return Err(Failure::not_sent("WRONG_CLUSTER", text, Some(address)));
        }
        learnt.cluster = Some(reply.cluster);
        for keyspace in reply.keyspaces {
            let previous = learnt.keyspaces.remove(&keyspace.name);
            let known = known_from(&keyspace, previous.and_then(|previous| previous.leader));
            learnt.keyspaces.insert(keyspace.name, known);
        }
        drop(learnt);
        self.observe(Stamp(reply.stamp));
        Ok(())
    }
}

fn health_of(learnt: &Learnt, address: &str, avoid: Duration) -> Health {
    let failed = learnt.nodes.get(address).and_then(|node| *node.failed.lock());
    failed.filter(|(at, _)| at.elapsed() < avoid).map_or(Health::Good, |(_, health)| health)
}

/// What a handshake says of a keyspace; where it names no leader, the one last heard stays the best guess.
fn known_from(keyspace: &proto::Keyspace, previous_leader: Option<String>) -> KeyspaceKnown {
    let mut replicas: Vec<String> = Vec::new();
    let mut leader = None;
    for shard in &keyspace.shards {
        for replica in shard.replicas.iter().filter(|replica| !replica.address.is_empty()) {
            if shard.leader == Some(replica.node) {
                leader = Some(replica.address.clone());
            }
            if !replicas.contains(&replica.address) {
                replicas.push(replica.address.clone());
            }
        }
    }
    KeyspaceKnown {
        mode: keyspace.mode.clone(),
        value_bytes_max: keyspace.value_bytes_max,
        leader: leader.or(previous_leader),
        replicas,
    }
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

    #[test]
    fn a_handshake_that_names_no_leader_keeps_the_last_guess() {
        let replica = |node| proto::Replica { id: node, node, address: format!("n{node}:1") };
        let shard = proto::Shard { id: 1, epoch: 1, leader: Some(2), replicas: vec![replica(1), replica(2)] };
        let keyspace = proto::Keyspace { name: "k".into(), shards: vec![shard.clone()], ..Default::default() };
        assert_eq!(known_from(&keyspace, Some("n1:1".into())).leader.as_deref(), Some("n2:1"));
        let without = proto::Keyspace { shards: vec![proto::Shard { leader: None, ..shard }], ..keyspace };
        assert_eq!(known_from(&without, Some("n1:1".into())).leader.as_deref(), Some("n1:1"));
    }
}
