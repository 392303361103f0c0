//! # Recycling: the oldest segment first, and only when nothing needs it
//!
//! ```text
//!   oldest                                        youngest
//!   [ · · m · ]  [ e e · m ]  [ e e e e ]  [ e e m    │ ← m, e queued again
//!      │  └ newest mark: stands again at the end, synced ──▶┘
//!      └ everything else has a younger successor, synced ──▶ the file becomes a spare
//! ```
//!
//! Oldest first is what keeps truncation and removal honest: what they made void is in the same segment as they or in
//! an older one, so it is gone before them. Only live entries are copied, as *copies*, which a replay puts at their
//! index without touching what is around them.
//!
//! **Invariant (J4).** A segment leaves the log only when nothing live is in it and the youngest record that took
//! something out of it is synced. The log never has a hole: each removal survives before the next.

use super::segment::{Epoch, Role, Segment};
use super::spares::Spare;
use super::writer::Writer;
use crate::error::StorageError;
use crate::planted;
use std::sync::Arc;

/// A segment is copied forward only if at most one part in so many of it lives: copying then frees more than it takes.
const LIVE_PART_MAX: u64 = 2;

/// What to do about the oldest segment.
enum Plan {
    Nothing,
    Recycle(Segment),
    CopyEntries(Epoch),
}

impl Writer {
    /// Frees what can be freed, and queues what stands in the way and is small.
    pub(super) fn recycle(&mut self) -> Result<(), StorageError> {
        loop {
            match self.plan() {
                Plan::Nothing => return Ok(()),
                Plan::CopyEntries(epoch) => return self.copy_entries(epoch),
                Plan::Recycle(segment) => {
                    tracing::debug!(epoch = segment.epoch.0, "a journal segment is recycled");
                    if let Some(spare) = Spare::retire(segment, Role::Segment, &*self.medium, &self.options)? {
                        self.spares.add(spare);
                    }
                    self.shared.state.lock().room.spares = self.spares.len();
                }
            }
        }
    }

    fn plan(&self) -> Plan {
        let mut state = self.shared.state.lock();
        let Some((epoch, segment)) = state.segments.first_key_value() else { return Plan::Nothing };
        let epoch = *epoch;
        if epoch == self.active.segment.epoch {
            return Plan::Nothing;
        }
        let (length, is_read) = (segment.length, Arc::strong_count(&segment.file) > 1);
        let live = state.index.live(epoch);
        if live.entries == 0 && live.marks > 0 && !planted!("bug-vote-recycled") {
            for (group, mark) in state.index.marks_in(epoch) {
                if !state.queue_again(group, mark) {
                    break;
                }
            }
            return Plan::Nothing;
        }
        if live.entries == 0 {
            if live.released_by > state.synced || is_read {
                return Plan::Nothing;
            }
            state.index.forget_segment(epoch);
            return state.segments.remove(&epoch).map_or(Plan::Nothing, Plan::Recycle);
        }
        let bytes: u64 = state.segments.values().map(|segment| segment.length).sum();
        let is_worth_it = bytes > state.bytes_max && live.entry_bytes <= length / LIVE_PART_MAX;
        if is_worth_it && !self.is_copying_blocked && state.has_room_to_copy(live) {
            Plan::CopyEntries(epoch)
        } else {
            Plan::Nothing
        }
    }

    /// Queues the live entries of `epoch` once more. They are read while nobody waits for the state.
    fn copy_entries(&mut self, epoch: Epoch) -> Result<(), StorageError> {
        let (entries, segment) = {
            let state = self.shared.state.lock();
            let Some(segment) = state.segments.get(&epoch).cloned() else { return Ok(()) };
            (state.index.entries_in(epoch), segment)
        };
        for (group, index, place) in entries {
            match self.shared.read_one(group, index, place, &segment) {
                Ok(record) => self.shared.state.lock().queue_copy(group, record, place),
                Err(error) => {
                    // The entry is lost here, its peers have it: the segment stays, and a reader gets the same answer.
                    tracing::error!(%error, "a live entry cannot be copied forward");
                    self.is_copying_blocked = true;
                    break;
                }
            }
        }
        Ok(())
    }
}
