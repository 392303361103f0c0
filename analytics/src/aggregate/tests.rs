//! What states promise: parts merge into the whole, sums are exact or within their bound, answers are those of a plain
//! reading.

use super::*;
use crate::query::{Expr, Text};
use crate::{query::Query, schema::Schema};
use proptest::prelude::*;

fn aggregates() -> Vec<Aggregate> {
    let schema = Schema::parse("n:i64,x:f64,y:f64,t:text").unwrap();
    let aggregates = "count(n), count(distinct n), sum(n), avg(n), sum(x), avg(x), min(n), max(x), variance(x), \
                      stddev(x), quantile(x, 0.25), median(n), top_k(n, 3), histogram(x, -10, 10, 4), corr(x, y), \
                      correlation(x, y, x)";
    Query::parse(Text { aggregates, filter: None, groups: None }, &schema, &Limits::default()).unwrap().aggregates
}

/// The arguments of an aggregate in a row of (n, x, y).
fn arguments(aggregate: &Aggregate, row: &(Option<i64>, f64, f64)) -> Vec<Value> {
    let value = |expr: &Expr| match expr {
        Expr::Column { index: 0, .. } => row.0.map_or(Value::Missing, Value::I64),
        Expr::Column { index: 1, .. } => Value::F64(row.1),
        _ => Value::F64(row.2),
    };
    aggregate.arguments.iter().map(value).collect()
}

fn state(aggregate: &Aggregate, rows: &[(Option<i64>, f64, f64)]) -> State {
    let mut state = State::new(aggregate);
    rows.iter().for_each(|row| state.add(&arguments(aggregate, row), &Limits::default()).unwrap());
    state
}

fn is_near(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::F64(left), Value::F64(right)) => {
            left == right || (left - right).abs() <= 1e-9 * left.abs().max(right.abs()).max(1.0)
        }
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_near(left, right))
        }
        _ => left == right,
    }
}

fn rows() -> impl Strategy<Value = Vec<(Option<i64>, f64, f64)>> {
    proptest::collection::vec((proptest::option::of(-20_i64..20), -50.0..50.0_f64, -50.0..50.0_f64), 0..120)
}

proptest! {
    #[test]
    fn parts_merge_into_the_whole(rows in rows(), one: prop::sample::Index, other: prop::sample::Index) {
        let (a, b) = (one.index(rows.len() + 1), other.index(rows.len() + 1));
        let (first, last) = (a.min(b), a.max(b));
        for aggregate in aggregates() {
            let limits = Limits::default();
            let parts = [&rows[..first], &rows[first..last], &rows[last..]].map(|part| state(&aggregate, part));
            let mut from_left = parts[0].clone();
            from_left.merge(&parts[1], &limits).unwrap();
            from_left.merge(&parts[2], &limits).unwrap();
            let mut tail = parts[1].clone();
            tail.merge(&parts[2], &limits).unwrap();
            let mut from_right = parts[0].clone();
            from_right.merge(&tail, &limits).unwrap();
            let whole = state(&aggregate, &rows).finish(&aggregate.function);
            prop_assert!(is_near(&from_left.finish(&aggregate.function), &whole), "{}", aggregate.name);
            prop_assert!(is_near(&from_right.finish(&aggregate.function), &whole), "{}", aggregate.name);
        }
    }

    #[test]
    fn answers_are_those_of_a_plain_reading(rows in rows()) {
        let answer = |name: &str| {
            let aggregate = aggregates().into_iter().find(|aggregate| aggregate.name == name).unwrap();
            state(&aggregate, &rows).finish(&aggregate.function)
        };
        let whole: Vec<i64> = rows.iter().filter_map(|row| row.0).collect();
        let floats: Vec<f64> = rows.iter().map(|row| row.1).collect();
        prop_assert_eq!(answer("count(n)"), Value::I64(whole.len() as i64));
        let sum: i64 = whole.iter().sum();
        prop_assert_eq!(answer("sum(n)"), if whole.is_empty() { Value::Missing } else { Value::I64(sum) });
        prop_assert_eq!(answer("min(n)"), whole.iter().min().map_or(Value::Missing, |n| Value::I64(*n)));
        let distinct: std::collections::BTreeSet<i64> = whole.iter().copied().collect();
        prop_assert_eq!(answer("count(DISTINCT n)"), Value::I64(distinct.len() as i64));
        if floats.len() > 1 {
            let mean = floats.iter().sum::<f64>() / floats.len() as f64;
            let squares: f64 = floats.iter().map(|x| (x - mean) * (x - mean)).sum();
            let variance = Value::F64(squares / (floats.len() - 1) as f64);
            prop_assert!(is_near(&answer("variance(x)"), &variance));
        }
    }
}

#[test]
fn whole_sums_never_wrap() {
    let aggregate = aggregates().into_iter().find(|aggregate| aggregate.name == "sum(n)").unwrap();
    let total = state(&aggregate, &[(Some(i64::MAX), 0.0, 0.0); 3]).finish(&aggregate.function);
    assert_eq!(total, Value::Wide(3 * i128::from(i64::MAX)));
}

#[test]
fn a_sum_of_floats_keeps_what_plain_addition_loses() {
    let mut sum = FloatSum::default();
    sum.add(1e16);
    (0..10).for_each(|_| sum.add(1.0));
    sum.add(-1e16);
    assert_eq!(sum.total(), 10.0);
    sum.add(f64::INFINITY);
    assert_eq!(sum.total(), f64::INFINITY);
    sum.add(f64::NEG_INFINITY);
    assert!(sum.total().is_nan());
}

#[test]
fn distinct_values_past_the_limit_are_refused_by_name() {
    let aggregate = aggregates().into_iter().find(|aggregate| aggregate.name.starts_with("top_k")).unwrap();
    let limits = Limits { top_values_max: 2, ..Limits::default() };
    let mut state = State::new(&aggregate);
    state.add(&[Value::I64(1)], &limits).unwrap();
    state.add(&[Value::I64(2)], &limits).unwrap();
    let error = state.add(&[Value::I64(3)], &limits).unwrap_err().to_string();
    assert_eq!(error, "the distinct values of top_k exceed the limit top_values_max (2)");
}
