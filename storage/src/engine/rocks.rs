//! The engine on RocksDB, without its write-ahead log: the journal is the log.
//!
//! ```text
//!   <dir>/db        RocksDB: one column family a column, flushed all together or not at all
//!   <dir>/stage/7   files of stage 7: sorted, synced, with checksums; copied into db by `ingest`
//! ```
//!
//! **Invariant.** Only a flush makes anything durable: closing does not flush, and after the first failure of a write,
//! a flush or a background chore every further write and flush is refused with that failure, for the rest of this life.
//! A second try could succeed over the loss of the first.
//!
//! **Deliberately absent.** RocksDB's own recovery from background errors (switched off), its write-ahead log, its
//! transactions, and prefix extractors: shards are ranges, not prefixes, so every seek is in total order.

mod failure;
mod foreign;
mod options;
mod stage;
mod view;

pub use options::RocksOptions;

use super::{Batch, Cached, Column, Edit, Engine, EngineStats, KeyRange, Stage, StageManifest, View};
use crate::error::StorageError;
use bytes::Bytes;
use failure::{Health, engine_error};
use options::Shape;
use rocksdb::{
    BoundColumnFamily, Cache, DB, ErrorKind, FlushOptions, IngestExternalFileOptions, ReadOptions, ReadTier,
    WriteBatch, WriteOptions, properties,
};
use self_cell::self_cell;
use stage::{RocksStage, StageDirectory};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use view::RocksView;

type Handles<'db> = [Arc<BoundColumnFamily<'db>>; Column::ALL.len()];

self_cell!(
    /// The database with the handles of its columns, looked up once instead of by name at every read.
    struct Database {
        owner: DB,
        #[covariant]
        dependent: Handles,
    }
);

impl Database {
    fn db(&self) -> &DB {
        self.borrow_owner()
    }

    fn handle(&self, column: Column) -> &Arc<BoundColumnFamily<'_>> {
        &self.borrow_dependent()[column.slot()]
    }
}

/// RocksDB as an [`Engine`]. Views and cursors keep the database open after it.
pub struct RocksEngine {
    database: Arc<Database>,
    health: Arc<Health>,
    cache: Cache,
    shape: Shape,
    stages: StageDirectory,
    directory: PathBuf,
    read_all: ReadOptions,
    read_cached: ReadOptions,
    read_persisted: ReadOptions,
    write: WriteOptions,
}

impl RocksEngine {
    /// Opens the engine in `directory`, which is made if it is not there.
    ///
    /// # Errors
    /// The directory is in use by another process, cannot be written, or holds something damaged.
    pub fn open(directory: &Path, options: &RocksOptions) -> Result<Self, StorageError> {
        foreign::return_freed_memory();
        let stages = StageDirectory::open(directory)?;
        let shape = Shape::of(options);
        let health = Arc::new(Health::default());
        let database_options = shape.database();
        foreign::guard(&database_options, Arc::clone(&health));
        let path = directory.join("db");
        let db = DB::open_cf_descriptors(&database_options, &path, shape.columns())
            .map_err(|error| failure::open_error(&path, &error))?;
        let database = Database::new(db, |db| {
            Column::ALL.map(|column| db.cf_handle(column.name()).expect("every column was opened with the database"))
        });
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(RocksEngine {
            database: Arc::new(database),
            health,
            cache: shape.cache().clone(),
            shape,
            stages,
            directory: directory.to_owned(),
            read_all: ReadOptions::default(),
            read_cached: read_options(ReadTier::BlockCache),
            read_persisted: read_options(ReadTier::Persisted),
            write,
        })
    }

    /// Where it lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn read(&self, column: Column, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, rocksdb::Error> {
        let value = self.database.db().get_pinned_cf_opt(self.database.handle(column), key, options)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn sum_over_columns(&self, property: &properties::PropName) -> u64 {
        let of = |column| self.database.db().property_int_value_cf(self.database.handle(column), property);
        // A figure that cannot be had counts as nothing: it is shown, never decided on.
        Column::ALL.into_iter().filter_map(|column| of(column).ok().flatten()).sum()
    }

    fn figure(&self, property: &properties::PropName) -> u64 {
        self.database.db().property_int_value(property).ok().flatten().unwrap_or_default()
    }
}

fn read_options(tier: ReadTier) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_read_tier(tier);
    options
}

impl Engine for RocksEngine {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.read(column, key, &self.read_all).map_err(|error| engine_error("read", &error))
    }

    fn get_cached(&self, column: Column, key: &[u8]) -> Result<Cached, StorageError> {
        match self.read(column, key, &self.read_cached) {
            Ok(value) => Ok(Cached::Known(value)),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(Cached::WouldBlock),
            Err(error) => Err(engine_error("read", &error)),
        }
    }

    fn get_persisted(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.read(column, key, &self.read_persisted).map_err(|error| engine_error("read", &error))
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::new(RocksView::of(Arc::clone(&self.database)))
    }

    fn write(&self, batch: &Batch) -> Result<(), StorageError> {
        self.health.check()?;
        let mut rows = WriteBatch::default();
        for edit in batch.edits() {
            match edit {
                Edit::Put(column, key, value) => rows.put_cf(self.database.handle(*column), key, value),
                Edit::Delete(column, key) => rows.delete_cf(self.database.handle(*column), key),
                Edit::DeleteRange(column, start, end) => {
                    rows.delete_range_cf(self.database.handle(*column), start, end);
                }
            }
        }
        let written = self.database.db().write_opt(rows, &self.write);
        written.map_err(|error| self.health.fail(engine_error("write", &error)))
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.health.check()?;
        let handles: Vec<_> = Column::ALL.map(|column| self.database.handle(column)).to_vec();
        let flushed = self.database.db().flush_cfs_opt(&handles, &FlushOptions::default());
        flushed.map_err(|error| self.health.fail(engine_error("flush", &error)))
    }

    fn stage(&self, id: u64) -> Result<Box<dyn Stage>, StorageError> {
        Ok(Box::new(RocksStage::begin(&self.stages, &self.shape, id)?))
    }

    fn verify_stage(&self, manifest: &StageManifest) -> Result<(), StorageError> {
        self.stages.verify(manifest)
    }

    fn ingest(&self, manifest: &StageManifest) -> Result<(), StorageError> {
        // Missing files are the stage's fault, not the database's: found before anything changes.
        let files = self.stages.paths(manifest)?;
        // The rows that follow are durable at once: what was written before them must be so first.
        self.flush()?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(false);
        options.set_snapshot_consistency(true);
        for column in Column::ALL {
            let paths: Vec<&PathBuf> = files.iter().filter(|(of, _)| *of == column).map(|(_, path)| path).collect();
            if paths.is_empty() {
                continue;
            }
            let taken = self.database.db().ingest_external_file_cf_opts(self.database.handle(column), &options, paths);
            taken.map_err(|error| self.health.fail(engine_error("ingest", &error)))?;
        }
        Ok(())
    }

    fn stages(&self) -> Result<Vec<u64>, StorageError> {
        self.stages.list()
    }

    fn discard_stage(&self, id: u64) -> Result<(), StorageError> {
        self.stages.discard(id)
    }

    fn background_error(&self) -> Option<StorageError> {
        self.health.check().err()
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            memory_bytes: self.sum_over_columns(properties::CUR_SIZE_ALL_MEM_TABLES),
            disk_bytes: self.sum_over_columns(properties::TOTAL_SST_FILES_SIZE),
            cache_bytes: self.cache.get_usage() as u64,
            is_stalled: self.figure(properties::IS_WRITE_STOPPED) != 0
                || self.figure(properties::ACTUAL_DELAYED_WRITE_RATE) != 0,
        }
    }

    fn estimate(&self, column: Column, ranges: &[KeyRange]) -> Vec<u64> {
        foreign::estimate(self.database.db(), self.database.handle(column), ranges)
    }
}
