//! Scan: rows in placement order, over one unmoving view.
//!
//! **Invariant.** All rows are of one position, whatever is written meanwhile, and of the shard's own range, whatever
//! is asked for; at most one portion of them is in memory.
//!
//! **Deliberately absent.** A deadline: who holds a scan keeps old bytes alive and is the one who ends it.

use super::state::{Applied, ShardSpec, ShardState};
use crate::{
    engine::{Column, Cursor, Direction, KeyRange, View},
    entry::Entry,
    error::StorageError,
    keys,
};
use bytes::Bytes;
use kvorum_api::{LogPosition, PlacementRange};

/// What a scan walks, in placement keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanRange {
    /// First key, inclusive; empty = from the first.
    pub start: Bytes,
    /// First key beyond; `None` = to the last.
    pub end: Option<Bytes>,
    /// Whether to walk downwards.
    pub reverse: bool,
    /// Whether to leave the values out: entries then carry an empty one.
    pub keys_only: bool,
}

/// One row of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its placement key.
    pub key: Bytes,
    /// What is stored there.
    pub entry: Entry,
}

impl Row {
    fn bytes(&self) -> usize {
        self.key.len() + self.entry.value.as_ref().map_or(0, Bytes::len)
    }
}

/// A scan over one unmoving view.
pub struct Scan {
    cursor: Box<dyn Cursor>,
    applied: Applied,
    change_next_seq: u64,
    time_ms: u64,
    keys_only: bool,
    /// A row that did not fit into the last portion.
    ahead: Option<Row>,
}

impl Scan {
    pub(crate) fn over(view: &dyn View, spec: ShardSpec, state: &ShardState, range: &ScanRange) -> Self {
        let asked = PlacementRange { start: range.start.clone(), end: range.end.clone() };
        let bounds = match state.range() {
            Some(own) => keys::data_range(spec.keyspace, &own.intersection(&asked)),
            None => KeyRange::new([], Some([])),
        };
        let direction = if range.reverse { Direction::Reverse } else { Direction::Forward };
        Scan {
            cursor: view.cursor(Column::Data, bounds, direction),
            applied: state.applied.clone(),
            change_next_seq: state.change_next_seq,
            time_ms: state.logged_time_ms,
            keys_only: range.keys_only,
            ahead: None,
        }
    }

    /// Where the replica stood when the view was taken.
    #[must_use]
    pub fn position(&self) -> Option<LogPosition> {
        self.applied.position
    }

    /// The seq of the first change that is not in these rows: who has them all goes on with
    /// [`Shard::changes`](super::Shard::changes) from here.
    #[must_use]
    pub fn change_next_seq(&self) -> u64 {
        self.change_next_seq
    }

    /// The next rows, at least one unless at the end, then until `bytes_max` or `rows_max`. Empty = end. May wait for
    /// the disk.
    ///
    /// # Errors
    /// The engine's.
    pub fn next(&mut self, bytes_max: usize, rows_max: usize) -> Result<Vec<Row>, StorageError> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while rows.is_empty() || rows.len() < rows_max {
            let Some(row) = self.next_row()? else { break };
            bytes += row.bytes();
            if bytes > bytes_max && !rows.is_empty() {
                self.ahead = Some(row);
                break;
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn next_row(&mut self) -> Result<Option<Row>, StorageError> {
        if let Some(row) = self.ahead.take() {
            return Ok(Some(row));
        }
        while let Some((key, value)) = self.cursor.next()? {
            let mut entry = Entry::decode(value)?;
            if entry.is_gone(self.time_ms) {
                continue;
            }
            if self.keys_only {
                entry.value = Some(Bytes::new());
            }
            return Ok(Some(Row { key: keys::placement_key(&key), entry }));
        }
        Ok(None)
    }
}
