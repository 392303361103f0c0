//! When faults happen: drawn from the seed before anything is started.
//!
//! ```text
//!   ├ warm-up ┤├──────────── faults ────────────┤├ quiet ┤
//!              ▏pause▕   ▏kill▕     ▏partition ▕
//! ```
//!
//! Each fault of an experiment is a renewal process of its own: the time to its next beginning is exponential, how long
//! it holds is uniform. Unless the experiment lets them overlap, one that would begin during another begins a second
//! after it.
//!
//! **Invariant.** The same experiment and the same seed give the same schedule. Whom a fault hits may still differ: it
//! is drawn when it begins, from what is then.

use super::nemesis::Plan;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{ops::RangeInclusive, time::Duration};

/// Between two faults that must not overlap.
const GAP: Duration = Duration::from_secs(1);

/// One fault, when and for how long; times count from the end of the warm-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place among the faults of the experiment.
    pub fault: usize,
    /// When it begins.
    pub begin: Duration,
    /// How long it holds.
    pub hold: Duration,
    /// What it draws from.
    pub seed: u64,
}

/// How one fault recurs.
#[derive(Clone)]
pub struct Recurring {
    /// What.
    pub plan: Plan,
    /// Mean time from an end to the next beginning.
    pub every: Duration,
    /// How long it holds.
    pub hold: RangeInclusive<Duration>,
}

/// Draws a schedule that ends within `length`. Every fault has at least one event if it fits.
#[must_use]
pub fn draw(seed: u64, faults: &[Recurring], length: Duration, may_overlap: bool) -> Vec<Event> {
    let mut events = Vec::new();
    for (place, fault) in faults.iter().enumerate() {
        // Each from a sequence of its own: a fault that is added does not change the others.
        let mut chance = SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(place as u64));
        let mut begin = fault.every.mul_f64(exponential(&mut chance)).min(length / 3);
        while begin < length {
            let hold = within(&mut chance, &fault.hold);
            events.push(Event { fault: place, begin, hold, seed: chance.random() });
            begin += hold + fault.every.mul_f64(exponential(&mut chance));
        }
    }
    events.sort_by_key(|event| (event.begin, event.fault));
    if !may_overlap {
        let mut free_from = Duration::ZERO;
        for event in &mut events {
            event.begin = event.begin.max(free_from);
            free_from = event.begin + event.hold + GAP;
        }
    }
    events.retain(|event| event.begin + event.hold <= length);
    events
}

/// With mean one, and no longer than three.
fn exponential(chance: &mut SmallRng) -> f64 {
    (-(1.0 - chance.random::<f64>()).ln()).min(3.0)
}

fn within(chance: &mut SmallRng, range: &RangeInclusive<Duration>) -> Duration {
    *range.start() + (*range.end() - *range.start()).mul_f64(chance.random())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults() -> Vec<Recurring> {
        let text = r#"{"fault": "kill", "every": "5s", "hold": "1s"}"#;
        let plan = Plan::of(&serde_json::from_str(text).unwrap()).unwrap();
        let hold = Duration::from_secs(1)..=Duration::from_secs(3);
        vec![Recurring { plan, every: Duration::from_secs(5), hold }; 2]
    }

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another() {
        let length = Duration::from_secs(60);
        assert_eq!(draw(7, &faults(), length, true), draw(7, &faults(), length, true));
        assert_ne!(draw(7, &faults(), length, true), draw(8, &faults(), length, true));
    }

    #[test]
    fn faults_end_in_time_and_overlap_only_if_they_may() {
        let length = Duration::from_secs(60);
        for seed in 0..50 {
            let events = draw(seed, &faults(), length, false);
            assert!(events.len() > 2, "seed {seed}");
            assert!(events.iter().all(|event| event.begin + event.hold <= length));
            assert!(events.windows(2).all(|pair| pair[0].begin + pair[0].hold + GAP <= pair[1].begin), "seed {seed}");
        }
        let overlaps = |seed| {
            draw(seed, &faults(), length, true).windows(2).any(|pair| pair[0].begin + pair[0].hold > pair[1].begin)
        };
        assert!((0..50).any(overlaps));
    }
}
