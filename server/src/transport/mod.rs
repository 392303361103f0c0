//! Transport: bytes to other nodes, over gRPC.
//!
//! ```text
//!   Lane::Control ──▶ connection 1, one stream ─┐
//!   Lane::Data    ──▶ connection 2, one stream ─┼──▶ the peer's back door
//!   Lane::Bulk    ──▶ connection 3, one stream ─┘
//! ```
//!
//! **Invariant.** A lane is a connection of its own: one HTTP/2 connection is one TCP stream, and a snapshot in it
//! would hold up the heartbeats behind it.
//!
//! **Deliberately absent.** Retrying: the layers above know what may be repeated.

mod frames;
mod lane;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::NodeId;
use kvorum_consensus::{Lane, Transport, TransportError};
use lane::LaneEnd;
use parking_lot::RwLock;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::timeout;
use tonic::transport::Endpoint;

/// How long a connection may take to be made: well below an election timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a silent connection is asked whether it is still there, and how long it may think.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// HTTP/2 windows: a whole log message in flight without waiting for the other side's permission.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same for a whole connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Lanes to every other node.
#[derive(Default)]
pub struct GrpcTransport {
    peers: RwLock<BTreeMap<NodeId, Peer>>,
}

/// One other node.
struct Peer {
    address: String,
    lanes: BTreeMap<Lane, LaneEnd>,
}

impl Peer {
    fn at(address: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let lanes = [Lane::Control, Lane::Data, Lane::Bulk]
            .map(|lane| (lane, LaneEnd::to(endpoint.clone(), lane != Lane::Control)));
        Ok(Peer { address: address.to_owned(), lanes: BTreeMap::from(lanes) })
    }
}

impl Transport for GrpcTransport {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        envelope: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        // Queued before anybody waits: calls travel in the order in which they were made.
        let queued = match self.peers.read().get(&to) {
            Some(peer) => peer.lanes[&lane].call(envelope),
            None => Err("it is no node of this cluster".to_owned()),
        };
        Box::pin(async move {
            let answered = match queued {
                Ok(mut call) => {
                    let waited = timeout(patience, call.answer()).await;
                    waited.map_err(|_| TransportError::Timeout { node: to, after: patience })?
                }
                Err(why) => Err(why),
            };
            answered.map_err(|why| TransportError::Unreachable { node: to, why })
        })
    }

    fn set_peers(&self, peers: &BTreeMap<NodeId, String>) {
        let mut known = self.peers.write();
        known.retain(|node, peer| peers.get(node) == Some(&peer.address));
        for (node, address) in peers {
            if known.contains_key(node) {
                continue;
            }
            match Peer::at(address) {
                Ok(peer) => {
                    known.insert(*node, peer);
                }
                Err(error) => tracing::error!(%node, address, %error, "the address of a peer is none"),
            }
        }
    }
}
