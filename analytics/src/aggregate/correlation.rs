//! Correlation: means and co-moments of several columns, for Pearson's coefficients.
//!
//! **Invariant.** A row counts if all its values are there. A coefficient is between -1 and 1; between columns of which
//! one is constant there is none.

use crate::value::Value;

/// What is known of the rows so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Correlation {
    count: u64,
    means: Vec<f64>,
    /// Of the pairs (row, column) with column ≤ row, row by row.
    moments: Vec<f64>,
}

fn place(one: usize, other: usize) -> usize {
    let (large, small) = (one.max(other), one.min(other));
    large * (large + 1) / 2 + small
}

impl Correlation {
    /// No rows of `columns` columns.
    #[must_use]
    pub fn new(columns: usize) -> Correlation {
        Correlation { count: 0, means: vec![0.0; columns], moments: vec![0.0; columns * (columns + 1) / 2] }
    }

    /// What a pass over rows found: their number, means, and co-moments about those means, pair by pair.
    #[must_use]
    pub fn of_parts(count: u64, means: Vec<f64>, moments: Vec<f64>) -> Correlation {
        assert_eq!(moments.len(), means.len() * (means.len() + 1) / 2, "a co-moment a pair");
        Correlation { count, means, moments }
    }

    /// Takes one row in.
    pub fn add(&mut self, row: &[f64]) {
        self.count += 1;
        let count = self.count as f64;
        let distances: Vec<f64> = row.iter().zip(&self.means).map(|(number, mean)| number - mean).collect();
        self.means.iter_mut().zip(&distances).for_each(|(mean, distance)| *mean += distance / count);
        let scale = (count - 1.0) / count;
        for large in 0..row.len() {
            for small in 0..=large {
                self.moments[place(large, small)] += distances[large] * distances[small] * scale;
            }
        }
    }

    /// Takes in what is known of later rows.
    pub fn merge(&mut self, later: &Correlation) {
        if later.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = later.clone();
            return;
        }
        let (mine, theirs) = (self.count as f64, later.count as f64);
        let all = mine + theirs;
        let distances: Vec<f64> = later.means.iter().zip(&self.means).map(|(one, other)| one - other).collect();
        for large in 0..self.means.len() {
            for small in 0..=large {
                let between = distances[large] * distances[small] * (mine * theirs / all);
                self.moments[place(large, small)] += later.moments[place(large, small)] + between;
            }
        }
        self.means.iter_mut().zip(&distances).for_each(|(mean, distance)| *mean += distance * (theirs / all));
        self.count += later.count;
    }

    /// The coefficient of two columns.
    #[must_use]
    pub fn coefficient(&self, one: usize, other: usize) -> Option<f64> {
        let scale = self.moments[place(one, one)].sqrt() * self.moments[place(other, other)].sqrt();
        let is_defined = self.count > 1 && scale > 0.0 && scale.is_finite();
        is_defined.then(|| (self.moments[place(one, other)] / scale).clamp(-1.0, 1.0))
    }

    /// Every coefficient.
    #[must_use]
    pub fn matrix(&self) -> Value {
        let columns = self.means.len();
        let cell = |row, column| self.coefficient(row, column).map_or(Value::Missing, Value::F64);
        Value::List((0..columns).map(|row| Value::List((0..columns).map(|c| cell(row, c)).collect())).collect())
    }
}
