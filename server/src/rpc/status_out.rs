//! How a node is doing, for the wire; and whether it is ready.
//!
//! **Invariant.** `ready` means: a request sent here now is served, or sent on to a leader this node knows, unless its
//! shard is held up by other nodes, which are dead. Keeping a node out of service for those would take away the shards
//! that it could serve.

use super::{
    describe::{self, images_word},
    door::Door,
    join::JoinDesk,
    operate,
};
use crate::{
    gossip::{GossipBoard, GossipView},
    router::Hall,
};
use kvorum_api::{ShardId, StartCount, proto};
use kvorum_consensus::{
    metadata::{ShardRow, ShardStage},
    node::{NodeStatus, PeerStatus},
    replicator::{ReplicaStatus, Role},
};
use kvorum_storage::Journal;
use std::{collections::BTreeSet, sync::Arc};
use tokio::time::Instant;

/// Everything there is to say about a node.
pub struct Facts {
    /// The door, and the node behind it.
    pub door: Arc<Door>,
    /// Its log.
    pub journal: Arc<dyn Journal>,
    /// Which life this is.
    pub start: StartCount,
    /// When it began.
    pub started: Instant,
    /// Lets nodes in.
    pub join_desk: Arc<JoinDesk>,
    /// What gossip says of the nodes: a hint.
    pub gossip: GossipBoard,
}

impl Facts {
    /// Why the node is not ready; empty = it is.
    #[must_use]
    pub fn unready(&self, status: &NodeStatus) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.door.is_draining() {
            reasons.push("draining: the process is stopping".to_owned());
        }
        reasons.extend(status.refused.clone());
        let forbids = |why: &&String| why.starts_with("poisoned") || why.starts_with("cut_off");
        reasons.extend(status.degraded.iter().filter(forbids).cloned());
        if !self.door.router.hall().map.is_founded() {
            reasons.push("the cluster is not founded yet: its map is not known".to_owned());
        }
        let hall = self.door.router.hall();
        let map = &hall.map;
        let is_here = |row: &&ShardRow| row.replicas.iter().any(|row| row.node == self.door.id && row.is_in());
        // One that is closed and knows of no leader has not been founded yet, unless others hold that up.
        let is_made = |replica: &&ReplicaStatus| {
            replica.role != Role::Closed || replica.leader.is_some() || replica.held_up.is_some()
        };
        let made: BTreeSet<ShardId> = status.replicas.iter().filter(is_made).map(|replica| replica.shard).collect();
        let is_new = |row: &&ShardRow| row.stage == ShardStage::Creating;
        let missing = map.shards.values().filter(is_here).filter(is_new).filter(|row| !made.contains(&row.shard));
        reasons.extend(missing.map(|row| format!("shard {}: the replica here is not founded yet", row.shard)));
        for replica in &status.replicas {
            if replica.state.is_installing {
                reasons.push(format!("shard {}: installing a snapshot", replica.shard));
            } else if !matches!(replica.role, Role::Leader | Role::Closed)
                && replica.leader.is_none()
                && replica.held_up.is_none()
            {
                reasons.push(format!("shard {}: no leader is known", replica.shard));
            }
        }
        reasons
    }

    /// What gossip says of the nodes now. A hint, for people.
    #[must_use]
    pub fn gossip_view(&self) -> Arc<GossipView> {
        self.gossip.view()
    }
}

/// The whole status.
pub async fn node(facts: &Facts) -> proto::NodeStatusReply {
    let bytes = facts.door.node.weigh().await;
    let status = facts.door.node.status();
    let journal = facts.journal.status();
    let hall = facts.door.router.hall();
    proto::NodeStatusReply {
        cluster: facts.door.cluster.to_string(),
        node: facts.door.id.0,
        start_count: facts.start.0,
        build: crate::BUILD.to_owned(),
        uptime_ms: facts.started.elapsed().as_millis() as u64,
        ready: facts.unready(&status).is_empty(),
        replicas: status
            .replicas
            .iter()
            .map(|one| proto::ReplicaStatus {
                bytes: bytes.get(&one.shard).copied(),
                waits_for: waits_for(facts, one),
                ..replica(one, &hall)
            })
            .collect(),
        peers: status.peers.iter().map(|one| peer(one, &hall)).collect(),
        workers: status
            .workers
            .iter()
            .map(|worker| proto::WorkerStatus {
                name: worker.name.to_owned(),
                state: worker.state.to_owned(),
                runs: worker.runs,
                last_error: worker.last_failure.as_ref().map_or_else(String::new, |failure| failure.why.clone()),
                last_error_ms_ago: worker.last_failure.as_ref().map(|failure| failure.ago.as_millis() as u64),
            })
            .collect(),
        degraded: status.degraded,
        journal: Some(proto::JournalStatus {
            segments: journal.segments,
            bytes: journal.bytes,
            last_synced_batch: journal.last_synced.0,
            syncs: journal.syncs,
            poisoned: journal.poisoned.unwrap_or_default(),
        }),
        clock_offset_ms: status.clock_offset_ms,
        map_revision: hall.map.revision,
        zone: hall.map.nodes.get(&facts.door.id).map_or_else(String::new, |row| row.zone.clone()),
        state: hall.map.nodes.get(&facts.door.id).map_or("", |row| describe::node_state_word(row.state)).to_owned(),
        short: describe::short(&hall, &facts.door.node),
        held_up: facts.door.node.balance_held_up(),
    }
}

/// What a change of the shard waits for, by its leader's word.
fn waits_for(facts: &Facts, replica: &ReplicaStatus) -> String {
    let found = facts.door.node.replica(replica.shard).filter(|_| replica.role == Role::Leader);
    found.and_then(|replica| replica.waits_for()).unwrap_or_default()
}

fn replica(replica: &ReplicaStatus, hall: &Hall) -> proto::ReplicaStatus {
    let state = &replica.state;
    let settings = state.settings.as_ref();
    proto::ReplicaStatus {
        keyspace: operate::keyspace_of(hall, replica.shard),
        shard: replica.shard.0,
        replica: replica.replica.0,
        role: role(replica.role).to_owned(),
        term: replica.term,
        leader_node: replica.leader.map(|node| node.0),
        last_log_index: replica.last_log_index,
        committed_index: replica.committed_index,
        applied_index: state.applied.position.map_or(0, |position| position.index),
        flushed_index: replica.flushed_index,
        purged_index: replica.purged_index,
        rolling_hash: format!("{:032x}", state.rolling_hash),
        logged_time_ms: state.logged_time_ms,
        staleness_ms: replica.staleness.map(|staleness| staleness.as_millis() as u64),
        change_oldest_seq: state.change_oldest_seq,
        change_next_seq: state.change_next_seq,
        installing: state.is_installing,
        epoch: settings.map_or(0, |settings| settings.epoch),
        changes: settings.map_or("", |settings| images_word(settings.images)).to_owned(),
        leases: settings.is_some_and(|settings| settings.has_leases),
        behaviour: settings.map_or(0, |settings| settings.behaviour),
        bytes: None,
        waits_for: String::new(),
    }
}

/// The word for a part.
#[must_use]
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Closed => "closed",
        Role::Stopped => "stopped",
    }
}

fn peer(peer: &PeerStatus, hall: &Hall) -> proto::PeerStatus {
    proto::PeerStatus {
        node: peer.node.0,
        address: hall.map.nodes.get(&peer.node).map_or_else(String::new, |row| row.peer.clone()),
        heard_ms_ago: peer.heard_ago.map(|ago| ago.as_millis() as u64),
        clock_offset_ms: peer.clock_offset_ms,
        refused: peer.refused.clone().unwrap_or_default(),
    }
}
