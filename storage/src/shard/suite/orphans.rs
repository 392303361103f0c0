//! Orphans: what dropped shards have left is found without knowing what they were.

use super::{
    Case, Lab,
    fuse::Fuse,
    ranges::everything,
    world::{SPEC, World, apply_next, bytes, contents_of, put, put_ttl, settings},
};
use crate::{
    command::{Command, RequestId, Settings, WriteCommand},
    engine::Column,
    shard::{Shard, ShardSpec, orphans::Orphans},
};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, PlacementRange, ShardId, Stamp};
use std::sync::Arc;

pub(super) const CASES: &[Case] = &[
    ("orphans go and the living stay", orphans_go_and_the_living_stay),
    ("erasing orphans is finished after power was lost at any step", erasing_orphans_is_finished_after_any_crash),
    ("an orphan in a living keyspace takes no rows along", an_orphan_in_a_living_keyspace_takes_no_rows_along),
    ("of an engine without orphans nothing is erased", of_an_engine_without_orphans_nothing_is_erased),
];

/// Beside [`SPEC`] in the keyspace that was dropped.
const TWIN: ShardSpec = ShardSpec { shard: ShardId(9), keyspace: SPEC.keyspace };

/// Those that live: in keyspaces and with numbers on both sides of the dropped ones, and in between.
const LIVING: [ShardSpec; 3] = [
    ShardSpec { shard: ShardId(6), keyspace: KeyspaceId(SPEC.keyspace.0 + 1) },
    ShardSpec { shard: ShardId(8), keyspace: KeyspaceId(SPEC.keyspace.0 - 1) },
    ShardSpec { shard: ShardId(10), keyspace: KeyspaceId(u32::MAX - 1) },
];

fn is_dropped(keyspace: KeyspaceId) -> bool {
    keyspace == SPEC.keyspace
}

fn orphans() -> Orphans {
    Orphans { shards: vec![SPEC.shard, TWIN.shard], stages: vec![7, 9] }
}

/// A shard with something of every kind: rows at both ends, an expiry, a client and its outcome, a diary.
fn fill(world: &World<'_>, spec: ShardSpec, range: PlacementRange) -> Arc<Shard> {
    let shard = Shard::open(world.engine.clone(), spec).unwrap();
    let (first, last) = if range.start.is_empty() { ("\0", "lzz") } else { ("m", "\u{7f}") };
    let request = RequestId { client: 5, sequence: 1, first_sent: Stamp::from_ms(world.time_ms), lowest_unanswered: 0 };
    let operations = vec![put(first, "first"), put(last, "last"), put_ttl(first, "expires", 60_000)];
    let commands = vec![
        Command::Configure(Settings { range, ..settings() }),
        Command::Write(WriteCommand { request: Some(request), operations }),
    ];
    apply_next(&shard, world.time_ms, commands);
    shard
}

fn low() -> PlacementRange {
    PlacementRange { start: Bytes::new(), end: Some(bytes("m")) }
}

fn high() -> PlacementRange {
    PlacementRange { start: bytes("m"), end: None }
}

fn found_living(world: &World<'_>) -> Vec<Arc<Shard>> {
    LIVING.into_iter().map(|spec| fill(world, spec, PlacementRange::all())).collect()
}

/// Both dropped shards, and something staged for each.
fn found_orphans(world: &World<'_>) {
    for (spec, range) in [(SPEC, low()), (TWIN, high())] {
        fill(world, spec, range);
        let mut stage = world.engine.stage(spec.shard.0).unwrap();
        stage.put(Column::Data, b"staged", b"").unwrap();
        stage.finish().unwrap();
    }
}

fn orphans_go_and_the_living_stay(lab: &mut dyn Lab) {
    let mut world = World::empty(lab);
    let living = found_living(&world);
    world.engine.flush().unwrap();
    let before = everything(&world);
    let contents: Vec<_> = living.iter().map(|shard| contents_of(shard)).collect();
    found_orphans(&world);
    assert_eq!(world.engine.stages().unwrap(), [7, 9]);
    orphans().erase(&*world.engine, is_dropped).unwrap();
    assert_eq!(everything(&world), before, "every column, every kind");
    assert_eq!(world.engine.stages().unwrap(), Vec::<u64>::new());
    orphans().erase(&*world.engine, is_dropped).unwrap();
    world.lose_power();
    assert_eq!(everything(&world), before, "durable");
    let found = LIVING.map(|spec| contents_of(&Shard::open(world.engine.clone(), spec).unwrap()));
    assert_eq!(found.as_slice(), contents);
}

fn erasing_orphans_is_finished_after_any_crash(lab: &mut dyn Lab) {
    let mut world = World::empty(lab);
    found_living(&world);
    world.engine.flush().unwrap();
    let before = everything(&world);
    for steps in 0.. {
        found_orphans(&world);
        world.engine.flush().unwrap();
        let is_done = orphans().erase(&*Fuse::new(world.engine.clone(), steps), is_dropped).is_ok();
        world.lose_power();
        orphans().erase(&*world.engine, is_dropped).unwrap();
        world.lose_power();
        assert_eq!(everything(&world), before, "after {steps} steps");
        assert_eq!(world.engine.stages().unwrap(), Vec::<u64>::new(), "after {steps} steps");
        if is_done {
            assert!(steps >= 4, "write, flush, and two stages: {steps}");
            break;
        }
    }
    // An attempt that has written and was not flushed: the next one finds nothing, and flushes all the same.
    found_orphans(&world);
    world.engine.flush().unwrap();
    orphans().erase(&*Fuse::new(world.engine.clone(), 1), is_dropped).unwrap_err();
    orphans().erase(&*world.engine, is_dropped).unwrap();
    world.lose_power();
    assert_eq!(everything(&world), before, "flushed");
}

fn an_orphan_in_a_living_keyspace_takes_no_rows_along(lab: &mut dyn Lab) {
    let mut world = World::empty(lab);
    let twin = fill(&world, TWIN, high());
    let contents = contents_of(&twin);
    let before = everything(&world);
    let orphan = ShardSpec { shard: SPEC.shard, keyspace: TWIN.keyspace };
    let shard = Shard::open(world.engine.clone(), orphan).unwrap();
    let settings = Settings { range: low(), ..settings() };
    apply_next(&shard, world.time_ms, vec![Command::Configure(settings)]);
    Orphans { shards: vec![SPEC.shard], stages: Vec::new() }.erase(&*world.engine, |_| false).unwrap();
    assert_eq!(everything(&world), before);
    world.lose_power();
    assert_eq!(contents_of(&Shard::open(world.engine.clone(), TWIN).unwrap()), contents);
}

fn of_an_engine_without_orphans_nothing_is_erased(lab: &mut dyn Lab) {
    let world = World::empty(lab);
    orphans().erase(&*world.engine, |_| true).unwrap();
    found_living(&world);
    let before = everything(&world);
    Orphans::default().erase(&*world.engine, is_dropped).unwrap();
    orphans().erase(&*world.engine, is_dropped).unwrap();
    assert_eq!(everything(&world), before);
}
