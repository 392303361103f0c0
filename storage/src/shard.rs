//! # Shard: the only door to user data

use crate::{
    command::{Outcome, Proposal, Settings},
    engine::{Engine, StageManifest},
    entry::Entry,
    error::StorageError,
    journal::BatchNumber,
};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, LogPosition, ShardId, Version};
use std::sync::Arc;
use tokio::sync::watch;

/// One entry of the log, ready to be applied.
#[derive(Clone, Debug)]
pub struct LoggedEntry {
    /// Where it stands in the log.
    pub position: LogPosition,
    /// The journal batch that holds it on this node.
    pub batch: BatchNumber,
    /// What it does.
    pub step: Step,
}

/// What an entry of the log does to the shard.
#[derive(Clone, Debug)]
pub enum Step {
    /// Nothing but move the position (a new leader's first entry).
    Blank,
    /// The group has new members; the bytes are the consensus crate's and are kept with the position.
    Membership(Bytes),
    /// Commands.
    Commands(Proposal),
}

/// Where a replica stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry applied; `None` = nothing yet.
    pub position: Option<LogPosition>,
    /// The journal batch that held it.
    pub batch: BatchNumber,
    /// The newest membership applied, as the consensus crate encoded it (with its own log id); empty = none yet.
    pub membership: Bytes,
}

/// What a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSpec {
    /// Its id.
    pub shard: ShardId,
    /// The keyspace it belongs to.
    pub keyspace: KeyspaceId,
}

/// The replicated state of a shard besides its rows, and the ends of its diary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardState {
    /// Where the replica stands.
    pub applied: Applied,
    /// The highest version assigned.
    pub last_version: Version,
    /// The shard's logged time, Unix milliseconds: expiry and request-id ages are judged by it alone.
    pub logged_time_ms: u64,
    /// When the next entry is due, by logged time.
    pub next_expiry_ms: Option<u64>,
    /// Chained over everything applied: equal at equal positions on every replica.
    pub rolling_hash: u128,
    /// Replicated settings; `None` until the founding `Configure` is applied.
    pub settings: Option<Settings>,
    /// The oldest change this replica still has.
    pub change_oldest_seq: u64,
    /// The seq the next change will get.
    pub change_next_seq: u64,
    /// Whether a snapshot is being installed: reads and applies are refused.
    pub is_installing: bool,
}

/// What a lookup that must not wait for the disk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The answer.
    Known(Option<Entry>),
    /// Ask again on the blocking pool, with [`Shard::get`].
    WouldBlock,
}

/// What a scan walks, in placement keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanRange {
    /// First key, inclusive; empty = from the first.
    pub start: Bytes,
    /// First key beyond; `None` = to the last.
    pub end: Option<Bytes>,
    /// Whether to walk downwards.
    pub reverse: bool,
    /// Whether to leave the values out.
    pub keys_only: bool,
}

/// One row of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its placement key.
    pub key: Bytes,
    /// What is stored there.
    pub entry: Entry,
}

/// One shard on this node.
pub struct Shard {}

/// A scan over one unmoving view.
pub struct Scan {}

/// A pinned view of a whole shard, to be sent to another replica. Making one costs nothing; holding one keeps old bytes.
pub struct ShardSnapshot {}

/// Takes the chunks of a [`ShardSnapshot`] in, on another node.
pub struct SnapshotReceiver {}

/// A snapshot that lies complete, verified and synced in this node's stage, ready to be installed; survives a crash
/// through [`StagedSnapshot::encode`] in the journal's `InstallBegin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedSnapshot {
    /// The shard.
    pub spec: ShardSpec,
    /// Where it stands.
    pub applied: Applied,
    /// Its files.
    pub manifest: StageManifest,
}

#[expect(unused_variables, reason = "signatures first")]
impl Shard {
    /// Opens a shard as the engine holds it.
    ///
    /// # Errors
    /// The engine's, or a format this build does not know.
    pub fn open(engine: Arc<dyn Engine>, spec: ShardSpec) -> Result<Arc<Shard>, StorageError> {
        unimplemented!()
    }

    /// What it is.
    pub fn spec(&self) -> ShardSpec {
        unimplemented!()
    }

    /// Applies entries of the log, in order, as one batch: entries, change records, outcomes, rolling hash, position.
    /// One list of outcomes per entry, one outcome per command. Entries at or below the position are refused by an
    /// assertion: the caller replays from `applied`.
    ///
    /// # Errors
    /// The engine's, `Installing`, or a behaviour version this build does not know. Nothing was applied then.
    pub fn apply(&self, entries: &[LoggedEntry]) -> Result<Vec<Vec<Outcome>>, StorageError> {
        unimplemented!()
    }

    /// Where it stands and what it knows; from memory, never waits.
    pub fn state(&self) -> ShardState {
        unimplemented!()
    }

    /// Follows the applied position.
    pub fn watch_applied(&self) -> watch::Receiver<Option<LogPosition>> {
        unimplemented!()
    }

    /// What a crash now would leave behind: the position key, read with the persisted read tier. May wait for the disk.
    ///
    /// # Errors
    /// The engine's.
    pub fn flushed(&self) -> Result<Applied, StorageError> {
        unimplemented!()
    }

    /// The entry of a key, gone ones left out by the shard's logged time. May wait for the disk.
    ///
    /// # Errors
    /// The engine's, or `Installing`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Entry>, StorageError> {
        unimplemented!()
    }

    /// The same without waiting for the disk.
    ///
    /// # Errors
    /// As [`Shard::get`].
    pub fn get_cached(&self, key: &[u8]) -> Result<Lookup, StorageError> {
        unimplemented!()
    }

    /// A scan over one unmoving view, at one position.
    ///
    /// # Errors
    /// As [`Shard::get`].
    pub fn scan(&self, range: ScanRange) -> Result<Scan, StorageError> {
        unimplemented!()
    }

    /// A pinned view of everything, its metadata taken from inside the view (rule S1).
    ///
    /// # Errors
    /// The engine's, or `Installing`.
    pub fn snapshot(&self) -> Result<ShardSnapshot, StorageError> {
        unimplemented!()
    }

    /// Begins to receive a snapshot of this shard into stage `stage` (rules S3, S4).
    ///
    /// # Errors
    /// The engine's.
    pub fn receive_snapshot(&self, stage: u64) -> Result<SnapshotReceiver, StorageError> {
        unimplemented!()
    }

    /// Replaces everything by a staged snapshot. A redo: the caller has `InstallBegin` durable before and writes
    /// `InstallDone` after; repeating it is harmless. Reads and applies are refused meanwhile, and after a failure.
    ///
    /// # Errors
    /// The engine's, or a stage that does not verify.
    pub fn install(&self, staged: &StagedSnapshot) -> Result<(), StorageError> {
        unimplemented!()
    }

    /// Refuses reads and applies until [`Shard::install`] has succeeded: a start found an open `InstallBegin`.
    pub fn begin_installing(&self) {
        unimplemented!()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl Scan {
    /// Where the replica stood when the view was taken.
    pub fn position(&self) -> Option<LogPosition> {
        unimplemented!()
    }

    /// The next rows, at least one unless at the end, then until `bytes_max` or `rows_max`. Empty = end. May wait for
    /// the disk.
    ///
    /// # Errors
    /// The engine's.
    pub fn next(&mut self, bytes_max: usize, rows_max: usize) -> Result<Vec<Row>, StorageError> {
        unimplemented!()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl ShardSnapshot {
    /// Where it stands.
    pub fn applied(&self) -> &Applied {
        unimplemented!()
    }

    /// The next chunk (self-describing, checksummed, about `bytes_max`), or `None` after the last. May wait for the disk.
    ///
    /// # Errors
    /// The engine's.
    pub fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, StorageError> {
        unimplemented!()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl SnapshotReceiver {
    /// Takes the next chunk in. Chunks arrive in order.
    ///
    /// # Errors
    /// A chunk that does not verify or is out of order, or the engine's.
    pub fn put_chunk(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        unimplemented!()
    }

    /// After the last chunk: everything verified and synced.
    ///
    /// # Errors
    /// Something is missing, or the engine's.
    pub fn finish(self) -> Result<StagedSnapshot, StorageError> {
        unimplemented!()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl StagedSnapshot {
    /// For `InstallBegin`.
    pub fn encode(&self) -> Bytes {
        unimplemented!()
    }

    /// The reverse.
    ///
    /// # Errors
    /// A format this build does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        unimplemented!()
    }
}
