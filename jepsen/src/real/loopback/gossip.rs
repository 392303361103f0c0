//! Datagrams between nodes, carried from door to door.
//!
//! ```text
//!   node 1 ──▶ door 2 ··· sent on from door 1 ──▶ node 2: it answers to door 1
//! ```
//!
//! **Invariant.** A node sees others' doors only, so its answers come back through here.

use super::links::Links;
use crate::real::fabric::Link;
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};
use tokio::{
    net::UdpSocket,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Bytes of the largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Datagrams on their way to one node; more are dropped, as a full buffer would.
const UNDER_WAY_MAX: usize = 1_024;

/// Carries what comes to one node's door, as long as the fabric lives. `doors` are all nodes' sockets, `nodes` says who
/// sends from which address.
pub async fn relay(
    node: u64,
    target: SocketAddr,
    doors: BTreeMap<u64, Arc<UdpSocket>>,
    nodes: BTreeMap<SocketAddr, u64>,
    links: Arc<Links>,
) {
    let mut under_way = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        while under_way.try_join_next().is_some() {}
        // An error tells of a datagram sent earlier to a node that is down.
        let Ok((length, from)) = doors[&node].recv_from(&mut buffer).await else { continue };
        let Some(sender) = nodes.get(&from).copied().filter(|sender| *sender != node) else { continue };
        let link = Link::between(sender, node);
        let bytes = buffer[..length].to_vec();
        match links.datagram(link).filter(|_| under_way.len() < UNDER_WAY_MAX) {
            None => links.count(link, |carried| carried.dropped_bytes += length as u64),
            Some(wait) => {
                let (door, links, due) = (doors[&sender].clone(), links.clone(), Instant::now() + wait);
                under_way.spawn(async move {
                    sleep_until(due).await;
                    if links.state(link).is_cut() {
                        links.count(link, |carried| carried.dropped_bytes += bytes.len() as u64);
                        return;
                    }
                    if door.send_to(&bytes, target).await.is_ok() {
                        links.count(link, |carried| carried.passed_bytes += bytes.len() as u64);
                    }
                });
            }
        }
    }
}
