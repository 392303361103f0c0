//! # Shared: the caller's half of a journal
//!
//! What `file` and `mem` have in common: admission, reading back, waiting. Each adds how its writer is driven.
//!
//! **Invariant.** No completion is told while the state is locked, so a completion may call the journal again.

use super::group::Place;
use super::index::Found;
use super::record::{self, Content};
use super::segment::{Epoch, Role, Segment};
use super::state::{Lack, State, Waiter};
use super::{BatchNumber, Completion, LogRecord};
use crate::error::StorageError;
use bytes::Bytes;
use kvorum_api::GroupId;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an operator can do about rot that this node cannot repair.
pub(super) const ADVICE: &str =
    "this build cannot replace a node; other nodes, if there are any, still have their replicas";

/// Bytes read from a segment at once when entries lie close together.
const READ_BYTES: u64 = 256 << 10;
/// Bytes between two entries that are read along rather than asked for separately.
const READ_GAP_BYTES: u64 = 16 << 10;

/// Has prewritten space prepared while the state may be unlocked, or says why there is none.
type MakeRoom<'a> = &'a dyn Fn(&mut MutexGuard<'_, State>, Lack) -> Result<(), StorageError>;

/// The state, and where it lies.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// The last batch known durable, for who asks without wanting to wait for the state.
    pub(super) last_synced: AtomicU64,
    /// The directory, as an operator would name it.
    pub(super) directory: String,
}

impl Shared {
    pub(super) fn last_synced(&self) -> BatchNumber {
        BatchNumber(self.last_synced.load(Ordering::Acquire))
    }

    /// Queues records of one group. Where prewritten space lacks, `make_room` has one more prepared or says why not.
    pub(super) fn submit(
        &self,
        group: GroupId,
        contents: Vec<Content>,
        done: Completion,
        make_room: MakeRoom<'_>,
    ) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        let need = state.need(&contents)?;
        loop {
            state.check_open()?;
            let Err(lack) = state.check_room(need) else { break };
            make_room(&mut state, lack)?;
        }
        state.assert_follows(group, &contents);
        state.queue(group, contents, need, done);
        Ok(())
    }

    /// An append of nothing is done when everything before it is.
    pub(super) fn submit_nothing(&self, group: GroupId, done: Completion) -> Result<(), StorageError> {
        self.state.lock().check_open()?;
        match done {
            Completion::None => {}
            Completion::Watermark(tell) | Completion::Signal(tell) => {
                self.when_durable(group, u64::MAX, Box::new(move |result| tell(result.map(|_| ()))));
            }
        }
        Ok(())
    }

    pub(super) fn when_durable(&self, group: GroupId, index: u64, done: Waiter) {
        let mut state = self.state.lock();
        if let Some(why) = &state.poisoned {
            let refused = StorageError::Poisoned(why.clone());
            drop(state);
            return done(Err(refused));
        }
        let now = state.when_durable(group, index, done);
        drop(state);
        if let Some((done, number)) = now {
            done(Ok(number));
        }
    }

    pub(super) fn entries(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<LogRecord>, StorageError> {
        let state = self.state.lock();
        let found = state.index.find(group, range, bytes_max);
        // Held until the read is over: a segment is not used again while somebody reads it.
        let mut segments = BTreeMap::new();
        for place in found.iter().filter_map(Found::place) {
            let Some(segment) = state.segments.get(&place.epoch) else { return Err(StorageError::Stopped) };
            segments.entry(place.epoch).or_insert_with(|| segment.clone());
        }
        drop(state);
        self.read(group, found, &segments)
    }

    fn read(
        &self,
        group: GroupId,
        found: Vec<Found>,
        segments: &BTreeMap<Epoch, Segment>,
    ) -> Result<Vec<LogRecord>, StorageError> {
        let mut records = Vec::with_capacity(found.len());
        let mut piece = Piece::default();
        for (position, wanted) in found.iter().enumerate() {
            let (index, place) = match wanted {
                Found::Memory(record) => {
                    records.push(record.clone());
                    continue;
                }
                Found::Disk { index, place } => (*index, *place),
            };
            let segment = &segments[&place.epoch];
            if !piece.covers(place) {
                let path = self.path(place.epoch);
                let length = run_bytes(place, found[position + 1..].iter().filter_map(Found::place));
                piece = Piece::read(segment, place, length).map_err(|why| StorageError::io("read", path, &why))?;
            }
            records.push(self.decode(group, index, place, &piece.bytes(place))?);
        }
        Ok(records)
    }

    /// One entry from its place.
    pub(super) fn read_one(
        &self,
        group: GroupId,
        index: u64,
        place: Place,
        segment: &Segment,
    ) -> Result<LogRecord, StorageError> {
        let piece = Piece::read(segment, place, u64::from(place.bytes));
        let piece = piece.map_err(|why| StorageError::io("read", self.path(place.epoch), &why))?;
        self.decode(group, index, place, &piece.bytes(place))
    }

    fn decode(&self, group: GroupId, index: u64, place: Place, bytes: &Bytes) -> Result<LogRecord, StorageError> {
        let why = match record::decode(bytes, place.epoch.seed()) {
            Ok(record::Decoded {
                group: found, content: Content::Entry(record) | Content::EntryCopy(record), ..
            }) if found == group && record.index == index => {
                return Ok(record);
            }
            Ok(_) => "another record is in the place of an entry",
            Err(bad) => bad.why(),
        };
        let why = format!("{why}; {ADVICE}");
        Err(StorageError::Corrupt { file: self.path(place.epoch), offset: u64::from(place.offset), why })
    }

    /// Lets the files go. Entries in memory can still be read.
    pub(super) fn release(&self) {
        self.state.lock().segments.clear();
    }

    pub(super) fn path(&self, epoch: Epoch) -> String {
        format!("{}/{}", self.directory, Role::Segment.name(epoch))
    }
}

impl Found {
    fn place(&self) -> Option<&Place> {
        match self {
            Found::Memory(_) => None,
            Found::Disk { place, .. } => Some(place),
        }
    }
}

/// Bytes from `first` on that hold it and those of `next` that lie close behind it.
fn run_bytes<'a>(first: Place, next: impl Iterator<Item = &'a Place>) -> u64 {
    let start = u64::from(first.offset);
    let mut end = start + u64::from(first.bytes);
    for place in next {
        let (from, to) = (u64::from(place.offset), u64::from(place.offset) + u64::from(place.bytes));
        let is_close = place.epoch == first.epoch && from >= end && from - end <= READ_GAP_BYTES;
        if !is_close || to - start > READ_BYTES {
            break;
        }
        end = to;
    }
    end - start
}

/// A piece of a segment in memory.
#[derive(Default)]
struct Piece {
    epoch: Epoch,
    start: u64,
    bytes: Bytes,
}

impl Piece {
    fn read(segment: &Segment, place: Place, length: u64) -> std::io::Result<Piece> {
        let mut bytes = vec![0; length as usize];
        let start = u64::from(place.offset);
        let read = segment.file.read_at(start, &mut bytes)?;
        bytes.truncate(read);
        Ok(Piece { epoch: place.epoch, start, bytes: bytes.into() })
    }

    fn covers(&self, place: Place) -> bool {
        let from = u64::from(place.offset);
        let end = self.start + self.bytes.len() as u64;
        self.epoch == place.epoch && from >= self.start && from + u64::from(place.bytes) <= end
    }

    /// The bytes of a record, or fewer where the file has ended.
    fn bytes(&self, place: Place) -> Bytes {
        let from = (u64::from(place.offset) - self.start) as usize;
        let to = (from + place.bytes as usize).min(self.bytes.len());
        self.bytes.slice(from.min(to)..to)
    }
}

/// Tells everybody who waits for a batch number.
pub(super) fn tell_waiters(waiters: Vec<Waiter>, result: &Result<BatchNumber, StorageError>) {
    for waiter in waiters {
        waiter(result.clone());
    }
}

impl Completion {
    /// Tells whoever waits, if somebody does.
    pub(super) fn tell(self, result: Result<(), StorageError>) {
        match self {
            Completion::None => {}
            Completion::Watermark(tell) | Completion::Signal(tell) => tell(result),
        }
    }
}
