//! What ten thousand shards cost a node that does not use them: memory, and nothing else.
//!
//! Alone in its process: it looks at the memory of all of it.

#![expect(clippy::unwrap_used, reason = "this is a test")]

use bytes::Bytes;
use kvorum_api::{Actor, GroupId, KeyspaceId, LogPosition, NodeId, PlacementRange, ShardId, Stamp, StartCount};
use kvorum_storage::{
    Command, Engine, Journal, Outcome, Shard,
    command::{Images, Proposal, Settings},
    engine::mem::MemEngine,
    journal::{BatchNumber, Completion, JournalOptions, LogRecord, Mark, MemDisk, MemJournal},
    shard::{BEHAVIOUR, LoggedEntry, ShardSpec, Step},
};
use std::sync::Arc;

const SHARDS: u64 = 10_000;

/// Bytes that an open, founded and resting shard takes besides its rows in the engine.
const SHARD_BYTES_MAX: u64 = 1_500;

/// Bytes that the journal keeps for a group with a vote, a committed mark and one entry.
const GROUP_BYTES_MAX: u64 = 2_500;

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// What `make` leaves resident, for each of `SHARDS`.
fn bytes_each<T>(make: impl Fn(u64) -> T) -> (u64, Vec<T>) {
    let mut made = Vec::with_capacity(SHARDS as usize);
    let before = resident_bytes();
    made.extend((0..SHARDS).map(make));
    ((resident_bytes() - before) / SHARDS, made)
}

fn open(engine: &Arc<MemEngine>, number: u64) -> Arc<Shard> {
    let spec = ShardSpec { shard: ShardId(number), keyspace: KeyspaceId(1) };
    Shard::open(engine.clone() as Arc<dyn Engine>, spec).unwrap()
}

fn key(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn apply(shard: &Shard, index: u64, command: Command) -> Outcome {
    let actor = Actor { node: NodeId(1), start: StartCount(1) };
    let proposal = Proposal { time_ms: 0, stamp: Stamp(0), actor, commands: vec![command] };
    let position = LogPosition { term: 1, index };
    let entry = LoggedEntry { position, batch: BatchNumber(index), step: Step::Commands(proposal) };
    shard.apply(&[entry]).unwrap().remove(0).remove(0)
}

/// Each has a range of its own, as shards of one keyspace do.
fn found(shard: &Shard, number: u64) {
    let members = LoggedEntry {
        position: LogPosition { term: 1, index: 1 },
        batch: BatchNumber(1),
        step: Step::Membership(Bytes::from(vec![1; 80])),
    };
    shard.apply(&[members]).unwrap();
    let settings = Settings {
        behaviour: BEHAVIOUR,
        images: Images::Keys,
        request_window_ms: 600_000,
        request_outcomes_max: 64,
        range: PlacementRange { start: key(number), end: Some(key(number + 1)) },
        epoch: 2,
        has_leases: false,
    };
    assert_eq!(apply(shard, 2, Command::Configure(settings)), Outcome::Configured);
}

#[test]
fn ten_thousand_idle_shards_and_groups_are_small() {
    let engine = MemEngine::fresh();
    let (pristine_bytes, pristine) = bytes_each(|number| open(&engine, number));
    for (number, shard) in (0..).zip(&pristine) {
        found(shard, number);
    }
    // Opened beside those that were founded, so that no memory they gave back is counted for them.
    let (founded_bytes, founded) = bytes_each(|number| open(&engine, number));
    assert!(founded.iter().all(|shard| shard.state().settings.is_some()));

    let disk = MemDisk::new();
    let journal = MemJournal::open(disk.clone(), JournalOptions::small()).unwrap();
    let disk_bytes = disk.used_bytes();
    let (group_bytes, _) = bytes_each(|number| {
        let group = GroupId(number);
        journal.mark(group, Mark::Vote(Bytes::from(vec![1; 18])), Completion::None).unwrap();
        let entry = LogRecord { index: 1, term: 1, payload: Bytes::from(vec![1; 100]) };
        journal.append(group, vec![entry], Completion::None).unwrap();
        journal.mark(group, Mark::Committed(Bytes::from(vec![1; 17])), Completion::None).unwrap();
    });
    let group_bytes = group_bytes - (disk.used_bytes() - disk_bytes) / SHARDS;
    println!("a pristine shard: {pristine_bytes} bytes; a founded one: {founded_bytes}; a group: {group_bytes}");
    assert!(founded_bytes <= SHARD_BYTES_MAX, "{founded_bytes} bytes a shard");
    assert!(group_bytes <= GROUP_BYTES_MAX, "{group_bytes} bytes a group");
    assert_eq!(journal.groups().len() as u64, SHARDS);
}
