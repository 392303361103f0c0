//! Receiving a snapshot: chunk by chunk into a stage, verified there, and only then handed to openraft.
//!
//! **Invariant.** openraft is given a snapshot only after everything it would panic about has been checked: that it is
//! complete, that it is what was announced, and that it contradicts neither the sender's vote nor what is committed
//! here.

use super::{
    codec::raft::decode_stored_membership,
    codec::transfer::{SnapshotBegin, SnapshotChunk, SnapshotFinish, SnapshotProgress},
    core::Core,
    state_machine::{SnapshotBytes, StateMachine},
    types::{LogId, SnapshotMeta, Types, Vote, log_id},
};
use kvorum_storage::{
    StorageError,
    shard::{SnapshotReceiver, StagedSnapshot},
};
use openraft::{Raft, Snapshot};
use std::{cmp::Ordering, sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::Instant};

/// How long an unfinished snapshot is kept without news of its sender.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// One snapshot on its way in.
struct Arriving {
    begin: SnapshotBegin,
    from: u64,
    next: u64,
    touched: Instant,
    stage: u64,
    /// Away while a chunk is being put; gone after a failure.
    receiver: Option<SnapshotReceiver>,
}

/// What this replica is receiving: at most one snapshot at a time, the newest attempt wins.
pub(super) struct Receiving {
    core: Arc<Core>,
    /// A fair lock across awaits: chunks of one snapshot are put one after the other.
    arriving: Mutex<Option<Arriving>>,
    /// The sender and the session of the newest snapshot that was installed, or not needed any more: its sender asks again
    /// if the reply got lost.
    finished: parking_lot::Mutex<Option<(u64, u64)>>,
}

impl Receiving {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Receiving { core, arriving: Mutex::new(None), finished: parking_lot::Mutex::new(None) }
    }

    fn vote(&self) -> Vote {
        self.core.look(|metrics| metrics.vote).unwrap_or_else(|| Vote::new(0, self.core.replica.0))
    }

    /// Begins to receive. A sender with an older vote is told so at once.
    pub(super) async fn begin(&self, from: u64, begin: SnapshotBegin) -> Result<SnapshotProgress, String> {
        let vote = self.vote();
        if vote.partial_cmp(&begin.vote) == Some(Ordering::Greater) {
            return Ok(SnapshotProgress { vote, next: 0 });
        }
        let mut arriving = self.arriving.lock().await;
        let is_repeated =
            arriving.as_ref().is_some_and(|known| known.begin == begin && known.from == from && known.next == 0);
        if !is_repeated {
            self.abandon(&mut arriving).await;
            let (shard, stage) = (self.core.store.shard.clone(), self.core.store.next_stage());
            let receiver = self.core.store.blocking.run(move || shard.receive_snapshot(stage)).await;
            let receiver = receiver.map_err(|error| self.failed(&error))?;
            tracing::info!(group = %self.core.group, from, last = ?begin.meta.last_log_id, "receiving a snapshot");
            let touched = Instant::now();
            *arriving = Some(Arriving { begin, from, next: 0, touched, stage, receiver: Some(receiver) });
        }
        Ok(SnapshotProgress { vote, next: 0 })
    }

    /// Puts one chunk. A repeated one is acknowledged and not put again.
    pub(super) async fn chunk(&self, from: u64, chunk: SnapshotChunk) -> Result<SnapshotProgress, String> {
        let vote = self.vote();
        let mut arriving = self.arriving.lock().await;
        let Some(known) = arriving.as_mut().filter(|known| known.begin.session == chunk.session && known.from == from)
        else {
            return Err("this snapshot is not being received: begin again".to_owned());
        };
        if chunk.number + 1 == known.next {
            return Ok(SnapshotProgress { vote, next: known.next });
        }
        if chunk.number != known.next {
            return Err(format!("chunk {} arrived instead of chunk {}", chunk.number, known.next));
        }
        let Some(mut receiver) = known.receiver.take() else {
            return Err("an earlier chunk of this snapshot failed: begin again".to_owned());
        };
        let (receiver, put) = self
            .core
            .store
            .blocking
            .run(move || {
                let put = receiver.put_chunk(&chunk.bytes);
                (receiver, put)
            })
            .await;
        put.map_err(|error| self.failed(&error))?;
        known.receiver = Some(receiver);
        known.next += 1;
        known.touched = Instant::now();
        Ok(SnapshotProgress { vote, next: known.next })
    }

    /// Verifies the whole and has it installed.
    pub(super) async fn finish(
        &self,
        from: u64,
        finish: SnapshotFinish,
        raft: &Raft<Types, StateMachine>,
    ) -> Result<SnapshotProgress, String> {
        let mut arriving = self.arriving.lock().await;
        if *self.finished.lock() == Some((from, finish.session)) {
            return Ok(SnapshotProgress { vote: self.vote(), next: finish.chunks });
        }
        let is_this = arriving.as_ref().is_some_and(|known| {
            known.begin.session == finish.session && known.from == from && known.next == finish.chunks
        });
        if !is_this {
            return Err("this snapshot is not complete here: begin again".to_owned());
        }
        let Some(Arriving { begin, stage, receiver: Some(receiver), .. }) = arriving.take() else {
            return Err("an earlier chunk of this snapshot failed: begin again".to_owned());
        };
        let staged = self.core.store.blocking.run(move || receiver.finish()).await;
        let staged = staged.map_err(|error| self.failed(&error))?;
        let committed = self.core.look(|metrics| metrics.local_committed).flatten();
        if let Err(why) = check(&begin, &staged, committed) {
            self.discard(stage).await;
            return Err(why);
        }
        let snapshot = Snapshot { meta: begin.meta, snapshot: SnapshotBytes::Staged(staged) };
        let reply = raft.install_full_snapshot(begin.vote, snapshot).await.map_err(|fatal| fatal.to_string())?;
        // Installed, or not needed any more: either way nobody asks for the stage again. After a failure it stays,
        // because the next start repeats the installation from it.
        self.discard(stage).await;
        *self.finished.lock() = Some((from, finish.session));
        Ok(SnapshotProgress { vote: reply.vote, next: finish.chunks })
    }

    /// Gives up a snapshot nobody has sent a chunk of for a while.
    pub(super) async fn sweep(&self) {
        let Ok(mut arriving) = self.arriving.try_lock() else { return };
        if arriving.as_ref().is_some_and(|known| known.touched.elapsed() > IDLE_MAX) {
            self.abandon(&mut arriving).await;
        }
    }

    async fn abandon(&self, arriving: &mut Option<Arriving>) {
        if let Some(Arriving { stage, receiver, .. }) = arriving.take() {
            drop(receiver);
            self.discard(stage).await;
        }
    }

    async fn discard(&self, stage: u64) {
        let engine = self.core.store.engine.clone();
        if let Err(error) = self.core.store.blocking.run(move || engine.discard_stage(stage)).await {
            tracing::warn!(group = %self.core.group, stage, %error, "could not remove a stage, the next start will");
        }
    }

    fn failed(&self, error: &StorageError) -> String {
        self.core.store.poison_if_fatal(error);
        format!("snapshot refused: {error}")
    }
}

/// What openraft would panic about.
fn check(begin: &SnapshotBegin, staged: &StagedSnapshot, committed: Option<LogId>) -> Result<(), String> {
    let membership = decode_stored_membership(staged.applied.membership.clone()).map_err(|error| error.to_string())?;
    let found = SnapshotMeta { last_log_id: staged.applied.position.map(log_id), last_membership: membership };
    if found != begin.meta {
        return Err(format!("snapshot of {found} was announced as {}", begin.meta));
    }
    let Some(last) = begin.meta.last_log_id else { return Err("snapshot of nothing".to_owned()) };
    if last.leader_id.term > begin.vote.leader_id.term || !begin.vote.committed {
        return Err(format!("snapshot up to {last} cannot come from {}", begin.vote));
    }
    match committed {
        Some(committed) if last > committed && last.index <= committed.index => {
            Err(format!("snapshot up to {last} contradicts {committed}, which is committed here"))
        }
        Some(_) | None => Ok(()),
    }
}
