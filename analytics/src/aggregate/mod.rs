//! # Aggregate: what is kept while rows are read, and how it becomes an answer
//!
//! ```text
//!   rows ─▶ State ─┐
//!   rows ─▶ State ─┼─ merge, in the order of the rows ─▶ State ─ finish ─▶ Value
//!   rows ─▶ State ─┘
//! ```
//!
//! **Invariant.** States of disjoint rows merge into the state of all of them. Counts, whole sums, extremes and
//! sketches are the same in whatever order they merge; sums of f64 differ within their bound, which is why everybody
//! merges in the order of the rows: the same query gives the same bits.

mod correlation;
mod distinct;
mod histogram;
mod moments;
mod partial;
mod quantile;
mod sum;

pub use correlation::Correlation;
pub use distinct::Distinct;
pub use histogram::{Histogram, bin_of};
pub use moments::Moments;
pub use partial::{Group, Partial, check_groups, states};
pub use quantile::{Quantile, cell_of as quantile_cell};
pub use sum::FloatSum;

use crate::{
    intern,
    limits::Limits,
    query::{Aggregate, Function, QueryError},
    value::{Kind, Value},
};
use std::collections::BTreeMap;

/// What is known of the rows of one group, for one aggregate.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Rows, or values that are there.
    Count(u64),
    /// A sketch of distinct values.
    Distinct(Distinct),
    /// An exact sum and how many values it has.
    Whole {
        /// How many.
        count: u64,
        /// Their sum: 2^64 values of 64 bits fit.
        sum: i128,
    },
    /// A sum of f64.
    Float(FloatSum),
    /// The smallest or largest value; `Missing` = none yet.
    Extreme {
        /// Whether the largest is wanted.
        is_max: bool,
        /// The best so far.
        best: Value,
    },
    /// Mean and squared distances from it.
    Moments(Moments),
    /// A sketch of the distribution.
    Quantile(Quantile),
    /// How often each value was there.
    Top(BTreeMap<Value, u64>),
    /// Counts in bins.
    Histogram(Histogram),
    /// Means and co-moments.
    Correlation(Correlation),
}

impl State {
    /// What is known of no rows.
    #[must_use]
    pub fn new(aggregate: &Aggregate) -> State {
        match &aggregate.function {
            Function::Count => State::Count(0),
            Function::CountDistinct => State::Distinct(Distinct::default()),
            Function::Sum | Function::Average if aggregate.argument_kind() == Some(Kind::F64) => {
                State::Float(FloatSum::default())
            }
            Function::Sum | Function::Average => State::Whole { count: 0, sum: 0 },
            Function::Min => State::Extreme { is_max: false, best: Value::Missing },
            Function::Max => State::Extreme { is_max: true, best: Value::Missing },
            Function::Variance { .. } => State::Moments(Moments::default()),
            Function::Quantile(_) => State::Quantile(Quantile::default()),
            Function::Top(_) => State::Top(BTreeMap::new()),
            Function::Histogram { low, high, bins } => State::Histogram(Histogram::new(*low, *high, *bins)),
            Function::Correlation { .. } => State::Correlation(Correlation::new(aggregate.arguments.len())),
        }
    }

    /// Takes the values of one more row in; a missing value changes nothing.
    ///
    /// # Errors
    /// If there are more distinct values than a limit allows.
    ///
    /// # Panics
    /// If the values are not of the aggregate's kinds: the query was checked.
    pub fn add(&mut self, values: &[Value], limits: &Limits) -> Result<(), QueryError> {
        if values.iter().any(Value::is_missing) {
            return Ok(());
        }
        match (self, values) {
            (State::Count(count), _) => *count += 1,
            (State::Distinct(distinct), [value]) => distinct.insert(hash(value)),
            (State::Whole { count, sum }, [Value::I64(number)]) => {
                *count += 1;
                *sum += i128::from(*number);
            }
            (State::Float(sum), [Value::F64(number)]) => sum.add(*number),
            (State::Extreme { is_max, best }, [value]) => {
                if best.is_missing() || (*is_max && value > best) || (!*is_max && value < best) {
                    *best = value.clone();
                }
            }
            (State::Moments(moments), [Value::F64(number)]) => moments.add(*number),
            (State::Quantile(quantile), [Value::F64(number)]) => quantile.add(*number, 1),
            (State::Quantile(quantile), [Value::I64(number)]) => quantile.add(*number as f64, 1),
            (State::Top(counts), [value]) => add_top(counts, value.clone(), 1, limits)?,
            (State::Histogram(histogram), [Value::F64(number)]) => histogram.add(*number),
            (State::Correlation(correlation), values) => {
                let number = |value: &Value| if let Value::F64(number) = value { *number } else { f64::NAN };
                correlation.add(&values.iter().map(number).collect::<Vec<_>>());
            }
            (state, values) => panic!("{state:?} takes no {values:?}: the query was checked"),
        }
        Ok(())
    }

    /// Takes in what is known of rows that come later.
    ///
    /// # Errors
    /// As [`State::add`].
    ///
    /// # Panics
    /// If the two belong to different aggregates.
    pub fn merge(&mut self, later: &State, limits: &Limits) -> Result<(), QueryError> {
        match (self, later) {
            (State::Count(count), State::Count(more)) => *count += more,
            (State::Distinct(distinct), State::Distinct(more)) => distinct.merge(more),
            (State::Whole { count, sum }, State::Whole { count: more, sum: other }) => {
                *count += more;
                *sum += other;
            }
            (State::Float(sum), State::Float(more)) => sum.merge(more),
            (State::Extreme { is_max, best }, State::Extreme { best: other, .. }) => {
                let is_better = if *is_max { *other > *best } else { *other < *best };
                if !other.is_missing() && (best.is_missing() || is_better) {
                    *best = other.clone();
                }
            }
            (State::Moments(moments), State::Moments(more)) => moments.merge(more),
            (State::Quantile(quantile), State::Quantile(more)) => quantile.merge(more),
            (State::Top(counts), State::Top(more)) => {
                for (value, count) in more {
                    add_top(counts, value.clone(), *count, limits)?;
                }
            }
            (State::Histogram(histogram), State::Histogram(more)) => histogram.merge(more),
            (State::Correlation(correlation), State::Correlation(more)) => correlation.merge(more),
            (state, later) => panic!("{state:?} does not merge with {later:?}"),
        }
        Ok(())
    }

    /// The answer.
    #[must_use]
    pub fn finish(&self, function: &Function) -> Value {
        match (self, function) {
            (State::Count(count), _) => Value::I64(i64::try_from(*count).unwrap_or(i64::MAX)),
            (State::Distinct(distinct), _) => Value::I64(distinct.estimate().round() as i64),
            (State::Whole { count: 0, .. }, _) => Value::Missing,
            (State::Whole { count, sum }, Function::Average) => Value::F64(*sum as f64 / *count as f64),
            (State::Whole { sum, .. }, _) => i64::try_from(*sum).map_or(Value::Wide(*sum), Value::I64),
            (State::Float(sum), _) if sum.count() == 0 => Value::Missing,
            (State::Float(sum), Function::Average) => Value::F64(sum.total() / sum.count() as f64),
            (State::Float(sum), _) => Value::F64(sum.total()),
            (State::Extreme { best, .. }, _) => best.clone(),
            (State::Moments(moments), Function::Variance { is_root }) => {
                let variance = moments.variance();
                variance.map_or(Value::Missing, |v| Value::F64(if *is_root { v.sqrt() } else { v }))
            }
            (State::Quantile(quantile), Function::Quantile(rank)) => {
                quantile.at(*rank).map_or(Value::Missing, Value::F64)
            }
            (State::Top(counts), Function::Top(most)) => top(counts, *most),
            (State::Histogram(histogram), _) => histogram.finish(),
            (State::Correlation(correlation), Function::Correlation { is_matrix: true }) => correlation.matrix(),
            (State::Correlation(correlation), _) => correlation.coefficient(0, 1).map_or(Value::Missing, Value::F64),
            (state, function) => panic!("{state:?} is no state of {function:?}"),
        }
    }
}

/// The hash of a value, the same for every kernel.
#[must_use]
pub fn hash(value: &Value) -> u64 {
    match value {
        Value::Text(text) => intern::text_hash(text),
        value => value.pattern().map_or(0, intern::mix),
    }
}

/// Counts a value `times` more.
///
/// # Errors
/// If it is one more distinct value than the limit allows.
pub fn add_top(counts: &mut BTreeMap<Value, u64>, value: Value, times: u64, limits: &Limits) -> Result<(), QueryError> {
    *counts.entry(value).or_default() += times;
    if counts.len() > limits.top_values_max {
        let (limit, limit_value) = ("top_values_max", limits.top_values_max);
        return Err(QueryError::Limit { what: "the distinct values of top_k", limit, limit_value });
    }
    Ok(())
}

/// The most frequent first; of equally frequent ones the smaller value.
fn top(counts: &BTreeMap<Value, u64>, most: usize) -> Value {
    let mut ranked: Vec<(&Value, u64)> = counts.iter().map(|(value, count)| (value, *count)).collect();
    ranked.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(right.0)));
    ranked.truncate(most);
    let pair = |(value, count): (&Value, u64)| Value::List(vec![value.clone(), Value::I64(count as i64)]);
    Value::List(ranked.into_iter().map(pair).collect())
}

#[cfg(test)]
mod tests;
