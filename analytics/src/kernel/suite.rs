//! What every kernel must do. A new kernel is finished when [`check`] passes.
//!
//! Expected answers are worked out here from plain lists of optional numbers, not by another kernel, so that the
//! specification is held to something too. Random columns come from a fixed seed: a failure is the same every time, and
//! names its case.

use super::{Aggregate, Kernel, Predicate};
use crate::{
    column::{Column, Values},
    selection::Selection,
};

/// Row counts around every width a kernel might work in: words, vectors, warps, blocks.
const ROWS: [usize; 14] = [0, 1, 2, 7, 31, 32, 33, 63, 64, 65, 255, 1_024, 1_025, 4_099];

/// Runs every case.
pub fn check(kernel: &dyn Kernel) {
    a_filter_keeps_what_matches(kernel);
    filters_only_narrow(kernel);
    missing_values_match_no_comparison_and_enter_no_sum(kernel);
    an_empty_selection_adds_up_to_nothing(kernel);
    extremes_are_exact(kernel);
    parts_merge_into_the_whole(kernel);
    random_columns_agree_with_a_plain_reading(kernel);
}

/// What `filter` and then `aggregate` must give for plain rows: the kept rows, and what they add up to.
#[must_use]
pub fn expected(rows: &[Option<i64>], predicate: Predicate) -> (Vec<bool>, Aggregate) {
    let matches = |row: &Option<i64>| match (predicate, row) {
        (Predicate::Present, row) => row.is_some(),
        (Predicate::Missing, row) => row.is_none(),
        (_, None) => false,
        (Predicate::Equal(wanted), Some(value)) => value == &wanted,
        (Predicate::NotEqual(unwanted), Some(value)) => value != &unwanted,
        (Predicate::Between(first, last), Some(value)) => &first <= value && value <= &last,
    };
    let kept: Vec<bool> = rows.iter().map(matches).collect();
    let values: Vec<i64> = rows.iter().zip(&kept).filter(|(_, kept)| **kept).filter_map(|(row, _)| *row).collect();
    let aggregate = Aggregate {
        count: values.len() as u64,
        sum: values.iter().map(|value| i128::from(*value)).sum(),
        min: values.iter().copied().min(),
        max: values.iter().copied().max(),
    };
    (kept, aggregate)
}

/// Filters and aggregates `rows` with a kernel, as 64-bit values and, where they fit, as 32-bit ones.
///
/// # Panics
/// If the kernel disagrees with [`expected`].
pub fn check_rows(kernel: &dyn Kernel, rows: &[Option<i64>], predicate: Predicate) {
    let present = Selection::of(&rows.iter().map(Option::is_some).collect::<Vec<_>>());
    // A missing value has some number standing in its place: it must not matter which.
    let wide: Vec<i64> = rows.iter().map(|row| row.unwrap_or(i64::MIN)).collect();
    check_column(kernel, rows, predicate, &Column::with_gaps(Values::I64(&wide), &present));
    let narrow: Option<Vec<i32>> =
        rows.iter().map(|row| i32::try_from(row.unwrap_or(i64::from(i32::MAX))).ok()).collect();
    if let Some(narrow) = narrow {
        check_column(kernel, rows, predicate, &Column::with_gaps(Values::I32(&narrow), &present));
    }
    if rows.iter().all(Option::is_some) {
        check_column(kernel, rows, predicate, &Column::new(Values::I64(&wide)));
    }
}

fn check_column(kernel: &dyn Kernel, rows: &[Option<i64>], predicate: Predicate, column: &Column<'_>) {
    let (kept, aggregate) = expected(rows, predicate);
    let mut selection = Selection::all(rows.len());
    kernel.filter(column, predicate, &mut selection);
    let case = format!("{} over {} rows, {predicate:?}", kernel.name(), rows.len());
    assert_eq!(selection, Selection::of(&kept), "{case}: other rows were kept");
    assert_eq!(kernel.aggregate(column, &selection), aggregate, "{case}: they add up to something else");
}

fn a_filter_keeps_what_matches(kernel: &dyn Kernel) {
    let rows: Vec<Option<i64>> = (-3..=3).map(Some).collect();
    for predicate in [
        Predicate::Equal(2),
        Predicate::Equal(9),
        Predicate::NotEqual(0),
        Predicate::Between(-1, 2),
        Predicate::Between(2, -1),
        Predicate::Present,
        Predicate::Missing,
    ] {
        check_rows(kernel, &rows, predicate);
    }
}

fn filters_only_narrow(kernel: &dyn Kernel) {
    let values: Vec<i64> = (0..200).collect();
    let column = Column::new(Values::I64(&values));
    let mut selection = Selection::all(200);
    kernel.filter(&column, Predicate::Between(50, 149), &mut selection);
    kernel.filter(&column, Predicate::Between(100, 300), &mut selection);
    assert_eq!(selection.count(), 50);
    // Everything matches, and nothing comes back.
    kernel.filter(&column, Predicate::Present, &mut selection);
    assert_eq!(selection.count(), 50);
    let aggregate = kernel.aggregate(&column, &selection);
    assert_eq!((aggregate.min, aggregate.max, aggregate.sum), (Some(100), Some(149), 6_225));
}

fn missing_values_match_no_comparison_and_enter_no_sum(kernel: &dyn Kernel) {
    let rows = [Some(1), None, Some(3), None];
    for predicate in [Predicate::NotEqual(1), Predicate::Between(i64::MIN, i64::MAX), Predicate::Missing] {
        check_rows(kernel, &rows, predicate);
    }
    let nothing = [None; 70];
    check_rows(kernel, &nothing, Predicate::Missing);
    check_rows(kernel, &nothing, Predicate::Present);
}

fn an_empty_selection_adds_up_to_nothing(kernel: &dyn Kernel) {
    let values = [1_i32; 100];
    let column = Column::new(Values::I32(&values));
    assert_eq!(kernel.aggregate(&column, &Selection::none(100)), Aggregate::default());
    assert_eq!(kernel.aggregate(&Column::new(Values::I64(&[])), &Selection::all(0)), Aggregate::default());
}

fn extremes_are_exact(kernel: &dyn Kernel) {
    check_rows(kernel, &[Some(i64::MAX); 1_000], Predicate::Equal(i64::MAX));
    check_rows(kernel, &[Some(i64::MIN); 1_000], Predicate::Present);
    check_rows(kernel, &[Some(i64::from(i32::MAX)), Some(i64::from(i32::MIN))], Predicate::Present);
    // In floating point the one would be lost beside the large numbers.
    check_rows(kernel, &[Some(i64::MAX), Some(1), Some(-i64::MAX)], Predicate::Present);
    // Constants beyond the column's width are compared, not truncated.
    check_rows(kernel, &[Some(0), Some(-1)], Predicate::Equal(1 << 32));
    check_rows(kernel, &[Some(0), Some(-1)], Predicate::Between(-(1 << 40), 1 << 40));
}

fn parts_merge_into_the_whole(kernel: &dyn Kernel) {
    let values: Vec<i64> = (0..1_000).map(|row: i64| (row * 7_919) % 1_009 - 500).collect();
    let sum_of = |values: &[i64]| kernel.aggregate(&Column::new(Values::I64(values)), &Selection::all(values.len()));
    let whole = sum_of(&values);
    for cut in [0, 1, 64, 500, 999, 1_000] {
        let (left, right) = values.split_at(cut);
        assert_eq!(sum_of(left).merge(sum_of(right)), whole, "{}: cut at {cut}", kernel.name());
        assert_eq!(sum_of(right).merge(sum_of(left)), whole, "{}: cut at {cut}, the other way", kernel.name());
    }
}

fn random_columns_agree_with_a_plain_reading(kernel: &dyn Kernel) {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    for rows in ROWS {
        for spread in [3, 1_000, u64::MAX] {
            let rows: Vec<Option<i64>> = (0..rows).map(|_| dice.value(spread)).collect();
            let (one, other) = (dice.value(spread).unwrap_or(0), dice.value(spread).unwrap_or(0));
            check_rows(kernel, &rows, Predicate::Equal(one));
            check_rows(kernel, &rows, Predicate::NotEqual(one));
            check_rows(kernel, &rows, Predicate::Between(one.min(other), one.max(other)));
        }
    }
}

/// Numbers that look random and are the same every time (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// One row: in eight cases a missing value once, else a number around zero, `spread` apart at most.
    fn value(&mut self, spread: u64) -> Option<i64> {
        let roll = self.roll();
        (!roll.is_multiple_of(8)).then(|| {
            let number = self.roll();
            if spread == u64::MAX {
                number.cast_signed()
            } else {
                (number % spread).cast_signed() - (spread / 2).cast_signed()
            }
        })
    }
}
