//! Value: one cell, as it goes into a column and as it comes out of an answer.
//!
//! **Invariant.** Values of one kind are totally ordered: numbers by size, NaN above every number, a missing value
//! above everything. Minus zero is stored as zero and every NaN as the same one, so that equal values have equal
//! patterns.
//!
//! **Deliberately absent.** Decimals and dates without a time; a date is the timestamp of its midnight, UTC.

use std::{cmp::Ordering, fmt, sync::Arc};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Integers of 64 bits.
    I64,
    /// IEEE 754 numbers of 64 bits.
    F64,
    /// True or false.
    Bool,
    /// Microseconds since 1970-01-01T00:00:00Z.
    Timestamp,
    /// UTF-8 text.
    Text,
}

impl Kind {
    /// Every kind, in the order of its number on disk.
    pub const ALL: [Kind; 5] = [Kind::I64, Kind::F64, Kind::Bool, Kind::Timestamp, Kind::Text];

    /// The word of a declared schema.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::I64 => "i64",
            Kind::F64 => "f64",
            Kind::Bool => "bool",
            Kind::Timestamp => "timestamp",
            Kind::Text => "text",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// One cell.
#[derive(Clone, Debug)]
pub enum Value {
    /// A whole number.
    I64(i64),
    /// A whole number that may exceed 64 bits: an exact sum.
    Wide(i128),
    /// A number.
    F64(f64),
    /// True or false.
    Bool(bool),
    /// Microseconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
    /// Text.
    Text(Arc<str>),
    /// Several values: what `top_k`, `histogram` and `correlation` answer.
    List(Vec<Value>),
    /// Nothing is known.
    Missing,
}

impl Value {
    /// The number as it is stored and compared: one zero, one NaN.
    #[must_use]
    pub fn canonical(number: f64) -> f64 {
        if number.is_nan() {
            f64::NAN
        } else if number == 0.0 {
            0.0
        } else {
            number
        }
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Value::Missing)
    }

    /// The 64 bits that stand for it in a column of its kind; text and missing values have none.
    #[must_use]
    pub fn pattern(&self) -> Option<u64> {
        match self {
            Value::I64(number) | Value::Timestamp(number) => Some(number.cast_unsigned()),
            Value::F64(number) => Some(Value::canonical(*number).to_bits()),
            Value::Bool(flag) => Some(u64::from(*flag)),
            Value::Wide(_) | Value::Text(_) | Value::List(_) | Value::Missing => None,
        }
    }

    /// The value a pattern stands for in a column of `kind`.
    ///
    /// # Panics
    /// For text, which has no pattern.
    #[must_use]
    pub fn of_pattern(kind: Kind, pattern: u64) -> Value {
        match kind {
            Kind::I64 => Value::I64(pattern.cast_signed()),
            Kind::F64 => Value::F64(f64::from_bits(pattern)),
            Kind::Bool => Value::Bool(pattern != 0),
            Kind::Timestamp => Value::Timestamp(pattern.cast_signed()),
            Kind::Text => panic!("text has no pattern"),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Value::Bool(_) => 0,
            Value::I64(_) | Value::Wide(_) | Value::F64(_) => 1,
            Value::Timestamp(_) => 2,
            Value::Text(_) => 3,
            Value::List(_) => 4,
            Value::Missing => 5,
        }
    }
}

/// NaN above every number and equal to itself, zeros equal.
#[must_use]
pub fn compare_numbers(left: f64, right: f64) -> Ordering {
    match (left.is_nan(), right.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => left.partial_cmp(&right).expect("neither is NaN"),
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Value::I64(left), Value::I64(right)) | (Value::Timestamp(left), Value::Timestamp(right)) => {
                left.cmp(right)
            }
            (Value::Wide(left), Value::Wide(right)) => left.cmp(right),
            (Value::I64(left), Value::Wide(right)) => i128::from(*left).cmp(right),
            (Value::Wide(left), Value::I64(right)) => left.cmp(&i128::from(*right)),
            (Value::F64(left), Value::F64(right)) => compare_numbers(*left, *right),
            (Value::I64(left), Value::F64(right)) => compare_numbers(*left as f64, *right),
            (Value::F64(left), Value::I64(right)) => compare_numbers(*left, *right as f64),
            (Value::Wide(left), Value::F64(right)) => compare_numbers(*left as f64, *right),
            (Value::F64(left), Value::Wide(right)) => compare_numbers(*left, *right as f64),
            (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
            (Value::Text(left), Value::Text(right)) => left.cmp(right),
            (Value::List(left), Value::List(right)) => left.cmp(right),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::I64),
            any::<f64>().prop_map(Value::F64),
            Just(Value::F64(f64::NAN)),
            Just(Value::F64(-0.0)),
            any::<bool>().prop_map(Value::Bool),
            "[a-c]{0,2}".prop_map(|text| Value::Text(text.into())),
            Just(Value::Missing),
        ]
    }

    #[test]
    fn nan_stands_above_every_number_and_missing_above_everything() {
        let mut row = [Value::Missing, Value::F64(f64::NAN), Value::F64(f64::INFINITY), Value::F64(-1.0)];
        row.sort();
        assert_eq!(row, [Value::F64(-1.0), Value::F64(f64::INFINITY), Value::F64(f64::NAN), Value::Missing]);
        assert_eq!(Value::F64(0.0), Value::F64(-0.0));
        assert_eq!(Value::F64(-0.0).pattern(), Value::F64(0.0).pattern());
    }

    proptest! {
        #[test]
        fn a_pattern_stands_for_its_value(value in values()) {
            let kind = match &value {
                Value::I64(_) => Kind::I64,
                Value::F64(_) => Kind::F64,
                Value::Bool(_) => Kind::Bool,
                _ => return Ok(()),
            };
            let pattern = value.pattern().unwrap();
            prop_assert_eq!(Value::of_pattern(kind, pattern), value);
        }

        #[test]
        fn the_order_of_one_kind_is_total(mut rows in proptest::collection::vec(any::<f64>().prop_map(Value::F64), 3)) {
            rows.sort();
            prop_assert!(rows[0] <= rows[1] && rows[1] <= rows[2] && rows[0] <= rows[2]);
        }
    }
}
