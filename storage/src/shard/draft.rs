//! Draft: what the engine will hold once the batch is written.
//!
//! ```text
//!   get, walk ──▶ batch so far ──▶ engine
//!   put, delete ─▶ batch, and the rolling hash of the entry under way
//! ```
//!
//! **Invariant.** What a draft answers does not depend on where runs of entries were cut: an edit of the batch and a
//! row of the engine look the same. So does the hash, which is taken over edits, entry by entry.

use crate::{
    engine::{Batch, Column, Cursor, Direction, Engine, KeyRange, View},
    error::StorageError,
};
use bytes::Bytes;
use kvorum_api::LogPosition;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// What the engine will hold once the batch is written.
pub(super) struct Draft<'a> {
    engine: &'a dyn Engine,
    view: Option<Arc<dyn View>>,
    batch: Batch,
    hash: Xxh3,
}

impl<'a> Draft<'a> {
    pub(super) fn new(engine: &'a dyn Engine) -> Self {
        Draft { engine, view: None, batch: Batch::new(), hash: Xxh3::new() }
    }

    /// Begins the hash of an entry, chained to the one before it.
    pub(super) fn begin_entry(&mut self, hash_before: u128, position: LogPosition) {
        self.hash.reset();
        self.hash.update(&hash_before.to_be_bytes());
        self.hash.update(&position.index.to_be_bytes());
    }

    /// Adds bytes to the hash of the entry that are written, but not as a row of their own.
    pub(super) fn hash(&mut self, bytes: &[u8]) {
        self.hash.update(&(bytes.len() as u64).to_be_bytes());
        self.hash.update(bytes);
    }

    /// The hash of the entry.
    pub(super) fn end_entry(&self) -> u128 {
        self.hash.digest128()
    }

    pub(super) fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self.batch.get(column, key) {
            Some(drafted) => Ok(drafted.cloned()),
            None => self.engine.get(column, key),
        }
    }

    pub(super) fn put(&mut self, column: Column, key: Bytes, value: Bytes) {
        self.hash.update(&[column as u8, 1]);
        self.hash(&key);
        self.hash(&value);
        self.batch.put(column, key, value);
    }

    pub(super) fn delete(&mut self, column: Column, key: Bytes) {
        self.hash.update(&[column as u8, 2]);
        self.hash(&key);
        self.batch.delete(column, key);
    }

    /// Adds a change record. Left out of the hash: it says nothing that the rows and the next seq do not.
    pub(super) fn put_change(&mut self, key: Bytes, value: Bytes) {
        self.batch.put(Column::Changes, key, value);
    }

    /// Walks the rows of a range upwards. The draft may be edited between two steps, behind the walk.
    pub(super) fn walk(&mut self, column: Column, range: KeyRange) -> Walk {
        // Nobody else writes this shard's rows during a run, so the first view serves all walks of the run.
        let view = self.view.get_or_insert_with(|| self.engine.view());
        let cursor = view.cursor(column, range.clone(), Direction::Forward);
        Walk { column, range, cursor, ahead: None, is_drained: false }
    }

    /// The batch, to be completed and written.
    pub(super) fn into_batch(self) -> Batch {
        self.batch
    }
}

/// Walks the rows of a draft.
pub(super) struct Walk {
    column: Column,
    range: KeyRange,
    cursor: Box<dyn Cursor>,
    ahead: Option<(Bytes, Bytes)>,
    is_drained: bool,
}

impl Walk {
    /// The next row, or `None` at the end.
    pub(super) fn next(&mut self, draft: &Draft<'_>) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        self.look_ahead(draft)?;
        let drafted = draft
            .batch
            .named(self.column, &self.range)
            .find_map(|(key, value)| value.map(|value| (key.clone(), value.clone())));
        let row = match (self.ahead.take(), drafted) {
            (Some(stored), Some(drafted)) if drafted.0 < stored.0 => {
                self.ahead = Some(stored);
                Some(drafted)
            }
            (Some(stored), _) => Some(stored),
            (None, drafted) => drafted,
        };
        if let Some((key, _)) = &row {
            // The smallest key above.
            self.range.start = [key.as_ref(), &[0]].concat();
        }
        Ok(row)
    }

    /// Finds the next row of the engine of which the draft says nothing.
    fn look_ahead(&mut self, draft: &Draft<'_>) -> Result<(), StorageError> {
        while !self.is_drained {
            if self.ahead.as_ref().is_some_and(|(key, _)| draft.batch.get(self.column, key).is_none()) {
                return Ok(());
            }
            self.ahead = self.cursor.next()?;
            self.is_drained = self.ahead.is_none();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::mem::MemEngine;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_walk_sees_stored_and_drafted_rows_alike(
            stored in proptest::collection::btree_map(0u8..20, any::<u8>(), 0..12),
            edits in proptest::collection::vec((0u8..20, any::<Option<u8>>()), 0..12),
            later in proptest::collection::vec((0u8..20, any::<Option<u8>>()), 0..12),
            from in 0u8..20,
        ) {
            let engine = MemEngine::fresh();
            let mut batch = Batch::new();
            for (key, value) in &stored {
                batch.put(Column::Meta, vec![*key], vec![*value]);
            }
            engine.write(&batch).unwrap();
            let mut draft = Draft::new(&*engine);
            let mut model: BTreeMap<u8, u8> = stored;
            let edit = |draft: &mut Draft<'_>, model: &mut BTreeMap<u8, u8>, key: u8, value: Option<u8>| match value {
                Some(value) => {
                    draft.put(Column::Meta, Bytes::from(vec![key]), Bytes::from(vec![value]));
                    model.insert(key, value);
                }
                None => {
                    draft.delete(Column::Meta, Bytes::from(vec![key]));
                    model.remove(&key);
                }
            };
            for (key, value) in edits {
                edit(&mut draft, &mut model, key, value);
            }
            let mut walk = draft.walk(Column::Meta, KeyRange::new(vec![from], Some(vec![18u8])));
            let mut at = from;
            let mut later = later.into_iter();
            loop {
                let expected = model.range(at..18.max(at)).next().map(|(key, value)| (*key, *value));
                let row = walk.next(&draft).unwrap().map(|(key, value)| (key[0], value[0]));
                prop_assert_eq!(row, expected);
                let Some((key, _)) = row else { break };
                at = key + 1;
                if let Some((key, value)) = later.next() {
                    edit(&mut draft, &mut model, key, value);
                }
            }
        }
    }
}
