//! What a stretch of time was like for clients.

use crate::{history::Kind, workload::Sample};

const SECOND_NS: u64 = 1_000_000_000;

/// Operations that ended within a stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Stretch {
    /// When it began.
    pub from_ns: u64,
    /// When it ended.
    pub until_ns: u64,
    /// How operations went.
    pub samples: Vec<Sample>,
    /// From faults that stopped leaders to the next acknowledged write on one of their shards, ascending. Never again =
    /// infinite.
    pub recoveries_ms: Vec<f64>,
}

impl Stretch {
    /// Picks what ended between two moments.
    #[must_use]
    pub fn of(samples: &[Sample], from_ns: u64, until_ns: u64) -> Self {
        let within = samples.iter().filter(|sample| (from_ns..until_ns).contains(&sample.ended_ns));
        Stretch { from_ns, until_ns, samples: within.copied().collect(), recoveries_ms: Vec::new() }
    }

    /// How many ended in a way.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.samples.iter().filter(|sample| sample.kind == kind).count()
    }

    /// Latency of what was answered, at a percentile.
    #[must_use]
    pub fn latency_ms(&self, percentile: usize, counts: impl Fn(&Sample) -> bool) -> Option<f64> {
        let answered = self.samples.iter().filter(|sample| sample.kind == Kind::Ok && counts(sample));
        let mut latencies: Vec<u64> = answered.map(|sample| sample.ended_ns - sample.invoked_ns).collect();
        latencies.sort_unstable();
        let place = (latencies.len() * percentile).div_ceil(100).saturating_sub(1);
        latencies.get(place).map(|latency_ns| *latency_ns as f64 / 1e6)
    }

    /// Of a hundred operations so many were not answered.
    #[must_use]
    pub fn error_percent(&self) -> Option<f64> {
        self.percent(self.samples.len() - self.count(Kind::Ok))
    }

    /// Of a hundred operations so many are of unknown outcome.
    #[must_use]
    pub fn unknown_percent(&self) -> Option<f64> {
        self.percent(self.count(Kind::Info))
    }

    fn percent(&self, part: usize) -> Option<f64> {
        (!self.samples.is_empty()).then(|| part as f64 * 100.0 / self.samples.len() as f64)
    }

    /// Answered operations a second.
    #[must_use]
    pub fn throughput(&self) -> Option<f64> {
        let seconds = self.until_ns.saturating_sub(self.from_ns) as f64 / 1e9;
        (seconds > 0.0).then(|| self.count(Kind::Ok) as f64 / seconds)
    }

    /// Of a hundred whole seconds so many had an acknowledged write.
    #[must_use]
    pub fn availability_percent(&self) -> Option<f64> {
        let seconds = (self.until_ns.saturating_sub(self.from_ns) / SECOND_NS) as usize;
        let mut had = vec![false; seconds];
        for sample in self.samples.iter().filter(|sample| sample.is_write && sample.kind == Kind::Ok) {
            if let Some(second) = had.get_mut(((sample.ended_ns - self.from_ns) / SECOND_NS) as usize) {
                *second = true;
            }
        }
        (seconds > 0).then(|| had.iter().filter(|had| **had).count() as f64 * 100.0 / seconds as f64)
    }
}

/// Whether anybody writes to one of these shards at all: of a shard that nobody uses no recovery can be seen.
#[must_use]
pub fn has_writes(samples: &[Sample], shards: &[u64]) -> bool {
    let mut written = samples.iter().filter(|sample| sample.is_write && sample.kind == Kind::Ok);
    written.any(|sample| sample.shard.is_some_and(|shard| shards.contains(&shard)))
}

/// From a moment to the next acknowledged write on one of some shards that was asked for after it.
#[must_use]
pub fn recovery_ms(samples: &[Sample], from_ns: u64, shards: &[u64]) -> Option<f64> {
    let next = samples.iter().filter(|sample| {
        let is_there = sample.shard.is_some_and(|shard| shards.contains(&shard));
        sample.is_write && sample.kind == Kind::Ok && is_there && sample.invoked_ns >= from_ns
    });
    next.map(|sample| sample.ended_ns).min().map(|ended_ns| (ended_ns - from_ns) as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(invoked_ms: u64, ended_ms: u64, kind: Kind, is_write: bool) -> Sample {
        Sample { invoked_ns: invoked_ms * 1_000_000, ended_ns: ended_ms * 1_000_000, kind, is_write, shard: Some(1) }
    }

    #[test]
    fn a_stretch_counts_what_ended_in_it() {
        let samples = [
            sample(0, 10, Kind::Ok, true),
            sample(100, 140, Kind::Ok, false),
            sample(100, 1_900, Kind::Info, true),
            sample(2_000, 3_500, Kind::Ok, true),
        ];
        let stretch = Stretch::of(&samples, 0, 3 * SECOND_NS);
        assert_eq!((stretch.count(Kind::Ok), stretch.count(Kind::Info)), (2, 1));
        assert_eq!(stretch.latency_ms(50, |_| true), Some(10.0));
        assert_eq!(stretch.latency_ms(99, |_| true), Some(40.0));
        assert_eq!(stretch.latency_ms(99, |sample| sample.is_write), Some(10.0));
        assert_eq!(stretch.availability_percent().map(f64::round), Some(33.0));
        assert_eq!(stretch.error_percent().map(f64::round), Some(33.0));
        assert_eq!(Stretch::default().error_percent(), None);
    }

    #[test]
    fn a_recovery_is_a_write_asked_for_after_the_fault_on_a_shard_it_hit() {
        let samples =
            [sample(0, 250, Kind::Ok, true), sample(200, 300, Kind::Info, true), sample(210, 900, Kind::Ok, true)];
        assert_eq!(recovery_ms(&samples, 100 * 1_000_000, &[1]), Some(800.0));
        assert_eq!(recovery_ms(&samples, 100 * 1_000_000, &[2]), None);
        assert_eq!(recovery_ms(&samples, 500 * 1_000_000, &[1]), None);
        assert!(has_writes(&samples, &[2, 1]) && !has_writes(&samples, &[2]) && !has_writes(&samples, &[]));
    }
}
