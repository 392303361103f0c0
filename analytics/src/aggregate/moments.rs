//! Moments: mean and squared distances from it, so that a variance does not drown in a large mean.
//!
//! Values go in by Welford's method, states merge by Chan's.
//!
//! **Invariant.** The relative error of a variance is below 2^-52 times the number of values times the square of mean
//! over standard deviation, as for the textbook two-pass method.

/// Count, mean and sum of squared distances from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// What two passes over some values found.
    #[must_use]
    pub fn of_parts(count: u64, mean: f64, squares: f64) -> Moments {
        Moments { count, mean, squares }
    }

    /// Takes one value in.
    #[inline]
    pub fn add(&mut self, number: f64) {
        self.count += 1;
        let distance = number - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (number - self.mean);
    }

    /// Takes in what is known of later rows.
    pub fn merge(&mut self, later: &Moments) {
        if later.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *later;
            return;
        }
        let (mine, theirs) = (self.count as f64, later.count as f64);
        let distance = later.mean - self.mean;
        let all = mine + theirs;
        self.mean += distance * (theirs / all);
        self.squares += later.squares + distance * distance * (mine * theirs / all);
        self.count += later.count;
    }

    /// The sample variance; `None` of fewer than two values.
    #[must_use]
    pub fn variance(&self) -> Option<f64> {
        (self.count > 1).then(|| self.squares / (self.count - 1) as f64)
    }
}
