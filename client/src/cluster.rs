//! What the nodes say of themselves.

use crate::{failure::Failure, inner::Inner, map::Address, write::timed};
use futures::future::join_all;
use kvorum_api::{Effect, proto};
use proto::admin_client::AdminClient;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::timeout;

/// One node's report, or why there is none.
#[derive(Debug)]
pub struct NodeReport {
    /// The address it was asked at.
    pub address: String,
    /// Whether a node of the cluster names this address as its own or a replica's; an endpoint may be nobody's.
    pub is_member: bool,
    /// What it said.
    pub status: Result<proto::NodeStatusReply, Failure>,
}

/// Asks every known node, all at once: first the endpoints, then whom they name. Addresses that turn out to be one node
/// are reported once.
pub(crate) async fn cluster_status(inner: &Arc<Inner>, within: Duration) -> Vec<NodeReport> {
    let mut reports: Vec<NodeReport> = Vec::new();
    for _endpoints_then_others in 0..2 {
        let is_new = |address: &Address| !reports.iter().any(|report| report.address == **address);
        let addresses: Vec<Address> = inner.nodes.addresses().into_iter().filter(is_new).collect();
        reports.extend(join_all(addresses.iter().map(|address| ask(inner, address, within / 2))).await);
    }
    for report in &mut reports {
        report.is_member = report.status.is_ok() || inner.nodes.is_member(&report.address);
    }
    let mut seen = BTreeSet::new();
    reports.retain(|report| report.status.as_ref().map_or(true, |status| seen.insert(status.node)));
    reports
}

async fn ask(inner: &Inner, address: &str, within: Duration) -> NodeReport {
    let status = async {
        inner.nodes.greeted(address, None, within).await?;
        let mut client = AdminClient::new(inner.nodes.channel(address)?);
        let request = timed(proto::NodeStatusRequest {}, within);
        match timeout(within, client.node_status(request)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(Failure::from_status(&status, address)),
            Err(_elapsed) => Err(Failure::no_answer(address, within)),
        }
    };
    let status = status.await.map_err(|failure| Failure { effect: Effect::None, ..failure });
    NodeReport { address: address.to_owned(), is_member: false, status }
}
