//! Pace: how fast a node sends snapshots, all of its groups together.
//!
//! ```text
//!   chunk ──▶ when may it go? ──▶ wait ──▶ send        the next one may go when this one's share of a second is over
//! ```
//!
//! **Invariant.** Over any time that is long against one chunk, no more than the rate is sent, and no less if there is
//! enough to send: who is given up while it waits gives its share back. A rate of 0 is none.

use parking_lot::Mutex;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// A rate that several senders share.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: u64,
    /// When the next chunk may go.
    next: Mutex<Instant>,
    sent_bytes: AtomicU64,
}

impl Pace {
    /// A rate in bytes per second; 0 = as fast as it goes.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Pace { bytes_per_second, next: Mutex::new(Instant::now()), sent_bytes: AtomicU64::new(0) }
    }

    /// Bytes that were sent so far.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Waits until this many bytes may be sent.
    pub(crate) async fn take(&self, bytes: usize) {
        if self.bytes_per_second != 0 {
            let share = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            let turn = {
                let mut next = self.next.lock();
                let turn = (*next).max(Instant::now());
                *next = turn + share;
                turn
            };
            let mut waits = Waits { pace: self, share };
            sleep_until(turn).await;
            waits.share = Duration::ZERO;
        }
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Somebody who waits for its turn, and the share of the rate that it has taken for it.
struct Waits<'pace> {
    pace: &'pace Pace,
    share: Duration,
}

impl Drop for Waits<'_> {
    /// Those behind keep their turns; the next to come gets one that is earlier by the share.
    fn drop(&mut self) {
        if !self.share.is_zero() {
            *self.pace.next.lock() -= self.share;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn senders_share_one_rate() {
        let (pace, began) = (Pace::new(1_000), Instant::now());
        join_all((0..4).map(|_| async {
            for _ in 0..5 {
                pace.take(250).await;
            }
        }))
        .await;
        // Twenty quarters of a second; the last one's own is not waited for.
        assert_eq!(began.elapsed(), Duration::from_millis(4_750));
        assert_eq!(pace.sent_bytes(), 5_000);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_given_up_while_it_waits_gives_its_share_back() {
        let (pace, began) = (Pace::new(1_000), Instant::now());
        pace.take(1_000).await;
        for _ in 0..10 {
            assert!(timeout(Duration::from_millis(10), pace.take(60_000)).await.is_err(), "its turn is after a second");
        }
        assert_eq!(pace.sent_bytes(), 1_000, "what was given up was not sent");
        pace.take(500).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1), "not ten minutes later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_of_zero_is_none() {
        let (unpaced, began) = (Pace::new(0), Instant::now());
        unpaced.take(usize::MAX).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
