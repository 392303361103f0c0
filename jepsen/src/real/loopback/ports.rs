//! Free ports, below the range the system gives to outgoing connections: a restarted node finds its own again.

use anyhow::{Result, bail};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::{TcpListener, UdpSocket};

const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// Hands out ports, each once.
pub struct PortRange {
    next: u16,
    left: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        // Runs side by side begin elsewhere.
        let begin = std::process::id().wrapping_mul(7_919) % u32::from(COUNT);
        PortRange { next: begin as u16, left: COUNT }
    }
}

impl PortRange {
    fn candidate(&mut self) -> Result<SocketAddr> {
        if self.left == 0 {
            bail!("no port between {FIRST} and {} is free", FIRST + COUNT);
        }
        self.left -= 1;
        let port = FIRST + self.next % COUNT;
        self.next = (self.next + 1) % COUNT;
        Ok((Ipv4Addr::LOCALHOST, port).into())
    }

    /// A port that is free now, over TCP and UDP.
    pub fn free(&mut self) -> Result<SocketAddr> {
        loop {
            let address = self.candidate()?;
            if std::net::TcpListener::bind(address).is_ok() && std::net::UdpSocket::bind(address).is_ok() {
                return Ok(address);
            }
        }
    }

    /// A listener, and where.
    pub async fn listen(&mut self) -> Result<(TcpListener, SocketAddr)> {
        loop {
            let address = self.candidate()?;
            if let Ok(listener) = TcpListener::bind(address).await {
                return Ok((listener, address));
            }
        }
    }

    /// A listener and a socket for datagrams on one port.
    pub async fn listen_both(&mut self) -> Result<(TcpListener, UdpSocket, SocketAddr)> {
        loop {
            let address = self.candidate()?;
            if let (Ok(listener), Ok(socket)) = (TcpListener::bind(address).await, UdpSocket::bind(address).await) {
                return Ok((listener, socket, address));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_port_is_given_twice() {
        let mut ports = PortRange::default();
        let (_listener, _socket, taken) = ports.listen_both().await.unwrap();
        assert_ne!(ports.free().unwrap(), taken);
        assert!(PortRange { next: 0, left: 0 }.free().unwrap_err().to_string().contains("is free"));
    }
}
