//! # Correlate: how series over time move together
//!
//! ```text
//!   store ─▶ Series (a column a symbol, a row a moment) ─▶ returns │ levels ─▶ a matrix a window
//!
//!   a window: each column less its mean, then every pair's products summed; 8 columns by 4 at once, so that each
//!   number read is used for several pairs
//! ```
//!
//! **Invariant.** A coefficient is computed from the rows where both series have a value. It is between -1 and 1, and
//! missing where a series does not move. Sums go to fixed places: the same data give the same bits on any number of
//! threads.

mod blocks;

use crate::{
    chunk::Chunk,
    value::{Kind, Value},
};
use std::sync::Arc;
use thiserror::Error;

/// More series than this make a matrix nobody reads.
pub const SERIES_MAX: usize = 4_096;

/// What is correlated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The values themselves.
    Levels,
    /// The relative change from one row to the next.
    Returns,
}

/// Why there is no matrix.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CorrelateError {
    /// Nothing to correlate.
    #[error("a correlation is between two columns of numbers or more, there are {0}")]
    TooFew(usize),
    /// Too many.
    #[error("{0} columns, more than series_max ({SERIES_MAX})")]
    TooMany(usize),
    /// Not numbers.
    #[error("the column `{0}` is {1}, not numbers")]
    NotNumbers(String, Kind),
    /// A window that does not fit.
    #[error("a window of {window} rows does not fit into {rows}")]
    Window {
        /// Rows asked for.
        window: usize,
        /// Rows there are.
        rows: usize,
    },
}

/// Series of the same length, side by side; NaN = no value.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    columns: Vec<Vec<f64>>,
    rows: usize,
}

/// Coefficients of every pair; NaN = none.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    series: usize,
    coefficients: Vec<f64>,
}

impl Matrix {
    /// A matrix of coefficients, row by row.
    ///
    /// # Panics
    /// If there are not `series` × `series` of them.
    #[must_use]
    pub fn of(series: usize, coefficients: Vec<f64>) -> Matrix {
        assert_eq!(coefficients.len(), series * series, "a coefficient a pair");
        Matrix { series, coefficients }
    }

    /// The coefficient of two series.
    #[must_use]
    pub fn get(&self, one: usize, other: usize) -> Option<f64> {
        let coefficient = self.coefficients[one * self.series + other];
        (!coefficient.is_nan()).then_some(coefficient)
    }

    /// All of them, row by row; NaN = none.
    #[must_use]
    pub fn coefficients(&self) -> &[f64] {
        &self.coefficients
    }
}

impl Series {
    /// Series of the same length.
    ///
    /// # Errors
    /// If there are fewer than two, or too many.
    ///
    /// # Panics
    /// If their lengths differ.
    pub fn new(columns: Vec<Vec<f64>>) -> Result<Series, CorrelateError> {
        if columns.len() < 2 {
            return Err(CorrelateError::TooFew(columns.len()));
        }
        if columns.len() > SERIES_MAX {
            return Err(CorrelateError::TooMany(columns.len()));
        }
        let rows = columns[0].len();
        assert!(columns.iter().all(|column| column.len() == rows), "series of the same length");
        Ok(Series { columns, rows })
    }

    /// Columns of chunks, in the order of the rows.
    ///
    /// # Errors
    /// As [`Series::new`], and if a column holds no numbers.
    pub fn of_chunks(chunks: &[Arc<Chunk>], columns: &[(usize, &str)]) -> Result<Series, CorrelateError> {
        let mut series = vec![Vec::new(); columns.len()];
        for chunk in chunks {
            for ((index, name), series) in columns.iter().zip(&mut series) {
                let column = &chunk.columns()[*index];
                if !matches!(column.kind(), Kind::I64 | Kind::F64) {
                    return Err(CorrelateError::NotNumbers((*name).to_owned(), column.kind()));
                }
                let is_alive = |row: &usize| chunk.deleted().is_none_or(|deleted| !deleted.contains(*row));
                series.extend((0..chunk.rows()).filter(is_alive).map(|row| match column.get(row) {
                    Value::I64(number) => number as f64,
                    Value::F64(number) => number,
                    _ => f64::NAN,
                }));
            }
        }
        Series::new(series)
    }

    /// How many series.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Never: there are two or more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// One series.
    #[must_use]
    pub fn column(&self, index: usize) -> &[f64] {
        &self.columns[index]
    }

    /// What is to be correlated. Returns are one row fewer; one from or to a missing value, or from zero, is missing.
    #[must_use]
    pub fn measured(self, measure: Measure) -> Series {
        match measure {
            Measure::Levels => self,
            Measure::Returns => {
                let change = |pair: &[f64]| if pair[0] == 0.0 { f64::NAN } else { pair[1] / pair[0] - 1.0 };
                let columns = self.columns.iter().map(|column| column.windows(2).map(change).collect()).collect();
                Series { columns, rows: self.rows.saturating_sub(1) }
            }
        }
    }

    /// The matrix of the rows `first .. first + rows`, on so many threads.
    ///
    /// # Panics
    /// If there are no such rows.
    #[must_use]
    pub fn matrix(&self, first: usize, rows: usize, threads: usize) -> Matrix {
        blocks::matrix(self, first, rows, threads)
    }

    /// Where windows of `window` rows begin, `step` apart, the last one at the end of the data.
    ///
    /// # Errors
    /// If none fits.
    pub fn windows(&self, window: usize, step: usize) -> Result<Vec<usize>, CorrelateError> {
        if window < 2 || window > self.rows {
            return Err(CorrelateError::Window { window, rows: self.rows });
        }
        let last = self.rows - window;
        Ok((0..=last).rev().step_by(step.max(1)).collect::<Vec<_>>().into_iter().rev().collect())
    }
}

/// One pair after the other, one row after the other: the specification, and what the fast way is measured against.
#[must_use]
pub fn matrix_by_loop(series: &Series, first: usize, rows: usize) -> Matrix {
    let count = series.len();
    let mut coefficients = vec![f64::NAN; count * count];
    for one in 0..count {
        for other in 0..count {
            let (left, right) =
                (&series.columns[one][first..first + rows], &series.columns[other][first..first + rows]);
            coefficients[one * count + other] = pair(left, right).unwrap_or(f64::NAN);
        }
    }
    Matrix { series: count, coefficients }
}

/// Pearson's coefficient of the rows where both have a value, in two passes.
fn pair(left: &[f64], right: &[f64]) -> Option<f64> {
    let both = || left.iter().zip(right).filter(|(left, right)| !left.is_nan() && !right.is_nan());
    let (mut count, mut sum_left, mut sum_right) = (0.0, 0.0, 0.0);
    for (left, right) in both() {
        count += 1.0;
        sum_left += left;
        sum_right += right;
    }
    let (mean_left, mean_right) = (sum_left / count, sum_right / count);
    let (mut squares_left, mut squares_right, mut products) = (0.0, 0.0, 0.0);
    for (left, right) in both() {
        let (left, right) = (left - mean_left, right - mean_right);
        squares_left += left * left;
        squares_right += right * right;
        products += left * right;
    }
    coefficient(products, squares_left, squares_right)
}

fn coefficient(products: f64, squares_left: f64, squares_right: f64) -> Option<f64> {
    let scale = squares_left.sqrt() * squares_right.sqrt();
    (scale > 0.0 && scale.is_finite()).then(|| (products / scale).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intern::mix;

    fn series(count: usize, rows: usize, gaps: bool) -> Series {
        let number = |column: usize, row: usize| {
            let roll = mix((column * 1_000_003 + row) as u64);
            if gaps && roll.is_multiple_of(13) {
                return f64::NAN;
            }
            (roll % 2_001) as f64 / 10.0 + (row % 17) as f64 * (column % 5) as f64
        };
        Series::new((0..count).map(|column| (0..rows).map(|row| number(column, row)).collect()).collect()).unwrap()
    }

    #[test]
    fn blocks_agree_with_the_plain_loop_on_any_number_of_threads() {
        for (count, rows, gaps) in [(2, 2, false), (5, 64, false), (9, 100, true), (33, 257, false), (70, 31, true)] {
            let series = series(count, rows, gaps);
            let expected = matrix_by_loop(&series, 0, rows);
            let got = series.matrix(0, rows, 1);
            for (got, expected) in got.coefficients().iter().zip(expected.coefficients()) {
                let is_same = (got.is_nan() && expected.is_nan()) || (got - expected).abs() < 1e-12;
                assert!(is_same, "{count} × {rows}: {got} {expected}");
            }
            let on_three = series.matrix(0, rows, 3);
            let bits = |matrix: &Matrix| matrix.coefficients().iter().map(|c| c.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&on_three));
        }
    }

    #[test]
    fn a_series_that_does_not_move_correlates_with_nothing() {
        let series = Series::new(vec![vec![1.0; 10], (0..10).map(f64::from).collect()]).unwrap();
        assert_eq!(series.matrix(0, 10, 1).get(0, 1), None);
        assert_eq!(series.matrix(0, 10, 1).get(1, 1), Some(1.0));
    }

    #[test]
    fn returns_are_changes_and_windows_end_with_the_data() {
        let series = Series::new(vec![vec![1.0, 2.0, 1.0, 0.0, 5.0], vec![1.0; 5]]).unwrap();
        let returns = series.clone().measured(Measure::Returns);
        assert_eq!(returns.rows(), 4);
        assert_eq!(&returns.columns[0][..3], [1.0, -0.5, -1.0]);
        assert!(returns.columns[0][3].is_nan());
        assert_eq!(series.windows(3, 1).unwrap(), [0, 1, 2]);
        assert_eq!(series.windows(2, 2).unwrap(), [1, 3]);
        assert!(series.windows(6, 1).is_err() && series.windows(1, 1).is_err());
        assert!(Series::new(vec![vec![1.0]]).is_err());
    }
}
