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
//! **Deliberately absent.** Operations over several keys, deletes (a deleted key has no version to compare), and what
//! reads below linearizable promise (`freshness`).

use super::freshness;
use bytes::Bytes;
use kvorum_api::{KeyspaceId, ReadLevel, Version};
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

/// What linearizable reads found at the end, of keys whose keyspace is still there.
pub type Finally = BTreeMap<Key, Option<(Version, Bytes)>>;

/// What a client asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Set the key to a value that nobody else writes.
    Put(Bytes),
    /// The same, for a little while only.
    Lend(Bytes),
    /// Add one.
    Increment,
    /// Set the key if it is in this version (`None`: if it is absent).
    Swap(Option<Version>, Bytes),
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
}

impl Record {
    /// The version it wrote, if it is known to have written.
    fn written(&self) -> Option<Version> {
        match self.told {
            Told::Applied(version, _) => Some(version),
            Told::Failed | Told::Found(_) | Told::NotDone | Told::Unknown => None,
        }
    }

    /// What it wanted to write, if it was told with proof that this never happens.
    fn denied(&self) -> Option<&Bytes> {
        match (&self.asked, &self.told) {
            (Asked::Put(value) | Asked::Swap(_, value), Told::NotDone | Told::Failed) => Some(value),
            _ => None,
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

/// Everything that cannot be true of an honest store. `finally` is what linearizable reads found at the end.
#[must_use]
pub fn violations(history: &[Record], finally: &Finally) -> Vec<String> {
    let mut keys: BTreeMap<&Key, Vec<&Record>> = BTreeMap::new();
    for record in history {
        keys.entry(&record.key).or_default().push(record);
    }
    let mut found = Vec::new();
    for (key, records) in keys {
        versions_are_unique(&records, &mut found);
        real_time_is_respected(&records, &mut found);
        reads_show_what_was_written(&records, &mut found);
        swaps_are_atomic(&records, &mut found);
        freshness::check(&records, &mut found);
        if let Some(end) = finally.get(key) {
            increments_happen_once(&records, end.clone(), &mut found);
            nothing_acknowledged_is_missing(&records, end.clone(), &mut found);
        }
    }
    found
}

fn versions_are_unique(records: &[&Record], found: &mut Vec<String>) {
    let mut writers: BTreeMap<Version, &Record> = BTreeMap::new();
    for record in records {
        let Some(version) = record.written() else { continue };
        if let Some(other) = writers.insert(version, record) {
            found.push(format!("two writes have version {version}: {other} and {record}"));
        }
    }
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

fn reads_show_what_was_written(records: &[&Record], found: &mut Vec<String>) {
    let writers: BTreeMap<Version, &Record> =
        records.iter().filter_map(|record| Some((record.written()?, *record))).collect();
    let denied: BTreeMap<&Bytes, &Record> =
        records.iter().filter_map(|record| Some((record.denied()?, *record))).collect();
    for record in records {
        let Told::Found(Some((version, value))) = &record.told else { continue };
        if let Some(writer) = denied.get(value) {
            found.push(format!("refused with proof, and happened: {record} shows what {writer} wanted to write"));
        }
        let Some(writer) = writers.get(version) else { continue };
        let expected = match (&writer.asked, &writer.told) {
            (Asked::Put(value) | Asked::Swap(_, value), _) => value.clone(),
            (Asked::Increment, Told::Applied(_, Some(number))) => Bytes::from(number.to_string()),
            _ => continue,
        };
        if expected != value {
            found.push(format!("wrong value: {record} shows another value than {writer} wrote"));
        }
        if writer.invoked > record.completed {
            found.push(format!("from the future: {record} shows what {writer} had not begun to write"));
        }
    }
}

/// Between the version a swap expected and the one it wrote there is no other write.
fn swaps_are_atomic(records: &[&Record], found: &mut Vec<String>) {
    for record in records {
        let (Asked::Swap(expected, _), Some(written)) = (&record.asked, record.written()) else { continue };
        let between = records
            .iter()
            .find(|other| other.written().is_some_and(|version| version < written && Some(version) > *expected));
        if let Some(other) = between {
            found.push(format!("lost update: {record} overwrote {other}"));
        }
    }
}

/// A counter ends between the increments that are known and those that may have happened; no number is told twice.
fn increments_happen_once(records: &[&Record], finally: Option<(Version, Bytes)>, found: &mut Vec<String>) {
    let increments = || records.iter().filter(|record| record.asked == Asked::Increment);
    if increments().next().is_none() {
        return;
    }
    let mut numbers: BTreeMap<i64, &Record> = BTreeMap::new();
    for record in increments() {
        let Told::Applied(_, Some(number)) = record.told else { continue };
        if let Some(other) = numbers.insert(number, record) {
            found.push(format!("two increments made {number}: {other} and {record}"));
        }
    }
    let known = increments().filter(|record| record.written().is_some()).count() as i64;
    let possible = known + increments().filter(|record| record.told == Told::Unknown).count() as i64;
    let end = match finally {
        None => 0,
        Some((_, value)) => match String::from_utf8_lossy(&value).parse::<i64>() {
            Ok(end) => end,
            Err(_) => return found.push(format!("a counter ends as {value:?}")),
        },
    };
    if end < known {
        found.push(format!("increments are missing: the counter ends at {end}, {known} were acknowledged"));
    }
    if end > possible {
        found.push(format!("a request was applied twice: the counter ends at {end}, only {possible} were asked for"));
    }
}

fn nothing_acknowledged_is_missing(records: &[&Record], finally: Option<(Version, Bytes)>, found: &mut Vec<String>) {
    let end = finally.map(|(version, _)| version);
    for record in records {
        if record.proves() > end {
            found.push(format!("acknowledged and missing at the end ({end:?}): {record}"));
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

    fn key() -> Key {
        Key { keyspace: KeyspaceId(1), name: Bytes::from_static(b"k") }
    }

    fn record(moments: (u64, u64), asked: Asked, told: Told) -> Record {
        let at = (Duration::from_millis(moments.0), Duration::from_millis(moments.1));
        Record {
            client: 1,
            key: key(),
            asked,
            invoked: moments.0,
            completed: moments.1,
            at,
            told,
            within: None,
            floor: None,
        }
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
        violations(history, &BTreeMap::from([(key(), end)])).join("\n")
    }

    #[test]
    fn an_honest_history_passes() {
        let history = [
            put((1, 4), "a", 5),
            put((2, 6), "b", 4),
            read((7, 8), found(5, "a")),
            record((9, 10), Asked::Swap(Some(version(5)), Bytes::from_static(b"c")), Told::Applied(version(9), None)),
            record((9, 11), Asked::Swap(Some(version(5)), Bytes::from_static(b"d")), Told::Failed),
            record((9, 12), Asked::Put(Bytes::from_static(b"e")), Told::Unknown),
        ];
        assert_eq!(judge(&history, found(9, "c")), "");
        assert_eq!(judge(&history, found(12, "e")), "");
    }

    #[test]
    fn a_lost_write_is_found() {
        assert!(judge(&[put((1, 2), "a", 5)], None).contains("acknowledged and missing"));
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

    #[test]
    fn a_wrong_value_is_found() {
        let history = [put((1, 2), "a", 5), read((3, 4), found(5, "x"))];
        assert!(judge(&history, found(5, "a")).contains("wrong value"));
    }

    #[test]
    fn a_lost_update_is_found() {
        let swap = Asked::Swap(Some(version(3)), Bytes::from_static(b"c"));
        let history = [put((1, 2), "a", 5), record((1, 4), swap, Told::Applied(version(6), None))];
        assert!(judge(&history, found(6, "c")).contains("lost update"));
    }

    #[test]
    fn an_increment_that_happened_twice_is_found() {
        let once = record((1, 2), Asked::Increment, Told::Applied(version(5), Some(1)));
        assert_eq!(judge(std::slice::from_ref(&once), found(5, "1")), "");
        assert!(judge(std::slice::from_ref(&once), found(6, "2")).contains("applied twice"));
        let maybe = record((3, 4), Asked::Increment, Told::Unknown);
        assert_eq!(judge(&[once.clone(), maybe.clone()], found(6, "2")), "");
        assert!(judge(&[once, maybe], found(7, "3")).contains("applied twice"));
    }

    #[test]
    fn a_write_that_was_denied_and_happened_is_found() {
        let denied = record((1, 2), Asked::Put(Bytes::from_static(b"a")), Told::NotDone);
        assert!(judge(&[denied, read((3, 4), found(5, "a"))], found(5, "a")).contains("refused with proof"));
    }

    #[test]
    fn a_missing_increment_is_found() {
        let both = [
            record((1, 2), Asked::Increment, Told::Applied(version(5), Some(1))),
            record((3, 4), Asked::Increment, Told::Applied(version(6), Some(2))),
        ];
        assert!(judge(&both, found(6, "1")).contains("increments are missing"));
    }
}
