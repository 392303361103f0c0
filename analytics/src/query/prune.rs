//! Prune: what zones alone say about a filter in a chunk.
//!
//! **Invariant.** `Never` means that the filter is true in no row, `Always` that it is true in every one; a zone that
//! does not decide says `Perhaps`. Skipping what is `Never` changes no answer, and hides no overflow: an expression
//! that could overflow is always `Perhaps`.

use super::{Comparison, Expr};
use crate::{chunk::Chunk, value::Value};

/// What is known about a filter in a whole chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No row passes.
    Never,
    /// It must be asked row by row.
    Perhaps,
    /// Every row passes.
    Always,
}

/// What the zones of `chunk` say about `filter`.
#[must_use]
pub fn verdict(filter: &Expr, chunk: &Chunk) -> Verdict {
    match filter {
        Expr::And(left, right) => match (verdict(left, chunk), verdict(right, chunk)) {
            // The other side is still asked for its overflows if it has any.
            (Verdict::Never, _) if is_safe(right) => Verdict::Never,
            (_, Verdict::Never) if is_safe(left) => Verdict::Never,
            (Verdict::Always, Verdict::Always) => Verdict::Always,
            _ => Verdict::Perhaps,
        },
        Expr::Or(left, right) => match (verdict(left, chunk), verdict(right, chunk)) {
            (Verdict::Never, Verdict::Never) => Verdict::Never,
            (Verdict::Always, _) if is_safe(right) => Verdict::Always,
            (_, Verdict::Always) if is_safe(left) => Verdict::Always,
            _ => Verdict::Perhaps,
        },
        Expr::Compare { operator, left, right } => match (left.as_ref(), right.as_ref()) {
            (Expr::Column { index, .. }, Expr::Constant(value)) => against_zone(*operator, chunk, *index, value),
            (Expr::Constant(value), Expr::Column { index, .. }) => {
                against_zone(operator.mirrored(), chunk, *index, value)
            }
            _ => Verdict::Perhaps,
        },
        Expr::Text { column, test } => {
            let column = &chunk.columns()[*column];
            let Some((dictionary, _)) = column.dictionary() else { return Verdict::Perhaps };
            let passing = dictionary.iter().filter(|text| test.holds(text)).count();
            if passing == 0 {
                Verdict::Never
            } else if passing == dictionary.len() && column.zone().missing == 0 {
                Verdict::Always
            } else {
                Verdict::Perhaps
            }
        }
        Expr::IsMissing(inner) => match inner.as_ref() {
            Expr::Column { index, .. } => {
                let missing = chunk.columns()[*index].zone().missing as usize;
                by_counts(missing, chunk.rows())
            }
            _ => Verdict::Perhaps,
        },
        Expr::Not(inner) => match inner.as_ref() {
            Expr::IsMissing(column) => opposite(verdict(&Expr::IsMissing(column.clone()), chunk)),
            _ => Verdict::Perhaps,
        },
        Expr::Constant(Value::Bool(true)) => Verdict::Always,
        Expr::Constant(_) => Verdict::Never,
        _ => Verdict::Perhaps,
    }
}

fn by_counts(holding: usize, rows: usize) -> Verdict {
    if holding == 0 {
        Verdict::Never
    } else if holding == rows {
        Verdict::Always
    } else {
        Verdict::Perhaps
    }
}

fn opposite(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Never => Verdict::Always,
        Verdict::Perhaps => Verdict::Perhaps,
        Verdict::Always => Verdict::Never,
    }
}

fn is_safe(expr: &Expr) -> bool {
    let overflows = matches!(expr, Expr::Arithmetic { .. } | Expr::Absolute(..) | Expr::ToWhole(..));
    !overflows && expr.operands().into_iter().all(is_safe)
}

fn against_zone(operator: Comparison, chunk: &Chunk, column: usize, value: &Value) -> Verdict {
    let zone = chunk.columns()[column].zone();
    // NaN stands above every number, outside of the zone: leave it to the rows.
    let is_nan = |value: &Value| matches!(value, Value::F64(number) if number.is_nan());
    if value.is_missing() || zone.missing as usize == chunk.rows() {
        return Verdict::Never;
    }
    if zone.nans > 0 || is_nan(value) {
        return Verdict::Perhaps;
    }
    let (of_min, of_max) = (zone.min.cmp(value), zone.max.cmp(value));
    let (holds_min, holds_max) = (operator.holds(of_min), operator.holds(of_max));
    let is_one_value = zone.min == zone.max;
    let verdict = match operator {
        Comparison::Equal if of_min.is_gt() || of_max.is_lt() => Verdict::Never,
        Comparison::NotEqual if of_min.is_gt() || of_max.is_lt() => Verdict::Always,
        Comparison::Equal | Comparison::NotEqual if !is_one_value => Verdict::Perhaps,
        _ if holds_min && holds_max => Verdict::Always,
        _ if !holds_min && !holds_max => Verdict::Never,
        _ => Verdict::Perhaps,
    };
    if verdict == Verdict::Always && zone.missing > 0 { Verdict::Perhaps } else { verdict }
}
