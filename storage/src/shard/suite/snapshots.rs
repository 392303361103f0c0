//! Snapshots: from one replica to another, whole or not at all (rules S1, S3, S4).

use super::{
    Case, Lab,
    fuse::Fuse,
    world::{Contents, SPEC, World, common, increment, put, put_ttl},
};
use crate::{
    changelog::ChangesError,
    command::{Command, Outcome, RequestId},
    engine::{Column, Direction, Engine},
    error::StorageError,
    journal::BatchNumber,
    keys,
    shard::{ScanRange, Shard, ShardSnapshot, StagedSnapshot, Step},
};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, PlacementRange, ShardId};
use std::sync::Arc;

pub(super) const CASES: &[Case] = &[
    ("a snapshot carries everything that replicas agree on", a_snapshot_carries_everything_that_replicas_agree_on),
    ("a snapshot is of one moment", a_snapshot_is_of_one_moment),
    ("chunks are bounded and end with totals", chunks_are_bounded_and_end_with_totals),
    ("damaged, missing and foreign chunks are refused", damaged_missing_and_foreign_chunks_are_refused),
    ("installing is finished after power was lost at any step", installing_is_finished_after_any_crash),
    ("while installing nothing is answered", while_installing_nothing_is_answered),
    ("a damaged stage is not installed", a_damaged_stage_is_not_installed),
    ("other shards are untouched", other_shards_are_untouched),
    ("an empty shard travels too", an_empty_shard_travels_too),
];

/// A shard with something of everything, and a request it has executed.
fn fill(world: &mut World<'_>) -> RequestId {
    let members = world.log_step(Step::Membership("members".into()));
    world.shard.apply(&[members]).unwrap();
    for number in 0..200 {
        world.must(vec![put(&format!("k{number:03}"), &"v".repeat(number % 50))]);
    }
    world.must(vec![put_ttl("soon", "", 500), put_ttl("later", "", 900)]);
    for client in 1..20 {
        let id = world.id(client, 3, 2);
        world.request(id, vec![increment("n", 1)]);
    }
    world.id(5, 3, 2)
}

fn chunks_of(mut snapshot: ShardSnapshot, bytes_max: usize) -> Vec<Bytes> {
    std::iter::from_fn(|| snapshot.next_chunk(bytes_max).unwrap()).collect()
}

fn receive(shard: &Shard, chunks: &[Bytes]) -> Result<StagedSnapshot, StorageError> {
    let mut receiver = shard.receive_snapshot(1)?;
    chunks.iter().try_for_each(|chunk| receiver.put_chunk(chunk))?;
    receiver.finish()
}

/// Rows and state of a shard, apart from what is its own.
fn contents(shard: &Shard) -> (Vec<crate::shard::Row>, crate::shard::ShardState) {
    let rows = shard.scan(ScanRange::default()).unwrap().next(usize::MAX, usize::MAX).unwrap();
    (rows, common(shard.state()))
}

/// Everything the engine holds for a snapshot to carry.
fn replicated_rows(engine: &dyn Engine) -> Vec<(Column, Bytes, Bytes)> {
    let view = engine.view();
    let mut rows = Vec::new();
    for (column, range) in keys::snapshot_ranges(SPEC, Some(&PlacementRange::all())) {
        let mut cursor = view.cursor(column, range, Direction::Forward);
        while let Some((key, value)) = cursor.next().unwrap() {
            rows.push((column, key, value));
        }
    }
    rows
}

/// Another replica's disk, in memory: what travels does not depend on the engine.
fn elsewhere() -> (crate::engine::mem::MemDisk, Arc<Shard>) {
    let disk = crate::engine::mem::MemDisk::new();
    let shard = Shard::open(disk.open(), SPEC).unwrap();
    (disk, shard)
}

/// Rule S3: data, and everything replicated in `meta`; not the diary.
fn a_snapshot_carries_everything_that_replicas_agree_on(lab: &mut dyn Lab) {
    let (_disk, source) = elsewhere();
    let mut world = World::new(lab);
    let request = fill(&mut world);
    let chunks = chunks_of(world.shard.snapshot().unwrap(), 1_000);
    let staged = receive(&source, &chunks).unwrap();
    source.install(&staged).unwrap();
    assert_eq!(contents(&source), contents(&world.shard));
    let state = source.state();
    assert_eq!(state.applied.membership, "members");
    assert_eq!(state.applied.batch, BatchNumber(0), "nothing of it lies in this node's journal");
    assert_eq!(source.flushed().unwrap(), state.applied, "durable");
    assert_eq!(state.change_oldest_seq, state.change_next_seq, "the diary begins here");
    let fell_off = source.changes(1).read(1, 1).unwrap_err();
    assert_eq!(fell_off, ChangesError::Truncated { oldest: state.change_next_seq });
    // Both go on alike: the repetition is recognised, the expiry index works, the hashes stay equal.
    let up_to_ms = world.time_ms + 500;
    let write = crate::WriteCommand { request: Some(request), operations: vec![increment("n", 1)] };
    let entry = world.log(vec![Command::Write(write), Command::Expire { up_to_ms }]);
    let outcomes = source.apply(std::slice::from_ref(&entry)).unwrap();
    assert_eq!(outcomes, world.shard.apply(&[entry]).unwrap());
    assert!(matches!(outcomes[0][0], Outcome::Written { repeated: true, .. }));
    assert_eq!(outcomes[0][1], Outcome::Expired { removed: 1, more: false });
    assert_eq!(contents(&source), contents(&world.shard));
    // And back again, onto this engine.
    let chunks = chunks_of(source.snapshot().unwrap(), 1_000);
    let staged = receive(&world.shard, &chunks).unwrap();
    world.shard.install(&staged).unwrap();
    assert_eq!(contents(&world.shard), contents(&source));
    world.lose_power();
    assert_eq!(contents(&world.shard), contents(&source), "durable");
}

/// Rule S1: a pinned view, its metadata taken from inside.
fn a_snapshot_is_of_one_moment(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    fill(&mut world);
    let snapshot = world.shard.snapshot().unwrap();
    let before = contents(&world.shard);
    assert_eq!(snapshot.applied(), &world.state().applied);
    world.must(vec![put("k000", "changed"), put("new", "")]);
    let (_disk, other) = elsewhere();
    other.install(&receive(&other, &chunks_of(snapshot, 777)).unwrap()).unwrap();
    assert_eq!(contents(&other), before);
}

fn chunks_are_bounded_and_end_with_totals(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    fill(&mut world);
    world.must(vec![put("large", &"x".repeat(5_000))]);
    let chunks = chunks_of(world.shard.snapshot().unwrap(), 1_000);
    assert!(chunks.len() > 20);
    let large = chunks.iter().filter(|chunk| chunk.len() > 1_100).count();
    assert_eq!(large, 1, "only the large row travels in a larger chunk, alone");
    let mut snapshot = world.shard.snapshot().unwrap();
    while snapshot.next_chunk(usize::MAX / 2).unwrap().is_some() {}
    assert_eq!(snapshot.next_chunk(1).unwrap(), None, "the end stays the end");
}

fn damaged_missing_and_foreign_chunks_are_refused(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    fill(&mut world);
    let (_disk, other) = elsewhere();
    let chunks = chunks_of(world.shard.snapshot().unwrap(), 2_000);
    let before = contents(&other);
    for at in 0..chunks.len() {
        let mut flipped = chunks.clone();
        let mut bytes = flipped[at].to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        flipped[at] = bytes.into();
        assert!(receive(&other, &flipped).is_err(), "chunk {at} was damaged");
        let mut missing = chunks.clone();
        missing.remove(at);
        assert!(receive(&other, &missing).is_err(), "chunk {at} was missing");
        let mut repeated = chunks.clone();
        repeated.insert(at, chunks[at].clone());
        assert!(receive(&other, &repeated).is_err(), "chunk {at} came twice");
        if at > 0 {
            let mut swapped = chunks.clone();
            swapped.swap(at - 1, at);
            assert!(receive(&other, &swapped).is_err(), "chunk {at} came too early");
        }
    }
    let foreign = [(ShardId(8), SPEC.keyspace), (SPEC.shard, KeyspaceId(4))];
    for (shard, keyspace) in foreign {
        let disk = crate::engine::mem::MemDisk::new();
        let stranger = Shard::open(disk.open(), crate::shard::ShardSpec { shard, keyspace }).unwrap();
        assert!(matches!(receive(&stranger, &chunks), Err(StorageError::Refused(_))));
    }
    assert_eq!(contents(&other), before, "nothing was touched");
    assert!(receive(&other, &chunks).is_ok());
}

/// Rule S4 and invariant 1: installing is a redo. The fuse burns through at every change of the engine in turn.
fn installing_is_finished_after_any_crash(lab: &mut dyn Lab) {
    let (_disk, source) = elsewhere();
    let expected = {
        let mut filled = super::World::new(lab);
        fill(&mut filled);
        let staged = receive(&source, &chunks_of(filled.shard.snapshot().unwrap(), 5_000)).unwrap();
        source.install(&staged).unwrap();
        contents(&source)
    };
    let chunks = chunks_of(source.snapshot().unwrap(), 5_000);
    let mut world = World::new(lab);
    let mut steps = 0;
    loop {
        let older = Shard::open(world.engine.clone(), SPEC).unwrap();
        let staged = receive(&older, &chunks).unwrap();
        let begun = staged.encode();
        let fused = Shard::open(Fuse::new(world.engine.clone(), steps), SPEC).unwrap();
        let outcome = fused.install(&staged);
        if outcome.is_err() {
            assert!(fused.state().is_installing);
            assert_eq!(fused.get(b"n"), Err(StorageError::Installing));
        }
        world.lose_power();
        // What a start does that finds an open `InstallBegin`.
        world.shard.begin_installing();
        assert_eq!(world.shard.get(b"n"), Err(StorageError::Installing));
        world.shard.install(&StagedSnapshot::decode(&begun).unwrap()).unwrap();
        assert_eq!(contents(&world.shard), expected, "after {steps} steps");
        assert_eq!(replicated_rows(&*world.engine), replicated_rows_of(&source), "after {steps} steps");
        world.lose_power();
        assert_eq!(contents(&world.shard), expected, "after {steps} steps, durable");
        if outcome.is_ok() {
            break;
        }
        steps += 1;
        scribble(&mut world);
    }
    assert!(steps >= 5, "verify, remove, flush, ingest, position, flush: {steps}");
}

/// Other bytes for the next attempt to replace.
fn scribble(world: &mut World<'_>) {
    let mut batch = crate::engine::Batch::new();
    for (column, range) in keys::shard_ranges(SPEC, Some(&PlacementRange::all())) {
        if column == Column::Data {
            batch.put(column, [range.start.as_slice(), b"stale"].concat(), "not even an entry");
        }
    }
    world.engine.write(&batch).unwrap();
    world.engine.flush().unwrap();
}

fn replicated_rows_of(shard: &Shard) -> Vec<(Column, Bytes, Bytes)> {
    replicated_rows(&*shard.engine)
}

fn while_installing_nothing_is_answered(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    fill(&mut world);
    let staged = receive(&world.shard, &chunks_of(world.shard.snapshot().unwrap(), 5_000)).unwrap();
    let expected: Contents = world.contents();
    let entry = world.log(vec![]);
    let mut reader = world.shard.changes(1);
    world.shard.begin_installing();
    world.shard.begin_installing();
    let shard = &world.shard;
    assert!(shard.state().is_installing);
    assert_eq!(shard.get(b"a"), Err(StorageError::Installing));
    assert_eq!(shard.get_cached(b"a"), Err(StorageError::Installing));
    assert_eq!(shard.scan(ScanRange::default()).err(), Some(StorageError::Installing));
    assert_eq!(shard.snapshot().err(), Some(StorageError::Installing));
    assert_eq!(shard.apply(std::slice::from_ref(&entry)), Err(StorageError::Installing));
    assert_eq!(shard.collect_changes(0, 0), Err(StorageError::Installing));
    assert_eq!(reader.read(1, 1), Err(ChangesError::Storage(StorageError::Installing)));
    assert_eq!(reader.resync().err(), Some(StorageError::Installing));
    shard.install(&staged).unwrap();
    assert!(!world.state().is_installing);
    assert_eq!(world.contents(), expected);
    world.shard.apply(&[entry]).unwrap();
}

fn a_damaged_stage_is_not_installed(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    fill(&mut world);
    let mut staged = receive(&world.shard, &chunks_of(world.shard.snapshot().unwrap(), 5_000)).unwrap();
    let whole = staged.clone();
    staged.manifest.files[0].crc ^= 1;
    assert!(world.shard.install(&staged).is_err());
    assert!(world.shard.state().is_installing, "until one succeeds");
    world.shard.install(&whole).unwrap();
    assert!(world.value("k001").is_some());
}

fn other_shards_are_untouched(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    fill(&mut world);
    let neighbours = [(ShardId(6), KeyspaceId(2)), (ShardId(8), KeyspaceId(4))].map(|(shard, keyspace)| {
        let spec = crate::shard::ShardSpec { shard, keyspace };
        let shard = Shard::open(world.engine.clone(), spec).unwrap();
        shard.apply(&world.log).unwrap();
        shard
    });
    let before = neighbours.each_ref().map(|shard| contents(shard));
    let (_disk, empty) = elsewhere();
    let staged = receive(&world.shard, &chunks_of(empty.snapshot().unwrap(), 5_000)).unwrap();
    world.shard.install(&staged).unwrap();
    assert_eq!(neighbours.each_ref().map(|shard| contents(shard)), before);
    assert_eq!(neighbours[0].changes(1).read(usize::MAX, 1).unwrap().len(), 1);
    assert_eq!(contents(&world.shard).0, []);
}

fn an_empty_shard_travels_too(lab: &mut dyn Lab) {
    let (_disk, empty) = elsewhere();
    let mut world = World::new(lab);
    world.must(vec![put("a", "1")]);
    let staged = receive(&world.shard, &chunks_of(empty.snapshot().unwrap(), 1_000)).unwrap();
    world.shard.install(&staged).unwrap();
    assert_eq!(contents(&world.shard), contents(&empty));
    assert_eq!(world.changes(1), []);
}
