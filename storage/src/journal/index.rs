//! # Index: where every live record is
//!
//! Groups and their logs, the bounded cache of synced entries, and per segment the count of what still lives in it.
//! Changed when a record is queued (so that it is readable at once) and once more when it is synced (so that it has a
//! place).
//!
//! **Invariant.** A segment counts as empty only when everything that was in it has a synced successor: `released_by`
//! is the youngest record that took something out of it, and the segment stays until that one is synced (J4).
//!
//! **Deliberately absent.** Files. This is bookkeeping.

use super::group::{Group, MarkKind, Newest, Place, Slot, Stage, Ticket};
use super::record::{be_u64, word};
use super::segment::Epoch;
use super::{GroupState, LogRecord, Mark};
use bytes::Bytes;
use kvorum_api::GroupId;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// What still lives in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) entries: u64,
    pub(super) entry_bytes: u64,
    pub(super) marks: u64,
    pub(super) released_by: Ticket,
}

/// One entry as asked for: in memory or on disk.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Memory(LogRecord),
    Disk { index: u64, place: Place },
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Index {
    groups: BTreeMap<GroupId, Group>,
    live: BTreeMap<Epoch, Live>,
    cache: Cache,
}

/// The synced entries that are still in memory, oldest first.
#[derive(Debug, Default)]
struct Cache {
    bytes_max: usize,
    bytes: usize,
    entries: usize,
    /// May name entries that have gone; swept when they are the majority.
    order: VecDeque<(GroupId, u64)>,
}

impl Index {
    pub(super) fn new(cache_bytes_max: usize) -> Self {
        Index { cache: Cache { bytes_max: cache_bytes_max, ..Cache::default() }, ..Index::default() }
    }

    pub(super) fn group(&self, group: GroupId) -> Option<&Group> {
        self.groups.get(&group)
    }

    pub(super) fn state(&self, group: GroupId) -> GroupState {
        self.groups.get(&group).map(Group::state).unwrap_or_default()
    }

    pub(super) fn groups(&self) -> Vec<GroupId> {
        self.groups.iter().filter(|(_, known)| !known.is_empty()).map(|(group, _)| *group).collect()
    }

    pub(super) fn live(&self, epoch: Epoch) -> Live {
        self.live.get(&epoch).copied().unwrap_or_default()
    }

    /// Forgets the counters of a segment that has left the log.
    pub(super) fn forget_segment(&mut self, epoch: Epoch) {
        self.live.remove(&epoch);
    }

    /// Panics unless entries with these indexes may be appended to `group`.
    pub(super) fn assert_follows(&self, group: GroupId, indexes: impl Iterator<Item = u64>) {
        let mut next = self.groups.get(&group).and_then(Group::next_index);
        for index in indexes {
            let expected = next.unwrap_or(index);
            assert_eq!(index, expected, "entries of group {group} follow each other");
            next = Some(expected + 1);
        }
    }

    /// A queued entry; readable from here on.
    pub(super) fn append(&mut self, group: GroupId, record: &LogRecord, ticket: Ticket) {
        let slot = Slot {
            term: record.term,
            stage: Stage::Pending(ticket),
            payload_bytes: record.payload.len() as u32,
            payload: Some(record.payload.clone()),
        };
        self.groups.entry(group).or_default().push(record.index, slot);
    }

    /// A queued mark; its effect is immediate.
    pub(super) fn mark(&mut self, group: GroupId, mark: &Mark, ticket: Ticket) {
        match mark {
            Mark::Vote(bytes) => self.set_newest(group, MarkKind::Vote, bytes, ticket),
            Mark::Committed(bytes) => self.set_newest(group, MarkKind::Committed, bytes, ticket),
            Mark::InstallBegin(bytes) => self.set_newest(group, MarkKind::Installing, bytes, ticket),
            Mark::Note(bytes) => self.set_newest(group, MarkKind::Note, bytes, ticket),
            Mark::Replica(id) => self.set_newest(group, MarkKind::Replica, &word(*id), ticket),
            Mark::Purged { index, log_id } => {
                let known = self.groups.entry(group).or_default();
                if known.purged_index > Some(*index) {
                    // Two owners raced: the higher mark stands.
                    return;
                }
                known.purged_index = Some(*index);
                let gone = known.take_through(*index);
                self.drop_entries(group, gone, ticket);
                self.set_newest(group, MarkKind::Purged, log_id, ticket);
            }
            Mark::TruncatedAfter(last) => {
                let gone = self.groups.get_mut(&group).map(|known| known.take_after(*last)).unwrap_or_default();
                self.drop_entries(group, gone, ticket);
            }
            Mark::InstallDone => self.clear_newest(group, MarkKind::Installing, ticket),
            Mark::ReplicaRemoved => self.remove_group(group, ticket),
        }
    }

    fn set_newest(&mut self, group: GroupId, kind: MarkKind, bytes: &Bytes, ticket: Ticket) {
        let newest = Newest { bytes: bytes.clone(), stage: Stage::Pending(ticket) };
        let old = self.groups.entry(group).or_default().newest_mut(kind).replace(newest);
        self.release_mark(old, ticket);
    }

    fn clear_newest(&mut self, group: GroupId, kind: MarkKind, ticket: Ticket) {
        let old = self.groups.get_mut(&group).and_then(|known| known.newest_mut(kind).take());
        self.release_mark(old, ticket);
    }

    fn release_mark(&mut self, old: Option<Newest>, ticket: Ticket) {
        if let Some(place) = old.and_then(|newest| newest.stage.place()) {
            let live = self.live.entry(place.epoch).or_default();
            live.marks -= 1;
            live.released_by = live.released_by.max(ticket);
        }
    }

    fn drop_entries(&mut self, group: GroupId, gone: Vec<Slot>, ticket: Ticket) {
        for slot in gone {
            let Some(place) = slot.stage.place() else { continue };
            self.cache.forget(&slot);
            self.release_entry(group, place, ticket);
        }
    }

    fn release_entry(&mut self, group: GroupId, place: Place, ticket: Ticket) {
        self.groups.get_mut(&group).expect("entries belong to a known group").release(place);
        let live = self.live.entry(place.epoch).or_default();
        live.entries -= 1;
        live.entry_bytes -= u64::from(place.bytes);
        live.released_by = live.released_by.max(ticket);
    }

    fn remove_group(&mut self, group: GroupId, ticket: Ticket) {
        let gone = self.groups.get_mut(&group).map(|known| known.take_after(None)).unwrap_or_default();
        self.drop_entries(group, gone, ticket);
        for kind in MarkKind::ALL {
            self.clear_newest(group, kind, ticket);
        }
        self.groups.remove(&group);
    }

    /// The entry queued as `ticket` is synced at `place`, if it still counts.
    pub(super) fn entry_synced(&mut self, group: GroupId, index: u64, ticket: Ticket, place: Place) {
        let Some(known) = self.groups.get_mut(&group) else { return };
        let Some(slot) = known.slot_mut(index).filter(|slot| slot.stage == Stage::Pending(ticket)) else { return };
        slot.stage = Stage::Synced(place);
        self.cache.note(slot);
        known.hold(index, place);
        self.cache.order.push_back((group, index));
        self.count_entry(place);
        self.evict();
    }

    /// The mark queued as `ticket` is synced at `place`, if it is still the newest.
    pub(super) fn mark_synced(&mut self, group: GroupId, kind: MarkKind, ticket: Ticket, place: Place) {
        let Some(known) = self.groups.get_mut(&group) else { return };
        let newest = known.newest_mut(kind).as_mut().filter(|newest| newest.stage == Stage::Pending(ticket));
        let Some(newest) = newest else { return };
        newest.stage = Stage::Synced(place);
        self.live.entry(place.epoch).or_default().marks += 1;
    }

    fn count_entry(&mut self, place: Place) {
        let live = self.live.entry(place.epoch).or_default();
        live.entries += 1;
        live.entry_bytes += u64::from(place.bytes);
    }

    /// A group as recovery found it: everything in it is synced, nothing in memory.
    pub(super) fn restore(&mut self, group: GroupId, mut known: Group) {
        if let Some((first, last)) = known.range() {
            for index in first..=last {
                let place =
                    known.slot(index).and_then(|slot| slot.stage.place()).expect("recovered entries lie on disk");
                known.hold(index, place);
                self.count_entry(place);
            }
        }
        for place in MarkKind::ALL.into_iter().filter_map(|kind| known.newest(kind)?.stage.place()) {
            self.live.entry(place.epoch).or_default().marks += 1;
        }
        self.groups.insert(group, known);
    }

    /// Entries of `range` from its start until `bytes_max` is reached, at least one if there is one.
    pub(super) fn find(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Vec<Found> {
        let Some(known) = self.groups.get(&group) else { return Vec::new() };
        let Some((first, last)) = known.range() else { return Vec::new() };
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in range.start.max(first)..range.end.min(last + 1) {
            let slot = known.slot(index).expect("entries have no gaps");
            bytes += slot.payload_bytes as usize;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(match (&slot.payload, slot.stage) {
                (Some(payload), _) => Found::Memory(LogRecord { index, term: slot.term, payload: payload.clone() }),
                (None, Stage::Synced(place)) => Found::Disk { index, place },
                (None, Stage::Pending(_)) => unreachable!("what is not synced is in memory"),
            });
        }
        found
    }

    /// The newest marks that only `epoch` holds, as they can be queued again.
    pub(super) fn marks_in(&self, epoch: Epoch) -> Vec<(GroupId, Mark)> {
        let is_here = |newest: &&Newest| newest.stage.place().is_some_and(|place| place.epoch == epoch);
        let mut marks = Vec::new();
        for (group, known) in &self.groups {
            for kind in MarkKind::ALL {
                let Some(newest) = known.newest(kind).filter(is_here) else { continue };
                let bytes = newest.bytes.clone();
                let mark = match kind {
                    MarkKind::Vote => Mark::Vote(bytes),
                    MarkKind::Committed => Mark::Committed(bytes),
                    MarkKind::Purged => {
                        let index = known.purged_index.expect("a purge mark has an index");
                        Mark::Purged { index, log_id: bytes }
                    }
                    MarkKind::Installing => Mark::InstallBegin(bytes),
                    MarkKind::Note => Mark::Note(bytes),
                    MarkKind::Replica => Mark::Replica(be_u64(&bytes)),
                };
                marks.push((*group, mark));
            }
        }
        marks
    }

    /// The live entries of `epoch`.
    pub(super) fn entries_in(&self, epoch: Epoch) -> Vec<(GroupId, u64, Place)> {
        let groups = self.groups.iter();
        groups.flat_map(|(group, known)| known.held_by(epoch).into_iter().map(|(i, p)| (*group, i, p))).collect()
    }

    /// An entry that lay at `place` is queued again as `ticket`; false if it has gone meanwhile.
    pub(super) fn copy_queued(&mut self, group: GroupId, record: &LogRecord, place: Place, ticket: Ticket) -> bool {
        let slot = self.groups.get_mut(&group).and_then(|known| known.slot_mut(record.index));
        let Some(slot) = slot.filter(|slot| slot.stage == Stage::Synced(place)) else { return false };
        self.cache.forget(slot);
        slot.stage = Stage::Pending(ticket);
        slot.payload = Some(record.payload.clone());
        self.release_entry(group, place, ticket);
        true
    }

    /// The group that holds most of `epoch`, and its last index there.
    pub(super) fn holder(&self, epoch: Epoch) -> Option<(GroupId, u64)> {
        let spans =
            self.groups.iter().flat_map(|(group, known)| known.spans().iter().map(move |span| (group, known, span)));
        let (group, known, span) =
            spans.filter(|(_, _, span)| span.epoch == epoch).max_by_key(|(.., span)| span.bytes)?;
        let last = known.range().map_or(span.index_max, |(_, last)| last);
        Some((*group, span.index_max.min(last)))
    }

    fn evict(&mut self) {
        while self.cache.bytes > self.cache.bytes_max {
            let Some((group, index)) = self.cache.order.pop_front() else { break };
            let slot = self.groups.get_mut(&group).and_then(|known| known.slot_mut(index));
            let Some(slot) = slot.filter(|slot| slot.stage.place().is_some()) else { continue };
            self.cache.forget(slot);
            slot.payload = None;
        }
        if self.cache.order.len() > self.cache.entries * 2 + 1024 {
            let groups = &self.groups;
            let is_cached = |(group, index): &(GroupId, u64)| {
                let slot = groups.get(group).and_then(|known| known.slot(*index));
                slot.is_some_and(|slot| slot.stage.place().is_some() && slot.payload.is_some())
            };
            self.cache.order.retain(is_cached);
        }
    }
}

impl Cache {
    /// A synced entry that is in memory.
    fn note(&mut self, slot: &Slot) {
        self.bytes += slot.payload_bytes as usize;
        self.entries += 1;
    }

    /// A synced entry leaves the memory, if it was there.
    fn forget(&mut self, slot: &Slot) {
        if slot.payload.is_some() {
            self.bytes -= slot.payload_bytes as usize;
            self.entries -= 1;
        }
    }
}
