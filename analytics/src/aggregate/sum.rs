//! FloatSum: the sum of f64, as two numbers whose sum is more exact than either.
//!
//! Each addition keeps what rounding lost (Knuth's two-sum) in a second number. Infinities and NaN go through the first
//! number alone, so that they come out as IEEE 754 says.
//!
//! **Invariant.** Adding values one by one, the result is within 2^-52 of the exact sum, relative to it, plus 2^-100
//! times the sum of magnitudes for each value. A kernel may hand in sums of up to 65,536 values that it added in plain
//! f64: then 2^-37 of the sum of magnitudes is the bound.

/// A sum and how many values it has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FloatSum {
    count: u64,
    high: f64,
    low: f64,
}

impl FloatSum {
    /// Takes one value in.
    #[inline]
    pub fn add(&mut self, number: f64) {
        self.add_sum(number, 1);
    }

    /// Takes a sum of `count` values in.
    #[inline]
    pub fn add_sum(&mut self, number: f64, count: u64) {
        let sum = self.high + number;
        let part = sum - self.high;
        let lost = (self.high - (sum - part)) + (number - part);
        if lost.is_finite() {
            self.low += lost;
        }
        self.high = sum;
        self.count += count;
    }

    /// Takes the sum of later rows in.
    pub fn merge(&mut self, later: &FloatSum) {
        self.add_sum(later.high, later.count);
        self.low += later.low;
    }

    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    #[must_use]
    pub fn total(&self) -> f64 {
        if self.high.is_finite() { self.high + self.low } else { self.high }
    }
}
