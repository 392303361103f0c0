//! Operators: what is being done to the replicas of shards, as rows that one can list, explain and cancel.
//!
//! ```text
//!                 ┌─ the shard's leader has carried it out ─▶ Done
//!   Running ──────┼─ it cannot be done ────────────────────▶ Failed
//!      └ cancel ─▶ Cancelling ── undone ───────────────────▶ Cancelled      too late: it is finished, Done
//! ```
//!
//! **Invariant.** At most one unfinished operator per shard. An operator says what should be; whoever leads the shard
//! does it, step by step from what is (`groups/moves`), so that nobody need remember how far it came.

use kvorum_api::{NodeId, OperatorId, ReplicaId, ShardId};
use std::fmt;

/// One change of the replicas or of the leader of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorRow {
    /// Its id, never reused.
    pub id: OperatorId,
    /// The shard it is about; 0 = the metadata.
    pub shard: ShardId,
    /// What should be.
    pub task: Task,
    /// Who asked for it.
    pub origin: Origin,
    /// Why, as a sentence.
    pub cause: String,
    /// How it stands.
    pub state: OperatorState,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds; 0 = it has not ended.
    pub ended_ms: u64,
}

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A replica comes, a replica goes, or both at once.
    Change {
        /// The new one: a fresh id, and its node.
        add: Option<(ReplicaId, NodeId)>,
        /// The one that goes.
        remove: Option<(ReplicaId, NodeId)>,
    },
    /// The replica on this node should lead.
    Lead(NodeId),
}

/// Who asked for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A person.
    User,
    /// The balancer: a node is drained or forgotten.
    Drain,
    /// The balancer: a node has been lost for too long.
    Repair,
    /// The balancer: the load is uneven.
    Balance,
}

/// How an operator stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorState {
    /// It is being carried out.
    Running,
    /// It is being undone, unless it is too late for that.
    Cancelling,
    /// What it asks for is so.
    Done,
    /// It was undone: everything is as it was.
    Cancelled,
    /// It could not be done, and everything is as it was; why.
    Failed(String),
}

/// What a shard's leader says has become of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Done.
    Done,
    /// Undone.
    Cancelled,
    /// Undone, because it cannot be done; why.
    Failed(String),
}

impl OperatorRow {
    /// Whether somebody still works on it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, OperatorState::Running | OperatorState::Cancelling)
    }
}

impl Task {
    /// The replica that comes.
    #[must_use]
    pub fn added(&self) -> Option<(ReplicaId, NodeId)> {
        match self {
            Task::Change { add, .. } => *add,
            Task::Lead(_) => None,
        }
    }

    /// The replica that goes.
    #[must_use]
    pub fn removed(&self) -> Option<(ReplicaId, NodeId)> {
        match self {
            Task::Change { remove, .. } => *remove,
            Task::Lead(_) => None,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Task::Change { add: Some((_, to)), remove: Some((_, from)) } => {
                write!(f, "move a replica from node {from} to node {to}")
            }
            Task::Change { add: Some((_, to)), remove: None } => write!(f, "add a replica on node {to}"),
            Task::Change { add: None, remove: Some((_, from)) } => write!(f, "remove the replica on node {from}"),
            Task::Change { add: None, remove: None } => write!(f, "nothing"),
            Task::Lead(node) => write!(f, "let node {node} lead"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::User => "user",
            Origin::Drain => "drain",
            Origin::Repair => "repair",
            Origin::Balance => "balance",
        })
    }
}

impl fmt::Display for OperatorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OperatorState::Running => f.write_str("running"),
            OperatorState::Cancelling => f.write_str("cancelling"),
            OperatorState::Done => f.write_str("done"),
            OperatorState::Cancelled => f.write_str("cancelled"),
            OperatorState::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}
