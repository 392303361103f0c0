//! What the router sees of a replica, open or closed.
//!
//! **Invariant.** Whether the group is open changes how long an answer takes, never what it promises. A read that the
//! shard alone can answer opens nothing (rule G4).

use super::{
    decide::{How, Opener, why_held_up},
    gate::Inside,
    liveness::Life,
    replica::Replica,
    rest,
};
use crate::{
    cp::Group,
    metadata::ShardStage,
    peers::{MessageKind, Outgoing},
    replicator::{Found, ReplicaStatus, Replicator, RequestContext, Role, Rows, Written},
    transport::Lane,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::{Effect, NodeId, ReadError, ReadLevel, WriteError, error::LeaderHint};
use kvorum_storage::{WriteCommand, shard::ScanRange};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// What a request needs of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Its leader, here.
    Leader,
    /// Any replica that hears its leader.
    Member,
}

/// Why a request does not reach the group.
pub(super) enum Unreached {
    /// It is led elsewhere.
    Elsewhere(Option<LeaderHint>),
    /// It is not opened in time.
    Late,
    /// It is gone, or cannot be opened.
    Stopped(String),
}

/// A request that has reached the group: closing waits for it.
pub(super) struct Reached<'a> {
    pub(super) group: Arc<Group>,
    _inside: Inside<'a>,
}

impl Replica {
    /// Brings a request to the group, opening it if need be, within `patience`.
    pub(super) async fn reach(&self, need: Need, patience: Duration) -> Result<Reached<'_>, Unreached> {
        timeout(patience, self.reach_in_time(need, patience)).await.unwrap_or(Err(Unreached::Late))
    }

    async fn reach_in_time(&self, need: Need, patience: Duration) -> Result<Reached<'_>, Unreached> {
        let inside = self.gate.enter().await;
        if let Some(why) = self.ended() {
            return Err(Unreached::Stopped(why));
        }
        let group = match self.group() {
            Some(group) => group,
            None => self.open_for(need).await?,
        };
        if self.is_awaiting_leader.load(Ordering::Acquire) {
            let former = {
                let record = self.record.lock();
                (record.term, record.leader)
            };
            group.until_led(former, patience.min(2 * self.shared.timing.election_max)).await;
            self.is_awaiting_leader.store(false, Ordering::Release);
        }
        Ok(Reached { group, _inside: inside })
    }

    async fn open_for(&self, need: Need) -> Result<Arc<Group>, Unreached> {
        let how = match (self.opener(), need) {
            (Opener::Here(how), _) => how,
            (Opener::Elsewhere(_), Need::Leader) if self.sends_away_in_vain() => How::Stand,
            (Opener::Elsewhere(node), Need::Leader) => return Err(Unreached::Elsewhere(self.shared.hint(node))),
            (Opener::Elsewhere(node), Need::Member) => {
                self.ask_to_open(node).await;
                How::Follow
            }
        };
        self.opened(how).await.map_err(Unreached::Stopped)
    }

    /// Asks the leader's node to open the group first: a follower alone could only wait (rule G3).
    async fn ask_to_open(&self, node: NodeId) {
        let Some(leader) = self.record().leader else { return };
        let call = self.shared.peers.call(Outgoing {
            to: node,
            lane: Lane::Control,
            group: self.group_id(),
            from_replica: self.id,
            to_replica: leader,
            kind: MessageKind::Open,
            payload: Bytes::new(),
            timeout: self.shared.timing.election_min,
        });
        if let Err(error) = call.await {
            tracing::debug!(shard = %self.shard_id(), %node, %error, "the leader's node did not open the group");
        }
    }

    pub(super) fn write_error(&self, unreached: Unreached, deadline: Duration) -> WriteError {
        let shard = self.shard_id();
        match unreached {
            Unreached::Elsewhere(leader) => WriteError::NotLeader { shard, leader },
            Unreached::Late => WriteError::DeadlineExceeded { shard, deadline, effect: Effect::None },
            Unreached::Stopped(why) => WriteError::Stopped { shard, why, effect: Effect::None },
        }
    }

    fn read_error(&self, unreached: Unreached, deadline: Duration) -> ReadError {
        let shard = self.shard_id();
        match unreached {
            Unreached::Elsewhere(leader) => ReadError::NotLeader { shard, leader },
            Unreached::Late => ReadError::DeadlineExceeded { shard, deadline },
            Unreached::Stopped(why) => ReadError::Stopped { shard, why },
        }
    }

    /// The group that answers a read; `None` = the shard alone can (rule G4).
    async fn reader(&self, level: ReadLevel, context: &RequestContext) -> Result<Option<Reached<'_>>, ReadError> {
        let need = match level {
            ReadLevel::Linearizable => Need::Leader,
            ReadLevel::Local | ReadLevel::Session | ReadLevel::Bounded(_) => Need::Member,
            // Refused by the group in its own words.
            ReadLevel::One | ReadLevel::Quorum | ReadLevel::All => Need::Member,
        };
        let is_at_rest = self.group().is_none() && self.ended().is_none();
        if is_at_rest && rest::is_covered(&self.shard, self.place().config.incarnation, level, context) {
            return Ok(None);
        }
        if level != ReadLevel::Local {
            self.touch();
        }
        let deadline = context.timeout;
        self.reach(need, deadline).await.map(Some).map_err(|unreached| self.read_error(unreached, deadline))
    }
}

impl Replica {
    fn held_up(&self) -> Option<String> {
        let place = self.place();
        let lives: Vec<(NodeId, Life)> =
            place.config.holders().map(|node| (node, self.shared.liveness.of(node))).collect();
        why_held_up(&lives, place.stage == ShardStage::Creating && !place.is_kept)
    }
}

/// What is left of the time a caller waits.
fn left(context: RequestContext, began: Instant) -> RequestContext {
    RequestContext { timeout: context.timeout.saturating_sub(began.elapsed()), ..context }
}

impl Replicator for Replica {
    fn write_many(
        &self,
        commands: Vec<WriteCommand>,
        context: RequestContext,
    ) -> BoxFuture<'_, Vec<Result<Written, WriteError>>> {
        Box::pin(async move {
            self.touch();
            let (began, deadline) = (Instant::now(), context.timeout);
            match self.reach(Need::Leader, deadline).await {
                Ok(reached) => reached.group.write_many(commands, left(context, began)).await,
                Err(unreached) => {
                    let error = self.write_error(unreached, deadline);
                    vec![Err(error); commands.len()]
                }
            }
        })
    }

    fn get(&self, key: Bytes, level: ReadLevel, context: RequestContext) -> BoxFuture<'_, Result<Found, ReadError>> {
        Box::pin(async move {
            let began = Instant::now();
            match self.reader(level, &context).await? {
                Some(reached) => reached.group.get(key, level, left(context, began)).await,
                None => self.get_at_rest(key, level, &context).await,
            }
        })
    }

    fn scan(
        &self,
        range: ScanRange,
        level: ReadLevel,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<Box<dyn Rows>, ReadError>> {
        Box::pin(async move {
            let began = Instant::now();
            match self.reader(level, &context).await? {
                Some(reached) => reached.group.scan(range, level, left(context, began)).await,
                None => self.scan_at_rest(range, level, &context).await,
            }
        })
    }

    fn status(&self) -> ReplicaStatus {
        if let Some(group) = self.group() {
            let status = group.status();
            let held_up = if status.leader.is_none() { self.held_up() } else { None };
            return ReplicaStatus { held_up, ..status };
        }
        let record = self.record();
        let (state, journal) = (self.shard.state(), self.shared.env.journal.group(self.group_id()));
        let index = state.applied.position.map_or(0, |position| position.index);
        ReplicaStatus {
            shard: self.shard_id(),
            replica: self.id,
            role: if self.ended().is_some() { Role::Stopped } else { Role::Closed },
            term: record.term,
            leader: record.leader.and_then(|leader| self.node_of(leader)),
            held_up: None,
            last_log_index: journal.entries.map_or(index, |(_, last)| last.max(index)),
            committed_index: index,
            flushed_index: index,
            purged_index: journal.purged.map_or(0, |(index, _)| index),
            staleness: None,
            state,
        }
    }
}
