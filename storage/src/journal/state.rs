//! # State: what callers and the writer share
//!
//! ```text
//!   callers ──▶ admission (room) ──▶ index: readable ──▶ queue ─┐
//!                                                               ▼ writer: one batch, one sync
//!   callers ◀── completions, waiters ◀── index: has a place ◀───┘
//! ```
//!
//! **Invariant.** What is accepted fits into space that is already prewritten, so a full disk refuses and never poisons
//! (S5); the last spare segment is for marks alone, so that a purge always has room. After the first failed write or
//! sync nothing is accepted or promised any more.

use super::group::{Group, MarkKind, Place, Stage, Ticket};
use super::index::{Index, Live};
use super::record::{Content, total_bytes};
use super::segment::{BATCH_HEADER_BYTES, Epoch, SEGMENT_HEADER_BYTES, Segment};
use super::{BatchNumber, Completion, JournalOptions, JournalStatus, LogRecord, Mark};
use crate::error::StorageError;
use kvorum_api::GroupId;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Told with the batch that made something durable.
pub(super) type Waiter = Box<dyn FnOnce(Result<BatchNumber, StorageError>) + Send>;

/// A record on its way to the disk.
pub(super) struct Queued {
    pub(super) ticket: Ticket,
    pub(super) group: GroupId,
    pub(super) content: Content,
    /// Bytes of the record.
    pub(super) bytes: u32,
    pub(super) done: Completion,
}

/// Headers that one more record may cost: its own batch and the bare header behind it.
const OVERHEAD_BYTES: u64 = 2 * BATCH_HEADER_BYTES as u64;
/// Bytes at the end of a segment that only a bare header may take.
pub(super) const RESERVE_BYTES: u64 = BATCH_HEADER_BYTES as u64;

/// What a submission asks of the prewritten space.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    records: u64,
    bytes: u64,
    largest: u64,
    is_mark: bool,
}

/// Why a submission was not accepted yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lack {
    /// Spares with which it would fit.
    pub(super) spares: u64,
}

/// Records that nobody waits for and that are written all the same once there are so many.
const PATIENT_RECORDS_MAX: usize = 1_024;

/// Whether records may wait until somebody waits for others: a committed mark is only ever a little better than the one
/// before it, and a sync of its own would make the next append wait.
fn is_patient(contents: &[Content], done: &Completion) -> bool {
    let is_unwaited = matches!(done, Completion::None);
    is_unwaited && contents.iter().all(|content| matches!(content, Content::Mark(Mark::Committed(_))))
}

/// The prewritten space, and what is queued for it.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Bytes of records that the active segment still takes.
    pub(super) active_free: u64,
    pub(super) spares: u64,
    /// Spares somebody waits for.
    pub(super) spares_wanted: u64,
    /// Bytes of records that a spare takes.
    pub(super) spare_capacity: u64,
    /// Why the last attempt to prepare a spare failed.
    pub(super) full: Option<String>,
    queued: Need,
}

impl Room {
    pub(super) fn new(options: &JournalOptions) -> Self {
        let taken = SEGMENT_HEADER_BYTES as u64 + RESERVE_BYTES;
        Room { spare_capacity: options.segment_bytes.saturating_sub(taken), ..Room::default() }
    }

    /// Records are placed in order and never split, so each segment may lose the bytes of one largest record.
    fn check(&self, need: Need) -> Result<(), Lack> {
        let bytes = self.queued.bytes + need.bytes;
        let reserve = u64::from(!need.is_mark);
        if bytes <= self.active_free {
            // Also an active segment that was the reserve is not for entries until there is another one.
            return if self.spares >= reserve { Ok(()) } else { Err(Lack { spares: reserve }) };
        }
        let largest = self.queued.largest.max(need.largest);
        let behind = bytes - self.active_free.saturating_sub(largest).min(bytes);
        let by_bytes = behind.div_ceil((self.spare_capacity - largest).max(1));
        let spares = by_bytes.min(self.queued.records + need.records) + reserve;
        if spares <= self.spares { Ok(()) } else { Err(Lack { spares }) }
    }

    fn add(&mut self, need: Need) {
        self.queued.records += need.records;
        self.queued.bytes += need.bytes;
        self.queued.largest = self.queued.largest.max(need.largest);
    }

    /// Records have left the queue for the active segment.
    fn placed(&mut self, records: u64, bytes: u64) {
        self.queued.records -= records;
        self.queued.bytes -= bytes;
        if self.queued.records == 0 {
            self.queued = Need::default();
        }
    }
}

/// All of it, under one lock.
pub(super) struct State {
    pub(super) index: Index,
    pub(super) queue: Vec<Queued>,
    /// Whether the queue holds anything that somebody waits for, or may.
    is_awaited: bool,
    pub(super) room: Room,
    /// The log, oldest first; the last one is being written.
    pub(super) segments: BTreeMap<Epoch, Segment>,
    pub(super) bytes_max: u64,
    last_ticket: Ticket,
    pub(super) synced: Ticket,
    waiters: BTreeMap<Ticket, Vec<Waiter>>,
    pub(super) last_synced: BatchNumber,
    pub(super) sync_began: Option<Instant>,
    syncs: u64,
    records: u64,
    pub(super) poisoned: Option<String>,
    pub(super) is_stopped: bool,
}

impl State {
    pub(super) fn new(options: &JournalOptions, index: Index, last_synced: BatchNumber) -> Self {
        State {
            index,
            queue: Vec::new(),
            is_awaited: false,
            room: Room::new(options),
            segments: BTreeMap::new(),
            bytes_max: options.bytes_max,
            last_ticket: Ticket(0),
            synced: Ticket(0),
            waiters: BTreeMap::new(),
            last_synced,
            sync_began: None,
            syncs: 0,
            records: 0,
            poisoned: None,
            is_stopped: false,
        }
    }

    /// Refuses a poisoned or stopped journal.
    pub(super) fn check_open(&self) -> Result<(), StorageError> {
        match &self.poisoned {
            Some(why) => Err(StorageError::Poisoned(why.clone())),
            None if self.is_stopped => Err(StorageError::Stopped),
            None => Ok(()),
        }
    }

    /// What `contents` would take; refused if one of them fits into no segment.
    pub(super) fn need(&self, contents: &[Content]) -> Result<Need, StorageError> {
        let mut need = Need::default();
        for content in contents {
            let bytes = total_bytes(content) as u64 + OVERHEAD_BYTES;
            need.records += 1;
            need.bytes += bytes;
            need.largest = need.largest.max(bytes);
            need.is_mark = matches!(content, Content::Mark(_));
        }
        if need.largest > self.room.spare_capacity {
            let why = format!("{} bytes exceed record_bytes_max {}", need.largest, self.room.spare_capacity);
            return Err(StorageError::Io { operation: "append", path: "journal".into(), why });
        }
        Ok(need)
    }

    /// Whether there is prewritten space for `need`.
    pub(super) fn check_room(&self, need: Need) -> Result<(), Lack> {
        self.room.check(need)
    }

    /// Queues records of one group. `done` belongs to all of them.
    pub(super) fn queue(&mut self, group: GroupId, contents: Vec<Content>, need: Need, mut done: Completion) {
        self.room.add(need);
        self.records += need.records;
        let count = contents.len();
        self.is_awaited |= !is_patient(&contents, &done);
        for (position, content) in contents.into_iter().enumerate() {
            self.last_ticket.0 += 1;
            let ticket = self.last_ticket;
            match &content {
                Content::Entry(record) => self.index.append(group, record, ticket),
                Content::EntryCopy(_) => unreachable!("copies are queued by `queue_copy`"),
                Content::Mark(mark) => self.index.mark(group, mark, ticket),
            }
            let bytes = total_bytes(&content) as u32;
            let is_last = position + 1 == count;
            let done = if is_last { std::mem::replace(&mut done, Completion::None) } else { Completion::None };
            self.queue.push(Queued { ticket, group, content, bytes, done });
        }
        self.start_clock();
    }

    /// From the moment somebody waits, whatever the writer is busy with (J6).
    pub(super) fn start_clock(&mut self) {
        if self.is_due() && self.sync_began.is_none() {
            self.sync_began = Some(Instant::now());
        }
    }

    /// Panics unless these entries may be appended to `group`.
    pub(super) fn assert_follows(&self, group: GroupId, contents: &[Content]) {
        let indexes = contents.iter().filter_map(|content| match content {
            Content::Entry(record) => Some(record.index),
            Content::EntryCopy(_) | Content::Mark(_) => None,
        });
        self.index.assert_follows(group, indexes);
    }

    /// Whether all live entries of a segment could be queued once more.
    pub(super) fn has_room_to_copy(&self, live: Live) -> bool {
        let bytes = live.entry_bytes + live.entries * OVERHEAD_BYTES;
        let need = Need { records: live.entries, bytes, largest: live.entry_bytes + OVERHEAD_BYTES, is_mark: false };
        need.largest <= self.room.spare_capacity && self.room.check(need).is_ok()
    }

    /// Queues a mark of the journal's own (J4). False: no room.
    pub(super) fn queue_again(&mut self, group: GroupId, mark: Mark) -> bool {
        let contents = vec![Content::Mark(mark)];
        let Some(need) = self.need(&contents).ok().filter(|need| self.room.check(*need).is_ok()) else { return false };
        self.queue(group, contents, need, Completion::None);
        // The segment that held it waits to be used again.
        self.is_awaited = true;
        true
    }

    /// Queues an entry once more, if it still lies at `place` and there is room.
    pub(super) fn queue_copy(&mut self, group: GroupId, record: LogRecord, place: Place) {
        let ticket = Ticket(self.last_ticket.0 + 1);
        let content = Content::EntryCopy(record);
        let Ok(need) = self.need(std::slice::from_ref(&content)) else { return };
        let Content::EntryCopy(record) = &content else { return };
        if self.room.check(need).is_err() || !self.index.copy_queued(group, record, place, ticket) {
            return;
        }
        self.last_ticket = ticket;
        self.is_awaited = true;
        self.room.add(need);
        let bytes = total_bytes(&content) as u32;
        self.queue.push(Queued { ticket, group, content, bytes, done: Completion::None });
    }

    /// Calls back at once, or keeps `done` until everything of `group` up to the entry `index` is synced.
    pub(super) fn when_durable(&mut self, group: GroupId, index: u64, done: Waiter) -> Option<(Waiter, BatchNumber)> {
        let known = self.index.group(group);
        let stage = known.and_then(|known| known.slot(index)).map(|slot| slot.stage);
        let pending = match stage {
            Some(Stage::Synced(place)) => return Some((done, place.batch)),
            Some(Stage::Pending(ticket)) => Some(ticket),
            // Purged, or beyond the last: all that is queued for the group stands for it.
            None => known.and_then(Group::last_pending),
        };
        let Some(ticket) = pending else { return Some((done, self.last_synced)) };
        self.waiters.entry(ticket).or_default().push(done);
        self.is_awaited = true;
        self.start_clock();
        None
    }

    /// Whether the queue is worth a sync. What nobody waits for rides along with what somebody does.
    pub(super) fn is_due(&self) -> bool {
        let is_full = self.queue.len() >= PATIENT_RECORDS_MAX;
        !self.queue.is_empty() && (self.is_awaited || self.is_stopped || is_full)
    }

    /// Takes over what is due.
    pub(super) fn take_due(&mut self) -> Vec<Queued> {
        if !self.is_due() {
            return Vec::new();
        }
        self.is_awaited = false;
        std::mem::take(&mut self.queue)
    }

    /// Records have been written into the active segment, which takes `active_free` bytes more.
    pub(super) fn written(&mut self, records: &[Settling], active_free: u64) {
        let bytes = records.iter().map(|record| u64::from(record.place.bytes) + OVERHEAD_BYTES).sum();
        self.room.placed(records.len() as u64, bytes);
        self.room.active_free = active_free;
    }

    /// A batch is synced: its records get their places. Gives who waited for them.
    pub(super) fn batch_synced(&mut self, number: BatchNumber, records: &[Settling]) -> Vec<Waiter> {
        self.last_synced = number;
        self.syncs += 1;
        self.sync_began = None;
        self.start_clock();
        for record in records {
            match record.what {
                Settled::Entry(index) => self.index.entry_synced(record.group, index, record.ticket, record.place),
                Settled::Mark(kind) => self.index.mark_synced(record.group, kind, record.ticket, record.place),
                Settled::Effect => {}
            }
        }
        if let Some(last) = records.last() {
            self.synced = last.ticket;
        }
        let later = self.waiters.split_off(&Ticket(self.synced.0 + 1));
        std::mem::replace(&mut self.waiters, later).into_values().flatten().collect()
    }

    /// Nothing is promised from here on. Gives everybody who waits for something that is not in the writer's hands.
    pub(super) fn poison(&mut self, why: &str) -> (Vec<Queued>, Vec<Waiter>) {
        self.poisoned.get_or_insert_with(|| why.to_owned());
        self.sync_began = None;
        let waiters = std::mem::take(&mut self.waiters).into_values().flatten().collect();
        (std::mem::take(&mut self.queue), waiters)
    }

    pub(super) fn oldest_held_by(&self) -> Option<(GroupId, u64)> {
        let (oldest, _) = self.segments.first_key_value().filter(|_| self.segments.len() > 1)?;
        self.index.holder(*oldest)
    }

    pub(super) fn status(&self) -> JournalStatus {
        JournalStatus {
            segments: self.segments.len() as u64,
            bytes: self.segments.values().map(|segment| segment.length).sum(),
            last_synced: self.last_synced,
            syncs: self.syncs,
            records: self.records,
            sync_pending_us: self.sync_began.map_or(0, |began| (began.elapsed().as_micros() as u64).max(1)),
            poisoned: self.poisoned.clone(),
        }
    }
}

/// A written record that waits for its sync.
pub(super) struct Settling {
    pub(super) ticket: Ticket,
    pub(super) group: GroupId,
    pub(super) what: Settled,
    pub(super) place: Place,
    pub(super) done: Completion,
}

/// What a record becomes once it is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Entry(u64),
    Mark(MarkKind),
    /// Its effect was all there is to it.
    Effect,
}

impl Settled {
    pub(super) fn of(content: &Content) -> Self {
        match content {
            Content::Entry(record) | Content::EntryCopy(record) => Settled::Entry(record.index),
            Content::Mark(Mark::Vote(_)) => Settled::Mark(MarkKind::Vote),
            Content::Mark(Mark::Committed(_)) => Settled::Mark(MarkKind::Committed),
            Content::Mark(Mark::Purged { .. }) => Settled::Mark(MarkKind::Purged),
            Content::Mark(Mark::InstallBegin(_)) => Settled::Mark(MarkKind::Installing),
            Content::Mark(Mark::Note(_)) => Settled::Mark(MarkKind::Note),
            Content::Mark(Mark::Replica(_)) => Settled::Mark(MarkKind::Replica),
            Content::Mark(Mark::TruncatedAfter(_) | Mark::InstallDone | Mark::ReplicaRemoved) => Settled::Effect,
        }
    }
}
