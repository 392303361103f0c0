//! The RocksDB half of the engine's suite. It runs here, so that the tests of the crates below never build RocksDB.
//!
//! **Invariant.** Losing power is an image of the directory taken while the engine runs: no code of a closing engine
//! has touched it.

#![expect(clippy::unwrap_used, reason = "the helpers of a test are a test")]

mod image;

use image::image;
use kvorum_storage::{
    StorageError,
    engine::{
        Batch, Cached, Column, Direction, Engine, KeyRange,
        rocks::{RocksEngine, RocksOptions},
        suite::{self, Damage, Lab},
    },
};
use proptest::prelude::*;
use std::{fs, path::PathBuf, time::Duration};
use tempfile::TempDir;
use tokio::time::Instant;

/// Small enough that a stage of two megabytes has several files.
fn options() -> RocksOptions {
    RocksOptions { memory_bytes: 16 << 20, stage_file_bytes: 256 << 10, ..RocksOptions::default() }
}

struct RocksLab {
    root: TempDir,
    life: u32,
    /// `None` only between two lives.
    engine: Option<RocksEngine>,
}

impl RocksLab {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let engine = RocksEngine::open(&root.path().join("0"), &options()).unwrap();
        RocksLab { root, life: 0, engine: Some(engine) }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join(self.life.to_string())
    }

    fn stage_file(&self, id: u64, name: &str) -> PathBuf {
        self.directory().join("stage").join(id.to_string()).join(name)
    }
}

impl Lab for RocksLab {
    fn engine(&self) -> &dyn Engine {
        self.engine.as_ref().expect("a lab has an engine")
    }

    fn lose_power(&mut self) {
        let former = self.directory();
        self.life += 1;
        image(&former, &self.directory());
        self.engine = None;
        fs::remove_dir_all(former).unwrap();
        self.engine = Some(RocksEngine::open(&self.directory(), &options()).unwrap());
    }

    fn reopen(&mut self) {
        self.engine = None;
        self.engine = Some(RocksEngine::open(&self.directory(), &options()).unwrap());
    }

    fn break_disk(&mut self) {
        let directory = self.directory();
        fs::rename(directory.join("db"), directory.join("db-unplugged")).unwrap();
    }

    fn damage_stage_file(&mut self, id: u64, name: &str, damage: Damage<'_>) {
        let path = self.stage_file(id, name);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(path, bytes).unwrap();
    }

    fn remove_stage_file(&mut self, id: u64, name: &str) {
        fs::remove_file(self.stage_file(id, name)).unwrap();
    }
}

fn put(key: &str, value: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(Column::Data, key.to_owned(), value.to_owned());
    batch
}

#[test]
fn rocks_keeps_every_promise_of_the_seam() {
    suite::run_cases(RocksLab::new);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// The engine in memory is held to the same scripts and the same ordered maps, so the two engines agree.
    #[test]
    fn rocks_behaves_like_ordered_maps(script in proptest::collection::vec(any::<u8>(), 0..240)) {
        suite::run_script(&script, &mut RocksLab::new());
    }
}

#[test]
fn a_directory_in_use_is_refused_with_that_sentence() {
    let lab = RocksLab::new();
    let Err(error) = RocksEngine::open(&lab.directory(), &options()) else { panic!("opened twice") };
    assert!(error.to_string().contains("is in use by another process"), "{error}");
}

#[test]
fn a_directory_that_cannot_be_made_is_refused_with_its_name() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("a-file");
    fs::write(&file, b"in the way").unwrap();
    let Err(error) = RocksEngine::open(&file, &options()) else { panic!("opened on a file") };
    assert!(matches!(&error, StorageError::Io { path, .. } if path.contains("a-file")), "{error}");
}

#[test]
fn a_flipped_byte_in_the_database_is_corruption_not_an_answer() {
    let mut lab = RocksLab::new();
    let mut batch = Batch::new();
    (0..500u32).for_each(|key| batch.put(Column::Data, key.to_be_bytes().to_vec(), vec![7; 100]));
    lab.engine().write(&batch).unwrap();
    lab.engine().flush().unwrap();
    lab.engine = None;
    let files = fs::read_dir(lab.directory().join("db")).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|kind| kind == "sst")).collect();
    assert_eq!(tables.len(), 1);
    let mut bytes = fs::read(&tables[0]).unwrap();
    // The first blocks hold rows.
    bytes[100] ^= 0x10;
    fs::write(&tables[0], bytes).unwrap();
    let engine = RocksEngine::open(&lab.directory(), &options()).unwrap();
    let view = engine.view();
    let mut cursor = view.cursor(Column::Data, KeyRange::all(), Direction::Forward);
    let found = std::iter::from_fn(|| cursor.next().transpose()).find_map(Result::err);
    assert!(matches!(found, Some(StorageError::Corrupt { .. })), "{found:?}");
    assert!(matches!(engine.get(Column::Data, &0u32.to_be_bytes()), Err(StorageError::Corrupt { .. })));
}

/// A read that would have to ask the disk says so instead of waiting, and a warm one does not.
#[test]
fn a_cold_read_would_block() {
    let mut lab = RocksLab::new();
    lab.engine().write(&put("a", "1")).unwrap();
    lab.engine().flush().unwrap();
    lab.reopen();
    assert_eq!(lab.engine().get_cached(Column::Data, b"a"), Ok(Cached::WouldBlock));
    assert!(lab.engine().get(Column::Data, b"a").unwrap().is_some());
    assert!(matches!(lab.engine().get_cached(Column::Data, b"a"), Ok(Cached::Known(Some(_)))));
}

/// A full memtable is flushed by RocksDB itself: still all columns together, and the persisted read knows.
#[test]
fn flushes_that_nobody_asked_for_are_atomic_too() {
    let mut lab = RocksLab::new();
    for round in 0..400u32 {
        let mut batch = Batch::new();
        let noise: Vec<u8> = (0..64 * 1024u32).map(|byte| (byte.wrapping_mul(round + 1) >> 7) as u8).collect();
        batch.put(Column::Data, round.to_be_bytes().to_vec(), noise);
        batch.put(Column::Changes, "position", round.to_be_bytes().to_vec());
        batch.put(Column::Meta, "position", round.to_be_bytes().to_vec());
        lab.engine().write(&batch).unwrap();
    }
    lab.reopen();
    let position = lab.engine().get(Column::Meta, b"position").unwrap().expect("25 MiB do not fit into the memtables");
    assert_eq!(lab.engine().get(Column::Changes, b"position").unwrap().as_ref(), Some(&position));
    assert_eq!(lab.engine().get_persisted(Column::Meta, b"position").unwrap().as_ref(), Some(&position));
    let view = lab.engine().view();
    let mut newest = view.cursor(Column::Data, KeyRange::all(), Direction::Reverse);
    assert_eq!(newest.next().unwrap().map(|(key, _)| key), Some(position), "data stands where the position says");
}

/// Nobody called flush: the failure is heard from RocksDB's own thread, and every later write is refused with it.
#[test]
fn a_failure_in_the_background_is_heard() {
    let mut lab = RocksLab::new();
    lab.engine().write(&put("a", "1")).unwrap();
    lab.break_disk();
    // More than a write buffer, so that RocksDB flushes by itself.
    let mut batch = Batch::new();
    (0..96u32).for_each(|key| batch.put(Column::Data, key.to_be_bytes().to_vec(), vec![7; 64 * 1024]));
    lab.engine().write(&batch).unwrap();
    // The next write finds the buffer full. It may still be taken: the failure comes from another thread.
    let _ = lab.engine().write(&put("b", "1"));
    let deadline = Instant::now() + Duration::from_secs(60);
    let error = loop {
        match lab.engine().background_error() {
            Some(error) => break error,
            None => assert!(Instant::now() < deadline, "not heard"),
        }
        std::thread::yield_now();
    };
    assert_eq!(lab.engine().write(&put("c", "1")), Err(error));
}

#[test]
fn a_view_outlives_its_engine() {
    let mut lab = RocksLab::new();
    lab.engine().write(&put("a", "1")).unwrap();
    let view = lab.engine().view();
    let mut cursor = view.cursor(Column::Data, KeyRange::all(), Direction::Forward);
    lab.engine = None;
    drop(view);
    assert_eq!(cursor.next().unwrap().map(|(key, _)| key).as_deref(), Some(b"a".as_slice()));
    let Err(error) = RocksEngine::open(&lab.directory(), &options()) else { panic!("opened under a cursor") };
    assert!(error.to_string().contains("is in use"), "{error}");
    drop(cursor);
    RocksEngine::open(&lab.directory(), &options()).unwrap();
}
