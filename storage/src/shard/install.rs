//! Install: replaces everything a shard has by a staged snapshot.
//!
//! ```text
//!   InstallBegin is durable ─▶ remove every row, flush ─▶ ingest ─▶ position and diary, flush ─▶ InstallDone
//!                                       ▲                                          │
//!                                       └────────── power lost anywhere ───────────┘
//! ```
//!
//! What is removed is what the replica's own settings name and what the snapshot names: a replica without settings has
//! no rows but those that an interrupted attempt took in, and its neighbours in the keyspace are none of its affair.
//!
//! **Invariant.** A redo: whatever an interrupted attempt left behind, the next one ends in the same state. Until one
//! has succeeded the shard answers nothing.
//!
//! **Deliberately absent.** The journal: who calls writes `InstallBegin` before and `InstallDone` after (rule S4).

use super::{Shard, receive::StagedSnapshot, state::ShardState};
use crate::{
    engine::{Batch, Column},
    error::StorageError,
    keys::{self, MetaKind},
};
use kvorum_api::PlacementRange;

impl Shard {
    /// Replaces everything by a staged snapshot. A redo: the caller has `InstallBegin` durable before and writes
    /// `InstallDone` after; repeating it is harmless. Reads and applies are refused meanwhile, and after a failure.
    ///
    /// # Errors
    /// The engine's, or a stage that does not verify.
    ///
    /// # Panics
    /// If the snapshot is another shard's.
    pub fn install(&self, staged: &StagedSnapshot) -> Result<(), StorageError> {
        assert_eq!(staged.spec, self.spec, "a snapshot is installed into its own shard");
        let mut clients = self.writer.lock();
        self.begin_installing();
        self.engine.verify_stage(&staged.manifest)?;
        self.remove_rows(staged.range.as_ref())?;
        self.engine.ingest(&staged.manifest)?;
        self.put_own_records(staged)?;
        clients.clear();
        self.publish(self.load()?);
        self.end_installing();
        Ok(())
    }

    /// Removes everything that the engine holds of the shard, and its rows in `range`. Flushed before anything is taken
    /// in, so that no removal still in memory can meet the rows that come. One batch: where the range is forgotten, the
    /// rows in it are gone.
    pub(super) fn remove_rows(&self, range: Option<&PlacementRange>) -> Result<(), StorageError> {
        let state = ShardState::in_view(&*self.engine.view(), self.spec)?;
        let mut batch = Batch::new();
        let ranges = keys::shard_ranges(self.spec, state.range());
        let more = range.map(|range| (Column::Data, keys::data_range(self.spec.keyspace, range)));
        for (column, range) in ranges.chain(more) {
            let end = range.end.expect("the last shard and the last keyspace are reserved");
            batch.delete_range(column, range.start, end);
        }
        self.engine.write(&batch)?;
        self.engine.flush()
    }

    /// What a snapshot does not carry because it is each replica's own. The position comes last: where it is found,
    /// everything else is there.
    fn put_own_records(&self, staged: &StagedSnapshot) -> Result<(), StorageError> {
        let mut state = ShardState::in_view(&*self.engine.view(), self.spec)?;
        state.applied = staged.applied.clone();
        // Rule S3: the diary does not travel, so this replica's begins here.
        state.change_oldest_seq = state.change_next_seq;
        state.change_bytes = 0;
        let mut batch = Batch::new();
        batch.put(Column::Meta, keys::meta_key(MetaKind::Position, self.spec.shard), state.applied.encode());
        state.put_diary_into(&mut batch, self.spec.shard);
        self.engine.write(&batch)?;
        self.engine.flush()
    }
}
