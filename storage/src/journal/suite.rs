//! # The conformance suite of the journal
//!
//! What every form of the journal must do, as plain functions over a [`Lab`]. Cases about the loss of power are not
//! here: only simulated sectors can lose it.
//!
//! **Invariant.** A case uses the [`Journal`] trait and the damage a lab offers, nothing else.

use super::{BatchNumber, Completion, GroupState, Journal, JournalOptions, LogRecord, Mark, NODE_GROUP};
use crate::error::StorageError;
use bytes::Bytes;
use kvorum_api::GroupId;
use std::sync::{Arc, mpsc};

/// One empty directory on which journals are opened, one after the other.
pub trait Lab {
    /// Opens the journal.
    ///
    /// # Errors
    /// As the form's own constructor.
    fn open(&self, options: JournalOptions) -> Result<Arc<dyn Journal>, StorageError>;

    /// Names of the files.
    fn files(&self) -> Vec<String>;

    /// Changes the bytes of a file while no journal is open.
    fn damage(&self, file: &str, change: &dyn Fn(&mut Vec<u8>));
}

/// Name and body of a case.
pub type Case = (&'static str, fn(&dyn Lab));

/// All cases. Each wants a lab of its own.
pub const CASES: &[Case] = &[
    ("an entry is readable as soon as append returns", an_entry_is_readable_as_soon_as_append_returns),
    ("what was reported done is there after a start", what_was_reported_done_is_there_after_a_start),
    ("entries are cut off by bytes but never to nothing", entries_are_cut_off_by_bytes_but_never_to_nothing),
    ("the newest mark of each kind counts", the_newest_mark_of_each_kind_counts),
    ("a committed mark that nobody waits for rides along", a_committed_mark_that_nobody_waits_for_rides_along),
    ("a truncated entry never comes back", a_truncated_entry_never_comes_back),
    ("after a purge beyond the end the log continues behind it", after_a_purge_beyond_the_end_the_log_continues),
    ("a lower purge mark that comes late changes nothing", a_lower_purge_mark_that_comes_late_changes_nothing),
    ("a removed replica leaves nothing", a_removed_replica_leaves_nothing),
    ("an install stays open until it is done", an_install_stays_open_until_it_is_done),
    ("a gap is refused loudly", a_gap_is_refused_loudly),
    ("durable is told with the batch that holds the entry", durable_is_told_with_the_batch_that_holds_the_entry),
    ("batch numbers resume above all that was found", batch_numbers_resume_above_all_that_was_found),
    ("entries are read back from the file once the cache is full", entries_are_read_back_from_the_file),
    ("purged segments are recycled and marks carried forward", purged_segments_are_recycled_and_marks_carried_forward),
    ("few live entries are copied forward over the byte limit", few_live_entries_are_copied_forward),
    ("the holder of the oldest segment is named", the_holder_of_the_oldest_segment_is_named),
    ("a record larger than a segment is refused by its limit", a_record_larger_than_a_segment_is_refused),
    ("a large append fits even if several segments are needed", a_large_append_fits),
    ("a second journal is refused while the first is open", a_second_journal_is_refused),
    ("rot below a later header is refused by file and byte", rot_is_refused_by_file_and_byte),
    ("a lost segment is noticed", a_lost_segment_is_noticed),
    ("a stopped journal refuses records", a_stopped_journal_refuses_records),
    ("a completion may call the journal again", a_completion_may_call_the_journal_again),
];

const GROUP: GroupId = GroupId(1);

fn tiny() -> JournalOptions {
    JournalOptions { segment_bytes: 4096, bytes_max: 16 << 10, cache_bytes_max: 256, ..JournalOptions::small() }
}

fn open(lab: &dyn Lab) -> Arc<dyn Journal> {
    lab.open(tiny()).expect("an honest directory opens")
}

fn record(index: u64) -> LogRecord {
    LogRecord { index, term: index / 10, payload: Bytes::from(format!("payload of entry {index}").repeat(4)) }
}

fn records(range: std::ops::RangeInclusive<u64>) -> Vec<LogRecord> {
    range.map(record).collect()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A completion, and a way to wait for it.
fn signal() -> (Completion, mpsc::Receiver<Result<(), StorageError>>) {
    let (sender, receiver) = mpsc::channel();
    (Completion::Signal(Box::new(move |result| sender.send(result).unwrap_or_default())), receiver)
}

fn append(journal: &dyn Journal, group: GroupId, entries: Vec<LogRecord>) {
    let (done, told) = signal();
    journal.append(group, entries, done).expect("a healthy journal accepts");
    told.recv().expect("told").expect("durable");
}

fn mark(journal: &dyn Journal, group: GroupId, mark: Mark) {
    let (done, told) = signal();
    journal.mark(group, mark, done).expect("a healthy journal accepts");
    told.recv().expect("told").expect("durable");
}

fn purge(journal: &dyn Journal, group: GroupId, index: u64) {
    mark(journal, group, Mark::Purged { index, log_id: bytes(&format!("log id {index}")) });
}

fn all(journal: &dyn Journal, group: GroupId) -> Vec<LogRecord> {
    journal.entries(group, 0..u64::MAX, usize::MAX).expect("readable")
}

fn restart(lab: &dyn Lab, journal: Arc<dyn Journal>) -> Arc<dyn Journal> {
    journal.stop();
    drop(journal);
    open(lab)
}

fn an_entry_is_readable_as_soon_as_append_returns(lab: &dyn Lab) {
    let journal = open(lab);
    journal.append(GROUP, records(1..=3), Completion::None).expect("accepted");
    assert_eq!(all(&*journal, GROUP), records(1..=3));
    assert_eq!(journal.group(GROUP).entries, Some((1, 3)));
    assert_eq!(journal.groups(), [GROUP]);
}

fn what_was_reported_done_is_there_after_a_start(lab: &dyn Lab) {
    let mut journal = open(lab);
    for index in 1..=20 {
        append(&*journal, GROUP, records(index..=index));
        mark(&*journal, GroupId(2), Mark::Vote(bytes(&format!("vote {index}"))));
    }
    for _ in 0..3 {
        journal = restart(lab, journal);
        assert_eq!(all(&*journal, GROUP), records(1..=20));
        assert_eq!(journal.group(GroupId(2)).vote, Some(bytes("vote 20")));
        assert_eq!(journal.groups(), [GROUP, GroupId(2)]);
    }
}

fn entries_are_cut_off_by_bytes_but_never_to_nothing(lab: &dyn Lab) {
    let journal = open(lab);
    append(&*journal, GROUP, records(5..=9));
    let two = record(6).payload.len() * 2;
    assert_eq!(journal.entries(GROUP, 6..100, two).expect("readable"), records(6..=7));
    assert_eq!(journal.entries(GROUP, 6..100, 1).expect("readable"), records(6..=6));
    assert_eq!(journal.entries(GROUP, 0..6, usize::MAX).expect("readable"), records(5..=5));
    assert_eq!(journal.entries(GROUP, 10..100, 1).expect("readable"), []);
    assert_eq!(journal.entries(GroupId(9), 0..100, 1).expect("readable"), []);
}

fn the_newest_mark_of_each_kind_counts(lab: &dyn Lab) {
    let journal = open(lab);
    for round in 1..=3 {
        mark(&*journal, GROUP, Mark::Vote(bytes(&format!("vote {round}"))));
        mark(&*journal, GROUP, Mark::Committed(bytes(&format!("committed {round}"))));
        mark(&*journal, NODE_GROUP, Mark::Note(bytes(&format!("note {round}"))));
        mark(&*journal, GROUP, Mark::Replica(round));
    }
    let journal = restart(lab, journal);
    let expected = GroupState {
        vote: Some(bytes("vote 3")),
        committed: Some(bytes("committed 3")),
        replica: Some(3),
        ..GroupState::default()
    };
    assert_eq!(journal.group(GROUP), expected);
    assert_eq!(journal.group(NODE_GROUP).note, Some(bytes("note 3")));
    assert_eq!(journal.group(GroupId(77)), GroupState::default());
}

fn a_committed_mark_that_nobody_waits_for_rides_along(lab: &dyn Lab) {
    let journal = open(lab);
    append(&*journal, GROUP, records(1..=1));
    let syncs = journal.status().syncs;
    for round in 1..=5 {
        let committed = Mark::Committed(bytes(&format!("committed {round}")));
        journal.mark(GROUP, committed, Completion::None).expect("a healthy journal accepts");
    }
    assert_eq!(journal.group(GROUP).committed, Some(bytes("committed 5")), "its effect on reads is immediate");
    append(&*journal, GROUP, records(2..=2));
    assert_eq!(journal.status().syncs, syncs + 1, "five marks and an append share one sync");
    let committed = Mark::Committed(bytes("the last one"));
    journal.mark(GROUP, committed, Completion::None).expect("a healthy journal accepts");
    let (sender, told) = mpsc::channel();
    journal.when_durable(GROUP, 9, Box::new(move |result| sender.send(result.is_ok()).unwrap_or_default()));
    assert!(told.recv().expect("told"), "whoever asks for everything gets it synced");
    let journal = restart(lab, journal);
    assert_eq!(journal.group(GROUP).committed, Some(bytes("the last one")));
}

fn a_truncated_entry_never_comes_back(lab: &dyn Lab) {
    let journal = open(lab);
    append(&*journal, GROUP, records(1..=9));
    mark(&*journal, GROUP, Mark::TruncatedAfter(Some(4)));
    assert_eq!(all(&*journal, GROUP), records(1..=4));
    let other = LogRecord { index: 5, term: 99, payload: bytes("another fifth") };
    append(&*journal, GROUP, vec![other.clone()]);
    let journal = restart(lab, journal);
    assert_eq!(all(&*journal, GROUP)[4..], [other]);
    mark(&*journal, GROUP, Mark::TruncatedAfter(None));
    let journal = restart(lab, journal);
    assert_eq!(all(&*journal, GROUP), []);
    assert_eq!(journal.group(GROUP).entries, None);
}

/// S4: an installed snapshot lies beyond the log; the log goes on after it.
fn after_a_purge_beyond_the_end_the_log_continues(lab: &dyn Lab) {
    let journal = open(lab);
    append(&*journal, GROUP, records(1..=9));
    purge(&*journal, GROUP, 4);
    assert_eq!(all(&*journal, GROUP), records(5..=9));
    purge(&*journal, GROUP, 100);
    append(&*journal, GROUP, records(101..=102));
    let journal = restart(lab, journal);
    assert_eq!(all(&*journal, GROUP), records(101..=102));
    assert_eq!(journal.group(GROUP).purged, Some((100, bytes("log id 100"))));
}

fn a_lower_purge_mark_that_comes_late_changes_nothing(lab: &dyn Lab) {
    let journal = open(lab);
    append(&*journal, GROUP, records(1..=9));
    purge(&*journal, GROUP, 6);
    purge(&*journal, GROUP, 3);
    assert_eq!(journal.group(GROUP).purged, Some((6, bytes("log id 6"))));
    let journal = restart(lab, journal);
    assert_eq!(journal.group(GROUP).purged, Some((6, bytes("log id 6"))));
    assert_eq!(all(&*journal, GROUP), records(7..=9));
}

fn a_removed_replica_leaves_nothing(lab: &dyn Lab) {
    let journal = open(lab);
    append(&*journal, GROUP, records(1..=9));
    mark(&*journal, GROUP, Mark::InstallBegin(bytes("install")));
    mark(&*journal, GROUP, Mark::ReplicaRemoved);
    assert_eq!(journal.group(GROUP), GroupState::default());
    let journal = restart(lab, journal);
    assert_eq!(journal.group(GROUP), GroupState::default());
    assert_eq!(journal.groups(), []);
    append(&*journal, GROUP, records(40..=41));
    let journal = restart(lab, journal);
    assert_eq!(all(&*journal, GROUP), records(40..=41));
}

/// S4: a start that finds begin without done repeats the installation.
fn an_install_stays_open_until_it_is_done(lab: &dyn Lab) {
    let journal = open(lab);
    mark(&*journal, GROUP, Mark::InstallBegin(bytes("files and checksums")));
    let journal = restart(lab, journal);
    assert_eq!(journal.group(GROUP).installing, Some(bytes("files and checksums")));
    mark(&*journal, GROUP, Mark::InstallDone);
    let journal = restart(lab, journal);
    assert_eq!(journal.group(GROUP).installing, None);
}

fn a_gap_is_refused_loudly(lab: &dyn Lab) {
    let journal = open(lab);
    append(&*journal, GROUP, records(1..=2));
    let gap = || journal.append(GROUP, records(4..=4), Completion::None);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(gap));
    assert!(panicked.is_err(), "an entry that does not follow is a defect of the caller");
    append(&*journal, GROUP, records(3..=3));
}

/// J2, J3: durable is told together with the batch.
fn durable_is_told_with_the_batch_that_holds_the_entry(lab: &dyn Lab) {
    let journal = open(lab);
    let durable = |index| {
        let (sender, told) = mpsc::channel();
        journal.when_durable(GROUP, index, Box::new(move |result| sender.send(result).unwrap_or_default()));
        told
    };
    journal.append(GROUP, records(1..=2), Completion::None).expect("accepted");
    let first = durable(2).recv().expect("told").expect("durable");
    append(&*journal, GROUP, records(3..=3));
    let second = durable(3).recv().expect("told").expect("durable");
    assert!(first < second);
    assert!(journal.last_synced() >= second);
    assert_eq!(durable(1).recv().expect("told"), Ok(first), "an old entry keeps its batch");
    purge(&*journal, GROUP, 3);
    assert!(durable(2).recv().expect("told").expect("durable") >= second, "a purged entry is behind us");
    assert!(durable(9).recv().expect("told").is_ok(), "nothing queued is missing");
}

fn batch_numbers_resume_above_all_that_was_found(lab: &dyn Lab) {
    let journal = open(lab);
    append(&*journal, GROUP, records(1..=1));
    let before = journal.last_synced();
    let journal = restart(lab, journal);
    assert!(journal.last_synced() > before);
    journal.stop();
    drop(journal);
    let resumed = lab.open(JournalOptions { resume_above: BatchNumber(1000), ..tiny() }).expect("opens");
    assert!(resumed.last_synced() > BatchNumber(1000));
    let resumed = restart(lab, resumed);
    assert!(resumed.last_synced() > BatchNumber(1000), "the number itself is durable");
    assert_eq!(all(&*resumed, GROUP), records(1..=1));
}

fn entries_are_read_back_from_the_file(lab: &dyn Lab) {
    let journal = lab.open(JournalOptions { cache_bytes_max: 0, ..tiny() }).expect("opens");
    for index in 1..=30 {
        append(&*journal, GROUP, records(index..=index));
        append(&*journal, GroupId(2), records(index..=index));
    }
    assert_eq!(all(&*journal, GROUP), records(1..=30));
    assert_eq!(journal.entries(GROUP, 7..9, usize::MAX).expect("readable"), records(7..=8));
}

/// J4: a segment is used again only when the newest marks of every group stand in a younger one.
fn purged_segments_are_recycled_and_marks_carried_forward(lab: &dyn Lab) {
    let journal = open(lab);
    let quiet = GroupId(2);
    mark(&*journal, quiet, Mark::Vote(bytes("an old vote")));
    mark(&*journal, quiet, Mark::Committed(bytes("an old commit")));
    mark(&*journal, quiet, Mark::InstallBegin(bytes("an open install")));
    mark(&*journal, NODE_GROUP, Mark::Note(bytes("an old note")));
    purge(&*journal, GroupId(3), 12);
    for index in (10..=400).step_by(10) {
        append(&*journal, GROUP, records(index - 9..=index));
        purge(&*journal, GROUP, index);
    }
    assert!(journal.status().segments <= 3, "{:?}", journal.status());
    assert!(lab.files().len() <= 9, "{:?}", lab.files());
    let expected: Vec<_> = journal.groups().into_iter().map(|group| (group, journal.group(group))).collect();
    let journal = restart(lab, journal);
    let found: Vec<_> = journal.groups().into_iter().map(|group| (group, journal.group(group))).collect();
    assert_eq!(found, expected);
    assert_eq!(journal.group(quiet).vote, Some(bytes("an old vote")));
    assert_eq!(journal.group(quiet).installing, Some(bytes("an open install")));
    assert_eq!(journal.group(NODE_GROUP).note, Some(bytes("an old note")));
    assert_eq!(journal.group(GroupId(3)).purged, Some((12, bytes("log id 12"))));
}

/// J4: the journal copies a closed group's entries itself.
fn few_live_entries_are_copied_forward(lab: &dyn Lab) {
    let journal = open(lab);
    let quiet = GroupId(2);
    append(&*journal, quiet, records(1..=6));
    mark(&*journal, quiet, Mark::TruncatedAfter(Some(4)));
    for index in (10..=600).step_by(10) {
        append(&*journal, GROUP, records(index - 9..=index));
        purge(&*journal, GROUP, index);
    }
    let status = journal.status();
    assert!(status.bytes <= tiny().bytes_max + 2 * tiny().segment_bytes, "{status:?}");
    assert_eq!(all(&*journal, quiet), records(1..=4));
    let journal = restart(lab, journal);
    assert_eq!(all(&*journal, quiet), records(1..=4), "a copy never brings a truncated entry back");
    append(&*journal, quiet, records(5..=5));
    assert_eq!(all(&*restart(lab, journal), quiet), records(1..=5));
}

fn the_holder_of_the_oldest_segment_is_named(lab: &dyn Lab) {
    let journal = open(lab);
    append(&*journal, GroupId(2), records(1..=20));
    for index in 1..=60 {
        append(&*journal, GROUP, records(index..=index));
    }
    assert_eq!(journal.oldest_held_by(), Some((GroupId(2), 20)));
    let segments = journal.status().segments;
    purge(&*journal, GroupId(2), 20);
    let (group, index) = journal.oldest_held_by().expect("still more than one segment");
    assert_eq!(group, GROUP);
    purge(&*journal, GROUP, index);
    append(&*journal, GROUP, records(61..=61));
    append(&*journal, GROUP, records(62..=62));
    assert!(journal.status().segments < segments);
}

fn a_record_larger_than_a_segment_is_refused(lab: &dyn Lab) {
    let journal = open(lab);
    let payload = Bytes::from(vec![1; 4096]);
    let refused = journal.append(GROUP, vec![LogRecord { index: 1, term: 1, payload }], Completion::None);
    assert!(refused.expect_err("too large").to_string().contains("record_bytes_max"));
    append(&*journal, GROUP, records(1..=1));
}

fn a_large_append_fits(lab: &dyn Lab) {
    let journal = open(lab);
    append(&*journal, GROUP, records(1..=500));
    let large = |index| LogRecord { index, term: 60, payload: Bytes::from(vec![index as u8; 3000]) };
    append(&*journal, GROUP, (501..=520).map(large).collect());
    let journal = restart(lab, journal);
    assert_eq!(all(&*journal, GROUP)[..500], records(1..=500));
    assert_eq!(all(&*journal, GROUP)[519], large(520));
}

fn a_second_journal_is_refused(lab: &dyn Lab) {
    let journal = open(lab);
    let refused = lab.open(tiny()).err().expect("the directory is in use");
    assert!(refused.to_string().contains("has it open"), "{refused}");
    let journal = restart(lab, journal);
    append(&*journal, GROUP, records(1..=1));
}

/// J1: rot in a batch that a later header shows to be synced.
fn rot_is_refused_by_file_and_byte(lab: &dyn Lab) {
    let journal = open(lab);
    append(&*journal, GROUP, records(1..=3));
    journal.stop();
    drop(journal);
    let file = lab.files().into_iter().find(|name| name.starts_with("segment")).expect("a segment");
    let at = |bytes: &[u8]| bytes.windows(7).position(|window| window == b"entry 2").expect("the payload is there");
    lab.damage(&file, &|bytes| {
        let position = at(bytes);
        bytes[position] ^= 1;
    });
    let refused = lab.open(tiny()).err().expect("rot is refused");
    let StorageError::Corrupt { file: named, offset, why } = &refused else { panic!("{refused}") };
    assert!(named.ends_with(&file), "{refused}");
    assert!(why.contains("this build cannot replace a node"), "{refused}");
    let offset = *offset;
    lab.damage(&file, &|bytes| {
        let position = bytes.windows(6).position(|window| window == b"ntry 2").expect("damaged, still there") - 1;
        assert!((offset as usize) < position && position - (offset as usize) < 128, "{offset} is the record's start");
        bytes[position] ^= 1;
    });
    assert_eq!(all(&*open(lab), GROUP), records(1..=3), "a refusal changes nothing");
}

fn a_lost_segment_is_noticed(lab: &dyn Lab) {
    let journal = open(lab);
    append(&*journal, GROUP, records(1..=200));
    journal.stop();
    drop(journal);
    let segments: Vec<_> = lab.files().into_iter().filter(|name| name.starts_with("segment")).collect();
    assert!(segments.len() >= 3);
    lab.damage(&segments[1], &|bytes| bytes.clear());
    let refused = lab.open(tiny()).err().expect("a hole is refused");
    assert!(matches!(&refused, StorageError::Corrupt { file, .. } if file.ends_with(&segments[1])), "{refused}");
}

fn a_stopped_journal_refuses_records(lab: &dyn Lab) {
    let journal = open(lab);
    let (done, told) = signal();
    journal.append(GROUP, records(1..=2), done).expect("accepted");
    journal.stop();
    assert_eq!(told.recv().expect("told"), Ok(()), "what was queued is synced");
    assert_eq!(journal.append(GROUP, records(3..=3), Completion::None), Err(StorageError::Stopped));
    assert_eq!(journal.mark(GROUP, Mark::InstallDone, Completion::None), Err(StorageError::Stopped));
    journal.stop();
    drop(journal);
    assert_eq!(all(&*open(lab), GROUP), records(1..=2));
}

fn a_completion_may_call_the_journal_again(lab: &dyn Lab) {
    let journal = open(lab);
    let again = journal.clone();
    let (done, told) = signal();
    let chain = Completion::Signal(Box::new(move |_| {
        again.append(GROUP, records(2..=2), done).expect("accepted");
    }));
    journal.append(GROUP, records(1..=1), chain).expect("accepted");
    told.recv().expect("told").expect("durable");
    assert_eq!(all(&*restart(lab, journal), GROUP), records(1..=2));
}

#[cfg(test)]
mod tests {
    use super::super::{FileJournal, MemDisk, MemJournal};
    use super::*;
    use tempfile::TempDir;

    struct Memory(MemDisk);

    impl Lab for Memory {
        fn open(&self, options: JournalOptions) -> Result<Arc<dyn Journal>, StorageError> {
            Ok(MemJournal::open(self.0.clone(), options)?)
        }

        fn files(&self) -> Vec<String> {
            self.0.files()
        }

        fn damage(&self, file: &str, change: &dyn Fn(&mut Vec<u8>)) {
            self.0.damage(file, change);
        }
    }

    struct Files(TempDir);

    impl Lab for Files {
        fn open(&self, options: JournalOptions) -> Result<Arc<dyn Journal>, StorageError> {
            Ok(FileJournal::open(self.0.path(), options)?)
        }

        fn files(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.0.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn damage(&self, file: &str, change: &dyn Fn(&mut Vec<u8>)) {
            let path = self.0.path().join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            change(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
        }
    }

    #[test]
    fn the_journal_in_memory_passes() {
        for (name, case) in CASES {
            println!("{name}");
            case(&Memory(MemDisk::new()));
        }
    }

    #[test]
    fn the_journal_of_files_passes() {
        for (name, case) in CASES {
            println!("{name}");
            case(&Files(TempDir::new().unwrap()));
        }
    }
}
