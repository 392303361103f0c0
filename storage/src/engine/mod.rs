//! # Engine: ordered bytes of one node
//!
//! A seam. `rocks` is RocksDB without its write-ahead log (the journal is the log); `mem` is ordered maps that can lose
//! power. Both pass [`suite`].
//!
//! ```text
//!   write ──▶ visible at once, in memory ──flush──▶ durable, all columns together
//! ```
//!
//! **Invariant.** A batch is visible wholly or not at all, and durable wholly or not at all: flushing is atomic over
//! all columns, so a position key that is durable proves that everything applied up to it is durable too.

pub mod batch;
pub mod mem;
mod order;
#[cfg(feature = "rocks")]
pub mod rocks;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

pub use batch::{Batch, Edit};

use crate::error::StorageError;
use bytes::Bytes;
use std::sync::Arc;

/// A column family. Numbers are on disk: append only, never reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Column {
    /// The newest entry of each key.
    Data = 1,
    /// The diary.
    Changes = 2,
    /// Positions, replicated shard state, request outcomes, expiry index.
    Meta = 3,
    /// Reserved: older versions, for reads in the past.
    History = 4,
    /// Reserved: transactions.
    Locks = 5,
}

impl Column {
    /// Every column, in number order.
    pub const ALL: [Column; 5] = [Column::Data, Column::Changes, Column::Meta, Column::History, Column::Locks];

    /// Its name in the engine.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Column::Data => "data",
            Column::Changes => "changes",
            Column::Meta => "meta",
            Column::History => "history",
            Column::Locks => "locks",
        }
    }

    /// Its place in an array with one element a column.
    #[must_use]
    pub const fn slot(self) -> usize {
        self as usize - 1
    }
}

/// Keys from `start` (inclusive) to `end` (exclusive; `None` = to the end of the column).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key.
    pub start: Vec<u8>,
    /// First key beyond.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// From `start` (inclusive) to `end` (exclusive; `None` = to the end of the column).
    #[must_use]
    pub fn new(start: impl Into<Vec<u8>>, end: Option<impl Into<Vec<u8>>>) -> Self {
        KeyRange { start: start.into(), end: end.map(Into::into) }
    }

    /// The whole column.
    #[must_use]
    pub fn all() -> Self {
        KeyRange { start: Vec::new(), end: None }
    }

    /// Every key that begins with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let start = prefix.into();
        // The first key beyond: the prefix without its trailing 0xff bytes, its last byte one higher.
        let end = start.iter().rposition(|byte| *byte != 0xff).map(|last| {
            let mut end = start[..=last].to_vec();
            end[last] += 1;
            end
        });
        KeyRange { start, end }
    }

    /// Whether a key lies in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_deref().is_none_or(|end| key < end)
    }

    /// Whether no key can lie in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_deref().is_some_and(|end| end <= self.start.as_slice())
    }
}

/// Which way a cursor walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Reverse,
}

/// What a read that must not wait for the disk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached {
    /// The answer (which may be "nothing there").
    Known(Option<Bytes>),
    /// The disk would have to be asked: use the blocking pool.
    WouldBlock,
}

/// Files of sorted rows, written and synced, that can be taken into the engine as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageManifest {
    /// Names the stage on this node, for ever.
    pub id: u64,
    /// Its files.
    pub files: Vec<StageFile>,
}

/// One file of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageFile {
    /// Column its rows belong to.
    pub column: Column,
    /// Its name inside the stage's directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// CRC-32 of its bytes.
    pub crc: u32,
}

/// Ordered bytes of one node. Every call may wait for the disk unless it says otherwise: callers on an async runtime go
/// through [`crate::Blocking`].
pub trait Engine: Send + Sync + 'static {
    /// The value of a key now.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// The value of a key now, without waiting for the disk.
    fn get_cached(&self, column: Column, key: &[u8]) -> Result<Cached, StorageError>;

    /// The value of a key as of the last flush: what a crash now would leave behind.
    fn get_persisted(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Everything as of now, unmoved by later writes. Holding one keeps old bytes alive: give it a deadline.
    fn view(&self) -> Arc<dyn View>;

    /// Applies a batch: atomic, visible on return, *not* durable.
    fn write(&self, batch: &Batch) -> Result<(), StorageError>;

    /// Makes everything written so far durable, all columns together.
    fn flush(&self) -> Result<(), StorageError>;

    /// Begins a stage: sorted files that [`Engine::ingest`] takes in. An existing stage of that id is replaced.
    fn stage(&self, id: u64) -> Result<Box<dyn Stage>, StorageError>;

    /// Checks that every file of a stage is there with its size and checksum.
    fn verify_stage(&self, manifest: &StageManifest) -> Result<(), StorageError>;

    /// Takes the rows of a verified stage in, durably, and with them everything written before: no staged row is
    /// durable where an earlier write is not. Repeating it is harmless. The stage's files stay until
    /// [`Engine::discard_stage`].
    fn ingest(&self, manifest: &StageManifest) -> Result<(), StorageError>;

    /// The stages that lie on the disk.
    fn stages(&self) -> Result<Vec<u64>, StorageError>;

    /// Removes a stage; one that is not there is no error.
    fn discard_stage(&self, id: u64) -> Result<(), StorageError>;

    /// The first background failure (flush, compaction), if any: the node must poison itself.
    fn background_error(&self) -> Option<StorageError>;

    /// Figures for `/metrics` and status.
    fn stats(&self) -> EngineStats;

    /// About how many bytes lie in each of these ranges of a column, without reading them: good enough to weigh shards
    /// against each other, never to be decided on by a protocol.
    fn estimate(&self, column: Column, ranges: &[KeyRange]) -> Vec<u64>;
}

/// An unmoving view of the engine.
pub trait View: Send + Sync {
    /// The value of a key in this view.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Walks a range of this view. `fill_cache` is false for walks that touch much and come once.
    fn cursor(&self, column: Column, range: KeyRange, direction: Direction) -> Box<dyn Cursor>;
}

/// Walks rows in key order. Owns its view.
pub trait Cursor: Send {
    /// The next row, or `None` at the end.
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, StorageError>;
}

/// Writes the files of one stage. Rows arrive in ascending key order within a column, one column after the other.
pub trait Stage: Send {
    /// Adds one row.
    fn put(&mut self, column: Column, key: &[u8], value: &[u8]) -> Result<(), StorageError>;

    /// Finishes and syncs all files and their directory.
    fn finish(self: Box<Self>) -> Result<StageManifest, StorageError>;
}

/// Figures of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Bytes written but not flushed.
    pub memory_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes of the block cache in use.
    pub cache_bytes: u64,
    /// Whether writes are being slowed down.
    pub is_stalled: bool,
}
