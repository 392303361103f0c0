//! # Replay: from records back to logs
//!
//! Records arrive in the order in which they were queued, except that the oldest ones may be missing (recycled) and
//! that copies of entries come late. So entries are collected by index and checked for gaps at the end.
//!
//! **Invariant.** The result is what the index held when the last record was queued.

use super::group::{Group, MarkKind, Newest, Place, Slot, Stage};
use super::index::Index;
use super::record::{Content, word};
use super::shared::ADVICE;
use super::{LogRecord, Mark};
use crate::error::StorageError;
use bytes::Bytes;
use kvorum_api::GroupId;
use std::collections::BTreeMap;

/// All logs, while they are read.
#[derive(Default)]
pub(super) struct Replay {
    groups: BTreeMap<GroupId, Collected>,
}

/// One log, while it is read.
#[derive(Default)]
struct Collected {
    group: Group,
    entries: BTreeMap<u64, Slot>,
}

impl Replay {
    pub(super) fn apply(&mut self, group: GroupId, content: &Content, place: Place) {
        let known = self.groups.entry(group).or_default();
        match content {
            Content::Entry(record) | Content::EntryCopy(record) => {
                known.entries.insert(record.index, on_disk(record, place));
            }
            Content::Mark(mark) => match mark {
                Mark::Vote(bytes) => known.set(MarkKind::Vote, bytes, place),
                Mark::Committed(bytes) => known.set(MarkKind::Committed, bytes, place),
                Mark::InstallBegin(bytes) => known.set(MarkKind::Installing, bytes, place),
                Mark::Note(bytes) => known.set(MarkKind::Note, bytes, place),
                Mark::Replica(id) => known.set(MarkKind::Replica, &word(*id), place),
                // Two owners raced, and the index kept the higher mark.
                Mark::Purged { index, .. } if known.group.purged_index > Some(*index) => {}
                Mark::Purged { index, log_id } => {
                    known.group.purged_index = Some(*index);
                    known.entries = known.entries.split_off(&index.saturating_add(1));
                    known.set(MarkKind::Purged, log_id, place);
                }
                Mark::TruncatedAfter(Some(last)) => {
                    known.entries.split_off(&last.saturating_add(1));
                }
                Mark::TruncatedAfter(None) => known.entries.clear(),
                Mark::InstallDone => *known.group.newest_mut(MarkKind::Installing) = None,
                Mark::ReplicaRemoved => {
                    self.groups.remove(&group);
                }
            },
        }
    }

    /// The index of what was read.
    pub(super) fn finish(self, cache_bytes_max: usize, directory: &str) -> Result<Index, StorageError> {
        let mut index = Index::new(cache_bytes_max);
        for (id, Collected { mut group, entries }) in self.groups {
            for (position, slot) in entries {
                let expected = group.next_index().unwrap_or(position);
                if position != expected {
                    let why = format!("entry {expected} of group {id} is missing before entry {position}; {ADVICE}");
                    return Err(StorageError::Corrupt { file: directory.to_owned(), offset: 0, why });
                }
                group.push(position, slot);
            }
            if !group.is_empty() {
                index.restore(id, group);
            }
        }
        Ok(index)
    }
}

impl Collected {
    fn set(&mut self, kind: MarkKind, bytes: &Bytes, place: Place) {
        // Copied: a slice would keep the whole window it was read with in memory.
        let bytes = Bytes::copy_from_slice(bytes);
        *self.group.newest_mut(kind) = Some(Newest { bytes, stage: Stage::Synced(place) });
    }
}

fn on_disk(record: &LogRecord, place: Place) -> Slot {
    let payload_bytes = record.payload.len() as u32;
    Slot { term: record.term, stage: Stage::Synced(place), payload_bytes, payload: None }
}
