//! A batch: edits that become visible together, with reads that see them before they are.

use super::Column;
use bytes::Bytes;

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
    bytes: usize,
}

impl Batch {
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
}
