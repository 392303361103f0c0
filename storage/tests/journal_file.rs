//! The journal over real files: threads, locks, and what a killed process leaves behind.

#![expect(clippy::unwrap_used, reason = "the helpers of a test are a test")]

use bytes::Bytes;
use kvorum_api::GroupId;
use kvorum_storage::StorageError;
use kvorum_storage::journal::{Completion, FileJournal, Journal, JournalOptions, LogRecord, Mark};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use tempfile::TempDir;

fn options() -> JournalOptions {
    JournalOptions { segment_bytes: 64 << 10, bytes_max: 1 << 20, cache_bytes_max: 1024, ..JournalOptions::small() }
}

fn record(index: u64, bytes: usize) -> LogRecord {
    LogRecord { index, term: 1, payload: Bytes::from(vec![index as u8; bytes]) }
}

fn signal() -> (Completion, mpsc::Receiver<Result<(), StorageError>>) {
    let (sender, receiver) = mpsc::channel();
    (Completion::Signal(Box::new(move |result| sender.send(result).unwrap_or_default())), receiver)
}

/// The directory as another process would find it if this one were killed now.
fn killed(dir: &Path) -> TempDir {
    loop {
        let copy = TempDir::new().unwrap();
        let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
        let mut copied = entries.map(|entry| std::fs::copy(entry.path(), copy.path().join(entry.file_name())));
        match copied.find_map(Result::err) {
            None => return copy,
            // A segment was renamed meanwhile: what was copied is of no one moment.
            Some(why) => assert_eq!(why.kind(), std::io::ErrorKind::NotFound, "{why}"),
        }
    }
}

#[test]
fn what_many_threads_were_told_survives_a_kill() {
    let dir = TempDir::new().unwrap();
    let journal = FileJournal::open(dir.path(), options()).unwrap();
    let append = |group| {
        for index in 1..=60 {
            let (done, told) = signal();
            journal.append(GroupId(group), vec![record(index, 700)], done).unwrap();
            if index % 20 == 0 {
                told.recv().unwrap().unwrap();
            }
        }
    };
    thread::scope(|scope| {
        for group in 1..=4 {
            scope.spawn(move || append(group));
        }
    });
    let copy = killed(dir.path());
    let found = FileJournal::open(copy.path(), options()).unwrap();
    for group in 1..=4 {
        let expected: Vec<_> = (1..=60).map(|index| record(index, 700)).collect();
        assert_eq!(found.entries(GroupId(group), 0..100, usize::MAX).unwrap(), expected);
    }
    assert!(journal.status().syncs < 240, "what arrives during a sync rides the next one");
}

/// A large payload goes to the file from where it lies, and comes back whole.
#[test]
fn large_records_are_read_back() {
    let dir = TempDir::new().unwrap();
    let journal = FileJournal::open(dir.path(), options()).unwrap();
    let expected: Vec<_> = (1..=12).map(|index| record(index, 40 << 10)).collect();
    let (done, told) = signal();
    journal.append(GroupId(1), expected.clone(), done).unwrap();
    told.recv().unwrap().unwrap();
    assert_eq!(journal.entries(GroupId(1), 0..100, usize::MAX).unwrap(), expected);
    drop(journal);
    let journal = FileJournal::open(dir.path(), options()).unwrap();
    assert_eq!(journal.entries(GroupId(1), 0..100, usize::MAX).unwrap(), expected);
}

/// Segments found on disk keep their size; new ones have the new size.
#[test]
fn another_segment_size_takes_over_what_is_there() {
    let dir = TempDir::new().unwrap();
    let journal = FileJournal::open(dir.path(), options()).unwrap();
    journal.append(GroupId(1), (1..=200).map(|index| record(index, 600)).collect(), Completion::None).unwrap();
    drop(journal);
    let smaller = JournalOptions { segment_bytes: 16 << 10, ..options() };
    let journal = FileJournal::open(dir.path(), smaller.clone()).unwrap();
    journal.append(GroupId(1), (201..=300).map(|index| record(index, 600)).collect(), Completion::None).unwrap();
    let (done, told) = signal();
    journal.mark(GroupId(1), Mark::Purged { index: 250, log_id: Bytes::new() }, done).unwrap();
    told.recv().unwrap().unwrap();
    drop(journal);
    let journal = FileJournal::open(dir.path(), smaller).unwrap();
    let expected: Vec<_> = (251..=300).map(|index| record(index, 600)).collect();
    assert_eq!(journal.entries(GroupId(1), 0..999, usize::MAX).unwrap(), expected);
}

/// Files of others are left alone, and an impossible size is refused before anything is written.
#[test]
fn strangers_stay_and_nonsense_is_refused() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    std::fs::write(dir.path().join("segment-xyz"), "mine").unwrap();
    drop(FileJournal::open(dir.path(), options()).unwrap());
    assert_eq!(std::fs::read(dir.path().join("segment-xyz")).unwrap(), b"mine");
    let refused = FileJournal::open(dir.path(), JournalOptions { segment_bytes: 1000, ..options() }).err().unwrap();
    assert!(refused.to_string().contains("segment_bytes 1000"), "{refused}");
    let refused = FileJournal::open(&dir.path().join("notes.txt"), options()).err().unwrap();
    assert!(matches!(refused, StorageError::Io { .. }), "{refused}");
}
