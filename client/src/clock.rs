//! The client's only clock: what servers said, plus the time since.
//!
//! ```text
//!   stamp sent = highest stamp received + monotonic time elapsed since it came
//! ```
//!
//! **Invariant (T1).** The wall clock of this machine never leaves it, and no stamp is below one a server gave, unless
//! another server refused it as ahead of its clock: then everything is forgotten and the next greeting begins anew.
//!
//! **Deliberately absent.** Any correction: the sum is taken from the newest highest stamp, so the drift of this
//! machine never adds up for longer than the time between two replies.

use kvorum_api::Stamp;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Bits below the milliseconds of a stamp.
const COUNTER_BITS: u32 = 16;

/// Highest stamp received, and when it came.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    highest: Mutex<Option<(Stamp, Instant)>>,
}

impl Stamps {
    /// Takes note of a server's stamp that came at `now`. Stamp 0 means "none" and is passed over.
    pub(crate) fn observe(&self, stamp: Stamp, now: Instant) {
        let mut highest = self.highest.lock();
        if stamp.0 > 0 && highest.is_none_or(|(known, _)| stamp > known) {
            *highest = Some((stamp, now));
        }
    }

    /// Begins anew: a server found the stamp ahead of its clock, and only another server's word can be better.
    pub(crate) fn forget(&self) {
        *self.highest.lock() = None;
    }

    /// The stamp of a request sent at `now`; stamp 0 before the first handshake.
    pub(crate) fn at(&self, now: Instant) -> Stamp {
        let Some((stamp, since)) = *self.highest.lock() else { return Stamp(0) };
        let elapsed_ms = u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
        Stamp(stamp.0.saturating_add(elapsed_ms.saturating_mul(1 << COUNTER_BITS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// T1: the handshake gives the first stamp; before it there is none.
    #[test]
    fn there_is_no_stamp_before_the_first_one_from_a_server() {
        assert_eq!(Stamps::default().at(Instant::now()), Stamp(0));
    }

    /// T1: the highest stamp from servers plus elapsed monotonic time.
    #[test]
    fn a_stamp_is_the_highest_received_plus_the_time_since() {
        let stamps = Stamps::default();
        let start = Instant::now();
        stamps.observe(Stamp::from_ms(1_000), start);
        stamps.observe(Stamp::from_ms(900), start + Duration::from_millis(5));
        stamps.observe(Stamp(0), start + Duration::from_millis(5));
        assert_eq!(stamps.at(start + Duration::from_millis(30)), Stamp::from_ms(1_030));
        stamps.observe(Stamp::from_ms(1_010), start + Duration::from_millis(40));
        assert_eq!(stamps.at(start + Duration::from_millis(41)), Stamp::from_ms(1_011));
        stamps.forget();
        assert_eq!(stamps.at(start), Stamp(0));
        stamps.observe(Stamp::from_ms(1_010), start);
        // A server far ahead of the year 2000 or far behind it: only servers decide, never this machine.
        assert_eq!(stamps.at(start), Stamp::from_ms(1_010));
    }
}
