//! One reply handle for everything a caller handed over in one call.
//!
//! ```text
//!   caller ── Ticket ──┐                       per command
//!                      ├── Frame ── states     queued ──taken──▶ proposed      from here on: Effect::Unknown
//!   queue ─── Seat ────┤            answers       └────withdrawn               it never happened: Effect::None
//!   queue ─── Seat ────┘
//! ```
//!
//! **Invariant.** A command is taken or withdrawn, never both. The caller is woken once, when nothing of its frame is
//! open any more.

use super::queue::Verdict;
use parking_lot::Mutex;
use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};
use tokio::sync::Notify;

const QUEUED: u8 = 0;
const PROPOSED: u8 = 1;
const WITHDRAWN: u8 = 2;

/// What the caller and the queue share.
struct Frame {
    states: Box<[AtomicU8]>,
    answers: Mutex<Answers>,
    told: Notify,
}

struct Answers {
    slots: Vec<Option<Verdict>>,
    open: usize,
}

/// How one command of a frame ended, as far as its caller can know.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It was decided or refused.
    Told(Verdict),
    /// It was taken back before anybody took it: it never happens.
    Withdrawn,
    /// It was taken, and nobody has told how it ended.
    Unknown,
}

/// The places of a frame's commands in the queue. Dropping it withdraws those that were not taken yet.
pub(crate) struct Ticket {
    frame: Arc<Frame>,
}

/// The queue's end of one command. Dropping it says that nobody will tell.
pub(crate) struct Seat {
    frame: Arc<Frame>,
    place: usize,
    is_told: bool,
}

/// A handle for `count` commands, and the seat of each.
pub(crate) fn ticket(count: usize) -> (Ticket, impl Iterator<Item = Seat>) {
    let frame = Arc::new(Frame {
        states: (0..count).map(|_| AtomicU8::new(QUEUED)).collect(),
        answers: Mutex::new(Answers { slots: (0..count).map(|_| None).collect(), open: count }),
        told: Notify::new(),
    });
    let seats = frame.clone();
    (Ticket { frame }, (0..count).map(move |place| Seat { frame: seats.clone(), place, is_told: false }))
}

impl Ticket {
    /// Waits until nothing is open any more.
    pub(crate) async fn wait(&self) {
        while self.frame.answers.lock().open > 0 {
            self.frame.told.notified().await;
        }
    }

    /// Takes back what was not taken yet and says how every command ended, in their order.
    pub(crate) fn close(self) -> Vec<Fate> {
        self.withdraw();
        // Looked at after the withdrawal: what was decided in between is told.
        let slots = mem::take(&mut self.frame.answers.lock().slots);
        let fates = slots.into_iter().zip(&self.frame.states).map(|(slot, state)| match slot {
            Some(verdict) => Fate::Told(verdict),
            None if state.load(Ordering::Acquire) == WITHDRAWN => Fate::Withdrawn,
            None => Fate::Unknown,
        });
        fates.collect()
    }

    fn withdraw(&self) {
        for state in &self.frame.states {
            let _ = state.compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl Seat {
    /// Takes the command for proposing; `false` = it was withdrawn.
    pub(crate) fn take(&self) -> bool {
        let state = &self.frame.states[self.place];
        state.compare_exchange(QUEUED, PROPOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether somebody still wants it decided.
    pub(crate) fn is_queued(&self) -> bool {
        self.frame.states[self.place].load(Ordering::Acquire) == QUEUED
    }

    /// Tells how the command ended.
    pub(crate) fn tell(mut self, verdict: Verdict) {
        self.settle(Some(verdict));
    }

    fn settle(&mut self, verdict: Option<Verdict>) {
        self.is_told = true;
        let mut answers = self.frame.answers.lock();
        // Whoever stopped waiting has taken the slots away, and was told what could be known.
        if let Some(slot) = answers.slots.get_mut(self.place) {
            *slot = verdict;
        }
        answers.open -= 1;
        let is_last = answers.open == 0;
        drop(answers);
        if is_last {
            self.frame.told.notify_one();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.is_told {
            self.settle(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::{Effect, Refused, WriteError};

    fn refused() -> Verdict {
        Err(Refused::Draining.into())
    }

    #[tokio::test]
    async fn the_caller_is_woken_when_nothing_is_open_any_more() {
        let (ticket, seats) = ticket(3);
        let mut seats: Vec<_> = seats.collect();
        let last = seats.pop().unwrap();
        for seat in seats {
            assert!(seat.take());
            seat.tell(refused());
        }
        let early = tokio::time::timeout(std::time::Duration::from_millis(1), ticket.wait()).await;
        assert!(early.is_err(), "one is open");
        drop(last);
        ticket.wait().await;
        let fates = ticket.close();
        assert!(matches!(fates[..], [Fate::Told(Err(_)), Fate::Told(Err(_)), Fate::Withdrawn]), "{fates:?}");
    }

    #[test]
    fn giving_up_tells_the_taken_from_the_withdrawn() {
        let (ticket, seats) = ticket(3);
        let seats: Vec<_> = seats.collect();
        assert!(seats[1].take());
        let fates = ticket.close();
        assert!(matches!(fates[..], [Fate::Withdrawn, Fate::Unknown, Fate::Withdrawn]), "{fates:?}");
        assert!(!seats[0].take(), "withdrawn stays withdrawn");
        for seat in seats {
            seat.tell(refused());
        }
    }

    #[test]
    fn what_was_decided_just_before_giving_up_is_told() {
        let (ticket, seats) = ticket(1);
        for seat in seats {
            assert!(seat.take());
            let lost = WriteError::LeadershipLost { shard: kvorum_api::ShardId(1), why: "x".to_owned() };
            seat.tell(Err(lost));
        }
        let fates = ticket.close();
        let [Fate::Told(Err(error))] = &fates[..] else { panic!("{fates:?}") };
        assert_eq!(error.effect(), Effect::Unknown);
    }
}
