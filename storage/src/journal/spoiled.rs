//! # Spoiled directories: what recovery makes of files that rotted
//!
//! **Invariant (J1).** A journal on spoiled files opens or refuses; what it serves is what was written. One flipped bit
//! costs at most the very last batch.

use super::{Completion, Journal, JournalOptions, LogRecord, Mark, MemDisk, MemJournal};
use crate::{error::StorageError, spoil::spoiled};
use bytes::Bytes;
use kvorum_api::GroupId;
use std::{panic::AssertUnwindSafe, sync::Arc};

const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(2)];
const ENTRIES: u64 = 40;
/// The second group is purged up to here.
const PURGED: u64 = 30;

fn options() -> JournalOptions {
    JournalOptions { segment_bytes: 2048, bytes_max: 64 << 10, cache_bytes_max: 256, ..JournalOptions::small() }
}

fn record(group: GroupId, index: u64) -> LogRecord {
    let payload = format!("entry {index} of group {group}, {}", "x".repeat(index as usize * 3 % 50));
    LogRecord { index, term: index / 10, payload: Bytes::from(payload) }
}

/// A directory of several segments, as a killed process leaves it. Each entry is a batch.
fn directory() -> MemDisk {
    let disk = MemDisk::new();
    let journal = MemJournal::open(disk.clone(), options()).unwrap();
    for index in 1..=ENTRIES {
        for group in GROUPS {
            journal.append(group, vec![record(group, index)], Completion::None).unwrap();
        }
        if index == PURGED {
            let mark = Mark::Purged { index, log_id: Bytes::from_static(b"log id") };
            journal.mark(GROUPS[1], mark, Completion::None).unwrap();
            journal.mark(GROUPS[0], Mark::Vote(Bytes::from_static(b"vote")), Completion::None).unwrap();
        }
        journal.run();
    }
    let image = disk.image();
    journal.stop();
    image
}

fn segments(disk: &MemDisk) -> Vec<String> {
    disk.files().into_iter().filter(|name| name.starts_with("segment-")).collect()
}

/// Opens, or refuses with a reason that names what is wrong.
fn opened(disk: &MemDisk) -> Option<Arc<MemJournal>> {
    match MemJournal::open(disk.clone(), options()) {
        Ok(journal) => Some(journal),
        Err(StorageError::Corrupt { .. } | StorageError::UnknownFormat { .. }) => None,
        Err(other) => panic!("{other} is no word for rot"),
    }
}

/// Everything that is served is what was written; how many entries that is.
fn served(journal: &MemJournal) -> usize {
    let mut count = 0;
    for group in GROUPS {
        let found = match journal.entries(group, 0..u64::MAX, usize::MAX) {
            Ok(found) => found,
            Err(StorageError::Corrupt { .. }) => continue,
            Err(other) => panic!("{other} is no word for rot"),
        };
        count += found.len();
        let first = found.first().map_or(1, |first| first.index);
        for (expected, found) in (first..).zip(found) {
            assert_eq!(found, record(group, expected));
        }
    }
    count
}

/// Rule J1: a flipped bit is refused, or makes no difference, or costs the very last batch.
#[test]
fn fuzz_a_flipped_bit_costs_at_most_the_last_batch() {
    let disk = AssertUnwindSafe(directory());
    let whole = served(&opened(&disk.image()).unwrap());
    assert_eq!(whole as u64, ENTRIES + ENTRIES - PURGED);
    let files = segments(&disk);
    assert!(files.len() > 3, "{files:?}");
    bolero::check!().with_iterations(400).with_type::<(u8, u16, u8)>().for_each(|(file, place, bit)| {
        let disk = disk.image();
        disk.damage(&files[usize::from(*file) % files.len()], |bytes| {
            let at = usize::from(*place) % bytes.len();
            bytes[at] ^= 1 << (bit % 8);
        });
        if let Some(journal) = opened(&disk) {
            assert!(served(&journal) + 1 >= whole, "{} of {whole} entries", served(&journal));
        }
    });
}

/// Rule J1: whatever lies in the files, nothing is served that was not written, also when it rots afterwards.
#[test]
fn fuzz_spoiled_files_are_refused_or_serve_what_was_written() {
    let disk = AssertUnwindSafe(directory());
    let files = segments(&disk);
    bolero::check!().with_iterations(400).with_max_len(40).for_each(|input: &[u8]| {
        let [first, second, script @ ..] = input else { return };
        let (before, after) = script.split_at(script.len() / 8 * 4);
        let disk = disk.image();
        disk.damage(&files[usize::from(*first) % files.len()], |bytes| *bytes = spoiled(bytes, before));
        let Some(journal) = opened(&disk) else { return };
        served(&journal);
        let files = segments(&disk);
        disk.damage(&files[usize::from(*second) % files.len()], |bytes| *bytes = spoiled(bytes, after));
        served(&journal);
    });
}
