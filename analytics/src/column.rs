//! Column: typed values of a portion of rows, borrowed, and which of them are there.

use crate::selection::Selection;

/// The values, one a row. Where a value is missing, whatever stands there means nothing.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// 32-bit integers: most columns of most data.
    I32(&'a [i32]),
    /// 64-bit integers.
    I64(&'a [i64]),
}

impl Values<'_> {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Values::I32(values) => values.len(),
            Values::I64(values) => values.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of `row`, widened.
    #[must_use]
    pub fn at(&self, row: usize) -> i64 {
        match self {
            Values::I32(values) => i64::from(values[row]),
            Values::I64(values) => values[row],
        }
    }
}

/// One column of a portion of rows.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    values: Values<'a>,
    present: Option<&'a Selection>,
}

impl<'a> Column<'a> {
    /// A column whose every value is there.
    #[must_use]
    pub fn new(values: Values<'a>) -> Self {
        Column { values, present: None }
    }

    /// A column in which only the rows of `present` have a value.
    ///
    /// # Panics
    /// If the two speak about different numbers of rows.
    #[must_use]
    pub fn with_gaps(values: Values<'a>, present: &'a Selection) -> Self {
        assert_eq!(values.len(), present.rows(), "one presence bit a value");
        Column { values, present: Some(present) }
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.values.len()
    }

    /// The values, missing ones included.
    #[must_use]
    pub fn values(&self) -> Values<'a> {
        self.values
    }

    /// Which rows have a value; `None` = all.
    #[must_use]
    pub fn present(&self) -> Option<&'a Selection> {
        self.present
    }

    /// The value of `row`, if it has one.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<i64> {
        let is_present = self.present.is_none_or(|present| present.contains(row));
        is_present.then(|| self.values.at(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_value_is_not_the_number_that_stands_there() {
        let present = Selection::of(&[true, false]);
        let column = Column::with_gaps(Values::I32(&[7, 7]), &present);
        assert_eq!((column.get(0), column.get(1)), (Some(7), None));
        assert_eq!(Column::new(Values::I64(&[-1])).get(0), Some(-1));
    }

    #[test]
    #[should_panic(expected = "one presence bit a value")]
    fn presence_must_speak_about_the_same_rows() {
        let present = Selection::all(3);
        let _ = Column::with_gaps(Values::I32(&[7, 7]), &present);
    }
}
