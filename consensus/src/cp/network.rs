//! openraft's messages to the other replicas of the group, over the node's peers.
//!
//! Heartbeats, votes and transfers ride the control lane, entries the data lane, snapshots the bulk lane, so that none
//! delays another. Entries to one follower go out one request at a time: while one is on its way and being synced, the
//! next one fills.
//!
//! **Invariant.** A peer that cannot be reached costs one request taken from openraft's stream (rule G7): openraft's
//! pause between attempts happens before it hands over the next one.

use super::{
    codec::{
        DecodeError,
        message::{
            AppendNotes, decode_append_reply, decode_transfer_reply, decode_vote_reply, encode_append, encode_transfer,
            encode_vote_request,
        },
    },
    core::Core,
    snapshot_send::SnapshotSender,
    state_machine::SnapshotBytes,
    types::{Member, Types, Vote},
};
use crate::{
    peers::{CallError, MessageKind, Outgoing, TRACE},
    transport::Lane,
};
use bytes::Bytes;
use kvorum_api::{NodeId, ReplicaId};
use openraft::{
    OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};
use std::{future::Future, sync::Arc, time::Duration};

/// Makes links to the other replicas.
pub struct Network {
    core: Arc<Core>,
}

/// The way to one other replica.
pub struct Link {
    core: Arc<Core>,
    target: u64,
    node: NodeId,
    /// Where entries travel; heartbeats have a link of their own.
    append_lane: Lane,
}

impl Network {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Network { core }
    }

    fn link(&self, target: u64, member: &Member, append_lane: Lane) -> Link {
        Link { core: self.core.clone(), target, node: member.node, append_lane }
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

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// What goes along with an append. It proves nothing about staleness when its commit index, which openraft may have
    /// looked up a while ago, lies behind what this leader may have acknowledged since.
    fn notes(&self, request: &AppendEntriesRequest<Types>) -> AppendNotes {
        let notes = self.core.append_notes(self.target);
        // Looked up after the notes: whatever was acknowledged before them is applied by now.
        let applied = self.core.store.shard.watch_applied().borrow().map(|position| position.index);
        let covers_everything = request.leader_commit.is_some_and(|commit| {
            commit.leader_id.term == request.vote.leader_id.term && Some(commit.index) >= applied
        });
        AppendNotes { quorum_age: notes.quorum_age.filter(|_| covers_everything), ..notes }
    }

    async fn call(&self, message: Outgoing, what: RPCTypes) -> Result<Bytes, RPCError<Types>> {
        self.core.context.peers.call(message).await.map_err(|error| match error {
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
        let payload = encode_append(&request, &self.notes(&request));
        let timeout = self.append_timeout(&request, &option);
        let message = self.message(self.append_lane, MessageKind::Append, payload, timeout);
        let trace = match (request.entries.first(), request.entries.last()) {
            (Some(first), Some(last)) => self.core.store.traces.first_of(first.log_id.index..=last.log_id.index),
            _ => Bytes::new(),
        };
        let reply = TRACE.scope(trace, self.call(message, RPCTypes::AppendEntries)).await?;
        let (reply, notes) = decode_append_reply(reply).map_err(unreadable)?;
        self.core.heard(self.target, notes);
        Ok(reply)
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
        let timeout = option.hard_ttl().max(self.core.context.timing.election_min);
        let message = self.message(Lane::Control, MessageKind::TransferLeader, payload, timeout);
        decode_transfer_reply(self.call(message, RPCTypes::TransferLeader).await?).map_err(unreadable)
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(self.core.context.timing.heartbeat)))
    }
}
