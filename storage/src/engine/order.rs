//! The order in which rows enter a stage: ascending keys within a column, one column after the other.
//!
//! **Invariant.** Both engines refuse the same sequences, so that a mistake shows in the simulation first.
//!
//! **Deliberately absent.** Sorting: whoever stages rows reads them from something ordered.

use super::Column;
use crate::error::StorageError;
use bytes::{Bytes, BytesMut};

/// Checks the order of rows.
#[derive(Debug, Default)]
pub(super) struct RowOrder {
    begun: Vec<Column>,
    last_key: BytesMut,
}

/// Where an admitted row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It opens its column: rows of the former one are complete.
    FirstOfColumn,
    /// It follows another row of its column.
    Following,
}

impl RowOrder {
    /// Admits a row, or says why it must not come now.
    pub(super) fn admit(&mut self, column: Column, key: &[u8]) -> Result<Admitted, StorageError> {
        let is_current = self.begun.last() == Some(&column);
        if !is_current && self.begun.contains(&column) {
            return Err(StorageError::Engine(format!("stage: column {} is already complete", column.name())));
        }
        if is_current && key <= self.last_key.as_ref() {
            let (key, last_key) = (Bytes::copy_from_slice(key), &self.last_key);
            return Err(StorageError::Engine(format!("stage: key {key:?} does not come after {last_key:?}")));
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        if is_current {
            return Ok(Admitted::Following);
        }
        self.begun.push(column);
        Ok(Admitted::FirstOfColumn)
    }
}
