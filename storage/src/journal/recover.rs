//! # Recovery: what a start makes of the files it finds
//!
//! ```text
//!   names ─▶ walk segments, oldest first ─▶ bad place, in batch n ─┬─ some header shows n synced: corruption, refuse
//!                                                                  └─ none does: torn tail, cut
//!         ─▶ write the last segment anew, sync it, drop the old one ─▶ serve
//! ```
//!
//! The last segment is written anew because what a killed process left may lie in the page cache alone, and because a
//! failed sync may have left pages that look clean and are not. All older segments were synced before a younger one
//! began.
//!
//! **Invariant (J1).** What is cut was never reported done. The one exception, rot inside the very last synced batch,
//! is kept short by the bare header behind it.

use super::medium::Medium;
use super::record::Parts;
use super::replay::Replay;
use super::rewrite::Rewrite;
use super::segment::{Epoch, Role, SEGMENT_HEADER_BYTES, Segment, SegmentHeader};
use super::shared::{ADVICE, Shared};
use super::spares::{Spare, Spares, remove};
use super::state::State;
use super::walk::{Evidence, Visit, Walk, Walked};
use super::writer::Writer;
use super::{BatchNumber, JournalOptions};
use crate::error::StorageError;
use crate::planted;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Segments smaller than this hold nothing but headers, larger ones exceed the offsets of batch headers.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=1 << 30;

/// Reads the directory and makes it ready for writing.
pub(super) fn open(medium: Box<dyn Medium>, options: JournalOptions) -> Result<Writer, StorageError> {
    let directory = medium.path(".");
    let directory = directory.trim_end_matches("/.").to_owned();
    if !SEGMENT_BYTES.contains(&options.segment_bytes) || !options.segment_bytes.is_multiple_of(512) {
        let why = format!("segment_bytes {} is not a multiple of 512 in {SEGMENT_BYTES:?}", options.segment_bytes);
        return Err(StorageError::Io { operation: "open", path: directory, why });
    }
    let mut start = Start::read(&*medium, &options)?;
    let found = start.find_end()?;
    let Found { replay, last, number_max } = found;
    let tail = start.drop_beyond(last)?;
    let number = BatchNumber(number_max.max(options.resume_above).0 + 1);
    let rewrite = Rewrite { medium: &*medium, options: &options, number };
    let Start { mut segments, mut spares, mut last_epoch, .. } = start;
    let before = segments.pop_if(|_| tail.is_some());
    let (active, replay) = rewrite.run(before.as_ref(), tail, replay, &mut spares, &mut last_epoch)?;
    if let Some(spare) = before.map(|old| Spare::retire(old, Role::Segment, &*medium, &options)).transpose()? {
        spares.extend(spare);
    }
    let index = replay.finish(options.cache_bytes_max, &directory)?;
    let mut state = State::new(&options, index, number);
    state.segments.extend(segments.into_iter().chain([active.segment.clone()]).map(|segment| (segment.epoch, segment)));
    state.room.active_free = active.free();
    let shared =
        Arc::new(Shared { last_synced: AtomicU64::new(state.last_synced.0), state: Mutex::new(state), directory });
    let mut writer = Writer {
        shared,
        medium,
        options,
        active,
        spares: Spares::default(),
        last_epoch,
        last_batch: number,
        last_synced: number,
        backlog: VecDeque::new(),
        unsynced: None,
        parts: Parts::default(),
        is_copying_blocked: false,
    };
    spares.into_iter().for_each(|spare| writer.spares.add(spare));
    writer.prepare(true);
    writer.recycle()?;
    Ok(writer)
}

/// What lies in the directory.
struct Start<'a> {
    medium: &'a dyn Medium,
    options: &'a JournalOptions,
    /// Oldest first.
    segments: Vec<Segment>,
    spares: Vec<Spare>,
    last_epoch: Epoch,
}

/// Where the log ends.
struct Found {
    /// Everything in the segments before the last one.
    replay: Replay,
    /// The last segment with anything in it, and what came before it.
    last: Option<(usize, Tail)>,
    number_max: BatchNumber,
}

/// What a rewrite must know of the segment it repeats.
#[derive(Clone, Copy)]
pub(super) struct Tail {
    /// The last batch of the segment before; `None`: it is the oldest.
    pub(super) before: Option<BatchNumber>,
}

impl<'a> Start<'a> {
    fn read(medium: &'a dyn Medium, options: &'a JournalOptions) -> Result<Self, StorageError> {
        let mut start = Start { medium, options, segments: Vec::new(), spares: Vec::new(), last_epoch: Epoch(0) };
        let mut names = medium.names().map_err(|why| StorageError::io("list", medium.path("."), &why))?;
        names.sort();
        for name in names {
            let Some((role, epoch)) = Role::parse(&name) else { continue };
            start.last_epoch = start.last_epoch.max(epoch);
            if role == Role::Preparing {
                remove(medium, &name)?;
                continue;
            }
            let opened = medium.open(&name).and_then(|file| Ok((file.length()?, file)));
            let (length, file) = opened.map_err(|why| StorageError::io("open", medium.path(&name), &why))?;
            if role == Role::Segment {
                start.segments.push(Segment { epoch, length, file });
            } else if length == options.segment_bytes {
                start.spares.push(Spare { epoch, role, length, file });
            } else {
                remove(medium, &name)?;
            }
        }
        start.drop_replaced()?;
        Ok(start)
    }

    fn path(&self, segment: &Segment) -> String {
        self.medium.path(&Role::Segment.name(segment.epoch))
    }

    /// A start that was killed between renaming the new last segment in and the old one out left both.
    fn drop_replaced(&mut self) -> Result<(), StorageError> {
        let mut replaced = Vec::new();
        for segment in &self.segments {
            replaced.extend(self.header(segment)?.and_then(|header| header.replaces));
        }
        while let Some(position) = self.segments.iter().position(|segment| replaced.contains(&segment.epoch)) {
            self.retire(position)?;
        }
        Ok(())
    }

    fn header(&self, segment: &Segment) -> Result<Option<SegmentHeader>, StorageError> {
        let path = self.path(segment);
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = segment.file.read_at(0, &mut bytes).map_err(|why| StorageError::io("read", &path, &why))?;
        SegmentHeader::decode(&bytes[..read], segment.epoch, &path)
    }

    fn retire(&mut self, position: usize) -> Result<(), StorageError> {
        let segment = self.segments.remove(position);
        let spare = Spare::retire(segment, Role::Segment, self.medium, self.options)?;
        self.spares.extend(spare);
        Ok(())
    }

    /// Walks all segments and finds the end of the log, or refuses.
    fn find_end(&self) -> Result<Found, StorageError> {
        let mut number_max = BatchNumber(0);
        let mut last = self.last_with_content()?;
        'again: loop {
            let mut replay = Replay::default();
            let Some(end) = last else { return Ok(Found { replay, last: None, number_max }) };
            let mut before = None;
            for position in 0..=end {
                let is_last = position == end;
                let mut visit = |visit| {
                    if let (Visit::Record { record, place }, false) = (visit, is_last) {
                        replay.apply(record.group, &record.content, place);
                    }
                    Ok(())
                };
                let segment = &self.segments[position];
                let walked = Walk::new(segment, &self.path(segment)).run(before, &mut visit)?;
                number_max = number_max.max(walked.number_max).max(walked.complete);
                if is_last || self.continues(position, &walked)? {
                    if is_last {
                        number_max = number_max.max(self.judge(position, &walked)?.number_max);
                        break;
                    }
                    before = Some(walked.complete);
                    continue;
                }
                number_max = number_max.max(self.judge(position, &walked)?.number_max);
                last = Some(position);
                continue 'again;
            }
            return Ok(Found { replay, last: Some((end, Tail { before })), number_max });
        }
    }

    fn last_with_content(&self) -> Result<Option<usize>, StorageError> {
        for (position, segment) in self.segments.iter().enumerate().rev() {
            let has_header = self.header(segment)?.is_some();
            if has_header || Evidence::search(segment, &self.path(segment), 0)?.is_found {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }

    /// Whether the next segment begins where this one ended.
    fn continues(&self, position: usize, walked: &Walked) -> Result<bool, StorageError> {
        let Some(next) = self.segments.get(position + 1) else { return Ok(false) };
        Ok(self.header(next)?.is_some_and(|header| header.previous == walked.complete))
    }

    /// Tells a torn tail from corruption: looks at every header behind the first bad place.
    fn judge(&self, position: usize, walked: &Walked) -> Result<Evidence, StorageError> {
        let segment = &self.segments[position];
        let here = Evidence::search(segment, &self.path(segment), walked.end)?;
        let mut found = here;
        for later in &self.segments[position + 1..] {
            found = found.and(Evidence::search(later, &self.path(later), 0)?);
        }
        if found.synced < walked.expected || planted!("bug-rot-is-cut") {
            return Ok(found);
        }
        let next = self.segments.get(position + 1);
        let (place, offset, why) = match next {
            // Nothing more is in this segment, and the next one has lost its header: that is where the rot is.
            Some(next) if !here.is_found && self.header(next)?.is_none() => (next, 0, "the segment header is damaged"),
            _ => (segment, walked.end, walked.why),
        };
        let (expected, synced) = (walked.expected.0, found.synced.0);
        let why = format!("{why} in batch {expected}, and batch {synced} is known to be synced; {ADVICE}");
        Err(StorageError::Corrupt { file: self.path(place), offset, why })
    }

    /// Takes the segments behind the end of the log out of it. They hold nothing that was ever synced.
    fn drop_beyond(&mut self, last: Option<(usize, Tail)>) -> Result<Option<Tail>, StorageError> {
        let kept = last.map_or(0, |(position, _)| position + 1);
        while self.segments.len() > kept {
            self.retire(self.segments.len() - 1)?;
        }
        Ok(last.map(|(_, tail)| tail))
    }
}
