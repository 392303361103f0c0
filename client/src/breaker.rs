//! When a node is left alone: its circuit breaker. Pure: times in, verdicts out.
//!
//! ```text
//!   closed ──── one silence, or 3 broken connections in a row ────▶ open ──── its rest is over ────▶ half open
//!     ▲                                                              ▲                                  │ one probe
//!     └── answered ──────────────────────────────────────────────────┼───────────────── answered ───────┤
//!                                                                    └─── failed: a longer rest ───────┘
//! ```
//!
//! **Invariant.** A dead node costs its callers one timeout; then it is skipped until a probe, which no caller waits
//! for, was answered. The rest doubles with every opening until an operation is answered, up to a limit; a node that
//! another names as the leader is probed after a plain one.
//!
//! **Deliberately absent.** Opening because of slow answers: only a shard's leader can answer for it, and a slow leader
//! answers. Slowness moves a node behind the others where there is a choice ([`Health::Slow`]).

use crate::routing::Health;
use std::time::Duration;
use tokio::time::Instant;

/// Broken connections in a row that open it. They cost little, so a restart is no reason yet.
const BROKEN_IN_A_ROW_MAX: u32 = 3;

/// The rest is doubled at most this often.
const DOUBLINGS_MAX: u32 = 3;

/// An answer weighs this much against the mean latency so far.
const LATENCY_WEIGHT: u32 = 8;

/// A latency that was measured longer ago says nothing any more: who was slow once is asked again, or it would stay
/// slow for ever, since nobody asks the slow.
const LATENCY_AGE_MAX: Duration = Duration::from_secs(5);

/// What went wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The connection was refused or broke.
    Broken,
    /// It let us wait.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// Somebody probes; if nothing is heard of it until then, somebody else may.
    HalfOpen {
        until: Instant,
    },
}

/// What one client thinks of one node.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: State,
    rest: Duration,
    probe_within: Duration,
    slow: Duration,
    broken_in_a_row: u32,
    openings: u32,
    failed: Option<Instant>,
    /// When something was heard of it last, good or bad.
    noted: Option<Instant>,
    /// Mean time to an answer, and when the last one came.
    latency: Option<(Duration, Instant)>,
}

impl Breaker {
    /// Closed. `rest` is the first time out, `probe_within` how long a probe may take, and a mean above `slow` is slow.
    pub(crate) fn new(rest: Duration, probe_within: Duration, slow: Duration) -> Self {
        Breaker {
            state: State::Closed,
            rest,
            probe_within,
            slow,
            broken_in_a_row: 0,
            openings: 0,
            failed: None,
            noted: None,
            latency: None,
        }
    }

    /// How the node stands now.
    pub(crate) fn health(&self, now: Instant) -> Health {
        let failed_lately = self.failed.is_some_and(|at| now.saturating_duration_since(at) < self.rest);
        match self.state {
            State::Open { .. } | State::HalfOpen { .. } => Health::Silent,
            State::Closed if failed_lately => Health::Failed,
            State::Closed if self.latency(now).is_some_and(|latency| latency >= self.slow) => Health::Slow,
            State::Closed => Health::Good,
        }
    }

    /// Mean time to an answer; `None` = not measured lately.
    pub(crate) fn latency(&self, now: Instant) -> Option<Duration> {
        let is_fresh = |at: &Instant| now.saturating_duration_since(*at) <= LATENCY_AGE_MAX;
        self.latency.filter(|(_, at)| is_fresh(at)).map(|(mean, _)| mean)
    }

    /// Whether the asker should probe the node now. True once per rest: the breaker is half open then.
    pub(crate) fn takes_probe(&mut self, now: Instant) -> bool {
        let (State::Open { until } | State::HalfOpen { until }) = self.state else { return false };
        if now < until {
            return false;
        }
        self.state = State::HalfOpen { until: now + self.probe_within };
        true
    }

    /// It answered a greeting: it is there.
    pub(crate) fn greeted(&mut self, now: Instant) {
        self.state = State::Closed;
        self.broken_in_a_row = 0;
        self.failed = None;
        self.noted = Some(now);
    }

    /// It answered an operation: it does its work.
    pub(crate) fn answered(&mut self, latency: Duration, now: Instant) {
        self.greeted(now);
        self.openings = 0;
        let mean = match self.latency(now) {
            Some(mean) => (mean * (LATENCY_WEIGHT - 1) + latency) / LATENCY_WEIGHT,
            None => latency,
        };
        self.latency = Some((mean, now));
    }

    /// Another node says that this one leads: after one plain rest it is worth a probe, however often it has failed.
    /// Whoever leads nothing is asked nothing, so its earlier openings would count for ever.
    pub(crate) fn vouched(&mut self, now: Instant) {
        let plain = self.failed.map_or(now, |failed| failed + self.rest);
        if let State::Open { until } = &mut self.state {
            *until = (*until).min(plain.max(now));
        }
    }

    /// It did not answer what it was asked at `asked`. Calls that were under way when something else was heard of it
    /// say nothing new: one broken stream fails many calls.
    pub(crate) fn failed(&mut self, trouble: Trouble, asked: Instant, now: Instant) {
        if self.noted.is_some_and(|noted| asked < noted) {
            return;
        }
        self.failed = Some(now);
        self.noted = Some(now);
        self.broken_in_a_row = self.broken_in_a_row.saturating_add(1);
        let opens = match (self.state, trouble) {
            (State::Open { .. }, _) => false,
            (State::HalfOpen { .. }, _) | (State::Closed, Trouble::Silent) => true,
            (State::Closed, Trouble::Broken) => self.broken_in_a_row >= BROKEN_IN_A_ROW_MAX,
        };
        if opens {
            self.state = State::Open { until: now + self.rest * (1 << self.openings.min(DOUBLINGS_MAX)) };
            self.openings = self.openings.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(2);
    const PROBE: Duration = Duration::from_secs(1);

    fn breaker() -> (Breaker, Instant) {
        (Breaker::new(REST, PROBE, Duration::from_secs(1)), Instant::now())
    }

    #[test]
    fn one_silence_opens_it_and_one_probe_is_let_through_when_its_rest_is_over() {
        let (mut breaker, now) = breaker();
        assert_eq!(breaker.health(now), Health::Good);
        breaker.failed(Trouble::Silent, now, now);
        assert_eq!(breaker.health(now), Health::Silent);
        assert!(!breaker.takes_probe(now + REST / 2), "it rests");
        assert!(breaker.takes_probe(now + REST));
        assert!(!breaker.takes_probe(now + REST), "one probe at a time");
        assert_eq!(breaker.health(now + REST), Health::Silent, "half open is still skipped");
        assert!(breaker.takes_probe(now + REST + PROBE), "a probe nothing was heard of is repeated");
        breaker.greeted(now);
        assert_eq!(breaker.health(now + REST), Health::Good);
    }

    #[test]
    fn a_failed_probe_makes_the_rest_longer_up_to_a_limit() {
        let (mut breaker, mut now) = breaker();
        breaker.failed(Trouble::Silent, now, now);
        for doublings in [1_u32, 2, 3, 3, 3] {
            now += REST * 8;
            assert!(breaker.takes_probe(now));
            breaker.failed(Trouble::Silent, now, now);
            let rest = REST * (1 << doublings);
            assert!(!breaker.takes_probe(now + rest - Duration::from_millis(1)));
            assert_eq!(breaker.health(now + rest), Health::Silent);
        }
        breaker.greeted(now);
        breaker.answered(Duration::from_millis(1), now);
        breaker.failed(Trouble::Silent, now, now);
        assert!(breaker.takes_probe(now + REST), "an answered operation ends the doubling");
    }

    /// Found by the inspector: after many losses of power a new leader was left alone for 16 s by those who had not
    /// needed it meanwhile, although the others named it.
    #[test]
    fn whoever_is_said_to_lead_rests_no_longer_than_after_its_first_failure() {
        let (mut breaker, mut now) = breaker();
        for _ in 0..5 {
            breaker.failed(Trouble::Silent, now, now);
            now += REST * 8;
            assert!(breaker.takes_probe(now));
        }
        breaker.failed(Trouble::Silent, now, now);
        assert!(!breaker.takes_probe(now + REST), "it rests for long");
        breaker.vouched(now + REST / 2);
        assert!(!breaker.takes_probe(now + REST - Duration::from_millis(1)), "one plain rest is kept");
        assert!(breaker.takes_probe(now + REST));
        breaker.greeted(now + REST);
        breaker.vouched(now + REST);
        assert_eq!(breaker.health(now + REST), Health::Good, "who rests not is not made to");
    }

    /// Nobody asks the slow while others are quick: a node that was slow once would never show that it is not any more.
    #[test]
    fn a_node_that_was_slow_long_ago_is_measured_anew() {
        let (mut breaker, now) = breaker();
        breaker.answered(Duration::from_secs(3), now);
        assert_eq!((breaker.health(now), breaker.latency(now)), (Health::Slow, Some(Duration::from_secs(3))));
        let later = now + LATENCY_AGE_MAX + Duration::from_millis(1);
        assert_eq!((breaker.health(later), breaker.latency(later)), (Health::Good, None));
        breaker.answered(Duration::from_millis(1), later);
        assert_eq!(breaker.latency(later), Some(Duration::from_millis(1)), "the old mean weighs nothing");
    }

    #[test]
    fn broken_connections_open_it_at_the_third_in_a_row() {
        let (mut breaker, now) = breaker();
        for _ in 0..2 {
            breaker.failed(Trouble::Broken, now, now);
            assert_eq!(breaker.health(now), Health::Failed);
        }
        breaker.answered(Duration::from_millis(1), now);
        assert_eq!(breaker.health(now), Health::Good);
        for _ in 0..3 {
            breaker.failed(Trouble::Broken, now, now);
        }
        assert_eq!(breaker.health(now), Health::Silent);
    }

    #[test]
    fn what_was_under_way_when_it_opened_does_not_open_it_again() {
        let (mut breaker, now) = breaker();
        for _ in 0..9 {
            breaker.failed(Trouble::Silent, now, now);
        }
        assert!(breaker.takes_probe(now + REST), "the first rest is not doubled");
    }

    #[test]
    fn one_broken_stream_is_one_failure_however_many_calls_it_carried() {
        let (mut breaker, asked) = breaker();
        for ms in 1..60 {
            breaker.failed(Trouble::Broken, asked, asked + Duration::from_millis(ms));
        }
        assert_eq!(breaker.health(asked + Duration::from_millis(60)), Health::Failed);
        breaker.answered(Duration::from_millis(1), asked + Duration::from_millis(60));
        breaker.failed(Trouble::Silent, asked, asked + Duration::from_millis(70));
        assert_eq!(breaker.health(asked + Duration::from_millis(70)), Health::Good, "it answered others meanwhile");
    }

    #[test]
    fn slow_answers_make_it_slow_and_not_silent() {
        let (mut breaker, now) = breaker();
        for _ in 0..9 {
            breaker.answered(Duration::from_secs(3), now);
        }
        assert_eq!(breaker.health(now), Health::Slow);
        for _ in 0..40 {
            breaker.answered(Duration::from_millis(1), now);
        }
        assert_eq!(breaker.health(now), Health::Good);
    }
}
