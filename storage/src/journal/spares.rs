//! # Spares: prewritten segments that wait for their turn
//!
//! A segment is prewritten once, a piece at a time between two batches, so that no append waits for a whole one; later
//! it is recycled by renaming. One spare is always kept for marks (S5), a second one once the active segment fills up.
//!
//! **Invariant.** A spare has real blocks and its full length; under its old epoch it never passes as a segment,
//! because it gets a new one before its first record.

use super::JournalOptions;
use super::medium::{Medium, SegmentFile};
use super::segment::{Epoch, Role, Segment};
use super::writer::Writer;
use crate::error::StorageError;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Spares beyond this many are removed, unless somebody waits for them.
const SPARES_MAX: u64 = 4;
/// Bytes prewritten at once, between two batches.
const PIECE_BYTES: u64 = 4 << 20;

/// How long a full disk is left alone, unless somebody waits.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// A prewritten file.
pub(super) struct Spare {
    pub(super) epoch: Epoch,
    pub(super) role: Role,
    pub(super) length: u64,
    pub(super) file: Arc<dyn SegmentFile>,
}

impl Spare {
    /// Renames it into the log.
    pub(super) fn activate(self, medium: &dyn Medium, epoch: Epoch) -> Result<Segment, StorageError> {
        rename(medium, &self.role.name(self.epoch), &Role::Segment.name(epoch))?;
        Ok(Segment { epoch, length: self.length, file: self.file })
    }

    /// Takes a file out of the log, or removes it if it has not the size of new segments.
    pub(super) fn retire(
        segment: Segment,
        role: Role,
        medium: &dyn Medium,
        options: &JournalOptions,
    ) -> Result<Option<Spare>, StorageError> {
        let Segment { epoch, length, file } = segment;
        if length != options.segment_bytes {
            remove(medium, &role.name(epoch))?;
            return Ok(None);
        }
        rename(medium, &role.name(epoch), &Role::Spare.name(epoch))?;
        Ok(Some(Spare { epoch, role: Role::Spare, length, file }))
    }
}

/// Renames a file and makes the new name survive.
pub(super) fn rename(medium: &dyn Medium, from: &str, to: &str) -> Result<(), StorageError> {
    let renamed = medium.rename(from, to).and_then(|()| medium.sync_directory());
    renamed.map_err(|why| StorageError::io("rename", medium.path(from), &why))
}

/// Removes a file for good.
pub(super) fn remove(medium: &dyn Medium, name: &str) -> Result<(), StorageError> {
    let removed = medium.remove(name).and_then(|()| medium.sync_directory());
    removed.map_err(|why| StorageError::io("remove", medium.path(name), &why))
}

/// The spare that is being prewritten.
struct Preparing {
    epoch: Epoch,
    file: Arc<dyn SegmentFile>,
    written: u64,
}

/// All spares.
#[derive(Default)]
pub(super) struct Spares {
    ready: Vec<Spare>,
    preparing: Option<Preparing>,
    /// When preparing one failed, if the last attempt did.
    failed: Option<Instant>,
}

impl Spares {
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    pub(super) fn len(&self) -> u64 {
        self.ready.len() as u64
    }

    pub(super) fn take(&mut self) -> Option<Spare> {
        self.ready.pop()
    }

    /// Keeps a retired segment.
    pub(super) fn add(&mut self, spare: Spare) {
        self.ready.push(spare);
    }

    /// Does one piece of the work of one more spare. True: it is ready.
    pub(super) fn prepare_piece(
        &mut self,
        medium: &dyn Medium,
        bytes: u64,
        last_epoch: &mut Epoch,
    ) -> io::Result<bool> {
        let preparing = match &mut self.preparing {
            Some(preparing) => preparing,
            None => {
                let epoch = last_epoch.next();
                let file = medium.create(&Role::Preparing.name(epoch))?;
                *last_epoch = epoch;
                self.preparing.insert(Preparing { epoch, file, written: 0 })
            }
        };
        let to = (preparing.written + PIECE_BYTES).min(bytes);
        preparing.file.prewrite(preparing.written, to)?;
        preparing.file.sync()?;
        preparing.written = to;
        if to < bytes {
            return Ok(false);
        }
        let Preparing { epoch, file, .. } = self.preparing.take().expect("just worked on");
        medium.rename(&Role::Preparing.name(epoch), &Role::Spare.name(epoch))?;
        medium.sync_directory()?;
        self.ready.push(Spare { epoch, role: Role::Spare, length: bytes, file });
        Ok(true)
    }

    /// Gives the space of an unfinished spare back.
    pub(super) fn abandon(&mut self, medium: &dyn Medium) {
        let Some(preparing) = self.preparing.take() else { return };
        if let Err(error) = remove(medium, &Role::Preparing.name(preparing.epoch)) {
            tracing::warn!(%error, "an unfinished segment stays behind");
        }
    }
}

impl Writer {
    /// Spares that should be ready now.
    fn spares_due(&self) -> u64 {
        let is_filling = self.active.offset > self.active.segment.length / 4;
        let wanted = self.shared.state.lock().room.spares_wanted;
        (1 + u64::from(is_filling)).max(wanted)
    }

    /// Whether a spare is missing.
    pub(super) fn is_short_of_spares(&self) -> bool {
        self.spares.len() < self.spares_due()
    }

    /// Prepares spares: one piece, or all that are due if somebody waits or `is_urgent`.
    pub(super) fn prepare(&mut self, is_urgent: bool) {
        loop {
            let due = self.spares_due().max(u64::from(is_urgent));
            if self.spares.len() >= due {
                return self.settle_spares(due);
            }
            let is_awaited = is_urgent || self.shared.state.lock().room.spares_wanted > 0;
            if !is_awaited && self.spares.failed.is_some_and(|failed| failed.elapsed() < RETRY) {
                return;
            }
            let bytes = self.options.segment_bytes;
            match self.spares.prepare_piece(&*self.medium, bytes, &mut self.last_epoch) {
                Ok(is_ready) => {
                    self.shared.state.lock().room.spares = self.spares.len();
                    if !is_ready && !is_awaited {
                        return;
                    }
                }
                Err(why) => return self.note_full(&why),
            }
        }
    }

    fn note_full(&mut self, why: &io::Error) {
        self.spares.abandon(&*self.medium);
        self.spares.failed = Some(Instant::now());
        let bytes = self.options.segment_bytes;
        let mut state = self.shared.state.lock();
        if state.room.full.is_none() {
            tracing::warn!(%why, "no space for another journal segment");
        }
        state.room.full = Some(format!("no space for a journal segment of {bytes} bytes: {why}"));
        state.room.spares_wanted = 0;
    }

    /// There are enough: more than that go back to the file system.
    fn settle_spares(&mut self, due: u64) {
        while self.spares.len() > due.max(SPARES_MAX) {
            let Some(spare) = self.spares.take() else { break };
            if let Err(error) = remove(&*self.medium, &spare.role.name(spare.epoch)) {
                tracing::warn!(%error, "a spare segment stays behind");
            }
        }
        self.spares.failed = None;
        let mut state = self.shared.state.lock();
        state.room.full = None;
        state.room.spares_wanted = 0;
        state.room.spares = self.spares.len();
    }
}
