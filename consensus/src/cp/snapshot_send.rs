//! Sending a pinned view to a follower that is behind the log.
//!
//! Chunk by chunk on the bulk lane, each acknowledged with the number wanted next, so that a lost reply costs one chunk
//! and not the whole. What makes no progress is given up: the pin keeps old bytes alive. Waiting for its turn at the
//! pace of the node is no want of progress; the receiver is reminded meanwhile, or it would take its sender for dead.
//!
//! **Invariant.** From its beginning until another one fails, the log behind the snapshot is kept for whom it is sent
//! to, as far as log is kept for anybody.

use super::{
    codec::transfer::{SnapshotBegin, SnapshotChunk, SnapshotFinish, SnapshotProgress},
    core::Core,
    figures,
    network::Link,
    snapshot_receive::IDLE_MAX,
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
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::time::timeout;

/// Attempts at one chunk before the whole is begun again.
const ATTEMPTS_MAX: u32 = 5;

/// How long one chunk may take.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a receiver hears nothing from a sender that waits for its turn.
const REMIND_EVERY: Duration = Duration::from_secs(IDLE_MAX.as_secs() / 4);

/// One snapshot on its way.
pub(super) struct SnapshotSender<'link> {
    link: &'link Link,
    session: u64,
    /// How long a step may take.
    patience: Duration,
}

/// A snapshot that has not arrived, when it is given up in whatever way.
struct Unfinished(Option<(Arc<Core>, u64)>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some((core, target)) = self.0.take() {
            core.snapshot_failed(target);
        }
    }
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
        SnapshotSender { link, session, patience }
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
        let (core, target) = (self.link.core().clone(), self.target());
        core.sends_snapshot(target, snapshot.meta.last_log_id.map_or(0, |last| last.index));
        let begin = SnapshotBegin { session: self.session, vote, meta: snapshot.meta };
        let mut unfinished = Unfinished(Some((core, target)));
        let sent = self.stream(begin, view).await?;
        if sent == vote {
            unfinished.0 = None;
        }
        Ok(SnapshotResponse::new(sent))
    }

    fn target(&self) -> u64 {
        self.link.message(Lane::Bulk, MessageKind::SnapshotBegin, Bytes::new(), self.patience).to_replica.0
    }

    async fn stream(&self, begin: SnapshotBegin, view: Box<ShardSnapshot>) -> Result<Vote, StreamingError<Types>> {
        let ours = begin.vote;
        let begun = self.step(MessageKind::SnapshotBegin, begin.encode(), CHUNK_TIMEOUT, ours);
        if let Step::Outvoted(vote) = self.in_time(begun).await? {
            return Ok(vote);
        }
        let mut view = Some(view);
        let mut number = 0;
        while let Some(bytes) = self.in_time(self.next_chunk(&mut view)).await? {
            if let Step::Outvoted(vote) = self.turn(bytes.len(), number, &begin).await? {
                return Ok(vote);
            }
            let chunk = SnapshotChunk { session: self.session, number, bytes }.encode();
            match self.in_time(self.step(MessageKind::SnapshotChunk, chunk, CHUNK_TIMEOUT, ours)).await? {
                Step::Next(next) if next == number + 1 => number = next,
                Step::Next(next) => return Err(wants_another(next, number + 1)),
                Step::Outvoted(vote) => return Ok(vote),
            }
        }
        let finish = SnapshotFinish { session: self.session, chunks: number }.encode();
        match self.in_time(self.step(MessageKind::SnapshotFinish, finish, CHUNK_TIMEOUT, ours)).await? {
            Step::Next(_) => {
                figures::snapshot_sent();
                Ok(ours)
            }
            Step::Outvoted(vote) => Ok(vote),
        }
    }

    /// Waits until chunk `number` of so many bytes may be sent, and repeats meanwhile what the receiver has already.
    async fn turn(&self, bytes: usize, number: u64, begin: &SnapshotBegin) -> Result<Step, StreamingError<Types>> {
        let mut turn = pin!(self.link.core().context.pace.take(bytes));
        while timeout(REMIND_EVERY, turn.as_mut()).await.is_err() {
            let (kind, known) = match number.checked_sub(1) {
                None => (MessageKind::SnapshotBegin, begin.encode()),
                Some(number) => {
                    let known = SnapshotChunk { session: self.session, number, bytes: Bytes::new() };
                    (MessageKind::SnapshotChunk, known.encode())
                }
            };
            match self.in_time(self.step(kind, known, CHUNK_TIMEOUT, begin.vote)).await? {
                Step::Next(next) if next == number => {}
                Step::Next(next) => return Err(wants_another(next, number)),
                outvoted @ Step::Outvoted(_) => return Ok(outvoted),
            }
        }
        Ok(Step::Next(number))
    }

    /// One step, given up when it takes too long.
    async fn in_time<T>(
        &self,
        step: impl Future<Output = Result<T, StreamingError<Types>>>,
    ) -> Result<T, StreamingError<Types>> {
        timeout(self.patience, step).await.unwrap_or_else(|_| {
            Err(StreamingError::Timeout(Timeout {
                action: RPCTypes::InstallSnapshot,
                id: self.link.core().replica.0,
                target: self.target(),
                timeout: self.patience,
            }))
        })
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
                // An installation may take long, and its reply may get lost: it is asked for until it takes too long.
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

fn wants_another(next: u64, expected: u64) -> StreamingError<Types> {
    let why = format!("the receiver wants chunk {next} where chunk {expected} comes next");
    StreamingError::Network(NetworkError::from_string(why))
}
