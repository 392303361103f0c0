//! Ranges: neighbours in one keyspace and one engine never see or touch each other's rows (rule C3).

use super::{
    Case, Lab,
    fuse::Fuse,
    world::{SPEC, World, apply_next, bytes, contents_of, delete, increment, put, put_ttl, settings},
};
use crate::{
    changelog::ChangesError,
    command::{Command, ExpiredBecause, Outcome, Settings, WriteCommand},
    engine::{Column, Direction, KeyRange, mem::MemDisk},
    error::StorageError,
    keys,
    shard::{Answer, ScanRange, Shard, ShardSnapshot, ShardSpec, ShardState, StagedSnapshot},
};
use bytes::Bytes;
use kvorum_api::{PlacementRange, ShardId};
use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

pub(super) const CASES: &[Case] = &[
    ("a write outside the range is refused as a whole", a_write_outside_the_range_is_refused_as_a_whole),
    ("reads keep to the range", reads_keep_to_the_range),
    ("what is known of a request comes before the range", what_is_known_of_a_request_comes_before_the_range),
    ("an epoch names one range and never goes back", an_epoch_names_one_range_and_never_goes_back),
    ("neighbours expire, crash and tell on their own", neighbours_expire_crash_and_tell_on_their_own),
    ("what has left the range is not expired here", what_has_left_the_range_is_not_expired_here),
    ("a snapshot is installed beside a neighbour", a_snapshot_is_installed_beside_a_neighbour),
    ("a pristine snapshot takes no neighbour's rows", a_pristine_snapshot_takes_no_neighbours_rows),
    ("rows outside the range of a snapshot are refused", rows_outside_the_range_of_a_snapshot_are_refused),
    ("a removed shard leaves nothing but its neighbours", a_removed_shard_leaves_nothing_but_its_neighbours),
    ("removing is finished after power was lost at any step", removing_is_finished_after_any_crash),
    ("removing takes what an installation left behind", removing_takes_what_an_installation_left_behind),
];

/// The neighbour of [`SPEC`], above it.
const HIGH: ShardSpec = ShardSpec { shard: ShardId(8), keyspace: SPEC.keyspace };

/// Every key below `m`.
fn low() -> Settings {
    Settings { range: PlacementRange { start: Bytes::new(), end: Some(bytes("m")) }, epoch: 3, ..settings() }
}

/// Every other key.
fn high() -> Settings {
    Settings { range: PlacementRange { start: bytes("m"), end: None }, epoch: 5, ..settings() }
}

/// The neighbour, with a row at each end of its range.
fn found_high(world: &World<'_>) -> Arc<Shard> {
    let shard = Shard::open(world.engine.clone(), HIGH).unwrap();
    let write = WriteCommand { request: None, operations: vec![put("m", "first"), put("zz", "last")] };
    apply_next(&shard, world.time_ms, vec![Command::Configure(high()), Command::Write(write)]);
    shard
}

fn keys_of(shard: &Shard, range: ScanRange) -> Vec<Bytes> {
    let rows = shard.scan(range).unwrap().next(usize::MAX, usize::MAX).unwrap();
    rows.into_iter().map(|row| row.key).collect()
}

/// Everything in the engine, of whomever.
pub(super) fn everything(world: &World<'_>) -> Vec<(Column, Bytes, Bytes)> {
    let view = world.engine.view();
    let mut rows = Vec::new();
    for column in Column::ALL {
        let mut cursor = view.cursor(column, KeyRange::all(), Direction::Forward);
        while let Some((key, value)) = cursor.next().unwrap() {
            rows.push((column, key, value));
        }
    }
    rows
}

fn chunks_of(mut snapshot: ShardSnapshot) -> Vec<Bytes> {
    std::iter::from_fn(|| snapshot.next_chunk(100).unwrap()).collect()
}

fn receive(shard: &Shard, chunks: &[Bytes], stage: u64) -> Result<StagedSnapshot, StorageError> {
    let mut receiver = shard.receive_snapshot(stage)?;
    chunks.iter().try_for_each(|chunk| receiver.put_chunk(chunk))?;
    receiver.finish()
}

/// A replica of [`SPEC`] on a disk of its own, with other rows than those here.
fn replica_elsewhere(settings: Settings) -> Arc<Shard> {
    let shard = Shard::open(MemDisk::new().open(), SPEC).unwrap();
    let write = WriteCommand { request: None, operations: vec![put("from", "elsewhere"), put("lz", "the last")] };
    apply_next(&shard, super::BEGIN_MS, vec![Command::Configure(settings), Command::Write(write)]);
    shard
}

fn a_write_outside_the_range_is_refused_as_a_whole(lab: &mut dyn Lab) {
    let mut world = World::founded(lab, low());
    world.must(vec![put("a", "1")]);
    let before = world.state();
    let out = Outcome::OutOfRange { epoch: 3 };
    for outside in [put("m", ""), delete("m"), increment("z", 1)] {
        assert_eq!(world.write(vec![put("a", "2"), outside.clone()]), out);
        assert_eq!(world.write(vec![outside]), out);
    }
    let after = world.state();
    assert_eq!(world.value("a").as_deref(), Some("1"));
    assert_eq!((after.last_version, after.change_next_seq), (before.last_version, before.change_next_seq));
    let write = |operations| Command::Write(WriteCommand { request: None, operations });
    let outcomes = world.apply(vec![write(vec![put("m", "")]), write(vec![put("lzz", "")]), write(vec![])]);
    assert_eq!(outcomes[0], out);
    assert!(matches!(outcomes[1], Outcome::Written { applied: true, .. }), "its neighbours in the entry happen");
    assert!(matches!(outcomes[2], Outcome::Written { applied: true, .. }), "a write that names nothing");
}

fn reads_keep_to_the_range(lab: &mut dyn Lab) {
    let mut world = World::founded(lab, low());
    world.must(vec![put("a", ""), put("lz", "")]);
    let high = found_high(&world);
    let refused = |epoch| StorageError::OutOfRange { epoch };
    assert_eq!(world.shard.get(b"m"), Err(refused(3)), "though a row lies there");
    assert_eq!(world.shard.get_cached(b"zz"), Err(refused(3)));
    assert_eq!(high.get(b"lz"), Err(refused(5)));
    assert_eq!(world.shard.get(b"lzz").map(|answer| answer.entry), Ok(None));
    for reverse in [false, true] {
        let ordered = |mut keys: Vec<&'static str>| {
            if reverse {
                keys.reverse();
            }
            keys
        };
        let all = || ScanRange { reverse, ..ScanRange::default() };
        assert_eq!(keys_of(&world.shard, all()), ordered(vec!["a", "lz"]));
        assert_eq!(keys_of(&high, all()), ordered(vec!["m", "zz"]));
        let across = || ScanRange { start: bytes("b"), end: Some(bytes("n")), reverse, ..ScanRange::default() };
        assert_eq!(keys_of(&world.shard, across()), ["lz"]);
        assert_eq!(keys_of(&high, across()), ["m"]);
        let beyond = ScanRange { start: bytes("n"), end: Some(bytes("o")), reverse, ..ScanRange::default() };
        assert_eq!(keys_of(&world.shard, beyond), Vec::<Bytes>::new());
    }
    // A shard that was not founded yet has no rows, whatever lies in its keyspace.
    let pristine = Shard::open(world.engine.clone(), ShardSpec { shard: ShardId(9), ..SPEC }).unwrap();
    assert_eq!(keys_of(&pristine, ScanRange::default()), Vec::<Bytes>::new());
    assert_eq!(pristine.get(b"a"), Ok(Answer::default()));
}

/// Rule I1: lookup and floor checks come before the range check and are logged with the command.
fn what_is_known_of_a_request_comes_before_the_range(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let (done, below, late) = (world.id(1, 5, 5), world.id(1, 4, 4), world.id(1, 6, 5));
    let first = world.request(done, vec![put("z", "1")]);
    let Outcome::Written { applied: true, repeated: false, results } = first else { panic!("{first:?}") };
    assert_eq!(world.apply(vec![Command::Configure(low())]), [Outcome::Configured]);
    let repeated = Outcome::Written { applied: true, repeated: true, results };
    assert_eq!(world.request(done, vec![put("z", "1")]), repeated, "its key has left, its outcome has not");
    let below_floor = Outcome::RequestIdExpired { why: ExpiredBecause::BelowFloor };
    assert_eq!(world.request(below, vec![put("z", "1")]), below_floor);
    let out = Outcome::OutOfRange { epoch: 3 };
    assert_eq!(world.request(late, vec![put("z", "2")]), out);
    assert_eq!(world.request(late, vec![put("z", "2")]), out, "a refusal is no outcome to remember");
    // The refused command has raised the floor all the same: that is what its client no longer waits for.
    let higher = world.id(1, 8, 6);
    assert_eq!(world.request(higher, vec![put("z", "3")]), out);
    assert_eq!(world.request(done, vec![put("z", "1")]), below_floor);
    let back = Settings { epoch: 4, ..settings() };
    assert_eq!(world.apply(vec![Command::Configure(back)]), [Outcome::Configured]);
    let written = world.request(late, vec![put("z", "2")]);
    assert!(matches!(written, Outcome::Written { applied: true, repeated: false, .. }), "{written:?}");
}

/// Rule C3: range and epoch are replicated state, changed by `configure`.
fn an_epoch_names_one_range_and_never_goes_back(lab: &mut dyn Lab) {
    let mut world = World::founded(lab, low());
    let refused = [Outcome::ConfigureRefused { epoch: 3 }];
    assert_eq!(world.apply(vec![Command::Configure(Settings { epoch: 2, ..low() })]), refused);
    assert_eq!(world.apply(vec![Command::Configure(Settings { epoch: 3, ..high() })]), refused);
    assert_eq!(world.state().settings, Some(low()));
    let other = Settings { request_window_ms: 5, has_leases: true, ..low() };
    assert_eq!(world.apply(vec![Command::Configure(other.clone())]), [Outcome::Configured], "the range is the same");
    assert_eq!(world.state().settings, Some(other));
    assert_eq!(world.apply(vec![Command::Configure(high())]), [Outcome::Configured]);
    assert_eq!(world.state().range(), Some(&high().range));
    world.engine.flush().unwrap();
    world.lose_power();
    assert_eq!(world.state().settings, Some(high()), "durable like everything replicated");
    assert_eq!(world.write(vec![put("a", "")]), Outcome::OutOfRange { epoch: 5 });
}

fn neighbours_expire_crash_and_tell_on_their_own(lab: &mut dyn Lab) {
    let mut world = World::founded(lab, low());
    let high = found_high(&world);
    let ttl = |key: &str| Command::Write(WriteCommand { request: None, operations: vec![put_ttl(key, "", 10)] });
    world.apply(vec![ttl("l")]);
    apply_next(&high, world.time_ms, vec![ttl("n")]);
    let up_to_ms = world.time_ms + 10;
    assert_eq!(world.apply(vec![Command::Expire { up_to_ms }]), [Outcome::Expired { removed: 1, more: false }]);
    assert_eq!(world.state().next_expiry_ms, None);
    assert_eq!(high.state().next_expiry_ms, Some(up_to_ms));
    assert!(high.get(b"n").unwrap().entry.is_some(), "by its own logged time it is not due");
    assert_eq!(world.changes(1).len(), 2);
    assert_eq!(high.changes(1).read(usize::MAX, usize::MAX).unwrap().len(), 3);
    world.shard.collect_changes(0, 0).unwrap();
    assert_eq!(high.changes(1).read(usize::MAX, usize::MAX).unwrap().len(), 3, "trimming is each shard's own");
    world.engine.flush().unwrap();
    let kept = (world.contents(), contents_of(&high));
    world.must(vec![put("late", "")]);
    apply_next(&high, world.time_ms, vec![Command::Expire { up_to_ms }]);
    world.lose_power();
    let high = Shard::open(world.engine.clone(), HIGH).unwrap();
    assert_eq!((world.contents(), contents_of(&high)), kept);
}

/// What was noted while the key was here is forgotten when its time comes; the row is its new shard's.
fn what_has_left_the_range_is_not_expired_here(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    world.must(vec![put_ttl("a", "", 10), put_ttl("z", "", 10)]);
    let row = keys::data_key(SPEC.keyspace, b"z");
    world.apply(vec![Command::Configure(low())]);
    let up_to_ms = world.time_ms + 10;
    assert_eq!(world.apply(vec![Command::Expire { up_to_ms }]), [Outcome::Expired { removed: 1, more: false }]);
    assert!(world.engine.get(Column::Data, &row).unwrap().is_some());
    assert_eq!(world.state().next_expiry_ms, None, "it is not looked at for ever");
    assert_eq!(world.apply(vec![Command::Expire { up_to_ms }]), [Outcome::Expired { removed: 0, more: false }]);
}

/// Rules S3, S4: at whatever step power is lost, the neighbour has its rows and the shard has those of the snapshot.
fn a_snapshot_is_installed_beside_a_neighbour(lab: &mut dyn Lab) {
    let source = replica_elsewhere(low());
    let chunks = chunks_of(source.snapshot().unwrap());
    let expected = contents_of(&source);
    let mut world = World::founded(lab, low());
    let high = found_high(&world);
    let neighbour = contents_of(&high);
    world.must(vec![put("a", "older"), put("lzz", "older")]);
    world.engine.flush().unwrap();
    for steps in 0.. {
        let staged = receive(&world.shard, &chunks, 1).unwrap();
        assert_eq!(staged.range, Some(low().range));
        let fused = Shard::open(Fuse::new(world.engine.clone(), steps), SPEC).unwrap();
        let is_done = fused.install(&staged).is_ok();
        world.lose_power();
        let high = Shard::open(world.engine.clone(), HIGH).unwrap();
        assert_eq!(contents_of(&high), neighbour, "after {steps} steps");
        world.shard.install(&StagedSnapshot::decode(&staged.encode()).unwrap()).unwrap();
        assert_eq!(contents_of(&world.shard), expected, "after {steps} steps");
        assert_eq!(contents_of(&high), neighbour, "after {steps} steps");
        if is_done {
            break;
        }
        let index = world.state().applied.position.unwrap().index;
        let write = WriteCommand { request: None, operations: vec![put("a", "older"), put("lzz", "older")] };
        apply_next(&world.shard, world.time_ms, vec![Command::Write(write)]);
        assert!(world.state().applied.position.unwrap().index > index);
        world.engine.flush().unwrap();
    }
    // A replica without settings takes it in beside its neighbour too.
    world.shard.remove(None, &[]).unwrap();
    world.lose_power();
    let staged = receive(&world.shard, &chunks, 1).unwrap();
    world.shard.install(&staged).unwrap();
    assert_eq!(contents_of(&world.shard), expected);
    let high = Shard::open(world.engine.clone(), HIGH).unwrap();
    assert_eq!(contents_of(&high), neighbour);
}

fn a_pristine_snapshot_takes_no_neighbours_rows(lab: &mut dyn Lab) {
    let mut world = World::founded(lab, low());
    world.must(vec![put("a", "")]);
    let high = found_high(&world);
    let neighbour = contents_of(&high);
    let empty = Shard::open(MemDisk::new().open(), SPEC).unwrap();
    let staged = receive(&world.shard, &chunks_of(empty.snapshot().unwrap()), 1).unwrap();
    assert_eq!(staged.range, None);
    world.shard.install(&staged).unwrap();
    assert_eq!(contents_of(&high), neighbour);
    assert_eq!(world.state().settings, None);
    assert_eq!(world.engine.get(Column::Data, &keys::data_key(SPEC.keyspace, b"a")).unwrap(), None);
}

fn rows_outside_the_range_of_a_snapshot_are_refused(lab: &mut dyn Lab) {
    let world = World::founded(lab, low());
    let (narrow, wide) = (replica_elsewhere(low()), replica_elsewhere(settings()));
    let (narrow, wide) = (chunks_of(narrow.snapshot().unwrap()), chunks_of(wide.snapshot().unwrap()));
    receive(&world.shard, &narrow, 1).unwrap();
    for (head, rows) in [(&narrow, &wide), (&wide, &narrow)] {
        let lied = [&head[..1], &rows[1..]].concat();
        let refused = receive(&world.shard, &lied, 1).unwrap_err();
        assert!(matches!(&refused, StorageError::Refused(why) if why.contains("the head says")), "{refused}");
    }
}

/// A reader that waits.
fn is_ready(future: impl Future) -> bool {
    matches!(pin!(future).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
}

fn a_removed_shard_leaves_nothing_but_its_neighbours(lab: &mut dyn Lab) {
    let mut world = World::empty(lab);
    let high = found_high(&world);
    world.engine.flush().unwrap();
    let (before, neighbour) = (everything(&world), contents_of(&high));
    let expiring = world.time_ms + 5;
    let id = world.id(1, 1, 0);
    let write =
        Command::Write(WriteCommand { request: Some(id), operations: vec![put_ttl("a", "", 5), put("lzz", "")] });
    world.apply(vec![Command::Configure(low()), write]);
    assert_eq!(world.state().next_expiry_ms, Some(expiring));
    receive(&world.shard, &chunks_of(world.shard.snapshot().unwrap()), 4).unwrap();
    let mut reader = world.shard.changes(3);
    assert!(!is_ready(reader.wait()));
    world.shard.remove(None, &[4, 5]).unwrap();
    assert!(is_ready(reader.wait()), "a follower looks up");
    assert_eq!(reader.read(1, 1), Err(ChangesError::Storage(StorageError::Installing)));
    assert_eq!(world.shard.get(b"a"), Err(StorageError::Installing));
    world.shard.remove(None, &[4, 5]).unwrap();
    assert_eq!(everything(&world), before, "every column, every kind");
    assert_eq!(world.engine.stages().unwrap(), Vec::<u64>::new());
    world.lose_power();
    assert_eq!(everything(&world), before, "durable");
    assert_eq!(world.state(), ShardState::default(), "pristine");
    assert_eq!(contents_of(&Shard::open(world.engine.clone(), HIGH).unwrap()), neighbour);
    world.log.clear();
    assert_eq!(world.apply(vec![Command::Configure(low())]), [Outcome::Configured], "founded again");
    world.must(vec![put("a", "")]);
}

fn removing_is_finished_after_any_crash(lab: &mut dyn Lab) {
    let mut world = World::empty(lab);
    found_high(&world);
    world.engine.flush().unwrap();
    let before = everything(&world);
    for steps in 0.. {
        let write = WriteCommand { request: None, operations: vec![put("a", ""), put("lzz", "")] };
        apply_next(&world.shard, world.time_ms, vec![Command::Configure(low()), Command::Write(write)]);
        world.engine.flush().unwrap();
        let fused = Shard::open(Fuse::new(world.engine.clone(), steps), SPEC).unwrap();
        let is_done = fused.remove(None, &[1]).is_ok();
        world.lose_power();
        world.shard.remove(None, &[1]).unwrap();
        world.lose_power();
        assert_eq!(everything(&world), before, "after {steps} steps");
        if is_done {
            assert!(steps >= 2, "remove, flush");
            break;
        }
    }
}

/// An installation that was interrupted between its rows and its state, as engines may that take files in one by one.
fn removing_takes_what_an_installation_left_behind(lab: &mut dyn Lab) {
    let mut world = World::empty(lab);
    let high = found_high(&world);
    world.engine.flush().unwrap();
    let (before, neighbour) = (everything(&world), contents_of(&high));
    let staged = receive(&world.shard, &chunks_of(replica_elsewhere(low()).snapshot().unwrap()), 1).unwrap();
    let mut batch = crate::engine::Batch::new();
    batch.put(Column::Data, keys::data_key(SPEC.keyspace, b"from"), "elsewhere");
    world.engine.write(&batch).unwrap();
    world.shard.remove(Some(&staged), &[1]).unwrap();
    assert_eq!(everything(&world), before);
    assert_eq!(contents_of(&high), neighbour);
    world.lose_power();
    assert_eq!(everything(&world), before, "durable");
}
