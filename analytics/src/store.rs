//! Store: the chunks of one schema, sealed and open.
//!
//! ```text
//!   append ─▶ open rows ──65,536──▶ sealed chunk, sealed chunk, …       delete(row) marks a bit
//!                                        └── a fifth of it deleted ──compact──▶ fewer, fuller chunks
//! ```
//!
//! **Invariant.** A reader holds chunks that never change under it. A row keeps its place until a compaction, which
//! says where it went.

use crate::{
    chunk::{Builder, Cell, Chunk},
    limits::CHUNK_ROWS,
    schema::Schema,
    value::Value,
};
use std::sync::Arc;

/// Where a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPlace {
    /// The number of its chunk.
    pub chunk: u64,
    /// Its place there.
    pub row: u32,
}

/// A row that a compaction moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Where it was.
    pub from: RowPlace,
    /// Where it is.
    pub to: RowPlace,
}

/// Columns of rows.
#[derive(Debug)]
pub struct Store {
    schema: Arc<Schema>,
    sealed: Vec<Arc<Chunk>>,
    open: Builder,
    open_deleted: Vec<u32>,
    next_id: u64,
}

impl Store {
    /// No rows yet.
    #[must_use]
    pub fn new(schema: Schema) -> Store {
        let open = builder_of(&schema);
        Store { schema: Arc::new(schema), sealed: Vec::new(), open, open_deleted: Vec::new(), next_id: 0 }
    }

    /// Chunks that were sealed before, as a file holds them.
    #[must_use]
    pub fn of_chunks(schema: Schema, chunks: Vec<Arc<Chunk>>) -> Store {
        let next_id = chunks.iter().map(|chunk| chunk.id() + 1).max().unwrap_or(0);
        Store { sealed: chunks, next_id, ..Store::new(schema) }
    }

    /// Its columns.
    #[must_use]
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Appends a row: a cell a column, in the order of the schema.
    ///
    /// # Panics
    /// If there are more or fewer cells, or one is of another kind.
    pub fn append<'a>(&mut self, cells: impl IntoIterator<Item = Cell<'a>>) -> RowPlace {
        let place = RowPlace { chunk: self.next_id, row: self.open.rows() as u32 };
        for (column, cell) in cells.into_iter().enumerate() {
            self.open.push(column, cell);
        }
        self.open.end_row();
        if self.open.is_full() {
            self.seal();
        }
        place
    }

    /// Seals the open rows, few as they may be.
    pub fn seal(&mut self) {
        if self.open.rows() > 0 {
            let chunk = self.open.seal(self.next_id);
            self.sealed.push(Arc::new(without_rows(chunk, &self.open_deleted)));
            self.open_deleted.clear();
            self.next_id += 1;
        }
    }

    /// Deletes a row; whether it was there.
    pub fn delete(&mut self, place: RowPlace) -> bool {
        if place.chunk == self.next_id {
            let is_there = (place.row as usize) < self.open.rows() && !self.open_deleted.contains(&place.row);
            if is_there {
                self.open_deleted.push(place.row);
            }
            return is_there;
        }
        let Some(chunk) = self.sealed.iter_mut().find(|chunk| chunk.id() == place.chunk) else { return false };
        let less = ((place.row as usize) < chunk.rows()).then(|| chunk.without(place.row as usize)).flatten();
        let is_deleted = less.is_some();
        if let Some(less) = less {
            *chunk = Arc::new(less);
        }
        is_deleted
    }

    /// What a reader sees now: the sealed chunks, and the open rows as one more.
    #[must_use]
    pub fn chunks(&self) -> Vec<Arc<Chunk>> {
        let mut chunks = self.sealed.clone();
        if self.open.rows() > 0 {
            chunks.push(Arc::new(without_rows(self.open.snapshot(self.next_id), &self.open_deleted)));
        }
        chunks
    }

    /// Rewrites the chunks of which a fifth or more is deleted, without the deleted rows. Says where rows went.
    pub fn compact(&mut self) -> Vec<Moved> {
        self.seal();
        let is_hollow = |chunk: &Arc<Chunk>| (chunk.rows() - chunk.rows_alive()) * 5 >= chunk.rows().max(1);
        let (hollow, sound): (Vec<_>, Vec<_>) = self.sealed.drain(..).partition(is_hollow);
        self.sealed = sound;
        let mut moved = Vec::new();
        for chunk in hollow {
            for row in (0..chunk.rows()).filter(|row| chunk.deleted().is_none_or(|deleted| !deleted.contains(*row))) {
                let values: Vec<Value> = chunk.columns().iter().map(|column| column.get(row)).collect();
                let to = self.append(values.iter().map(cell_of));
                moved.push(Moved { from: RowPlace { chunk: chunk.id(), row: row as u32 }, to });
            }
        }
        self.seal();
        moved
    }

    /// Rows that are not deleted.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let sealed: usize = self.sealed.iter().map(|chunk| chunk.rows_alive()).sum();
        (sealed + self.open.rows() - self.open_deleted.len()) as u64
    }

    /// Bytes of the sealed chunks.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sealed.iter().map(|chunk| chunk.bytes() as u64).sum()
    }
}

/// A value as a cell.
///
/// # Panics
/// For what no column holds: wide numbers and lists.
#[must_use]
pub fn cell_of(value: &Value) -> Cell<'_> {
    match value {
        Value::Text(text) => Cell::Text(text),
        Value::Missing => Cell::Missing,
        Value::Wide(_) | Value::List(_) => panic!("no column holds wide numbers or lists"),
        Value::I64(_) | Value::F64(_) | Value::Bool(_) | Value::Timestamp(_) => {
            Cell::Pattern(value.pattern().expect("numbers have one"))
        }
    }
}

fn builder_of(schema: &Schema) -> Builder {
    Builder::new(schema.fields().iter().map(|field| field.kind))
}

fn without_rows(chunk: Chunk, deleted: &[u32]) -> Chunk {
    deleted.iter().fold(chunk, |chunk, row| chunk.without(*row as usize).unwrap_or(chunk))
}

// A row's place has 32 bits.
const _: () = assert!(CHUNK_ROWS <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn store(rows: u64) -> Store {
        let mut store = Store::new(Schema::parse("n:i64,t:text").unwrap());
        for row in 0..rows {
            store.append([Cell::Pattern(row), if row % 2 == 0 { Cell::Text("even") } else { Cell::Missing }]);
        }
        store
    }

    fn numbers(store: &Store) -> Vec<i64> {
        let mut found = Vec::new();
        for chunk in store.chunks() {
            for row in (0..chunk.rows()).filter(|row| chunk.deleted().is_none_or(|gone| !gone.contains(*row))) {
                if let Value::I64(number) = chunk.columns()[0].get(row) {
                    found.push(number);
                }
            }
        }
        found
    }

    #[test]
    fn full_chunks_are_sealed_and_open_rows_are_seen() {
        let store = store(CHUNK_ROWS as u64 + 3);
        let chunks = store.chunks();
        assert_eq!(chunks.iter().map(|chunk| chunk.rows()).collect::<Vec<_>>(), [CHUNK_ROWS, 3]);
        assert_eq!(store.rows(), CHUNK_ROWS as u64 + 3);
        assert_eq!(chunks[1].columns()[1].get(1), Value::Missing, "row 65,537 is odd");
    }

    #[test]
    fn a_deleted_row_is_gone_for_new_readers_and_stays_for_old_ones() {
        let mut store = store(10);
        let before = store.chunks();
        assert!(store.delete(RowPlace { chunk: 0, row: 4 }));
        assert!(!store.delete(RowPlace { chunk: 0, row: 4 }), "twice");
        assert!(!store.delete(RowPlace { chunk: 0, row: 10 }), "never there");
        assert!(!store.delete(RowPlace { chunk: 9, row: 0 }), "no such chunk");
        assert_eq!(numbers(&store), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
        assert_eq!(before[0].rows_alive(), 10);
        store.seal();
        assert!(store.delete(RowPlace { chunk: 0, row: 0 }));
        assert_eq!(store.rows(), 8);
    }

    #[test]
    fn compaction_drops_what_is_deleted_and_says_where_the_rest_went() {
        let mut store = store(10);
        store.seal();
        store.append([Cell::Pattern(100), Cell::Missing]);
        assert!(store.delete(RowPlace { chunk: 0, row: 1 }) && store.delete(RowPlace { chunk: 0, row: 8 }));
        let moved = store.compact();
        assert_eq!(numbers(&store), [100, 0, 2, 3, 4, 5, 6, 7, 9]);
        assert_eq!(moved.len(), 8);
        let to = moved.iter().find(|moved| moved.from == RowPlace { chunk: 0, row: 9 }).unwrap().to;
        assert!(store.delete(to));
        assert_eq!(numbers(&store), [100, 0, 2, 3, 4, 5, 6, 7]);
        assert!(store.compact().is_empty(), "an eighth is not worth it");
    }
}
