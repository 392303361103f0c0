//! Shape: what a scan on a device keeps for each group, as words that add, or take the smaller or larger.
//!
//! ```text
//!   group  │ rows │ count │ sum low │ sum high │ best │ bin 0 │ bin 1 │ …
//! ```
//!
//! Everything a device keeps is a whole number, so that the order in which thousands of threads arrive changes no
//! bit. A sum of f64 is kept in fixed point: two limbs of 31 bits below the column's largest magnitude, which its
//! zones know.
//!
//! **Invariant.** A sum of f64 is within 2^-62 times the largest magnitude of the column for each value. What has no
//! such words (sketches, variances, sums of f64 expressions, f64 with NaN or infinities) is left to another kernel,
//! by name.

use crate::{
    aggregate::{FloatSum, Histogram, State},
    chunk::Chunk,
    query::{Aggregate, Expr, Function, Query},
    value::{Kind, Value},
};
use std::sync::Arc;

/// Rows of one launch: limbs of 31 bits add up within 64.
pub const ROWS_MAX: u64 = 1 << 31;

/// How a word takes the next one in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Add,
    Min,
    Max,
}

/// What an aggregate keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// Nothing of its own: the rows of the group.
    Rows,
    /// How many values.
    Count,
    /// Count, and the sums of the lower and upper halves.
    Whole,
    /// Count, and two limbs; the scale of the first one is a power of two.
    Float { scale: f64 },
    /// Count, and the best so far, ordered as whole numbers.
    End { is_max: bool },
    /// Count below, in each bin, above.
    Bins { low: f64, high: f64, bins: usize },
}

/// What is kept for each group.
#[derive(Clone, Debug)]
pub struct Shape {
    /// For each aggregate: what, and its first word.
    pub parts: Vec<(Part, usize)>,
    /// How each word takes the next one in; the first counts the rows.
    pub ops: Vec<Op>,
}

impl Shape {
    /// The shape of a query over chunks, or why there is none.
    pub fn new(query: &Query, chunks: &[&Arc<Chunk>]) -> Result<Shape, String> {
        let mut shape = Shape { parts: Vec::new(), ops: vec![Op::Add] };
        for aggregate in &query.aggregates {
            let part = part(aggregate, chunks).ok_or_else(|| format!("no kernel for {}", aggregate.name))?;
            shape.parts.push((part, shape.ops.len()));
            match part {
                Part::Rows => {}
                Part::Count => shape.ops.push(Op::Add),
                Part::Whole | Part::Float { .. } => shape.ops.extend([Op::Add; 3]),
                Part::End { is_max } => shape.ops.extend([Op::Add, if is_max { Op::Max } else { Op::Min }]),
                Part::Bins { bins, .. } => shape.ops.extend(vec![Op::Add; bins + 2]),
            }
        }
        Ok(shape)
    }

    /// Words of a group.
    pub fn words(&self) -> usize {
        self.ops.len()
    }

    /// The words of a group without rows.
    pub fn empty(&self) -> Vec<u64> {
        let word = |op: &Op| match op {
            Op::Add => 0,
            Op::Min => i64::MAX.cast_unsigned(),
            Op::Max => i64::MIN.cast_unsigned(),
        };
        self.ops.iter().map(word).collect()
    }

    /// What the words of a group stand for.
    pub fn states(&self, query: &Query, words: &[u64]) -> Vec<State> {
        query
            .aggregates
            .iter()
            .zip(&self.parts)
            .map(|(aggregate, (part, at))| state(aggregate, *part, *at, words))
            .collect()
    }
}

fn part(aggregate: &Aggregate, chunks: &[&Arc<Chunk>]) -> Option<Part> {
    let kind = aggregate.argument_kind();
    Some(match &aggregate.function {
        Function::Count if aggregate.arguments.is_empty() => Part::Rows,
        Function::Count if kind != Some(Kind::Text) => Part::Count,
        Function::Sum | Function::Average if kind == Some(Kind::I64) => Part::Whole,
        Function::Sum | Function::Average => Part::Float { scale: scale(&aggregate.arguments[0], chunks)? },
        Function::Min | Function::Max if kind != Some(Kind::Text) => {
            Part::End { is_max: aggregate.function == Function::Max }
        }
        Function::Histogram { low, high, bins } if *bins <= 256 => Part::Bins { low: *low, high: *high, bins: *bins },
        _ => return None,
    })
}

/// The power of two that turns the largest magnitude of an f64 column into 31 bits; `None` = not known to be finite.
fn scale(argument: &Expr, chunks: &[&Arc<Chunk>]) -> Option<f64> {
    let Expr::Column { index, .. } = argument else { return None };
    let mut largest = 0.0_f64;
    for zone in chunks.iter().map(|chunk| chunk.columns()[*index].zone()) {
        for end in [&zone.min, &zone.max] {
            if let Value::F64(number) = end {
                largest = largest.max(number.abs());
            }
        }
        if zone.nans > 0 {
            return None;
        }
    }
    if !largest.is_finite() {
        return None;
    }
    let exponent = if largest == 0.0 { 0 } else { largest.log2().floor() as i32 + 1 };
    // Both scales, and what they undo, must be powers of two that an f64 holds.
    (-900..=900).contains(&exponent).then(|| 2.0_f64.powi(31 - exponent))
}

fn state(aggregate: &Aggregate, part: Part, at: usize, words: &[u64]) -> State {
    match part {
        Part::Rows => State::Count(words[0]),
        Part::Count => State::Count(words[at]),
        Part::Whole => {
            let sum = (i128::from(words[at + 2].cast_signed()) << 32) + i128::from(words[at + 1]);
            State::Whole { count: words[at], sum }
        }
        Part::Float { scale } => {
            let mut sum = FloatSum::default();
            // Halves of 32 bits are exact as f64, whatever the limb.
            for (limb, scale) in [(words[at + 1], scale), (words[at + 2], scale * 2.0_f64.powi(31))] {
                let limb = limb.cast_signed();
                sum.add_sum((limb >> 32) as f64 * 4_294_967_296.0 / scale, 0);
                sum.add_sum((limb & 0xFFFF_FFFF) as f64 / scale, 0);
            }
            sum.add_sum(0.0, words[at]);
            State::Float(sum)
        }
        Part::End { is_max } => {
            let key = words[at + 1].cast_signed();
            let best = match aggregate.argument_kind().unwrap_or(Kind::I64) {
                _ if words[at] == 0 => Value::Missing,
                Kind::F64 => Value::F64(crate::kernel::cpu::loops::of_ordered(key)),
                kind => Value::of_pattern(kind, key.cast_unsigned()),
            };
            State::Extreme { is_max, best }
        }
        Part::Bins { low, high, bins } => {
            let mut histogram = Histogram::new(low, high, bins);
            histogram.add_counts(&words[at..at + bins + 2]);
            State::Histogram(histogram)
        }
    }
}
