//! openraft's own storage suite over a journal and an engine of ours.

use super::{
    log_store::LogStore,
    state_machine::StateMachine,
    store::{ReplicaStore, to_io},
    types::Types,
};
use crate::health::Health;
use kvorum_api::{KeyspaceId, ShardId};
use kvorum_storage::{Blocking, Engine, Journal, Shard, shard::ShardSpec};
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use std::sync::{Arc, atomic::Ordering};

/// A journal and an engine that nobody has used, and what keeps their files alive.
pub type Fresh = (Arc<dyn Journal>, Arc<dyn Engine>, Box<dyn std::any::Any + Send + Sync>);

struct Builder<F>(F);

impl<F> StoreBuilder<Types, LogStore, StateMachine, Box<dyn std::any::Any + Send + Sync>> for Builder<F>
where
    F: Fn() -> Fresh + Send + Sync,
{
    async fn build(
        &self,
    ) -> Result<(Box<dyn std::any::Any + Send + Sync>, LogStore, StateMachine), StorageError<Types>> {
        let (journal, engine, keep) = (self.0)();
        let spec = ShardSpec { shard: ShardId(1), keyspace: KeyspaceId(1) };
        let store = Shard::open(engine.clone(), spec).and_then(|shard| {
            ReplicaStore::open((journal, engine, Blocking::inline()), shard, Arc::new(Health::default()), 1 << 20)
        });
        let store = store.map_err(|error| {
            StorageError::from_io_error(openraft::ErrorSubject::Store, openraft::ErrorVerb::Read, to_io(error))
        })?;
        store.is_starting.store(false, Ordering::Release);
        Ok((keep, LogStore::new(store.clone()), StateMachine::new(store)))
    }
}

/// Runs the suite; panics at the first rule that is broken.
///
/// # Panics
/// When a rule is broken.
pub async fn openraft_storage_suite(fresh: impl Fn() -> Fresh + Send + Sync) {
    Suite::test_all(Builder(fresh)).await.expect("openraft's storage suite");
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::{
        engine::mem::MemEngine,
        journal::{FileJournal, JournalOptions, MemDisk, MemJournal},
    };

    #[tokio::test]
    async fn the_store_in_memory_passes_openrafts_suite() {
        openraft_storage_suite(|| {
            let journal = MemJournal::open(MemDisk::new(), JournalOptions::small()).unwrap();
            (journal, MemEngine::fresh(), Box::new(()))
        })
        .await;
    }

    /// `server` runs the other half: files and RocksDB.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_store_over_a_file_journal_passes_openrafts_suite() {
        let options = JournalOptions { segment_bytes: 1 << 20, ..JournalOptions::small() };
        openraft_storage_suite(|| {
            let directory = tempfile::tempdir().unwrap();
            let journal = FileJournal::open(directory.path(), options.clone()).unwrap();
            (journal, MemEngine::fresh(), Box::new(directory))
        })
        .await;
    }
}
