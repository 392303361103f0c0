//! The back door: envelopes of other nodes.
//!
//! **Invariant.** Every envelope is answered with an envelope: a refusal is one too, and what is no envelope at all
//! gets one that says so. Nothing that arrives here can stop the node.
//!
//! **Deliberately absent.** Knowledge of what is inside: that is `consensus`'s own codec.

use super::{
    join::JoinDesk,
    lane::{self, Answers},
};
use bytes::Bytes;
use kvorum_api::proto;
use kvorum_consensus::Node;
use std::sync::Arc;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

/// Serves `kv.v1.Peer`.
pub struct PeerService {
    node: Arc<Node>,
    join_desk: Arc<JoinDesk>,
    stop: watch::Receiver<bool>,
}

impl PeerService {
    /// For this node, and the desk where others are let in. Lanes end when `stop` is told, for they would hold the door
    /// open.
    #[must_use]
    pub fn new(node: Arc<Node>, join_desk: Arc<JoinDesk>, stop: watch::Receiver<bool>) -> Self {
        PeerService { node, join_desk, stop }
    }
}

#[tonic::async_trait]
impl proto::peer_server::Peer for PeerService {
    type LaneStream = Answers;

    async fn lane(&self, request: Request<Streaming<proto::LaneFrame>>) -> Result<Response<Answers>, Status> {
        let node = Arc::clone(&self.node);
        let handle = move |envelope: Bytes| {
            let node = Arc::clone(&node);
            async move { node.handle(envelope).await }
        };
        Ok(Response::new(lane::serve(request.into_inner(), handle, self.stop.clone())))
    }

    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        self.join_desk.join(request).await
    }
}
