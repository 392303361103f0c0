//! The RocksDB half of the shard's suite. It runs here, so that the tests of the crates below never build RocksDB.
//!
//! **Invariant.** Losing power is an image of the directory taken while the engine runs: no code of a closing engine
//! has touched it.

#![expect(clippy::unwrap_used, reason = "the helpers of a test are a test")]

mod image;

use image::image;
use kvorum_storage::{
    Engine,
    engine::rocks::{RocksEngine, RocksOptions},
    shard::suite::{Lab, cases},
};
use std::sync::Arc;
use tempfile::TempDir;

/// A directory in which every life has one of its own.
struct RocksLab {
    root: TempDir,
    life: u32,
}

impl Lab for RocksLab {
    fn begin_life(&mut self) -> Arc<dyn Engine> {
        let former = self.root.path().join(self.life.to_string());
        self.life += 1;
        let directory = self.root.path().join(self.life.to_string());
        if former.exists() {
            image(&former, &directory);
        }
        let options = RocksOptions { memory_bytes: 16 << 20, stage_file_bytes: 64 << 10, ..RocksOptions::default() };
        Arc::new(RocksEngine::open(&directory, &options).unwrap())
    }
}

#[test]
fn a_shard_over_rocksdb_keeps_every_promise() {
    for (name, case) in cases() {
        println!("case: {name}");
        case(&mut RocksLab { root: tempfile::tempdir().unwrap(), life: 0 });
    }
}
