//! Builder: rows on their way into a chunk, column by column.
//!
//! **Invariant.** Between rows every column has the same length, at most [`CHUNK_ROWS`].

use super::{Chunk, Column, Selection};
use crate::{intern::TextInterner, limits::CHUNK_ROWS, value::Kind};

/// One cell on its way in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Nothing is known.
    Missing,
    /// The pattern of a value ([`crate::Value::pattern`]).
    Pattern(u64),
    /// Text.
    Text(&'a str),
}

#[derive(Debug)]
enum Pending {
    Patterns { kind: Kind, patterns: Vec<u64>, present: Selection },
    Text { interner: TextInterner, codes: Vec<u32>, present: Selection },
}

/// Rows that are not sealed yet.
#[derive(Debug)]
pub struct Builder {
    columns: Vec<Pending>,
    rows: usize,
}

impl Builder {
    /// No rows, of these kinds.
    #[must_use]
    pub fn new(kinds: impl IntoIterator<Item = Kind>) -> Builder {
        Builder { columns: kinds.into_iter().map(Pending::new).collect(), rows: 0 }
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether the chunk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.rows == CHUNK_ROWS
    }

    /// Puts a cell at the end of one column. Every column gets one, then the row ends.
    ///
    /// # Panics
    /// If a text goes into a column of numbers, or the other way.
    #[inline]
    pub fn push(&mut self, column: usize, cell: Cell<'_>) {
        match (&mut self.columns[column], cell) {
            (Pending::Patterns { patterns, present, .. }, Cell::Pattern(pattern)) => {
                patterns.push(pattern);
                present.push(true);
            }
            (Pending::Patterns { patterns, present, .. }, Cell::Missing) => {
                patterns.push(0);
                present.push(false);
            }
            (Pending::Text { interner, codes, present }, Cell::Text(text)) => {
                codes.push(interner.intern(text));
                present.push(true);
            }
            (Pending::Text { codes, present, .. }, Cell::Missing) => {
                codes.push(0);
                present.push(false);
            }
            _ => panic!("a cell goes into a column of its kind"),
        }
    }

    /// Ends a row.
    ///
    /// # Panics
    /// If a column got no cell, or two, or the chunk is full.
    pub fn end_row(&mut self) {
        assert!(!self.is_full(), "a full chunk takes no more rows");
        self.rows += 1;
        assert!(self.columns.iter().all(|column| column.rows() == self.rows), "one cell a column and row");
    }

    /// The rows so far as a chunk; they stay open.
    #[must_use]
    pub fn snapshot(&self, id: u64) -> Chunk {
        Chunk::new(id, self.rows, self.columns.iter().map(Pending::encode).collect())
    }

    /// Seals the rows into a chunk and begins anew.
    pub fn seal(&mut self, id: u64) -> Chunk {
        let columns = self.columns.iter_mut().map(Pending::take).collect();
        Chunk::new(id, std::mem::take(&mut self.rows), columns)
    }
}

impl Pending {
    fn new(kind: Kind) -> Pending {
        let present = Selection::none(0);
        match kind {
            Kind::Text => Pending::Text { interner: TextInterner::default(), codes: Vec::new(), present },
            Kind::I64 | Kind::F64 | Kind::Bool | Kind::Timestamp => {
                Pending::Patterns { kind, patterns: Vec::new(), present }
            }
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Pending::Patterns { kind, .. } => *kind,
            Pending::Text { .. } => Kind::Text,
        }
    }

    fn rows(&self) -> usize {
        match self {
            Pending::Patterns { patterns, .. } => patterns.len(),
            Pending::Text { codes, .. } => codes.len(),
        }
    }

    fn encode(&self) -> Column {
        match self {
            Pending::Patterns { kind, patterns, present } => {
                Column::of_patterns(*kind, patterns.clone(), present.clone())
            }
            Pending::Text { interner, codes, present } => Column::of_codes(&interner.texts(), codes, present.clone()),
        }
    }

    fn take(&mut self) -> Column {
        let fresh = Pending::new(self.kind());
        match std::mem::replace(self, fresh) {
            Pending::Patterns { kind, patterns, present } => Column::of_patterns(kind, patterns, present),
            Pending::Text { interner, codes, present } => Column::of_codes(&interner.texts(), &codes, present),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chunk::Encoding, value::Value};
    use proptest::prelude::*;

    fn sealed(kind: Kind, values: &[Value]) -> Chunk {
        let mut builder = Builder::new([kind]);
        for value in values {
            match value {
                Value::Text(text) => builder.push(0, Cell::Text(text)),
                value => builder.push(0, value.pattern().map_or(Cell::Missing, Cell::Pattern)),
            }
            builder.end_row();
        }
        assert_eq!(builder.snapshot(7), builder.seal(7));
        builder.snapshot(8)
    }

    fn check(kind: Kind, values: &[Value]) -> Column {
        let mut builder = Builder::new([kind]);
        for value in values {
            match value {
                Value::Text(text) => builder.push(0, Cell::Text(text)),
                value => builder.push(0, value.pattern().map_or(Cell::Missing, Cell::Pattern)),
            }
            builder.end_row();
        }
        let chunk = builder.seal(0);
        let column = chunk.columns()[0].clone();
        let got: Vec<Value> = (0..values.len()).map(|row| column.get(row)).collect();
        assert_eq!(got, values);
        for first in (0..values.len()).step_by(64) {
            let mut out = vec![0; (values.len() - first).min(200)];
            column.patterns(first, &mut out);
            let expected: Vec<u64> = (first..first + out.len()).map(|row| column.pattern(row)).collect();
            assert_eq!(out, expected);
        }
        let is_sound = |value: &&Value| !value.is_missing() && !matches!(value, Value::F64(number) if number.is_nan());
        assert_eq!(column.zone().min, values.iter().filter(is_sound).min().cloned().unwrap_or(Value::Missing));
        assert_eq!(column.zone().max, values.iter().filter(is_sound).max().cloned().unwrap_or(Value::Missing));
        assert_eq!(column.zone().missing as usize, values.iter().filter(|value| value.is_missing()).count());
        column
    }

    #[test]
    fn the_layout_follows_the_values() {
        let numbers = |of: fn(i64) -> i64| (0..4_096).map(|row| Value::I64(of(row))).collect::<Vec<_>>();
        let layout = |values: &[Value]| check(Kind::I64, values).encoding().clone();
        assert!(matches!(layout(&numbers(|row| 1_000 + row % 16)), Encoding::Packed { base: 1_000, numbers }
            if numbers.bits() == 4));
        assert!(matches!(layout(&numbers(|row| row / 1_000)), Encoding::Runs { ends, .. } if ends.len() == 5));
        assert!(matches!(layout(&numbers(|row| row % 3 * 1_000_000_000)), Encoding::Distinct { values, .. }
            if values.len() == 3));
        assert!(matches!(layout(&numbers(|row| row.wrapping_mul(0x1234_5678_9ABC_DEF1))), Encoding::Words(_)));
        let floats: Vec<Value> = (0..4_096).map(|row| Value::F64(f64::from(row % 7) / 3.0)).collect();
        assert!(matches!(check(Kind::F64, &floats).encoding(), Encoding::Distinct { .. }));
        assert_eq!(sealed(Kind::I64, &[Value::I64(1)]).rows(), 0, "a sealed builder begins anew");
    }

    #[test]
    fn gaps_and_extremes_are_kept() {
        check(Kind::I64, &[Value::I64(i64::MIN), Value::Missing, Value::I64(i64::MAX)]);
        check(Kind::I64, &[Value::Missing, Value::Missing]);
        check(Kind::Text, &[Value::Missing]);
        check(Kind::F64, &[Value::F64(f64::NAN), Value::F64(f64::NEG_INFINITY), Value::Missing]);
        check(Kind::Bool, &[Value::Bool(true), Value::Missing, Value::Bool(false)]);
        for kind in Kind::ALL {
            check(kind, &[]);
        }
    }

    proptest! {
        #[test]
        fn what_went_in_comes_out(
            spread in prop_oneof![Just(1_i64), Just(14), Just(200), Just(60_000), Just(i64::MAX)],
            rows in proptest::collection::vec(proptest::option::of(any::<i64>()), 0..700),
        ) {
            let integers: Vec<Value> =
                rows.iter().map(|row| row.map_or(Value::Missing, |n| Value::I64(n % spread))).collect();
            check(Kind::I64, &integers);
            let floats: Vec<Value> =
                rows.iter().map(|row| row.map_or(Value::Missing, |n| Value::F64((n % spread) as f64))).collect();
            check(Kind::F64, &floats);
            let text = |n: i64| Value::Text((n % spread % 50).to_string().into());
            let texts: Vec<Value> = rows.iter().map(|row| row.map_or(Value::Missing, text)).collect();
            check(Kind::Text, &texts);
        }
    }
}
