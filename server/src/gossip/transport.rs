//! Chitchat's messages over sealed datagrams.
//!
//! ```text
//!   envelope ─▶ codec socket ─▶ plain socket ─▶ seal ─▶ the network
//!   envelope ◀─ codec socket ◀─ plain socket ◀─ seal ◀─ the network
//!               └───── loopback, this process ─────┘
//! ```
//!
//! Chitchat keeps its codec to itself, and its own UDP socket is the only door to it: an envelope sent through that
//! socket to another one of this process comes out as bytes, and bytes sent to it come out as an envelope.
//!
//! **Invariant.** The codec socket is believed only what the plain socket sent to it: whatever another process of this
//! machine sends there is dropped. Nothing leaves this process unsealed.
//!
//! **Deliberately absent.** Cutting messages up: one that does not fit into a datagram with its seal is dropped and
//! counted. A node's state is a few hundred bytes, so that hundreds of nodes fit.

use super::seal::{OVERHEAD_BYTES, Seal};
use crate::metrics;
use anyhow::Context as _;
use chitchat::{
    ChitchatEnvelope,
    transport::{RecvOutcome, SendOutcome, Socket, Transport, UdpSocket},
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of the largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// The way over loopback takes microseconds: after this, what was sent is taken as unreadable.
const LOOPBACK_PATIENCE: Duration = Duration::from_millis(500);

/// Where gossip comes in and goes out: one UDP port, bound once.
#[derive(Clone)]
pub struct SealedTransport {
    network: Arc<tokio::net::UdpSocket>,
    seal: Arc<Seal>,
}

impl SealedTransport {
    /// Over this port.
    #[must_use]
    pub fn new(network: Arc<tokio::net::UdpSocket>, seal: Seal) -> Self {
        SealedTransport { network, seal: Arc::new(seal) }
    }
}

#[tonic::async_trait]
impl Transport for SealedTransport {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let codec = UdpSocket::open(loopback).await?;
        let plain = tokio::net::UdpSocket::bind(loopback).await.context("cannot bind on loopback")?;
        // From now on the system drops what comes from elsewhere.
        plain.connect(codec.local_addr()?).await.context("cannot reach the codec")?;
        Ok(Box::new(SealedSocket {
            network: self.network.clone(),
            seal: self.seal.clone(),
            plain_address: plain.local_addr()?,
            plain,
            codec,
            waiting: None,
            buffer: vec![0; DATAGRAM_BYTES_MAX],
        }))
    }
}

struct SealedSocket {
    network: Arc<tokio::net::UdpSocket>,
    seal: Arc<Seal>,
    plain: tokio::net::UdpSocket,
    plain_address: SocketAddr,
    codec: UdpSocket,
    /// Whose message lies in the codec: receiving may be given up at any await and goes on where it was.
    waiting: Option<(SocketAddr, Instant)>,
    buffer: Vec<u8>,
}

#[tonic::async_trait]
impl Socket for SealedSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.network.local_addr()?)
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let bytes = self.codec.send(self.plain_address, envelope).await?.num_bytes_sent;
        let received = timeout(LOOPBACK_PATIENCE, self.plain.recv(&mut self.buffer)).await;
        let received = received.context("a message got lost on loopback")??;
        anyhow::ensure!(received == bytes, "{received} bytes of {bytes} came over loopback");
        let Some(sealed) = self.seal.close(&self.buffer[..received]) else {
            anyhow::bail!("a message cannot be sealed");
        };
        if sealed.len() > DATAGRAM_BYTES_MAX {
            metrics::gossip_dropped("too_large");
            anyhow::bail!("a message of {bytes} bytes and its seal of {OVERHEAD_BYTES} exceed {DATAGRAM_BYTES_MAX}");
        }
        Ok(SendOutcome { num_bytes_sent: self.network.send_to(&sealed, to).await? })
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            if let Some((from_addr, until)) = self.waiting {
                match timeout_at(until, self.codec.recv()).await {
                    Ok(Ok(outcome)) if outcome.from_addr == self.plain_address => {
                        self.waiting = None;
                        return Ok(RecvOutcome { from_addr, ..outcome });
                    }
                    // Somebody on this machine tries to get a word in.
                    Ok(Ok(_)) => metrics::gossip_dropped("unsealed"),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => {
                        self.waiting = None;
                        metrics::gossip_dropped("unreadable");
                    }
                }
                continue;
            }
            let (length, from) = match self.network.recv_from(&mut self.buffer).await {
                Ok(received) => received,
                Err(error) if is_about_one_datagram(&error) => continue,
                Err(error) => return Err(error).context("the gossip port cannot be read"),
            };
            let Some(message) = self.seal.open(&self.buffer[..length]) else {
                metrics::gossip_dropped("unsealed");
                continue;
            };
            self.plain.send(&message).await.context("the codec cannot be reached")?;
            self.waiting = Some((from, Instant::now() + LOOPBACK_PATIENCE));
        }
    }
}

/// What the system says about something sent earlier, or about this moment only.
fn is_about_one_datagram(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, Interrupted, OutOfMemory};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | Interrupted | OutOfMemory)
}
