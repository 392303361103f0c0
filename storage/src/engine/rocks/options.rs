//! How RocksDB is set up, derived from one budget of memory.
//!
//! ```text
//!   memory_bytes ──▶ one cache: data blocks, index and filter blocks, and write buffers (at most half), all charged
//! ```
//!
//! **Invariant.** Memory follows the budget, not the amount of data: index and filter blocks live in the cache, write
//! buffers are charged to it, and nothing else grows.
//!
//! **Deliberately absent.** A setting per column: what a column needs is known here, not by an operator.

use super::Column;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DEFAULT_COLUMN_FAMILY_NAME,
    DataBlockIndexType, LogLevel, Options, WriteBufferManager,
};

const MIB: usize = 1024 * 1024;

/// What an operator may choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RocksOptions {
    /// Cache and write buffers together, bytes; at least 8 MiB. Pages are taken as they are used: a fresh node holds
    /// few. The default keeps a node that has read a lot and rests below 60 MiB.
    pub memory_bytes: usize,
    /// Threads that flush and compact; at least two.
    pub background_jobs: u16,
    /// A file of a stage is completed when it has grown beyond this, bytes.
    pub stage_file_bytes: u64,
}

impl Default for RocksOptions {
    fn default() -> Self {
        RocksOptions { memory_bytes: 32 * MIB, background_jobs: 2, stage_file_bytes: 64 * MIB as u64 }
    }
}

/// The set-up of one engine.
pub(super) struct Shape {
    options: RocksOptions,
    cache: Cache,
    write_buffers: WriteBufferManager,
}

impl Shape {
    pub(super) fn of(options: &RocksOptions) -> Self {
        let options = RocksOptions { memory_bytes: options.memory_bytes.max(8 * MIB), ..options.clone() };
        // The clock cache has fewer locks but, measured on rows of 250 bytes, a quarter more resident memory.
        let cache = Cache::new_lru_cache(options.memory_bytes);
        // Never stalls by itself: stalling is RocksDB's files-and-bytes rule, which is shown in the figures.
        let write_buffers =
            WriteBufferManager::new_write_buffer_manager_with_cache(options.memory_bytes / 2, false, cache.clone());
        Shape { options, cache, write_buffers }
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(super) fn stage_file_bytes(&self) -> u64 {
        self.options.stage_file_bytes
    }

    /// Options of the database as a whole.
    pub(super) fn database(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_paranoid_checks(true);
        // Without a write-ahead log this is what keeps the columns together.
        options.set_atomic_flush(true);
        options.set_write_buffer_manager(&self.write_buffers);
        options.set_max_background_jobs(i32::from(self.options.background_jobs.max(2)));
        options.set_max_subcompactions(1);
        // Dirty pages leave in small portions instead of in one burst that delays the journal's sync.
        options.set_bytes_per_sync(MIB as u64);
        options.set_avoid_unnecessary_blocking_io(true);
        options.set_skip_stats_update_on_db_open(true);
        options.set_max_file_opening_threads(2);
        options.set_max_manifest_file_size(16 * MIB);
        options.set_manifest_preallocation_size(64 * 1024);
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(4 * MIB);
        options.set_keep_log_file_num(2);
        // Two periodic chores that only write text nobody reads, and wake an idle node.
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options
    }

    /// The column families, RocksDB's own empty one included.
    pub(super) fn columns(&self) -> Vec<ColumnFamilyDescriptor> {
        let ours = Column::ALL.map(|column| ColumnFamilyDescriptor::new(column.name(), self.column(column)));
        let unused = ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, Options::default());
        ours.into_iter().chain([unused]).collect()
    }

    /// Options of one column, for its files in the database and in stages alike.
    pub(super) fn column(&self, column: Column) -> Options {
        let mut options = Options::default();
        options.set_write_buffer_size(self.options.memory_bytes / 4);
        options.set_max_write_buffer_number(4);
        // A memtable takes its memory in blocks of this size: five columns must not cost an idle node a block each of a
        // megabyte.
        options.set_arena_block_size(256 * 1024);
        options.set_target_file_size_base(32 * MIB as u64);
        options.set_max_bytes_for_level_base(128 * MIB as u64);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_level_zero_file_num_compaction_trigger(4);
        options.set_level_zero_slowdown_writes_trigger(20);
        options.set_level_zero_stop_writes_trigger(36);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_bottommost_compression_type(DBCompressionType::Zstd);
        options.set_paranoid_checks(true);
        let is_read_by_key = is_read_by_key(column);
        if is_read_by_key {
            // A filter over the memtable spares most point reads of absent keys the walk through it.
            options.set_memtable_prefix_bloom_ratio(0.05);
            options.set_memtable_whole_key_filtering(true);
        }
        options.set_block_based_table_factory(&self.table(is_read_by_key));
        options
    }

    fn table(&self, is_read_by_key: bool) -> BlockBasedOptions {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_block_size(8 * 1024);
        table.set_format_version(6);
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        if is_read_by_key {
            table.set_bloom_filter(10.0, false);
            table.set_optimize_filters_for_memory(true);
            table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
            table.set_data_block_hash_ratio(0.75);
        }
        table
    }
}

/// Whether a column is asked for single keys; the others are walked.
fn is_read_by_key(column: Column) -> bool {
    match column {
        Column::Data | Column::Meta | Column::Locks => true,
        Column::Changes | Column::History => false,
    }
}
