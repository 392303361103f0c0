//! # MemJournal: the journal over simulated sectors
//!
//! The same code and the same bytes as `file`, driven by whoever calls it. *Automatic*: everything that somebody may
//! wait for is written, synced and told before `append` or `mark` returns. *Stepped*: records wait until
//! [`MemJournal::step`], so that a simulator can let time pass, or the power fail, between a write and its sync.
//!
//! **Invariant.** No thread, no clock but tokio's, no chance: the same calls give the same bytes.

use super::disk::MemDisk;
use super::record::Content;
use super::recover;
use super::shared::Shared;
use super::state::{Lack, State};
use super::writer::{Step, Writer};
use super::{BatchNumber, Completion, GroupState, Journal, JournalOptions, JournalStatus, LogRecord, Mark};
use crate::error::StorageError;
use kvorum_api::GroupId;
use parking_lot::{MutexGuard, ReentrantMutex};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// A journal in memory. See the module.
pub struct MemJournal {
    shared: Arc<Shared>,
    /// `None` once stopped. Other threads wait for it; a completion that comes back on the same thread finds it
    /// borrowed.
    writer: ReentrantMutex<RefCell<Option<Writer>>>,
    disk: MemDisk,
    is_stepped: bool,
}

impl MemJournal {
    /// Opens the journal on `disk`; every record is synced before the call that brought it returns, unless the disk is
    /// stalled (then it is once [`MemJournal::run`] or the next call finds the disk running). Completions are told on
    /// the caller's thread.
    ///
    /// # Errors
    /// The disk is in use, or its bytes are not a journal's.
    pub fn open(disk: MemDisk, options: JournalOptions) -> Result<Arc<MemJournal>, StorageError> {
        let journal = MemJournal::make(disk, options, false)?;
        journal.run();
        Ok(journal)
    }

    /// Opens the journal on `disk`; records wait for [`MemJournal::step`].
    ///
    /// # Errors
    /// As [`MemJournal::open`].
    pub fn open_stepped(disk: MemDisk, options: JournalOptions) -> Result<Arc<MemJournal>, StorageError> {
        MemJournal::make(disk, options, true)
    }

    fn make(disk: MemDisk, options: JournalOptions, is_stepped: bool) -> Result<Arc<MemJournal>, StorageError> {
        let Some(medium) = disk.take() else {
            let why = "another journal has it open".to_owned();
            return Err(StorageError::Io { operation: "lock", path: "memory".into(), why });
        };
        let writer = recover::open(Box::new(medium), options)?;
        let shared = writer.shared.clone();
        Ok(Arc::new(MemJournal { shared, writer: ReentrantMutex::new(RefCell::new(Some(writer))), disk, is_stepped }))
    }

    /// The disk it was opened on.
    #[must_use]
    pub fn disk(&self) -> &MemDisk {
        &self.disk
    }

    /// Does the next thing: writes what is queued as one batch, or syncs the batch that was written and tells
    /// everybody. A stalled disk does not sync.
    pub fn step(&self) -> Step {
        let owned = self.writer.lock();
        // A completion that comes back here leaves the work to whoever told it.
        let Ok(mut borrowed) = owned.try_borrow_mut() else { return Step::Idle };
        let Some(writer) = borrowed.as_mut() else { return Step::Idle };
        if writer.is_unsynced() && self.disk.is_stalled() {
            return Step::Idle;
        }
        let step = writer.step();
        if step == Step::Idle && writer.is_short_of_spares() {
            writer.prepare(false);
        }
        step
    }

    /// Steps until nothing is left to do, or the disk is stalled.
    pub fn run(&self) {
        while self.step() != Step::Idle {}
    }

    fn submit(&self, group: GroupId, contents: Vec<Content>, done: Completion) -> Result<(), StorageError> {
        self.shared.submit(group, contents, done, &|state, lack| self.make_room(state, lack))?;
        self.drive();
        Ok(())
    }

    fn drive(&self) {
        if !self.is_stepped {
            self.run();
        }
    }

    fn make_room(&self, state: &mut MutexGuard<'_, State>, lack: Lack) -> Result<(), StorageError> {
        state.room.spares_wanted = lack.spares;
        MutexGuard::unlocked(state, || {
            let owned = self.writer.lock();
            if let Ok(mut borrowed) = owned.try_borrow_mut() {
                borrowed.iter_mut().for_each(|writer| writer.prepare(false));
            }
        });
        if state.room.spares >= lack.spares {
            return Ok(());
        }
        state.room.spares_wanted = 0;
        let why = state.room.full.clone();
        Err(StorageError::DiskFull(why.unwrap_or_else(|| "no prewritten segment is ready".to_owned())))
    }
}

impl Journal for MemJournal {
    fn append(&self, group: GroupId, entries: Vec<LogRecord>, done: Completion) -> Result<(), StorageError> {
        if entries.is_empty() {
            self.shared.submit_nothing(group, done)?;
            self.drive();
            return Ok(());
        }
        self.submit(group, entries.into_iter().map(Content::Entry).collect(), done)
    }

    fn mark(&self, group: GroupId, mark: Mark, done: Completion) -> Result<(), StorageError> {
        self.submit(group, vec![Content::Mark(mark)], done)
    }

    fn entries(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogRecord>, StorageError> {
        self.shared.entries(group, range, bytes_max)
    }

    fn group(&self, group: GroupId) -> GroupState {
        self.shared.state.lock().index.state(group)
    }

    fn groups(&self) -> Vec<GroupId> {
        self.shared.state.lock().index.groups()
    }

    fn when_durable(
        &self,
        group: GroupId,
        index: u64,
        done: Box<dyn FnOnce(Result<BatchNumber, StorageError>) + Send>,
    ) {
        self.shared.when_durable(group, index, done);
        self.drive();
    }

    fn last_synced(&self) -> BatchNumber {
        self.shared.last_synced()
    }

    fn oldest_held_by(&self) -> Option<(GroupId, u64)> {
        self.shared.state.lock().oldest_held_by()
    }

    fn status(&self) -> JournalStatus {
        self.shared.state.lock().status()
    }

    fn stop(&self) {
        self.shared.state.lock().is_stopped = true;
        self.run();
        let owned = self.writer.lock();
        let Some(mut writer) = owned.try_borrow_mut().ok().and_then(|mut borrowed| borrowed.take()) else { return };
        if writer.is_unsynced() {
            writer.poison(&StorageError::Stopped);
        }
        writer.finish();
        drop(writer);
        self.shared.release();
    }
}
