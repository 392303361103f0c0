//! Eval: an expression over a piece of a chunk, a column at a time.
//!
//! ```text
//!   numbers   64-bit patterns, and a mask of those that are known
//!   truth     a mask of rows where it holds, and of those where it is known
//! ```
//!
//! **Invariant.** The same as [`Expr::value`] row by row. A row that holds is known. An overflow counts only in a row
//! that is wanted.

use super::{decode, dispatch::Level, loops};
use crate::{
    chunk::{Chunk, Column, Encoding, Lanes, Packed},
    query::{Arithmetic, Comparison, Expr, Place, QueryError},
    value::{Kind, Value},
};
use std::borrow::Cow;

/// Rows of one piece: what they decode to fits into the nearest cache.
pub const PIECE_ROWS: usize = 2_048;

/// Some rows of a chunk, from a multiple of 64 on.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pub chunk: &'a Chunk,
    pub first: usize,
    pub rows: usize,
    pub level: Level,
}

/// A mask of rows, a byte each; `None` = all.
pub type Known = Option<Vec<u8>>;

/// The values of an expression.
pub struct Numbers<'a> {
    pub bits: Cow<'a, [u64]>,
    pub known: Known,
}

/// Where a condition holds.
pub struct Truth {
    pub holds: Vec<u8>,
    pub known: Known,
}

fn both_known(level: Level, left: Known, right: Known) -> Known {
    match (left, right) {
        (Some(mut left), Some(right)) => {
            loops::and(level, &mut left, &right);
            Some(left)
        }
        (one, other) => one.or(other),
    }
}

impl<'a> Piece<'a> {
    pub fn column(&self, index: usize) -> &'a Column {
        &self.chunk.columns()[index]
    }

    fn words_of(&self, words: &'a [u64]) -> &'a [u64] {
        &words[self.first / 64..(self.first + self.rows).div_ceil(64)]
    }

    /// Which rows of a column have a value.
    pub fn present(&self, index: usize) -> Known {
        let words = self.words_of(self.column(index).present()?.words());
        if words.iter().take(self.rows / 64).all(|word| *word == u64::MAX) && self.rows.is_multiple_of(64) {
            return None;
        }
        let mut known = vec![0; self.rows];
        loops::spread(self.level, words, &mut known);
        Some(known)
    }

    /// Takes the deleted rows out of a mask.
    pub fn without_deleted(&self, mask: &mut [u8]) {
        if let Some(deleted) = self.chunk.deleted() {
            let mut gone = vec![0; self.rows];
            loops::spread(self.level, self.words_of(deleted.words()), &mut gone);
            mask.iter_mut().zip(gone).for_each(|(mask, gone)| *mask &= !gone);
        }
    }

    /// The patterns of a column.
    pub fn patterns(&self, index: usize) -> Cow<'a, [u64]> {
        if let Encoding::Words(words) = self.column(index).encoding() {
            return Cow::Borrowed(&words[self.first..self.first + self.rows]);
        }
        let mut bits = vec![0; self.rows];
        decode::patterns(self.level, self.column(index), self.first, &mut bits);
        Cow::Owned(bits)
    }

    /// The values of an expression that yields numbers, flags as 0 and 1.
    pub fn numbers(&self, expr: &Expr, wanted: &[u8]) -> Result<Numbers<'a>, QueryError> {
        match expr {
            Expr::Column { index, .. } => Ok(Numbers { bits: self.patterns(*index), known: self.present(*index) }),
            Expr::Constant(value) => {
                let known = value.is_missing().then(|| vec![0; self.rows]);
                Ok(Numbers { bits: vec![value.pattern().unwrap_or(0); self.rows].into(), known })
            }
            Expr::Arithmetic { operator, left, right, place } => {
                let (left, right) = (self.numbers(left, wanted)?, self.numbers(right, wanted)?);
                let known = both_known(self.level, left.known, right.known);
                if expr.kind() == Kind::F64 {
                    return Ok(Numbers { bits: float_arithmetic(*operator, &left.bits, &right.bits).into(), known });
                }
                let (bits, known) = whole_arithmetic(*operator, (&left.bits, &right.bits), known, wanted, place)?;
                Ok(Numbers { bits: bits.into(), known })
            }
            Expr::ToFloat(inner) => self.mapped(inner, wanted, |bits| (bits.cast_signed() as f64).to_bits()),
            Expr::Micros(inner) => self.numbers(inner, wanted),
            Expr::Part(part, inner) => self.mapped(inner, wanted, |bits| part.of(bits.cast_signed()).cast_unsigned()),
            Expr::Absolute(inner, _) if inner.kind() == Kind::F64 => {
                self.mapped(inner, wanted, |bits| bits & !(1 << 63))
            }
            Expr::Absolute(inner, place) => {
                self.tried(inner, wanted, place, |bits| bits.cast_signed().checked_abs().map(i64::cast_unsigned))
            }
            Expr::ToWhole(inner, place) => self
                .tried(inner, wanted, place, |bits| crate::query::whole(f64::from_bits(bits)).map(i64::cast_unsigned)),
            condition => {
                let truth = self.truth(condition, wanted)?;
                let bits: Vec<u64> = truth.holds.iter().map(|mask| u64::from(mask & 1)).collect();
                Ok(Numbers { bits: bits.into(), known: truth.known })
            }
        }
    }

    fn mapped(&self, inner: &Expr, wanted: &[u8], map: impl Fn(u64) -> u64) -> Result<Numbers<'a>, QueryError> {
        let numbers = self.numbers(inner, wanted)?;
        let bits: Vec<u64> = numbers.bits.iter().map(|bits| map(*bits)).collect();
        Ok(Numbers { bits: bits.into(), known: numbers.known })
    }

    fn tried(
        &self,
        inner: &Expr,
        wanted: &[u8],
        place: &Place,
        map: impl Fn(u64) -> Option<u64>,
    ) -> Result<Numbers<'a>, QueryError> {
        let numbers = self.numbers(inner, wanted)?;
        let mut bits = Vec::with_capacity(self.rows);
        for (row, number) in numbers.bits.iter().enumerate() {
            let result = map(*number);
            let counts = wanted[row] != 0 && numbers.known.as_ref().is_none_or(|known| known[row] != 0);
            if result.is_none() && counts {
                return Err(QueryError::Overflow { place: place.clone() });
            }
            bits.push(result.unwrap_or(0));
        }
        Ok(Numbers { bits: bits.into(), known: numbers.known })
    }

    /// Where a condition holds.
    pub fn truth(&self, expr: &Expr, wanted: &[u8]) -> Result<Truth, QueryError> {
        match expr {
            Expr::Compare { operator, left, right } => {
                if let (Expr::Column { index, .. }, Expr::Constant(value)) = (left.as_ref(), right.as_ref())
                    && let Some(truth) = self.against_constant(*operator, *index, value)
                {
                    return Ok(truth);
                }
                let is_float = left.kind() == Kind::F64;
                let (left, right) = (self.numbers(left, wanted)?, self.numbers(right, wanted)?);
                let mut holds = vec![0; self.rows];
                loops::compare(self.level, *operator, is_float, &left.bits, &right.bits, &mut holds);
                Ok(self.truth_of(holds, both_known(self.level, left.known, right.known)))
            }
            Expr::And(left, right) => {
                let (left, right) = (self.truth(left, wanted)?, self.truth(right, wanted)?);
                Ok(self.both(left, right))
            }
            Expr::Or(left, right) => {
                let (left, right) = (self.truth(left, wanted)?, self.truth(right, wanted)?);
                Ok(self.opposite(self.both(self.opposite(left), self.opposite(right))))
            }
            Expr::Not(inner) => Ok(self.opposite(self.truth(inner, wanted)?)),
            Expr::IsMissing(inner) => Ok(Truth { holds: self.missing(inner, wanted)?, known: None }),
            Expr::Text { column, test } => Ok(self.text(*column, |text| test.holds(text))),
            Expr::TextCompare { operator, left, right } => Ok(self.texts(*operator, *left, *right)),
            flags => {
                let numbers = self.numbers(flags, wanted)?;
                let holds = numbers.bits.iter().map(|bits| if *bits == 0 { 0 } else { 0xFF }).collect();
                Ok(self.truth_of(holds, numbers.known))
            }
        }
    }

    fn truth_of(&self, mut holds: Vec<u8>, known: Known) -> Truth {
        if let Some(known) = &known {
            loops::and(self.level, &mut holds, known);
        }
        Truth { holds, known }
    }

    /// Known where both are, and where one is known not to hold.
    fn both(&self, left: Truth, right: Truth) -> Truth {
        let known = match (&left.known, &right.known) {
            (None, None) => None,
            (left_known, right_known) => {
                let mut known = vec![0xFF; self.rows];
                for (row, known) in known.iter_mut().enumerate() {
                    let mine = left_known.as_ref().map_or(0xFF, |known| known[row]);
                    let theirs = right_known.as_ref().map_or(0xFF, |known| known[row]);
                    *known = (mine & theirs) | (mine & !left.holds[row]) | (theirs & !right.holds[row]);
                }
                Some(known)
            }
        };
        let mut holds = left.holds;
        loops::and(self.level, &mut holds, &right.holds);
        Truth { holds, known }
    }

    fn opposite(&self, truth: Truth) -> Truth {
        let holds = truth.holds.iter().map(|mask| !mask).collect();
        self.truth_of(holds, truth.known)
    }

    fn missing(&self, inner: &Expr, wanted: &[u8]) -> Result<Vec<u8>, QueryError> {
        let known = match inner {
            Expr::Column { index, .. } => self.present(*index),
            inner if inner.kind() == Kind::Bool => self.truth(inner, wanted)?.known,
            inner => self.numbers(inner, wanted)?.known,
        };
        Ok(known.map_or_else(|| vec![0; self.rows], |known| known.iter().map(|mask| !mask).collect()))
    }

    /// Asks each text once, then looks the answer up.
    fn text(&self, column: usize, holds: impl Fn(&str) -> bool) -> Truth {
        let (dictionary, codes) = self.column(column).dictionary().expect("the query was checked against the schema");
        let answers: Vec<u8> = dictionary.iter().map(|text| if holds(text) { 0xFF } else { 0 }).collect();
        let mut numbers = vec![0; self.rows];
        codes.unpack(self.first, &mut numbers);
        let holds = numbers.iter().map(|code| answers.get(*code as usize).copied().unwrap_or(0)).collect();
        self.truth_of(holds, self.present(column))
    }

    fn texts(&self, operator: Comparison, left: usize, right: usize) -> Truth {
        let side = |column: usize| self.column(column).dictionary().expect("the query was checked");
        let ((texts, codes), (other_texts, other_codes)) = (side(left), side(right));
        let known = both_known(self.level, self.present(left), self.present(right));
        let holds = (0..self.rows).map(|row| {
            let (one, other) = (codes.get(self.first + row) as usize, other_codes.get(self.first + row) as usize);
            // A chunk without any text in a column has codes that stand for none.
            let is_there = one < texts.len() && other < other_texts.len();
            let holds = is_there && operator.holds(texts.get(one).cmp(other_texts.get(other)));
            if holds { 0xFF } else { 0 }
        });
        self.truth_of(holds.collect(), known)
    }

    /// Compares packed numbers without unpacking them: the constant is packed instead.
    fn against_constant(&self, operator: Comparison, index: usize, value: &Value) -> Option<Truth> {
        let Encoding::Packed { base, numbers } = self.column(index).encoding() else { return None };
        let (low, high, is_inside) = code_range(operator, *base, value)?;
        let mut holds = vec![0_u8; self.rows];
        if low <= high {
            self.codes_within(numbers, low, high, &mut holds);
        }
        if !is_inside {
            holds.iter_mut().for_each(|mask| *mask = !*mask);
        }
        Some(self.truth_of(holds, self.present(index)))
    }

    fn codes_within(&self, numbers: &Packed, low: u32, high: u32, out: &mut [u8]) {
        let rows = self.first..self.first + self.rows;
        match numbers.lanes() {
            Lanes::U8(lanes) => {
                if let Ok(low) = u8::try_from(low) {
                    let high = u8::try_from(high).unwrap_or(u8::MAX);
                    loops::within(self.level, &lanes[rows], low, high - low, out);
                }
            }
            Lanes::U16(lanes) => {
                if let Ok(low) = u16::try_from(low) {
                    let high = u16::try_from(high).unwrap_or(u16::MAX);
                    loops::within(self.level, &lanes[rows], low, high - low, out);
                }
            }
            Lanes::U32(lanes) => loops::within(self.level, &lanes[rows], low, high - low, out),
            Lanes::Zero | Lanes::Narrow(..) => {
                if let Ok(low) = u8::try_from(low) {
                    let high = u8::try_from(high).unwrap_or(u8::MAX);
                    let codes = decode::narrow(self.level, numbers, self.first, self.rows);
                    loops::within(self.level, &codes, low, high - low, out);
                }
            }
        }
    }
}

/// A comparison with a constant as a range of codes, both ends included, and whether it is the inside that passes.
/// Empty where the ends are the wrong way round.
pub fn code_range(operator: Comparison, base: i64, value: &Value) -> Option<(u32, u32, bool)> {
    let constant = i128::from(value.pattern()?.cast_signed()) - i128::from(base);
    let top = i128::from(u32::MAX);
    let (low, high, is_inside) = match operator {
        Comparison::Equal => (constant, constant, true),
        Comparison::NotEqual => (constant, constant, false),
        Comparison::Less => (0, constant - 1, true),
        Comparison::LessOrEqual => (0, constant, true),
        Comparison::Greater => (constant + 1, top, true),
        Comparison::GreaterOrEqual => (constant, top, true),
    };
    let (low, high) = (low.max(0), high.min(top));
    if low > high { Some((1, 0, is_inside)) } else { Some((low as u32, high as u32, is_inside)) }
}

fn float_arithmetic(operator: Arithmetic, left: &[u64], right: &[u64]) -> Vec<u64> {
    let zipped = |compute: fn(f64, f64) -> f64| {
        let pairs = left.iter().zip(right);
        pairs.map(|(left, right)| compute(f64::from_bits(*left), f64::from_bits(*right)).to_bits()).collect()
    };
    match operator {
        Arithmetic::Add => zipped(|left, right| left + right),
        Arithmetic::Subtract => zipped(|left, right| left - right),
        Arithmetic::Multiply => zipped(|left, right| left * right),
        Arithmetic::Divide => zipped(|left, right| left / right),
        Arithmetic::DivideWhole => zipped(|left, right| (left / right).trunc()),
        Arithmetic::Remainder => zipped(|left, right| left % right),
    }
}

fn whole_arithmetic(
    operator: Arithmetic,
    (left, right): (&[u64], &[u64]),
    known: Known,
    wanted: &[u8],
    place: &Place,
) -> Result<(Vec<u64>, Known), QueryError> {
    let pairs = || left.iter().zip(right).map(|(left, right)| (left.cast_signed(), right.cast_signed()));
    let divides = matches!(operator, Arithmetic::Divide | Arithmetic::DivideWhole | Arithmetic::Remainder);
    let known = if divides && right.contains(&0) {
        let mut known = known.unwrap_or_else(|| vec![0xFF; left.len()]);
        known.iter_mut().zip(right).for_each(|(known, right)| *known &= if *right == 0 { 0 } else { 0xFF });
        Some(known)
    } else {
        known
    };
    let compute: fn(i64, i64) -> (i64, bool) = match operator {
        Arithmetic::Add => i64::overflowing_add,
        Arithmetic::Subtract => i64::overflowing_sub,
        Arithmetic::Multiply => i64::overflowing_mul,
        Arithmetic::Divide | Arithmetic::DivideWhole => |left, right| {
            if right == 0 { (0, false) } else { left.overflowing_div(right) }
        },
        Arithmetic::Remainder => |left, right| (if right == 0 { 0 } else { left.wrapping_rem(right) }, false),
    };
    let (mut bits, mut is_wrong) = (Vec::with_capacity(left.len()), false);
    for (row, (left, right)) in pairs().enumerate() {
        let (result, overflows) = compute(left, right);
        bits.push(result.cast_unsigned());
        let counts = wanted[row] != 0 && known.as_ref().is_none_or(|known| known[row] != 0);
        is_wrong |= overflows && counts;
    }
    if is_wrong { Err(QueryError::Overflow { place: place.clone() }) } else { Ok((bits, known)) }
}
