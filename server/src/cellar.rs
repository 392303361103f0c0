//! The cellar of this process: the engine and the journal of one data directory, opened in the order that lets each
//! know what the other holds.
//!
//! ```text
//!   engine ──▶ positions of every shard ──▶ highest batch they name ──▶ journal resumes above it (rule J2)
//! ```

use crate::config::Config;
use kvorum_api::ShardId;
use kvorum_consensus::metadata::METADATA_KEYSPACE;
#[cfg(feature = "rocks")]
use kvorum_storage::engine::rocks::{RocksEngine, RocksOptions};
use kvorum_storage::{
    Column, Engine, Journal, Shard, StorageError,
    engine::{Direction, KeyRange},
    journal::{BatchNumber, FileJournal, JournalOptions},
    keys::MetaKind,
    shard::ShardSpec,
};
use std::{path::Path, sync::Arc};

/// Engine and journal.
pub struct Cellar {
    /// Ordered bytes.
    pub engine: Arc<dyn Engine>,
    /// The log.
    pub journal: Arc<dyn Journal>,
}

impl Cellar {
    /// Opens both. May wait for the disk for long: the engine recovers, the journal is read.
    ///
    /// # Errors
    /// The disk's, or corruption with its place.
    pub fn open(config: &Config, directory: &Path) -> Result<Self, StorageError> {
        let engine = open_engine(config, &directory.join("engine"))?;
        let options = JournalOptions {
            segment_bytes: config.storage.journal_segment,
            bytes_max: config.storage.journal_bytes_max,
            cache_bytes_max: config.storage.journal_cache as usize,
            resume_above: highest_batch(&engine)?,
            ..JournalOptions::default()
        };
        let journal = FileJournal::open(&directory.join("journal"), options)?;
        Ok(Cellar { engine, journal })
    }
}

#[cfg(feature = "rocks")]
fn open_engine(config: &Config, directory: &Path) -> Result<Arc<dyn Engine>, StorageError> {
    let options = RocksOptions { memory_bytes: config.storage.engine_memory as usize, ..RocksOptions::default() };
    Ok(Arc::new(RocksEngine::open(directory, &options)?))
}

/// The doors compile and are linted without RocksDB; a process without an engine that keeps data serves nobody.
#[cfg(not(feature = "rocks"))]
fn open_engine(_: &Config, _: &Path) -> Result<Arc<dyn Engine>, StorageError> {
    Err(StorageError::Engine("this build leaves RocksDB out (feature rocks) and can keep no data".to_owned()))
}

/// The highest journal batch any position of the engine names. Asked of the engine itself: whatever map this node has
/// may be older than what it holds.
fn highest_batch(engine: &Arc<dyn Engine>) -> Result<BatchNumber, StorageError> {
    let mut highest = BatchNumber(0);
    let positions = KeyRange::prefix([MetaKind::Position as u8]);
    let mut cursor = engine.view().cursor(Column::Meta, positions, Direction::Forward);
    while let Some((key, _)) = cursor.next()? {
        let shard: [u8; 8] =
            key[1..].try_into().map_err(|_| StorageError::Engine("a position without shard".into()))?;
        // Which keyspace it is of does not matter to its position.
        let spec = ShardSpec { shard: ShardId(u64::from_be_bytes(shard)), keyspace: METADATA_KEYSPACE };
        highest = highest.max(Shard::open(engine.clone(), spec)?.state().applied.batch);
    }
    Ok(highest)
}
