//! What the router sees: writes, reads and scans of one CP shard.
//!
//! **Invariant.** Every reply says what it delivered; a level this replica cannot prove is refused, never weakened.

use super::{
    core::{Core, Office},
    group::Group,
    queue::{Decided, Verdict},
    rows::{ShardRows, unreadable},
    ticket::Fate,
    types::Metrics,
};
use crate::replicator::{Found, ReplicaStatus, Replicator, RequestContext, Role, Rows, Written};
use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::{Effect, LogPosition, Mode, ReadError, ReadLevel, Receipt, Version, WriteError};
use kvorum_storage::{
    Outcome, StorageError, WriteCommand,
    command::{Command, ExpiredBecause},
    shard::{Answer, Lookup, ScanRange},
};
use openraft::ServerState;
use std::time::Duration;
use tokio::time::timeout;
use tracing::Instrument as _;

/// Nothing is decided before the founding settings are.
const EPOCH_UNFOUNDED: u64 = 0;

impl Group {
    async fn decide(&self, commands: Vec<WriteCommand>, context: RequestContext) -> Vec<Result<Written, WriteError>> {
        // The door has checked it: what is stamped from now on is above it (rule T1).
        let _ = self.core.context.hlc.observe(context.stamp);
        let commands: Vec<_> = commands.into_iter().map(Command::Write).collect();
        let verdicts = match self.refuse_older_epoch(&context) {
            Some((epoch, why)) => {
                let shard = self.core.shard_id();
                vec![Err(WriteError::StaleEpoch { shard, epoch, why }); commands.len()]
            }
            None => self.propose_many(commands, context.timeout, &context.trace.into()).await,
        };
        verdicts.into_iter().map(|verdict| verdict.and_then(|decided| self.written(decided))).collect()
    }

    fn written(&self, decided: Decided) -> Result<Written, WriteError> {
        let Decided { outcome, position } = decided;
        match &outcome {
            Outcome::RequestIdExpired { why } => {
                let why = match why {
                    ExpiredBecause::TooOld => "it was first sent longer ago than outcomes are remembered",
                    ExpiredBecause::BelowFloor => "it is below what this client still waits for or the shard remembers",
                };
                Err(WriteError::RequestIdExpired { why: why.to_owned() })
            }
            Outcome::Written { results, .. } => {
                let version = results.iter().filter_map(|result| result.version).max();
                let receipt = Receipt {
                    level: None,
                    durable_replicas: self.core.majority(),
                    ..self.receipt(position, version, None)
                };
                Ok(Written { outcome, receipt })
            }
            Outcome::OutOfRange { epoch } => {
                let why = "a key of the write is not this shard's".to_owned();
                Err(WriteError::StaleEpoch { shard: self.core.shard_id(), epoch: *epoch, why })
            }
            Outcome::Expired { .. } | Outcome::Configured | Outcome::ConfigureRefused { .. } => {
                unreachable!("a shard answers a write with the outcome of a write")
            }
        }
    }

    /// Has a command decided, for at most `patience`, on behalf of `trace`.
    pub(super) async fn propose(
        &self,
        command: Command,
        patience: Duration,
        trace: Bytes,
    ) -> Result<Decided, WriteError> {
        let mut verdicts = self.propose_many(vec![command], patience, &trace).await;
        verdicts.pop().expect("there is one verdict per command")
    }

    async fn propose_many(&self, commands: Vec<Command>, patience: Duration, trace: &Bytes) -> Vec<Verdict> {
        let shard = self.core.shard_id();
        if let Office::Stopped { why } = self.core.office() {
            return vec![Err(self.after_the_end(why, Effect::None)); commands.len()];
        }
        let ticket = self.queue.submit(commands, trace);
        let is_late = timeout(patience, ticket.wait()).await.is_err();
        let untold = |effect| match is_late {
            true => WriteError::DeadlineExceeded { shard, deadline: patience, effect },
            // The proposer ended: what it had not taken will never happen.
            false => self.after_the_end("the replica stopped".to_owned(), effect),
        };
        let fates = ticket.close().into_iter().map(|fate| match fate {
            Fate::Told(verdict) => verdict,
            Fate::Withdrawn => Err(untold(Effect::None)),
            Fate::Unknown => Err(untold(Effect::Unknown)),
        });
        fates.collect()
    }

    /// The epoch that is in force here.
    pub(super) fn epoch(&self) -> u64 {
        self.shard().state().settings.map_or(EPOCH_UNFOUNDED, |settings| settings.epoch)
    }

    fn after_the_end(&self, why: String, effect: Effect) -> WriteError {
        match self.core.context.health.causes().poisoned {
            Some(why) => WriteError::Poisoned { why, effect },
            None => WriteError::Stopped { shard: self.core.shard_id(), why, effect },
        }
    }

    /// One key, from memory if it is there, else where reading may wait for the disk.
    async fn look_up(&self, key: Bytes) -> Result<Answer, StorageError> {
        match self.shard().get_cached(&key)? {
            Lookup::Known(answer) => Ok(answer),
            Lookup::WouldBlock => {
                let shard = self.shard().clone();
                self.core.context.env.blocking.run(move || shard.get(&key)).await
            }
        }
    }

    /// Ids and words, never keys or values.
    fn span(&self, operation: &'static str, context: &RequestContext) -> tracing::Span {
        let (shard, replica) = (self.core.shard_id(), self.core.replica);
        tracing::debug_span!("cp", %shard, %replica, operation, trace = %context.trace)
    }

    fn receipt(&self, position: LogPosition, version: Option<Version>, staleness: Option<Duration>) -> Receipt {
        let Core { context, .. } = &*self.core;
        Receipt {
            mode: Mode::Cp,
            level: None,
            shard: context.config.shard,
            epoch: self.epoch(),
            incarnation: context.config.incarnation,
            node: context.actor.node,
            version,
            position,
            staleness,
            durable_replicas: 0,
            stamp: context.hlc.now_told(),
        }
    }
}

impl Replicator for Group {
    fn write_many(
        &self,
        commands: Vec<WriteCommand>,
        context: RequestContext,
    ) -> BoxFuture<'_, Vec<Result<Written, WriteError>>> {
        let span = self.span("write", &context);
        Box::pin(self.decide(commands, context).instrument(span))
    }

    fn get(&self, key: Bytes, level: ReadLevel, context: RequestContext) -> BoxFuture<'_, Result<Found, ReadError>> {
        let span = self.span(level.as_str(), &context);
        let found = async move {
            let look_up = || async {
                let answer = self.look_up(key.clone()).await;
                answer.map_err(|error| unreadable(self.core.shard_id(), error))
            };
            let (Answer { entry, position }, staleness) = self.read(level, &context, look_up).await?;
            let version = entry.as_ref().map(|entry| entry.version);
            let receipt =
                Receipt { level: Some(level), ..self.receipt(position.unwrap_or_default(), version, staleness) };
            Ok(Found { entry, receipt })
        };
        Box::pin(found.instrument(span))
    }

    fn scan(
        &self,
        range: ScanRange,
        level: ReadLevel,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<Box<dyn Rows>, ReadError>> {
        let span = self.span(level.as_str(), &context);
        let rows = async move {
            let look_up = || async {
                let (shard, range) = (self.shard().clone(), range.clone());
                let scan = self.core.context.env.blocking.run(move || shard.scan(range)).await;
                scan.map_err(|error| unreadable(self.core.shard_id(), error))
            };
            let (scan, staleness) = self.read(level, &context, look_up).await?;
            let blocking = self.core.context.env.blocking.clone();
            let position = scan.position().unwrap_or_default();
            let receipt = Receipt { level: Some(level), ..self.receipt(position, None, staleness) };
            Ok(Box::new(ShardRows::new(scan, self.core.shard_id(), blocking, receipt)) as Box<dyn Rows>)
        };
        Box::pin(rows.instrument(span))
    }

    fn status(&self) -> ReplicaStatus {
        let journal = self.core.store.journal.group(self.core.group);
        let figures = self.core.look(Metrics::clone);
        let index = |log_id: Option<super::types::LogId>| log_id.map_or(0, |log_id| log_id.index);
        let role = match (self.core.office(), figures.as_ref().map(|figures| figures.state)) {
            (Office::Stopped { .. }, _) | (_, None | Some(ServerState::Shutdown)) => Role::Stopped,
            (_, Some(ServerState::Leader)) => Role::Leader,
            (_, Some(ServerState::Follower)) => Role::Follower,
            (_, Some(ServerState::Candidate)) => Role::Candidate,
            (_, Some(ServerState::Learner)) => Role::Learner,
        };
        let leader = match self.core.office() {
            Office::Leads { .. } => Some(self.core.context.actor.node),
            Office::Follows { leader } => leader.and_then(|leader| self.core.node_of(leader)),
            Office::Stopped { .. } => None,
        };
        ReplicaStatus {
            shard: self.core.shard_id(),
            replica: self.core.replica,
            role,
            term: figures.as_ref().map_or(0, |figures| figures.current_term),
            leader,
            held_up: None,
            last_log_index: figures.as_ref().and_then(|figures| figures.last_log_index).unwrap_or(0),
            committed_index: figures.as_ref().map_or(0, |figures| index(figures.local_committed)),
            flushed_index: self.core.store.flushed_seen(),
            purged_index: journal.purged.map_or(0, |(index, _)| index),
            staleness: self.core.local_staleness(),
            state: self.shard().state(),
        }
    }
}
