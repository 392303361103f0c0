//! Crashes: what a flush keeps, and what a replay gives (invariants 1 and 3); and what readers see who are overtaken.

use super::{
    Case, Lab,
    world::{World, delete, increment, put, put_ttl},
};
use crate::{
    command::Command,
    error::StorageError,
    shard::{Answer, Applied, Lookup, ScanRange, Shard, suite::fuse::Fuse, suite::world::SPEC},
};

pub(super) const CASES: &[Case] = &[
    ("a crash goes back to the last flush, in everything", a_crash_goes_back_to_the_last_flush_in_everything),
    ("a replay comes out where it was", a_replay_comes_out_where_it_was),
    ("a write that the engine refuses applies nothing", a_write_that_the_engine_refuses_applies_nothing),
    ("nothing flushed is nothing applied", nothing_flushed_is_nothing_applied),
    ("a reader who is overtaken sees a state that was", a_reader_who_is_overtaken_sees_a_state_that_was),
    ("an answer names the position it is of", an_answer_names_the_position_it_is_of),
    ("a reader under whom a snapshot is installed is refused", a_reader_under_an_installation_is_refused),
];

/// A bit of everything, as one entry.
fn busy(world: &mut World<'_>, number: u64) {
    world.time_ms += 7;
    let id = world.id(u128::from(number % 3), number, number.saturating_sub(2));
    let operations = vec![
        put(&format!("k{}", number % 11), &number.to_string()),
        put_ttl(&format!("t{}", number % 5), "", 20),
        increment("n", 1),
        delete(&format!("k{}", (number + 4) % 11)),
    ];
    let write = Command::Write(crate::WriteCommand { request: Some(id), operations });
    let up_to_ms = world.time_ms;
    world.apply(vec![write.clone(), Command::Expire { up_to_ms }, write]);
}

fn a_crash_goes_back_to_the_last_flush_in_everything(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    (0..50).for_each(|number| busy(&mut world, number));
    world.engine.flush().unwrap();
    let (kept, state, changes) = (world.contents(), world.state(), world.changes(1));
    assert_eq!(world.shard.flushed().unwrap(), state.applied);
    (50..80).for_each(|number| busy(&mut world, number));
    assert_eq!(world.shard.flushed().unwrap(), state.applied, "what comes later is only in memory");
    world.lose_power();
    assert_eq!((world.contents(), world.state(), world.changes(1)), (kept, state, changes));
}

fn a_replay_comes_out_where_it_was(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    (0..20).for_each(|number| busy(&mut world, number));
    world.engine.flush().unwrap();
    (20..60).for_each(|number| busy(&mut world, number));
    let reached = (world.contents(), world.state(), world.changes(1));
    for run in [1, 7, 1_000] {
        world.lose_power();
        assert_ne!(world.contents(), reached.0);
        world.replay(run);
        assert_eq!((world.contents(), world.state(), world.changes(1)), reached, "in runs of {run}");
    }
}

fn a_write_that_the_engine_refuses_applies_nothing(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    (0..5).for_each(|number| busy(&mut world, number));
    let (before, sound) = (world.contents(), world.shard.clone());
    world.shard = Shard::open(Fuse::new(world.engine.clone(), 0), SPEC).unwrap();
    let id = world.id(1, 100, 0);
    let write = crate::WriteCommand { request: Some(id), operations: vec![increment("n", 1)] };
    let entry = world.log(vec![Command::Write(write)]);
    for _ in 0..2 {
        assert_eq!(world.shard.apply(std::slice::from_ref(&entry)), Err(StorageError::Stopped));
        assert_eq!(world.contents(), before);
    }
    world.shard = sound;
    let outcomes = world.shard.apply(&[entry]).unwrap();
    assert!(matches!(outcomes[0][0], crate::Outcome::Written { applied: true, repeated: false, .. }));
}

fn nothing_flushed_is_nothing_applied(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    world.must(vec![put("a", "1")]);
    assert_eq!(world.shard.flushed().unwrap(), Applied::default());
    world.lose_power();
    assert_eq!(world.state().applied, Applied::default());
    assert_eq!(world.value("a"), None);
    world.replay(1);
    assert_eq!(world.value("a").as_deref(), Some("1"));
}

/// A key that is due, and rewritten in the very entry that raises the time, is at no moment absent.
fn a_reader_who_is_overtaken_sees_a_state_that_was(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    world.must(vec![put_ttl("a", "1", 10)]);
    let fuse = Fuse::new(world.engine.clone(), u64::MAX);
    world.shard = Shard::open(fuse.clone(), SPEC).unwrap();
    for reading in 0..3 {
        world.time_ms += 10;
        let write = crate::WriteCommand { request: None, operations: vec![put_ttl("a", "2", 10)] };
        let (writer, entry) = (world.shard.clone(), world.log(vec![Command::Write(write)]));
        fuse.meanwhile(move || drop(writer.apply(&[entry]).unwrap()));
        let is_there = match reading {
            0 => world.shard.get(b"a").unwrap().entry.is_some(),
            1 => !matches!(world.shard.get_cached(b"a").unwrap(), Lookup::Known(Answer { entry: None, .. })),
            _ => world.shard.scan(ScanRange::default()).unwrap().next(1, 1).unwrap().len() == 1,
        };
        assert!(is_there, "gone, and not yet rewritten: no such state");
        assert_eq!(world.state().logged_time_ms, world.time_ms, "it was overtaken");
    }
}

/// A batch is visible in the engine a moment before its position is published. Who reads in between must not be told
/// the position before: a session would go on with a token below what it saw.
fn an_answer_names_the_position_it_is_of(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    world.must(vec![put("a", "0")]);
    let fuse = Fuse::new(world.engine.clone(), u64::MAX);
    world.shard = Shard::open(fuse.clone(), SPEC).unwrap();
    let rewrite = |world: &mut World<'_>, value: &str| {
        let write = crate::WriteCommand { request: None, operations: vec![put("a", value)] };
        world.log(vec![Command::Write(write)])
    };
    let value_of = |answer: &Answer| answer.entry.clone().unwrap().value.unwrap();

    // The reader comes while the writer is between engine and publishing: the row is new, and so is the position.
    let entry = rewrite(&mut world, "1");
    let (shard, position) = (world.shard.clone(), entry.position);
    fuse.after_write(move || {
        let answer = shard.get(b"a").unwrap();
        assert_eq!((value_of(&answer).as_ref(), answer.position), (&b"1"[..], Some(position)));
        assert_eq!(shard.get_cached(b"a").unwrap(), Lookup::WouldBlock, "it cannot tell of which position it is");
    });
    world.shard.apply(&[entry]).unwrap();

    // The writer comes while the reader is between engine and answering: the answer is of before, or of after.
    let entry = rewrite(&mut world, "2");
    let (writer, after) = (world.shard.clone(), entry.position);
    fuse.meanwhile(move || drop(writer.apply(&[entry]).unwrap()));
    let answer = world.shard.get(b"a").unwrap();
    let expected = if value_of(&answer) == "2" { after } else { position };
    assert_eq!(answer.position, Some(expected));
    assert_eq!(world.state().applied.position, Some(after), "it was overtaken");
}

fn a_reader_under_an_installation_is_refused(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    world.must(vec![put("a", "1")]);
    let mut receiver = world.shard.receive_snapshot(1).unwrap();
    let mut snapshot = world.shard.snapshot().unwrap();
    while let Some(chunk) = snapshot.next_chunk(1_000).unwrap() {
        receiver.put_chunk(&chunk).unwrap();
    }
    let staged = receiver.finish().unwrap();
    let fuse = Fuse::new(world.engine.clone(), u64::MAX);
    world.shard = Shard::open(fuse.clone(), SPEC).unwrap();
    for reading in 0..5 {
        let (installer, staged) = (world.shard.clone(), staged.clone());
        fuse.meanwhile(move || installer.install(&staged).unwrap());
        let refused = match reading {
            0 => world.shard.get(b"a").err(),
            1 => world.shard.get_cached(b"a").err(),
            2 => world.shard.scan(ScanRange::default()).err(),
            3 => world.shard.snapshot().err(),
            _ => world.shard.collect_changes(0, 0).err(),
        };
        assert_eq!(refused, Some(StorageError::Installing), "reading {reading}");
        assert_eq!(world.value("a").as_deref(), Some("1"), "afterwards it is answered");
    }
}
