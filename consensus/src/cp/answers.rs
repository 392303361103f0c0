//! What other replicas of the group ask, and what they are answered.
//!
//! **Invariant.** A poisoned replica neither votes nor acknowledges (invariant 5). A message speaks for the replica
//! that sent it and for no other.

use super::{
    codec::{
        DecodeError,
        message::{
            decode_append, decode_transfer, decode_vote_request, encode_append_reply, encode_transfer_reply,
            encode_vote_reply,
        },
        transfer::{SnapshotBegin, SnapshotChunk, SnapshotFinish},
    },
    core::Office,
    group::Group,
};
use crate::peers::{Incoming, MessageKind};
use bytes::Bytes;
use openraft::raft::AppendEntriesResponse;
use std::sync::atomic::Ordering;

impl Group {
    /// Answers one message of another replica of this group.
    ///
    /// # Errors
    /// Why it is refused, for the other side's log.
    pub async fn handle(&self, message: Incoming) -> Result<Bytes, String> {
        self.refuse_if_poisoned()?;
        if let Office::Stopped { why } = self.core.office() {
            return Err(format!("this replica takes no part any more: {why}"));
        }
        let from = message.from_replica.0;
        let answer = match message.kind {
            MessageKind::Append => self.answer_append(from, message.payload).await?,
            MessageKind::Vote => {
                let request = decode_vote_request(message.payload).map_err(unreadable)?;
                speaks_for(from, request.vote.leader_id.voted_for)?;
                self.core.lease.refuses_vote(request.leadership_transfer)?;
                let reply = self.ask(|raft| async move { raft.vote(request).await }).await?.map_err(fatal)?;
                encode_vote_reply(&reply)
            }
            MessageKind::PreVote => {
                let request = decode_vote_request(message.payload).map_err(unreadable)?;
                speaks_for(from, request.vote.leader_id.voted_for)?;
                self.core.lease.refuses_vote(false)?;
                let reply = self.ask(|raft| async move { raft.pre_vote(request).await }).await?.map_err(fatal)?;
                encode_vote_reply(&reply)
            }
            MessageKind::Mark => self.answer_mark(message.payload).await?,
            MessageKind::TransferLeader => self.answer_transfer(from, message.payload).await?,
            MessageKind::SnapshotBegin => {
                let begin = SnapshotBegin::decode(message.payload).map_err(unreadable)?;
                speaks_for(from, begin.vote.leader_id.voted_for)?;
                self.refuse_if_full()?;
                self.receiving.begin(from, begin).await?.encode()
            }
            MessageKind::SnapshotChunk => {
                let chunk = SnapshotChunk::decode(message.payload).map_err(unreadable)?;
                self.refuse_if_full()?;
                self.receiving.chunk(from, chunk).await?.encode()
            }
            MessageKind::SnapshotFinish => {
                let finish = SnapshotFinish::decode(message.payload).map_err(unreadable)?;
                self.receiving.finish(from, finish, &self.raft).await?.encode()
            }
            MessageKind::Hello
            | MessageKind::MetadataFollow
            | MessageKind::MetadataCommand
            | MessageKind::Close
            | MessageKind::Open
            | MessageKind::Heartbeats => return Err(format!("{:?} is not for a replica", message.kind)),
        };
        // Poisoned while it was answered: what was promised in between may not be durable.
        self.refuse_if_poisoned()?;
        Ok(answer)
    }

    async fn answer_append(&self, from: u64, payload: Bytes) -> Result<Bytes, String> {
        let (request, notes) = decode_append(payload).map_err(unreadable)?;
        speaks_for(from, request.vote.leader_id.voted_for)?;
        if !request.entries.is_empty() {
            self.refuse_if_full()?;
        }
        self.promise(request.vote.leader_id.term);
        let commit = request.leader_commit.map(|log_id| log_id.index);
        let reply = self.ask(|raft| async move { raft.append_entries(request).await }).await?.map_err(fatal)?;
        match &reply {
            AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => {
                self.core.staleness.note(&notes, commit);
                self.core.keep_from.store(notes.keep_from, Ordering::Relaxed);
                self.leader_spoke();
            }
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => {}
        }
        Ok(encode_append_reply(&reply, &self.core.reply_notes()))
    }

    /// Promises a leader not to vote for anybody else for a while: before openraft takes its message in, so that no
    /// vote slips in between. One whose term is known to be over is promised nothing.
    fn promise(&self, term: u64) {
        let is_over = self.core.look(|metrics| metrics.current_term > term) == Some(true);
        if !is_over {
            self.core.lease.promise();
        }
    }

    async fn answer_transfer(&self, from: u64, payload: Bytes) -> Result<Bytes, String> {
        let request = decode_transfer(payload).map_err(unreadable)?;
        speaks_for(from, request.from_leader().leader_id.voted_for)?;
        let is_for_us = *request.to_node_id() == self.core.replica.0;
        if is_for_us && !self.core.is_electable.load(Ordering::Relaxed) {
            return Err("this replica does not stand for election".to_owned());
        }
        let reply = self.ask(|raft| async move { raft.handle_transfer_leader(request).await }).await?.map_err(fatal)?;
        Ok(encode_transfer_reply(&reply))
    }

    fn refuse_if_poisoned(&self) -> Result<(), String> {
        let health = &self.core.context.health;
        if health.is_poisoned() { Err("this node is poisoned".to_owned()) } else { Ok(()) }
    }

    /// A full follower refuses data and is not poisoned (rule S5).
    fn refuse_if_full(&self) -> Result<(), String> {
        if self.core.context.health.is_clear() {
            return Ok(());
        }
        match self.core.context.health.causes().disk_full {
            Some(why) => Err(format!("disk_full: {why}")),
            None => Ok(()),
        }
    }
}

fn speaks_for(from: u64, voted_for: u64) -> Result<(), String> {
    if from == voted_for { Ok(()) } else { Err(format!("replica {from} speaks for replica {voted_for}")) }
}

fn fatal(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn unreadable(error: DecodeError) -> String {
    error.to_string()
}
