//! Selection: a set of rows of one portion: which are wanted, there, or deleted; one bit a row.
//!
//! **Invariant.** Bits beyond the last row are zero, so that counting and comparing look at whole words.

/// A set of rows of one portion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    words: Vec<u64>,
    rows: usize,
}

impl Selection {
    /// Every row of `rows`.
    #[must_use]
    pub fn all(rows: usize) -> Self {
        let mut words = vec![u64::MAX; rows.div_ceil(64)];
        if let (Some(last), used @ 1..) = (words.last_mut(), rows % 64) {
            *last = (1 << used) - 1;
        }
        Selection { words, rows }
    }

    /// No row of `rows`.
    #[must_use]
    pub fn none(rows: usize) -> Self {
        Selection { words: vec![0; rows.div_ceil(64)], rows }
    }

    /// The rows whose mark is true.
    #[must_use]
    pub fn of(marks: &[bool]) -> Self {
        let mut selection = Selection::none(marks.len());
        for (row, _) in marks.iter().enumerate().filter(|(_, mark)| **mark) {
            selection.words[row / 64] |= 1 << (row % 64);
        }
        selection
    }

    /// How many rows it speaks about, selected or not.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many are selected.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether `row` is selected.
    #[must_use]
    pub fn contains(&self, row: usize) -> bool {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        self.words[row / 64] >> (row % 64) & 1 == 1
    }

    /// Takes `row` out.
    pub fn remove(&mut self, row: usize) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        self.words[row / 64] &= !(1 << (row % 64));
    }

    /// Puts `row` in.
    pub fn insert(&mut self, row: usize) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        self.words[row / 64] |= 1 << (row % 64);
    }

    /// Adds one more row at the end.
    pub fn push(&mut self, is_selected: bool) {
        if self.rows.is_multiple_of(64) {
            self.words.push(0);
        }
        self.words[self.rows / 64] |= u64::from(is_selected) << (self.rows % 64);
        self.rows += 1;
    }

    /// Words written before; `None` if they are not as many as `rows` rows take, or a bit beyond them is set.
    #[must_use]
    pub fn of_words(words: Vec<u64>, rows: usize) -> Option<Self> {
        let beyond = if rows.is_multiple_of(64) { 0 } else { words.last().map_or(0, |last| last >> (rows % 64)) };
        (words.len() == rows.div_ceil(64) && beyond == 0).then_some(Selection { words, rows })
    }

    /// The bits, 64 rows a word, lowest bit first. Bits beyond the last row are zero.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The same, to be narrowed a word at a time. A kernel clears bits and sets none.
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_beyond_the_last_row_are_zero() {
        for rows in [0, 1, 63, 64, 65, 128, 130] {
            let all = Selection::all(rows);
            assert_eq!(all.count(), rows as u64);
            assert_eq!(all, Selection::of(&vec![true; rows]));
            assert_eq!(Selection::none(rows), Selection::of(&vec![false; rows]));
        }
    }

    #[test]
    fn a_row_taken_out_is_out_and_the_others_stay() {
        let mut selection = Selection::all(70);
        selection.remove(64);
        assert!(!selection.contains(64));
        assert!(selection.contains(63) && selection.contains(65));
        assert_eq!(selection.count(), 69);
    }

    #[test]
    #[should_panic(expected = "row 3 of 3")]
    fn a_row_that_is_not_there_is_our_mistake() {
        let _ = Selection::all(3).contains(3);
    }
}
