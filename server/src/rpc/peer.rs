//! The back door: envelopes of other nodes.
//!
//! **Invariant.** Every envelope is answered with an envelope: a refusal is one too, and what is no envelope at all gets one
//! that says so. Nothing that arrives here can stop the node.
//!
//! **Deliberately absent.** Knowledge of what is inside: that is `consensus`'s own codec.

use super::join::JoinDesk;
use crate::metrics;
use kvorum_api::proto;
use kvorum_consensus::Node;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Serves `kv.v1.Peer`.
pub struct PeerService {
    node: Arc<Node>,
    join_desk: Arc<JoinDesk>,
}

impl PeerService {
    /// For this node, and the desk where others are let in.
    #[must_use]
    pub fn new(node: Arc<Node>, join_desk: Arc<JoinDesk>) -> Self {
        PeerService { node, join_desk }
    }
}

#[tonic::async_trait]
impl proto::peer_server::Peer for PeerService {
    async fn call(&self, request: Request<proto::PeerFrame>) -> Result<Response<proto::PeerFrame>, Status> {
        let envelope = request.into_inner().envelope;
        metrics::peer_received(envelope.len());
        Ok(Response::new(proto::PeerFrame { envelope: self.node.handle(envelope).await }))
    }

    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        self.join_desk.join(request).await
    }
}
