//! What every kernel must do. A new kernel is finished when [`check`] passes.
//!
//! Expected answers are worked out here from plain lists of values where that is easy to see, and by [`Scalar`] for
//! everything else. Random columns come from a fixed seed: a failure is the same every time, and names its query.
//! Missing values have the most harmful numbers standing in their place: whoever reads them is found out.

use super::{Kernel, Scalar, ScanError};
use crate::{
    aggregate::Partial,
    chunk::{Builder, Cell, Chunk},
    intern::mix,
    limits::Limits,
    query::{Query, QueryError, Text},
    schema::Schema,
    value::Value,
};
use std::sync::Arc;

const SCHEMA: &str = "id:i64,byte:i64,half:i64,wide:i64,sorted:i64,far:i64,x:f64,y:f64,few:f64,flag:bool,at:timestamp,\
                      name:text,place:text";

const AGGREGATES: [&str; 4] = [
    "count(), count(byte), sum(byte), sum(wide), min(wide), max(half), avg(byte), avg(x), sum(x), min(x), max(x)",
    "sum(byte + half), min(abs(byte)), max(x * 2 + y), sum(few), count(name), min(at), max(at), min(flag), avg(sorted)",
    "count(distinct half), count(distinct name), quantile(x, 0.9), median(byte), variance(y), stddev(half), min(name)",
    "top_k(place, 3), top_k(few, 2), histogram(x, -10, 10, 5), corr(x, y), correlation(x, y, few), sum(far), max(far)",
];

const FILTERS: [Option<&str>; 16] = [
    None,
    Some("byte < 40"),
    Some("byte >= 200 and x > 0"),
    Some("half between 1000 and 30000 or name = 'JFK'"),
    Some("not (byte = 7) and place like '%a%'"),
    Some("wide < 0"),
    Some("x is null or y is not null"),
    Some("sorted = 1"),
    Some("flag and few <> 0.5"),
    Some("byte % 3 = 1 and half // 7 > 100"),
    Some("at >= '2013-06-01' and hour(at) < 12"),
    Some("name < place"),
    Some("name in ('LGA', 'EWR') and far > 0"),
    Some("x / byte > 1"),
    Some("byte > 1000"),
    Some("byte < 3 and byte > 4"),
];

const GROUPS: [Option<&str>; 7] =
    [None, Some("name"), Some("byte"), Some("name, flag, place"), Some("few"), Some("wide, name"), Some("sorted, at")];

/// Chunks of random rows: every layout, gaps, deleted rows, a chunk that is not full.
#[must_use]
pub fn chunks(seed: u64, sizes: &[usize]) -> (Schema, Vec<Arc<Chunk>>) {
    let schema = Schema::parse(SCHEMA).expect("it is one");
    let mut state = seed;
    let mut roll = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(state)
    };
    let mut chunks = Vec::new();
    for (id, rows) in (0_u64..).zip(sizes) {
        let mut builder = Builder::new(schema.fields().iter().map(|field| field.kind));
        for row in 0..*rows {
            push_row(&mut builder, row, &mut roll);
        }
        let mut chunk = builder.seal(id);
        for _ in 0..rows / 50 {
            chunk = chunk.without(roll() as usize % rows).unwrap_or(chunk);
        }
        chunks.push(Arc::new(chunk));
    }
    (schema, chunks)
}

fn push_row(builder: &mut Builder, row: usize, roll: &mut impl FnMut() -> u64) {
    let number = |number: f64| Cell::Pattern(Value::canonical(number).to_bits());
    let names = ["JFK", "LGA", "EWR", "", "grüß"];
    let special = [f64::INFINITY, f64::NEG_INFINITY, -0.0];
    let gap = |roll: u64, cell| if roll.is_multiple_of(11) { Cell::Missing } else { cell };
    let (a, b, c, d) = (roll(), roll(), roll(), roll());
    let x = if a.is_multiple_of(997) && row > 100 { special[b as usize % 3] } else { (b % 2_001) as f64 / 50.0 - 20.0 };
    let place = format!("place {}", c % 97);
    let cells = [
        Cell::Pattern(row as u64),
        gap(b >> 8, Cell::Pattern(a % 251)),
        Cell::Pattern(b % 60_000),
        gap(c >> 8, Cell::Pattern(d)),
        Cell::Pattern((row / 700) as u64),
        Cell::Pattern((c % 5).wrapping_mul(3_000_000_000).wrapping_sub(6_000_000_000)),
        gap(d >> 8, number(x)),
        number((d % 10_007) as f64 / 7.0),
        gap(a >> 9, number((a % 4) as f64 / 2.0)),
        gap(a >> 16, Cell::Pattern(a >> 40 & 1)),
        Cell::Pattern(1_356_998_400_000_000 + a % 365 * 86_400_000_000 + b % 24 * 3_600_000_000),
        gap(b >> 24, Cell::Text(names[a as usize % 5])),
        gap(c >> 24, Cell::Text(&place)),
    ];
    for (column, cell) in cells.into_iter().enumerate() {
        builder.push(column, cell);
    }
    builder.end_row();
}

/// Runs every case.
///
/// # Panics
/// If the kernel disagrees.
pub fn check(kernel: &dyn Kernel) {
    a_plain_reading_agrees(kernel);
    no_rows_add_up_to_nothing(kernel);
    extremes_are_exact(kernel);
    overflows_and_limits_are_errors(kernel);
    common_questions_over_whole_columns(kernel);
    for (seed, sizes) in [(1, &[2_100_usize, 1, 63, 64, 65, 2_049][..]), (2, &[300, 700]), (3, &[7])] {
        let (schema, chunks) = chunks(seed, sizes);
        for (which, filter) in FILTERS.into_iter().enumerate() {
            for (other, groups) in GROUPS.into_iter().enumerate() {
                // Every filter meets every grouping; the aggregates take turns.
                let aggregates = AGGREGATES[(which + other) % 4];
                agrees_with_scalar(kernel, &schema, &chunks, Text { aggregates, filter, groups });
            }
        }
    }
}

/// For kernels that are compiled for each query: fewer queries, and each must be answered, not handed on.
///
/// # Panics
/// If the kernel disagrees, or answers none of its queries.
pub fn check_shapes(kernel: &dyn Kernel) {
    a_plain_reading_agrees(kernel);
    no_rows_add_up_to_nothing(kernel);
    extremes_are_exact(kernel);
    overflows_and_limits_are_errors(kernel);
    let (schema, chunks) = chunks(7, &[2_100, 65, 9_000]);
    let shapes = [
        "count(), count(byte), sum(byte), sum(wide), min(wide), max(half), avg(byte), sum(y), avg(few), min(x), max(x)",
        "sum(byte + half), sum(byte * sorted), min(abs(byte)), max(x * 2 + y), min(at), max(flag), sum(far), avg(sorted)",
        "histogram(y, 0, 1000, 7), count(flag), min(half // 3), max(half % 7)",
    ];
    let mut answered = 0;
    for (which, filter) in FILTERS.into_iter().enumerate() {
        let text = Text { aggregates: shapes[which % 3], filter, groups: GROUPS[which % 4] };
        let query = parse(text, &schema);
        answered += usize::from(answer(kernel, &query, &chunks).is_some());
        agrees_with_scalar(kernel, &schema, &chunks, text);
    }
    assert!(answered * 10 >= FILTERS.len() * 8, "{} answered {answered} of {}", kernel.name(), FILTERS.len());
}

/// What kernels have short ways for: columns without gaps, nothing deleted.
fn common_questions_over_whole_columns(kernel: &dyn Kernel) {
    let (schema, chunks) = chunks(8, &[700, 49, 33]);
    // So few rows that none was deleted from the last ones; the first chunk takes the long way.
    for (filter, groups) in [
        (Some("half < 30000"), None),
        (Some("id >= 20"), None),
        (Some("sorted = 0"), None),
        (Some("half <> 5"), None),
        (Some("half < -5"), None),
        (Some("id <= 1000000"), None),
        (None, Some("id")),
        (None, Some("half")),
        (None, Some("sorted")),
        (Some("half > 10"), Some("id")),
    ] {
        for aggregates in ["sum(y)", "avg(y)", "sum(x)", "sum(y), count()"] {
            agrees_with_scalar(kernel, &schema, &chunks, Text { aggregates, filter, groups });
        }
    }
}

fn parse(text: Text<'_>, schema: &Schema) -> Query {
    Query::parse(text, schema, &Limits::default()).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// A kernel's answer. A kernel that is not able to answer a shape is left out: another one is asked then.
fn answer(kernel: &dyn Kernel, query: &Query, chunks: &[Arc<Chunk>]) -> Option<Result<Partial, QueryError>> {
    match kernel.scan(query, chunks, &Limits::default()) {
        Ok((partial, _)) => Some(Ok(partial)),
        Err(ScanError::Query(error)) => Some(Err(error)),
        Err(ScanError::Unable(_)) => None,
    }
}

fn agrees_with_scalar(kernel: &dyn Kernel, schema: &Schema, chunks: &[Arc<Chunk>], text: Text<'_>) {
    let query = parse(text, schema);
    let expected = answer(&Scalar, &query, chunks).expect("the scalar kernel answers everything").expect("no overflow");
    let Some(got) = answer(kernel, &query, chunks) else { return };
    let got = got.unwrap_or_else(|error| panic!("{} on {text:?}: {error}", kernel.name()));
    let case = format!("{} on {text:?}", kernel.name());
    assert_eq!(keys(&got), keys(&expected), "{case}: other groups");
    for (mine, theirs) in got.groups().iter().zip(expected.groups()) {
        for (place, aggregate) in query.aggregates.iter().enumerate() {
            let value = mine.states[place].finish(&aggregate.function);
            let wanted = theirs.states[place].finish(&aggregate.function);
            assert!(
                is_near(&value, &wanted),
                "{case}: {} of {:?}: {value:?}, not {wanted:?}",
                aggregate.name,
                mine.key
            );
        }
    }
}

fn keys(partial: &Partial) -> Vec<&Vec<Value>> {
    partial.groups().iter().map(|group| &group.key).collect()
}

/// Equal, f64 to nine digits of what they were summed from here.
fn is_near(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::F64(left), Value::F64(right)) => {
            let is_same = left == right || (left.is_nan() && right.is_nan());
            is_same || (left - right).abs() <= 1e-9 * left.abs().max(right.abs()).max(1.0)
        }
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_near(left, right))
        }
        _ => left == right,
    }
}

/// Two kernels that must give the same bits: the same one again, or on more threads.
///
/// # Panics
/// If a bit differs.
pub fn check_repeats(one: &dyn Kernel, other: &dyn Kernel) {
    let (schema, chunks) = chunks(4, &[3_000, 3_001, 3_002, 100]);
    for (aggregates, groups) in [(AGGREGATES[0], None), (AGGREGATES[1], Some("name")), (AGGREGATES[3], Some("wide"))] {
        let query = parse(Text { aggregates, filter: Some("byte < 200"), groups }, &schema);
        let bits = |kernel: &dyn Kernel| {
            answer(kernel, &query, &chunks).map(|partial| format!("{:?}", partial.expect("no overflow")))
        };
        assert_eq!(bits(one), bits(other), "{aggregates} by {groups:?}");
    }
}

fn a_plain_reading_agrees(kernel: &dyn Kernel) {
    let (schema, chunks) = chunks(5, &[777, 2_500]);
    let mut rows: Vec<(Value, Value)> = Vec::new();
    for chunk in &chunks {
        let is_alive = |row: &usize| chunk.deleted().is_none_or(|deleted| !deleted.contains(*row));
        rows.extend(
            (0..chunk.rows()).filter(is_alive).map(|row| (chunk.columns()[1].get(row), chunk.columns()[3].get(row))),
        );
    }
    let passing: Vec<i128> = rows
        .iter()
        .filter(|(byte, _)| matches!(byte, Value::I64(number) if *number < 40))
        .filter_map(|(_, wide)| if let Value::I64(number) = wide { Some(i128::from(*number)) } else { None })
        .collect();
    let aggregates = "sum(wide), count(wide), min(wide), max(wide)";
    let query = parse(Text { aggregates, filter: Some("byte < 40"), groups: None }, &schema);
    let Some(got) = answer(kernel, &query, &chunks) else { return };
    let got = got.expect("nothing overflows");
    let value = |place: usize| got.groups()[0].states[place].finish(&query.aggregates[place].function);
    assert_eq!(value(0), Value::Wide(passing.iter().sum()), "{}", kernel.name());
    assert_eq!(value(1), Value::I64(passing.len() as i64), "{}", kernel.name());
    let end = |number: Option<&i128>| Value::I64(i64::try_from(*number.expect("some pass")).expect("it was one"));
    assert_eq!((value(2), value(3)), (end(passing.iter().min()), end(passing.iter().max())), "{}", kernel.name());
}

fn no_rows_add_up_to_nothing(kernel: &dyn Kernel) {
    let (schema, chunks) = chunks(6, &[10]);
    for chunks in [&[][..], &chunks[..]] {
        let text = Text { aggregates: "count(), sum(byte), min(x)", filter: Some("byte > 1000"), groups: None };
        let query = parse(text, &schema);
        let Some(got) = answer(kernel, &query, chunks) else { return };
        let got = got.expect("nothing overflows");
        let values: Vec<Value> =
            got.groups()[0].states.iter().zip(&query.aggregates).map(|(s, a)| s.finish(&a.function)).collect();
        assert_eq!(values, [Value::I64(0), Value::Missing, Value::Missing], "{}", kernel.name());
        let text = Text { groups: Some("name"), ..text };
        let Some(got) = answer(kernel, &parse(text, &schema), chunks) else { return };
        assert_eq!(got.expect("nothing overflows").groups().len(), 0, "{}", kernel.name());
    }
}

/// A chunk of one column of whole numbers.
fn column(numbers: &[i64]) -> (Schema, Vec<Arc<Chunk>>) {
    let schema = Schema::parse("n:i64").expect("it is one");
    let mut builder = Builder::new([crate::value::Kind::I64]);
    for number in numbers {
        builder.push(0, Cell::Pattern(number.cast_unsigned()));
        builder.end_row();
    }
    (schema, vec![Arc::new(builder.seal(0))])
}

fn extremes_are_exact(kernel: &dyn Kernel) {
    for numbers in [vec![i64::MAX; 1_000], vec![i64::MIN; 1_000], vec![i64::MAX, 1, -i64::MAX], vec![-1, i64::MIN]] {
        let (schema, chunks) = column(&numbers);
        let text = Text { aggregates: "sum(n), min(n), max(n)", filter: Some("n is not null"), groups: None };
        let query = parse(text, &schema);
        let Some(got) = answer(kernel, &query, &chunks) else { continue };
        let got = got.expect("sums do not overflow");
        let value = |place: usize| got.groups()[0].states[place].finish(&query.aggregates[place].function);
        let sum: i128 = numbers.iter().map(|number| i128::from(*number)).sum();
        assert_eq!(value(0), Value::Wide(sum), "{}: {numbers:?}", kernel.name());
        assert_eq!(value(1), Value::I64(*numbers.iter().min().expect("some")), "{}", kernel.name());
        assert_eq!(value(2), Value::I64(*numbers.iter().max().expect("some")), "{}", kernel.name());
    }
}

fn overflows_and_limits_are_errors(kernel: &dyn Kernel) {
    let (schema, chunks) = column(&[1, 2, i64::MAX]);
    let ask = |aggregates, filter, groups| {
        kernel.scan(
            &parse(Text { aggregates, filter, groups }, &schema),
            &chunks,
            &Limits { groups_max: 2, ..Limits::default() },
        )
    };
    let overflow = ask("sum(n + 1)", None, None);
    assert!(
        matches!(&overflow, Err(ScanError::Query(QueryError::Overflow { place })) if place.column == 5)
            || matches!(overflow, Err(ScanError::Unable(_))),
        "{}: {overflow:?}",
        kernel.name()
    );
    // The row that would overflow is not wanted.
    let unharmed = ask("sum(n + 1)", Some("n < 10"), None);
    assert!(matches!(unharmed, Ok(_) | Err(ScanError::Unable(_))), "{}: {unharmed:?}", kernel.name());
    let groups = ask("count()", None, Some("n"));
    assert!(
        matches!(&groups, Err(ScanError::Query(QueryError::Limit { limit: "groups_max", .. })))
            || matches!(groups, Err(ScanError::Unable(_))),
        "{}: {groups:?}",
        kernel.name()
    );
}
