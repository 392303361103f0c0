//! Transport: bytes to other nodes, over gRPC.
//!
//! ```text
//!   Lane::Control ──▶ connection 1 ─┐
//!   Lane::Data    ──▶ connection 2 ─┼──▶ the peer's back door
//!   Lane::Bulk    ──▶ connection 3 ─┘
//! ```
//!
//! **Invariant.** A lane is a connection of its own: one HTTP/2 connection is one TCP stream, and a snapshot in it would
//! hold up the heartbeats behind it.
//!
//! **Deliberately absent.** Retrying: the layers above know what may be repeated.

use crate::{metrics, rpc::ENVELOPE_BYTES_MAX};
use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::{NodeId, proto, proto::peer_client::PeerClient};
use kvorum_consensus::{Lane, Transport, TransportError};
use parking_lot::RwLock;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

/// How long a connection may take to be made: well below an election timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a silent connection is asked whether it is still there, and how long it may think.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// HTTP/2 windows: a whole log message in flight without waiting for the other side's permission.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same for a whole connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Connections to every other node.
#[derive(Default)]
pub struct GrpcTransport {
    peers: RwLock<BTreeMap<NodeId, Peer>>,
}

/// One other node.
struct Peer {
    address: String,
    lanes: BTreeMap<Lane, PeerClient<Channel>>,
}

impl Peer {
    /// Connections are made when first used, so that nodes may start in any order.
    fn at(address: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let lanes = [Lane::Control, Lane::Data, Lane::Bulk].map(|lane| {
            let client = PeerClient::new(endpoint.connect_lazy())
                .max_decoding_message_size(ENVELOPE_BYTES_MAX)
                .max_encoding_message_size(ENVELOPE_BYTES_MAX);
            (lane, client)
        });
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
        let client = self.peers.read().get(&to).map(|peer| peer.lanes[&lane].clone());
        Box::pin(async move {
            let unreachable = |why: String| TransportError::Unreachable { node: to, why };
            let mut client = client.ok_or_else(|| unreachable("it is no node of this cluster".to_owned()))?;
            metrics::peer_sent(envelope.len());
            match timeout(patience, client.call(proto::PeerFrame { envelope })).await {
                Ok(Ok(answer)) => Ok(answer.into_inner().envelope),
                Ok(Err(status)) => Err(unreachable(format!("{:?}: {}", status.code(), status.message()))),
                Err(_) => Err(TransportError::Timeout { node: to, after: patience }),
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};
    use tokio::net::TcpListener as AsyncListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response, Status};

    struct Echo;

    #[tonic::async_trait]
    impl proto::peer_server::Peer for Echo {
        async fn call(&self, request: Request<proto::PeerFrame>) -> Result<Response<proto::PeerFrame>, Status> {
            Ok(Response::new(request.into_inner()))
        }

        async fn join(&self, _: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
            unreachable!("lanes carry no requests to join")
        }
    }

    struct Silent;

    #[tonic::async_trait]
    impl proto::peer_server::Peer for Silent {
        async fn call(&self, _: Request<proto::PeerFrame>) -> Result<Response<proto::PeerFrame>, Status> {
            std::future::pending().await
        }

        async fn join(&self, _: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
            unreachable!("lanes carry no requests to join")
        }
    }

    async fn served(service: impl proto::peer_server::Peer, tasks: &mut tokio::task::JoinSet<()>) -> GrpcTransport {
        let listener = AsyncListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = proto::peer_server::PeerServer::new(service)
            .max_decoding_message_size(ENVELOPE_BYTES_MAX)
            .max_encoding_message_size(ENVELOPE_BYTES_MAX);
        let serving = tonic::transport::Server::builder().add_service(server);
        tasks.spawn(async move { serving.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
        to(&address.to_string())
    }

    fn to(address: &str) -> GrpcTransport {
        let transport = GrpcTransport::default();
        transport.set_peers(&BTreeMap::from([(NodeId(2), address.to_owned())]));
        transport
    }

    #[tokio::test]
    async fn an_envelope_larger_than_tonics_default_travels_both_ways_on_every_lane() {
        let mut tasks = tokio::task::JoinSet::new();
        let transport = served(Echo, &mut tasks).await;
        let envelope = Bytes::from(vec![7; 9 << 20]);
        for lane in [Lane::Control, Lane::Data, Lane::Bulk] {
            let answer = transport.call(NodeId(2), lane, envelope.clone(), Duration::from_secs(20)).await.unwrap();
            assert_eq!(answer, envelope);
        }
    }

    #[tokio::test]
    async fn a_peer_that_is_not_there_is_unreachable() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let transport = to(&address);
        let call = |node| transport.call(NodeId(node), Lane::Control, Bytes::new(), Duration::from_secs(20));
        assert!(matches!(call(2).await, Err(TransportError::Unreachable { node: NodeId(2), .. })));
        assert!(matches!(call(3).await, Err(TransportError::Unreachable { node: NodeId(3), .. })));
    }

    #[tokio::test]
    async fn a_silent_peer_costs_the_patience_and_no_more() {
        let mut tasks = tokio::task::JoinSet::new();
        let transport = served(Silent, &mut tasks).await;
        let patience = Duration::from_millis(100);
        let answer = transport.call(NodeId(2), Lane::Data, Bytes::new(), patience).await;
        assert_eq!(answer, Err(TransportError::Timeout { node: NodeId(2), after: patience }));
    }
}
