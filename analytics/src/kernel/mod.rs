//! # Kernel: filter and aggregate over columns
//!
//! A seam. [`Scalar`] reads one row after the other and is the specification; every other kernel passes the same suite
//! (`suite`, behind the feature of that name) or is not used.
//!
//! ```text
//!   Selection::all ──filter(a, p)──▶ narrower ──filter(b, q)──▶ narrower ──aggregate(c)──▶ Aggregate
//! ```
//!
//! **Invariant.** A filter only ever narrows. A missing value satisfies no comparison and enters no aggregate. Two
//! aggregates of disjoint rows merge into the aggregate of all of them, in any order.

pub mod scalar;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

pub use scalar::Scalar;

use crate::{column::Column, selection::Selection};

/// What a row must satisfy to stay selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predicate {
    /// The value is there and equal.
    Equal(i64),
    /// The value is there and different.
    NotEqual(i64),
    /// The value is there and within, both ends included; an empty range matches nothing.
    Between(i64, i64),
    /// The value is there.
    Present,
    /// The value is missing.
    Missing,
}

impl Predicate {
    /// Whether a row with this value (`None` = missing) satisfies it.
    #[must_use]
    pub fn holds(self, value: Option<i64>) -> bool {
        match (self, value) {
            (Predicate::Equal(wanted), Some(value)) => value == wanted,
            (Predicate::NotEqual(unwanted), Some(value)) => value != unwanted,
            (Predicate::Between(first, last), Some(value)) => (first..=last).contains(&value),
            (Predicate::Present, value) => value.is_some(),
            (Predicate::Missing, value) => value.is_none(),
            (Predicate::Equal(_) | Predicate::NotEqual(_) | Predicate::Between(..), None) => false,
        }
    }
}

/// What the selected values of one column add up to. Exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aggregate {
    /// How many values.
    pub count: u64,
    /// Their sum: 2^64 values of 64 bits fit.
    pub sum: i128,
    /// The smallest; `None` = no values.
    pub min: Option<i64>,
    /// The largest.
    pub max: Option<i64>,
}

impl Aggregate {
    /// Takes one more value in.
    pub fn add(&mut self, value: i64) {
        self.count += 1;
        self.sum += i128::from(value);
        self.min = Some(self.min.map_or(value, |min| min.min(value)));
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
    }

    /// The aggregate of both sets of rows.
    #[must_use]
    pub fn merge(self, other: Aggregate) -> Aggregate {
        // `None` is the smallest option, which is right for `max` and wrong for `min`.
        let min = match (self.min, other.min) {
            (Some(left), Some(right)) => Some(left.min(right)),
            (one, None) | (None, one) => one,
        };
        let max = self.max.max(other.max);
        Aggregate { count: self.count + other.count, sum: self.sum + other.sum, min, max }
    }
}

/// Arithmetic over columns.
pub trait Kernel: Send + Sync {
    /// Its name, for `explain`.
    fn name(&self) -> &'static str;

    /// Takes out of `selection` every row that does not satisfy `predicate`.
    ///
    /// # Panics
    /// If column and selection speak about different numbers of rows.
    fn filter(&self, column: &Column<'_>, predicate: Predicate, selection: &mut Selection);

    /// Adds up the values of the selected rows that have one.
    ///
    /// # Panics
    /// As [`Kernel::filter`].
    fn aggregate(&self, column: &Column<'_>, selection: &Selection) -> Aggregate;
}
