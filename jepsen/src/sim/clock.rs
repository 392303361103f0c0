//! Wall clocks that disagree, while monotonic time is one for all.

use kvorum_consensus::Clock;
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use tokio::time::Instant;

/// What the true clock shows when a simulation begins, Unix milliseconds.
pub const BEGIN_MS: u64 = 1_700_000_000_000;

/// The clock of one machine: it survives its node's crashes.
#[derive(Clone)]
pub struct SimClock {
    began: Instant,
    ahead_ms: Arc<AtomicI64>,
}

impl SimClock {
    /// A clock that is right.
    pub fn new(began: Instant) -> Self {
        SimClock { began, ahead_ms: Arc::default() }
    }

    /// Sets it ahead of the truth, or behind.
    pub fn set_ahead_ms(&self, ahead_ms: i64) {
        self.ahead_ms.store(ahead_ms, Ordering::SeqCst);
    }

    /// For the node.
    pub fn as_clock(&self) -> Clock {
        let this = self.clone();
        Clock::new(move || {
            let truth_ms = BEGIN_MS + this.began.elapsed().as_millis() as u64;
            truth_ms.saturating_add_signed(this.ahead_ms.load(Ordering::SeqCst))
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
    }
}
