//! What a journal can be told when it is opened.

use super::BatchNumber;

/// Settings of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    /// Bytes of a new segment. A record must fit into one; segments found on disk keep the size they have.
    pub segment_bytes: u64,
    /// Bytes in segments beyond which the journal copies the few live records of its oldest segment forward.
    pub bytes_max: u64,
    /// Bytes of synced entries kept in memory. Entries that are not synced yet are always there.
    pub cache_bytes_max: usize,
    /// Bytes after which a batch is closed and synced, so that the first ones in a long queue do not wait for the last.
    pub batch_bytes_max: usize,
    /// New batches are numbered above this one: the highest batch named by any position of the engine.
    pub resume_above: BatchNumber,
}

impl Default for JournalOptions {
    fn default() -> Self {
        JournalOptions {
            segment_bytes: 64 << 20,
            bytes_max: 512 << 20,
            cache_bytes_max: 16 << 20,
            batch_bytes_max: 4 << 20,
            resume_above: BatchNumber(0),
        }
    }
}

impl JournalOptions {
    /// Small segments, for simulations that start many nodes many times.
    #[must_use]
    pub fn small() -> Self {
        JournalOptions {
            segment_bytes: 4 << 20,
            bytes_max: 32 << 20,
            cache_bytes_max: 1 << 20,
            batch_bytes_max: 1 << 20,
            resume_above: BatchNumber(0),
        }
    }
}
