//! # Rewrite: the last segment once more, on fresh blocks
//!
//! Every start does this before anything else. The new file becomes part of the log by a rename after its sync, and its
//! header names the segment it replaces: whatever moment the power fails, a start finds one of the two whole.
//!
//! It takes a spare if there is one, and else new space. Where the disk has none for a whole segment, a shorter one
//! does: the segment it replaces then becomes the spare that was missing. So a node that was killed on a full disk
//! starts on it as long as there is room for what its last segment holds (S5).
//!
//! **Invariant.** The same records, batches and order; batch numbers stay, empty batches go, and one bare header at the
//! end carries the number from which this life counts on.

use super::group::Place;
use super::medium::{Medium, SegmentFile};
use super::record::Parts;
use super::recover::Tail;
use super::replay::Replay;
use super::segment::{BATCH_HEADER_BYTES, BatchHeader, Epoch, Role, SEGMENT_HEADER_BYTES, Segment, SegmentHeader};
use super::spares::{Spare, Spares, rename};
use super::state::RESERVE_BYTES;
use super::walk::{Visit, Walk};
use super::writer::Active;
use super::{BatchNumber, JournalOptions};
use crate::error::StorageError;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Bytes collected before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// Lengths of files are multiples of this.
const BLOCK_BYTES: u64 = 512;

/// What a segment that is shorter than others takes besides what it repeats.
const MARKS_BYTES: u64 = 64 << 10;

/// The making of the first segment of this life.
pub(super) struct Rewrite<'a> {
    pub(super) medium: &'a dyn Medium,
    pub(super) options: &'a JournalOptions,
    /// The number of the bare header at the end.
    pub(super) number: BatchNumber,
}

impl Rewrite<'_> {
    /// Writes what `old` holds into a fresh segment and replays it. Without `old` the log begins here.
    pub(super) fn run(
        &self,
        old: Option<&Segment>,
        tail: Option<Tail>,
        mut replay: Replay,
        spares: &mut Vec<Spare>,
        last_epoch: &mut Epoch,
    ) -> Result<(Active, Replay), StorageError> {
        let whole = old.map_or(0, |old| old.length).max(self.options.segment_bytes);
        let mut least = || self.least_bytes(old, tail);
        let Fresh { file, epoch, length } = self.fresh_file(whole, &mut least, spares, last_epoch)?;
        let name = Role::Rewrite.name(epoch);
        let io = |operation, why: std::io::Error| StorageError::io(operation, self.medium.path(&name), &why);
        let mut copy = Copy {
            out: Output { file: &*file, offset: 0, bytes: Vec::new() },
            epoch,
            previous: self.previous(old, tail)?,
            batch: None,
            parts: Parts::default(),
            places: &mut |record, place| replay.apply(record.group, &record.content, place),
        };
        let (replaces, previous) = (old.map(|old| old.epoch), copy.previous);
        copy.out.put(&SegmentHeader { epoch, replaces, length, previous }.encode()).map_err(|why| io("write", why))?;
        if let Some(old) = old {
            let path = self.medium.path(&Role::Segment.name(old.epoch));
            let before = tail.and_then(|tail| tail.before);
            let mut visit = |visit| copy.visit(visit).map_err(|why| io("write", why));
            Walk::new(old, &path).run(before, &mut visit)?;
        }
        let offset = copy.finish(self.number).map_err(|why| io("write", why))?;
        file.sync().map_err(|why| io("sync", why))?;
        rename(self.medium, &name, &Role::Segment.name(epoch))?;
        Ok((Active { segment: Segment { epoch, length, file }, offset }, replay))
    }

    /// The last batch before the old segment.
    fn previous(&self, old: Option<&Segment>, tail: Option<Tail>) -> Result<BatchNumber, StorageError> {
        let (Some(old), Some(tail)) = (old, tail) else { return Ok(BatchNumber(0)) };
        if let Some(before) = tail.before {
            return Ok(before);
        }
        // The oldest segment says itself what came before it; without a readable header it holds nothing.
        let path = self.medium.path(&Role::Segment.name(old.epoch));
        let nothing = Walk::new(old, &path).previous()?;
        Ok(nothing.unwrap_or_default())
    }

    /// What the new segment must take: all that `old` holds, and some marks.
    fn least_bytes(&self, old: Option<&Segment>, tail: Option<Tail>) -> Result<u64, StorageError> {
        let used = match old {
            Some(old) => {
                let path = self.medium.path(&Role::Segment.name(old.epoch));
                Walk::new(old, &path).run(tail.and_then(|tail| tail.before), &mut |_| Ok(()))?.end
            }
            None => 0,
        };
        let marks = MARKS_BYTES.min(self.options.segment_bytes / 8);
        let bytes = used.max(SEGMENT_HEADER_BYTES as u64) + BATCH_HEADER_BYTES as u64 + RESERVE_BYTES + marks;
        Ok(bytes.next_multiple_of(BLOCK_BYTES))
    }

    /// A prewritten file under a name that no other life has had.
    fn fresh_file(
        &self,
        whole: u64,
        least: &mut dyn FnMut() -> Result<u64, StorageError>,
        spares: &mut Vec<Spare>,
        last_epoch: &mut Epoch,
    ) -> Result<Fresh, StorageError> {
        let spare = match spares.iter().position(|spare| spare.length == whole) {
            Some(position) => spares.swap_remove(position),
            None => self.prepare(whole, least, last_epoch)?,
        };
        *last_epoch = last_epoch.next();
        let epoch = *last_epoch;
        rename(self.medium, &spare.role.name(spare.epoch), &Role::Rewrite.name(epoch))?;
        Ok(Fresh { file: spare.file, epoch, length: spare.length })
    }

    /// New space: for a whole segment, or else for half of that, and so on down to the least that does.
    fn prepare(
        &self,
        whole: u64,
        least: &mut dyn FnMut() -> Result<u64, StorageError>,
        last_epoch: &mut Epoch,
    ) -> Result<Spare, StorageError> {
        let mut length = whole;
        loop {
            let mut fresh = Spares::default();
            let failed = loop {
                match fresh.prepare_piece(self.medium, length, last_epoch) {
                    Ok(false) => {}
                    Ok(true) => return Ok(fresh.take().expect("it is ready")),
                    Err(why) => break why,
                }
            };
            fresh.abandon(self.medium);
            let directory = self.medium.path(".");
            let directory = directory.trim_end_matches("/.");
            if failed.kind() != io::ErrorKind::StorageFull {
                return Err(StorageError::io("prepare", directory, &failed));
            }
            let least = least()?;
            if length <= least {
                let why = format!("a start needs {least} free bytes for the journal in {directory}: {failed}");
                return Err(StorageError::DiskFull(why));
            }
            tracing::warn!(bytes = length, %failed, "no space for a journal segment, a shorter one is tried");
            length = (length / 2).next_multiple_of(BLOCK_BYTES).min(length - BLOCK_BYTES).max(least);
        }
    }
}

/// A prewritten file that is about to become a segment.
struct Fresh {
    file: Arc<dyn SegmentFile>,
    epoch: Epoch,
    length: u64,
}

/// Records on their way from one segment to another.
struct Copy<'a> {
    out: Output<'a>,
    epoch: Epoch,
    /// The last batch written.
    previous: BatchNumber,
    /// The batch being collected: its number and its count of records.
    batch: Option<(BatchNumber, u32)>,
    parts: Parts,
    places: &'a mut dyn FnMut(super::record::Decoded, Place),
}

impl Copy<'_> {
    fn visit(&mut self, visit: Visit) -> std::io::Result<()> {
        match visit {
            Visit::Batch(header) => {
                self.end_batch()?;
                self.batch = Some((header.number, 0));
                Ok(())
            }
            Visit::Record { record, place } => {
                let (_, records) = self.batch.as_mut().expect("a record belongs to a batch");
                *records += 1;
                let offset = self.out.offset + BATCH_HEADER_BYTES as u64 + self.parts.len() as u64;
                self.parts.put_record(record.group, &record.content, self.epoch.seed());
                (self.places)(record, Place { epoch: self.epoch, offset: offset as u32, ..place });
                Ok(())
            }
        }
    }

    fn end_batch(&mut self) -> std::io::Result<()> {
        let Some((number, records)) = self.batch.take().filter(|(_, records)| *records > 0) else { return Ok(()) };
        self.put_batch(number, records)
    }

    fn put_batch(&mut self, number: BatchNumber, records: u32) -> std::io::Result<()> {
        // True when it is read: the file joins the log after its sync.
        let synced = self.previous;
        let (offset, bytes) = (self.out.offset, self.parts.len() as u32);
        let header = BatchHeader { number, previous: self.previous, synced, offset, records, bytes };
        self.out.put(&header.encode(self.epoch))?;
        for slice in self.parts.slices() {
            self.out.put(&slice)?;
        }
        self.parts.clear();
        self.previous = number;
        Ok(())
    }

    /// Writes the bare header and gives the end of the log.
    fn finish(mut self, number: BatchNumber) -> std::io::Result<u64> {
        self.end_batch()?;
        self.put_batch(number, 0)?;
        self.out.flush()?;
        Ok(self.out.offset)
    }
}

/// A file written from its start on.
struct Output<'a> {
    file: &'a dyn SegmentFile,
    /// Where the next byte goes, those still in `bytes` included.
    offset: u64,
    bytes: Vec<u8>,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        self.offset += bytes.len() as u64;
        if self.bytes.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let start = self.offset - self.bytes.len() as u64;
        self.file.write_at(start, &mut [IoSlice::new(&self.bytes)])?;
        self.bytes.clear();
        Ok(())
    }
}
