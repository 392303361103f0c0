//! Traces: on whose behalf an entry travels.
//!
//! A proposal carries the W3C trace context of the first of its commands that has one. It is no part of the log: the
//! leader keeps it beside the newest entries and names it in the envelopes that carry them to the followers.
//!
//! **Deliberately absent.** Heartbeats and read rounds: they serve everybody at once.

use bytes::Bytes;
use parking_lot::Mutex;
use std::{collections::BTreeMap, ops::RangeInclusive};

/// Entries remembered. Older ones travel again only to a follower that is behind, on nobody's behalf.
const ENTRIES_MAX: usize = 1_024;

/// The trace contexts of the newest entries, by index.
#[derive(Default)]
pub(crate) struct Traces {
    by_index: Mutex<BTreeMap<u64, Bytes>>,
}

impl Traces {
    /// Remembers on whose behalf an entry was proposed.
    pub(crate) fn note(&self, index: u64, trace: &Bytes) {
        if trace.is_empty() {
            return;
        }
        let mut by_index = self.by_index.lock();
        by_index.insert(index, trace.clone());
        while by_index.len() > ENTRIES_MAX {
            by_index.pop_first();
        }
    }

    /// The first trace among some entries; empty = none.
    pub(crate) fn first_of(&self, indexes: RangeInclusive<u64>) -> Bytes {
        if indexes.is_empty() {
            return Bytes::new();
        }
        self.by_index.lock().range(indexes).next().map(|(_, trace)| trace.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_entries_are_remembered_and_no_more() {
        let traces = Traces::default();
        for index in 0..2 * ENTRIES_MAX as u64 {
            traces.note(index, &Bytes::from(index.to_string()));
        }
        assert_eq!(traces.first_of(0..=10), Bytes::new());
        assert_eq!(traces.first_of(0..=u64::MAX), Bytes::from(ENTRIES_MAX.to_string()));
        assert_eq!(traces.by_index.lock().len(), ENTRIES_MAX);
    }

    #[test]
    fn nobody_is_named_who_did_not_ask() {
        let traces = Traces::default();
        traces.note(1, &Bytes::new());
        assert_eq!(traces.first_of(0..=5), Bytes::new());
    }
}
