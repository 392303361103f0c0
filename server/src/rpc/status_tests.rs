//! What an error says on the wire.

use super::*;
use kvorum_api::{LogPosition, Mode, NodeId, ReadLevel, ShardId};
use std::time::Duration;

fn info(status: &Status) -> (String, BTreeMap<String, String>) {
    let info = status.get_details_error_info().expect("every status carries an ErrorInfo");
    assert_eq!(info.domain, DOMAIN);
    (info.reason, info.metadata.into_iter().collect())
}

#[test]
fn a_leader_hint_travels_with_not_leader() {
    let leader = Some(LeaderHint { node: NodeId(2), address: "127.0.0.1:7102".into() });
    let status = write_error(&WriteError::NotLeader { shard: ShardId(1), leader });
    assert_eq!(status.code(), Code::FailedPrecondition);
    let (reason, metadata) = info(&status);
    assert_eq!(reason, "NOT_LEADER");
    assert_eq!(metadata["effect"], "none");
    assert_eq!(metadata["retry"], "elsewhere");
    assert_eq!(metadata["leader"], "2");
    assert_eq!(metadata["leader_address"], "127.0.0.1:7102");
    assert_eq!(metadata["shard"], "1");
}

#[test]
fn a_deadline_tells_its_true_effect() {
    for (effect, word, retry) in [(Effect::None, "none", "elsewhere"), (Effect::Unknown, "unknown", "same_request_id")]
    {
        let error = WriteError::DeadlineExceeded { shard: ShardId(1), deadline: Duration::from_secs(1), effect };
        let status = write_error(&error);
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let (_, metadata) = info(&status);
        assert_eq!((metadata["effect"].as_str(), metadata["retry"].as_str()), (word, retry));
    }
}

#[test]
fn a_limit_is_named_and_a_pause_is_given() {
    let over = Refused::OverLimit { field: "value", actual: 9, limit: "value_bytes_max", max: 8, fix: "split it" };
    let (reason, metadata) = info(&refused(&over));
    assert_eq!((reason.as_str(), metadata["limit"].as_str()), ("OVER_LIMIT", "value_bytes_max"));
    let busy = read_error(&ReadError::Refused(Refused::Overloaded { limit: "scans_max", max: 1 }));
    assert_eq!(busy.code(), Code::ResourceExhausted);
    let (_, metadata) = info(&busy);
    assert_eq!((metadata["retry"].as_str(), metadata["retry_after_ms"].as_str()), ("later", "50"));
}

/// One of each, and both effects of those that have two. A new variant does not compile until it is here.
fn every_refused() -> Vec<Refused> {
    let all = vec![
        Refused::Malformed { field: "f", problem: "p".into() },
        Refused::OverLimit { field: "f", actual: 2, limit: "l", max: 1, fix: "x" },
        Refused::KeyEmpty,
        Refused::UnknownKeyspace { name: "n".into(), known: "k".into() },
        Refused::LevelNotOffered { level: ReadLevel::One, mode: Mode::Cp, offered: "o" },
        Refused::Overloaded { limit: "l", max: 1 },
        Refused::Draining,
        Refused::StampAhead { ahead_ms: 2, max_ms: 1 },
    ];
    for refused in &all {
        match refused {
            Refused::Malformed { .. }
            | Refused::OverLimit { .. }
            | Refused::KeyEmpty
            | Refused::UnknownKeyspace { .. }
            | Refused::LevelNotOffered { .. }
            | Refused::Overloaded { .. }
            | Refused::Draining
            | Refused::StampAhead { .. } => {}
        }
    }
    all
}

fn every_write_error() -> Vec<WriteError> {
    let (shard, why, deadline) = (ShardId(1), || "w".to_owned(), Duration::from_secs(1));
    let mut all = vec![
        WriteError::NotLeader { shard, leader: None },
        WriteError::NoQuorum { shard, why: why() },
        WriteError::DiskFull { why: why() },
        WriteError::ClockSuspect { why: why() },
        WriteError::RequestIdExpired { why: why() },
        WriteError::Installing { shard },
        WriteError::StaleEpoch { shard, epoch: 1, why: why() },
        WriteError::LeadershipLost { shard, why: why() },
    ];
    for effect in [Effect::None, Effect::Unknown] {
        all.push(WriteError::Poisoned { why: why(), effect });
        all.push(WriteError::DeadlineExceeded { shard, deadline, effect });
        all.push(WriteError::Stopped { shard, why: why(), effect });
    }
    for error in &all {
        match error {
            WriteError::Refused(_)
            | WriteError::NotLeader { .. }
            | WriteError::NoQuorum { .. }
            | WriteError::DiskFull { .. }
            | WriteError::ClockSuspect { .. }
            | WriteError::Poisoned { .. }
            | WriteError::RequestIdExpired { .. }
            | WriteError::Installing { .. }
            | WriteError::StaleEpoch { .. }
            | WriteError::DeadlineExceeded { .. }
            | WriteError::LeadershipLost { .. }
            | WriteError::Stopped { .. } => {}
        }
    }
    all
}

fn every_read_error() -> Vec<ReadError> {
    let (shard, why, bound) = (ShardId(1), || "w".to_owned(), Duration::from_secs(1));
    let (at, wanted) = (LogPosition::default(), LogPosition::default());
    let all = vec![
        ReadError::NotLeader { shard, leader: None },
        ReadError::NoQuorum { shard, why: why() },
        ReadError::Installing { shard },
        ReadError::DeadlineExceeded { shard, deadline: bound },
        ReadError::ClockSuspect { why: why() },
        ReadError::StaleEpoch { shard, epoch: 1, why: why() },
        ReadError::SessionNotMet { shard, at, wanted, leader: None },
        ReadError::TooStale { shard, bound, why: why(), leader: None },
        ReadError::Storage { shard, why: why() },
        ReadError::Stopped { shard, why: why() },
    ];
    for error in &all {
        match error {
            ReadError::Refused(_)
            | ReadError::NotLeader { .. }
            | ReadError::NoQuorum { .. }
            | ReadError::Installing { .. }
            | ReadError::DeadlineExceeded { .. }
            | ReadError::ClockSuspect { .. }
            | ReadError::StaleEpoch { .. }
            | ReadError::SessionNotMet { .. }
            | ReadError::TooStale { .. }
            | ReadError::Storage { .. }
            | ReadError::Stopped { .. } => {}
        }
    }
    all
}

fn every_admin_error() -> Vec<AdminError> {
    let all = vec![
        AdminError::Invalid { field: "f", problem: "p".into() },
        AdminError::Exists { what: "w".into() },
        AdminError::NotFound { what: "w".into() },
        AdminError::WrongKey,
        AdminError::Unavailable { why: "w".into(), effect: Effect::None },
        AdminError::Unavailable { why: "w".into(), effect: Effect::Unknown },
    ];
    for error in &all {
        match error {
            AdminError::Refused(_)
            | AdminError::Invalid { .. }
            | AdminError::Exists { .. }
            | AdminError::NotFound { .. }
            | AdminError::WrongKey
            | AdminError::Unavailable { .. } => {}
        }
    }
    all
}

/// `InvalidArgument` as the gRPC documents spell it.
fn code_words(code: Code) -> String {
    let mut words = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.extend(letter.to_uppercase());
    }
    words
}

#[test]
fn every_error_is_documented_with_its_code_effect_and_retry() {
    const DOCUMENT: &str = include_str!("../../../docs/errors.md");
    let rows: BTreeMap<String, Vec<String>> = DOCUMENT
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<String> = line.split('|').map(|cell| cell.trim().replace('`', "")).collect();
            (cells[1].clone(), cells[2..].to_vec())
        })
        .collect();
    let statuses = every_refused().iter().map(refused).collect::<Vec<_>>();
    let statuses = statuses.into_iter().chain(every_write_error().iter().map(write_error).collect::<Vec<_>>());
    let statuses = statuses.chain(every_read_error().iter().map(read_error).collect::<Vec<_>>());
    let statuses = statuses.chain(every_admin_error().iter().map(admin_error).collect::<Vec<_>>());
    let mut seen = std::collections::BTreeSet::new();
    for status in statuses {
        let (reason, metadata) = info(&status);
        let row = rows.get(&reason).unwrap_or_else(|| panic!("docs/errors.md does not describe {reason}"));
        assert_eq!(row[0], code_words(status.code()), "code of {reason}");
        assert!(row[1].contains(&metadata["effect"]), "effect {} of {reason}", metadata["effect"]);
        assert!(row[2].contains(&metadata["retry"]), "retry {} of {reason}", metadata["retry"]);
        seen.insert(reason);
    }
    let described: std::collections::BTreeSet<String> = rows.into_keys().collect();
    assert_eq!(described, seen, "the document describes what exists, and nothing else");
}
