//! # Query: what is asked, typed and checked before a row is read
//!
//! ```text
//!   'count(), avg(dep_delay)'  ─┐
//!   --where 'month <= 6'       ─┼─ parse ─▶ Query { filter, groups, aggregates } ─▶ executor
//!   --group-by carrier         ─┘    │
//!                                    └─ or an error with part, line and column
//! ```
//!
//! **Invariant.** A `Query` fits its schema: every column exists, every operator has operands of kinds it knows, every
//! argument is within its limit. What can still go wrong while rows are read is an overflow, or too many groups.
//!
//! **Deliberately absent.** Joins, subqueries, windows, order: this is arithmetic over one set of columns.

mod expr;
mod parse;
mod prune;
mod text;
mod translate;

pub use expr::{Arithmetic, Comparison, DatePart, Expr, whole};
pub use parse::Text;
pub use prune::{Verdict, verdict};
pub use text::TextTest;

use crate::value::Kind;
use std::fmt;
use thiserror::Error;

/// Where in the text of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which part: `aggregates`, `where`, `group by`.
    pub part: &'static str,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, line {}, column {}", self.part, self.line, self.column)
    }
}

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QueryError {
    /// It is not in the syntax.
    #[error("{place}: {message}")]
    Syntax {
        /// What was expected.
        message: String,
        /// Where.
        place: Place,
    },
    /// No such column.
    #[error("{place}: there is no column `{name}`{hint}")]
    UnknownColumn {
        /// The name.
        name: String,
        /// The columns there are, or the nearest one.
        hint: String,
        /// Where.
        place: Place,
    },
    /// An operator or function does not take operands of these kinds.
    #[error("{place}: {message}")]
    Mismatch {
        /// Which, and what it takes.
        message: String,
        /// Where.
        place: Place,
    },
    /// A result does not fit into 64 bits.
    #[error("{place}: a result exceeds 64 bits; cast an operand to double if an approximate result will do")]
    Overflow {
        /// The operator.
        place: Place,
    },
    /// A limit is exceeded.
    #[error("{what} exceed the limit {limit} ({limit_value})")]
    Limit {
        /// What there are too many of.
        what: &'static str,
        /// The limit's name.
        limit: &'static str,
        /// Its value.
        limit_value: usize,
    },
}

/// What is computed over the rows of a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Function {
    /// Rows, or values that are there.
    Count,
    /// Distinct values, from a sketch.
    CountDistinct,
    /// Exact for integers.
    Sum,
    /// The smallest value.
    Min,
    /// The largest value; NaN is larger than every number.
    Max,
    /// Sum by count.
    Average,
    /// Sample variance, or its root.
    Variance {
        /// Whether the root is asked for.
        is_root: bool,
    },
    /// The value at a rank, from a sketch.
    Quantile(f64),
    /// The most frequent values, each with its count.
    Top(usize),
    /// Counts in equal bins, with what lies below and above.
    Histogram {
        /// Lower end of the first bin.
        low: f64,
        /// Upper end of the last bin, exclusive.
        high: f64,
        /// How many bins.
        bins: usize,
    },
    /// Pearson's coefficients of every pair.
    Correlation {
        /// Whether a whole matrix is asked for, or one coefficient.
        is_matrix: bool,
    },
}

/// One column of the answer.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// What is computed.
    pub function: Function,
    /// Over which values; none for `count()`.
    pub arguments: Vec<Expr>,
    /// The name of the answer's column.
    pub name: String,
}

impl Aggregate {
    /// The kind of its first argument.
    #[must_use]
    pub fn argument_kind(&self) -> Option<Kind> {
        self.arguments.first().map(Expr::kind)
    }
}

/// A checked query.
#[derive(Clone, Debug)]
pub struct Query {
    /// Which rows count; `None` = all.
    pub filter: Option<Expr>,
    /// The columns whose values make a group.
    pub groups: Vec<usize>,
    /// What is computed.
    pub aggregates: Vec<Aggregate>,
}

impl Query {
    /// The columns it reads, ascending.
    #[must_use]
    pub fn columns(&self) -> Vec<usize> {
        let mut columns = self.groups.clone();
        let expressions = self.aggregates.iter().flat_map(|aggregate| &aggregate.arguments).chain(&self.filter);
        expressions.for_each(|expr| expr.collect_columns(&mut columns));
        columns.sort_unstable();
        columns.dedup();
        columns
    }
}
