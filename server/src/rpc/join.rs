//! The door for nodes that have no id yet.
//!
//! **Invariant.** Whoever cannot prove that it knows the cluster's key learns nothing and changes nothing.

use super::status;
use crate::{cluster_key::ClusterKey, config, join::Applicant};
use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::{AdminError, ClusterId, NodeId, Refused, proto};
use tonic::{Request, Response, Status};

/// Has the metadata give an id to a directory, and gives the map that knows it.
pub type LetIn = Box<dyn Fn(Applicant) -> BoxFuture<'static, Result<(NodeId, Bytes), AdminError>> + Send + Sync>;

/// Answers nodes that ask to be let in.
pub struct JoinDesk {
    key: ClusterKey,
    cluster: ClusterId,
    let_in: LetIn,
}

impl JoinDesk {
    /// For this cluster.
    #[must_use]
    pub fn new(key: ClusterKey, cluster: ClusterId, let_in: LetIn) -> Self {
        JoinDesk { key, cluster, let_in }
    }

    /// Answers one request.
    ///
    /// # Errors
    /// A proof that does not fit, addresses that nobody can use, or metadata that cannot decide.
    pub async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        let from = request.remote_addr();
        let Some(applicant) = Applicant::proven(request.into_inner(), &self.key) else {
            tracing::warn!(?from, "a node without the cluster's key asked to be let in");
            return Err(status::admin_error(&AdminError::WrongKey));
        };
        check(&applicant).map_err(|refused| status::refused(&refused))?;
        let (node, map) = (self.let_in)(applicant).await.map_err(|error| status::admin_error(&error))?;
        tracing::info!(%node, ?from, "a node was let in");
        Ok(Response::new(proto::JoinReply { cluster: Bytes::copy_from_slice(&self.cluster.0), node: node.0, map }))
    }
}

fn check(applicant: &Applicant) -> Result<(), Refused> {
    for (field, address) in [("client", &applicant.client), ("peer", &applicant.peer)] {
        if !config::is_host_and_port(address) {
            return Err(Refused::Malformed { field, problem: format!("{address:?} is no host:port") });
        }
    }
    if applicant.zone.len() > config::ZONE_BYTES_MAX {
        let problem = format!("has {} bytes: use at most {}", applicant.zone.len(), config::ZONE_BYTES_MAX);
        return Err(Refused::Malformed { field: "zone", problem });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;
    use tonic_types::StatusExt as _;

    fn desk() -> JoinDesk {
        let let_in = |applicant: Applicant| -> BoxFuture<'static, Result<(NodeId, Bytes), AdminError>> {
            Box::pin(async move { Ok((NodeId(applicant.directory as u64), Bytes::from_static(b"map"))) })
        };
        JoinDesk::new(ClusterKey::new([1; 32]), ClusterId([9; 16]), Box::new(let_in))
    }

    fn applicant(client: &str, zone: &str) -> Applicant {
        Applicant { directory: 4, client: client.into(), peer: "a:2".into(), zone: zone.into() }
    }

    #[tokio::test]
    async fn a_node_with_the_key_is_let_in() {
        let request = applicant("a:1", "").request(&ClusterKey::new([1; 32]));
        let reply = desk().join(Request::new(request)).await.unwrap().into_inner();
        assert_eq!((reply.node, reply.map.as_ref(), reply.cluster.as_ref()), (4, &b"map"[..], &[9; 16][..]));
    }

    #[tokio::test]
    async fn a_node_with_another_key_or_a_request_that_is_none_is_refused() {
        let other = applicant("a:1", "").request(&ClusterKey::new([2; 32]));
        for request in [other, proto::JoinRequest::default()] {
            let status = desk().join(Request::new(request)).await.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied);
            assert_eq!(status.get_details_error_info().unwrap().reason, "WRONG_KEY");
        }
    }

    #[tokio::test]
    async fn addresses_that_nobody_can_use_are_refused() {
        let key = ClusterKey::new([1; 32]);
        for applicant in [applicant("here", ""), applicant("a:0", ""), applicant("a:1", &"z".repeat(65))] {
            let status = desk().join(Request::new(applicant.request(&key))).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        }
    }
}
