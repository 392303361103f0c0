//! # Writer: one batch, one write, one sync, everybody told
//!
//! ```text
//!   Idle ───due───▶ write batch n ──▶ Written ──▶ sync ──▶ Synced: tell, recycle, prepare spares
//!    ▲                                                        │
//!    └──────── nothing due: bare header "n is synced" ◀───────┘
//! ```
//!
//! Owned by whoever drives it: a thread in `file`, the caller in `mem`. A driver repeats [`Writer::step`]; between two
//! steps a simulator may let time pass or the power fail.
//!
//! **Invariant.** Batch n + 1 is written only after batch n is synced; after a failed write or sync nothing is written
//! again.
//!
//! **Deliberately absent.** A timer: what arrives during a sync rides the next one.

use super::group::Place;
use super::medium::Medium;
use super::record::Parts;
use super::segment::{BATCH_HEADER_BYTES, BatchHeader, Epoch, SEGMENT_HEADER_BYTES, Segment, SegmentHeader};
use super::shared::{Shared, tell_waiters};
use super::spares::Spares;
use super::state::{Queued, RESERVE_BYTES, Settled, Settling};
use super::{BatchNumber, Completion, JournalOptions};
use crate::error::StorageError;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: nobody waits for anything, or the journal is poisoned.
    Idle,
    /// A batch was written. It is lost if the power fails now.
    Written,
    /// The batch was synced and everybody told.
    Synced,
}

/// The segment that is being written.
pub(super) struct Active {
    pub(super) segment: Segment,
    /// Where the next batch goes; 0: not even the segment header is there.
    pub(super) offset: u64,
}

impl Active {
    /// Bytes of records that one more batch may bring.
    pub(super) fn free(&self) -> u64 {
        let header = if self.offset == 0 { SEGMENT_HEADER_BYTES as u64 } else { 0 };
        self.segment.length.saturating_sub(self.offset + header + BATCH_HEADER_BYTES as u64 + RESERVE_BYTES)
    }
}

/// The half of the journal that owns the files.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) medium: Box<dyn Medium>,
    pub(super) options: JournalOptions,
    pub(super) active: Active,
    pub(super) spares: Spares,
    pub(super) last_epoch: Epoch,
    pub(super) last_batch: BatchNumber,
    pub(super) last_synced: BatchNumber,
    pub(super) backlog: VecDeque<Queued>,
    pub(super) unsynced: Option<Vec<Settling>>,
    pub(super) parts: Parts,
    /// A read for copying forward failed: the oldest segment stays as it is.
    pub(super) is_copying_blocked: bool,
}

impl Writer {
    /// Does the next thing: writes the next batch, or syncs the one that was written.
    pub(super) fn step(&mut self) -> Step {
        if self.shared.state.lock().poisoned.is_some() {
            return Step::Idle;
        }
        let done = match self.unsynced.take() {
            Some(written) => self.sync(written).map(|()| Step::Synced),
            None => self.write(),
        };
        done.unwrap_or_else(|error| {
            self.poison(&error);
            Step::Idle
        })
    }

    /// Whether a batch is written and not synced.
    pub(super) fn is_unsynced(&self) -> bool {
        self.unsynced.is_some()
    }

    fn write(&mut self) -> Result<Step, StorageError> {
        if self.backlog.is_empty() {
            let mut state = self.shared.state.lock();
            self.backlog.extend(state.take_due());
            if self.backlog.is_empty() {
                return Ok(Step::Idle);
            }
        }
        if u64::from(self.backlog[0].bytes) > self.active.free() {
            self.rotate()?;
        }
        self.shared.state.lock().sync_began.get_or_insert_with(Instant::now);
        let number = BatchNumber(self.last_batch.0 + 1);
        let written = self.build(number);
        // What follows can only fail as a whole: the records go with the batch, so that poison finds them.
        self.unsynced = Some(written);
        let mut slices = self.parts.slices();
        let file = &self.active.segment.file;
        file.write_at(self.active.offset, &mut slices).map_err(|why| self.io("write", &why))?;
        self.active.offset += self.parts.len() as u64;
        self.last_batch = number;
        let records = self.unsynced.as_ref().expect("just set");
        self.shared.state.lock().written(records, self.active.free());
        Ok(Step::Written)
    }

    /// Encodes as much of the backlog as one batch and the active segment take.
    fn build(&mut self, number: BatchNumber) -> Vec<Settling> {
        let (epoch, start) = (self.active.segment.epoch, self.active.offset);
        let bytes_max = self.active.free().min(self.options.batch_bytes_max as u64);
        self.parts.clear();
        if start == 0 {
            self.parts.put(&self.segment_header().encode());
        }
        let header_at = self.parts.len();
        let records_at = header_at + BATCH_HEADER_BYTES;
        self.parts.put(&[0; BATCH_HEADER_BYTES]);
        let mut written = Vec::new();
        while let Some(queued) = self.backlog.front() {
            let bytes = (self.parts.len() - records_at) as u64 + u64::from(queued.bytes);
            if bytes > bytes_max && !written.is_empty() {
                break;
            }
            let queued = self.backlog.pop_front().expect("looked at just now");
            let offset = (start + self.parts.len() as u64) as u32;
            let place = Place { epoch, offset, bytes: queued.bytes, batch: number };
            self.parts.put_record(queued.group, &queued.content, epoch.seed());
            let what = Settled::of(&queued.content);
            let Queued { ticket, group, done, .. } = queued;
            written.push(Settling { ticket, group, what, place, done });
        }
        let header = BatchHeader {
            number,
            previous: self.last_batch,
            synced: self.last_synced,
            offset: start + header_at as u64,
            records: written.len() as u32,
            bytes: (self.parts.len() - records_at) as u32,
        };
        self.parts.patch(header_at, &header.encode(epoch));
        written
    }

    fn segment_header(&self) -> SegmentHeader {
        let Segment { epoch, length, .. } = self.active.segment;
        SegmentHeader { epoch, replaces: None, length, previous: self.last_batch }
    }

    fn sync(&mut self, written: Vec<Settling>) -> Result<(), StorageError> {
        if let Err(why) = self.active.segment.file.sync() {
            self.unsynced = Some(written);
            return Err(self.io("sync", &why));
        }
        let number = self.last_batch;
        self.last_synced = number;
        // Before anybody is told: who was told what is durable names at least that batch.
        self.shared.last_synced.store(number.0, Ordering::Release);
        let waiters = {
            let mut state = self.shared.state.lock();
            let waiters = state.batch_synced(number, &written);
            if !self.backlog.is_empty() {
                state.sync_began.get_or_insert_with(Instant::now);
            }
            waiters
        };
        for done in newest_watermarks(written) {
            done.tell(Ok(()));
        }
        tell_waiters(waiters, &Ok(number));
        self.recycle()?;
        self.prepare(false);
        self.bare_header()
    }

    /// When nothing waits, one more header tells the next start that the last batch is synced (J1). It is not waited
    /// for.
    fn bare_header(&mut self) -> Result<(), StorageError> {
        let is_idle = self.backlog.is_empty() && !self.shared.state.lock().is_due();
        let end = self.active.offset + BATCH_HEADER_BYTES as u64;
        if !is_idle || self.active.offset == 0 || end > self.active.segment.length {
            return Ok(());
        }
        let number = BatchNumber(self.last_batch.0 + 1);
        let (previous, synced, offset) = (self.last_batch, self.last_synced, self.active.offset);
        let header = BatchHeader { number, previous, synced, offset, records: 0, bytes: 0 };
        self.parts.clear();
        self.parts.put(&header.encode(self.active.segment.epoch));
        let file = &self.active.segment.file;
        file.write_at(offset, &mut self.parts.slices()).map_err(|why| self.io("write", &why))?;
        self.active.offset = end;
        self.last_batch = number;
        self.shared.state.lock().room.active_free = self.active.free();
        Ok(())
    }

    /// Goes on in a spare. Its name survives before its first record can be acknowledged.
    fn rotate(&mut self) -> Result<(), StorageError> {
        if self.last_synced < self.last_batch {
            // A bare header that was not waited for: nothing may stand in a younger segment before it is synced.
            self.active.segment.file.sync().map_err(|why| self.io("sync", &why))?;
            self.last_synced = self.last_batch;
        }
        if self.spares.is_empty() {
            self.prepare(true);
        }
        let Some(spare) = self.spares.take() else {
            let why = "no prewritten segment is left".to_owned();
            return Err(StorageError::Io { operation: "rotate", path: self.medium.path("."), why });
        };
        self.last_epoch = self.last_epoch.next();
        let segment = spare.activate(&*self.medium, self.last_epoch)?;
        tracing::debug!(epoch = segment.epoch.0, "a journal segment begins");
        let mut state = self.shared.state.lock();
        state.segments.insert(segment.epoch, segment.clone());
        self.active = Active { segment, offset: 0 };
        state.room.active_free = self.active.free();
        state.room.spares = self.spares.len();
        Ok(())
    }

    /// Nothing is promised from here on: everybody is told why (invariant 5 of the house).
    pub(super) fn poison(&mut self, error: &StorageError) {
        let why = error.to_string();
        tracing::error!(why, "the journal is poisoned");
        let (queue, waiters) = self.shared.state.lock().poison(&why);
        let refused = StorageError::Poisoned(why);
        for settling in self.unsynced.take().unwrap_or_default() {
            settling.done.tell(Err(refused.clone()));
        }
        for queued in self.backlog.drain(..).chain(queue) {
            queued.done.tell(Err(refused.clone()));
        }
        tell_waiters(waiters, &Err(refused));
    }

    /// After the last batch: syncs the header that names it.
    pub(super) fn finish(&mut self) {
        if self.shared.state.lock().poisoned.is_some() {
            return;
        }
        if let Err(why) = self.active.segment.file.sync() {
            tracing::warn!(%why, "the last header of the journal is not synced");
        }
    }

    fn io(&self, operation: &'static str, why: &std::io::Error) -> StorageError {
        StorageError::io(operation, self.shared.path(self.active.segment.epoch), why)
    }
}

/// Who is told of a success, oldest first: of the watermarks of a group only the newest (J5).
fn newest_watermarks(written: Vec<Settling>) -> Vec<Completion> {
    let mut seen = BTreeSet::new();
    let mut told = Vec::new();
    for settling in written.into_iter().rev() {
        match settling.done {
            Completion::None => {}
            Completion::Watermark(_) if !seen.insert(settling.group) => {}
            done => told.push(done),
        }
    }
    told.reverse();
    told
}
