//! # Shard: the only door to user data
//!
//! A shard is a map from keys to entries that changes in one way: the group agrees on a log, and every replica applies
//! the log's entries in order. This file is the door; behind it:
//!
//! ```text
//!    log entries ──▶ apply ──────────────────────────────────────────────────────┐
//!                      │  run        entry by entry, command by command          │
//!                      │  clients    was this request here before?               │  one batch,
//!                      │  evaluate   what would it do? (pure)                    │  atomic
//!                      │  draft      the batch so far, over the engine           ▼
//!                                            ┌──────────────────────────────────────────────────┐
//!                                            │ data     rows                                    │
//!    reads ──▶ get, scan ───────────────────▶│ changes  the diary, one record per change        │
//!    watchers ──▶ changes ──────────────────▶│ meta     position │ replicated scalars │ expiry  │
//!    another replica ──▶ snapshot ──────────▶│          index │ clients │ outcomes │ diary ends │
//!                        receive ─▶ install ▶└──────────────────────────────────────────────────┘
//! ```
//!
//! **The story of one write.** The leader packs commands into a [`Proposal`](crate::command::Proposal) with its clock
//! and stamp, and the group agrees. [`Shard::apply`] raises the shard's *logged time* to the proposal's, so that from
//! here on no clock is asked: what is due, what is too old, follows from the log. A command that names a request id is
//! first looked up: remembered, it gets the outcome it got then; too old or below the client's floor, it is refused;
//! else it goes on. `evaluate` judges its operations against the rows, later ones seeing earlier ones, and says what
//! would become of each row, or which operation failed, and then nothing happens. Each row that changes gets a version,
//! the proposer's stamp or one above the shard's last, whichever is larger, and a record in the diary. At the end of
//! the entry the *rolling hash* is chained over everything that was edited, and at the end of the run rows, records,
//! outcomes, hash and position go to the engine as one batch.
//!
//! **What a crash leaves.** The engine has no log of its own: a crash takes it back to its last flush, and there
//! position, rows, diary and hash agree, because they were one batch. The group then applies the log from that position
//! again, and comes out where it was, to the byte. [`Shard::flushed`] says where that is.
//!
//! **Who may be here at once.** One writer (`apply`, `install`, trimming) under a lock, any number of readers beside
//! it. Readers take the published state before the engine is asked and look again afterwards: if a batch came between,
//! they read rows and state from one view, so that every answer is of exactly the position it names; if the shard was
//! being replaced under them, they are refused.
//!
//! **Invariant.** User data changes only here: through `apply`, and through its two chores, `install` and
//! `collect_changes`. `apply` sees the entry and the replicated state, nothing else.
//!
//! **Deliberately absent.** The network, clocks, chance, and any opinion on who may read: levels are the replicator's.

mod chunk;
mod clients;
mod collect;
mod draft;
mod evaluate;
mod install;
mod logged;
#[cfg(test)]
mod neighbours;
pub mod orphans;
#[cfg(test)]
mod properties;
mod receive;
mod remove;
mod run;
mod scan;
mod snapshot;
#[cfg(test)]
mod spoiled;
mod state;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

pub use collect::Collected;
pub use logged::{LoggedEntry, Step};
pub use receive::{SnapshotReceiver, StagedSnapshot};
pub use run::{BEHAVIOUR, EXPIRED_PER_COMMAND_MAX};
pub use scan::{Row, Scan, ScanRange};
pub use snapshot::ShardSnapshot;
pub use state::{Applied, ShardSpec, ShardState};

use crate::{
    changelog::ChangeReader,
    command::Outcome,
    engine::{Cached, Column, Engine, View},
    entry::Entry,
    error::StorageError,
    keys::{self, MetaKind},
};
use bytes::Bytes;
use clients::Clients;
use kvorum_api::{KeyspaceId, LogPosition, ShardId};
use parking_lot::{Mutex, RwLock};
use run::{Run, require_known};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::watch;

/// What a lookup found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The entry, if there is one.
    pub entry: Option<Entry>,
    /// Where the replica stood: the answer holds everything decided up to here, and nothing beyond.
    pub position: Option<LogPosition>,
}

/// What a lookup that must not wait found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The answer.
    Known(Answer),
    /// The disk would have to be asked, or a batch is being written: ask again on the blocking pool, with
    /// [`Shard::get`].
    WouldBlock,
}

/// One shard on this node.
pub struct Shard {
    spec: ShardSpec,
    engine: Arc<dyn Engine>,
    /// Held by whoever changes the shard, with what only a writer needs.
    writer: Mutex<Clients>,
    /// Held by whoever trims the diary.
    collecting: Mutex<()>,
    /// What the engine holds, as of the last batch.
    state: RwLock<ShardState>,
    /// Odd while everything is being replaced; another number afterwards than before.
    installs: AtomicU64,
    /// Odd while a batch is on its way from the engine to the published state; another number afterwards than before.
    batches: AtomicU64,
    applied: watch::Sender<Option<LogPosition>>,
    /// The seq the next change will get, for readers of the diary that wait.
    tail: watch::Sender<u64>,
}

impl Shard {
    /// Opens a shard as the engine holds it.
    ///
    /// # Errors
    /// The engine's, or a format this build does not know.
    ///
    /// # Panics
    /// If the shard or the keyspace has the last number, which is reserved.
    pub fn open(engine: Arc<dyn Engine>, spec: ShardSpec) -> Result<Arc<Shard>, StorageError> {
        let is_numbered = spec.shard < ShardId(u64::MAX) && spec.keyspace < KeyspaceId(u32::MAX);
        assert!(is_numbered, "the last shard and the last keyspace are reserved");
        let shard = Shard {
            spec,
            engine,
            writer: Mutex::new(Clients::new(spec.shard)),
            collecting: Mutex::new(()),
            state: RwLock::new(ShardState::default()),
            installs: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            applied: watch::Sender::new(None),
            tail: watch::Sender::new(0),
        };
        shard.publish(shard.load()?);
        Ok(Arc::new(shard))
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> ShardSpec {
        self.spec
    }

    /// Applies entries of the log, in order, as one batch: entries, change records, outcomes, rolling hash, position.
    /// One list of outcomes per entry, one outcome per command. Entries at or below the position are refused by an
    /// assertion: the caller replays from `applied`.
    ///
    /// # Errors
    /// The engine's, `Installing`, or a behaviour version this build does not know. Nothing was applied then.
    ///
    /// # Panics
    /// If an entry was applied before, or a write comes before the founding `Configure` (rule C1).
    pub fn apply(&self, entries: &[LoggedEntry]) -> Result<Vec<Vec<Outcome>>, StorageError> {
        let mut clients = self.writer.lock();
        let state = self.state();
        if state.is_installing {
            return Err(StorageError::Installing);
        }
        if let Some(settings) = &state.settings {
            require_known(settings)?;
        }
        let applied = self.apply_to(state, entries, &mut clients);
        if applied.is_err() {
            // They may remember what was never written.
            clients.clear();
        }
        applied
    }

    fn apply_to(
        &self,
        state: ShardState,
        entries: &[LoggedEntry],
        clients: &mut Clients,
    ) -> Result<Vec<Vec<Outcome>>, StorageError> {
        let mut run = Run::new(&*self.engine, self.spec, state, clients);
        let outcomes = entries.iter().map(|entry| run.entry(entry)).collect::<Result<_, _>>()?;
        let (batch, state) = run.finish()?;
        self.batches.fetch_add(1, Ordering::SeqCst);
        let written = self.engine.write(&batch).map(|()| self.publish(state));
        self.batches.fetch_add(1, Ordering::SeqCst);
        written.map(|()| outcomes)
    }

    /// Drops what it keeps in memory for writes to come; the next write reads it again. For a shard that has become
    /// idle: cheap, and nothing at all while somebody writes.
    pub fn rest(&self) {
        if let Some(mut clients) = self.writer.try_lock() {
            clients.clear();
        }
    }

    /// Where it stands and what it knows; from memory, never waits.
    #[must_use]
    pub fn state(&self) -> ShardState {
        let mut state = self.state.read().clone();
        state.is_installing = self.installs.load(Ordering::SeqCst) % 2 == 1;
        state
    }

    /// Follows the applied position.
    #[must_use]
    pub fn watch_applied(&self) -> watch::Receiver<Option<LogPosition>> {
        self.applied.subscribe()
    }

    /// What a crash now would leave behind: the position key, read with the persisted read tier. May wait for the disk.
    ///
    /// # Errors
    /// The engine's.
    pub fn flushed(&self) -> Result<Applied, StorageError> {
        let key = keys::meta_key(MetaKind::Position, self.spec.shard);
        self.engine.get_persisted(Column::Meta, &key)?.map_or_else(|| Ok(Applied::default()), Applied::decode)
    }

    /// The entry of a key, gone ones left out by the shard's logged time. May wait for the disk.
    ///
    /// # Errors
    /// The engine's, `Installing`, or `OutOfRange` (rule C3).
    pub fn get(&self, key: &[u8]) -> Result<Answer, StorageError> {
        let data_key = keys::data_key(self.spec.keyspace, key);
        let settled = self.unmoved(|| {
            self.between_batches(|| {
                let Some(basis) = self.basis(key)? else { return Ok(Answer::default()) };
                basis.judge(self.engine.get(Column::Data, &data_key)?)
            })
        })?;
        match settled {
            Some(answer) => Ok(answer),
            None => self.get_pinned(key, &data_key),
        }
    }

    /// The same without waiting for the disk.
    ///
    /// # Errors
    /// As [`Shard::get`].
    pub fn get_cached(&self, key: &[u8]) -> Result<Lookup, StorageError> {
        let data_key = keys::data_key(self.spec.keyspace, key);
        let settled = self.unmoved(|| {
            self.between_batches(|| {
                let Some(basis) = self.basis(key)? else { return Ok(Lookup::Known(Answer::default())) };
                match self.engine.get_cached(Column::Data, &data_key)? {
                    Cached::Known(stored) => basis.judge(stored).map(Lookup::Known),
                    Cached::WouldBlock => Ok(Lookup::WouldBlock),
                }
            })
        })?;
        Ok(settled.unwrap_or(Lookup::WouldBlock))
    }

    /// Row and position from one view, while batches come and go.
    fn get_pinned(&self, key: &[u8], data_key: &[u8]) -> Result<Answer, StorageError> {
        let (view, state) = self.pinned()?;
        match Basis::of(&state, key)? {
            Some(basis) => basis.judge(view.get(Column::Data, data_key)?),
            None => Ok(Answer::default()),
        }
    }

    /// A scan over one unmoving view, at one position; of what is asked for, the part that is the shard's own.
    ///
    /// # Errors
    /// The engine's, or `Installing`.
    pub fn scan(&self, range: ScanRange) -> Result<Scan, StorageError> {
        let (view, state) = self.pinned()?;
        Ok(Scan::over(&*view, self.spec, &state, &range))
    }

    /// Reads the diary from `next_seq` on; a seq that has not been given out yet is waited for.
    #[must_use]
    pub fn changes(self: &Arc<Self>, next_seq: u64) -> ChangeReader {
        ChangeReader::new(self.clone(), next_seq, self.tail.subscribe())
    }

    /// A pinned view of everything, its metadata taken from inside the view (rule S1).
    ///
    /// # Errors
    /// The engine's, or `Installing`.
    pub fn snapshot(&self) -> Result<ShardSnapshot, StorageError> {
        self.unmoved(|| ShardSnapshot::over(self.engine.view(), self.spec))
    }

    /// Begins to receive a snapshot of this shard into stage `stage` (rules S3, S4).
    ///
    /// # Errors
    /// The engine's.
    pub fn receive_snapshot(&self, stage: u64) -> Result<SnapshotReceiver, StorageError> {
        SnapshotReceiver::begin(&*self.engine, self.spec, stage)
    }

    /// Refuses reads and applies until [`Shard::install`] has succeeded: a start found an open `InstallBegin`.
    pub fn begin_installing(&self) {
        self.installs.fetch_or(1, Ordering::SeqCst);
    }

    fn end_installing(&self) {
        self.installs.fetch_add(1, Ordering::SeqCst);
    }

    /// A view, and the state inside it.
    pub(crate) fn pinned(&self) -> Result<(Arc<dyn View>, ShardState), StorageError> {
        self.unmoved(|| {
            let view = self.engine.view();
            let state = ShardState::in_view(&*view, self.spec)?;
            Ok((view, state))
        })
    }

    /// Reads only while nothing is being installed.
    fn unmoved<T>(&self, read: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
        let installs = self.installs.load(Ordering::SeqCst);
        if installs % 2 == 1 {
            return Err(StorageError::Installing);
        }
        let answer = read()?;
        if self.installs.load(Ordering::SeqCst) != installs {
            return Err(StorageError::Installing);
        }
        Ok(answer)
    }

    /// Reads only if no batch comes between the published state and the rows; `None` = one did. A row may be read
    /// before the position that goes with it is published, and a session that saw the one must not be told the other.
    fn between_batches<T>(&self, read: impl FnOnce() -> Result<T, StorageError>) -> Result<Option<T>, StorageError> {
        let batches = self.batches.load(Ordering::SeqCst);
        if batches % 2 == 1 {
            return Ok(None);
        }
        let answer = read()?;
        Ok((self.batches.load(Ordering::SeqCst) == batches).then_some(answer))
    }

    /// What the row of a key is judged by, as published.
    fn basis(&self, key: &[u8]) -> Result<Option<Basis>, StorageError> {
        Basis::of(&self.state.read(), key)
    }

    /// Everything the engine holds of the state.
    fn load(&self) -> Result<ShardState, StorageError> {
        let view = self.engine.view();
        let mut state = ShardState::in_view(&*view, self.spec)?;
        state.next_expiry_ms = ShardState::first_expiry(&*view, self.spec.shard)?;
        Ok(state)
    }

    /// Shows a state to readers, after the engine shows its rows.
    fn publish(&self, state: ShardState) {
        let (position, tail) = (state.applied.position, state.change_next_seq);
        *self.state.write() = state;
        self.applied.send_if_modified(|applied| std::mem::replace(applied, position) != position);
        self.tail.send_if_modified(|seen| std::mem::replace(seen, tail) != tail);
    }
}

/// What a row is judged by: logged time and position of one state.
struct Basis {
    time_ms: u64,
    position: Option<LogPosition>,
}

impl Basis {
    /// `None` = a pristine shard has no rows.
    fn of(state: &ShardState, key: &[u8]) -> Result<Option<Self>, StorageError> {
        let Some(settings) = &state.settings else { return Ok(None) };
        if !settings.range.contains(key) {
            return Err(StorageError::OutOfRange { epoch: settings.epoch });
        }
        Ok(Some(Basis { time_ms: state.logged_time_ms, position: state.applied.position }))
    }

    /// What is stored, unless it is gone by then.
    fn judge(&self, stored: Option<Bytes>) -> Result<Answer, StorageError> {
        let entry = stored.map(Entry::decode).transpose()?;
        Ok(Answer { entry: entry.filter(|entry| !entry.is_gone(self.time_ms)), position: self.position })
    }
}
