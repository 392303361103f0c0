//! Expr: a typed expression over the columns of one row, and its value in one row.
//!
//! ```text
//!   kinds      i64 ∘ i64 → i64 (exact or an error) │ f64 ∘ f64 → f64 │ comparison → bool
//!   missing    arithmetic and comparisons with it are missing; and, or, not follow three-valued logic
//!   documented x / 0, x // 0 and x % 0 are missing for integers; `/` is always f64, as IEEE 754 has it
//! ```
//!
//! **Invariant.** Operands have the same kind: the translation put casts where they differed. [`Expr::value`] is the
//! specification that every faster evaluation is held to.

use super::{Place, QueryError, TextTest};
use crate::{
    chunk::Chunk,
    value::{Kind, Value},
};
use std::cmp::Ordering;

/// An operator on numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`, on f64.
    Divide,
    /// `//`, on i64: towards zero.
    DivideWhole,
    /// `%`: the sign is the dividend's.
    Remainder,
}

/// An operator that compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Comparison {
    /// Whether it holds for operands in this order.
    #[must_use]
    #[inline(always)]
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Equal => order == Ordering::Equal,
            Comparison::NotEqual => order != Ordering::Equal,
            Comparison::Less => order == Ordering::Less,
            Comparison::LessOrEqual => order != Ordering::Greater,
            Comparison::Greater => order == Ordering::Greater,
            Comparison::GreaterOrEqual => order != Ordering::Less,
        }
    }

    /// The operator with its operands exchanged.
    #[must_use]
    pub fn mirrored(self) -> Comparison {
        match self {
            Comparison::Equal | Comparison::NotEqual => self,
            Comparison::Less => Comparison::Greater,
            Comparison::LessOrEqual => Comparison::GreaterOrEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterOrEqual => Comparison::LessOrEqual,
        }
    }
}

/// A part of a timestamp, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatePart {
    /// The year.
    Year,
    /// 1 to 12.
    Month,
    /// 1 to 31.
    Day,
    /// 0 to 23.
    Hour,
}

impl DatePart {
    /// The part of a timestamp, by the proleptic Gregorian calendar (days-from-civil after Hinnant).
    #[must_use]
    pub fn of(self, micros: i64) -> i64 {
        let (days, rest) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
        if self == DatePart::Hour {
            return rest / 3_600_000_000;
        }
        let (year, month, day) = crate::timestamp::civil(days);
        match self {
            DatePart::Year => year,
            DatePart::Month => month,
            DatePart::Day | DatePart::Hour => day,
        }
    }
}

/// A typed expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// The value of a column.
    Column {
        /// Which.
        index: usize,
        /// What it holds.
        kind: Kind,
    },
    /// The same value in every row.
    Constant(Value),
    /// `left ∘ right`, both i64 or both f64.
    Arithmetic {
        /// Which operator.
        operator: Arithmetic,
        /// Left operand.
        left: Box<Expr>,
        /// Right operand.
        right: Box<Expr>,
        /// For an overflow.
        place: Place,
    },
    /// The distance from zero.
    Absolute(Box<Expr>, Place),
    /// An i64 or a timestamp as f64, rounded to nearest.
    ToFloat(Box<Expr>),
    /// An f64 as i64, rounded half away from zero; what does not fit is an overflow, NaN too.
    ToWhole(Box<Expr>, Place),
    /// A timestamp as its microseconds.
    Micros(Box<Expr>),
    /// A part of a timestamp.
    Part(DatePart, Box<Expr>),
    /// Both i64, both f64, or both timestamps.
    Compare {
        /// Which operator.
        operator: Comparison,
        /// Left operand.
        left: Box<Expr>,
        /// Right operand.
        right: Box<Expr>,
    },
    /// A test of a text column against constants.
    Text {
        /// Which column.
        column: usize,
        /// Which test.
        test: TextTest,
    },
    /// Two text columns.
    TextCompare {
        /// Which operator.
        operator: Comparison,
        /// Left column.
        left: usize,
        /// Right column.
        right: usize,
    },
    /// Both.
    And(Box<Expr>, Box<Expr>),
    /// Either.
    Or(Box<Expr>, Box<Expr>),
    /// The opposite.
    Not(Box<Expr>),
    /// Whether a value is missing; never missing itself.
    IsMissing(Box<Expr>),
}

impl Expr {
    /// What it yields.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Expr::Column { kind, .. } => *kind,
            Expr::Constant(value) => match value {
                Value::F64(_) => Kind::F64,
                Value::Bool(_) => Kind::Bool,
                Value::Timestamp(_) => Kind::Timestamp,
                Value::Text(_) => Kind::Text,
                Value::I64(_) | Value::Wide(_) | Value::List(_) | Value::Missing => Kind::I64,
            },
            Expr::Arithmetic { left, .. } => left.kind(),
            Expr::Absolute(inner, _) => inner.kind(),
            Expr::ToFloat(_) => Kind::F64,
            Expr::ToWhole(..) | Expr::Micros(_) | Expr::Part(..) => Kind::I64,
            Expr::Compare { .. }
            | Expr::Text { .. }
            | Expr::TextCompare { .. }
            | Expr::And(..)
            | Expr::Or(..)
            | Expr::Not(_)
            | Expr::IsMissing(_) => Kind::Bool,
        }
    }

    /// The expressions directly within.
    #[must_use]
    pub fn operands(&self) -> Vec<&Expr> {
        match self {
            Expr::Column { .. } | Expr::Constant(_) | Expr::Text { .. } | Expr::TextCompare { .. } => Vec::new(),
            Expr::Arithmetic { left, right, .. } | Expr::Compare { left, right, .. } => vec![left, right],
            Expr::And(left, right) | Expr::Or(left, right) => vec![left, right],
            Expr::Absolute(inner, _) | Expr::ToWhole(inner, _) => vec![inner],
            Expr::ToFloat(inner) | Expr::Micros(inner) | Expr::Part(_, inner) => vec![inner],
            Expr::Not(inner) | Expr::IsMissing(inner) => vec![inner],
        }
    }

    /// Adds the columns it reads.
    pub fn collect_columns(&self, columns: &mut Vec<usize>) {
        match self {
            Expr::Column { index, .. } => columns.push(*index),
            Expr::Text { column, .. } => columns.push(*column),
            Expr::TextCompare { left, right, .. } => columns.extend([*left, *right]),
            _ => self.operands().into_iter().for_each(|operand| operand.collect_columns(columns)),
        }
    }

    /// The constant it is, if it is one.
    #[must_use]
    pub fn constant(&self) -> Option<&Value> {
        if let Expr::Constant(value) = self { Some(value) } else { None }
    }

    /// Its value in one row.
    ///
    /// # Errors
    /// If a whole number exceeds 64 bits.
    pub fn value(&self, chunk: &Chunk, row: usize) -> Result<Value, QueryError> {
        Ok(match self {
            Expr::Column { index, .. } => chunk.columns()[*index].get(row),
            Expr::Constant(value) => value.clone(),
            Expr::Arithmetic { operator, left, right, place } => {
                arithmetic(*operator, &left.value(chunk, row)?, &right.value(chunk, row)?, place)?
            }
            Expr::Absolute(inner, place) => match inner.value(chunk, row)? {
                Value::I64(number) => Value::I64(number.checked_abs().ok_or_else(|| overflow(place))?),
                Value::F64(number) => Value::F64(number.abs()),
                other => other,
            },
            Expr::ToFloat(inner) => match inner.value(chunk, row)? {
                Value::I64(number) | Value::Timestamp(number) => Value::F64(number as f64),
                other => other,
            },
            Expr::ToWhole(inner, place) => match inner.value(chunk, row)? {
                Value::F64(number) => Value::I64(whole(number).ok_or_else(|| overflow(place))?),
                other => other,
            },
            Expr::Micros(inner) => match inner.value(chunk, row)? {
                Value::Timestamp(micros) => Value::I64(micros),
                other => other,
            },
            Expr::Part(part, inner) => match inner.value(chunk, row)? {
                Value::Timestamp(micros) => Value::I64(part.of(micros)),
                other => other,
            },
            Expr::Compare { operator, left, right } => {
                compare(*operator, &left.value(chunk, row)?, &right.value(chunk, row)?)
            }
            Expr::Text { column, test } => match chunk.columns()[*column].get(row) {
                Value::Text(text) => Value::Bool(test.holds(&text)),
                _ => Value::Missing,
            },
            Expr::TextCompare { operator, left, right } => {
                compare(*operator, &chunk.columns()[*left].get(row), &chunk.columns()[*right].get(row))
            }
            Expr::And(left, right) => both(&left.value(chunk, row)?, &right.value(chunk, row)?),
            Expr::Or(left, right) => not(&both(&not(&left.value(chunk, row)?), &not(&right.value(chunk, row)?))),
            Expr::Not(inner) => not(&inner.value(chunk, row)?),
            Expr::IsMissing(inner) => Value::Bool(inner.value(chunk, row)?.is_missing()),
        })
    }
}

fn overflow(place: &Place) -> QueryError {
    QueryError::Overflow { place: place.clone() }
}

/// An f64 as i64, half away from zero, if it fits.
#[must_use]
pub fn whole(number: f64) -> Option<i64> {
    let rounded = number.round();
    // 2^63 itself does not fit, and is the first f64 that does not.
    (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded).then_some(rounded as i64)
}

fn arithmetic(operator: Arithmetic, left: &Value, right: &Value, place: &Place) -> Result<Value, QueryError> {
    Ok(match (left, right) {
        (Value::I64(left), Value::I64(right)) => {
            let (left, right) = (*left, *right);
            let exact = match operator {
                Arithmetic::Add => left.checked_add(right),
                Arithmetic::Subtract => left.checked_sub(right),
                Arithmetic::Multiply => left.checked_mul(right),
                Arithmetic::DivideWhole | Arithmetic::Remainder if right == 0 => return Ok(Value::Missing),
                Arithmetic::DivideWhole | Arithmetic::Divide => left.checked_div(right),
                // The one overflow of a remainder is that of the division it goes with: the remainder itself is 0.
                Arithmetic::Remainder => Some(left.wrapping_rem(right)),
            };
            Value::I64(exact.ok_or_else(|| overflow(place))?)
        }
        (Value::F64(left), Value::F64(right)) => Value::F64(match operator {
            Arithmetic::Add => left + right,
            Arithmetic::Subtract => left - right,
            Arithmetic::Multiply => left * right,
            Arithmetic::Divide => left / right,
            Arithmetic::DivideWhole => (left / right).trunc(),
            Arithmetic::Remainder => left % right,
        }),
        _ => Value::Missing,
    })
}

fn compare(operator: Comparison, left: &Value, right: &Value) -> Value {
    if left.is_missing() || right.is_missing() { Value::Missing } else { Value::Bool(operator.holds(left.cmp(right))) }
}

fn both(left: &Value, right: &Value) -> Value {
    match (left, right) {
        (Value::Bool(false), _) | (_, Value::Bool(false)) => Value::Bool(false),
        (Value::Bool(true), Value::Bool(true)) => Value::Bool(true),
        _ => Value::Missing,
    }
}

fn not(value: &Value) -> Value {
    if let Value::Bool(flag) = value { Value::Bool(!flag) } else { Value::Missing }
}
