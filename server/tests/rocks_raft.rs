//! openraft's storage suite over the files of a journal and RocksDB: what `kvd` runs on.

use kvorum_consensus::cp::suite::openraft_storage_suite;
use kvorum_storage::{
    engine::rocks::{RocksEngine, RocksOptions},
    journal::{FileJournal, JournalOptions},
};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_on_disk_passes_openrafts_suite() {
    let options = JournalOptions { segment_bytes: 1 << 20, ..JournalOptions::small() };
    openraft_storage_suite(|| {
        let directory = tempfile::tempdir().unwrap();
        let journal = FileJournal::open(&directory.path().join("journal"), options.clone()).unwrap();
        let engine = RocksEngine::open(&directory.path().join("engine"), &RocksOptions::default()).unwrap();
        (journal, Arc::new(engine), Box::new(directory))
    })
    .await;
}
