//! Loopback proxies: every connection to a node goes through this process.
//!
//! ```text
//!   node 1 ──TCP──▶ ┌ door of node 2 ┐ ──TCP──▶ node 2        bytes: pump.rs, by the state of the directed link
//!   node 1 ──UDP──▶ └────────────────┘ ──UDP──▶ node 2        datagrams: gossip.rs
//!   clients ─TCP──▶   client door of node 2 ──▶ node 2
//! ```
//!
//! A node listens at one address and tells others another, its door here. Who dials a door is found out by whose
//! process holds the other end of the connection ([`dialler`]); datagrams are told apart by the port they come from.
//!
//! **Invariant.** Both directions of a connection obey their own link: a cut from 1 to 2 stops what 1 says to 2, on
//! connections either of them dialled, and nothing else.
//!
//! **Deliberately absent.** Packets: a cut link still takes a connection and keeps silent, what is lost is late, and
//! nothing is reordered within a connection. [`Fabric::is_weaker_because`] says so in every report.

mod dialler;
mod gossip;
mod links;
mod ports;
mod pump;

use super::fabric::{Addresses, Carried, End, Fabric, Link, Observed, Weather};
use anyhow::{Context, Result};
use links::{Links, State};
use parking_lot::Mutex;
use ports::PortRange;
use std::{collections::BTreeMap, net::SocketAddr, path::Path, process::Command, sync::Arc};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Connections one door carries at once; a node has three lanes to each peer, a client a handful.
const CONNECTIONS_MAX: usize = 1_024;

/// Which process is which node.
type Processes = Arc<Mutex<BTreeMap<u32, u64>>>;

/// Proxies on loopback, for all nodes.
pub struct LoopbackProxies {
    addresses: BTreeMap<u64, Addresses>,
    links: Arc<Links>,
    processes: Processes,
    // The doors close when the fabric is dropped.
    _doors: JoinSet<()>,
}

impl LoopbackProxies {
    /// Opens the doors of nodes 1 to `nodes`.
    pub async fn start(nodes: u64, seed: u64) -> Result<Self> {
        let mut ports = PortRange::default();
        let links = Arc::new(Links::new(nodes, seed));
        let processes = Processes::default();
        let (mut addresses, mut doors) = (BTreeMap::new(), JoinSet::new());
        let mut gossip = BTreeMap::new();
        for node in 1..=nodes {
            let (client_door, client) = ports.listen().await.context("a client door cannot be opened")?;
            let (peer_door, socket, peer) = ports.listen_both().await.context("a peer door cannot be opened")?;
            let [listen_client, listen_peer, listen_admin] = [ports.free()?, ports.free()?, ports.free()?];
            let watch = listen_client;
            addresses.insert(node, Addresses { listen_client, listen_peer, listen_admin, client, peer, watch });
            gossip.insert(node, Arc::new(socket));
            let whose = Whose { listener_at: client, processes: None };
            doors.spawn(door(client_door, whose, node, listen_client, links.clone()));
            let whose = Whose { listener_at: peer, processes: Some(processes.clone()) };
            doors.spawn(door(peer_door, whose, node, listen_peer, links.clone()));
        }
        let listens: BTreeMap<SocketAddr, u64> =
            addresses.iter().map(|(node, addresses)| (addresses.listen_peer, *node)).collect();
        for (node, addresses) in &addresses {
            doors.spawn(gossip::relay(*node, addresses.listen_peer, gossip.clone(), listens.clone(), links.clone()));
        }
        Ok(LoopbackProxies { addresses, links, processes, _doors: doors })
    }
}

impl Fabric for LoopbackProxies {
    fn name(&self) -> &'static str {
        "loopback proxies"
    }

    fn is_weaker_because(&self) -> Option<String> {
        Some(
            "a cut link still takes new connections and keeps silent; what is lost on a connection arrives late or \
             breaks it; nothing is reordered or duplicated within a connection"
                .to_owned(),
        )
    }

    fn cannot(&self, weather: &Weather) -> Option<String> {
        let is_astray = weather.duplicate_percent > 0.0 || weather.reorder_percent > 0.0;
        is_astray.then(|| "proxies carry connections, whose bytes cannot be duplicated or reordered".to_owned())
    }

    fn addresses(&self, node: u64) -> Addresses {
        self.addresses[&node]
    }

    fn command(&self, _node: u64, program: &Path) -> Command {
        Command::new(program)
    }

    fn started(&self, node: u64, process_id: u32) {
        let mut processes = self.processes.lock();
        processes.retain(|_, other| *other != node);
        processes.insert(process_id, node);
    }

    fn cut(&self, link: Link) {
        self.links.change(link, |state| state.cuts += 1);
    }

    fn mend(&self, link: Link) {
        self.links.change(link, |state| state.cuts = state.cuts.saturating_sub(1));
    }

    fn degrade(&self, link: Link, weather: Weather) {
        self.links.change(link, |state| state.weather = weather);
    }

    fn heal(&self) {
        self.links.change_all(|state| *state = State::default());
    }

    fn observed(&self) -> Observed {
        self.links.observed()
    }
}

/// How a door finds out who dials.
struct Whose {
    listener_at: SocketAddr,
    /// `None` = it is for clients only.
    processes: Option<Processes>,
}

impl Whose {
    fn dialled(&self, from: SocketAddr) -> Option<End> {
        let Some(processes) = &self.processes else { return Some(End::Clients) };
        let known: Vec<u32> = processes.lock().keys().copied().collect();
        let process = dialler::who(from, self.listener_at, &known)?;
        processes.lock().get(&process).map(|node| End::Node(*node))
    }
}

/// Takes connections to a node as long as the fabric lives.
async fn door(listener: TcpListener, whose: Whose, node: u64, target: SocketAddr, links: Arc<Links>) {
    let mut connections = JoinSet::new();
    loop {
        // Finished ones first: the set must not grow with every connection ever made.
        while connections.try_join_next().is_some() {}
        let Ok((stream, from)) = listener.accept().await else { continue };
        // Somebody who is no node, or whose process is gone already: nobody waits for an answer.
        let Some(end) = whose.dialled(from) else { continue };
        if connections.len() < CONNECTIONS_MAX {
            connections.spawn(connection(stream, end, node, target, links.clone()));
        }
    }
}

async fn connection(stream: TcpStream, from: End, node: u64, target: SocketAddr, links: Arc<Links>) {
    let (there, back) = (Link { from, to: End::Node(node) }, Link { from: End::Node(node), to: from });
    // A handshake needs both directions.
    for link in [there, back] {
        links.until_open(link).await;
    }
    let Ok(upstream) = TcpStream::connect(target).await else {
        links.count(there, |carried: &mut Carried| carried.resets += 1);
        return;
    };
    pump::join(stream, upstream, there, back, &links).await;
}

#[cfg(test)]
mod tests;
