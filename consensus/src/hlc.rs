//! # Hlc: the hybrid logical clock (rule T1)
//!
//! ```text
//!   now()      = max(physical clock, last + 1), never above the ceiling
//!   observe(s) : last = max(last, s), unless s is too far ahead of the physical clock
//!
//!   ──────────────┬─────────────┬──────────────┬───────────▶ stamps
//!             physical        last          ceiling = the bound that is durable
//! ```
//!
//! The **ceiling** is the bound the node has kept durably ahead of time; a later life starts above it, so that it never
//! gives a stamp that an earlier life gave, whatever its physical clock says. A chore extends it long before it is
//! reached. While it cannot be extended (a stalled disk), the clock goes on in counter steps below the ceiling, and at
//! the ceiling it stands still: it never lies about what is durable. Nobody relies on a standing clock: a disk that
//! stalls so long costs the node its leadership (rule J6), a failed one poisons it, and CP versions grow by themselves.
//!
//! **Invariant.** Below the ceiling every stamp given is above every stamp given or adopted before; no stamp is above
//! the ceiling.
//!
//! **Deliberately absent.** Waiting, and the journal: the node keeps the bound and says so with [`Hlc::extend`].

use crate::env::Clock;
use kvorum_api::Stamp;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far ahead of the clock the bound is kept, milliseconds. After a crash a node waits until its clock has nearly
/// reached the bound, so this is also the longest such pause.
pub const BOUND_AHEAD_MS: u64 = 2_000;

/// The bound is extended as soon as less than this is left below it, milliseconds.
pub const BOUND_LEFT_MS_MIN: u64 = 1_000;

/// A node's hybrid logical clock.
#[derive(Debug)]
pub struct Hlc {
    clock: Clock,
    offset_max_ms: u64,
    last: AtomicU64,
    ceiling: AtomicU64,
}

impl Hlc {
    /// Starts above `bound`, the stamp persisted ahead by an earlier life, and has no ceiling: for whoever keeps no
    /// bound.
    pub fn new(clock: Clock, bound: Stamp, offset_max_ms: u64) -> Self {
        Hlc { clock, offset_max_ms, last: AtomicU64::new(bound.0), ceiling: AtomicU64::new(u64::MAX) }
    }

    /// Starts above `bound` and stands still there until [`Hlc::extend`] says what is durable.
    pub fn bounded(clock: Clock, bound: Stamp, offset_max_ms: u64) -> Self {
        Hlc { clock, offset_max_ms, last: AtomicU64::new(bound.0), ceiling: AtomicU64::new(bound.0) }
    }

    /// The next stamp.
    pub fn now(&self) -> Stamp {
        let physical = Stamp::from_ms(self.physical_ms()).0;
        let ceiling = self.ceiling.load(Ordering::Acquire);
        let step = |last: u64| {
            let next = last.saturating_add(1).max(physical);
            // A physical clock that leapt over the ceiling is followed once the bound has been extended.
            if next <= ceiling { next } else { last.saturating_add(1).min(ceiling).max(last) }
        };
        let given = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(step(last)));
        Stamp(step(given.unwrap_or_else(|last| last)))
    }

    /// The highest stamp given or adopted.
    pub fn highest(&self) -> Stamp {
        Stamp(self.last.load(Ordering::Acquire))
    }

    /// The highest stamp given or adopted, as far as others adopt it: what messages carry, so that whoever gets them
    /// orders itself after them. A node whose earlier life had a wrong clock starts far ahead: it keeps that to itself.
    pub fn told(&self) -> Stamp {
        self.highest().min(Stamp::from_ms(self.physical_ms() + self.offset_max_ms))
    }

    /// The next stamp, as far as others adopt it: what clients are told.
    pub fn now_told(&self) -> Stamp {
        self.now();
        self.told()
    }

    /// Advances past a received stamp; one too far ahead of the physical clock is not adopted, unless it lies behind
    /// what was given or adopted already.
    ///
    /// # Errors
    /// How far it is ahead, milliseconds.
    pub fn observe(&self, stamp: Stamp) -> Result<(), u64> {
        if stamp <= self.highest() {
            return Ok(());
        }
        let ahead_ms = stamp.ms().saturating_sub(self.physical_ms());
        if ahead_ms > self.offset_max_ms {
            return Err(ahead_ms);
        }
        let adopted = stamp.0.min(self.ceiling.load(Ordering::Acquire));
        self.last.fetch_max(adopted, Ordering::AcqRel);
        Ok(())
    }

    /// The physical clock, Unix milliseconds.
    pub fn physical_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// The bound to make durable next, if it is time; then call [`Hlc::extend`] with it.
    pub fn wanted_bound(&self) -> Option<Stamp> {
        let now_ms = self.physical_ms().max(self.highest().ms());
        let left_ms = Stamp(self.ceiling.load(Ordering::Acquire)).ms().saturating_sub(now_ms);
        (left_ms < BOUND_LEFT_MS_MIN).then(|| Stamp::from_ms(now_ms + BOUND_AHEAD_MS))
    }

    /// `bound` is durable: stamps up to it may be given. The first call sets the ceiling, later ones only raise it.
    pub fn extend(&self, bound: Stamp) {
        self.ceiling.fetch_max(bound.0, Ordering::AcqRel);
    }

    /// The bound in force.
    pub fn ceiling(&self) -> Stamp {
        Stamp(self.ceiling.load(Ordering::Acquire))
    }

    /// No stamp is given from now on; the stamp above which a later life starts.
    pub fn close(&self) -> Stamp {
        // Whoever read the old ceiling may still step below it once: the later life starts above that step as well.
        let last = self.last.load(Ordering::Acquire);
        self.ceiling.store(last, Ordering::Release);
        self.highest().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn clock(start_ms: u64) -> (Arc<AtomicU64>, Clock) {
        let ms = Arc::new(AtomicU64::new(start_ms));
        let reader = Arc::clone(&ms);
        (ms, Clock::new(move || reader.load(Ordering::SeqCst)))
    }

    #[test]
    fn stamps_grow_even_when_the_clock_goes_back() {
        let (ms, clock) = clock(1_000);
        let hlc = Hlc::new(clock, Stamp::default(), 500);
        let first = hlc.now();
        assert_eq!(first, Stamp::from_ms(1_000));
        ms.store(10, Ordering::SeqCst);
        assert_eq!(hlc.now(), first.next());
        ms.store(2_000, Ordering::SeqCst);
        assert_eq!(hlc.now(), Stamp::from_ms(2_000));
    }

    /// Rule T1.
    #[test]
    fn a_stamp_too_far_ahead_is_not_adopted() {
        let (_, clock) = clock(1_000);
        let hlc = Hlc::new(clock, Stamp::default(), 500);
        assert_eq!(hlc.observe(Stamp::from_ms(1_501)), Err(501));
        assert_eq!(hlc.now(), Stamp::from_ms(1_000));
        assert_eq!(hlc.observe(Stamp::from_ms(1_500)), Ok(()));
        assert!(hlc.now() > Stamp::from_ms(1_500), "what follows a received stamp is ordered after it");
    }

    /// Rule T5: what is told is taken, by whoever has a good clock and by itself.
    #[test]
    fn a_clock_that_starts_far_ahead_keeps_that_to_itself() {
        let (ms, clock) = clock(1_000);
        let ahead = Hlc::new(clock.clone(), Stamp::from_ms(208_000), 500);
        let other = Hlc::new(clock, Stamp::default(), 500);
        assert!(ahead.now() > Stamp::from_ms(208_000));
        for told in [ahead.told(), ahead.now_told()] {
            assert_eq!(told, Stamp::from_ms(1_500));
            assert_eq!((other.observe(told), ahead.observe(told)), (Ok(()), Ok(())));
        }
        assert_eq!(ahead.observe(Stamp::from_ms(200_000)), Ok(()), "it was there already");
        assert!(ahead.observe(Stamp::from_ms(300_000)).is_err());
        ms.store(300_000, Ordering::SeqCst);
        assert_eq!(ahead.now_told(), Stamp::from_ms(300_000), "time has caught up");
    }

    #[test]
    fn a_later_life_starts_above_the_bound_of_the_earlier_one() {
        let (ms, clock) = clock(50_000);
        let earlier = Hlc::bounded(clock.clone(), Stamp::default(), 500);
        let bound = earlier.wanted_bound().expect("nothing is durable yet");
        earlier.extend(bound);
        let given = earlier.now();
        ms.store(1, Ordering::SeqCst);
        let later = Hlc::bounded(clock, bound, 500);
        later.extend(later.wanted_bound().expect("the bound is used up"));
        assert!(later.now() > given);
        assert!(later.now() > bound);
    }

    #[test]
    fn no_stamp_is_above_the_durable_bound() {
        let (ms, clock) = clock(1_000);
        let hlc = Hlc::bounded(clock, Stamp::default(), 500);
        hlc.extend(Stamp::from_ms(1_001));
        assert_eq!(hlc.wanted_bound(), Some(Stamp::from_ms(3_000)));
        let first = hlc.now();
        ms.store(60_000, Ordering::SeqCst);
        assert_eq!(hlc.now(), first.next(), "counter steps while the physical clock is beyond the bound");
        for _ in 0..100_000 {
            assert!(hlc.now() <= Stamp::from_ms(1_001));
        }
        assert_eq!(hlc.now(), Stamp::from_ms(1_001), "the clock stands still at its bound");
        hlc.extend(hlc.wanted_bound().expect("used up"));
        assert_eq!(hlc.now(), Stamp::from_ms(60_000));
    }

    #[test]
    fn the_bound_is_extended_well_before_it_is_reached() {
        let (ms, clock) = clock(1_000);
        let hlc = Hlc::bounded(clock, Stamp::default(), 500);
        hlc.extend(hlc.wanted_bound().expect("nothing is durable yet"));
        assert_eq!(hlc.wanted_bound(), None);
        ms.store(1_000 + BOUND_AHEAD_MS - BOUND_LEFT_MS_MIN + 1, Ordering::SeqCst);
        assert!(hlc.wanted_bound().is_some());
    }

    #[test]
    fn a_closed_clock_gives_nothing_above_what_it_said() {
        let (ms, clock) = clock(1_000);
        let hlc = Hlc::bounded(clock, Stamp::default(), 500);
        hlc.extend(Stamp::from_ms(9_000));
        hlc.now();
        let bound = hlc.close();
        ms.store(5_000, Ordering::SeqCst);
        assert!(hlc.now() <= bound);
    }
}
