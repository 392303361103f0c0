//! Probes: what can be measured of a stretch of time, and claims about it.
//!
//! **Invariant.** A probe without anything to measure has no value: its claim is neither kept nor broken.

use super::measure::Stretch;
use crate::real::names;
use anyhow::{Result, bail};
use serde::Deserialize;

/// Something that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Median latency of what was answered, milliseconds.
    P50Ms,
    /// 99th percentile of the same.
    P99Ms,
    /// The same of writes.
    WriteP99Ms,
    /// The same of reads.
    ReadP99Ms,
    /// Of a hundred operations so many were not answered.
    ErrorPercent,
    /// Of a hundred operations so many are of unknown outcome.
    UnknownPercent,
    /// Answered operations a second.
    Throughput,
    /// Of a hundred seconds so many had an acknowledged write.
    AvailabilityPercent,
    /// From a leader's fault to the next acknowledged write on one of its shards, the longest, milliseconds.
    RecoveryMaxMs,
    /// The same, the median.
    RecoveryMedianMs,
}

impl Probe {
    /// All of them.
    pub const ALL: [Probe; 10] = [
        Probe::P50Ms,
        Probe::P99Ms,
        Probe::WriteP99Ms,
        Probe::ReadP99Ms,
        Probe::ErrorPercent,
        Probe::UnknownPercent,
        Probe::Throughput,
        Probe::AvailabilityPercent,
        Probe::RecoveryMaxMs,
        Probe::RecoveryMedianMs,
    ];

    /// Its name in experiments.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Probe::P50Ms => "p50_ms",
            Probe::P99Ms => "p99_ms",
            Probe::WriteP99Ms => "write_p99_ms",
            Probe::ReadP99Ms => "read_p99_ms",
            Probe::ErrorPercent => "error_percent",
            Probe::UnknownPercent => "unknown_percent",
            Probe::Throughput => "throughput",
            Probe::AvailabilityPercent => "availability_percent",
            Probe::RecoveryMaxMs => "recovery_max_ms",
            Probe::RecoveryMedianMs => "recovery_median_ms",
        }
    }

    /// Whether it measures what a fault did.
    #[must_use]
    pub const fn needs_faults(self) -> bool {
        matches!(self, Probe::RecoveryMaxMs | Probe::RecoveryMedianMs)
    }

    /// Measures.
    #[must_use]
    pub fn value(self, stretch: &Stretch) -> Option<f64> {
        match self {
            Probe::P50Ms => stretch.latency_ms(50, |_| true),
            Probe::P99Ms => stretch.latency_ms(99, |_| true),
            Probe::WriteP99Ms => stretch.latency_ms(99, |sample| sample.is_write),
            Probe::ReadP99Ms => stretch.latency_ms(99, |sample| !sample.is_write),
            Probe::ErrorPercent => stretch.error_percent(),
            Probe::UnknownPercent => stretch.unknown_percent(),
            Probe::Throughput => stretch.throughput(),
            Probe::AvailabilityPercent => stretch.availability_percent(),
            Probe::RecoveryMaxMs => stretch.recoveries_ms.last().copied(),
            Probe::RecoveryMedianMs => stretch.recoveries_ms.get(stretch.recoveries_ms.len() / 2).copied(),
        }
    }
}

/// A claim as an experiment writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimWish {
    probe: String,
    below: Option<f64>,
    above: Option<f64>,
}

/// On which side of a number a measurement must be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Below(f64),
    Above(f64),
}

/// Something that is said to hold.
#[derive(Clone, Debug)]
pub struct Claim {
    /// What is measured.
    pub probe: Probe,
    side: Side,
}

/// A claim and what was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The claim, for people.
    pub claim: String,
    /// What was measured, if there was anything.
    pub value: Option<f64>,
    /// Whether the claim was kept; `None` = there was nothing to measure.
    pub is_kept: Option<bool>,
}

impl Claim {
    /// Refuses what cannot be probed.
    pub fn of(wish: &ClaimWish) -> Result<Self> {
        let Some(probe) = Probe::ALL.into_iter().find(|probe| probe.name() == wish.probe) else {
            bail!(names::unknown("probe", &wish.probe, Probe::ALL.iter().map(|probe| probe.name())));
        };
        let side = match (wish.below, wish.above) {
            (Some(below), None) => Side::Below(below),
            (None, Some(above)) => Side::Above(above),
            _ => bail!("{}: say below or above, one of them", wish.probe),
        };
        Ok(Claim { probe, side })
    }

    /// Holds a stretch of time against it.
    #[must_use]
    pub fn measure(&self, stretch: &Stretch) -> Measured {
        let value = self.probe.value(stretch);
        let (claim, is_kept) = match self.side {
            Side::Below(limit) => (format!("{} below {limit}", self.probe.name()), value.map(|value| value < limit)),
            Side::Above(limit) => (format!("{} above {limit}", self.probe.name()), value.map(|value| value > limit)),
        };
        Measured { claim, value, is_kept }
    }
}

impl Measured {
    /// For people: `p99_ms below 100: 41.2`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let value = self.value.map_or("nothing to measure".to_owned(), |value| format!("{value:.1}"));
        format!("{}: {value}", self.claim)
    }
}
