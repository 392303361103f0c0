//! Leaders: who leads what, and people who ask one of them to hand over.
//!
//! **Invariant.** Looks at what nodes say of themselves; several may say that they lead.

use super::{network::Life, world::World};
use kvorum_api::{NodeId, ShardId};
use kvorum_consensus::{
    groups::Replica,
    replicator::{ReplicaStatus, Role},
};
use std::{sync::Arc, time::Duration};

/// How long moving a leader may take.
const MOVE_PATIENCE: Duration = Duration::from_secs(2);

impl World {
    /// An operator asks whoever leads a shard to hand leadership to a node.
    pub(super) fn move_leader(&mut self, draw: u64, to: NodeId) {
        let Some((_, replica, life)) = self.leader(draw) else { return };
        let shard = replica.shard_id();
        let audit = self.audit.clone();
        self.graveyard.spawn(async move {
            tokio::select! {
                biased;
                () = life.ended() => {}
                moved = replica.transfer(Some(to), MOVE_PATIENCE) => {
                    audit.event(format_args!("shard {shard} was moved: {moved:?}"));
                }
            }
        });
    }

    /// Some replica that leads, the node it is on, and the life of that.
    pub(super) fn leader(&self, draw: u64) -> Option<(NodeId, Arc<Replica>, Life)> {
        let running = || self.machines.iter().filter_map(|(id, machine)| Some((*id, machine.running.as_ref()?)));
        let leaders = running().flat_map(|(id, running)| {
            let status = running.node.status();
            let led = status.replicas.into_iter().filter(|replica| replica.role == Role::Leader);
            led.filter_map(move |replica| Some((id, running.node.replica(replica.shard)?, running.life.clone())))
                .collect::<Vec<_>>()
        });
        let leaders: Vec<_> = leaders.collect();
        let at = (draw as usize).checked_rem(leaders.len())?;
        leaders.into_iter().nth(at)
    }

    /// The node that leads a shard.
    pub(super) fn leader_of(&self, shard: ShardId) -> Option<NodeId> {
        let leads = |replica: &ReplicaStatus| replica.shard == shard && replica.role == Role::Leader;
        self.running().find(|(_, node)| node.status().replicas.iter().any(leads)).map(|(id, _)| id)
    }
}
