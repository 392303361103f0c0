//! What a query may say, and what is said about one that may not.

use super::*;
use crate::{chunk::Builder, query::Expr, store::cell_of, value::Value};
use proptest::prelude::*;

fn schema() -> Schema {
    Schema::parse("origin:text,dest:text,month:i64,delay:i64,speed:f64,late:bool,at:timestamp").unwrap()
}

fn parse(aggregates: &str, filter: Option<&str>, groups: Option<&str>) -> Result<Query, QueryError> {
    Query::parse(Text { aggregates, filter, groups }, &schema(), &Limits::default())
}

fn filter_of(filter: &str) -> Expr {
    parse("count()", Some(filter), None).unwrap_or_else(|error| panic!("{filter}: {error}")).filter.unwrap()
}

/// The value of an expression in one row: JFK, BOS, 6, 10, 2.5, true, 2013-07-04T10:00:00Z; `None` = a row of gaps.
fn value_in(filter: &str, is_there: bool) -> Value {
    let row = [
        Value::Text("JFK".into()),
        Value::Text("BOS".into()),
        Value::I64(6),
        Value::I64(10),
        Value::F64(2.5),
        Value::Bool(true),
        Value::Timestamp(crate::timestamp::parse("2013-07-04T10:00:00Z").unwrap()),
    ];
    let mut builder = Builder::new(schema().fields().iter().map(|field| field.kind));
    for (column, value) in row.iter().enumerate() {
        builder.push(column, if is_there { cell_of(value) } else { crate::chunk::Cell::Missing });
    }
    builder.end_row();
    filter_of(filter).value(&builder.seal(0), 0).unwrap()
}

#[test]
fn expressions_mean_what_sql_says() {
    for (filter, expected, of_gaps) in [
        ("origin = 'JFK' and month <= 6", Some(true), None),
        ("'JFK' <> origin", Some(false), None),
        ("origin > dest", Some(true), None),
        ("origin like '_F%' or month = 7", Some(true), None),
        ("origin ilike 'jfk'", Some(true), None),
        ("origin in ('LGA', 'JFK')", Some(true), None),
        ("month in (1, 2, 6)", Some(true), None),
        ("month not in (1, 2)", Some(true), None),
        ("month between 6 and 8", Some(true), None),
        ("not month between 7 and 8", Some(true), None),
        ("delay / 4 = 2.5", Some(true), None),
        ("delay // 4 = 2", Some(true), None),
        ("delay % 0 is null", Some(true), Some(true)),
        ("delay % 4 = 2", Some(true), None),
        ("-delay < -9", Some(true), None),
        ("abs(-delay) = 10", Some(true), None),
        ("speed * 2 = 5", Some(true), None),
        ("cast(speed as bigint) = 3", Some(true), None),
        ("late", Some(true), None),
        ("late = false", Some(false), None),
        ("at >= '2013-07-04'", Some(true), None),
        ("at < timestamp '2013-07-04 10:00:00'", Some(false), None),
        ("hour(at) = 10 and year(at) = 2013 and month(at) = 7 and day(at) = 4", Some(true), None),
        ("extract(month from at) = 7", Some(true), None),
        ("at - at = 0", Some(true), None),
        ("delay is null", Some(false), Some(true)),
        ("delay is not null or month = 1", Some(true), None),
        ("delay = null", None, None),
        ("false and delay = 1", Some(false), Some(false)),
        ("true or delay = 1", Some(true), Some(true)),
    ] {
        let as_value = |flag: Option<bool>| flag.map_or(Value::Missing, Value::Bool);
        assert_eq!(value_in(filter, true), as_value(expected), "{filter}");
        assert_eq!(value_in(filter, false), as_value(of_gaps), "{filter}, of gaps");
    }
}

#[test]
fn aggregates_are_named_and_typed() {
    let text = "count(), count(*), count(distinct dest) as places, sum(delay), avg(speed), quantile(delay, 0.9), \
                median(speed), top_k(dest, 3), histogram(delay, 0, 100, 10), corr(delay, speed), stddev(delay), \
                correlation(delay, speed, month), min(at), max(origin), variance(speed)";
    let query = parse(text, None, Some("origin, month")).unwrap();
    assert_eq!(query.groups, [0, 2]);
    assert_eq!(query.aggregates.len(), 15);
    assert_eq!(query.aggregates[2].name, "places");
    assert_eq!(query.aggregates[3].name, "sum(delay)");
    assert_eq!(query.aggregates[7].function, Function::Top(3));
    assert_eq!(query.columns(), [0, 1, 2, 3, 4, 6]);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (aggregates, filter, groups, expected) in [
        ("sum(delai)", None, None, "aggregates, line 1, column 5: there is no column `delai`; did you mean `delay`?"),
        ("count(", None, None, "aggregates, line 1, column 7: expected"),
        ("count() count()", None, None, "aggregates, line 1, column 14: `(` does not belong here"),
        ("frobnicate(delay)", None, None, "aggregates, line 1, column 1: there is no aggregate `frobnicate`"),
        ("sum(origin)", None, None, "aggregates, line 1, column 5: `sum` takes numbers, `origin` is text"),
        ("sum(delay, month)", None, None, "aggregates, line 1, column 1: `sum` takes 1 argument, not 2"),
        ("quantile(delay, 2)", None, None, "a quantile is a number from 0 to 1"),
        ("histogram(delay, 5, 5, 2)", None, None, "a histogram reaches from a number up to a larger one"),
        ("histogram(delay, 0, 5, 9999999)", None, None, "exceed the limit bins_max (4096)"),
        ("delay", None, None, "`delay` is no aggregate"),
        ("count(distinct delay) filter (where late)", None, None, "no filter, window or order"),
        ("count()", Some("month"), None, "where, line 1, column 1: a filter is true or false, this is i64"),
        ("count()", Some("origin = 5"), None, "`origin` is text and `5` is i64: they do not compare"),
        ("count()", Some("late and\n  month + origin > 5"), None, "where, line 2, column 11: `origin` is text"),
        ("count()", Some("at > 'yesterday'"), None, "where, line 1, column 6: `yesterday` is no timestamp"),
        ("count()", Some("origin = 'JFK"), None, "where, line 1, column 10"),
        ("count()", Some("delay = 99999999999999999999"), None, "is no number of 64 bits"),
        ("count()", None, Some("month + 1"), "group by, line 1, column 1: groups are made by columns"),
        ("count()", None, Some("month, month"), "group by, line 1, column 8: this column is named twice"),
        ("count()", Some(&"(".repeat(500)), None, "the levels of an expression exceed the limit depth_max (50)"),
    ] {
        let error = parse(aggregates, filter, groups).unwrap_err().to_string();
        assert!(
            error.contains(expected),
            "{aggregates} | {filter:?} | {groups:?}\n  says    {error}\n  not     {expected}"
        );
    }
}

#[test]
fn an_overflow_is_an_error_and_names_its_operator() {
    let filter = filter_of("late and delay * 9223372036854775807 > 0");
    let mut builder = Builder::new(schema().fields().iter().map(|field| field.kind));
    for column in 0..schema().len() {
        builder.push(column, if column == 3 { crate::chunk::Cell::Pattern(2) } else { crate::chunk::Cell::Missing });
    }
    builder.end_row();
    let error = filter.value(&builder.seal(0), 0).unwrap_err();
    assert!(error.to_string().starts_with("where, line 1, column 10: a result exceeds 64 bits"), "{error}");
}

proptest! {
    #[test]
    fn fuzz_no_text_makes_it_panic(text in "[a-z0-9_ ().,'<>=*+%/-]{0,60}", any: String) {
        let _ = parse(&text, Some(&any), Some(&text));
        let _ = parse(&any, Some(&text), None);
    }
}
