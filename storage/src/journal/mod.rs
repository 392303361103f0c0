//! # Journal: one log for all groups, one fsync for everybody
//!
//! A seam. `file` owns the disk with one OS thread; `mem` is the same format over simulated sectors, driven inline.
//! Both pass [`suite`].
//!
//! ```text
//!   append(group, entries) ─┐                                    ┌▶ done
//!   mark(group, vote)      ─┼─▶ queue ─▶ one batch: one write, ──┼▶ done
//!   append(group, entries) ─┘            one sync                └▶ done
//! ```
//!
//! What arrives during a sync rides the next one; there is no timer. The journal knows what a log is (entries by
//! index, marks of which the newest counts), so that it can recycle its segments without asking anybody: it copies
//! forward what must survive (rule J4). It does not know what an entry means.
//!
//! A record's way: `shared` and `state` (admission, queue) → `writer` (one batch) → `record`, `segment` (bytes) →
//! `index` (readable, then placed) → `recycle` (copied forward, or gone). A start's way: `recover` → `walk` → `replay`
//! → `rewrite`. The bytes are written down in `docs/storage-format.md`.
//!
//! **Invariant.** What was reported done survives the loss of power; what recovery cuts off was never reported. An
//! entry is readable as soon as `append` returns.
//!
//! **Deliberately absent.** Raft. Votes, committed marks and memberships are bytes here.

mod contents;
mod disk;
mod file;
mod group;
mod index;
mod medium;
mod mem;
mod options;
mod record;
mod recover;
mod recycle;
mod replay;
mod rewrite;
mod segment;
mod shared;
mod spares;
#[cfg(test)]
mod spoiled;
mod state;
mod walk;
mod writer;

#[cfg(any(test, feature = "suite"))]
pub mod suite;

pub use contents::contents;
pub use disk::{MemDisk, SECTOR_BYTES, Unsynced};
pub use file::FileJournal;
pub use mem::MemJournal;
pub use options::JournalOptions;
pub use writer::Step;

use crate::error::StorageError;
use bytes::Bytes;
use kvorum_api::GroupId;
use std::ops::Range;

/// The number of a batch: grows by one per sync, over all lives of the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchNumber(pub u64);

/// One entry of one group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its index in the group's log.
    pub index: u64,
    /// The Raft term under which it was written.
    pub term: u64,
    /// Its bytes.
    pub payload: Bytes,
}

/// Something of a group of which only the newest counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// For whom and in which term this replica voted.
    Vote(Bytes),
    /// How far the group has committed, as this replica knew it. With `Completion::None` it asks for no sync of its
    /// own: it rides the next one.
    Committed(Bytes),
    /// Everything up to `index` is forgotten; `log_id` is its full name.
    Purged {
        /// The last index forgotten.
        index: u64,
        /// Its log id, encoded by the owner.
        log_id: Bytes,
    },
    /// Every entry after `index` is void (`None`: all of them).
    TruncatedAfter(Option<u64>),
    /// A snapshot installation has begun; it is open until [`Mark::InstallDone`].
    InstallBegin(Bytes),
    /// The installation that was open is complete. The log continues after `index`.
    InstallDone,
    /// The replica is gone: its entries and marks may be forgotten.
    ReplicaRemoved,
    /// Whose log, vote and rows the group's data are: the replica's id, before anything else of it.
    Replica(u64),
    /// A note of the owner's own, under [`NODE_GROUP`]: what the node must remember about its peers and its clock.
    Note(Bytes),
}

/// The group under which a node keeps its own notes. It has no entries.
pub const NODE_GROUP: GroupId = GroupId(u64::MAX);

/// Who is told when something is durable.
///
/// On success a `Watermark` is told only if it is the newest of its group in its batch: it stands for all before it
/// (rule J5). On failure everybody is told.
pub enum Completion {
    /// Nobody waits.
    None,
    /// Told at most once per sync and group: the newest stands for the older ones.
    Watermark(Box<dyn FnOnce(Result<(), StorageError>) + Send>),
    /// Always told.
    Signal(Box<dyn FnOnce(Result<(), StorageError>) + Send>),
}

/// What the journal knows of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Newest vote.
    pub vote: Option<Bytes>,
    /// Newest committed mark.
    pub committed: Option<Bytes>,
    /// Newest purge mark: last index forgotten and its log id.
    pub purged: Option<(u64, Bytes)>,
    /// First and last index present, both inclusive; `None` = no entries.
    pub entries: Option<(u64, u64)>,
    /// An installation that was begun and not finished.
    pub installing: Option<Bytes>,
    /// Newest note.
    pub note: Option<Bytes>,
    /// Whose data it is, if that was said.
    pub replica: Option<u64>,
}

/// Figures of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalStatus {
    /// Segments in use.
    pub segments: u64,
    /// Bytes in use, in whole segments.
    pub bytes: u64,
    /// The last batch known durable.
    pub last_synced: BatchNumber,
    /// Syncs since start.
    pub syncs: u64,
    /// Records since start.
    pub records: u64,
    /// Microseconds for which the oldest record that somebody may wait for has not been synced; 0 = there is none (rule
    /// J6).
    pub sync_pending_us: u64,
    /// The first failure, after which nothing is promised any more.
    pub poisoned: Option<String>,
}

/// The log of one node. Cheap to call from async code: nothing here waits for a sync; `entries` may wait for a read,
/// and `append` for a moment when more is queued than there is prewritten space. Completions are told on the writer's
/// thread, or, by a journal without one, on the caller's before the call returns: a caller holds no lock that they
/// want.
pub trait Journal: Send + Sync + 'static {
    /// Queues entries of one group. Indexes follow each other and the group's last one. Readable on return, durable
    /// when `done` is told.
    ///
    /// # Errors
    /// Poisoned, stopped, disk full, or a record larger than a segment (nothing was queued; `done` is dropped untold).
    ///
    /// # Panics
    /// If the entries leave a gap: that is a defect of the caller, and a log with a hole could not be told from rot.
    fn append(&self, group: GroupId, entries: Vec<LogRecord>, done: Completion) -> Result<(), StorageError>;

    /// Queues a mark, in order with everything else of the group. Its effect on reads is immediate.
    ///
    /// # Errors
    /// As [`Journal::append`].
    fn mark(&self, group: GroupId, mark: Mark, done: Completion) -> Result<(), StorageError>;

    /// Entries with indexes in `range`, from its start, until `bytes_max` is reached (at least one if there is one).
    ///
    /// # Errors
    /// An I/O failure, or corruption found while reading.
    fn entries(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogRecord>, StorageError>;

    /// What is known of a group; all empty for one never seen.
    fn group(&self, group: GroupId) -> GroupState;

    /// Every group with anything in the journal. Looks at every group: for a start.
    fn groups(&self) -> Vec<GroupId>;

    /// Tells `done` once everything queued for `group` up to the entry `index` is durable here (at once if it is), and
    /// with it the number of the batch that holds it (rules J2, J3).
    fn when_durable(&self, group: GroupId, index: u64, done: Box<dyn FnOnce(Result<BatchNumber, StorageError>) + Send>);

    /// The last batch known durable, which every envelope carries (rule J7). One load: asked as often as anybody likes.
    fn last_synced(&self) -> BatchNumber;

    /// Figures, the last synced batch among them. As cheap for a hundred thousand groups as for one.
    fn status(&self) -> JournalStatus;

    /// Who holds the oldest segment, if it is not the only one: the group with most bytes in it, and its last index
    /// there. Looks at every group: for people who wonder why the journal does not shrink.
    fn oldest_held_by(&self) -> Option<(GroupId, u64)>;

    /// Refuses further records, syncs what is queued, releases the files.
    fn stop(&self);
}
