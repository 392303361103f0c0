//! Rot and cuts: a wrong byte is refused by name or harmless, and never an entry that nobody wrote.

use crate::model::{Model, Op, picture, tiny};
use kvorum_storage::StorageError;
use kvorum_storage::journal::{Journal, MemDisk, MemJournal};

/// A journal whose files have been recycled, in its last batch idle, and what it holds.
fn aged(rounds: u64) -> (MemDisk, Model) {
    let disk = MemDisk::new();
    let journal = MemJournal::open(disk.clone(), tiny()).unwrap();
    let mut model = Model::new();
    let mut ask = |op| model.ask(&*journal, &op).unwrap();
    ask(Op::Vote { group: 2 });
    for _ in 0..rounds {
        ask(Op::Append { group: 1, count: 3, bytes: 90 });
        ask(Op::Append { group: 2, count: 1, bytes: 20 });
        ask(Op::TruncateAfter { group: 2, back: 1 });
        ask(Op::Purge { group: 1, ahead: 3 });
    }
    for group in 1..3 {
        ask(Op::Append { group, count: 2, bytes: 30 });
    }
    journal.stop();
    (disk, model)
}

fn segments(disk: &MemDisk) -> Vec<String> {
    disk.files().into_iter().filter(|name| name.starts_with("segment")).collect()
}

/// J1: a bare header names the last batch, so every synced byte is proven by a later header.
#[test]
fn every_flipped_bit_is_refused_by_file_and_byte_or_harmless() {
    let (disk, model) = aged(6);
    let mut refusals = 0;
    for segment in segments(&disk) {
        for bit in 0..disk.read(&segment).unwrap().len() * 8 {
            let damaged = disk.image();
            damaged.damage(&segment, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            match MemJournal::open(damaged, tiny()) {
                Ok(journal) => {
                    assert_eq!(model.matching(&picture(&*journal)), Some(model.last()), "bit {bit} of {segment}");
                }
                Err(StorageError::Corrupt { file, offset, why }) => {
                    refusals += 1;
                    assert!(file.ends_with(&segment), "bit {bit} of {segment}, not {file}");
                    let distance = (bit as u64 / 8).checked_sub(offset).expect("the bad record begins before its rot");
                    assert!(distance < 160, "byte {} of {segment}, not {offset}", bit / 8);
                    assert!(why.contains("this build cannot replace a node"), "{why}");
                }
                Err(other) => panic!("bit {bit} of {segment}: {other}"),
            }
        }
    }
    assert!(refusals > 4_000, "{refusals}: hardly anything was tried");
}

/// A journal in which every record lives, so that nothing has been recycled.
fn young() -> (MemDisk, Model) {
    let disk = MemDisk::new();
    let journal = MemJournal::open(disk.clone(), tiny()).unwrap();
    let mut model = Model::new();
    for _ in 0..11 {
        for group in 1..3 {
            model.ask(&*journal, &Op::Vote { group }).unwrap();
            model.ask(&*journal, &Op::Append { group, count: 2, bytes: 40 }).unwrap();
        }
        model.ask(&*journal, &Op::Append { group: 3, count: 2, bytes: 4 }).unwrap();
        // Between them, so that no two pictures are alike.
        model.ask(&*journal, &Op::Vote { group: 3 }).unwrap();
        model.ask(&*journal, &Op::TruncateAfter { group: 3, back: 1 }).unwrap();
    }
    journal.stop();
    (disk, model)
}

/// A cut of the last segment leaves exactly the records before it; a cut of an older one is refused.
#[test]
fn a_cut_at_every_byte_leaves_the_records_before_it() {
    let (disk, model) = young();
    model.forget_reports();
    let segments = segments(&disk);
    let (last, older) = segments.split_last().unwrap();
    let mut reached = Vec::new();
    for length in 0..=disk.read(last).unwrap().len() {
        let damaged = disk.image();
        damaged.damage(last, |bytes| bytes.truncate(length));
        let journal = MemJournal::open(damaged, tiny()).unwrap_or_else(|error| panic!("cut at {length}: {error}"));
        let now = model.matching(&picture(&*journal)).unwrap_or_else(|| panic!("a wrong entry, cut at {length}"));
        reached.push(now);
    }
    assert!(reached.is_sorted(), "more bytes, fewer records");
    reached.dedup();
    assert!(reached.windows(2).all(|pair| pair[1] == pair[0] + 1), "a cut loses only the record it hits: {reached:?}");
    assert_eq!(reached.last(), Some(&model.last()));
    assert!(older.len() > 1 && reached.len() > 10, "{} older segments, {} records", older.len(), reached.len());
    for segment in older {
        for length in (0..1800).step_by(24) {
            let damaged = disk.image();
            damaged.damage(segment, |bytes| bytes.truncate(length));
            let refused = MemJournal::open(damaged, tiny()).err().expect("older segments are proven by younger ones");
            assert!(matches!(&refused, StorageError::Corrupt { file, .. } if file.ends_with(segment)), "{refused}");
        }
    }
}

/// A cut that takes marks which have been carried forward with it loses them; what remains is still what was written.
#[test]
fn a_cut_of_a_recycled_journal_never_shows_what_nobody_wrote() {
    let (disk, model) = aged(12);
    for segment in segments(&disk) {
        for length in (0..2048).step_by(8) {
            let damaged = disk.image();
            damaged.damage(&segment, |bytes| bytes.truncate(length));
            match MemJournal::open(damaged, tiny()) {
                Ok(journal) => {
                    for (group, (_, entries)) in picture(&*journal) {
                        assert!(entries.iter().all(|entry| model.was_written(group, entry)), "cut at {length}");
                    }
                }
                Err(error) => assert!(matches!(error, StorageError::Corrupt { .. }), "cut at {length}: {error}"),
            }
        }
    }
}

/// Bytes of an earlier life of a segment never pass, wherever the present life ends.
#[test]
fn recycled_segments_never_show_old_records() {
    let (disk, model) = aged(20);
    let spares = disk.files().into_iter().filter(|name| name.starts_with("spare"));
    let mut old = spares.map(|name| disk.read(&name).unwrap());
    let old = old.find(|bytes| bytes.windows(4).any(|bytes| bytes == b"KVJB")).expect("a spare that was a segment");
    let segments = segments(&disk);
    let last = segments.last().unwrap();
    let end = disk.read(last).unwrap().windows(4).rposition(|bytes| bytes == b"KVJB").unwrap() + 48;
    let damaged = disk.image();
    damaged.damage(last, |bytes| bytes[end..].copy_from_slice(&old[end..]));
    let journal = MemJournal::open(damaged, tiny()).unwrap();
    assert_eq!(model.matching(&picture(&*journal)), Some(model.last()));
}

/// Without the bare header the rot would look like a torn tail.
#[test]
fn rot_in_the_very_last_synced_batch_is_refused() {
    let disk = MemDisk::new();
    let journal = MemJournal::open(disk.clone(), tiny()).unwrap();
    let mut model = Model::new();
    model.ask(&*journal, &Op::Append { group: 1, count: 1, bytes: 10 }).unwrap();
    disk.kill();
    let segment = segments(&disk).pop().unwrap();
    let damaged = disk.image();
    damaged.damage(&segment, |bytes| {
        let position = bytes.windows(3).position(|window| window == b"<1>").unwrap();
        bytes[position] ^= 0x20;
    });
    let refused = MemJournal::open(damaged, tiny()).err().expect("the batch was reported done");
    assert!(matches!(refused, StorageError::Corrupt { .. }), "{refused}");
    assert!(model.matching(&picture(&*MemJournal::open(disk, tiny()).unwrap())).is_some());
}
