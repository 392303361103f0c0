//! Sending a pinned view to a follower that is behind the log.
//!
//! Chunk by chunk on the bulk lane, each acknowledged with the number wanted next, so that a lost reply costs one chunk
//! and not the whole. The pin has a deadline: it keeps old bytes alive.

use super::{
    codec::transfer::{SnapshotBegin, SnapshotChunk, SnapshotFinish, SnapshotProgress},
    figures,
    network::Link,
    state_machine::SnapshotBytes,
    types::{Types, Vote},
};
use crate::{
    peers::{CallError, MessageKind},
    transport::Lane,
};
use bytes::Bytes;
use kvorum_storage::shard::ShardSnapshot;
use openraft::{
    RPCTypes,
    errors::{NetworkError, StreamingError, Timeout, Unreachable},
    raft::SnapshotResponse,
};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Attempts at one chunk before the whole is begun again.
const ATTEMPTS_MAX: u32 = 5;

/// How long one chunk may take.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// One snapshot on its way.
pub(super) struct SnapshotSender<'link> {
    link: &'link Link,
    session: u64,
    deadline: Instant,
    patience: Duration,
}

/// How a step of it ended.
enum Step {
    /// The receiver wants this chunk next.
    Next(u64),
    /// The receiver has voted for somebody else.
    Outvoted(Vote),
}

impl<'link> SnapshotSender<'link> {
    pub(super) fn new(link: &'link Link, patience: Duration) -> Self {
        let session = link.core().context.hlc.now().0;
        SnapshotSender { link, session, deadline: Instant::now() + patience, patience }
    }

    /// Sends it all and waits until it is installed.
    pub(super) async fn send(
        self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<Types, SnapshotBytes>,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let SnapshotBytes::Pinned(view) = snapshot.snapshot else {
            return Err(StreamingError::Network(NetworkError::from_string("a snapshot without bytes cannot be sent")));
        };
        let begin = SnapshotBegin { session: self.session, vote, meta: snapshot.meta };
        match timeout_at(self.deadline, self.stream(begin, view)).await {
            Ok(sent) => sent.map(SnapshotResponse::new),
            Err(_) => Err(StreamingError::Timeout(Timeout {
                action: RPCTypes::InstallSnapshot,
                id: self.link.core().replica.0,
                target: self
                    .link
                    .message(Lane::Bulk, MessageKind::SnapshotBegin, Bytes::new(), self.patience)
                    .to_replica
                    .0,
                timeout: self.patience,
            })),
        }
    }

    async fn stream(&self, begin: SnapshotBegin, view: Box<ShardSnapshot>) -> Result<Vote, StreamingError<Types>> {
        let ours = begin.vote;
        if let Step::Outvoted(vote) = self.step(MessageKind::SnapshotBegin, begin.encode(), CHUNK_TIMEOUT, ours).await?
        {
            return Ok(vote);
        }
        let mut view = Some(view);
        let mut number = 0;
        while let Some(bytes) = self.next_chunk(&mut view).await? {
            self.link.core().context.pace.take(bytes.len()).await;
            let chunk = SnapshotChunk { session: self.session, number, bytes }.encode();
            match self.step(MessageKind::SnapshotChunk, chunk, CHUNK_TIMEOUT, ours).await? {
                Step::Next(next) if next == number + 1 => number = next,
                Step::Next(next) => {
                    let why = format!("the receiver wants chunk {next} after chunk {number}");
                    return Err(StreamingError::Network(NetworkError::from_string(why)));
                }
                Step::Outvoted(vote) => return Ok(vote),
            }
        }
        let finish = SnapshotFinish { session: self.session, chunks: number }.encode();
        match self.step(MessageKind::SnapshotFinish, finish, CHUNK_TIMEOUT, ours).await? {
            Step::Next(_) => {
                figures::snapshot_sent();
                Ok(ours)
            }
            Step::Outvoted(vote) => Ok(vote),
        }
    }

    /// The next chunk, read where reading may wait for the disk.
    async fn next_chunk(&self, view: &mut Option<Box<ShardSnapshot>>) -> Result<Option<Bytes>, StreamingError<Types>> {
        let context = &self.link.core().context;
        let bytes_max = context.budget.snapshot_chunk_bytes;
        let mut taken = view.take().expect("a view is put back after every chunk");
        let (taken, chunk) = context
            .env
            .blocking
            .run(move || {
                let chunk = taken.next_chunk(bytes_max);
                (taken, chunk)
            })
            .await;
        *view = Some(taken);
        chunk.map_err(|error| {
            self.link.core().store.poison_if_fatal(&error);
            StreamingError::Network(NetworkError::new(&error))
        })
    }

    /// One message, again if its reply was lost: the receiver tells a repeated one by its number.
    async fn step(
        &self,
        kind: MessageKind,
        payload: Bytes,
        timeout: Duration,
        ours: Vote,
    ) -> Result<Step, StreamingError<Types>> {
        let mut attempt = 1;
        let reply = loop {
            let message = self.link.message(Lane::Bulk, kind, payload.clone(), timeout);
            match self.link.core().context.peers.call(message).await {
                Ok(reply) => break reply,
                Err(CallError::Refused(why)) => {
                    return Err(StreamingError::Unreachable(Unreachable::from_string(why)));
                }
                // An installation may take long, and its reply may get lost: it is asked for until the deadline.
                Err(error) if attempt >= ATTEMPTS_MAX && kind != MessageKind::SnapshotFinish => {
                    return Err(StreamingError::Unreachable(Unreachable::new(&error)));
                }
                Err(_) => {
                    attempt += 1;
                    tokio::time::sleep(self.link.core().context.timing.heartbeat).await;
                }
            }
        };
        let progress =
            SnapshotProgress::decode(reply).map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))?;
        let is_higher = progress.vote.partial_cmp(&ours) == Some(std::cmp::Ordering::Greater);
        Ok(if is_higher { Step::Outvoted(progress.vote) } else { Step::Next(progress.next) })
    }
}
