//! # Replicator: agreement on one shard
//!
//! A seam: `cp` now, `ap` beside it later. The router asks for a level or an acknowledgement, never for a mechanism.

use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::{NodeId, ReadError, ReadLevel, Receipt, ReplicaId, SessionToken, ShardId, Stamp, WriteError};
use kvorum_storage::{
    Entry, Outcome, WriteCommand,
    shard::{Row, ScanRange, ShardState},
};
use std::time::Duration;

/// What travels with every request besides its content.
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    /// How long the caller waits from now on.
    pub timeout: Duration,
    /// The caller's stamp, already checked against `max_clock_offset` at the door (rule T1).
    pub stamp: Stamp,
    /// W3C trace context, empty = none.
    pub trace: String,
    /// What the session has seen, already decoded and checked against the keyspace at the door. Only session reads look
    /// at it; `None` = it has seen nothing.
    pub session: Option<SessionToken>,
    /// The epoch of the shard that the asker believes in; `None` = it believes nothing (rule C3).
    pub epoch: Option<u64>,
}

/// A write that was decided.
#[derive(Clone, Debug)]
pub struct Written {
    /// What came of it (a failed condition is an outcome, not an error).
    pub outcome: Outcome,
    /// What is guaranteed.
    pub receipt: Receipt,
}

/// A read that was answered.
#[derive(Clone, Debug)]
pub struct Found {
    /// The entry, if there is one.
    pub entry: Option<Entry>,
    /// What is guaranteed.
    pub receipt: Receipt,
}

/// Rows of one shard at one position, in bounded portions.
pub trait Rows: Send {
    /// What is guaranteed for all of them.
    fn receipt(&self) -> &Receipt;

    /// The next rows: at least one unless at the end, then until `bytes_max` or `rows_max`. Empty = end.
    fn next(&mut self, bytes_max: usize, rows_max: usize) -> BoxFuture<'_, Result<Vec<Row>, ReadError>>;
}

/// The part a replica plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Decides.
    Leader,
    /// Follows and votes.
    Follower,
    /// Stands for election.
    Candidate,
    /// Follows without a vote.
    Learner,
    /// Holds the data and takes no part until somebody needs it.
    Closed,
    /// Does not take part any more.
    Stopped,
}

/// How a replica is doing.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// The shard.
    pub shard: ShardId,
    /// This copy of it.
    pub replica: ReplicaId,
    /// Its part.
    pub role: Role,
    /// Raft term.
    pub term: u64,
    /// Who leads, as far as this replica knows.
    pub leader: Option<NodeId>,
    /// Why nobody can lead now, if that does not lie with this node.
    pub held_up: Option<String>,
    /// Last index in the log.
    pub last_log_index: u64,
    /// Last index known committed.
    pub committed_index: u64,
    /// Last index flushed by the engine.
    pub flushed_index: u64,
    /// Last index forgotten.
    pub purged_index: u64,
    /// How stale a `local` read may be; `None` = unknown (rule R2).
    pub staleness: Option<Duration>,
    /// The shard's own state.
    pub state: ShardState,
}

/// Agreement on one shard.
pub trait Replicator: Send + Sync {
    /// Decides writes. They are handed over in their order, behind one reply handle; the answers come when all are
    /// known, in the same order. Each is decided on its own: some may succeed and others fail.
    fn write_many(
        &self,
        commands: Vec<WriteCommand>,
        context: RequestContext,
    ) -> BoxFuture<'_, Vec<Result<Written, WriteError>>>;

    /// Decides one write.
    fn write(&self, command: WriteCommand, context: RequestContext) -> BoxFuture<'_, Result<Written, WriteError>> {
        let decided = self.write_many(vec![command], context);
        Box::pin(async move { decided.await.pop().expect("there is one answer per command") })
    }

    /// Reads one key at a level.
    fn get(&self, key: Bytes, level: ReadLevel, context: RequestContext) -> BoxFuture<'_, Result<Found, ReadError>>;

    /// Reads a range at a level.
    fn scan(
        &self,
        range: ScanRange,
        level: ReadLevel,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<Box<dyn Rows>, ReadError>>;

    /// How this replica is doing.
    fn status(&self) -> ReplicaStatus;
}
