//! Unmoving views of RocksDB that own what they borrow.
//!
//! ```text
//!   cursor ──owns──▶ pinned snapshot ──owns──▶ database and its column handles
//! ```
//!
//! **Invariant.** A snapshot is released before its database closes, and an iterator before its snapshot: each is owned
//! by the next.
//!
//! **Deliberately absent.** Deadlines: whoever holds a view bounds how long.

use super::{Database, failure::engine_error};
use crate::{
    engine::{Column, Cursor, Direction, KeyRange, View},
    error::StorageError,
};
use bytes::Bytes;
use rocksdb::{DB, DBRawIteratorWithThreadMode, ReadOptions, Snapshot};
use self_cell::self_cell;
use std::sync::Arc;

type RawIterator<'view> = DBRawIteratorWithThreadMode<'view, DB>;

self_cell!(
    struct Pinned {
        owner: Arc<Database>,
        #[covariant]
        dependent: Snapshot,
    }
);

self_cell!(
    struct Walk {
        owner: Arc<Pinned>,
        #[covariant]
        dependent: RawIterator,
    }
);

/// A snapshot of the database.
pub(super) struct RocksView {
    pinned: Arc<Pinned>,
}

impl RocksView {
    pub(super) fn of(database: Arc<Database>) -> Self {
        RocksView { pinned: Arc::new(Pinned::new(database, |database| database.db().snapshot())) }
    }
}

impl View for RocksView {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let handle = self.pinned.borrow_owner().handle(column);
        let value = self.pinned.borrow_dependent().get_pinned_cf(handle, key);
        let value = value.map_err(|error| engine_error("read", &error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn cursor(&self, column: Column, range: KeyRange, direction: Direction) -> Box<dyn Cursor> {
        if range.is_empty() {
            // RocksDB does not accept bounds that cross.
            return Box::new(RocksCursor { walk: None, direction });
        }
        let mut options = ReadOptions::default();
        // A walk comes once: its blocks must not push out what is read by key.
        options.fill_cache(false);
        options.set_iterate_lower_bound(range.start);
        if let Some(end) = range.end {
            options.set_iterate_upper_bound(end);
        }
        let mut walk = Walk::new(Arc::clone(&self.pinned), |pinned| {
            pinned.borrow_dependent().raw_iterator_cf_opt(pinned.borrow_owner().handle(column), options)
        });
        walk.with_dependent_mut(|_, iterator| match direction {
            Direction::Forward => iterator.seek_to_first(),
            Direction::Reverse => iterator.seek_to_last(),
        });
        Box::new(RocksCursor { walk: Some(walk), direction })
    }
}

/// Walks one range of a snapshot.
struct RocksCursor {
    /// `None` after the end, so that a finished cursor holds nothing.
    walk: Option<Walk>,
    direction: Direction,
}

impl Cursor for RocksCursor {
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        let Some(walk) = &mut self.walk else { return Ok(None) };
        let direction = self.direction;
        let step = walk.with_dependent_mut(|_, iterator| {
            let Some((key, value)) = iterator.item() else { return iterator.status().map(|()| None) };
            let row = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            match direction {
                Direction::Forward => iterator.next(),
                Direction::Reverse => iterator.prev(),
            }
            Ok(Some(row))
        });
        let row = step.map_err(|error| engine_error("scan", &error))?;
        if row.is_none() {
            self.walk = None;
        }
        Ok(row)
    }
}
