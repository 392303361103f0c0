//! How stale a `local` read may be, measured without comparing anybody's clocks (rules R2, R3).
//!
//! ```text
//!   follower   ──reply, stamped "my clock says m"──▶ leader
//!              ◀──append: echo m, "a majority acknowledged me a ago", commit c──
//! ```
//!
//! The append was sent after `m`, so a majority acknowledged the leader after `m - a` on the follower's own clock. No
//! newer leader can have acknowledged a write before that, and this leader's are at or below `c`: once the follower has
//! applied `c`, it holds every write acknowledged before `m - a`. How long the append was on its way does not matter.
//!
//! **Invariant.** Nothing is known after a start, and nothing is ever assumed to be fresh.

use super::codec::message::{AppendNotes, Moment};
use parking_lot::Mutex;
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Proofs that wait for the shard to apply what they speak of.
const PENDING_MAX: usize = 64;

/// What a follower can prove about its own staleness.
pub(crate) struct Staleness {
    life: u64,
    born: Instant,
    proofs: Mutex<Proofs>,
}

#[derive(Default)]
struct Proofs {
    /// Everything acknowledged before this is applied here.
    holds_until: Option<Instant>,
    /// Will hold until the moment once the index is applied.
    pending: VecDeque<(u64, Instant)>,
}

impl Staleness {
    /// Knows nothing. `life` tells this replica's moments from those of its earlier lives.
    pub(crate) fn new(life: u64) -> Self {
        Staleness { life, born: Instant::now(), proofs: Mutex::default() }
    }

    /// This replica's clock, for its leader to echo.
    pub(crate) fn moment(&self) -> Moment {
        Moment { life: self.life, at_us: self.born.elapsed().as_micros() as u64 }
    }

    /// Takes in what an accepted append proves; `commit` is the index it says is committed.
    pub(crate) fn note(&self, notes: &AppendNotes, commit: Option<u64>) {
        let (Some(age), Some(echo), Some(commit)) = (notes.quorum_age, notes.echo, commit) else { return };
        if echo.life != self.life {
            return;
        }
        let sent_after = self.born + Duration::from_micros(echo.at_us);
        if sent_after > Instant::now() {
            return;
        }
        let Some(acknowledged_after) = sent_after.checked_sub(age) else { return };
        let mut proofs = self.proofs.lock();
        if proofs.pending.len() >= PENDING_MAX {
            // The newest gives way: older ones come true sooner.
            proofs.pending.pop_back();
        }
        proofs.pending.push_back((commit, acknowledged_after));
    }

    /// The moment before which everything acknowledged is in the shard, now that it has applied `applied`; `None` =
    /// unknown. How stale an answer may be is what has passed since, whenever it is handed out.
    pub(crate) fn holds_until(&self, applied: Option<u64>) -> Option<Instant> {
        let mut proofs = self.proofs.lock();
        let Proofs { holds_until, pending } = &mut *proofs;
        pending.retain(|(commit, moment)| {
            let is_proven = applied.is_some_and(|applied| applied >= *commit);
            if is_proven {
                *holds_until = (*holds_until).max(Some(*moment));
            }
            !is_proven
        });
        *holds_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Staleness {
        fn bound(&self, applied: Option<u64>) -> Option<Duration> {
            self.holds_until(applied).map(|moment| moment.elapsed())
        }
    }

    fn notes(age_ms: u64, echo: Moment) -> AppendNotes {
        AppendNotes { quorum_age: Some(Duration::from_millis(age_ms)), echo: Some(echo), keep_from: 0 }
    }

    /// Rule R2.
    #[tokio::test(start_paused = true)]
    async fn staleness_is_unknown_after_a_start() {
        assert_eq!(Staleness::new(1).bound(Some(100)), None);
    }

    /// Rules R2, R3: time on the way counts, although nobody measured it.
    #[tokio::test(start_paused = true)]
    async fn an_append_that_was_long_on_its_way_proves_little() {
        let staleness = Staleness::new(1);
        tokio::time::advance(Duration::from_millis(500)).await;
        let echo = staleness.moment();
        tokio::time::advance(Duration::from_millis(3_000)).await;
        staleness.note(&notes(100, echo), Some(7));
        assert_eq!(staleness.bound(Some(6)), None, "what it speaks of is not applied");
        assert_eq!(staleness.bound(Some(7)), Some(Duration::from_millis(3_100)));
    }

    /// Rule R2: under a stream of appends the older proofs come true.
    #[tokio::test(start_paused = true)]
    async fn a_follower_that_is_always_a_little_behind_still_knows() {
        let staleness = Staleness::new(1);
        tokio::time::advance(Duration::from_millis(50)).await;
        for index in 0..1_000 {
            staleness.note(&notes(1, staleness.moment()), Some(index));
            tokio::time::advance(Duration::from_millis(1)).await;
            let bound = staleness.bound(index.checked_sub(10));
            assert_eq!(bound.is_some(), index >= 10);
            assert!(bound.is_none_or(|bound| bound <= Duration::from_millis(13)), "{bound:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_of_another_life_proves_nothing() {
        let staleness = Staleness::new(2);
        tokio::time::advance(Duration::from_millis(50)).await;
        staleness.note(&notes(1, Moment { life: 1, at_us: 10 }), Some(1));
        staleness.note(&notes(1, Moment { life: 2, at_us: u64::MAX / 2_000 }), Some(1));
        assert_eq!(staleness.bound(Some(1)), None);
    }
}
