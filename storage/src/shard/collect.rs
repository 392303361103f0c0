//! Collect: trims the diary, by age and by bytes.
//!
//! **Invariant.** A chore of each replica alone: it changes how far back the diary reaches and nothing that any other
//! read may see.

use super::Shard;
use crate::{
    changelog::Change,
    engine::{Batch, Column, Direction},
    error::StorageError,
    keys,
};

/// Changes that one call looks at.
const COLLECTED_MAX: u64 = 4_096;

/// What one round of trimming did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Changes removed.
    pub changes: u64,
    /// Bytes they took.
    pub bytes: u64,
    /// Whether there may be more to remove.
    pub more: bool,
}

impl Shard {
    /// Removes the oldest changes: those made longer than `age_ms_max` ago by logged time, and as many as the diary
    /// needs to fit into `bytes_max`. A bounded number per call. May wait for the disk.
    ///
    /// # Errors
    /// The engine's, or `Installing`.
    pub fn collect_changes(&self, age_ms_max: u64, bytes_max: u64) -> Result<Collected, StorageError> {
        let _one_at_a_time = self.collecting.lock();
        // Looked up without the writer's lock: whatever is appended meanwhile comes after what is removed.
        let (state, collected) = self.unmoved(|| {
            let state = self.state();
            let young_ms = state.logged_time_ms.saturating_sub(age_ms_max);
            let mut collected = Collected::default();
            let range = keys::changes_from(self.spec.shard, state.change_oldest_seq);
            let mut cursor = self.engine.view().cursor(Column::Changes, range, Direction::Forward);
            while let Some((key, value)) = cursor.next()? {
                let bytes = (key.len() + value.len()) as u64;
                let is_over = state.change_bytes - collected.bytes > bytes_max;
                if !is_over && Change::decode(keys::change_seq(&key), value)?.time_ms >= young_ms {
                    break;
                }
                if collected.changes == COLLECTED_MAX {
                    collected.more = true;
                    break;
                }
                collected.changes += 1;
                collected.bytes += bytes;
            }
            Ok((state, collected))
        })?;
        if collected.changes == 0 {
            return Ok(collected);
        }
        let oldest_seq = state.change_oldest_seq + collected.changes;
        let _writer = self.writer.lock();
        let mut state = self.state();
        if state.is_installing || state.change_oldest_seq >= oldest_seq {
            return Err(StorageError::Installing);
        }
        let mut batch = Batch::new();
        let (from, to) = (state.change_oldest_seq, oldest_seq);
        let shard = self.spec.shard;
        batch.delete_range(Column::Changes, keys::change_key(shard, from), keys::change_key(shard, to));
        state.change_oldest_seq = oldest_seq;
        state.change_bytes -= collected.bytes;
        state.put_diary_into(&mut batch, shard);
        self.engine.write(&batch)?;
        self.publish(state);
        Ok(collected)
    }
}
