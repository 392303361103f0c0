//! Wall clocks that disagree, jump and drift, while monotonic time is one for all.

use kvorum_consensus::Clock;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::Instant;

/// What the true clock shows when a simulation begins, Unix milliseconds.
pub const BEGIN_MS: u64 = 1_700_000_000_000;

/// The clock of one machine: it survives its node's crashes.
#[derive(Clone)]
pub struct SimClock {
    began: Instant,
    error: Arc<Mutex<ClockError>>,
}

/// How wrong a clock is.
#[derive(Clone, Copy)]
struct ClockError {
    /// It was this far ahead ...
    ahead_ms: i64,
    /// ... then,
    since: Instant,
    /// and gains this much in a thousand.
    gains_per_mille: i64,
}

impl ClockError {
    fn ahead_ms(&self) -> i64 {
        self.ahead_ms + self.since.elapsed().as_millis() as i64 * self.gains_per_mille / 1_000
    }
}

impl SimClock {
    /// A clock that is right.
    pub fn new(began: Instant) -> Self {
        let error = ClockError { ahead_ms: 0, since: began, gains_per_mille: 0 };
        SimClock { began, error: Arc::new(Mutex::new(error)) }
    }

    /// Sets it ahead of the truth, or behind.
    pub fn set_ahead_ms(&self, ahead_ms: i64) {
        *self.error.lock() = ClockError { ahead_ms, since: Instant::now(), gains_per_mille: 0 };
    }

    /// From now on it gains, or loses.
    pub fn set_gains(&self, gains_per_mille: i64) {
        let mut error = self.error.lock();
        *error = ClockError { ahead_ms: error.ahead_ms(), since: Instant::now(), gains_per_mille };
    }

    /// For the node.
    pub fn as_clock(&self) -> Clock {
        let this = self.clone();
        Clock::new(move || {
            let truth_ms = BEGIN_MS + this.began.elapsed().as_millis() as u64;
            truth_ms.saturating_add_signed(this.error.lock().ahead_ms())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_clock_is_as_wrong_as_it_was_set() {
        let clock = SimClock::new(Instant::now());
        clock.set_ahead_ms(-300);
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        assert_eq!(clock.as_clock().now_ms(), BEGIN_MS + 700);
        clock.set_gains(100);
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        assert_eq!(clock.as_clock().now_ms(), BEGIN_MS + 1_800);
    }
}
