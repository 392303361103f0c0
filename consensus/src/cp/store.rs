//! What one replica has on its node: its part of the journal and its shard, and what both agree on.
//!
//! ```text
//!   journal   … │ purged │ entries …                 │ last
//!   shard         … flushed … applied ≤ durable here ┘
//! ```
//!
//! **Invariant.** The journal forgets an entry for good only once the engine has flushed it (rule S2). The shard
//! applies an entry only once the journal has it durably (rule J2).

use super::{
    codec::raft::{decode_log_id, decode_vote, encode_log_id},
    door::Pass,
    lease::logs_leases,
    log_bytes::LogBytes,
    traces::Traces,
    types::{LogId, Vote, log_id},
};
use crate::health::Health;
use kvorum_api::{GroupId, LogPosition};
use kvorum_storage::{
    Blocking, Engine, Journal, Shard, StorageError,
    journal::{BatchNumber, Completion, Mark},
    planted,
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{oneshot, watch};

/// How often what found the disk full is tried again.
const DISK_FULL_PAUSE: Duration = Duration::from_millis(100);

/// Stage ids of one shard lie beside each other: the shard above, a counter below.
const STAGE_COUNTER_BITS: u32 = 24;

/// One replica's journal, shard and what both agree on. Shared by openraft's log store and state machine.
pub struct ReplicaStore {
    pub(crate) group: GroupId,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) blocking: Blocking,
    pub(crate) shard: Arc<Shard>,
    pub(crate) health: Arc<Health>,
    /// Bytes of one answer to a follower's catching up.
    pub(crate) read_bytes_max: usize,
    /// While the Raft instance is being made, snapshots are answered without bytes (rule S1).
    pub(crate) is_starting: AtomicBool,
    pub(crate) traces: Traces,
    /// Whether what is applied or logged here at the start says that the group has leases (rule G5).
    pub(crate) knows_leases: bool,
    /// Whether its Raft instance is being ended: nothing is waited for any more.
    is_ended: AtomicBool,
    bounds: Mutex<Bounds>,
    /// Grows whenever the journal's end moved for another reason than an append.
    moved: watch::Sender<u64>,
    stage_counter: AtomicU64,
    /// The flushed index when somebody last asked the engine.
    flushed_seen: AtomicU64,
}

/// Where the log begins and ends, as openraft sees it.
pub(crate) struct Bounds {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    /// The last entry openraft has forgotten; the journal may still hold it.
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
    /// The index the journal takes next; `None` = any.
    journal_next: Option<u64>,
    pub(crate) bytes: LogBytes,
}

impl ReplicaStore {
    /// Reads where the log of a group begins and ends.
    ///
    /// # Errors
    /// The journal's, or marks of a format this build does not know.
    pub fn open(
        (journal, engine, blocking): (Arc<dyn Journal>, Arc<dyn Engine>, Blocking),
        shard: Arc<Shard>,
        health: Arc<Health>,
        read_bytes_max: usize,
    ) -> Result<Arc<Self>, StorageError> {
        let group = GroupId::from(shard.spec().shard);
        let state = journal.group(group);
        let purged = state.purged.map(|(_, bytes)| decode_log_id(bytes)).transpose().map_err(unknown_format)?;
        let last = match state.entries {
            Some((_, last)) => {
                let record = journal.entries(group, last..last + 1, usize::MAX)?.pop();
                record.map(|record| LogId::new_term_index(record.term, record.index))
            }
            None => None,
        };
        let last = last.max(purged);
        let bounds = Bounds {
            vote: state.vote.map(decode_vote).transpose().map_err(unknown_format)?,
            // The mark is not waited for, but it is ordered behind the entries it speaks of.
            committed: state.committed.map(decode_log_id).transpose().map_err(unknown_format)?.min(last),
            purged,
            last,
            journal_next: last.map(|last| last.index + 1),
            bytes: LogBytes::new(state.entries.map_or(0, |(first, last)| last + 1 - first), last),
        };
        let shard_state = shard.state();
        let applied = shard_state.applied.position.map(|position| position.index);
        let knows_leases =
            shard_state.settings.is_some_and(|settings| settings.has_leases) || logs_leases(&*journal, group, applied)?;
        let flushed = shard.flushed()?.position;
        let stage_first = Self::own_stages(group, &engine.stages()?).max().map_or(0, |stage| stage + 1);
        Ok(Arc::new(ReplicaStore {
            group,
            journal,
            engine,
            blocking,
            shard,
            health,
            read_bytes_max,
            is_starting: AtomicBool::new(true),
            traces: Traces::default(),
            knows_leases,
            is_ended: AtomicBool::new(false),
            bounds: Mutex::new(bounds),
            moved: watch::Sender::new(0),
            stage_counter: AtomicU64::new(stage_first),
            flushed_seen: AtomicU64::new(flushed.map_or(0, |position| position.index)),
        }))
    }

    /// The stages of this group among all of the node, by counter.
    pub(super) fn own_stages(group: GroupId, stages: &[u64]) -> impl Iterator<Item = u64> {
        let own: Vec<u64> = stages.iter().copied().filter(|id| id >> STAGE_COUNTER_BITS == group.0).collect();
        own.into_iter().map(|id| id & ((1 << STAGE_COUNTER_BITS) - 1))
    }

    /// The full id of a stage of this group.
    pub(super) fn stage_id(group: GroupId, counter: u64) -> u64 {
        assert!(group.0 < 1 << (64 - STAGE_COUNTER_BITS), "a shard id must leave room for the counter of its stages");
        group.0 << STAGE_COUNTER_BITS | (counter & ((1 << STAGE_COUNTER_BITS) - 1))
    }

    /// A stage id that is not in use.
    pub(crate) fn next_stage(&self) -> u64 {
        Self::stage_id(self.group, self.stage_counter.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn with_bounds<T>(&self, look: impl FnOnce(&mut Bounds) -> T) -> T {
        look(&mut self.bounds.lock())
    }

    /// Queues a mark and waits until it is durable. With a pass, only while that is the newest.
    pub(crate) async fn mark_durably(&self, mark: Mark, pass: Option<&Pass>) -> Result<(), StorageError> {
        loop {
            let (done, told) = oneshot::channel();
            let done = Completion::Signal(Box::new(move |result| {
                let _ = done.send(result);
            }));
            match self.mark_inside(mark.clone(), done, pass) {
                Ok(()) => {
                    let result = told.await.unwrap_or(Err(StorageError::Stopped));
                    return result.inspect_err(|error| self.poison_if_fatal(error));
                }
                Err(StorageError::DiskFull(why)) => self.wait_for_room(&why).await?,
                Err(error) => {
                    self.poison_if_fatal(&error);
                    return Err(error);
                }
            }
        }
    }

    /// Queues a mark inside the door: what is queued while nobody is refused there is queued before whatever follows
    /// the next opening, or the end of the replica.
    pub(super) fn mark_inside(&self, mark: Mark, done: Completion, pass: Option<&Pass>) -> Result<(), StorageError> {
        let _inside = pass.map(|pass| pass.enter().ok_or(StorageError::Stopped)).transpose()?;
        self.journal.mark(self.group, mark, done)
    }

    /// A full disk is waited out (rule S5): openraft would take the error as the end of the replica. Meanwhile the
    /// group makes no progress here, and another replica may lead.
    ///
    /// # Errors
    /// The Raft instance is being ended.
    pub(crate) async fn wait_for_room(&self, why: &str) -> Result<(), StorageError> {
        tracing::warn!(group = %self.group, why, "no room in the journal, trying again");
        tokio::time::sleep(DISK_FULL_PAUSE).await;
        self.refuse_if_ended()
    }

    /// Ends every wait for room: openraft's own end waits for them.
    pub(crate) fn end(&self) {
        self.is_ended.store(true, Ordering::Release);
        self.moved.send_modify(|moves| *moves += 1);
    }

    fn refuse_if_ended(&self) -> Result<(), StorageError> {
        if self.is_ended.load(Ordering::Acquire) { Err(StorageError::Stopped) } else { Ok(()) }
    }

    /// Waits until everything up to `index` is durable on this node (rule J2).
    pub(crate) async fn wait_durable(&self, index: u64) -> Result<BatchNumber, StorageError> {
        let (done, told) = oneshot::channel();
        self.journal.when_durable(
            self.group,
            index,
            Box::new(move |result| {
                let _ = done.send(result);
            }),
        );
        told.await.unwrap_or(Err(StorageError::Stopped))
    }

    /// Waits until the journal takes `first` as its next index. Only a snapshot that is still being installed moves its
    /// end without an append.
    pub(crate) async fn wait_for_end(&self, first: u64) -> Result<(), StorageError> {
        let mut moved = self.moved.subscribe();
        while self.with_bounds(|bounds| bounds.journal_next.is_some_and(|next| next < first)) {
            moved.changed().await.map_err(|_| StorageError::Stopped)?;
            self.refuse_if_ended()?;
        }
        Ok(())
    }

    /// Notes what was appended.
    pub(crate) fn appended(&self, last: LogId, bytes: u64) {
        self.with_bounds(|bounds| {
            bounds.last = Some(last);
            bounds.journal_next = Some(last.index + 1);
            bounds.bytes.append(last.index, bytes);
        });
    }

    /// Voids everything after `after`.
    ///
    /// # Errors
    /// The journal's.
    pub(crate) fn truncate(&self, after: Option<LogId>) -> Result<(), StorageError> {
        let index = after.map(|log_id| log_id.index);
        self.journal.mark(self.group, Mark::TruncatedAfter(index), Completion::None)?;
        self.with_bounds(|bounds| {
            bounds.last = bounds.last.min(after).max(bounds.purged);
            bounds.journal_next = index.map(|index| index + 1);
            bounds.bytes.truncate(index);
        });
        Ok(())
    }

    /// Forgets everything up to `upto` as far as openraft can see, and durably as far as it is flushed (rule S2).
    ///
    /// # Errors
    /// The journal's or the engine's.
    pub(crate) async fn purge(&self, upto: LogId) -> Result<(), StorageError> {
        self.with_bounds(|bounds| {
            bounds.purged = bounds.purged.max(Some(upto));
            bounds.last = bounds.last.max(bounds.purged);
            bounds.bytes.purge(upto.index);
        });
        let flushed = self.flushed().await?;
        self.forget(flushed)
    }

    /// Durably forgets what openraft has purged and the engine has flushed. A full disk leaves it to the next time
    /// (rule S5): openraft would take the error as the end of the replica.
    ///
    /// # Errors
    /// The journal's.
    pub(crate) fn forget(&self, flushed: Option<LogPosition>) -> Result<(), StorageError> {
        let Some(wanted) = self.with_bounds(|bounds| bounds.purged) else { return Ok(()) };
        let Some(flushed) = flushed.map(log_id) else { return Ok(()) };
        let upto = if flushed.index >= wanted.index { wanted } else { flushed };
        let known = self.journal.group(self.group).purged.map(|(index, _)| index);
        if known.is_some_and(|index| index >= upto.index) {
            return Ok(());
        }
        let mark = Mark::Purged { index: upto.index, log_id: encode_log_id(&upto) };
        match self.journal.mark(self.group, mark, Completion::None) {
            Ok(()) => self.end_moved(upto),
            Err(StorageError::DiskFull(why)) => {
                tracing::warn!(group = %self.group, why, "no room in the journal to say what is purged");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// After a purge mark at or beyond the last entry the log goes on behind it.
    pub(super) fn end_moved(&self, purged: LogId) {
        self.with_bounds(|bounds| {
            bounds.purged = bounds.purged.max(Some(purged));
            bounds.last = bounds.last.max(bounds.purged);
            if bounds.journal_next.is_none_or(|next| next <= purged.index) {
                bounds.journal_next = Some(purged.index + 1);
            }
        });
        self.moved.send_modify(|moves| *moves += 1);
    }

    /// What a crash now would leave of the shard.
    ///
    /// # Errors
    /// The engine's.
    pub(crate) async fn flushed(&self) -> Result<Option<LogPosition>, StorageError> {
        let shard = self.shard.clone();
        let flushed = self.blocking.run(move || match planted!("bug-purge-past-flushed") {
            true => Ok(shard.state().applied),
            false => shard.flushed(),
        });
        let flushed = flushed.await?.position;
        self.flushed_seen.store(flushed.map_or(0, |position| position.index), Ordering::Relaxed);
        Ok(flushed)
    }

    /// The flushed index when the engine was last asked: never waits.
    pub(crate) fn flushed_seen(&self) -> u64 {
        self.flushed_seen.load(Ordering::Relaxed)
    }

    /// A failure after which this node must promise nothing more poisons it; a full disk, a stop, an installation
    /// under way and what a peer sent wrongly do not.
    pub(crate) fn poison_if_fatal(&self, error: &StorageError) {
        match error {
            StorageError::Io { .. }
            | StorageError::Corrupt { .. }
            | StorageError::Poisoned(_)
            | StorageError::Engine(_) => self.health.poison(error.to_string()),
            StorageError::DiskFull(_)
            | StorageError::Refused(_)
            | StorageError::UnknownFormat { .. }
            | StorageError::Installing
            | StorageError::OutOfRange { .. }
            | StorageError::Stopped => {}
        }
    }
}

/// A mark that cannot be read, in the words of the disk.
pub(crate) fn unknown_format(error: super::codec::DecodeError) -> StorageError {
    StorageError::UnknownFormat { what: "a mark of a Raft group", found: error.to_string() }
}

/// A failure of the disk, in openraft's words.
pub(crate) fn to_io(error: StorageError) -> std::io::Error {
    std::io::Error::other(error)
}
