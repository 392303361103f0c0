//! Logs: entries of one index and term are one entry, and so are all before them (log matching).
//!
//! **Invariant.** Reads journals from outside; keeps what it saw in all lives. An entry is looked at once, and again
//! only after something before it was cut off.

use kvorum_api::{GroupId, NodeId};
use kvorum_storage::{Journal, journal::NODE_GROUP};
use std::collections::BTreeMap;

/// What an entry was when it was seen first.
#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    /// The term of the entry before it, if that was there.
    before: Option<u64>,
    node: NodeId,
}

/// What was ever seen of logs.
#[derive(Default)]
pub struct Logs {
    /// By group, index and term.
    entries: BTreeMap<(GroupId, u64, u64), Entry>,
    /// The terms of the entries that a node holds.
    held: BTreeMap<(NodeId, GroupId), BTreeMap<u64, u64>>,
}

impl Logs {
    /// Looks at what is new in a journal; every sentence is a violation.
    pub fn look(&mut self, node: NodeId, journal: &dyn Journal) -> Vec<String> {
        let mut found = Vec::new();
        for group in journal.groups().into_iter().filter(|group| *group != NODE_GROUP) {
            self.look_at(node, group, journal, &mut found);
        }
        found
    }

    /// A life has ended: what was not synced may come back as something else.
    pub fn forget_life(&mut self, id: NodeId) {
        self.held.retain(|(node, _), _| *node != id);
    }

    fn look_at(&mut self, node: NodeId, group: GroupId, journal: &dyn Journal, found: &mut Vec<String>) {
        let held = self.held.entry((node, group)).or_default();
        let Some((first, last)) = journal.group(group).entries else { return held.clear() };
        // What is gone says nothing: a snapshot may have come in its place.
        *held = held.split_off(&first);
        held.split_off(&(last + 1));
        let mut fresh = Vec::new();
        for index in (first..=last).rev() {
            // What cannot be read is for the node to say.
            let Ok(records) = journal.entries(group, index..index + 1, usize::MAX) else { return };
            let Some(record) = records.into_iter().next() else { return };
            if held.get(&index) == Some(&record.term) {
                break;
            }
            held.insert(index, record.term);
            fresh.push(record);
        }
        for record in fresh {
            let (index, term) = (record.index, record.term);
            let before = index.checked_sub(1).and_then(|before| held.get(&before)).copied();
            let hash = xxhash_rust::xxh3::xxh3_64(&record.payload);
            let known = self.entries.entry((group, index, term)).or_insert(Entry { hash, before, node });
            known.before = known.before.or(before);
            let differs = known.hash != hash || before.is_some_and(|before| known.before != Some(before));
            if differs {
                let other = known.node;
                found.push(format!(
                    "group {group} has two entries {index} of term {term}, or two logs before it: \
                     nodes {other} and {node}"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::journal::{Completion, JournalOptions, LogRecord, MemDisk, MemJournal};

    fn append(journal: &MemJournal, index: u64, term: u64, payload: &'static str) {
        let records = vec![LogRecord { index, term, payload: payload.into() }];
        journal.append(GroupId(1), records, Completion::None).unwrap();
    }

    #[test]
    fn logs_that_differ_are_found() {
        let journal = || MemJournal::open(MemDisk::new(), JournalOptions::small()).unwrap();
        let (left, right) = (journal(), journal());
        let mut logs = Logs::default();
        append(&left, 1, 1, "a");
        append(&left, 2, 2, "b");
        append(&right, 1, 1, "a");
        assert!(logs.look(NodeId(1), &*left).is_empty() && logs.look(NodeId(2), &*right).is_empty());
        append(&right, 2, 2, "c");
        assert_eq!(logs.look(NodeId(2), &*right).len(), 1, "one name, two entries");
        let other = journal();
        append(&other, 1, 2, "x");
        append(&other, 2, 2, "b");
        assert_eq!(logs.look(NodeId(3), &*other).len(), 1, "the same entry behind another one");
    }
}
