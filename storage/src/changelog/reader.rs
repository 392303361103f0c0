//! Reader: catches up from a seq, then follows; takes the whole map when it fell off.
//!
//! ```text
//!        read ──▶ changes ──▶ read … ──▶ nothing more ──▶ wait ──▶ read
//!          │
//!          └──▶ Truncated ──▶ resync: a pinned scan, and the seq to go on from
//! ```
//!
//! **Invariant.** Seqs are given out without a gap and without a repetition. A reader ahead of the diary (it comes from
//! a replica that was further) waits.

use super::Change;
use crate::{
    engine::{Column, Direction},
    error::StorageError,
    keys,
    shard::{Scan, ScanRange, Shard},
};
use kvorum_api::LogPosition;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::watch;

/// Why a reader gets no changes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChangesError {
    /// It fell off: the diary begins later now.
    #[error("truncated: the oldest change is {oldest}")]
    Truncated {
        /// The oldest seq this replica has.
        oldest: u64,
    },
    /// The storage's own.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The whole map at one moment, and where the diary goes on from there.
pub struct Resync {
    /// Every row, in portions.
    pub scan: Scan,
    /// Where the replica stands in the log.
    pub position: Option<LogPosition>,
    /// The seq of the first change that is not in the map.
    pub next_seq: u64,
}

/// Reads a shard's diary at its own pace.
pub struct ChangeReader {
    shard: Arc<Shard>,
    next_seq: u64,
    tail: watch::Receiver<u64>,
}

impl ChangeReader {
    pub(crate) fn new(shard: Arc<Shard>, next_seq: u64, tail: watch::Receiver<u64>) -> Self {
        ChangeReader { shard, next_seq, tail }
    }

    /// The seq of the change it gives next.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Waits until there is something to read, or the diary was replaced.
    pub async fn wait(&mut self) {
        let next_seq = self.next_seq;
        // The sender lives in the shard that this reader holds.
        let _ = self.tail.wait_for(|tail| *tail > next_seq).await;
    }

    /// The next changes, at least one unless there is none yet, then until `bytes_max` or `changes_max`. May wait for
    /// the disk.
    ///
    /// # Errors
    /// [`ChangesError::Truncated`] if it fell off, or the engine's.
    pub fn read(&mut self, bytes_max: usize, changes_max: usize) -> Result<Vec<Change>, ChangesError> {
        let (view, state) = self.shard.pinned()?;
        if self.next_seq < state.change_oldest_seq {
            return Err(ChangesError::Truncated { oldest: state.change_oldest_seq });
        }
        let mut changes = Vec::new();
        if self.next_seq >= state.change_next_seq {
            return Ok(changes);
        }
        let range = keys::changes_from(self.shard.spec().shard, self.next_seq);
        let mut cursor = view.cursor(Column::Changes, range, Direction::Forward);
        let mut bytes = 0;
        while changes.is_empty() || changes.len() < changes_max {
            let Some((key, value)) = cursor.next()? else { break };
            let seq = keys::change_seq(&key);
            assert_eq!(seq, self.next_seq, "the diary has no gaps");
            bytes += key.len() + value.len();
            if bytes > bytes_max && !changes.is_empty() {
                break;
            }
            changes.push(Change::decode(seq, value)?);
            self.next_seq += 1;
        }
        Ok(changes)
    }

    /// The whole map, pinned, for a reader that fell off or begins; it goes on with what comes after.
    ///
    /// # Errors
    /// The engine's, or `Installing`.
    pub fn resync(&mut self) -> Result<Resync, StorageError> {
        let (view, state) = self.shard.pinned()?;
        let scan = Scan::over(&*view, self.shard.spec(), &state, &ScanRange::default());
        self.next_seq = state.change_next_seq;
        Ok(Resync { scan, position: state.applied.position, next_seq: state.change_next_seq })
    }
}
