//! What an operator asks about upgrades: which behaviour the cluster applies, and to raise it.

use crate::{admin::Admin, error::ClientError, write::timed};
use kvorum_api::proto;

pub use kvorum_api::proto::UpgradeReply;

impl Admin {
    /// What every node can apply, what the cluster applies, and what is in the way of more; by the answering node.
    ///
    /// # Errors
    /// Nobody answered.
    pub async fn upgrade_status(&self) -> Result<UpgradeReply, ClientError> {
        let request = proto::UpgradeStatusRequest {};
        self.look_up(async |mut admin, budget| admin.upgrade_status(timed(request, budget)).await).await
    }

    /// Has the cluster apply the newest behaviour that every node can. It is not taken back.
    ///
    /// # Errors
    /// Of kind [`crate::FailureKind::Request`] if a node does not answer or has not said what it can.
    pub async fn finalize_upgrade(&self) -> Result<UpgradeReply, ClientError> {
        let request = proto::FinalizeUpgradeRequest {};
        self.change(async |mut admin, budget| admin.finalize_upgrade(timed(request, budget)).await).await
    }
}
