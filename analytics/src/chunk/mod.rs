//! # Chunk: up to 65,536 rows, column by column
//!
//! ```text
//!   chunk ─┬─ column origin    dictionary │ codes     │ validity │ zone
//!          ├─ column distance  base       │ numbers   │          │ zone
//!          └─ deleted: one bit a row, or none
//!
//!   builder ──seal──▶ Chunk ──codec──▶ bytes with a version and a checksum
//! ```
//!
//! **Invariant.** A sealed chunk never changes: deleting a row makes a new chunk that shares the columns. Its bytes are
//! the same on a processor and on a GPU.

mod builder;
mod codec;
mod column;
mod dictionary;
mod encode;
pub mod packed;
mod selection;

pub use builder::{Builder, Cell};
pub use codec::{DecodeError, decode_chunk, encode_chunk, read_chunks, write_chunks};
pub use column::{Column, Encoding, Zone};
pub use dictionary::Dictionary;
pub use packed::{Lanes, Packed};
pub use selection::Selection;

use std::sync::Arc;

/// A sealed chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    id: u64,
    rows: usize,
    columns: Arc<[Column]>,
    deleted: Option<Arc<Selection>>,
}

impl Chunk {
    /// A chunk of columns of the same length.
    ///
    /// # Panics
    /// If their lengths differ.
    #[must_use]
    pub fn new(id: u64, rows: usize, columns: Vec<Column>) -> Chunk {
        assert!(columns.iter().all(|column| column.rows() == rows), "columns of one chunk have the same rows");
        Chunk { id, rows, columns: columns.into(), deleted: None }
    }

    /// Its number in its store.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How many rows, deleted ones included.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many rows are not deleted.
    #[must_use]
    pub fn rows_alive(&self) -> usize {
        self.rows - self.deleted.as_ref().map_or(0, |deleted| deleted.count() as usize)
    }

    /// The columns, in the order of the schema.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Which rows are deleted; `None` = none.
    #[must_use]
    pub fn deleted(&self) -> Option<&Selection> {
        self.deleted.as_deref()
    }

    /// The same chunk without `row`. `None` if it was deleted before.
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn without(&self, row: usize) -> Option<Chunk> {
        let mut deleted = self.deleted.as_deref().cloned().unwrap_or_else(|| Selection::none(self.rows));
        if deleted.contains(row) {
            return None;
        }
        deleted.insert(row);
        Some(Chunk { deleted: Some(Arc::new(deleted)), ..self.clone() })
    }

    /// Bytes of memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum::<usize>()
            + self.deleted.as_ref().map_or(0, |deleted| deleted.words().len() * 8)
    }
}
