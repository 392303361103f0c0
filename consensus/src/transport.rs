//! # Transport: bytes between nodes
//!
//! A seam: `server/transport` is gRPC, `jepsen/sim` is a seeded network. One envelope there, one envelope back.
//!
//! **Invariant.** A call that returns an error may still have been received: the layers above are built for that.

use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::NodeId;
use std::{collections::BTreeMap, time::Duration};
use thiserror::Error;

/// Messages of different urgency travel on different connections, so that a snapshot never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Votes, heartbeats, handshakes.
    Control,
    /// Log entries.
    Data,
    /// Snapshot chunks.
    Bulk,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransportError {
    /// No connection could be made, or it broke.
    #[error("node {node} is unreachable: {why}")]
    Unreachable {
        /// Whom we tried to reach.
        node: NodeId,
        /// What the network said.
        why: String,
    },
    /// No answer in time.
    #[error("node {node} did not answer within {after:?}")]
    Timeout {
        /// Whom we asked.
        node: NodeId,
        /// How long we waited.
        after: Duration,
    },
}

/// Bytes between nodes.
pub trait Transport: Send + Sync + 'static {
    /// Sends one envelope and waits for the envelope that answers it.
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        envelope: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// From now on the other nodes are at these addresses (host:port; this node may be among them). Who is not named is
    /// unreachable; a call under way to a node that moved or went fails like one over a broken connection. A network
    /// that finds nodes by their ids has nothing to do.
    fn set_peers(&self, peers: &BTreeMap<NodeId, String>);
}
