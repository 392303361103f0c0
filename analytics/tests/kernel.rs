//! Properties of the kernel seam over columns nobody chose.

use kvorum_analytics::{Aggregate, Column, Kernel, Predicate, Scalar, Selection, Values};
use proptest::{collection::vec, option, prelude::*};

fn predicates() -> impl Strategy<Value = Predicate> {
    prop_oneof![
        any::<i64>().prop_map(Predicate::Equal),
        any::<i64>().prop_map(Predicate::NotEqual),
        (any::<i64>(), any::<i64>()).prop_map(|(first, last)| Predicate::Between(first, last)),
        (-4_i64..4, -4_i64..4).prop_map(|(first, last)| Predicate::Between(first, last)),
        Just(Predicate::Present),
        Just(Predicate::Missing),
    ]
}

fn rows() -> impl Strategy<Value = Vec<Option<i64>>> {
    prop_oneof![vec(option::of(-4_i64..4), 0..200), vec(option::of(any::<i64>()), 0..200)]
}

fn filtered(rows: &[Option<i64>], predicates: &[Predicate]) -> (Selection, Aggregate) {
    let present = Selection::of(&rows.iter().map(Option::is_some).collect::<Vec<_>>());
    let values: Vec<i64> = rows.iter().map(|row| row.unwrap_or(0)).collect();
    let column = Column::with_gaps(Values::I64(&values), &present);
    let mut selection = Selection::all(rows.len());
    for predicate in predicates {
        Scalar.filter(&column, *predicate, &mut selection);
    }
    let aggregate = Scalar.aggregate(&column, &selection);
    (selection, aggregate)
}

proptest! {
    #[test]
    fn a_filter_keeps_exactly_the_rows_that_hold(rows in rows(), predicate in predicates()) {
        let (selection, aggregate) = filtered(&rows, &[predicate]);
        let mut by_hand = Aggregate::default();
        for (row, value) in rows.iter().enumerate() {
            prop_assert_eq!(selection.contains(row), predicate.holds(*value));
            if let (true, Some(value)) = (selection.contains(row), value) {
                by_hand.add(*value);
            }
        }
        prop_assert_eq!(aggregate, by_hand);
    }

    #[test]
    fn filters_commute_and_narrow(rows in rows(), one in predicates(), other in predicates()) {
        let (both, _) = filtered(&rows, &[one, other]);
        prop_assert_eq!(&both, &filtered(&rows, &[other, one]).0);
        prop_assert!(both.count() <= filtered(&rows, &[one]).0.count());
    }

    #[test]
    fn merging_parts_gives_the_whole(rows in rows(), cut in any::<prop::sample::Index>(), predicate in predicates()) {
        let cut = cut.index(rows.len() + 1);
        let (left, right) = rows.split_at(cut);
        let merged = filtered(left, &[predicate]).1.merge(filtered(right, &[predicate]).1);
        prop_assert_eq!(merged, filtered(&rows, &[predicate]).1);
    }
}
