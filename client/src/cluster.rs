//! What the nodes say of themselves.

use crate::{failure::Failure, inner::Inner, write::timed};
use futures::future::join_all;
use kvorum_api::{Effect, proto};
use proto::admin_client::AdminClient;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// One node's report, or why there is none.
#[derive(Debug)]
pub struct NodeReport {
    /// The address it was asked at.
    pub address: String,
    /// What it said.
    pub status: Result<proto::NodeStatusReply, Failure>,
}

/// Asks every known node, all at once. Addresses that turn out to be one node are reported once.
pub(crate) async fn cluster_status(inner: &Arc<Inner>, within: Duration) -> Vec<NodeReport> {
    let half = within / 2;
    // Greeting the endpoints first tells the other nodes' addresses; who cannot be greeted is asked all the same.
    let endpoints = inner.nodes.addresses();
    join_all(endpoints.iter().map(|address| inner.nodes.greeted(address, half))).await;
    let addresses = inner.nodes.addresses();
    let mut reports: Vec<NodeReport> = Vec::new();
    for report in join_all(addresses.iter().map(|address| ask(inner, address, half))).await {
        let node = |report: &NodeReport| report.status.as_ref().ok().map(|status| status.node);
        let is_known = node(&report).is_some() && reports.iter().any(|known| node(known) == node(&report));
        if !is_known {
            reports.push(report);
        }
    }
    reports
}

async fn ask(inner: &Inner, address: &str, within: Duration) -> NodeReport {
    let status = async {
        let mut client = AdminClient::new(inner.nodes.channel(address)?);
        let request = timed(proto::NodeStatusRequest {}, within);
        match timeout(within, client.node_status(request)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(Failure::from_status(&status, address)),
            Err(_elapsed) => Err(Failure::no_answer(address, within)),
        }
    };
    let status = status.await.map_err(|failure| Failure { effect: Effect::None, ..failure });
    NodeReport { address: address.to_owned(), status }
}
