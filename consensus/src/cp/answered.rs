//! When what other replicas have answered was sent: what leases and staleness are counted from.
//!
//! ```text
//!   sent t1 ───▶ follower hears it, answers ───▶ told here: followed at t1
//!   made t2 (held back, or under way) … an answer to t1 says nothing of it
//! ```
//!
//! Openraft keeps such moments, too, but takes the answer to an append for an answer to everything made since that ends
//! at the same entry, sent or not: a commit is told without entries, so t2 would count as heard before it was sent.
//!
//! **Invariant.** A replica is never said to follow since a moment later than the sending of what it answered, nor in
//! another term.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// By replica: the newest term in which it answered, and when the newest of what it answered there was sent.
#[derive(Debug, Default)]
pub(crate) struct Answered(Mutex<BTreeMap<u64, (u64, Instant)>>);

impl Answered {
    /// `replica` follows the leader of `term`: it answered what was sent at that moment.
    pub(crate) fn note(&self, replica: u64, term: u64, sent: Instant) {
        let mut known = self.0.lock();
        let newest = known.entry(replica).or_insert((term, sent));
        *newest = (*newest).max((term, sent));
    }

    /// When the newest append of `term` that `replica` has answered was sent.
    pub(crate) fn in_term(&self, term: u64, replica: u64) -> Option<Instant> {
        self.0.lock().get(&replica).filter(|(of, _)| *of == term).map(|(_, sent)| *sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Rule G5.
    #[test]
    fn a_replica_follows_since_the_newest_of_what_it_answered_was_sent() {
        let (answered, first) = (Answered::default(), Instant::now());
        let later = first + Duration::from_millis(10);
        assert_eq!(answered.in_term(3, 2), None);
        answered.note(2, 3, later);
        answered.note(2, 3, first);
        assert_eq!(answered.in_term(3, 2), Some(later), "an answer that was overtaken takes nothing back");
        assert_eq!(answered.in_term(4, 2), None);
        assert_eq!(answered.in_term(3, 1), None);
        answered.note(2, 4, first);
        assert_eq!((answered.in_term(3, 2), answered.in_term(4, 2)), (None, Some(first)), "a term of its own");
        answered.note(2, 3, later);
        assert_eq!(answered.in_term(4, 2), Some(first), "what is over does not come back");
    }
}
