//! What a node is told before it starts.
//!
//! **Deliberately absent.** Addresses of peers: finding them is the transport's part.

use crate::metadata::{ClusterMap, Founding, ReplicaRow, balance::Rules};
use kvorum_api::{ClusterId, KeyspaceId, NodeId, ReplicaId, ShardId, StartCount};
use kvorum_storage::command::Settings;
use std::{collections::BTreeMap, time::Duration};

/// What a node is told before it starts.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// Which of its lives this is; synced by the caller before `start`.
    pub start: StartCount,
    /// Random per process: tells two processes with the same directory image apart.
    pub boot_nonce: u64,
    /// What the first start of the first nodes makes. Its row of this node says where this node is, also later; of the
    /// rest nothing counts once there is a map.
    pub founding: Founding,
    /// The durable copy of the newest map that an earlier life of this node, or its joining, has kept.
    pub map: Option<ClusterMap>,
    /// Client addresses of all nodes, itself included (`host:port`), for leader hints.
    pub nodes: BTreeMap<NodeId, String>,
    /// The shards and where their replicas are.
    pub shards: Vec<ShardConfig>,
    /// Raft timings.
    pub timing: Timing,
    /// Sizes.
    pub budget: Budget,
}

/// One shard, as the configuration places it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardConfig {
    /// Its id; its group has the same number.
    pub shard: ShardId,
    /// Its keyspace.
    pub keyspace: KeyspaceId,
    /// Which incarnation of the shard: grows when a lost majority is recovered by a new group (rule G9).
    pub incarnation: u32,
    /// The founding replicas, immutable: replica id and node. The first one initializes the group (rule G8).
    pub founders: Vec<(ReplicaId, NodeId)>,
    /// Its replicas now, as the map says: who comes and who goes among them.
    pub replicas: Vec<ReplicaRow>,
    /// What the founding `Configure` says (rule C1).
    pub settings: Settings,
}

impl ShardConfig {
    /// The replica on a node, if it holds one.
    #[must_use]
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.replicas.iter().find(|row| row.node == node).map(|row| row.replica)
    }

    /// The node that holds a replica now; `None` = nobody does any more, or not yet.
    #[must_use]
    pub fn holder_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.replicas.iter().find(|row| row.replica == replica).map(|row| row.node)
    }

    /// The node that holds a replica, if it is one of this shard, or was when the shard was founded.
    #[must_use]
    pub fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        let seats = self.replicas.iter().map(ReplicaRow::seat).chain(self.founders.iter().copied());
        seats.into_iter().find(|(known, _)| *known == replica).map(|(_, node)| node)
    }

    /// The nodes whose replicas are in: those that are still to come are not asked for anything.
    pub fn holders(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.replicas.iter().filter(|row| row.is_in()).map(|row| row.node)
    }
}

/// Raft timings.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between heartbeats of a leader.
    pub heartbeat: Duration,
    /// Election timeout, smallest.
    pub election_min: Duration,
    /// Election timeout, largest; also the leader's lease.
    pub election_max: Duration,
    /// A clock further off than this neither leads nor coordinates.
    pub clock_offset_max: Duration,
    /// A group nobody has needed for that long is closed; 0 = never.
    pub idle_close_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(1_000),
            election_max: Duration::from_millis(1_500),
            clock_offset_max: Duration::from_millis(kvorum_api::limits::CLOCK_OFFSET_MS_MAX),
            idle_close_after: Duration::from_secs(10),
        }
    }
}

/// Sizes of a node's queues and logs.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes of journal beyond which the engine is flushed and logs are purged.
    pub journal_bytes_max: u64,
    /// Bytes of log kept for a follower that is behind; beyond that it gets a snapshot.
    pub follower_log_bytes_max: u64,
    /// Bytes of one proposal (one larger command travels alone).
    pub proposal_bytes_max: usize,
    /// Commands of one proposal.
    pub proposal_commands_max: usize,
    /// Proposals in flight per group. Each costs every replica messages, a record and an apply, so few large ones beat
    /// many small ones; two keep the log moving while one is on its way.
    pub proposals_in_flight_max: usize,
    /// Bytes of commands queued per group.
    pub queue_bytes_max: usize,
    /// Bytes of one snapshot chunk.
    pub snapshot_chunk_bytes: usize,
    /// Bytes and age of the diary that are kept.
    pub change_bytes_max: u64,
    /// Age of the diary that is kept.
    pub change_age_max: Duration,
    /// Bytes of snapshots that a node sends in a second, all of its shards together; 0 = as fast as it can.
    pub move_bytes_per_second: u64,
    /// What the balancer keeps to, on whichever node leads the metadata.
    pub balance: Rules,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            journal_bytes_max: 512 << 20,
            follower_log_bytes_max: 64 << 20,
            proposal_bytes_max: 1 << 20,
            proposal_commands_max: 1_024,
            proposals_in_flight_max: 2,
            queue_bytes_max: 64 << 20,
            snapshot_chunk_bytes: 512 << 10,
            change_bytes_max: 1 << 30,
            change_age_max: Duration::from_secs(24 * 3_600),
            move_bytes_per_second: 64 << 20,
            balance: Rules::default(),
        }
    }
}
