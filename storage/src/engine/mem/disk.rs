//! The disk under a [`MemEngine`]: what survives the loss of power, and the faults a test asks for.
//!
//! **Invariant.** Only the newest life of the disk reads or changes it; every older one is answered `Stopped`.
//!
//! **Deliberately absent.** Faults by chance: the simulation rolls the dice and calls these methods.

use super::{Columns, MemEngine, stage::MemFiles};
use crate::error::StorageError;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// What survives. Clones are handles of the same disk.
#[derive(Clone, Default)]
pub struct MemDisk {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Counts up with every opening and every loss of power. Read without the lock on the read path.
    life: AtomicU64,
    state: Mutex<DiskState>,
}

/// What lies on the disk, and what is about to go wrong with it.
#[derive(Default)]
pub(super) struct DiskState {
    pub(super) flushed: Columns,
    pub(super) stages: BTreeMap<u64, MemFiles>,
    pub(super) flushes: u64,
    pub(super) background_error: Option<StorageError>,
    next_write_error: Option<StorageError>,
    next_flush_error: Option<StorageError>,
    /// Durable operations until the power fails.
    operations_left: Option<u64>,
    /// Durable operations until the power fails, from the beginning of the next installation.
    operations_left_then: Option<u64>,
}

impl DiskState {
    /// Whether a write may happen now.
    pub(super) fn admit_write(&mut self) -> Result<(), StorageError> {
        if let Some(error) = &self.background_error {
            return Err(error.clone());
        }
        if self.operations_left == Some(0) {
            return Err(StorageError::Stopped);
        }
        self.next_write_error.take().map_or(Ok(()), Err)
    }

    /// Whether a flush may happen now. A failed flush is a background error that stays, as it is in RocksDB.
    pub(super) fn admit_flush(&mut self) -> Result<(), StorageError> {
        self.take_power()?;
        if self.background_error.is_none() {
            self.background_error = self.next_flush_error.take();
        }
        self.background_error.clone().map_or(Ok(()), Err)
    }
}

impl DiskState {
    /// An installation begins: from now on operations are counted if that was asked for.
    pub(super) fn begin_installation(&mut self) {
        self.operations_left = self.operations_left_then.take().or(self.operations_left);
    }

    /// Whether the power lasts for one more durable operation.
    pub(super) fn take_power(&mut self) -> Result<(), StorageError> {
        match &mut self.operations_left {
            Some(0) => Err(StorageError::Stopped),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl MemDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        MemDisk::default()
    }

    /// Starts a new life on this disk with what was flushed. Every life before it is over.
    #[must_use]
    pub fn open(&self) -> Arc<MemEngine> {
        let mut state = self.shared.state.lock();
        state.background_error = None;
        state.operations_left = None;
        let life = self.shared.life.fetch_add(1, Ordering::SeqCst) + 1;
        let now = RwLock::new(state.flushed.clone());
        Arc::new(MemEngine { disk: self.clone(), life, now, unflushed_bytes: AtomicU64::new(0) })
    }

    /// Cuts the power: everything that is not flushed is gone, and the engine that runs on this disk with it.
    pub fn lose_power(&self) {
        let mut state = self.shared.state.lock();
        (state.next_write_error, state.next_flush_error) = (None, None);
        self.shared.life.fetch_add(1, Ordering::SeqCst);
    }

    /// Another disk with the same flushed bytes and stages: a copy of the data directory.
    #[must_use]
    pub fn duplicate(&self) -> MemDisk {
        let state = self.shared.state.lock();
        let copy = MemDisk::new();
        let mut copied = copy.shared.state.lock();
        copied.flushed = state.flushed.clone();
        copied.stages = state.stages.clone();
        drop(copied);
        copy
    }

    /// The next write fails with `error` and changes nothing.
    pub fn fail_next_write(&self, error: StorageError) {
        self.shared.state.lock().next_write_error = Some(error);
    }

    /// The next flush or ingestion fails with `error` and changes nothing; the error stays as the background error.
    pub fn fail_next_flush(&self, error: StorageError) {
        self.shared.state.lock().next_flush_error = Some(error);
    }

    /// After this many flushes, ingestions and changes of stages the power fails: nothing is written any more until the
    /// next life.
    pub fn fail_after_operations(&self, operations: u64) {
        self.shared.state.lock().operations_left = Some(operations);
    }

    /// After this many of those operations of the next installation the power fails. An installation begins where its
    /// stage is verified; what comes before it does not count, nor does the end of a life.
    pub fn fail_in_installation(&self, operations: u64) {
        self.shared.state.lock().operations_left_then = Some(operations);
    }

    /// Whether the power has failed by [`MemDisk::fail_after_operations`], and is not back.
    #[must_use]
    pub fn is_out_of_power(&self) -> bool {
        self.shared.state.lock().operations_left == Some(0)
    }

    /// The power does not fail after all.
    pub fn keep_power(&self) {
        let mut state = self.shared.state.lock();
        (state.operations_left, state.operations_left_then) = (None, None);
    }

    /// A background chore fails: from now on every write and flush of this life is refused with `error`.
    pub fn fail_in_background(&self, error: StorageError) {
        self.shared.state.lock().background_error = Some(error);
    }

    /// How often this disk was flushed, over all lives.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.shared.state.lock().flushes
    }

    /// Damages a file of a stage. Answers whether there was such a file.
    pub fn damage_stage_file(&self, id: u64, name: &str, damage: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.shared.state.lock();
        let file = state.stages.get_mut(&id).and_then(|files| files.get_mut(name));
        file.map(damage).is_some()
    }

    /// Removes a file of a stage. Answers whether there was such a file.
    pub fn remove_stage_file(&self, id: u64, name: &str) -> bool {
        let mut state = self.shared.state.lock();
        state.stages.get_mut(&id).is_some_and(|files| files.remove(name).is_some())
    }

    pub(super) fn life(&self) -> u64 {
        self.shared.life.load(Ordering::SeqCst)
    }

    /// Runs `act` on the disk if `life` is still the newest one.
    pub(super) fn of_life<T>(
        &self,
        life: u64,
        act: impl FnOnce(&mut DiskState) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let mut state = self.shared.state.lock();
        if self.life() != life {
            return Err(StorageError::Stopped);
        }
        act(&mut state)
    }
}
