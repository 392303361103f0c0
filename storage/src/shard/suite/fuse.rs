//! Fuse: an engine that dies after a number of steps, as if power were lost there, and lets others in between a read
//! and its answer.

use crate::{
    engine::{Batch, Cached, Column, Engine, EngineStats, KeyRange, Stage, StageManifest, View},
    error::StorageError,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What somebody else does meanwhile.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// An engine that refuses every change after a number of them.
pub struct Fuse {
    engine: Arc<dyn Engine>,
    steps: AtomicU64,
    meanwhile: Mutex<Option<Meanwhile>>,
    after_write: Mutex<Option<Meanwhile>>,
}

impl Fuse {
    /// One that takes `steps` changes.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, steps: u64) -> Arc<Self> {
        Arc::new(Fuse {
            engine,
            steps: AtomicU64::new(steps),
            meanwhile: Mutex::new(None),
            after_write: Mutex::new(None),
        })
    }

    /// From now on it takes `steps` changes.
    pub fn burn_after(&self, steps: u64) {
        self.steps.store(steps, Ordering::SeqCst);
    }

    /// Happens once: after the next read has found its row and before it answers.
    pub(super) fn meanwhile(&self, act: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock() = Some(Box::new(act));
    }

    /// Happens once: after the next batch is visible and before whoever wrote it goes on.
    pub(super) fn after_write(&self, act: impl FnOnce() + Send + 'static) {
        *self.after_write.lock() = Some(Box::new(act));
    }

    fn let_others_in(whom: &Mutex<Option<Meanwhile>>) {
        let act = whom.lock().take();
        if let Some(act) = act {
            act();
        }
    }

    fn step(&self) -> Result<(), StorageError> {
        let left = self.steps.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| StorageError::Stopped)
    }
}

impl Engine for Fuse {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let found = self.engine.get(column, key);
        Self::let_others_in(&self.meanwhile);
        found
    }

    fn get_cached(&self, column: Column, key: &[u8]) -> Result<Cached, StorageError> {
        let found = self.engine.get_cached(column, key);
        Self::let_others_in(&self.meanwhile);
        found
    }

    fn get_persisted(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.engine.get_persisted(column, key)
    }

    fn view(&self) -> Arc<dyn View> {
        let view = self.engine.view();
        Self::let_others_in(&self.meanwhile);
        view
    }

    fn write(&self, batch: &Batch) -> Result<(), StorageError> {
        self.step()?;
        let written = self.engine.write(batch);
        Self::let_others_in(&self.after_write);
        written
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.step()?;
        self.engine.flush()
    }

    fn stage(&self, id: u64) -> Result<Box<dyn Stage>, StorageError> {
        self.engine.stage(id)
    }

    fn verify_stage(&self, manifest: &StageManifest) -> Result<(), StorageError> {
        self.step()?;
        self.engine.verify_stage(manifest)
    }

    fn ingest(&self, manifest: &StageManifest) -> Result<(), StorageError> {
        self.step()?;
        self.engine.ingest(manifest)
    }

    fn stages(&self) -> Result<Vec<u64>, StorageError> {
        self.engine.stages()
    }

    fn discard_stage(&self, id: u64) -> Result<(), StorageError> {
        self.step()?;
        self.engine.discard_stage(id)
    }

    fn background_error(&self) -> Option<StorageError> {
        self.engine.background_error()
    }

    fn stats(&self) -> EngineStats {
        self.engine.stats()
    }

    fn estimate(&self, column: Column, ranges: &[KeyRange]) -> Vec<u64> {
        self.engine.estimate(column, ranges)
    }
}
