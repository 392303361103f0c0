//! # Group: one replica of one Raft group

use crate::{
    env::Env,
    health::Health,
    hlc::Hlc,
    node::{Budget, ShardConfig, StartError, Timing},
    peers::{Incoming, Peers},
};
use bytes::Bytes;
use kvorum_api::{Actor, NodeId, ReplicaId};
use kvorum_storage::Shard;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// What a group needs from its node.
#[derive(Clone)]
pub struct GroupContext {
    /// The world.
    pub env: Env,
    /// The shard and its founders.
    pub config: ShardConfig,
    /// This node and its life.
    pub actor: Actor,
    /// Client addresses, for leader hints.
    pub nodes: Arc<BTreeMap<NodeId, String>>,
    /// Timings.
    pub timing: Timing,
    /// Sizes.
    pub budget: Budget,
    /// The node's clock.
    pub hlc: Arc<Hlc>,
    /// What keeps the node from its duties.
    pub health: Arc<Health>,
    /// Other nodes.
    pub peers: Arc<Peers>,
}

/// One replica of one Raft group. It is the CP `Replicator`.
pub struct Group {}

#[expect(unused_variables, clippy::unused_async, reason = "signatures first")]
impl Group {
    /// Finishes an interrupted installation, opens the shard, and makes the Raft instance with `enable_leader_restore`
    /// off (rule G1). Does not initialize the group.
    ///
    /// # Errors
    /// Storage that cannot be opened, or what openraft refuses.
    pub async fn open(context: GroupContext) -> Result<Arc<Group>, StartError> {
        unimplemented!()
    }

    /// This replica's id.
    pub fn replica(&self) -> ReplicaId {
        unimplemented!()
    }

    /// The shard behind it.
    pub fn shard(&self) -> &Arc<Shard> {
        unimplemented!()
    }

    /// Whether this replica has ever voted, logged or applied anything.
    pub fn is_pristine(&self) -> bool {
        unimplemented!()
    }

    /// Makes the founding membership and proposes the founding `Configure` (rules G8, C1). Only the first founder calls
    /// it, only after every founder said it is pristine.
    ///
    /// # Errors
    /// What openraft refuses.
    pub async fn initialize(&self) -> Result<(), StartError> {
        unimplemented!()
    }

    /// Answers one message of another replica of this group.
    ///
    /// # Errors
    /// Why it is refused, for the other side's log.
    pub async fn handle(&self, message: Incoming) -> Result<Bytes, String> {
        unimplemented!()
    }

    /// Turns standing for election on or off (a suspect clock, a full disk), and hands leadership on when off.
    pub async fn set_electable(&self, is_electable: bool) {
        unimplemented!()
    }

    /// Hands leadership to the best follower, if this replica leads and one is up to date and alive.
    pub async fn hand_over(&self, patience: Duration) -> bool {
        unimplemented!()
    }

    /// One round of the expiry chore: a leader logs `expire` when something is due (rule T3). Called every 250 ms.
    pub async fn expire_due(&self) {
        unimplemented!()
    }

    /// One round of the retention chore: flushes, snapshots and purges when the journal is over its limit, trims the
    /// diary. Called every second.
    pub async fn retain(&self) {
        unimplemented!()
    }

    /// Stops the Raft instance and waits for it.
    pub async fn stop(&self) {
        unimplemented!()
    }
}
