//! Verdict: the history of a simulated world, as any history is written down and judged.
//!
//! ```text
//!   records of clients ─▶ invoke, ok, fail, info ─┬─▶ registers: cas-register, versions
//!                                                 ├─▶ counters:  counter, linearizable-counter, versions
//!                                                 └─▶ all:       sessions, receipts
//! ```
//!
//! Moments of a simulation are counted, and many share a millisecond: they are told apart by nanoseconds that nobody
//! waited for. Bounds and ages are written down a millisecond wider, so that this makes no claim stronger.
//!
//! **Invariant.** What is judged here is what `jepsen check` judges in the file.

use super::history::{Asked, Key, Record, Told};
use crate::{
    check::{self, Options, Verdict},
    history::{self, History, Kind, Process, Value},
    workload::{receipt_of, value_of},
};
use bytes::Bytes;
use kvorum_api::ReadLevel;
use std::{collections::BTreeMap, time::Duration};

/// Processes of one client: each unknown outcome ends one.
pub(super) const PROCESSES: u64 = 1_000_000;

/// Findings of one check that are told.
const FINDINGS_MAX: usize = 3;

const REGISTER_CHECKS: &[&str] = &["cas-register", "versions"];

const COUNTER_CHECKS: &[&str] = &["counter", "linearizable-counter", "versions"];

const BY_ALL: &[&str] = &["sessions", "receipts"];

/// What the checks convict. `finally`: reads at the very end.
#[must_use]
pub fn judge(records: &[Record], finally: &[Record]) -> Vec<String> {
    let all: Vec<&Record> = records.iter().chain(finally).collect();
    let mut found = Vec::new();
    convict(&registers(&all), REGISTER_CHECKS, &mut found);
    convict(&counters(&all), COUNTER_CHECKS, &mut found);
    convict(&all, BY_ALL, &mut found);
    found
}

/// What happened to registers.
fn registers<'a>(records: &[&'a Record]) -> Vec<&'a Record> {
    records.iter().copied().filter(|record| !is_counted(&record.key)).collect()
}

/// What happened to counters, without reads that may be older: the bounds of a counter know no levels.
fn counters<'a>(records: &[&'a Record]) -> Vec<&'a Record> {
    let is_bound = |record: &&Record| match record.asked {
        Asked::Read(level) => level == ReadLevel::Linearizable,
        _ => true,
    };
    records.iter().copied().filter(|record| is_counted(&record.key)).filter(is_bound).collect()
}

/// Everything by file: what happened to registers and to counters, and all of it.
#[must_use]
pub fn files(records: &[Record], finally: &[Record]) -> Vec<(&'static str, Vec<history::Record>)> {
    let all: Vec<&Record> = records.iter().chain(finally).collect();
    let written = |records: &[&Record]| written(records.iter().copied());
    vec![
        ("history.jsonl", written(&all)),
        ("registers.jsonl", written(&registers(&all))),
        ("counters.jsonl", written(&counters(&all))),
    ]
}

/// A history as it is written to a file.
fn written<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<history::Record> {
    let mut ordered: Vec<&Record> = records.into_iter().collect();
    ordered.sort_by_key(|record| record.invoked);
    let mut lives: BTreeMap<u64, u64> = BTreeMap::new();
    let mut events = Vec::new();
    for record in ordered {
        let life = lives.entry(record.client).or_default();
        let process = Process::Client(record.client * PROCESSES + *life);
        *life += u64::from(record.told == Told::Unknown);
        events.push((record.invoked, began(record, process)));
        events.push((record.completed, ended(record, process)));
    }
    events.sort_by_key(|(moment, _)| *moment);
    events.into_iter().map(|(_, event)| event).collect()
}

fn convict(records: &[&Record], checks: &[&str], found: &mut Vec<String>) {
    convict_events(written(records.iter().copied()), checks, found);
}

/// What the checks say of a history as it is written down.
pub(super) fn convict_events(events: Vec<history::Record>, checks: &[&str], found: &mut Vec<String>) {
    let history = match History::from_records(events) {
        Ok(history) => history,
        Err(error) => return found.push(format!("the history of the simulation is malformed: {error}")),
    };
    let options = Options { threads: 1, memory_bytes_max: 128 << 20, ..Options::default() };
    for name in checks {
        let check = check::find(name).expect("the simulation names checks that exist");
        match (check.judge)(&history, &options) {
            Err(unfit) => found.push(format!("{name}: {unfit}")),
            Ok(report) if report.verdict == Verdict::Violation => {
                let told = report.findings.iter().take(FINDINGS_MAX);
                found.extend(told.map(|finding| format!("{name}: {}", finding.what)));
            }
            // A search that was given up has shown nothing.
            Ok(report) if report.verdict == Verdict::Unknown => {
                found.push(format!("{name}: unknown: {}", report.reasons.join("; ")));
            }
            // Right, or too few operations to tell: a short world.
            Ok(_) => {}
        }
    }
}

fn is_counted(key: &Key) -> bool {
    key.name.get(2) == Some(&b'n')
}

pub(super) fn time_ns(at: Duration, moment: u64) -> u64 {
    at.as_millis() as u64 * 1_000_000 + moment
}

fn shown(key: &Key, value: &Bytes) -> Value {
    if is_counted(key) { value_of(value) } else { Value::Text(String::from_utf8_lossy(value).into_owned()) }
}

fn event(record: &Record, process: Process, kind: Kind) -> history::Record {
    let name = match record.asked {
        Asked::Put(_) | Asked::Lend(_) => "write",
        Asked::Increment => "increment",
        Asked::Swap(..) => "cas",
        Asked::Read(_) => "read",
    };
    let session = record.session.clone();
    let is_begin = kind == Kind::Invoke;
    let (at, moment) = if is_begin { (record.at.0, record.invoked) } else { (record.at.1, record.completed) };
    let event = history::Record::new(time_ns(at, moment), process, kind, name).with_key(&record.key.to_string());
    history::Record { session, ..event }
}

fn began(record: &Record, process: Process) -> history::Record {
    let value = match &record.asked {
        Asked::Put(value) | Asked::Lend(value) => shown(&record.key, value),
        Asked::Increment => Value::Int(1),
        Asked::Swap(seen, value) => {
            let seen = seen.as_ref().map_or(Value::Nil, |(_, seen)| shown(&record.key, seen));
            Value::List(vec![seen, shown(&record.key, value)])
        }
        Asked::Read(_) => Value::Nil,
    };
    let level = match record.asked {
        Asked::Read(ReadLevel::Bounded(bound)) => Some(ReadLevel::Bounded(bound + Duration::from_millis(1))),
        Asked::Read(level) => Some(level),
        _ => None,
    };
    history::Record { value, level, ..event(record, process, Kind::Invoke) }
}

fn ended(record: &Record, process: Process) -> history::Record {
    let (kind, value) = match &record.told {
        Told::Applied(_, number) => (Kind::Ok, number.map_or(Value::Nil, Value::Int)),
        Told::Failed => (Kind::Ok, Value::Bool(false)),
        Told::Found(found) => (Kind::Ok, found.as_ref().map_or(Value::Nil, |(_, value)| shown(&record.key, value))),
        Told::NotDone => (Kind::Fail, Value::Nil),
        Told::Unknown => (Kind::Info, Value::Nil),
    };
    let receipt = record.receipt.as_ref().map(|receipt| {
        let said = receipt_of(receipt);
        let level = match said.level {
            Some(ReadLevel::Bounded(bound)) => Some(ReadLevel::Bounded(bound + Duration::from_millis(1))),
            level => level,
        };
        history::Receipt { level, within_ms: said.within_ms.map(|within_ms| within_ms + 1), ..said }
    });
    history::Record { value, receipt, ..event(record, process, kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::{Actor, KeyspaceId, Stamp, Version};

    fn record(client: u64, moments: (u64, u64), name: &'static str, asked: Asked, told: Told) -> Record {
        let at = (Duration::from_millis(moments.0), Duration::from_millis(moments.1));
        let key = Key { keyspace: KeyspaceId(1), name: Bytes::from_static(name.as_bytes()) };
        Record::new((client, key, asked), moments, at, (told, None))
    }

    fn version(stamp: u64) -> Version {
        Version { stamp: Stamp(stamp), actor: Actor::default() }
    }

    fn put(client: u64, moments: (u64, u64), value: &'static str, told: Told) -> Record {
        record(client, moments, "b-r0", Asked::Put(Bytes::from_static(value.as_bytes())), told)
    }

    fn read(moments: (u64, u64), name: &'static str, value: &'static str) -> Record {
        let found = Some((version(1), Bytes::from_static(value.as_bytes())));
        record(9, moments, name, Asked::Read(ReadLevel::Linearizable), Told::Found(found))
    }

    fn convicted(records: &[Record]) -> String {
        judge(records, &[]).join("\n")
    }

    #[test]
    fn registers_are_searched_for_an_order() {
        let (first, second) =
            (put(1, (1, 2), "a", Told::Applied(version(1), None)), put(2, (3, 4), "b", Told::Unknown));
        let old = read((5, 6), "b-r0", "a");
        assert_eq!(convicted(&[first.clone(), second.clone(), old.clone()]), "", "nobody knows when b happened");
        let back = read((9, 10), "b-r0", "a");
        let seen = read((7, 8), "b-r0", "b");
        assert!(convicted(&[first, second, old, seen, back]).contains("cas-register"));
    }

    #[test]
    fn a_lost_update_and_a_denied_write_are_found() {
        let swap = |client, moments, value: &'static str| {
            let asked = Asked::Swap(Some((version(1), Bytes::from_static(b"a"))), Bytes::from_static(value.as_bytes()));
            record(client, moments, "b-r0", asked, Told::Applied(version(2), None))
        };
        let first = put(1, (1, 2), "a", Told::Applied(version(1), None));
        assert!(convicted(&[first.clone(), swap(2, (3, 6), "b"), swap(3, (4, 7), "c")]).contains("cas-register"));
        let denied = put(2, (3, 4), "b", Told::NotDone);
        assert!(convicted(&[first, denied, read((5, 6), "b-r0", "b")]).contains("cas-register"));
    }

    #[test]
    fn an_increment_that_happened_twice_or_never_is_found() {
        let add =
            |moments, number| record(1, moments, "b-n0", Asked::Increment, Told::Applied(version(1), Some(number)));
        assert_eq!(convicted(&[add((1, 2), 1), read((3, 4), "b-n0", "1")]), "");
        assert!(convicted(&[add((1, 2), 1), read((3, 4), "b-n0", "2")]).contains("counter"));
        assert!(convicted(&[add((1, 2), 1), add((3, 4), 2), read((5, 6), "b-n0", "1")]).contains("counter"));
        let maybe = record(1, (3, 4), "b-n0", Asked::Increment, Told::Unknown);
        assert_eq!(convicted(&[add((1, 2), 1), maybe, read((5, 6), "b-n0", "2")]), "");
    }
}
