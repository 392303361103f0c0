//! Scalar: one row after the other, the way one would explain it. The specification of every kernel.
//!
//! **Deliberately absent.** Speed. What makes this faster belongs into another kernel, so that this one stays obvious.

use super::{Aggregate, Kernel, Predicate};
use crate::{column::Column, selection::Selection};

/// The reference kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalar;

impl Kernel for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn filter(&self, column: &Column<'_>, predicate: Predicate, selection: &mut Selection) {
        assert_eq!(column.rows(), selection.rows(), "column and selection have the same rows");
        for row in 0..column.rows() {
            if selection.contains(row) && !predicate.holds(column.get(row)) {
                selection.remove(row);
            }
        }
    }

    fn aggregate(&self, column: &Column<'_>, selection: &Selection) -> Aggregate {
        assert_eq!(column.rows(), selection.rows(), "column and selection have the same rows");
        let mut aggregate = Aggregate::default();
        for value in (0..column.rows()).filter(|row| selection.contains(*row)).filter_map(|row| column.get(row)) {
            aggregate.add(value);
        }
        aggregate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::suite;

    #[test]
    fn the_scalar_kernel_passes_the_suite() {
        suite::check(&Scalar);
    }
}
