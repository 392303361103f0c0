//! Snapshot: a whole shard at one position, to be sent to another replica.
//!
//! ```text
//!   pin a view (O(1)) ─▶ head ─▶ data rows … ─▶ replicated meta rows … ─▶ end, with totals
//! ```
//!
//! **Invariant.** Where it stands is read from inside the view (rule S1), so head and rows are of one position. At most
//! one chunk is in memory.
//!
//! **Deliberately absent.** The diary and the sender's own place in its journal (rule S3). A file: the view is the
//! snapshot.

use super::{
    chunk::{self, Head, RowsWriter, Totals},
    state::{Applied, ShardSpec, ShardState},
};
use crate::{
    engine::{Column, Cursor, Direction, KeyRange, View},
    error::StorageError,
    keys, planted,
};
use bytes::Bytes;
use std::{collections::VecDeque, sync::Arc};

/// Bytes set aside for a chunk beforehand; a larger one grows.
const CHUNK_CAPACITY_MAX: usize = 1 << 20;

/// A pinned view of a whole shard, to be sent to another replica. Making one costs nothing; holding one keeps old
/// bytes.
pub struct ShardSnapshot {
    spec: ShardSpec,
    view: Arc<dyn View>,
    head: Head,
    sequence: u64,
    /// The range under way.
    cursor: Option<(Column, Box<dyn Cursor>)>,
    /// The ranges after it.
    ranges: VecDeque<(Column, KeyRange)>,
    /// A row that did not fit into the last chunk.
    ahead: Option<(Column, Bytes, Bytes)>,
    totals: Totals,
    is_ended: bool,
}

impl ShardSnapshot {
    pub(super) fn over(view: Arc<dyn View>, spec: ShardSpec) -> Result<Self, StorageError> {
        let ShardState { mut applied, settings, .. } = ShardState::in_view(&*view, spec)?;
        if let Some(position) = applied.position.as_mut().filter(|_| planted!("bug-snapshot-one-off")) {
            position.index = position.index.saturating_sub(1);
        }
        let range = settings.map(|settings| settings.range);
        Ok(ShardSnapshot {
            spec,
            view,
            sequence: 0,
            cursor: None,
            ranges: keys::snapshot_ranges(spec, range.as_ref()).collect(),
            head: Head { applied, range },
            ahead: None,
            totals: Totals::default(),
            is_ended: false,
        })
    }

    /// Where it stands.
    #[must_use]
    pub fn applied(&self) -> &Applied {
        &self.head.applied
    }

    /// The next chunk (self-describing, checksummed, about `bytes_max`), or `None` after the last. May wait for the
    /// disk.
    ///
    /// # Errors
    /// The engine's.
    pub fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, StorageError> {
        if self.is_ended {
            return Ok(None);
        }
        let sequence = self.sequence;
        self.sequence += 1;
        if sequence == 0 {
            return Ok(Some(chunk::encode_head(self.spec, sequence, &self.head)));
        }
        let Some((column, key, value)) = self.next_row()? else {
            self.is_ended = true;
            return Ok(Some(chunk::encode_end(self.spec, sequence, self.totals)));
        };
        let mut writer = RowsWriter::new(self.spec, sequence, column, bytes_max.min(CHUNK_CAPACITY_MAX));
        self.put(&mut writer, &key, &value);
        while let Some((next_column, key, value)) = self.next_row()? {
            if next_column != column || writer.bytes() + key.len() + value.len() > bytes_max {
                self.ahead = Some((next_column, key, value));
                break;
            }
            self.put(&mut writer, &key, &value);
        }
        self.totals.chunks += 1;
        Ok(Some(writer.finish()))
    }

    fn put(&mut self, writer: &mut RowsWriter, key: &[u8], value: &[u8]) {
        writer.put(key, value);
        self.totals.add_row(key, value);
    }

    fn next_row(&mut self) -> Result<Option<(Column, Bytes, Bytes)>, StorageError> {
        if let Some(row) = self.ahead.take() {
            return Ok(Some(row));
        }
        loop {
            if let Some((column, cursor)) = &mut self.cursor
                && let Some((key, value)) = cursor.next()?
            {
                return Ok(Some((*column, key, value)));
            }
            let Some((column, range)) = self.ranges.pop_front() else { return Ok(None) };
            self.cursor = Some((column, self.view.cursor(column, range, Direction::Forward)));
        }
    }
}
