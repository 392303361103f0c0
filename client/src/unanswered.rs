//! Which of this client's writes are still unanswered, and so what each shard may forget.
//!
//! ```text
//!   sequences      1  2  3  4  5  6  7        of one client, over all its keyspaces
//!   in shard A           ●     ✕              floor of A = 3; 5 was given up: A must hear a floor above it
//!   in shard B              ●                 floor of B = 4: what A still owes holds nothing back here
//!   not placed                    ●           counts in every shard
//! ```
//!
//! **Invariant (I2).** A sequence is unanswered from the moment it is given until its [`Ticket`] is dropped: when the
//! caller has the outcome, drops the handle of an unknown write, or cancels the call. No shard is ever told a floor
//! above a sequence that may still be sent to it, and the next frame to a shard after a write to it was given up tells
//! a floor above that write (if nothing older is open there), so that a late copy of it is refused.
//!
//! **Invariant (I1).** A shard remembers so many outcomes of one client and then forgets the oldest. So a new write
//! waits while [`OUTCOMES_AHEAD_MAX`] of this client's lie in its shard between the oldest unanswered one and it: what
//! is asked for again is still known there.
//!
//! A ticket lies in the shard its write is sent to. When a keyspace's map changes, its tickets lie nowhere until each
//! is sent again, and hold every floor back meanwhile: nobody knows yet which shard will see them.

use kvorum_api::{ShardId, limits};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::sync::Notify;

/// Writes of one client that may lie in one shard from its oldest unanswered one on. A quarter is left for those that
/// move there when the map changes.
pub(crate) const OUTCOMES_AHEAD_MAX: usize = limits::REQUEST_OUTCOMES_MAX as usize / 4 * 3;

/// Its name in errors.
pub(crate) const OUTCOMES_AHEAD_LIMIT: &str = "outcomes_ahead_max";

/// Gives sequences and knows the lowest unanswered one of each shard.
#[derive(Debug)]
pub(crate) struct Unanswered {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    open: BTreeMap<u64, Place>,
    /// Open ones that lie nowhere.
    unplaced: BTreeSet<u64>,
    lanes: BTreeMap<ShardId, Lane>,
    ahead_max: usize,
    /// The highest sequence given up per shard, and of those that lay nowhere any more.
    abandoned: BTreeMap<ShardId, u64>,
    abandoned_somewhere: u64,
}

/// The writes of one shard.
#[derive(Debug, Default)]
struct Lane {
    open: BTreeSet<u64>,
    /// Sent there after the oldest open one, and not open there any more.
    done: BTreeSet<u64>,
    /// Who waits for the oldest one to be answered.
    room: Option<Arc<Notify>>,
}

/// A new write has to wait: one that waits is told when there may be room.
#[derive(Debug)]
pub(crate) struct NoRoom(pub(crate) Arc<Notify>);

/// Where an open write was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    In {
        keyspace: Arc<str>,
        shard: ShardId,
    },
    /// To a shard that may not be its own any more, or that nobody knew.
    Moved,
}

/// What one shard is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// Everything of this client below it has an outcome nobody will ask this shard for.
    pub(crate) lowest: u64,
    /// The highest sequence that was given up in it; 0 = none.
    pub(crate) abandoned: u64,
}

impl Unanswered {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_ahead_max(OUTCOMES_AHEAD_MAX)
    }

    fn with_ahead_max(ahead_max: usize) -> Arc<Self> {
        let state = State {
            next: 1,
            open: BTreeMap::new(),
            unplaced: BTreeSet::new(),
            lanes: BTreeMap::new(),
            ahead_max,
            abandoned: BTreeMap::new(),
            abandoned_somewhere: 0,
        };
        Arc::new(Unanswered { state: Mutex::new(state) })
    }

    /// The next sequence, unanswered until the ticket is dropped, of a write to this shard.
    ///
    /// # Errors
    /// Too many lie there between the oldest unanswered one and this one.
    pub(crate) fn open_in(self: &Arc<Self>, keyspace: &Arc<str>, shard: ShardId) -> Result<Ticket, NoRoom> {
        let mut state = self.state.lock();
        if !state.has_room(shard) {
            return Err(NoRoom(state.lanes.entry(shard).or_default().room.get_or_insert_default().clone()));
        }
        let sequence = state.open(Place::In { keyspace: keyspace.clone(), shard });
        state.lanes.entry(shard).or_default().open.insert(sequence);
        // There may be room for another one that waits.
        state.tidy(shard);
        drop(state);
        Ok(Ticket { tracker: self.clone(), sequence })
    }

    /// The same of a write that goes to whoever answers: nobody knows yet which shard that is.
    pub(crate) fn open_somewhere(self: &Arc<Self>) -> Ticket {
        let mut state = self.state.lock();
        let sequence = state.open(Place::Moved);
        state.unplaced.insert(sequence);
        drop(state);
        Ticket { tracker: self.clone(), sequence }
    }

    /// The floor of a shard; of `None`, the lowest of all.
    pub(crate) fn floor(&self, shard: Option<ShardId>) -> Floor {
        self.state.lock().floor(shard)
    }

    /// The floors of several shards at one moment.
    pub(crate) fn floors(&self, shards: &BTreeSet<Option<ShardId>>) -> BTreeMap<Option<ShardId>, Floor> {
        let state = self.state.lock();
        shards.iter().map(|shard| (*shard, state.floor(*shard))).collect()
    }

    /// The map of a keyspace changed: its open writes may belong elsewhere now. To be called before anybody routes by
    /// the new map.
    pub(crate) fn unplace(&self, keyspace: &str) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for (sequence, place) in &mut state.open {
            if let Place::In { keyspace: of, shard } = place
                && **of == *keyspace
            {
                let shard = *shard;
                *place = Place::Moved;
                state.unplaced.insert(*sequence);
                state.lanes.entry(shard).or_default().close(*sequence);
            }
        }
    }
}

impl State {
    fn floor(&self, shard: Option<ShardId>) -> Floor {
        let Some(shard) = shard else {
            let lowest = self.open.first_key_value().map_or(self.next, |(sequence, _)| *sequence);
            let abandoned = self.abandoned.values().copied().max().unwrap_or(0);
            return Floor { lowest, abandoned: abandoned.max(self.abandoned_somewhere) };
        };
        let lowest = self.oldest(shard).unwrap_or(self.next);
        let abandoned = self.abandoned.get(&shard).copied().unwrap_or(0).max(self.abandoned_somewhere);
        Floor { lowest, abandoned }
    }

    fn leave(&mut self, sequence: u64, is_given_up: bool) {
        let Some(place) = self.open.remove(&sequence) else { return };
        match place {
            Place::Moved => {
                self.unplaced.remove(&sequence);
                if is_given_up {
                    self.abandoned_somewhere = self.abandoned_somewhere.max(sequence);
                }
                self.tidy_all();
            }
            Place::In { shard, .. } => {
                self.lanes.entry(shard).or_default().close(sequence);
                if is_given_up {
                    self.abandon(shard, sequence);
                }
                self.tidy(shard);
            }
        }
    }

    fn open(&mut self, place: Place) -> u64 {
        let sequence = self.next;
        self.next += 1;
        self.open.insert(sequence, place);
        sequence
    }

    /// The oldest one that may still be sent to this shard.
    fn oldest(&self, shard: ShardId) -> Option<u64> {
        let in_shard = self.lanes.get(&shard).and_then(|lane| lane.open.first());
        in_shard.into_iter().chain(self.unplaced.first()).min().copied()
    }

    fn has_room(&self, shard: ShardId) -> bool {
        self.lanes.get(&shard).is_none_or(|lane| lane.ahead() < self.ahead_max)
    }

    /// Drops what does not count any more, and tells one of those who wait if there is room.
    fn tidy(&mut self, shard: ShardId) {
        let oldest = self.oldest(shard).unwrap_or(self.next);
        let Some(lane) = self.lanes.get_mut(&shard) else { return };
        while lane.done.first().is_some_and(|first| *first < oldest) {
            lane.done.pop_first();
        }
        // Nobody waits who does not hold it, too.
        lane.room.take_if(|room| Arc::strong_count(room) == 1);
        if lane.ahead() < self.ahead_max {
            lane.room.iter().for_each(|room| room.notify_one());
        }
        if lane.open.is_empty() && lane.done.is_empty() && lane.room.is_none() {
            self.lanes.remove(&shard);
        }
    }

    fn tidy_all(&mut self) {
        let shards: Vec<ShardId> = self.lanes.keys().copied().collect();
        shards.into_iter().for_each(|shard| self.tidy(shard));
    }

    fn abandon(&mut self, shard: ShardId, sequence: u64) {
        let highest = self.abandoned.entry(shard).or_default();
        *highest = (*highest).max(sequence);
    }
}

impl Lane {
    fn ahead(&self) -> usize {
        self.open.len() + self.done.len()
    }

    /// The shard may remember it, but it is not open there any more.
    fn close(&mut self, sequence: u64) {
        self.open.remove(&sequence);
        self.done.insert(sequence);
    }
}

/// Holds one sequence open.
#[derive(Debug)]
pub(crate) struct Ticket {
    tracker: Arc<Unanswered>,
    sequence: u64,
}

impl Ticket {
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Its write goes to this shard now.
    pub(crate) fn place(&self, keyspace: &Arc<str>, shard: ShardId) {
        let mut state = self.tracker.state.lock();
        let Some(place) = state.open.get_mut(&self.sequence) else { return };
        let before = std::mem::replace(place, Place::In { keyspace: keyspace.clone(), shard });
        match before {
            Place::In { shard: same, .. } if same == shard => return,
            // A copy may still be on its way to the former shard.
            Place::In { shard: former, .. } => {
                state.lanes.entry(former).or_default().close(self.sequence);
                state.abandon(former, self.sequence);
                state.tidy(former);
            }
            Place::Moved => {
                state.unplaced.remove(&self.sequence);
                state.abandoned_somewhere = state.abandoned_somewhere.max(self.sequence);
            }
        }
        let lane = state.lanes.entry(shard).or_default();
        lane.done.remove(&self.sequence);
        lane.open.insert(self.sequence);
        if before == Place::Moved {
            // It held every shard back.
            state.tidy_all();
        }
    }

    /// Its outcome is known, or it provably never happens: dropping it then gives nothing up.
    pub(crate) fn settle(&self) {
        self.tracker.state.lock().leave(self.sequence, false);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tracker.state.lock().leave(self.sequence, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: ShardId = ShardId(1);
    const B: ShardId = ShardId(2);

    fn lowest(tracker: &Unanswered, shard: ShardId) -> u64 {
        tracker.floor(Some(shard)).lowest
    }

    /// I2: dropping the handle raises the floor above it.
    #[test]
    fn a_dropped_ticket_raises_the_floor_above_it() {
        let tracker = Unanswered::new();
        let orders: Arc<str> = "orders".into();
        assert_eq!(lowest(&tracker, A), 1);
        let (first, second) = (tracker.open_in(&orders, A).unwrap(), tracker.open_in(&orders, A).unwrap());
        assert_eq!((first.sequence(), second.sequence(), lowest(&tracker, A)), (1, 2, 1));
        drop(second);
        assert_eq!(tracker.floor(Some(A)), Floor { lowest: 1, abandoned: 2 }, "an older one is still open");
        drop(first);
        assert_eq!(tracker.floor(Some(A)), Floor { lowest: 3, abandoned: 2 });
    }

    /// I2: what one shard still owes an answer for holds back no other shard.
    #[test]
    fn a_write_to_one_shard_does_not_hold_the_floor_of_another() {
        let tracker = Unanswered::new();
        let orders: Arc<str> = "orders".into();
        let held = tracker.open_somewhere();
        assert_eq!((lowest(&tracker, A), lowest(&tracker, B)), (1, 1), "not placed: it may go anywhere");
        held.place(&orders, A);
        let other = tracker.open_in(&orders, B).unwrap();
        assert_eq!((lowest(&tracker, A), lowest(&tracker, B), tracker.floor(None).lowest), (1, 2, 1));
        other.settle();
        drop(other);
        assert_eq!(lowest(&tracker, B), 3, "answered");
    }

    /// I2: after a change of the map nobody knows which shard an open write will be sent to.
    #[test]
    fn after_a_change_of_the_map_an_open_write_holds_every_floor_until_it_is_sent_again() {
        let tracker = Unanswered::new();
        let (orders, carts): (Arc<str>, Arc<str>) = ("orders".into(), "carts".into());
        let moved = tracker.open_in(&orders, A).unwrap();
        let _other = tracker.open_in(&carts, ShardId(9)).unwrap();
        tracker.unplace("orders");
        assert_eq!((lowest(&tracker, A), lowest(&tracker, B), lowest(&tracker, ShardId(9))), (1, 1, 1));
        moved.place(&orders, B);
        assert_eq!((lowest(&tracker, A), lowest(&tracker, B), lowest(&tracker, ShardId(9))), (3, 1, 2));
        // A copy may still be on its way to the shard it lay in before.
        assert_eq!(tracker.floor(Some(A)).abandoned, 1);
        drop(tracker.open_somewhere());
        assert_eq!(tracker.floor(Some(B)).abandoned, 3, "sent without a map: to any shard");
    }

    /// I1: what a shard still owes an answer for is not pushed out of its memory; a write that is held waits alone.
    #[tokio::test]
    async fn a_write_too_far_ahead_of_an_unanswered_one_waits_until_that_is_settled() {
        let tracker = Unanswered::with_ahead_max(4);
        let orders: Arc<str> = "orders".into();
        let held = tracker.open_in(&orders, A).unwrap();
        (0..3).for_each(|_| tracker.open_in(&orders, A).unwrap().settle());
        assert!(tracker.open_in(&orders, B).is_ok(), "another shard");
        let NoRoom(first) = tracker.open_in(&orders, A).unwrap_err();
        let NoRoom(second) = tracker.open_in(&orders, A).unwrap_err();
        held.settle();
        // One is told, and tells the next by going on.
        first.notified().await;
        assert!(tracker.open_in(&orders, A).is_ok());
        second.notified().await;
        assert!(tracker.open_in(&orders, A).is_ok());
        drop((first, second));
        assert!(tracker.open_in(&orders, A).is_ok());
        assert!(tracker.state.lock().lanes.is_empty(), "nothing is kept of what is settled");
    }

    proptest! {
        /// I1: whatever is opened, moved and settled, a shard never holds more outcomes from an open write on than it
        /// is allowed to.
        #[test]
        fn no_shard_is_sent_more_than_it_remembers_behind_an_open_write(
            steps in prop::collection::vec((0..8_u8, any::<u8>(), 1..3_u64), 1..300),
        ) {
            let tracker = Unanswered::with_ahead_max(5);
            let orders: Arc<str> = "orders".into();
            let mut open: Vec<(Ticket, u64)> = Vec::new();
            let mut sent: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            for (step, which, shard) in steps {
                let at = usize::from(which) % open.len().max(1);
                match step {
                    0..=4 => if let Ok(ticket) = tracker.open_in(&orders, ShardId(shard)) {
                        sent.entry(shard).or_default().insert(ticket.sequence());
                        open.push((ticket, shard));
                    },
                    5 | 6 if !open.is_empty() => drop(open.swap_remove(at)),
                    7 => {
                        // The map was learnt anew, and is what it was.
                        tracker.unplace("orders");
                        if let Some((ticket, shard)) = open.get(at) {
                            ticket.place(&orders, ShardId(*shard));
                        }
                    }
                    _ => {}
                }
                for (shard, sent) in &sent {
                    let own = open.iter().filter(|(_, place)| place == shard);
                    let oldest = own.map(|(ticket, _)| ticket.sequence()).min();
                    let behind = oldest.map_or(0, |oldest| sent.range(oldest..).count());
                    prop_assert!(behind <= 5, "{behind} in shard {shard}");
                }
            }
            open.clear();
            prop_assert!(tracker.state.lock().lanes.is_empty());
        }

        /// I2: whatever is opened, sent, moved and dropped, no floor passes a sequence that may be sent there.
        #[test]
        fn no_floor_passes_a_sequence_that_may_still_be_sent_there(
            steps in prop::collection::vec((0..6_u8, any::<u8>(), 1..4_u64), 1..200),
        ) {
            let tracker = Unanswered::new();
            let orders: Arc<str> = "orders".into();
            let mut open: Vec<(Ticket, Option<u64>)> = Vec::new();
            let mut given = 0;
            for (step, which, shard) in steps {
                let at = usize::from(which) % open.len().max(1);
                match step {
                    0 | 1 => {
                        open.push((tracker.open_somewhere(), None));
                        given += 1;
                    }
                    2 | 3 if !open.is_empty() => {
                        open[at].0.place(&orders, ShardId(shard));
                        open[at].1 = Some(shard);
                    }
                    4 if !open.is_empty() => drop(open.swap_remove(at)),
                    5 => {
                        tracker.unplace("orders");
                        open.iter_mut().for_each(|(_, shard)| *shard = None);
                    }
                    _ => {}
                }
                for shard in 1..4 {
                    let may_go = open.iter().filter(|(_, place)| place.is_none_or(|place| place == shard));
                    let expected = may_go.map(|(ticket, _)| ticket.sequence()).min().unwrap_or(given + 1);
                    prop_assert_eq!(lowest(&tracker, ShardId(shard)), expected);
                }
                let all = open.iter().map(|(ticket, _)| ticket.sequence()).min().unwrap_or(given + 1);
                prop_assert_eq!(tracker.floor(None).lowest, all);
            }
        }
    }
}
