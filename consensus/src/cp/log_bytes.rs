//! How many bytes of log lie between an index and the end: what a follower that is behind costs.
//!
//! One sample an append, not one an entry. Entries found at start are counted, not weighed: they get the average of
//! what was appended since.

use super::types::LogId;
use std::collections::VecDeque;

/// Bytes of an entry nobody has weighed, until an append was.
const GUESS_BYTES: u64 = 512;

/// Samples beyond this many are thinned out: every second one goes.
const SAMPLES_MAX: usize = 8_192;

/// Weighs the log.
pub(crate) struct LogBytes {
    /// Last index of an append, and the bytes of all appends up to it.
    samples: VecDeque<(u64, u64)>,
    total_bytes: u64,
    total_entries: u64,
    /// Entries found at start, and their last index.
    found: u64,
    found_last: u64,
}

impl LogBytes {
    /// `found` entries lie there already.
    pub(crate) fn new(found: u64, last: Option<LogId>) -> Self {
        LogBytes {
            samples: VecDeque::new(),
            total_bytes: 0,
            total_entries: 0,
            found,
            found_last: last.map_or(0, |last| last.index),
        }
    }

    /// An append ended at `last`.
    pub(crate) fn append(&mut self, last: u64, bytes: u64) {
        let entries = self.samples.back().map_or(1, |(before, _)| last.saturating_sub(*before));
        self.total_bytes += bytes;
        self.total_entries += entries;
        self.samples.push_back((last, self.total_bytes));
        if self.samples.len() > SAMPLES_MAX {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// Everything after `after` is void.
    pub(crate) fn truncate(&mut self, after: Option<u64>) {
        let Some(after) = after else {
            self.samples.clear();
            self.found = 0;
            return;
        };
        while self.samples.back().is_some_and(|(last, _)| *last > after) {
            self.samples.pop_back();
        }
    }

    /// Everything up to `upto` is forgotten.
    pub(crate) fn purge(&mut self, upto: u64) {
        while self.samples.front().is_some_and(|(last, _)| *last <= upto) {
            self.samples.pop_front();
        }
        if upto >= self.found_last {
            self.found = 0;
        } else {
            self.found = self.found.min(self.found_last - upto);
        }
    }

    /// About how many bytes of log lie behind `index`.
    pub(crate) fn after(&self, index: Option<u64>) -> u64 {
        let average = self.total_bytes.checked_div(self.total_entries).unwrap_or(GUESS_BYTES);
        let found = match index {
            Some(index) if self.found > 0 => self.found.min(self.found_last.saturating_sub(index)) * average,
            Some(_) => 0,
            None => self.found * average,
        };
        let end = self.samples.back().map_or(0, |(_, bytes)| *bytes);
        let at = match index {
            None => self.samples.front().map_or(end, |(_, bytes)| *bytes),
            Some(index) => {
                let beyond = self.samples.partition_point(|(last, _)| *last <= index);
                match beyond.checked_sub(1) {
                    Some(at) => self.samples[at].1,
                    None => self.samples.front().map_or(end, |(_, bytes)| *bytes).saturating_sub(average),
                }
            }
        };
        found + end.saturating_sub(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_an_index_is_weighed() {
        let mut log = LogBytes::new(0, None);
        for index in 1..=10 {
            log.append(index, 100);
        }
        assert_eq!(log.after(Some(10)), 0);
        assert_eq!(log.after(Some(7)), 300);
        log.truncate(Some(8));
        assert_eq!(log.after(Some(7)), 100);
        log.purge(7);
        assert_eq!(log.after(Some(8)), 0);
    }

    #[test]
    fn what_was_found_at_start_is_counted() {
        let mut log = LogBytes::new(100, Some(LogId::new_term_index(1, 100)));
        assert_eq!(log.after(Some(90)), 10 * GUESS_BYTES);
        log.append(101, 40);
        assert_eq!(log.after(Some(90)), 10 * 40 + 40);
        log.purge(95);
        assert_eq!(log.after(Some(80)), 5 * 40 + 40);
        log.purge(100);
        assert_eq!(log.after(Some(80)), 40);
    }
}
