//! What an operator asks about where shards are: operators listed, made, cancelled, awaited; nodes drained, taken back,
//! forgotten.
//!
//! **Invariant.** What is asked with `is_dry_run` changes nothing, and is refused for the same reasons as the change.

use crate::{admin::Admin, error::ClientError, write::timed};
use kvorum_api::{NodeId, OperatorId, ShardId, proto};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{Instant, sleep};

pub use kvorum_api::proto::{ChangeReply, ForeseenMove, ListOperatorsRequest, OperatorDescription};

/// Between two looks at an operator that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is to become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeFate {
    /// It may hold replicas again.
    Active,
    /// Its replicas go elsewhere.
    Draining,
    /// It is gone for good: its replicas go elsewhere, and it is never let in again.
    Forgotten,
}

impl NodeFate {
    /// Its word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            NodeFate::Active => "active",
            NodeFate::Draining => "draining",
            NodeFate::Forgotten => "forgotten",
        }
    }
}

impl Admin {
    /// Operators, the oldest first: those that have not ended, or as the request says. What each waits for is asked of
    /// whoever leads its shard.
    ///
    /// # Errors
    /// Nobody answered, or there is none of what the request names.
    pub async fn operators(&self, wanted: ListOperatorsRequest) -> Result<Vec<OperatorDescription>, ClientError> {
        let reply: proto::ListOperatorsReply =
            self.look_up(async |mut admin, budget| admin.list_operators(timed(wanted.clone(), budget)).await).await?;
        let mut operators = reply.operators;
        if operators.iter().any(|operator| is_open(operator) && operator.waits_for.is_empty()) {
            let reports = self.node_status().await;
            let statuses = reports.iter().filter_map(|report| report.status.as_ref().ok());
            let replicas = statuses.flat_map(|status| &status.replicas).filter(|replica| !replica.waits_for.is_empty());
            let waits: BTreeMap<u64, &String> = replicas.map(|replica| (replica.shard, &replica.waits_for)).collect();
            for operator in operators.iter_mut().filter(|operator| is_open(operator) && operator.waits_for.is_empty()) {
                operator.waits_for = waits.get(&operator.shard).map_or_else(String::new, |waits| (*waits).clone());
            }
        }
        Ok(operators)
    }

    /// Moves a replica of a shard from one node to another: makes an operator, and does not wait for it.
    ///
    /// # Errors
    /// Of kind [`crate::FailureKind::Request`] if it cannot be, with what is in the way and the way out.
    pub async fn move_replica(
        &self,
        shard: ShardId,
        (from, to): (NodeId, NodeId),
        is_dry_run: bool,
    ) -> Result<ChangeReply, ClientError> {
        let request =
            proto::MoveReplicaRequest { shard: shard.0, from_node: from.0, to_node: to.0, dry_run: is_dry_run };
        self.change(async |mut admin, budget| admin.move_replica(timed(request, budget)).await).await
    }

    /// Lets another replica of a shard lead, `None` = whichever is best: makes an operator, and does not wait for it.
    ///
    /// # Errors
    /// As [`Admin::move_replica`].
    pub async fn transfer_leader(
        &self,
        shard: ShardId,
        to: Option<NodeId>,
        is_dry_run: bool,
    ) -> Result<ChangeReply, ClientError> {
        let to_node = to.map_or(0, |node| node.0);
        let request = proto::TransferLeaderRequest { shard: shard.0, to_node, dry_run: is_dry_run };
        self.change(async |mut admin, budget| admin.transfer_leader(timed(request, budget)).await).await
    }

    /// Has an operator undone, unless it is too late for that: then it is finished.
    ///
    /// # Errors
    /// As [`Admin::move_replica`].
    pub async fn cancel_operator(&self, id: OperatorId, is_dry_run: bool) -> Result<ChangeReply, ClientError> {
        let request = proto::CancelOperatorRequest { id: id.0, dry_run: is_dry_run };
        self.change(async |mut admin, budget| admin.cancel_operator(timed(request, budget)).await).await
    }

    /// Drains a node, takes it back, or forgets it.
    ///
    /// # Errors
    /// As [`Admin::move_replica`].
    pub async fn change_node(
        &self,
        node: NodeId,
        fate: NodeFate,
        is_dry_run: bool,
    ) -> Result<ChangeReply, ClientError> {
        let request = proto::ChangeNodeRequest { node: node.0, state: fate.as_str().to_owned(), dry_run: is_dry_run };
        self.change(async |mut admin, budget| admin.change_node(timed(request.clone(), budget)).await).await
    }

    /// Waits until an operator has ended, at most `patience`; gives it as it was seen last.
    ///
    /// # Errors
    /// Nobody answered, or there is none of that id.
    pub async fn operator_ended(
        &self,
        id: OperatorId,
        patience: Option<Duration>,
    ) -> Result<OperatorDescription, ClientError> {
        let began = Instant::now();
        let wanted = || ListOperatorsRequest { ids: vec![id.0], ..ListOperatorsRequest::default() };
        loop {
            let seen: proto::ListOperatorsReply =
                self.look_up(async |mut admin, budget| admin.list_operators(timed(wanted(), budget)).await).await?;
            let is_late = patience.is_some_and(|patience| began.elapsed() >= patience);
            match seen.operators.into_iter().next() {
                Some(operator) if !is_open(&operator) => return Ok(operator),
                Some(operator) if is_late => {
                    let told = self.operators(wanted()).await?;
                    return Ok(told.into_iter().next().unwrap_or(operator));
                }
                Some(_) | None => sleep(LOOK_EVERY).await,
            }
        }
    }
}

/// Whether somebody still works on it.
fn is_open(operator: &OperatorDescription) -> bool {
    operator.ended_ms.is_none()
}
