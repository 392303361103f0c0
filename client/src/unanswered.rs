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
//! A ticket lies in the shard its write is sent to. When a keyspace's map changes, its tickets lie nowhere until each
//! is sent again, and hold every floor back meanwhile: nobody knows yet which shard will see them.

use kvorum_api::ShardId;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

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
    by_shard: BTreeMap<ShardId, BTreeSet<u64>>,
    /// The highest sequence given up per shard, and of those that lay nowhere any more.
    abandoned: BTreeMap<ShardId, u64>,
    abandoned_somewhere: u64,
}

/// Where an open write was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere yet.
    New,
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
        let state = State {
            next: 1,
            open: BTreeMap::new(),
            unplaced: BTreeSet::new(),
            by_shard: BTreeMap::new(),
            abandoned: BTreeMap::new(),
            abandoned_somewhere: 0,
        };
        Arc::new(Unanswered { state: Mutex::new(state) })
    }

    /// The next sequence, unanswered until the ticket is dropped.
    pub(crate) fn open(self: &Arc<Self>) -> Ticket {
        let mut state = self.state.lock();
        let sequence = state.next;
        state.next += 1;
        state.open.insert(sequence, Place::New);
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
                take_from(&mut state.by_shard, shard, *sequence);
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
        let in_shard = self.by_shard.get(&shard).and_then(BTreeSet::first);
        let lowest = in_shard.into_iter().chain(self.unplaced.first()).min().copied().unwrap_or(self.next);
        let abandoned = self.abandoned.get(&shard).copied().unwrap_or(0).max(self.abandoned_somewhere);
        Floor { lowest, abandoned }
    }

    fn leave(&mut self, sequence: u64, is_given_up: bool) {
        let Some(place) = self.open.remove(&sequence) else { return };
        match place {
            // Never sent: no copy of it can come late.
            Place::New => drop(self.unplaced.remove(&sequence)),
            Place::Moved => {
                self.unplaced.remove(&sequence);
                if is_given_up {
                    self.abandoned_somewhere = self.abandoned_somewhere.max(sequence);
                }
            }
            Place::In { shard, .. } => {
                take_from(&mut self.by_shard, shard, sequence);
                if is_given_up {
                    self.abandon(shard, sequence);
                }
            }
        }
    }

    fn abandon(&mut self, shard: ShardId, sequence: u64) {
        let highest = self.abandoned.entry(shard).or_default();
        *highest = (*highest).max(sequence);
    }
}

fn take_from(by_shard: &mut BTreeMap<ShardId, BTreeSet<u64>>, shard: ShardId, sequence: u64) {
    if let Some(open) = by_shard.get_mut(&shard) {
        open.remove(&sequence);
        if open.is_empty() {
            by_shard.remove(&shard);
        }
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
                take_from(&mut state.by_shard, former, self.sequence);
                state.abandon(former, self.sequence);
            }
            Place::New => drop(state.unplaced.remove(&self.sequence)),
            Place::Moved => {
                state.unplaced.remove(&self.sequence);
                state.abandoned_somewhere = state.abandoned_somewhere.max(self.sequence);
            }
        }
        state.by_shard.entry(shard).or_default().insert(self.sequence);
    }

    /// Its write goes to whoever answers: nobody knows yet which shard that is.
    pub(crate) fn place_somewhere(&self) {
        if let Some(place @ Place::New) = self.tracker.state.lock().open.get_mut(&self.sequence) {
            *place = Place::Moved;
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
        let (first, second) = (tracker.open(), tracker.open());
        first.place(&orders, A);
        second.place(&orders, A);
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
        let held = tracker.open();
        assert_eq!((lowest(&tracker, A), lowest(&tracker, B)), (1, 1), "not placed: it may go anywhere");
        held.place(&orders, A);
        let other = tracker.open();
        other.place(&orders, B);
        assert_eq!((lowest(&tracker, A), lowest(&tracker, B), tracker.floor(None).lowest), (1, 2, 1));
        other.settle();
        drop(other);
        assert_eq!(tracker.floor(Some(B)), Floor { lowest: 3, abandoned: 0 }, "answered, not given up");
    }

    /// I2: after a change of the map nobody knows which shard an open write will be sent to.
    #[test]
    fn after_a_change_of_the_map_an_open_write_holds_every_floor_until_it_is_sent_again() {
        let tracker = Unanswered::new();
        let (orders, carts): (Arc<str>, Arc<str>) = ("orders".into(), "carts".into());
        let (moved, other) = (tracker.open(), tracker.open());
        moved.place(&orders, A);
        other.place(&carts, ShardId(9));
        tracker.unplace("orders");
        assert_eq!((lowest(&tracker, A), lowest(&tracker, B), lowest(&tracker, ShardId(9))), (1, 1, 1));
        moved.place(&orders, B);
        assert_eq!((lowest(&tracker, A), lowest(&tracker, B), lowest(&tracker, ShardId(9))), (3, 1, 2));
        // A copy may still be on its way to the shard it lay in before.
        assert_eq!(tracker.floor(Some(A)).abandoned, 1);
        let blind = tracker.open();
        blind.place_somewhere();
        drop(blind);
        assert_eq!(tracker.floor(Some(B)).abandoned, 3, "sent without a map: to any shard");
    }

    proptest! {
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
                        open.push((tracker.open(), None));
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
