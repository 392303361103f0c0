//! openraft's messages to the other replicas of the group, over the node's peers.
//!
//! Heartbeats, votes and transfers ride the control lane, entries the data lane, snapshots the bulk lane, so that none
//! delays another. Several appends to one follower are under way at once (`pipeline`); heartbeats travel together with
//! those of other groups (`peers/merger`).
//!
//! **Invariant.** A peer that cannot be reached costs one request taken from openraft's stream (rule G7). What goes
//! along with an append proves nothing that the append itself does not carry.

use super::{
    codec::{
        DecodeError,
        message::{
            AppendNotes, decode_append_reply, decode_transfer_reply, decode_vote_reply, encode_append, encode_transfer,
            encode_vote_request,
        },
    },
    core::Core,
    pipeline::Pipeline,
    snapshot_send::SnapshotSender,
    state_machine::SnapshotBytes,
    types::{Member, Types, Vote},
};
use crate::{
    peers::{CallError, MessageKind, Outgoing, TRACE},
    transport::Lane,
};
use bytes::Bytes;
use futures::{Stream, future::BoxFuture, stream::BoxStream};
use kvorum_api::{NodeId, ReplicaId};
use openraft::{
    OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Makes links to the other replicas.
pub struct Network {
    core: Arc<Core>,
}

/// The way to one other replica.
pub struct Link {
    route: Route,
    /// Whether the last append was answered.
    is_answering: bool,
}

/// Where a link leads. Cheap to clone, so that every call under way has one.
#[derive(Clone)]
pub(crate) struct Route {
    core: Arc<Core>,
    target: u64,
    node: NodeId,
    /// Where appends travel; heartbeats have a link of their own, and travel merged with those of other groups.
    append_lane: Lane,
}

impl Network {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Network { core }
    }

    fn link(&self, target: u64, member: &Member, append_lane: Lane) -> Link {
        let route = Route { core: self.core.clone(), target, node: member.node, append_lane };
        Link { route, is_answering: false }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Member) -> Link {
        self.link(target, node, Lane::Data)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Link {
        self.link(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> Link {
        self.link(target, node, Lane::Bulk)
    }
}

impl Link {
    pub(crate) fn message(&self, lane: Lane, kind: MessageKind, payload: Bytes, timeout: Duration) -> Outgoing {
        self.route.message(lane, kind, payload, timeout)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.route.core
    }

    async fn call(&self, message: Outgoing, what: RPCTypes) -> Result<Bytes, RPCError<Types>> {
        let answer = self.core().context.peers.call(message).await;
        self.route.judge(answer, what)
    }
}

impl Route {
    fn message(&self, lane: Lane, kind: MessageKind, payload: Bytes, timeout: Duration) -> Outgoing {
        Outgoing {
            to: self.node,
            lane,
            group: self.core.group,
            from_replica: self.core.replica,
            to_replica: ReplicaId(self.target),
            kind,
            payload,
            timeout,
        }
    }

    /// What goes along with an append.
    fn notes(&self, request: &AppendEntriesRequest<Types>) -> AppendNotes {
        let notes = self.core.append_notes(self.target);
        // Looked up after the notes: whatever was acknowledged before them is applied by now.
        let applied = self.core.store.shard.watch_applied().borrow().map(|position| position.index);
        let is_whole = covers_everything(request, applied);
        AppendNotes { quorum_age: notes.quorum_age.filter(|_| is_whole), ..notes }
    }

    fn judge(&self, answer: Result<Bytes, CallError>, what: RPCTypes) -> Result<Bytes, RPCError<Types>> {
        answer.map_err(|error| match error {
            // The wait itself was the pause.
            CallError::Timeout(timeout) => {
                RPCError::Timeout(Timeout { action: what, id: self.core.replica.0, target: self.target, timeout })
            }
            CallError::Unreachable(_) | CallError::Refused(_) => RPCError::Unreachable(Unreachable::new(&error)),
        })
    }

    /// Entries may wait for a slow sync; a heartbeat that late is worth nothing.
    fn append_timeout(&self, request: &AppendEntriesRequest<Types>, option: &RPCOption) -> Duration {
        if request.entries.is_empty() {
            option.hard_ttl()
        } else {
            option.hard_ttl().max(self.core.context.timing.election_min)
        }
    }

    async fn append(
        self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let payload = encode_append(&request, &self.notes(&request));
        let timeout = self.append_timeout(&request, &option);
        let message = self.message(self.append_lane, MessageKind::Append, payload, timeout);
        let peers = &self.core.context.peers;
        let sent = Instant::now();
        let answer = match (request.entries.first(), request.entries.last()) {
            (Some(first), Some(last)) => {
                let trace = self.core.store.traces.first_of(first.log_id.index..=last.log_id.index);
                TRACE.scope(trace, peers.call(message)).await
            }
            // What tells a follower of a commit stays behind the entries it speaks of.
            _ if self.append_lane == Lane::Data => peers.call(message).await,
            _ => peers.heartbeat(message).await,
        };
        let answer = self.judge(answer, RPCTypes::AppendEntries)?;
        let (reply, notes) = decode_append_reply(answer).map_err(unreadable)?;
        self.core.heard(self.target, notes);
        // Whoever finds a conflict follows, too; whoever knows of a later vote does not.
        if !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
            self.core.answered.note(self.target, request.vote.leader_id.term, sent);
        }
        Ok(reply)
    }
}

/// Whether an append tells its follower of everything that a leader which has applied up to `applied` may have
/// acknowledged. Openraft looks up the commit index when it makes the request, and keeps a request for a while: one
/// that lies behind proves nothing about staleness (rule R2).
fn covers_everything(request: &AppendEntriesRequest<Types>, applied: Option<u64>) -> bool {
    request
        .leader_commit
        .is_some_and(|commit| commit.leader_id.term == request.vote.leader_id.term && Some(commit.index) >= applied)
}

/// A peer that answers nonsense is as good as none.
fn unreadable(error: DecodeError) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotBytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.route.clone().append(request, option).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let route = self.route.clone();
        let send = move |request| -> BoxFuture<'static, _> { Box::pin(route.clone().append(request, option.clone())) };
        let results: BoxStream<'s, _> = Box::pin(Pipeline::new(input, &mut self.is_answering, send).results());
        Box::pin(async move { Ok(results) })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let payload = encode_vote_request(&request);
        let message = self.message(Lane::Control, MessageKind::Vote, payload, option.hard_ttl());
        decode_vote_reply(self.call(message, RPCTypes::Vote).await?).map_err(unreadable)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let payload = encode_vote_request(&request);
        let message = self.message(Lane::Control, MessageKind::PreVote, payload, option.hard_ttl());
        decode_vote_reply(self.call(message, RPCTypes::Vote).await?).map_err(unreadable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<Types, SnapshotBytes>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sending = SnapshotSender::new(self, option.hard_ttl()).send(vote, snapshot);
        tokio::select! {
            // A leader that lost its office stops sending, whatever has arrived meanwhile.
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let payload = encode_transfer(&request);
        let timeout = option.hard_ttl().max(self.core().context.timing.election_min);
        let message = self.message(Lane::Control, MessageKind::TransferLeader, payload, timeout);
        decode_transfer_reply(self.call(message, RPCTypes::TransferLeader).await?).map_err(unreadable)
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(self.core().context.timing.heartbeat)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cp::types::LogId;

    fn append(term: u64, commit: Option<(u64, u64)>) -> AppendEntriesRequest<Types> {
        AppendEntriesRequest {
            vote: Vote::new_committed(term, 1),
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: commit.map(|(term, index)| LogId::new_term_index(term, index)),
        }
    }

    /// Rule R2: the leader has acknowledged what the follower is not told of.
    #[test]
    fn an_append_whose_commit_index_lies_behind_proves_no_staleness() {
        assert!(covers_everything(&append(3, Some((3, 7))), Some(7)));
        assert!(covers_everything(&append(3, Some((3, 8))), Some(7)), "committed and not applied here yet");
        assert!(!covers_everything(&append(3, Some((3, 6))), Some(7)));
        assert!(!covers_everything(&append(3, None), None));
    }

    /// Rule R2: until an entry of its own term is committed, a leader does not know what was acknowledged before it.
    #[test]
    fn an_append_before_the_first_commit_of_its_term_proves_no_staleness() {
        assert!(!covers_everything(&append(3, Some((2, 9))), Some(7)));
    }
}
