//! Cells: from the text of one cell to what a column holds, and what was wrong on the way.
//!
//! **Invariant.** What is malformed is missing in the column and counted in the report: nothing is guessed.

use super::LoadError;
use crate::{
    chunk::Cell,
    schema::Schema,
    timestamp,
    value::{Kind, Value},
};

/// What loading met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows.
    pub rows: u64,
    /// For each column: what did not read as its kind.
    pub columns: Vec<ColumnReport>,
}

/// What loading met in one column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnReport {
    /// Cells without a value.
    pub missing: u64,
    /// Cells that are not of the column's kind, and missing for that.
    pub malformed: u64,
    /// The first of those: line and text.
    pub first_malformed: Option<(u64, String)>,
}

impl Report {
    pub(super) fn new(columns: usize) -> Report {
        Report { rows: 0, columns: vec![ColumnReport::default(); columns] }
    }

    /// Malformed cells, in all columns.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.columns.iter().map(|column| column.malformed).sum()
    }

    pub(super) fn note_missing(&mut self, column: usize) {
        self.columns[column].missing += 1;
    }

    pub(super) fn note_malformed(&mut self, column: usize, line: u64, text: &str) {
        let report = &mut self.columns[column];
        report.malformed += 1;
        if report.first_malformed.is_none() {
            let text: String = text.chars().take(60).collect();
            report.first_malformed = Some((line, text));
        }
    }

    /// A few strange cells are dirt in the data; more strange than sound ones mean that the schema is wrong.
    pub(super) fn check(&self, schema: &Schema) -> Result<(), LoadError> {
        for (field, column) in schema.fields().iter().zip(&self.columns) {
            let values = self.rows - column.missing;
            if let (true, Some((line, text))) = (column.malformed * 2 > values, &column.first_malformed) {
                return Err(LoadError::Contradiction {
                    column: field.name.clone(),
                    kind: field.kind,
                    malformed: column.malformed,
                    values,
                    text: text.clone(),
                    line: *line,
                });
            }
        }
        Ok(())
    }
}

/// The cell of a text, if it reads as `kind`.
#[must_use]
pub fn read(kind: Kind, text: &str) -> Option<Cell<'_>> {
    Some(match kind {
        Kind::Text => Cell::Text(text),
        Kind::I64 => Cell::Pattern(whole(text)?.cast_unsigned()),
        Kind::F64 => Cell::Pattern(Value::canonical(text.trim().parse().ok()?).to_bits()),
        Kind::Timestamp => Cell::Pattern(timestamp::parse(text.trim())?.cast_unsigned()),
        Kind::Bool => Cell::Pattern(u64::from(flag(text)?)),
    })
}

/// Digits with a sign; faster than the general reader for what columns are full of.
fn whole(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if (1..=18).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_digit) {
        return Some(bytes.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')));
    }
    text.trim().parse().ok()
}

fn flag(text: &str) -> Option<bool> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}
