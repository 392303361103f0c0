//! Disks that stall, fail and fill up.

use bytes::Bytes;
use kvorum_api::GroupId;
use kvorum_storage::StorageError;
use kvorum_storage::journal::{Completion, Journal, JournalOptions, LogRecord, Mark, MemDisk, MemJournal, Step};
use parking_lot::Mutex;
use std::sync::Arc;

const GROUP: GroupId = GroupId(1);

fn tiny() -> JournalOptions {
    JournalOptions { segment_bytes: 4096, bytes_max: 16 << 10, ..JournalOptions::small() }
}

fn record(index: u64) -> LogRecord {
    LogRecord { index, term: 1, payload: Bytes::from(vec![index as u8; 200]) }
}

type Told = Arc<Mutex<Vec<(&'static str, Result<(), StorageError>)>>>;

fn watermark(told: &Told, name: &'static str) -> Completion {
    let told = told.clone();
    Completion::Watermark(Box::new(move |result| told.lock().push((name, result))))
}

fn signal(told: &Told, name: &'static str) -> Completion {
    let told = told.clone();
    Completion::Signal(Box::new(move |result| told.lock().push((name, result))))
}

fn names(told: &Told) -> Vec<&'static str> {
    told.lock().iter().map(|(name, _)| *name).collect()
}

/// J5: of the watermarks of a group only the newest is told, signals always, oldest first.
#[test]
fn after_a_sync_only_the_newest_watermark_of_each_group_is_told() {
    let journal = MemJournal::open_stepped(MemDisk::new(), tiny()).unwrap();
    let told = Told::default();
    journal.append(GROUP, vec![record(1)], watermark(&told, "old")).unwrap();
    journal.mark(GROUP, Mark::Vote(Bytes::new()), signal(&told, "vote")).unwrap();
    journal.append(GroupId(2), vec![record(1)], watermark(&told, "other")).unwrap();
    journal.append(GROUP, vec![record(2)], watermark(&told, "new")).unwrap();
    assert_eq!(journal.step(), Step::Written);
    assert_eq!(names(&told), [] as [&str; 0], "written is not durable");
    assert_eq!(journal.step(), Step::Synced);
    assert_eq!(names(&told), ["vote", "other", "new"]);
}

/// J6: a failed sync poisons; everybody is told, reads go on, nothing is accepted.
#[test]
fn a_failed_sync_poisons_for_ever_and_everybody_is_told() {
    let disk = MemDisk::new();
    let journal = MemJournal::open_stepped(disk.clone(), tiny()).unwrap();
    let told = Told::default();
    journal.append(GROUP, vec![record(1)], watermark(&told, "in the batch")).unwrap();
    journal.append(GROUP, vec![record(2)], watermark(&told, "in the batch, newer")).unwrap();
    assert_eq!(journal.step(), Step::Written);
    journal.append(GROUP, vec![record(3)], signal(&told, "queued")).unwrap();
    let waiter = told.clone();
    journal.when_durable(GROUP, 3, Box::new(move |result| waiter.lock().push(("waiting", result.map(|_| ())))));
    disk.fail_next_sync();
    assert_eq!(journal.step(), Step::Idle);
    assert_eq!(names(&told), ["in the batch", "in the batch, newer", "queued", "waiting"]);
    assert!(told.lock().iter().all(|(_, result)| matches!(result, Err(StorageError::Poisoned(_)))));
    assert_eq!(journal.step(), Step::Idle);
    let refused = journal.append(GROUP, vec![record(4)], Completion::None);
    assert!(matches!(refused, Err(StorageError::Poisoned(_))));
    assert!(matches!(journal.mark(GROUP, Mark::InstallDone, Completion::None), Err(StorageError::Poisoned(_))));
    assert_eq!(journal.entries(GROUP, 0..9, usize::MAX).unwrap(), [record(1), record(2), record(3)]);
    let status = journal.status();
    assert!(status.poisoned.unwrap().contains("sync"), "it says why");
    assert_eq!(status.sync_pending_us, 0);
}

#[test]
fn a_failed_write_poisons_too() {
    let disk = MemDisk::new();
    let journal = MemJournal::open(disk.clone(), tiny()).unwrap();
    let told = Told::default();
    disk.fail_next_write();
    journal.append(GROUP, vec![record(1)], signal(&told, "first")).unwrap();
    assert!(matches!(told.lock()[0].1, Err(StorageError::Poisoned(_))));
    let told_later = Told::default();
    let waiter = told_later.clone();
    journal.when_durable(GROUP, 1, Box::new(move |result| waiter.lock().push(("late", result.map(|_| ())))));
    assert!(matches!(told_later.lock()[0].1, Err(StorageError::Poisoned(_))));
}

/// J6: the sync under way is visible while the disk stalls; nothing is reported; a start after power loss forgets it.
#[test]
fn a_stalled_sync_is_visible_and_promises_nothing() {
    let disk = MemDisk::new();
    let journal = MemJournal::open(disk.clone(), tiny()).unwrap();
    let told = Told::default();
    journal.append(GROUP, vec![record(1)], signal(&told, "before")).unwrap();
    let synced = journal.status().last_synced;
    disk.stall(true);
    journal.append(GROUP, vec![record(2)], signal(&told, "stalled")).unwrap();
    assert_eq!(names(&told), ["before"]);
    assert!(journal.status().sync_pending_us > 0);
    assert_eq!(journal.status().last_synced, synced);
    assert_eq!(journal.group(GROUP).entries, Some((1, 2)), "readable all the same");
    let lost = disk.image();
    disk.stall(false);
    journal.run();
    assert_eq!(names(&told), ["before", "stalled"]);
    assert_eq!(journal.status().sync_pending_us, 0);
    assert!(MemJournal::open(lost, tiny()).is_ok());
    disk.stall(true);
    journal.append(GROUP, vec![record(3)], Completion::None).unwrap();
    disk.lose_power(|_| false);
    let journal = MemJournal::open(disk, tiny()).unwrap();
    assert_eq!(journal.group(GROUP).entries, Some((1, 2)));
}

/// S5: a full disk refuses entries, queues nothing, is not poisoned; marks and a purge have room, and it resumes by
/// itself.
#[test]
fn a_full_disk_refuses_entries_and_keeps_room_for_marks() {
    let disk = MemDisk::new();
    let journal = MemJournal::open(disk.clone(), tiny()).unwrap();
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let told = Told::default();
    let full =
        (1..).find(|index| journal.append(GROUP, vec![record(*index)], signal(&told, "entry")).is_err()).unwrap();
    let refused = journal.append(GROUP, vec![record(full)], signal(&told, "refused")).unwrap_err();
    assert!(matches!(&refused, StorageError::DiskFull(why) if why.contains("segment")), "{refused}");
    assert_eq!(journal.group(GROUP).entries, Some((1, full - 1)), "nothing was queued");
    assert!(!names(&told).contains(&"refused"));
    assert!(told.lock().iter().all(|(_, result)| result.is_ok()));
    assert_eq!(journal.status().poisoned, None);
    for _ in 0..20 {
        journal.mark(GROUP, Mark::Vote(Bytes::from_static(b"a vote")), signal(&told, "vote")).unwrap();
    }
    assert_eq!(names(&told).iter().filter(|name| **name == "vote").count(), 20);
    let refused = journal.append(GROUP, vec![record(full)], Completion::None);
    assert!(matches!(refused, Err(StorageError::DiskFull(_))));
    journal.mark(GROUP, Mark::Purged { index: full - 1, log_id: Bytes::new() }, signal(&told, "purge")).unwrap();
    journal.append(GROUP, vec![record(full)], signal(&told, "after the purge")).unwrap();
    assert!(names(&told).ends_with(&["purge", "after the purge"]));
    let reopened = {
        journal.stop();
        drop(journal);
        MemJournal::open(disk, tiny()).unwrap()
    };
    assert_eq!(reopened.group(GROUP).entries, Some((full, full)));
    assert_eq!(reopened.group(GROUP).vote, Some(Bytes::from_static(b"a vote")));
}

/// S5: a node that only restarts needs no whole segment: where there is none ready and no room for one, a shorter one
/// does, and what it replaces becomes the spare.
#[test]
fn a_journal_without_spares_starts_on_a_full_disk_as_long_as_its_last_segment_fits() {
    let disk = MemDisk::new();
    let journal = MemJournal::open(disk.clone(), tiny()).unwrap();
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let full = (1..).find(|index| journal.append(GROUP, vec![record(*index)], Completion::None).is_err()).unwrap();
    while disk.files().iter().any(|name| name.starts_with("spare-")) {
        journal.mark(GROUP, Mark::Vote(Bytes::from_static(b"a vote")), Completion::None).unwrap();
    }
    disk.kill();
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let refused = MemJournal::open(disk.clone(), tiny()).err().unwrap().to_string();
    assert!(refused.starts_with("disk_full: a start needs ") && refused.contains("in memory: "), "{refused}");
    let needed: u64 = refused.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!(needed < tiny().segment_bytes / 2, "{needed}");
    disk.kill();
    // And some, because each start leaves a vote more.
    disk.set_capacity_bytes(Some(disk.used_bytes() + needed + 1024));
    let check = |journal: &MemJournal| {
        assert_eq!(journal.group(GROUP).entries, Some((1, full - 1)));
        assert_eq!(journal.group(GROUP).vote, Some(Bytes::from_static(b"a vote")));
        assert_eq!(journal.entries(GROUP, 1..full, 1 << 20).unwrap().len() as u64, full - 1);
    };
    // Again and again: no start makes it worse.
    for _ in 0..3 {
        let journal = MemJournal::open(disk.clone(), tiny()).unwrap();
        check(&journal);
        let told = Told::default();
        journal.mark(GROUP, Mark::Vote(Bytes::from_static(b"a vote")), signal(&told, "vote")).unwrap();
        assert_eq!(names(&told), ["vote"]);
        disk.lose_power(|_| false);
    }
    // With room for segments all is as before.
    disk.set_capacity_bytes(None);
    let journal = MemJournal::open(disk, tiny()).unwrap();
    check(&journal);
    for index in full..full + 40 {
        journal.append(GROUP, vec![record(index)], Completion::None).unwrap();
    }
    assert_eq!(journal.entries(GROUP, 1..full + 40, 1 << 20).unwrap().len() as u64, full + 39);
}

/// S5: a full disk that gets room again is used without anybody's doing.
#[test]
fn room_that_comes_back_is_used() {
    let disk = MemDisk::new();
    let journal = MemJournal::open(disk.clone(), tiny()).unwrap();
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let full = (1..).find(|index| journal.append(GROUP, vec![record(*index)], Completion::None).is_err()).unwrap();
    disk.set_capacity_bytes(None);
    journal.append(GROUP, vec![record(full)], Completion::None).unwrap();
}

/// J7: an image taken while the node ran shows a lower last batch than its peers have seen.
#[test]
fn an_older_copy_of_the_disk_shows_a_lower_batch() {
    let disk = MemDisk::new();
    let journal = MemJournal::open(disk.clone(), tiny()).unwrap();
    journal.append(GROUP, vec![record(1)], Completion::None).unwrap();
    let copy = disk.image();
    for index in 2..9 {
        journal.append(GROUP, vec![record(index)], Completion::None).unwrap();
    }
    let seen = journal.status().last_synced;
    assert!(MemJournal::open(copy, tiny()).unwrap().status().last_synced < seen);
    journal.stop();
    drop(journal);
    assert!(MemJournal::open(disk, tiny()).unwrap().status().last_synced > seen);
}

/// A reader holds its segment: it is not used again before the read is over, even if its entries are purged meanwhile.
#[test]
fn entries_stay_readable_while_another_group_recycles() {
    let journal = MemJournal::open(MemDisk::new(), JournalOptions { cache_bytes_max: 0, ..tiny() }).unwrap();
    journal.append(GroupId(2), (1..=5).map(record).collect(), Completion::None).unwrap();
    for index in 1..200 {
        journal.append(GROUP, vec![record(index)], Completion::None).unwrap();
        journal.mark(GROUP, Mark::Purged { index, log_id: Bytes::new() }, Completion::None).unwrap();
        let expected: Vec<_> = (1..=5).map(record).collect();
        assert_eq!(journal.entries(GroupId(2), 0..9, usize::MAX).unwrap(), expected);
    }
    assert!(journal.status().segments < 8, "{:?}", journal.status());
}
