//! Listening: three ports, bound before anything is started, served until told to stop.
//!
//! **Invariant.** A port that is taken is noticed before the data directory counts a start.

use crate::{
    admin::{self, Admin},
    config::{Config, Limits},
    rpc::{
        REQUEST_BYTES_MAX, admin::AdminService, kv::KvService, lane::FRAME_BYTES_MAX, peer::PeerService,
        status_out::Facts, stream::StreamService, undecodable::UndecodableLayer,
    },
    transport::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
};
use kvorum_api::proto::{
    self, admin_server::AdminServer, kv_server::KvServer, kv_stream_server::KvStreamServer, peer_server::PeerServer,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::{Server, server::TcpIncoming};
use tonic_health::server::HealthReporter;

/// How often a silent connection is asked whether it is still there, and how long it may think.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams on one connection of a peer: a lane is one.
const PEER_STREAMS_MAX: u32 = 16;

/// Three ports of this node.
pub struct Listeners {
    /// Front door.
    pub client: TcpListener,
    /// Back door.
    pub peer: TcpListener,
    /// For machines that look after it.
    pub admin: TcpListener,
}

impl Listeners {
    /// Binds all three.
    ///
    /// # Errors
    /// One sentence that names the port.
    pub async fn bind(config: &Config) -> Result<Self, String> {
        let node = &config.node;
        Ok(Listeners {
            client: bind("node.listen_client", node.listen_client).await?,
            peer: bind("node.listen_peer", node.listen_peer).await?,
            admin: bind("node.listen_admin", node.listen_admin).await?,
        })
    }
}

async fn bind(field: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("cannot listen on {address}: the port is in use, stop who has it or choose another {field}")
        }
        _ => format!("cannot listen on {address} ({field}): {error}"),
    })
}

fn server(streams_max: u32) -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(streams_max)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(KEEPALIVE_INTERVAL))
}

async fn told(mut stop: watch::Receiver<bool>) {
    // A sender that is gone means the process is going too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves the front door until told to stop, then finishes what is in flight.
///
/// # Errors
/// The port cannot be served any more.
pub async fn clients(
    listener: TcpListener,
    facts: Arc<Facts>,
    health: HealthReporter,
    limits: Limits,
    stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let kv = KvServer::new(KvService::new(facts.door.clone())).max_decoding_message_size(REQUEST_BYTES_MAX);
    let stream = StreamService::new(facts.door.clone());
    let stream = KvStreamServer::new(stream).max_decoding_message_size(REQUEST_BYTES_MAX);
    let health = tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health),
    );
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let words = |error: tonic_reflection::server::Error| format!("reflection: {error}");
    server(limits.streams_per_connection_max)
        .layer(UndecodableLayer)
        .add_service(kv)
        .add_service(stream)
        .add_service(AdminServer::new(AdminService::new(facts)))
        .add_service(health)
        .add_service(reflection().build_v1().map_err(words)?)
        .add_service(reflection().build_v1alpha().map_err(words)?)
        .serve_with_incoming_shutdown(incoming(listener), told(stop))
        .await
        .map_err(|error| format!("client door: {error}"))
}

/// Serves the back door until told to stop.
///
/// # Errors
/// The port cannot be served any more.
pub async fn peers(listener: TcpListener, facts: Arc<Facts>, stop: watch::Receiver<bool>) -> Result<(), String> {
    let peer = PeerServer::new(PeerService::new(facts.door.node.clone(), facts.join_desk.clone(), stop.clone()))
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX);
    server(PEER_STREAMS_MAX)
        .layer(UndecodableLayer)
        .add_service(peer)
        .serve_with_incoming_shutdown(incoming(listener), told(stop))
        .await
        .map_err(|error| format!("peer door: {error}"))
}

/// Serves the admin door until told to stop.
///
/// # Errors
/// The port cannot be served any more.
pub async fn admins(listener: TcpListener, admin: Admin, stop: watch::Receiver<bool>) -> Result<(), String> {
    axum::serve(listener, admin::pages(admin))
        .with_graceful_shutdown(told(stop))
        .await
        .map_err(|error| format!("admin door: {error}"))
}
