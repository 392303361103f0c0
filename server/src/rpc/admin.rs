//! What an operator asks of one node.

use super::status_out::{self, Facts};
use kvorum_api::proto;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Serves `kv.v1.Admin`.
pub struct AdminService {
    facts: Arc<Facts>,
}

impl AdminService {
    /// About this node.
    #[must_use]
    pub fn new(facts: Arc<Facts>) -> Self {
        AdminService { facts }
    }
}

#[tonic::async_trait]
impl proto::admin_server::Admin for AdminService {
    async fn node_status(
        &self,
        _: Request<proto::NodeStatusRequest>,
    ) -> Result<Response<proto::NodeStatusReply>, Status> {
        Ok(Response::new(status_out::node(&self.facts)))
    }
}
