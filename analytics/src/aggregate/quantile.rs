//! Quantile: the distribution of numbers, to a relative precision.
//!
//! ```text
//!   cell = sign, exponent and first 9 bits of the fraction of an f64, as an ordered number
//!   …│ 1.000 │ 1.002 │ 1.004 │ … │ 2.000 │ 2.004 │…      512 cells between one power of two and the next
//! ```
//!
//! No logarithm is taken: the cell is cut out of the number's own bits, so that every kernel finds the same one.
//!
//! **Invariant.** An answer is the end of a cell that is nearer to zero: its distance from the true value at that
//! rank is less than 2^-9 (0.2 %) of it. Whole numbers up to 1,024 are their own cell's end and are exact. Sketches
//! merge by adding counts: in any order, without loss.

use std::collections::BTreeMap;

/// Bits of the fraction that are dropped.
const DROPPED_BITS: u32 = 52 - 9;

/// Counts of numbers by cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quantile {
    cells: BTreeMap<i32, u64>,
    count: u64,
}

/// The cell of a number. Cells are ordered as their numbers are; NaN has the last.
#[must_use]
#[inline]
pub fn cell_of(number: f64) -> i32 {
    let number = if number.is_nan() { f64::NAN } else { number + 0.0 };
    let magnitude = ((number.to_bits() & !(1 << 63)) >> DROPPED_BITS) as i32;
    // Negative numbers mirror the positive ones: −1 is below 0, and no cell holds numbers of both signs but zero's own.
    if number.is_sign_negative() && !number.is_nan() { -magnitude } else { magnitude }
}

/// The end of a cell that is nearer to zero.
fn number_of(cell: i32) -> f64 {
    let magnitude = f64::from_bits(u64::from(cell.unsigned_abs()) << DROPPED_BITS);
    if cell < 0 { -magnitude } else { magnitude }
}

impl Quantile {
    /// Takes a number in, `times` times.
    pub fn add(&mut self, number: f64, times: u64) {
        self.add_cell(cell_of(number), times);
    }

    /// Takes numbers of one cell in.
    pub fn add_cell(&mut self, cell: i32, times: u64) {
        *self.cells.entry(cell).or_default() += times;
        self.count += times;
    }

    /// Takes in what another sketch has seen.
    pub fn merge(&mut self, other: &Quantile) {
        other.cells.iter().for_each(|(cell, times)| self.add_cell(*cell, *times));
    }

    /// The number at rank `ceil(rank × count)`, counted from 1; `None` if there is no number.
    #[must_use]
    pub fn at(&self, rank: f64) -> Option<f64> {
        let wanted = ((rank * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (cell, times) in &self.cells {
            seen += times;
            if seen >= wanted {
                return Some(number_of(*cell));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_answer_is_within_its_bound(
            mut numbers in proptest::collection::vec(-1e9..1e9_f64, 1..300),
            rank in 0.0..=1.0_f64,
        ) {
            let mut quantile = Quantile::default();
            numbers.iter().for_each(|number| quantile.add(*number, 1));
            numbers.sort_by(f64::total_cmp);
            let place = ((rank * numbers.len() as f64).ceil() as usize).clamp(1, numbers.len()) - 1;
            let (exact, got) = (numbers[place], quantile.at(rank).unwrap());
            prop_assert!((exact - got).abs() <= exact.abs() / 512.0, "{exact} {got}");
        }

        #[test]
        fn cells_are_ordered_as_their_numbers(left: f64, right: f64) {
            if left <= right {
                prop_assert!(cell_of(left) <= cell_of(right));
            }
        }
    }

    #[test]
    fn small_whole_numbers_are_exact() {
        for number in -1_024..=1_024 {
            let mut quantile = Quantile::default();
            quantile.add(f64::from(number), 3);
            assert_eq!(quantile.at(0.5), Some(f64::from(number)));
        }
        assert_eq!(Quantile::default().at(0.5), None);
        assert_eq!(cell_of(0.0), cell_of(-0.0));
        assert!(cell_of(f64::NAN) > cell_of(f64::INFINITY));
    }
}
