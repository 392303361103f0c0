//! Remove: everything a shard has in the engine goes; its keyspace was dropped.
//!
//! ```text
//!   refuse everybody ─▶ remove every row, flush ─▶ discard its stages
//!          ▲                                 │
//!          └───── power lost anywhere ───────┘
//! ```
//!
//! **Invariant.** A redo, as installing is: rows and the settings that say which rows are the shard's go in one batch,
//! so that an interrupted attempt leaves all or nothing to the next one. Neighbours in the same keyspace are untouched.
//!
//! **Deliberately absent.** The journal: who calls has marked the replica as removed, and repeats the call after a
//! crash until it has succeeded.

use super::{Shard, receive::StagedSnapshot};
use crate::error::StorageError;

impl Shard {
    /// Removes everything of the shard from the engine: rows, diary, replicated state, position, and `stages`, the ids
    /// of what lies staged for it. `begun` is the installation that an open `InstallBegin` names: an interrupted one
    /// may have taken rows in of which nothing else here knows. Repeating it is harmless. From the moment it begins,
    /// the shard answers `Installing` for ever; one of that id that is opened afterwards is pristine.
    ///
    /// # Errors
    /// The engine's: then it is to be repeated.
    pub fn remove(&self, begun: Option<&StagedSnapshot>, stages: &[u64]) -> Result<(), StorageError> {
        let mut clients = self.writer.lock();
        self.begin_installing();
        clients.clear();
        self.remove_rows(begun.and_then(|begun| begun.range.as_ref()))?;
        stages.iter().try_for_each(|stage| self.engine.discard_stage(*stage))?;
        // Whoever follows the diary looks up and is told.
        self.tail.send_replace(u64::MAX);
        Ok(())
    }
}
