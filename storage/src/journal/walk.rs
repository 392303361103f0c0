//! # Walk: reading a segment as far as it can be trusted
//!
//! ```text
//!   header ✓ │ batch n ✓ │ batch n+1 ✓ … ✗      the walk ends here
//!                                        └──────▶ evidence: does any valid header behind it show that this was synced?
//! ```
//!
//! **Invariant.** What a walk visits was written, in this order, under this epoch. It never panics on any bytes.

use super::BatchNumber;
use super::group::Place;
use super::record::{self, BadRecord, Decoded, HEADER_BYTES};
use super::segment::{BATCH_HEADER_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, Window};
use crate::error::StorageError;

/// What a walk comes by.
pub(super) enum Visit {
    Batch(BatchHeader),
    Record { record: Decoded, place: Place },
}

/// How far a walk came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// The last whole batch, or the one before the segment.
    pub(super) complete: BatchNumber,
    /// Offset of the first byte that is not trusted.
    pub(super) end: u64,
    /// The batch to which the bytes at `end` must belong, if they belong to any.
    pub(super) expected: BatchNumber,
    pub(super) why: &'static str,
    /// The highest number in any valid header.
    pub(super) number_max: BatchNumber,
}

/// A segment being read.
pub(super) struct Walk<'a> {
    segment: &'a Segment,
    path: &'a str,
    window: Window<'a>,
    walked: Walked,
}

/// Why a batch is not whole: where, and what is wrong.
type Torn = (u64, &'static str);

impl<'a> Walk<'a> {
    pub(super) fn new(segment: &'a Segment, path: &'a str) -> Self {
        let nothing = BatchNumber(0);
        let walked = Walked { complete: nothing, end: 0, expected: nothing, why: "", number_max: nothing };
        Walk { segment, path, window: Window::new(segment), walked }
    }

    /// The batch before this segment, as its header says.
    pub(super) fn previous(mut self) -> Result<Option<BatchNumber>, StorageError> {
        let bytes = self.read(0, SEGMENT_HEADER_BYTES)?;
        Ok(SegmentHeader::decode(&bytes, self.segment.epoch, self.path)?.map(|header| header.previous))
    }

    /// Visits everything trusted. `before` is the last batch of the segment before, `None` for the oldest segment.
    pub(super) fn run(
        mut self,
        before: Option<BatchNumber>,
        visit: &mut dyn FnMut(Visit) -> Result<(), StorageError>,
    ) -> Result<Walked, StorageError> {
        let bytes = self.read(0, SEGMENT_HEADER_BYTES)?;
        let header = SegmentHeader::decode(&bytes, self.segment.epoch, self.path)?;
        let Some(header) = header else {
            return Ok(self.ended(0, before.unwrap_or_default(), "the segment header is damaged"));
        };
        if before.is_some_and(|before| before != header.previous) {
            return Ok(self.ended(0, before.unwrap_or_default(), "batches are missing before this segment"));
        }
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        let mut previous = header.previous;
        loop {
            let bytes = self.read(offset, BATCH_HEADER_BYTES)?;
            let batch = BatchHeader::decode(&bytes, self.segment.epoch, offset);
            let Some(batch) = batch.filter(|b| b.previous == previous && b.number > previous) else {
                return Ok(self.ended(offset, previous, "there is no batch header"));
            };
            self.walked.number_max = batch.number;
            visit(Visit::Batch(batch))?;
            if let Some((at, why)) = self.records(&batch, visit)? {
                self.walked.expected = batch.number;
                return Ok(Walked { complete: previous, end: at, why, ..self.walked });
            }
            previous = batch.number;
            offset += BATCH_HEADER_BYTES as u64 + u64::from(batch.bytes);
        }
    }

    fn ended(&self, end: u64, complete: BatchNumber, why: &'static str) -> Walked {
        Walked { complete, end, expected: BatchNumber(complete.0 + 1), why, ..self.walked }
    }

    fn records(
        &mut self,
        batch: &BatchHeader,
        visit: &mut dyn FnMut(Visit) -> Result<(), StorageError>,
    ) -> Result<Option<Torn>, StorageError> {
        let mut at = batch.offset + BATCH_HEADER_BYTES as u64;
        let end = at + u64::from(batch.bytes);
        for _ in 0..batch.records {
            let head = self.read(at, HEADER_BYTES)?;
            let total = record::peek_total(&head).unwrap_or(usize::MAX);
            if total as u64 > end - at {
                return Ok(Some((at, BadRecord::Short.why())));
            }
            match record::decode(&self.read(at, total)?, self.segment.epoch.seed()) {
                Ok(record) => {
                    let Segment { epoch, .. } = self.segment;
                    let place = Place { epoch: *epoch, offset: at as u32, bytes: total as u32, batch: batch.number };
                    visit(Visit::Record { record, place })?;
                }
                Err(BadRecord::Kind(kind)) => {
                    let found = format!("kind {kind} at byte {at} of {}", self.path);
                    return Err(StorageError::UnknownFormat { what: "journal record", found });
                }
                Err(bad) => return Ok(Some((at, bad.why()))),
            }
            at += total as u64;
        }
        Ok((at != end).then_some((at, "a batch is longer than its records")))
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<bytes::Bytes, StorageError> {
        self.window.get(offset, length).map_err(|why| StorageError::io("read", self.path, &why))
    }
}

/// What valid headers say, wherever they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// Some header was valid.
    pub(super) is_found: bool,
    /// The highest batch shown to be synced.
    pub(super) synced: BatchNumber,
    /// The highest number of a batch.
    pub(super) number_max: BatchNumber,
}

impl Evidence {
    pub(super) fn and(self, other: Evidence) -> Evidence {
        Evidence {
            is_found: self.is_found || other.is_found,
            synced: self.synced.max(other.synced),
            number_max: self.number_max.max(other.number_max),
        }
    }

    /// Looks for headers of `segment` from byte `from` on, at every boundary where one may stand.
    pub(super) fn search(segment: &Segment, path: &str, from: u64) -> Result<Evidence, StorageError> {
        let mut found = Evidence::default();
        let mut window = Window::new(segment);
        let mut read = |offset, length| window.get(offset, length).map_err(|why| StorageError::io("read", path, &why));
        if from == 0 {
            let bytes = read(0, SEGMENT_HEADER_BYTES)?;
            if let Some(header) = SegmentHeader::decode(&bytes, segment.epoch, path)? {
                // A segment begins only when everything before it is synced.
                found = Evidence { is_found: true, synced: header.previous, number_max: header.previous };
            }
        }
        let mut start = from.next_multiple_of(8);
        while start + BATCH_HEADER_BYTES as u64 <= segment.length {
            let chunk = read(start, SEARCH_BYTES)?;
            for (position, at) in (0..chunk.len()).step_by(8).zip((start..).step_by(8)) {
                if !BatchHeader::may_begin(&chunk[position..]) {
                    continue;
                }
                if let Some(header) = BatchHeader::decode(&read(at, BATCH_HEADER_BYTES)?, segment.epoch, at) {
                    let Evidence { synced, number_max, .. } = found;
                    let (synced, number_max) = (synced.max(header.synced), number_max.max(header.number));
                    found = Evidence { is_found: true, synced, number_max };
                }
            }
            if chunk.len() < SEARCH_BYTES {
                break;
            }
            start += SEARCH_BYTES as u64;
        }
        Ok(found)
    }
}

/// Bytes looked through at once; a multiple of eight.
const SEARCH_BYTES: usize = 1 << 20;
