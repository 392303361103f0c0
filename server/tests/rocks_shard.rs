//! The RocksDB half of the shard's suite. It runs here, so that the tests of the crates below never build RocksDB.
//!
//! **Invariant.** Losing power is a copy of the directory taken while the engine runs: no code of a closing engine has
//! touched it.

#![expect(clippy::unwrap_used, reason = "the helpers of a test are a test")]

use kvorum_storage::{
    Engine,
    engine::rocks::{RocksEngine, RocksOptions},
    shard::suite::{Lab, cases},
};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
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

/// What a loss of power leaves of a directory in use: one moment of it. A copy during which a compaction added or removed
/// files is of no moment at all, and is taken again.
fn image(from: &Path, to: &Path) {
    loop {
        let before = listing(from);
        copy(from, to);
        if listing(from) == before {
            return;
        }
        fs::remove_dir_all(to).unwrap();
    }
}

/// Every file and its size.
fn listing(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(listing(&path));
        } else if let Ok(about) = fs::metadata(&path) {
            files.insert(path, about.len());
        }
    }
    files
}

/// Copies a directory. A file that goes away meanwhile is missed by the listing afterwards.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if let Err(why) = fs::copy(entry.path(), target) {
            assert_eq!(why.kind(), io::ErrorKind::NotFound, "{why}");
        }
    }
}

#[test]
fn a_shard_over_rocksdb_keeps_every_promise() {
    for (name, case) in cases() {
        println!("case: {name}");
        case(&mut RocksLab { root: tempfile::tempdir().unwrap(), life: 0 });
    }
}
