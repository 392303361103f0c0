//! Which of this client's writes are still unanswered, and so what shards may forget.
//!
//! ```text
//!   sequences   1  2  3  4  5  6  7
//!   unanswered        ●     ●          lowest unanswered = 3: outcomes 1 and 2 may be forgotten
//! ```
//!
//! **Invariant (I2).** A sequence is unanswered from the moment it is given until its [`Ticket`] is dropped: when the
//! caller has the outcome, drops the handle of an unknown write, or cancels the call. No frame ever carries a lowest
//! above a sequence that may still be sent, and every frame built after a drop carries one above what was dropped (if
//! nothing older is open), so that a late copy of it is refused.

use parking_lot::Mutex;
use std::{collections::BTreeSet, sync::Arc};

/// Gives sequences and knows the lowest unanswered one.
#[derive(Debug)]
pub(crate) struct Unanswered {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    open: BTreeSet<u64>,
}

impl Unanswered {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Unanswered { state: Mutex::new(State { next: 1, open: BTreeSet::new() }) })
    }

    /// The next sequence, unanswered until the ticket is dropped.
    pub(crate) fn open(self: &Arc<Self>) -> Ticket {
        let mut state = self.state.lock();
        let sequence = state.next;
        state.next += 1;
        state.open.insert(sequence);
        drop(state);
        Ticket { tracker: self.clone(), sequence }
    }

    /// Everything below this has an outcome nobody will ask for again.
    pub(crate) fn lowest(&self) -> u64 {
        let state = self.state.lock();
        state.open.first().copied().unwrap_or(state.next)
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

    /// The lowest unanswered sequence of the client at this moment, never above this ticket's own.
    pub(crate) fn lowest(&self) -> u64 {
        self.tracker.lowest()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tracker.state.lock().open.remove(&self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// I2: dropping the handle raises the floor above it.
    #[test]
    fn a_dropped_ticket_raises_the_floor_above_it() {
        let tracker = Unanswered::new();
        assert_eq!(tracker.lowest(), 1);
        let first = tracker.open();
        let second = tracker.open();
        assert_eq!((first.sequence(), second.sequence(), tracker.lowest()), (1, 2, 1));
        drop(second);
        assert_eq!(tracker.lowest(), 1, "an older one is still open");
        drop(first);
        assert_eq!(tracker.lowest(), 3);
    }

    proptest! {
        /// I2: whatever the order of opening and dropping, the floor never passes an open sequence and never falls.
        #[test]
        fn the_floor_is_the_lowest_open_sequence_and_never_falls(steps in prop::collection::vec(any::<u8>(), 1..200)) {
            let tracker = Unanswered::new();
            let mut open: Vec<Ticket> = Vec::new();
            let mut given = 0;
            let mut floor = 0;
            for step in steps {
                if step % 3 == 0 && !open.is_empty() {
                    open.swap_remove(usize::from(step) % open.len());
                } else {
                    open.push(tracker.open());
                    given += 1;
                }
                let expected = open.iter().map(Ticket::sequence).min().unwrap_or(given + 1);
                prop_assert_eq!(tracker.lowest(), expected);
                prop_assert!(expected >= floor);
                floor = expected;
            }
        }
    }
}
