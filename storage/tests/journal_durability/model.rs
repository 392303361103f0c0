//! The specification: logs as plain maps, one picture of them after every record.

use bytes::Bytes;
use kvorum_api::GroupId;
use kvorum_storage::journal::{Completion, GroupState, Journal, LogRecord, Mark, NODE_GROUP};
use kvorum_storage::{StorageError, journal::JournalOptions};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Everything a journal can be asked.
pub type Picture = BTreeMap<GroupId, (GroupState, Vec<LogRecord>)>;

/// What a journal answers now.
pub fn picture(journal: &dyn Journal) -> Picture {
    try_picture(journal).expect("a running disk reads")
}

fn try_picture(journal: &dyn Journal) -> Result<Picture, StorageError> {
    let entries = |group| journal.entries(group, 0..u64::MAX, usize::MAX);
    journal.groups().into_iter().map(|group| Ok((group, (journal.group(group), entries(group)?)))).collect()
}

/// Segments so small that a handful of records fills one.
pub fn tiny() -> JournalOptions {
    JournalOptions { segment_bytes: 2048, bytes_max: 6 << 10, cache_bytes_max: 200, ..JournalOptions::small() }
}

/// Something a caller may ask of a journal.
#[derive(Clone, Debug)]
pub enum Op {
    Append { group: u64, count: u64, bytes: usize },
    TruncateAfter { group: u64, back: u64 },
    Purge { group: u64, ahead: u64 },
    Vote { group: u64 },
    Committed { group: u64 },
    Replica { group: u64 },
    InstallBegin { group: u64 },
    InstallDone { group: u64 },
    Remove { group: u64 },
    Note,
}

pub fn ops() -> impl Strategy<Value = Op> {
    let group = 1..4u64;
    prop_oneof![
        8 => (group.clone(), 1..4u64, 0..120usize).prop_map(|(group, count, bytes)| Op::Append { group, count, bytes }),
        2 => (group.clone(), 0..4u64).prop_map(|(group, back)| Op::TruncateAfter { group, back }),
        4 => (group.clone(), 0..6u64).prop_map(|(group, ahead)| Op::Purge { group, ahead }),
        2 => group.clone().prop_map(|group| Op::Vote { group }),
        1 => group.clone().prop_map(|group| Op::Committed { group }),
        1 => group.clone().prop_map(|group| Op::Replica { group }),
        1 => group.clone().prop_map(|group| Op::InstallBegin { group }),
        1 => group.clone().prop_map(|group| Op::InstallDone { group }),
        1 => group.prop_map(|group| Op::Remove { group }),
        1 => Just(Op::Note),
    ]
}

/// All pictures so far, and how many of them are known to survive.
pub struct Model {
    history: Vec<Picture>,
    reported: Arc<AtomicUsize>,
    /// Makes every payload and mark unlike all others.
    unique: u64,
}

impl Model {
    pub fn new() -> Self {
        Model { history: vec![Picture::new()], reported: Arc::default(), unique: 0 }
    }

    fn now(&self) -> &Picture {
        self.history.last().unwrap()
    }

    fn unique(&mut self) -> Bytes {
        self.unique += 1;
        Bytes::from(format!("<{}>", self.unique))
    }

    /// Asks the journal for `op`; once accepted, the model has it too.
    pub fn ask(&mut self, journal: &dyn Journal, op: &Op) -> Result<(), StorageError> {
        let (group, records) = self.records(op);
        if records.is_empty() {
            return Ok(());
        }
        let mut pictures = Vec::new();
        for record in &records {
            let mut next = pictures.last().unwrap_or(self.now()).clone();
            apply(&mut next, group, record);
            pictures.push(next);
        }
        let (reported, upto) = (self.reported.clone(), self.history.len() + pictures.len() - 1);
        let done = Completion::Signal(Box::new(move |result| {
            if result.is_ok() {
                reported.fetch_max(upto, Ordering::SeqCst);
            }
        }));
        match records.into_iter().next().unwrap() {
            Record::Mark(mark) => journal.mark(group, mark, done)?,
            Record::Entry(first) => {
                let count = pictures.len() as u64;
                let entry = |index| {
                    let (_, entries) = &pictures.last().unwrap()[&group];
                    entries.iter().find(|entry| entry.index == index).unwrap().clone()
                };
                journal.append(group, (first.index..first.index + count).map(entry).collect(), done)?;
            }
        }
        self.history.extend(pictures);
        match try_picture(journal) {
            Ok(found) => assert_eq!(&found, self.now(), "readable as soon as the call returns"),
            Err(error) => assert!(matches!(error, StorageError::Io { .. }), "{error}"),
        }
        Ok(())
    }

    fn records(&mut self, op: &Op) -> (GroupId, Vec<Record>) {
        let known = |group| self.now().get(&GroupId(group)).cloned().unwrap_or_default();
        let (group, mark) = match *op {
            Op::Append { group, count, bytes } => {
                let (state, entries) = known(group);
                let purged = state.purged.as_ref().map(|(index, _)| *index);
                let next = entries.last().map(|entry| entry.index).or(purged).map_or(1, |last| last + 1);
                let payload = Bytes::from([&self.unique()[..], &vec![b'.'; bytes]].concat());
                let entry = |index| LogRecord { index, term: self.unique, payload: payload.clone() };
                return (GroupId(group), (next..next + count).map(entry).map(Record::Entry).collect());
            }
            Op::TruncateAfter { group, back } => match known(group).1.last() {
                Some(last) => (group, Mark::TruncatedAfter(last.index.checked_sub(back))),
                None => return (GroupId(group), Vec::new()),
            },
            Op::Purge { group, ahead } => {
                let (state, entries) = known(group);
                let from = state.purged.map_or(0, |(index, _)| index);
                let index = entries.first().map_or(from, |first| first.index - 1) + ahead;
                (group, Mark::Purged { index: index.max(from), log_id: self.unique() })
            }
            Op::Vote { group } => (group, Mark::Vote(self.unique())),
            Op::Committed { group } => (group, Mark::Committed(self.unique())),
            Op::InstallBegin { group } => (group, Mark::InstallBegin(self.unique())),
            Op::InstallDone { group } => (group, Mark::InstallDone),
            Op::Remove { group } => (group, Mark::ReplicaRemoved),
            Op::Note => (NODE_GROUP.0, Mark::Note(self.unique())),
            Op::Replica { group } => {
                let _ = self.unique();
                (group, Mark::Replica(self.unique))
            }
        };
        (GroupId(group), vec![Record::Mark(mark)])
    }

    /// How many pictures a journal in this state has, if nothing that was reported is missing and nothing is wrong.
    pub fn matching(&self, found: &Picture) -> Option<usize> {
        let reported = self.reported.load(Ordering::SeqCst);
        let position = self.history[reported..].iter().rposition(|picture| picture == found)?;
        Some(reported + position)
    }

    /// The last picture.
    pub fn last(&self) -> usize {
        self.history.len() - 1
    }

    /// Whether this entry ever stood in the log of `group`.
    pub fn was_written(&self, group: GroupId, entry: &LogRecord) -> bool {
        self.history.iter().filter_map(|picture| picture.get(&group)).any(|(_, entries)| entries.contains(entry))
    }

    /// Lets go of what was reported, for damage that no journal can prove.
    pub fn forget_reports(&self) {
        self.reported.store(0, Ordering::SeqCst);
    }

    /// Goes on from what a start has found.
    pub fn resume(&mut self, found: Picture) {
        self.history = vec![found];
        self.reported = Arc::default();
    }
}

enum Record {
    Entry(LogRecord),
    Mark(Mark),
}

fn apply(picture: &mut Picture, group: GroupId, record: &Record) {
    let (state, entries) = picture.entry(group).or_default();
    match record {
        Record::Entry(entry) => entries.push(entry.clone()),
        Record::Mark(Mark::Vote(bytes)) => state.vote = Some(bytes.clone()),
        Record::Mark(Mark::Committed(bytes)) => state.committed = Some(bytes.clone()),
        Record::Mark(Mark::Note(bytes)) => state.note = Some(bytes.clone()),
        Record::Mark(Mark::Replica(id)) => state.replica = Some(*id),
        Record::Mark(Mark::InstallBegin(bytes)) => state.installing = Some(bytes.clone()),
        Record::Mark(Mark::InstallDone) => state.installing = None,
        Record::Mark(Mark::Purged { index, log_id }) => {
            state.purged = Some((*index, log_id.clone()));
            entries.retain(|entry| entry.index > *index);
        }
        Record::Mark(Mark::TruncatedAfter(last)) => entries.retain(|entry| Some(entry.index) <= *last),
        Record::Mark(Mark::ReplicaRemoved) => {
            *state = GroupState::default();
            entries.clear();
        }
    }
    state.entries = entries.first().zip(entries.last()).map(|(first, last)| (first.index, last.index));
    if *state == GroupState::default() {
        picture.remove(&group);
    }
}
