//! # Group: what the journal knows of one log
//!
//! ```text
//!   purged ──┐   first                                   last
//!            ▼   ▼                                       ▼
//!   ░░░░░░░░░░░ [synced][synced][synced][pending][pending]   next append: last + 1
//!                 └ a place in a segment  └ bytes in memory
//! ```
//!
//! **Invariant.** Entries have no gaps and begin after the purge mark. What is not synced is in memory.

use super::segment::Epoch;
use super::{BatchNumber, GroupState};
use bytes::Bytes;
use std::collections::VecDeque;

/// The place of a record in the queue: grows by one per record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(pub(super) u64);

/// Where a synced record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) epoch: Epoch,
    pub(super) offset: u32,
    /// Bytes of the whole record, padding included.
    pub(super) bytes: u32,
    pub(super) batch: BatchNumber,
}

/// How far a record has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Queued, perhaps written, not synced.
    Pending(Ticket),
    Synced(Place),
}

impl Stage {
    pub(super) fn place(self) -> Option<Place> {
        match self {
            Stage::Pending(_) => None,
            Stage::Synced(place) => Some(place),
        }
    }
}

/// One entry of the log.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) term: u64,
    pub(super) stage: Stage,
    pub(super) payload_bytes: u32,
    /// Always there while pending; afterwards as long as the cache has room.
    pub(super) payload: Option<Bytes>,
}

/// The newest mark of one kind.
#[derive(Clone, Debug)]
pub(super) struct Newest {
    pub(super) bytes: Bytes,
    pub(super) stage: Stage,
}

/// The kinds of marks of which the newest is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MarkKind {
    Vote,
    Committed,
    Purged,
    Installing,
    Note,
    Replica,
}

impl MarkKind {
    pub(super) const ALL: [MarkKind; 6] = [
        MarkKind::Vote,
        MarkKind::Committed,
        MarkKind::Purged,
        MarkKind::Installing,
        MarkKind::Note,
        MarkKind::Replica,
    ];
}

/// How many live entries of a group one segment holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) epoch: Epoch,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) index_max: u64,
}

/// One group.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    marks: [Option<Newest>; 6],
    pub(super) purged_index: Option<u64>,
    /// Index of the front of `entries`.
    first: u64,
    entries: VecDeque<Slot>,
    /// Oldest first by the time of the first entry; a group rarely spans more than two segments.
    spans: Vec<Span>,
}

impl Group {
    pub(super) fn state(&self) -> GroupState {
        let bytes = |kind| self.newest(kind).map(|newest| newest.bytes.clone());
        GroupState {
            vote: bytes(MarkKind::Vote),
            committed: bytes(MarkKind::Committed),
            purged: self.purged_index.zip(bytes(MarkKind::Purged)),
            entries: self.range(),
            installing: bytes(MarkKind::Installing),
            note: bytes(MarkKind::Note),
            replica: bytes(MarkKind::Replica).map(|id| super::record::be_u64(&id)),
        }
    }

    /// Nothing is known of it.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.marks.iter().all(Option::is_none)
    }

    pub(super) fn newest(&self, kind: MarkKind) -> Option<&Newest> {
        self.marks[kind as usize].as_ref()
    }

    pub(super) fn newest_mut(&mut self, kind: MarkKind) -> &mut Option<Newest> {
        &mut self.marks[kind as usize]
    }

    /// First and last index.
    pub(super) fn range(&self) -> Option<(u64, u64)> {
        (!self.entries.is_empty()).then(|| (self.first, self.first + self.entries.len() as u64 - 1))
    }

    pub(super) fn slot(&self, index: u64) -> Option<&Slot> {
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.entries.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// The index that the next entry must have; `None`: the log has not begun, any will do.
    pub(super) fn next_index(&self) -> Option<u64> {
        self.range().map(|(_, last)| last + 1).or(self.purged_index.map(|purged| purged + 1))
    }

    /// Appends an entry; the caller has checked that it follows.
    pub(super) fn push(&mut self, index: u64, slot: Slot) {
        if self.entries.is_empty() {
            self.first = index;
        }
        self.entries.push_back(slot);
    }

    /// Takes all entries at or below `index` out.
    pub(super) fn take_through(&mut self, index: u64) -> Vec<Slot> {
        let Some((first, last)) = self.range().filter(|(first, _)| *first <= index) else { return Vec::new() };
        let count = (index.min(last) - first + 1) as usize;
        self.first += count as u64;
        let taken = self.entries.drain(..count).collect();
        if self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        taken
    }

    /// Takes all entries above `last_kept` out (`None`: all).
    pub(super) fn take_after(&mut self, last_kept: Option<u64>) -> Vec<Slot> {
        let kept = last_kept.map_or(0, |last| (last + 1).saturating_sub(self.first));
        let kept = usize::try_from(kept).unwrap_or(usize::MAX).min(self.entries.len());
        self.entries.split_off(kept).into()
    }

    pub(super) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Notes that an entry of this group now lies at `place`.
    pub(super) fn hold(&mut self, index: u64, place: Place) {
        let position = self.spans.iter().rposition(|span| span.epoch == place.epoch).unwrap_or_else(|| {
            self.spans.push(Span { epoch: place.epoch, entries: 0, bytes: 0, index_max: index });
            self.spans.len() - 1
        });
        let span = &mut self.spans[position];
        span.entries += 1;
        span.bytes += u64::from(place.bytes);
        span.index_max = span.index_max.max(index);
    }

    /// Notes that an entry that lay at `place` is gone.
    pub(super) fn release(&mut self, place: Place) {
        let position = self.spans.iter().position(|span| span.epoch == place.epoch);
        let position = position.expect("a released entry was held");
        let span = &mut self.spans[position];
        span.entries -= 1;
        span.bytes -= u64::from(place.bytes);
        if span.entries == 0 {
            self.spans.remove(position);
        }
    }

    /// Indexes and places of the entries that `epoch` holds.
    pub(super) fn held_by(&self, epoch: Epoch) -> Vec<(u64, Place)> {
        if !self.spans.iter().any(|span| span.epoch == epoch) {
            return Vec::new();
        }
        let places = self.entries.iter().zip(self.first..);
        places
            .filter_map(|(slot, index)| Some((index, slot.stage.place()?)))
            .filter(|(_, p)| p.epoch == epoch)
            .collect()
    }

    /// The ticket of the youngest record of this group that is not synced.
    pub(super) fn last_pending(&self) -> Option<Ticket> {
        let marks = self.marks.iter().flatten().map(|newest| newest.stage);
        let stages = marks.chain(self.entries.back().map(|slot| slot.stage));
        let pending = stages.filter_map(|stage| match stage {
            Stage::Pending(ticket) => Some(ticket),
            Stage::Synced(_) => None,
        });
        pending.max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(ticket: u64) -> Slot {
        Slot { term: 1, stage: Stage::Pending(Ticket(ticket)), payload_bytes: 0, payload: Some(Bytes::new()) }
    }

    fn group(first: u64, last: u64) -> Group {
        let mut group = Group::default();
        for index in first..=last {
            group.push(index, pending(index));
        }
        group
    }

    #[test]
    fn taking_through_and_after_keeps_the_middle() {
        let mut log = group(5, 10);
        assert_eq!(log.take_through(6).len(), 2);
        assert_eq!(log.take_after(Some(8)).len(), 2);
        assert_eq!(log.range(), Some((7, 8)));
        assert_eq!(log.next_index(), Some(9));
        assert_eq!(log.take_after(Some(3)).len(), 2, "a truncation below the first entry takes all");
        assert_eq!(log.range(), None);
        assert_eq!(log.take_through(100).len(), 0);
    }

    #[test]
    fn after_a_purge_the_log_continues_behind_it() {
        let mut log = group(0, 3);
        assert_eq!(log.take_through(u64::MAX).len(), 4);
        log.purged_index = Some(90);
        assert_eq!(log.next_index(), Some(91));
        log.push(91, pending(1));
        assert_eq!(log.range(), Some((91, 91)));
    }

    #[test]
    fn spans_count_what_a_segment_holds() {
        let mut log = group(1, 2);
        let place = |epoch| Place { epoch: Epoch(epoch), offset: 0, bytes: 64, batch: BatchNumber(1) };
        log.hold(1, place(1));
        log.hold(2, place(1));
        log.hold(3, place(2));
        assert_eq!(log.spans()[0].index_max, 2);
        log.release(place(1));
        assert_eq!((log.spans()[0].entries, log.spans()[0].bytes), (1, 64));
        log.release(place(1));
        assert_eq!(log.spans().len(), 1);
    }
}
