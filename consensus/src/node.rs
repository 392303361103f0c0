//! # Node: what a process is, without its doors
//!
//! The same `Node` runs under `kvd` and in simulation; only [`Env`] differs.

use crate::{
    env::Env,
    replicator::{ReplicaStatus, Replicator},
};
use bytes::Bytes;
use kvorum_api::{ClusterId, KeyspaceId, NodeId, ReplicaId, ShardId, Stamp, StartCount};
use kvorum_storage::command::Settings;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use thiserror::Error;

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
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Its id; its group has the same number.
    pub shard: ShardId,
    /// Its keyspace.
    pub keyspace: KeyspaceId,
    /// The founding replicas, immutable: replica id and node. The first one initializes the group (rule G8).
    pub founders: Vec<(ReplicaId, NodeId)>,
    /// What the founding `Configure` says (rule C1).
    pub settings: Settings,
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
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(1_000),
            election_max: Duration::from_millis(1_500),
            clock_offset_max: Duration::from_millis(kvorum_api::limits::CLOCK_OFFSET_MS_MAX),
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
    /// Proposals in flight per group.
    pub proposals_in_flight_max: usize,
    /// Bytes of commands queued per group.
    pub queue_bytes_max: usize,
    /// Bytes of one snapshot chunk.
    pub snapshot_chunk_bytes: usize,
    /// Bytes and age of the diary that are kept.
    pub change_bytes_max: u64,
    /// Age of the diary that is kept.
    pub change_age_max: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            journal_bytes_max: 512 << 20,
            follower_log_bytes_max: 256 << 20,
            proposal_bytes_max: 1 << 20,
            proposal_commands_max: 1_024,
            proposals_in_flight_max: 4,
            queue_bytes_max: 64 << 20,
            snapshot_chunk_bytes: 512 << 10,
            change_bytes_max: 1 << 30,
            change_age_max: Duration::from_secs(24 * 3_600),
        }
    }
}

/// Why a node does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its storage could not be opened.
    #[error(transparent)]
    Storage(#[from] kvorum_storage::StorageError),
    /// The consensus library refused.
    #[error("group of shard {shard}: {why}")]
    Group {
        /// The shard.
        shard: ShardId,
        /// What was said.
        why: String,
    },
}

/// How a node is doing.
#[derive(Clone, Debug, Default)]
pub struct NodeStatus {
    /// Every replica it holds.
    pub replicas: Vec<ReplicaStatus>,
    /// Every other node.
    pub peers: Vec<PeerStatus>,
    /// Every background chore.
    pub workers: Vec<WorkerStatus>,
    /// Why it refuses part of its duties, for people: `poisoned: …`, `clock_suspect: …`, `disk_full: …`.
    pub degraded: Vec<String>,
    /// Its clock against the lower median of all, milliseconds; `None` = too few heard.
    pub clock_offset_ms: Option<i64>,
    /// Set when its peers refused it for good (emptied, restored, cloned or foreign directory): the process must end
    /// with this sentence.
    pub refused: Option<String>,
}

/// How another node looks from here.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Which.
    pub node: NodeId,
    /// How long ago it was last heard.
    pub heard_ago: Option<Duration>,
    /// Its clock against ours.
    pub clock_offset_ms: Option<i64>,
    /// Why we do not talk to it.
    pub refused: Option<String>,
}

/// One background chore.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    /// Its name.
    pub name: &'static str,
    /// `idle`, `running`, `failed`.
    pub state: &'static str,
    /// How often it ran.
    pub runs: u64,
    /// Its last failure.
    pub last_error: Option<String>,
}

/// A node without its doors.
pub struct Node {}

#[expect(unused_variables, clippy::unused_async, reason = "signatures first")]
impl Node {
    /// Finishes interrupted installations, opens every shard and its group, starts the chores.
    ///
    /// # Errors
    /// Storage that cannot be opened, or a group the library refuses.
    pub async fn start(env: Env, config: NodeConfig) -> Result<Arc<Node>, StartError> {
        unimplemented!()
    }

    /// Answers one envelope of a peer. Never fails: a refusal is an envelope too, and what is no envelope at all gets an
    /// answer that says so.
    pub async fn handle(&self, envelope: Bytes) -> Bytes {
        unimplemented!()
    }

    /// The replica of a shard on this node.
    pub fn replicator(&self, shard: ShardId) -> Option<Arc<dyn Replicator>> {
        unimplemented!()
    }

    /// The node's hybrid logical clock, now.
    pub fn stamp(&self) -> Stamp {
        unimplemented!()
    }

    /// Adopts a stamp received from a client; `Err(ahead_ms)` if it is too far ahead (rule T1).
    ///
    /// # Errors
    /// How far it is ahead of this node's physical clock, milliseconds.
    pub fn observe(&self, stamp: Stamp) -> Result<(), u64> {
        unimplemented!()
    }

    /// Tells the node whether the disk is below its low-water mark (rule S5): writes are refused, deletes and reads
    /// served, leadership handed on.
    pub fn set_disk_full(&self, why: Option<String>) {
        unimplemented!()
    }

    /// How it is doing.
    pub fn status(&self) -> NodeStatus {
        unimplemented!()
    }

    /// Hands leadership on and waits until others lead, at most `patience`.
    pub async fn drain(&self, patience: Duration) {
        unimplemented!()
    }

    /// Stops every group and chore, flushes the engine, stops the journal.
    pub async fn stop(&self) {
        unimplemented!()
    }
}
