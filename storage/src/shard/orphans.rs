//! Orphans: what dropped shards have left in the engine, once no replica knows of them any more.
//!
//! ```text
//!   diary, state, position   of each shard that is named        ┐
//!   rows                     of every keyspace that is no more  ┴─▶ one batch ─▶ flush ─▶ discard the stages
//! ```
//!
//! A node that learns only after a restart that a shard was dropped has nothing but its number: the range and even the
//! keyspace of its rows may be unknown. A keyspace that is no more has no living shard, so all its rows go.
//!
//! **Invariant.** What belongs to a living shard is untouched: diary and state are named by shard, and rows go only
//! with their whole keyspace. Durable when it has succeeded; repeating it is harmless.
//!
//! **Deliberately absent.** Which shards and keyspaces are no more: who calls has a map. A shard that still has a
//! replica: it is removed by [`Shard::remove`](super::Shard::remove), which also keeps everybody out.

use crate::{
    engine::{Batch, Column, Direction, Engine, KeyRange, View},
    error::StorageError,
    keys,
};
use kvorum_api::{KeyspaceId, ShardId};

/// What nobody holds any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Shards that were dropped.
    pub shards: Vec<ShardId>,
    /// The ids of what lies staged for them.
    pub stages: Vec<u64>,
}

impl Orphans {
    /// Removes everything of these shards from the engine, and the rows of every keyspace of which `is_no_more` says
    /// so. Looks once at each keyspace that has rows.
    ///
    /// # Errors
    /// The engine's: then it is to be repeated.
    pub fn erase(&self, engine: &dyn Engine, is_no_more: impl Fn(KeyspaceId) -> bool) -> Result<(), StorageError> {
        let view = engine.view();
        let mut batch = Batch::new();
        for (column, range) in self.shards.iter().flat_map(|shard| keys::own_ranges(*shard)) {
            if first_key(&*view, column, range.clone())?.is_some() {
                remove(&mut batch, column, range);
            }
        }
        for keyspace in keyspaces(&*view)?.into_iter().filter(|keyspace| is_no_more(*keyspace)) {
            remove(&mut batch, Column::Data, keys::keyspace_range(keyspace));
        }
        if !batch.is_empty() {
            engine.write(&batch)?;
        }
        // Also after an attempt that has written and was not flushed.
        engine.flush()?;
        self.stages.iter().try_for_each(|stage| engine.discard_stage(*stage))
    }
}

/// Keyspaces that have rows, found by seeking from one to the next.
fn keyspaces(view: &dyn View) -> Result<Vec<KeyspaceId>, StorageError> {
    let mut found = Vec::new();
    let mut rest = KeyRange::all();
    while let Some(key) = first_key(view, Column::Data, rest)? {
        let keyspace = keys::keyspace_of(&key);
        found.push(keyspace);
        let Some(next) = keys::keyspace_range(keyspace).end else { break };
        rest = KeyRange { start: next, end: None };
    }
    Ok(found)
}

fn first_key(view: &dyn View, column: Column, range: KeyRange) -> Result<Option<bytes::Bytes>, StorageError> {
    Ok(view.cursor(column, range, Direction::Forward).next()?.map(|(key, _)| key))
}

fn remove(batch: &mut Batch, column: Column, range: KeyRange) {
    let end = range.end.expect("the last shard and the last keyspace are reserved");
    batch.delete_range(column, range.start, end);
}
