//! Histogram: counts in bins of equal width, and of what lies outside.
//!
//! **Invariant.** A number lies in one bin: `low` is in the first, `high` above the last. NaN is above.

use crate::value::Value;

/// Counts in bins.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    low: f64,
    high: f64,
    counts: Vec<u64>,
}

/// The place of a number among `bins` bins: 0 is below the first, `bins + 1` above the last.
#[must_use]
#[inline]
pub fn bin_of(number: f64, low: f64, high: f64, bins: usize) -> usize {
    if number < low {
        return 0;
    }
    if number < high {
        // Rounding may carry a number just below `high` to it.
        return (((number - low) / (high - low) * bins as f64) as usize).min(bins - 1) + 1;
    }
    bins + 1
}

impl Histogram {
    /// No numbers yet.
    #[must_use]
    pub fn new(low: f64, high: f64, bins: usize) -> Histogram {
        Histogram { low, high, counts: vec![0; bins + 2] }
    }

    /// Takes a number in.
    pub fn add(&mut self, number: f64) {
        let bins = self.counts.len() - 2;
        self.counts[bin_of(number, self.low, self.high, bins)] += 1;
    }

    /// Adds counts another kernel made, from below the first bin to above the last.
    pub fn add_counts(&mut self, counts: &[u64]) {
        self.counts.iter_mut().zip(counts).for_each(|(count, more)| *count += more);
    }

    /// Takes in what another histogram of the same bins has seen.
    pub fn merge(&mut self, other: &Histogram) {
        self.add_counts(&other.counts);
    }

    /// Below the first bin, each bin, above the last.
    #[must_use]
    pub fn finish(&self) -> Value {
        Value::List(self.counts.iter().map(|count| Value::I64(*count as i64)).collect())
    }
}
