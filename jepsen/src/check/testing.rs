//! Histories for tests, a line per operation:
//!
//! ```text
//!   1-9 c2 read:x@session - 5 version=2.7 within=20 shard=s position=3 session=a
//!   │ │ │  │    │ │       │ └ result: JSON, `ok`, `fail`, or `?` if nobody knows
//!   │ │ │  │    │ level   └ argument: JSON, or `-`
//!   │ │ │  name key
//!   │ │ client
//!   invoked, ended
//! ```

use super::report::Report;
use crate::history::{History, Kind, Process, Rank, Receipt, Record, Value, parse_level};

/// Records of every line, by time.
pub fn records(lines: &str) -> Vec<Record> {
    let mut records: Vec<Record> =
        lines.lines().map(str::trim).filter(|line| !line.is_empty()).flat_map(record_pair).collect();
    records.sort_by_key(|record| (record.time_ns, record.kind == Kind::Invoke));
    records
}

/// The history of some lines.
pub fn history(lines: &str) -> History {
    History::from_records(records(lines)).unwrap()
}

/// Why a report is not ok.
pub fn reasons(report: Report) -> Vec<String> {
    report.reasons
}

fn record_pair(line: &str) -> [Record; 2] {
    let words: Vec<&str> = line.split(' ').collect();
    let [times, client, what, argument, result] = words[..5] else { panic!("{line}: five words are due") };
    let (from, until) = times.split_once('-').unwrap();
    let (what, level) = what.split_once('@').map_or((what, None), |(what, level)| (what, parse_level(level)));
    let (name, key) = what.split_once(':').map_or((what, None), |(name, key)| (name, Some(key.to_owned())));
    let process = Process::Client(client[1..].parse().unwrap());
    let option = |name: &str| words[5..].iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let session = option("session").map(str::to_owned);
    let json = |text: &str| Value::from_json(serde_json::from_str(text).unwrap()).unwrap();
    let value = if argument == "-" { Value::Nil } else { json(argument) };
    let begin = Record {
        key: key.clone(),
        level,
        session,
        value,
        ..Record::new(from.parse().unwrap(), process, Kind::Invoke, name)
    };
    let (kind, value) = match result {
        "?" => (Kind::Info, Value::Nil),
        "fail" => (Kind::Fail, Value::Nil),
        "ok" => (Kind::Ok, Value::Nil),
        result => (Kind::Ok, json(result)),
    };
    let rank = |text: &str| {
        Some(text)
            .filter(|text| !text.is_empty())
            .map(|text| Rank(text.split('.').map(|n| n.parse().unwrap()).collect()))
    };
    let receipt = (words.len() > 5).then(|| Receipt {
        level: option("level").and_then(parse_level),
        within_ms: option("within").map(|ms| ms.parse().unwrap()),
        version: option("version").and_then(rank),
        shard: option("shard").map(str::to_owned),
        position: option("position").and_then(rank),
        node: option("node").map(str::to_owned),
    });
    let end = Record { key, value, receipt, ..Record::new(until.parse().unwrap(), process, kind, name) };
    [begin, end]
}
