//! Moving a leader because an operator asks for it.
//!
//! **Invariant.** Leadership is handed only to a replica that is alive, almost up to date and willing, and the answer
//! names who leads then. An attempt that comes to nothing leaves the leader in office or the shard to an ordinary
//! election.

use super::{replica::Replica, serve::Need};
use crate::replicator::Replicator as _;
use kvorum_api::{NodeId, ReplicaId, WriteError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Between two looks at who leads.
const LOOK_PACE: Duration = Duration::from_millis(10);

/// Why a leader was not moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotMoved {
    /// It is not here, or the group cannot be reached.
    NotHere(WriteError),
    /// The named node holds no replica; the sentence says which do.
    NoReplica(String),
    /// Nobody who may be asked is ready to lead.
    NotReady(String),
}

impl Replica {
    /// Hands leadership to the replica on `to`, or to whichever is closest, and answers who leads then.
    ///
    /// # Errors
    /// It does not lead, or nobody is ready to.
    pub async fn transfer(&self, to: Option<NodeId>, patience: Duration) -> Result<NodeId, NotMoved> {
        let until = Instant::now() + patience;
        let heir = to.map(|node| self.heir_on(node)).transpose()?;
        let reached = self.reach(Need::Leader, patience).await;
        let reached = reached.map_err(|unreached| NotMoved::NotHere(self.write_error(unreached, patience)))?;
        if !reached.group.is_leading() {
            let leader = self.status().leader.and_then(|node| self.shared.hint(node));
            return Err(NotMoved::NotHere(WriteError::NotLeader { shard: self.shard_id(), leader }));
        }
        let me = self.shared.me();
        if to == Some(me) {
            return Ok(me);
        }
        let is_begun = match heir {
            Some(heir) => reached.group.hand_over_to(heir).await,
            None => reached.group.hand_over(until.duration_since(Instant::now())).await,
        };
        if !is_begun {
            let whom = to.map_or_else(|| "no other replica".to_owned(), |node| format!("the replica on node {node}"));
            return Err(NotMoved::NotReady(format!("{whom} is alive, up to date and willing to lead")));
        }
        timeout(until.duration_since(Instant::now()), self.led_by_another(me)).await.map_err(|_| {
            NotMoved::NotReady("leadership was offered, and nobody is known to have taken it yet".to_owned())
        })
    }

    fn heir_on(&self, node: NodeId) -> Result<ReplicaId, NotMoved> {
        let place = self.place();
        place.config.replica_on(node).ok_or_else(|| {
            let holders: Vec<String> = place.config.holders().map(|holder| holder.to_string()).collect();
            let (shard, holders) = (self.shard_id(), holders.join(", "));
            NotMoved::NoReplica(format!("node {node} holds no replica of shard {shard}: nodes {holders} do"))
        })
    }

    async fn led_by_another(&self, me: NodeId) -> NodeId {
        loop {
            match self.status().leader {
                Some(leader) if leader != me => return leader,
                Some(_) | None => sleep(LOOK_PACE).await,
            }
        }
    }
}
