//! The gate of one replica: who is inside, and whether others wait.
//!
//! ```text
//!   open     enter ──▶ inside ──▶ leave          closing needs nobody inside
//!   shut     enter ──▶ waits for the verdict ──▶ enters whatever the group has become
//! ```
//!
//! **Invariant.** While the gate is shut nobody is inside: what is decided behind it, no request has seen half of.

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Set in the count of those inside while the gate is shut.
const SHUT: usize = 1 << (usize::BITS - 1);

/// The gate of one replica.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    inside: AtomicUsize,
    waiting: AtomicUsize,
    verdict: Notify,
    /// Somebody has begun to wait for the verdict.
    wanted: Notify,
}

/// One who is inside; leaves when it is dropped.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a Gate);

/// Whoever has shut the gate; it opens when this is dropped.
#[derive(Debug)]
pub(crate) struct Shut<'a>(&'a Gate);

impl Gate {
    /// Goes in, after the verdict if the gate is shut.
    pub(crate) async fn enter(&self) -> Inside<'_> {
        loop {
            // Registered before it looks: a verdict in between is not missed.
            let verdict = self.verdict.notified();
            tokio::pin!(verdict);
            verdict.as_mut().enable();
            if let Some(inside) = self.try_enter() {
                return inside;
            }
            let _waiting = Waiting::new(&self.waiting);
            self.wanted.notify_waiters();
            verdict.await;
        }
    }

    /// Goes in, unless the gate is shut.
    pub(crate) fn try_enter(&self) -> Option<Inside<'_>> {
        let entered = self
            .inside
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |inside| (inside & SHUT == 0).then(|| inside + 1));
        entered.is_ok().then(|| Inside(self))
    }

    /// Shuts the gate if nobody is inside.
    pub(crate) fn try_shut(&self) -> Option<Shut<'_>> {
        let shut = self.inside.compare_exchange(0, SHUT, Ordering::SeqCst, Ordering::SeqCst);
        shut.is_ok().then(|| Shut(self))
    }

    /// Waits until somebody waits for the verdict.
    pub(crate) async fn until_wanted(&self) {
        loop {
            let wanted = self.wanted.notified();
            tokio::pin!(wanted);
            wanted.as_mut().enable();
            if self.is_wanted() {
                return;
            }
            wanted.await;
        }
    }

    /// Whether somebody waits for the verdict.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

/// Counts one who waits, also if it gives up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        self.0.inside.store(0, Ordering::SeqCst);
        self.0.verdict.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    /// Rule G2.
    #[tokio::test(start_paused = true)]
    async fn who_arrives_while_it_is_shut_waits_for_the_verdict() {
        let gate = Gate::default();
        let inside = gate.enter().await;
        assert!(gate.try_shut().is_none(), "somebody is inside");
        drop(inside);
        let shut = gate.try_shut().unwrap();
        assert!(gate.try_enter().is_none());
        assert!(gate.try_shut().is_none(), "one verdict at a time");
        {
            assert!(timeout(Duration::from_secs(1), gate.until_wanted()).await.is_err());
            let mut waits = Box::pin(gate.enter());
            let wanted = async { tokio::join!(timeout(Duration::from_secs(1), &mut waits), gate.until_wanted()) };
            assert!(wanted.await.0.is_err());
            assert!(gate.is_wanted());
            gate.until_wanted().await;
        }
        assert!(!gate.is_wanted(), "it gave up");
        let (entered, ()) = tokio::join!(gate.enter(), async { drop(shut) });
        assert!(gate.try_shut().is_none());
        drop(entered);
        assert!(gate.try_shut().is_some());
    }
}
