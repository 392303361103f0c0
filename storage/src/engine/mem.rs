//! The engine in memory: ordered maps that can lose power.
//!
//! ```text
//!   write ──▶ MemEngine.now ──flush──▶ MemDisk.flushed        both are persistent maps: a copy of one costs nothing,
//!                  │                        │                 so a view is a copy and a flush is an assignment
//!               view()                  open() of the next life
//! ```
//!
//! [`MemDisk`] is what survives; a [`MemEngine`] is one life of a node on it. Opening the disk again, or losing power,
//! ends the lives before: they refuse everything from then on, as a killed process would.
//!
//! **Invariant.** `flushed` only ever changes by assignment of a whole `now`: a crash leaves every batch wholly or not
//! at all, in all columns alike.
//!
//! **Deliberately absent.** Time and chance. Faults happen when a test asks for them.

mod disk;
mod stage;

pub use disk::MemDisk;

use super::{
    Batch, Cached, Column, Cursor, Direction, Edit, Engine, EngineStats, KeyRange, Stage, StageManifest, View,
};
use crate::error::StorageError;
use bytes::Bytes;
use parking_lot::RwLock;
use rpds::RedBlackTreeMapSync;
use std::{
    collections::VecDeque,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Rows a cursor takes from its map at a time: enough to pay for finding the place again.
const CURSOR_ROWS: usize = 64;

/// The rows of every column. A clone shares everything with its original until one of the two changes.
#[derive(Clone, Debug, Default)]
struct Columns {
    maps: [RedBlackTreeMapSync<Bytes, Bytes>; Column::ALL.len()],
    bytes: u64,
}

impl Columns {
    fn get(&self, column: Column, key: &[u8]) -> Option<Bytes> {
        self.maps[column.slot()].get(key).cloned()
    }

    fn put(&mut self, column: Column, key: Bytes, value: Bytes) {
        self.delete(column, &key);
        self.bytes += (key.len() + value.len()) as u64;
        self.maps[column.slot()].insert_mut(key, value);
    }

    fn delete(&mut self, column: Column, key: &[u8]) {
        let map = &mut self.maps[column.slot()];
        if let Some(value) = map.get(key) {
            self.bytes -= (key.len() + value.len()) as u64;
            map.remove_mut(key);
        }
    }

    fn delete_range(&mut self, column: Column, start: &[u8], end: &[u8]) {
        if start >= end {
            return;
        }
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let keys: Vec<Bytes> = self.maps[column.slot()].range::<[u8], _>(bounds).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.delete(column, &key);
        }
    }

    fn apply(&mut self, edits: &[Edit]) {
        for edit in edits {
            match edit {
                Edit::Put(column, key, value) => self.put(*column, key.clone(), value.clone()),
                Edit::Delete(column, key) => self.delete(*column, key),
                Edit::DeleteRange(column, start, end) => self.delete_range(*column, start, end),
            }
        }
    }
}

/// One life of a node on a [`MemDisk`].
pub struct MemEngine {
    disk: MemDisk,
    life: u64,
    now: RwLock<Columns>,
    unflushed_bytes: AtomicU64,
}

impl MemEngine {
    /// A new engine on a disk of its own, for tests that never lose power.
    #[must_use]
    pub fn fresh() -> Arc<Self> {
        MemDisk::new().open()
    }

    /// The disk under it, which outlives it.
    #[must_use]
    pub fn disk(&self) -> &MemDisk {
        &self.disk
    }

    fn admit(&self) -> Result<(), StorageError> {
        if self.disk.life() == self.life { Ok(()) } else { Err(StorageError::Stopped) }
    }
}

impl Engine for MemEngine {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.admit()?;
        Ok(self.now.read().get(column, key))
    }

    fn get_cached(&self, column: Column, key: &[u8]) -> Result<Cached, StorageError> {
        self.get(column, key).map(Cached::Known)
    }

    fn get_persisted(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.disk.of_life(self.life, |state| Ok(state.flushed.get(column, key)))
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::new(MemView { columns: self.now.read().clone() })
    }

    fn write(&self, batch: &Batch) -> Result<(), StorageError> {
        self.disk.of_life(self.life, |state| {
            state.admit_write()?;
            self.now.write().apply(batch.edits());
            self.unflushed_bytes.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
            Ok(())
        })
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.disk.of_life(self.life, |state| {
            state.admit_flush()?;
            state.flushed = self.now.read().clone();
            state.flushes += 1;
            self.unflushed_bytes.store(0, Ordering::Relaxed);
            Ok(())
        })
    }

    fn stage(&self, id: u64) -> Result<Box<dyn Stage>, StorageError> {
        stage::MemStage::begin(self.disk.clone(), self.life, id)
    }

    fn verify_stage(&self, manifest: &StageManifest) -> Result<(), StorageError> {
        self.disk.of_life(self.life, |state| {
            state.begin_installation();
            stage::verify(&state.stages, manifest)
        })
    }

    fn ingest(&self, manifest: &StageManifest) -> Result<(), StorageError> {
        self.disk.of_life(self.life, |state| {
            let rows = stage::rows(&state.stages, manifest)?;
            state.admit_flush()?;
            let mut now = self.now.write();
            for (column, key, value) in rows {
                now.put(column, key, value);
            }
            state.flushed = now.clone();
            state.flushes += 1;
            self.unflushed_bytes.store(0, Ordering::Relaxed);
            Ok(())
        })
    }

    fn stages(&self) -> Result<Vec<u64>, StorageError> {
        self.disk.of_life(self.life, |state| Ok(state.stages.keys().copied().collect()))
    }

    fn discard_stage(&self, id: u64) -> Result<(), StorageError> {
        self.disk.of_life(self.life, |state| {
            state.take_power()?;
            state.stages.remove(&id);
            Ok(())
        })
    }

    fn background_error(&self) -> Option<StorageError> {
        self.disk.of_life(self.life, |state| Ok(state.background_error.clone())).ok().flatten()
    }

    fn stats(&self) -> EngineStats {
        let disk_bytes = self.disk.of_life(self.life, |state| Ok(state.flushed.bytes)).unwrap_or_default();
        EngineStats {
            memory_bytes: self.unflushed_bytes.load(Ordering::Relaxed),
            disk_bytes,
            cache_bytes: 0,
            is_stalled: false,
        }
    }

    fn estimate(&self, column: Column, ranges: &[KeyRange]) -> Vec<u64> {
        let now = self.now.read().maps[column.slot()].clone();
        let bytes_in = |range: &KeyRange| {
            if range.is_empty() {
                return 0;
            }
            let end = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let rows = now.range::<[u8], _>((Bound::Included(range.start.as_slice()), end));
            rows.map(|(key, value)| (key.len() + value.len()) as u64).sum()
        };
        ranges.iter().map(bytes_in).collect()
    }
}

/// A copy of the maps, which shares all they hold.
struct MemView {
    columns: Columns,
}

impl View for MemView {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.columns.get(column, key))
    }

    fn cursor(&self, column: Column, range: KeyRange, direction: Direction) -> Box<dyn Cursor> {
        let map = self.columns.maps[column.slot()].clone();
        Box::new(MemCursor { map, range, direction, last: None, rows: VecDeque::new() })
    }
}

/// Walks a map of its own, a few rows at a time.
struct MemCursor {
    map: RedBlackTreeMapSync<Bytes, Bytes>,
    range: KeyRange,
    direction: Direction,
    last: Option<Bytes>,
    rows: VecDeque<(Bytes, Bytes)>,
}

impl MemCursor {
    /// What is left of the range: beyond the last row given out.
    fn refill(&mut self) {
        let mut start = Bound::Included(self.range.start.as_slice());
        let mut end = self.range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        match (self.direction, self.last.as_deref()) {
            (_, None) => {}
            (Direction::Forward, Some(last)) => start = Bound::Excluded(last),
            (Direction::Reverse, Some(last)) => end = Bound::Excluded(last),
        }
        let rows = self.map.range::<[u8], _>((start, end)).map(|(key, value)| (key.clone(), value.clone()));
        let mut rows_found: VecDeque<_> = match self.direction {
            Direction::Forward => rows.take(CURSOR_ROWS).collect(),
            Direction::Reverse => rows.rev().take(CURSOR_ROWS).collect(),
        };
        self.last = rows_found.back().map(|(key, _)| key.clone()).or_else(|| self.last.take());
        self.rows.append(&mut rows_found);
    }
}

impl Cursor for MemCursor {
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        if self.rows.is_empty() && !self.range.is_empty() {
            self.refill();
        }
        Ok(self.rows.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::suite::{self, Lab};
    use proptest::prelude::*;

    struct MemLab {
        disk: MemDisk,
        engine: Arc<MemEngine>,
    }

    impl MemLab {
        fn new() -> Self {
            let engine = MemEngine::fresh();
            MemLab { disk: engine.disk().clone(), engine }
        }
    }

    impl Lab for MemLab {
        fn engine(&self) -> &dyn Engine {
            self.engine.as_ref()
        }

        fn lose_power(&mut self) {
            self.disk.lose_power();
            self.engine = self.disk.open();
        }

        fn reopen(&mut self) {
            self.engine = self.disk.open();
        }

        fn break_disk(&mut self) {
            self.disk.fail_next_flush(StorageError::Engine("broken by a test".to_owned()));
        }

        fn damage_stage_file(&mut self, id: u64, name: &str, damage: suite::Damage<'_>) {
            assert!(self.disk.damage_stage_file(id, name, damage));
        }

        fn remove_stage_file(&mut self, id: u64, name: &str) {
            assert!(self.disk.remove_stage_file(id, name));
        }
    }

    fn put(key: &'static str) -> Batch {
        let mut batch = Batch::new();
        batch.put(Column::Data, key, "value");
        batch
    }

    #[test]
    fn the_engine_in_memory_keeps_every_promise() {
        suite::run_cases(MemLab::new);
    }

    proptest! {
        #[test]
        fn the_engine_in_memory_behaves_like_ordered_maps(script in proptest::collection::vec(any::<u8>(), 0..400)) {
            suite::run_script(&script, &mut MemLab::new());
        }
    }

    #[test]
    fn a_dead_life_is_refused_everything() {
        let disk = MemDisk::new();
        let dead = disk.open();
        dead.write(&put("a")).unwrap();
        disk.lose_power();
        assert_eq!(dead.get(Column::Data, b"a"), Err(StorageError::Stopped));
        let alive = disk.open();
        assert_eq!(dead.write(&put("b")), Err(StorageError::Stopped));
        assert_eq!(dead.flush(), Err(StorageError::Stopped));
        assert!(matches!(dead.stage(1), Err(StorageError::Stopped)));
        assert_eq!(alive.get(Column::Data, b"a"), Ok(None));
        assert_eq!(disk.flushes(), 0);
    }

    #[test]
    fn a_failed_write_changes_nothing_and_the_next_one_succeeds() {
        let engine = MemEngine::fresh();
        engine.disk().fail_next_write(StorageError::DiskFull("by a test".to_owned()));
        assert_eq!(engine.write(&put("a")), Err(StorageError::DiskFull("by a test".to_owned())));
        assert_eq!(engine.get(Column::Data, b"a"), Ok(None));
        engine.write(&put("a")).unwrap();
        assert_eq!(engine.background_error(), None);
    }

    #[test]
    fn power_can_fail_in_the_middle_of_an_installation_and_not_before() {
        let disk = MemDisk::new();
        disk.fail_in_installation(1);
        let engine = disk.open();
        let mut stage = engine.stage(1).unwrap();
        stage.put(Column::Data, b"a", b"value").unwrap();
        let manifest = stage.finish().unwrap();
        engine.flush().unwrap();
        assert!(!disk.is_out_of_power());
        engine.verify_stage(&manifest).unwrap();
        engine.flush().unwrap();
        assert!(disk.is_out_of_power());
        assert_eq!(engine.ingest(&manifest), Err(StorageError::Stopped));
        assert_eq!(disk.open().get(Column::Data, b"a"), Ok(None));
    }

    #[test]
    fn a_background_failure_ends_with_the_life() {
        let disk = MemDisk::new();
        let engine = disk.open();
        disk.fail_in_background(StorageError::Engine("compaction".to_owned()));
        assert_eq!(engine.write(&put("a")), Err(StorageError::Engine("compaction".to_owned())));
        assert_eq!(disk.open().background_error(), None);
    }

    #[test]
    fn a_duplicate_holds_what_was_flushed_and_goes_its_own_way() {
        let engine = MemEngine::fresh();
        engine.write(&put("a")).unwrap();
        engine.flush().unwrap();
        engine.write(&put("b")).unwrap();
        let copy = engine.disk().duplicate().open();
        assert_eq!(copy.get(Column::Data, b"b"), Ok(None));
        copy.write(&put("c")).unwrap();
        copy.flush().unwrap();
        assert_eq!(engine.get_persisted(Column::Data, b"c"), Ok(None));
        assert!(copy.get(Column::Data, b"a").unwrap().is_some());
    }
}
