//! How a node is doing, for people and for whoever watches it.

use crate::replicator::ReplicaStatus;
use kvorum_api::{NodeId, StartCount};
use std::time::Duration;

/// How a node is doing.
#[derive(Clone, Debug, Default)]
pub struct NodeStatus {
    /// Every replica it holds.
    pub replicas: Vec<ReplicaStatus>,
    /// Every other node.
    pub peers: Vec<PeerStatus>,
    /// Every background chore.
    pub workers: Vec<WorkerStatus>,
    /// Why it refuses part of its duties, for people: `poisoned: …`, `clock_suspect: …`, `disk_full: …`,
    /// `sync_overdue: …`, `draining`, `cut_off: …`, `held_up: shard …`.
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
    /// The highest life seen of it; `None` = it was never heard, in no life of this node.
    pub start: Option<StartCount>,
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
    /// Its last failure, also when it has succeeded since: what comes and goes is seen only so.
    pub last_failure: Option<WorkerFailure>,
}

/// A step of a chore failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerFailure {
    /// Why.
    pub why: String,
    /// How long ago.
    pub ago: Duration,
}
