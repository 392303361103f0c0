//! # History: what the clients asked, what they were told, and what must be true of it
//!
//! Every applied write has a version, and versions of one key grow in the order in which writes took effect. So each
//! key can be judged by itself, without searching for an order:
//!
//! ```text
//!   real time   ├── put a ──┤      ├── read ──┤            a was acknowledged before the read began:
//!   versions        v7                  v≥7                the read must show v7 or newer
//! ```
//!
//! **Invariant.** Pure: a history in, sentences out. No sentence, no violation.
//!
//! **Deliberately absent.** Operations over several keys, deletes (a deleted key has no version to compare), what reads
//! below linearizable promise (`freshness`), and whatever the checks of [`crate::check`] say (`verdict`).

use super::freshness;
use bytes::Bytes;
use kvorum_api::{KeyspaceId, ReadLevel, Receipt, Version};
use std::{collections::BTreeMap, fmt, time::Duration};

/// One key of one keyspace. The number of a dropped keyspace never comes back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The keyspace.
    pub keyspace: KeyspaceId,
    /// The key in it.
    pub name: Bytes,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.keyspace, String::from_utf8_lossy(&self.name))
    }
}

/// What a client asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Set the key to a value that nobody else writes.
    Put(Bytes),
    /// The same, for a little while only.
    Lend(Bytes),
    /// Add one.
    Increment,
    /// Set the key if it is in the version that was seen with this value (`None`: if it is absent).
    Swap(Option<(Version, Bytes)>, Bytes),
    /// A read.
    Read(ReadLevel),
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The write happened: its version, and of an increment the new number.
    Applied(Version, Option<i64>),
    /// The condition failed: nothing happened.
    Failed,
    /// The read found this.
    Found(Option<(Version, Bytes)>),
    /// Every attempt was refused with proof that nothing happened.
    NotDone,
    /// It may have happened, at most once.
    Unknown,
}

/// One operation of one client. Moments are counted, not timed: two events never share one.
#[derive(Clone, Debug)]
pub struct Record {
    /// Whose.
    pub client: u64,
    /// Which key.
    pub key: Key,
    /// What was asked.
    pub asked: Asked,
    /// When the first attempt of a write began, or the attempt of a read that was answered.
    pub invoked: u64,
    /// When the answer came.
    pub completed: u64,
    /// The same two, by the clock on the wall of the world.
    pub at: (Duration, Duration),
    /// What was told.
    pub told: Told,
    /// Reads that say how old their answer may be: this old.
    pub within: Option<Duration>,
    /// Session reads: the newest version of the key that the session had seen.
    pub floor: Option<Version>,
    /// What the reply said about itself.
    pub receipt: Option<Receipt>,
    /// The name of the session.
    pub session: Option<String>,
}

impl Record {
    /// What everybody has: who asked what, from which moment to which, by which clock, and what was told.
    #[must_use]
    pub fn new(
        (client, key, asked): (u64, Key, Asked),
        (invoked, completed): (u64, u64),
        at: (Duration, Duration),
        (told, receipt): (Told, Option<Receipt>),
    ) -> Self {
        let (within, floor, session) = (None, None, None);
        Record { client, key, asked, invoked, completed, at, told, within, floor, receipt, session }
    }

    /// The version it wrote, if it is known to have written.
    fn written(&self) -> Option<Version> {
        match self.told {
            Told::Applied(version, _) => Some(version),
            Told::Failed | Told::Found(_) | Told::NotDone | Told::Unknown => None,
        }
    }

    /// The newest version it proves to have existed when it completed.
    pub(super) fn proves(&self) -> Option<Version> {
        match &self.told {
            Told::Found(Some((version, _))) => Some(*version),
            _ => self.written(),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { client, key, invoked, completed, asked, told, .. } = self;
        let (began, ended) = (self.at.0.as_millis(), self.at.1.as_millis());
        write!(f, "client {client} [{invoked}..{completed}, {began}..{ended} ms] {key} {asked:?} ─▶ {told:?}")
    }
}

/// What cannot be true of an honest store. `finally`: linearizable reads of every key at the end.
#[must_use]
pub fn violations(history: &[Record], finally: &[Record]) -> Vec<String> {
    let mut keys: BTreeMap<&Key, Vec<&Record>> = BTreeMap::new();
    for record in history {
        keys.entry(&record.key).or_default().push(record);
    }
    let ends: BTreeMap<&Key, &Record> = finally.iter().map(|record| (&record.key, record)).collect();
    let mut found = Vec::new();
    for (key, records) in keys {
        real_time_is_respected(&records, &mut found);
        freshness::check(&records, &mut found);
        if let Some(end) = ends.get(key) {
            nothing_shown_is_missing(&records, end.proves(), &mut found);
        }
    }
    found
}

/// What completed before something else began must not be newer than it.
fn real_time_is_respected(records: &[&Record], found: &mut Vec<String>) {
    let mut by_end: Vec<&&Record> = records.iter().filter(|record| record.proves().is_some()).collect();
    by_end.sort_by_key(|record| record.completed);
    let is_linearizable = |record: &&&Record| match (&record.asked, &record.told) {
        (_, Told::NotDone | Told::Unknown | Told::Failed) => false,
        (Asked::Read(level), _) => *level == ReadLevel::Linearizable,
        _ => true,
    };
    let mut by_start: Vec<&&Record> = records.iter().filter(is_linearizable).collect();
    by_start.sort_by_key(|record| record.invoked);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&Record> = None;
    for record in by_start {
        while let Some(earlier) = ended.next_if(|earlier| earlier.completed < record.invoked) {
            if newest.is_none_or(|newest| earlier.proves() > newest.proves()) {
                newest = Some(earlier);
            }
        }
        let Some(newest) = newest else { continue };
        let is_older = match record.written() {
            Some(version) => Some(version) <= newest.proves(),
            None => record.proves() < newest.proves(),
        };
        if is_older {
            found.push(format!("went back: {record} began after {newest} had completed"));
        }
    }
}

fn nothing_shown_is_missing(records: &[&Record], end: Option<Version>, found: &mut Vec<String>) {
    for record in records {
        if record.proves() > end {
            found.push(format!("acknowledged or shown, and missing at the end ({end:?}): {record}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::{Actor, Stamp};

    fn version(stamp: u64) -> Version {
        Version { stamp: Stamp(stamp), actor: Actor::default() }
    }

    fn record(moments: (u64, u64), asked: Asked, told: Told) -> Record {
        let at = (Duration::from_millis(moments.0), Duration::from_millis(moments.1));
        let key = Key { keyspace: KeyspaceId(1), name: Bytes::from_static(b"k") };
        Record::new((1, key, asked), moments, at, (told, None))
    }

    fn put(moments: (u64, u64), value: &'static str, stamp: u64) -> Record {
        record(moments, Asked::Put(Bytes::from_static(value.as_bytes())), Told::Applied(version(stamp), None))
    }

    fn found(stamp: u64, value: &'static str) -> Option<(Version, Bytes)> {
        Some((version(stamp), Bytes::from_static(value.as_bytes())))
    }

    fn read(moments: (u64, u64), what: Option<(Version, Bytes)>) -> Record {
        record(moments, Asked::Read(ReadLevel::Linearizable), Told::Found(what))
    }

    fn judge(history: &[Record], end: Option<(Version, Bytes)>) -> String {
        violations(history, &[read((100, 101), end)]).join("\n")
    }

    #[test]
    fn an_honest_history_passes() {
        let swap = |value: &'static str| Asked::Swap(found(5, "a"), Bytes::from_static(value.as_bytes()));
        let history = [
            put((1, 4), "a", 5),
            put((2, 6), "b", 4),
            read((7, 8), found(5, "a")),
            record((9, 10), swap("c"), Told::Applied(version(9), None)),
            record((9, 11), swap("d"), Told::Failed),
            record((9, 12), Asked::Put(Bytes::from_static(b"e")), Told::Unknown),
        ];
        assert_eq!(judge(&history, found(9, "c")), "");
        assert_eq!(judge(&history, found(12, "e")), "");
    }

    #[test]
    fn a_lost_write_is_found() {
        assert!(judge(&[put((1, 2), "a", 5)], None).contains("missing at the end"));
    }

    #[test]
    fn a_stale_read_is_found() {
        let history = [put((1, 2), "a", 5), put((3, 4), "b", 6), read((5, 6), found(5, "a"))];
        assert!(judge(&history, found(6, "b")).contains("went back"));
        let history = [put((1, 2), "a", 5), read((5, 6), None)];
        assert!(judge(&history, found(5, "a")).contains("went back"));
    }

    #[test]
    fn a_write_ordered_before_what_it_followed_is_found() {
        let history = [put((1, 2), "a", 5), put((3, 4), "b", 4)];
        assert!(judge(&history, found(5, "a")).contains("went back"));
    }
}
