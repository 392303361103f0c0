//! A batch: edits that become visible together, with reads that see them before they are.
//!
//! ```text
//!   edits     put a 1 │ put b 2 │ delete range [a, b) │ put a 3      (the order in which they were made)
//!   newest    a ▸ edit 3      b ▸ edit 1                             (per column and key, the last edit that names it)
//!   ranges    edit 2
//! ```
//!
//! A read looks the key up in `newest` and then asks whether a later range removal covers it, so it costs one lookup
//! however long the batch is.
//!
//! **Invariant.** What [`Batch::get`] answers is what the engine would answer after the batch was written.
//!
//! **Deliberately absent.** Undoing an edit: a caller that may fail evaluates first and edits last.

use super::{Column, KeyRange};
use bytes::Bytes;
use std::{collections::BTreeMap, ops::Bound};

/// One edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Sets a key.
    Put(Column, Bytes, Bytes),
    /// Removes a key.
    Delete(Column, Bytes),
    /// Removes every key from the first (inclusive) to the second (exclusive).
    DeleteRange(Column, Bytes, Bytes),
}

/// Edits in the order in which they were made.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    edits: Vec<Edit>,
    newest: [BTreeMap<Bytes, usize>; Column::ALL.len()],
    ranges: Vec<usize>,
    bytes: usize,
}

impl Batch {
    /// No edits yet.
    #[must_use]
    pub fn new() -> Self {
        Batch::default()
    }

    /// Sets a key.
    pub fn put(&mut self, column: Column, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.newest[column.slot()].insert(key.clone(), self.edits.len());
        self.edits.push(Edit::Put(column, key, value));
    }

    /// Removes a key, whether it is there or not.
    pub fn delete(&mut self, column: Column, key: impl Into<Bytes>) {
        let key = key.into();
        self.bytes += key.len();
        self.newest[column.slot()].insert(key.clone(), self.edits.len());
        self.edits.push(Edit::Delete(column, key));
    }

    /// Removes every key from `start` (inclusive) to `end` (exclusive), those put earlier in this batch included. A
    /// range that holds nothing (`start >= end`) is no edit.
    pub fn delete_range(&mut self, column: Column, start: impl Into<Bytes>, end: impl Into<Bytes>) {
        let (start, end) = (start.into(), end.into());
        if start >= end {
            return;
        }
        self.bytes += start.len() + end.len();
        self.ranges.push(self.edits.len());
        self.edits.push(Edit::DeleteRange(column, start, end));
    }

    /// What the batch says about a key: `None` = nothing, ask the engine; `Some(None)` = removed; `Some(Some(value))` =
    /// set to this.
    #[must_use]
    pub fn get(&self, column: Column, key: &[u8]) -> Option<Option<&Bytes>> {
        let named = self.newest[column.slot()].get(key).copied();
        match (named, self.last_range_over(column, key)) {
            (Some(edit), Some(range)) if range > edit => Some(None),
            (Some(edit), _) => Some(self.value_of(edit)),
            (None, Some(_)) => Some(None),
            (None, None) => None,
        }
    }

    /// The keys of a range that the batch names one by one, ascending, with what it says about them. Keys that only a
    /// range removal covers are not among them: see [`Batch::is_removed_by_range`].
    pub fn named(&self, column: Column, range: &KeyRange) -> impl DoubleEndedIterator<Item = (&Bytes, Option<&Bytes>)> {
        let end = match range.end.as_deref() {
            _ if range.is_empty() => Bound::Excluded(range.start.as_slice()),
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        self.newest[column.slot()].range::<[u8], _>((Bound::Included(range.start.as_slice()), end)).map(
            move |(key, edit)| {
                let is_removed = self.last_range_over(column, key).is_some_and(|range| range > *edit);
                (key, if is_removed { None } else { self.value_of(*edit) })
            },
        )
    }

    /// Whether a range removal of this batch covers a key that the engine may hold.
    #[must_use]
    pub fn is_removed_by_range(&self, column: Column, key: &[u8]) -> bool {
        self.last_range_over(column, key).is_some()
    }

    /// The edits, in order.
    #[must_use]
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    fn value_of(&self, edit: usize) -> Option<&Bytes> {
        match &self.edits[edit] {
            Edit::Put(_, _, value) => Some(value),
            Edit::Delete(..) | Edit::DeleteRange(..) => None,
        }
    }

    fn last_range_over(&self, column: Column, key: &[u8]) -> Option<usize> {
        self.ranges.iter().rev().copied().find(|edit| match &self.edits[*edit] {
            Edit::DeleteRange(of, start, end) => *of == column && start.as_ref() <= key && key < end.as_ref(),
            Edit::Put(..) | Edit::Delete(..) => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_batch_answers_with_its_newest_edit_and_knows_its_size() {
        let mut batch = Batch::new();
        assert!(batch.is_empty());
        batch.put(Column::Data, "a", "1");
        batch.put(Column::Data, "b", "2");
        batch.delete_range(Column::Data, "a", "b");
        assert_eq!(batch.get(Column::Data, b"a"), Some(None), "the range removal came later");
        assert_eq!(batch.get(Column::Data, b"b"), Some(Some(&Bytes::from("2"))), "the end is exclusive");
        assert_eq!(batch.get(Column::Data, b"c"), None);
        assert_eq!(batch.get(Column::Meta, b"a"), None, "columns do not see each other");
        batch.put(Column::Data, "a", "33");
        batch.delete(Column::Data, "b");
        assert_eq!(batch.get(Column::Data, b"a"), Some(Some(&Bytes::from("33"))));
        assert_eq!(batch.get(Column::Data, b"b"), Some(None));
        assert_eq!(batch.bytes(), 2 + 2 + 2 + 3 + 1);
        assert_eq!(batch.edits().len(), 5);
    }

    #[test]
    fn an_empty_range_removal_is_no_edit() {
        let mut batch = Batch::new();
        batch.delete_range(Column::Data, "b", "b");
        batch.delete_range(Column::Data, "c", "b");
        assert!(batch.is_empty());
        assert_eq!(batch.named(Column::Data, &KeyRange::new("c", Some("b"))).count(), 0);
    }

    /// A small batch over few keys, so that edits meet.
    fn edits() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
        proptest::collection::vec((0u8..3, 0u8..8, 0u8..8), 0..24)
    }

    proptest! {
        #[test]
        fn a_batch_reads_as_if_it_had_been_written(edits in edits()) {
            let mut batch = Batch::new();
            let mut model: BTreeMap<u8, Option<u8>> = BTreeMap::new();
            for (kind, first, second) in edits {
                match kind {
                    0 => {
                        batch.put(Column::Data, vec![first], vec![second]);
                        model.insert(first, Some(second));
                    }
                    1 => {
                        batch.delete(Column::Data, vec![first]);
                        model.insert(first, None);
                    }
                    _ => {
                        batch.delete_range(Column::Data, vec![first], vec![second]);
                        for key in first..second {
                            model.insert(key, None);
                        }
                    }
                }
            }
            for key in 0u8..8 {
                let said = batch.get(Column::Data, &[key]).map(|value| value.map(|bytes| bytes[0]));
                prop_assert_eq!(said, model.get(&key).copied());
            }
            for (key, value) in batch.named(Column::Data, &KeyRange::all()) {
                prop_assert_eq!(value.map(|bytes| bytes[0]), model[&key[0]]);
            }
        }
    }
}
