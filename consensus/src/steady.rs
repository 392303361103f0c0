//! # Steady: the clock on the wall, unless it leaps and nobody follows (rule T5)
//!
//! ```text
//!   wall     ───────╱▔▔▔╲────────      a leap: further from where it should be than clocks may be apart
//!   steady   ────────────────────      goes on by the monotonic clock, until the wall is back, or a majority agrees
//! ```
//!
//! Stamps and the logged time are taken from here: a wall clock that is set wrong for a moment must neither expire what
//! is to live on nor give stamps that others refuse for as long as it was ahead. Peers are shown the wall itself, so
//! that its error is found (rule T4), and so that a leap which all clocks make together is followed.
//!
//! **Invariant.** Away from the wall it runs as fast as the monotonic clock. It comes back to the wall when the wall is
//! where it should be, or when [`Steady::follow`] says that others are there, too.
//!
//! **Deliberately absent.** Who is right: that is judged in `suspect`, from what is heard after the leap.

use crate::env::Clock;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::Instant;

/// A clock that does not leap alone.
#[derive(Debug)]
pub struct Steady {
    wall: Clock,
    leap_ms_max: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What it showed last with the wall.
    ms: u64,
    /// When that was.
    at: Instant,
    /// Since when the wall has been elsewhere.
    leapt: Option<Instant>,
}

impl Steady {
    /// Begins where the wall is; `leap_ms_max`: further it does not follow by itself, milliseconds.
    #[must_use]
    pub fn new(wall: Clock, leap_ms_max: u64) -> Arc<Self> {
        let state = State { ms: wall.now_ms(), at: Instant::now(), leapt: None };
        Arc::new(Steady { wall, leap_ms_max, state: Mutex::new(state) })
    }

    /// It as a clock.
    #[must_use]
    pub fn as_clock(self: &Arc<Self>) -> Clock {
        let steady = Arc::clone(self);
        Clock::new(move || steady.now_ms())
    }

    /// Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        let mut state = self.state.lock();
        let (wall_ms, now) = (self.wall.now_ms(), Instant::now());
        let expected_ms = state.ms.saturating_add(now.duration_since(state.at).as_millis() as u64);
        if wall_ms.abs_diff(expected_ms) > self.leap_ms_max {
            if state.leapt.is_none() {
                tracing::warn!(wall_ms, expected_ms, "the clock leapt: it is not followed until a majority agrees");
            }
            state.leapt.get_or_insert(now);
            return expected_ms;
        }
        *state = State { ms: wall_ms, at: now, leapt: None };
        wall_ms
    }

    /// Since when the wall has been elsewhere, if it is.
    pub fn leapt(&self) -> Option<Instant> {
        self.now_ms();
        self.state.lock().leapt
    }

    /// The wall is right: others, heard after the leap, are there, too.
    pub fn follow(&self) {
        let mut state = self.state.lock();
        *state = State { ms: self.wall.now_ms(), at: Instant::now(), leapt: None };
        tracing::warn!(now_ms = state.ms, "the clock leapt, and a majority agrees: it is followed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicI64, Ordering},
        time::Duration,
    };
    use tokio::time::advance;

    /// A wall that is off by what the first of the two says, and what follows it.
    fn wall() -> (Arc<AtomicI64>, Arc<Steady>) {
        let (ahead_ms, began) = (Arc::new(AtomicI64::new(0)), Instant::now());
        let reader = Arc::clone(&ahead_ms);
        let truth = move || 1_000_000 + began.elapsed().as_millis() as u64;
        let clock = Clock::new(move || truth().saturating_add_signed(reader.load(Ordering::SeqCst)));
        (ahead_ms, Steady::new(clock, 500))
    }

    /// Rule T5.
    #[tokio::test(start_paused = true)]
    async fn a_leap_is_not_followed_and_forgotten_when_the_wall_is_back() {
        let (ahead_ms, steady) = wall();
        for leap_ms in [207_000, -207_000, 501, -501] {
            let before_ms = steady.now_ms();
            ahead_ms.store(leap_ms, Ordering::SeqCst);
            advance(Duration::from_millis(70)).await;
            assert_eq!(steady.now_ms(), before_ms + 70);
            let leapt = steady.leapt().expect("it is seen");
            advance(Duration::from_millis(30)).await;
            assert_eq!((steady.now_ms(), steady.leapt()), (before_ms + 100, Some(leapt)));
            ahead_ms.store(0, Ordering::SeqCst);
            assert_eq!((steady.now_ms(), steady.leapt()), (before_ms + 100, None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn small_corrections_and_drift_are_followed() {
        let (ahead_ms, steady) = wall();
        let began_ms = steady.now_ms();
        for tenths in 1..=100 {
            ahead_ms.store(tenths * 10, Ordering::SeqCst);
            advance(Duration::from_millis(100)).await;
            assert_eq!(steady.now_ms(), began_ms + 110 * tenths as u64);
        }
        ahead_ms.store(1_000 + 500, Ordering::SeqCst);
        assert_eq!(steady.now_ms(), began_ms + 10_000 + 1_500);
        assert_eq!(steady.leapt(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leap_that_others_make_is_followed() {
        let (ahead_ms, steady) = wall();
        let before_ms = steady.now_ms();
        ahead_ms.store(3_600_000, Ordering::SeqCst);
        assert!(steady.leapt().is_some());
        steady.follow();
        assert_eq!((steady.now_ms(), steady.leapt()), (before_ms + 3_600_000, None));
    }
}
