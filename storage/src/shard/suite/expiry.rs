//! Expiry: the logged time alone decides (rules T2, T3).

use super::{
    Case, Lab,
    world::{World, delete, increment, put, put_if, put_ttl},
};
use crate::{
    changelog::ChangeKind,
    command::{Command, Condition, Outcome, Previous},
    shard::{EXPIRED_PER_COMMAND_MAX, ScanRange},
};

pub(super) const CASES: &[Case] = &[
    ("an entry is gone when the log says so", an_entry_is_gone_when_the_log_says_so),
    ("a write over a gone entry tells both", a_write_over_a_gone_entry_tells_both),
    ("expire removes what is due and nothing else", expire_removes_what_is_due_and_nothing_else),
    ("expire does a bounded amount and says whether to repeat", expire_is_bounded),
    ("the next expiry is known exactly", the_next_expiry_is_known_exactly),
    ("what is due within the same run is removed", what_is_due_within_the_same_run_is_removed),
];

fn expire(world: &mut World<'_>, up_to_ms: u64) -> (u32, bool) {
    match world.apply(vec![Command::Expire { up_to_ms }]).remove(0) {
        Outcome::Expired { removed, more } => (removed, more),
        other => panic!("{other:?}"),
    }
}

/// Rule T2: reads, conditions and apply judge by the shard's logged time, which every entry of the log raises.
fn an_entry_is_gone_when_the_log_says_so(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let due_ms = world.time_ms + 100;
    world.must(vec![put_ttl("a", "1", 100)]);
    world.time_ms = due_ms - 1;
    world.must(vec![put("other", "")]);
    assert_eq!(world.value("a").as_deref(), Some("1"), "a time to live is a minimum");
    world.time_ms = due_ms;
    assert_eq!(world.value("a").as_deref(), Some("1"), "no clock is asked");
    world.must(vec![put("other", "")]);
    assert_eq!(world.value("a"), None, "still stored, and gone");
    let rows = world.shard.scan(ScanRange::default()).unwrap().next(usize::MAX, usize::MAX).unwrap();
    assert_eq!(rows.len(), 1);
    let refused = world.write(vec![put_if("a", "2", Condition::Present)]);
    let Outcome::Written { applied: false, results, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(results[0].previous, Previous::Absent);
    assert_eq!(world.must(vec![delete("a")])[0].previous, Previous::Absent);
    assert_eq!(world.must(vec![increment("a", 1)])[0].number, Some(1), "counts from nothing");
    assert_eq!(world.shard.get(b"a").unwrap().entry.unwrap().expires_ms, None);
}

fn a_write_over_a_gone_entry_tells_both(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let gone = world.must(vec![put_ttl("a", "1", 100)])[0].version.unwrap();
    let seq = world.state().change_next_seq;
    world.time_ms += 100;
    let written = world.must(vec![put_if("a", "2", Condition::Absent)])[0].version.unwrap();
    let changes = world.changes(seq);
    let told: Vec<_> = changes.iter().map(|change| (change.kind, change.version, change.is_last_of_batch)).collect();
    assert_eq!(told, [(ChangeKind::Expire, gone, false), (ChangeKind::Insert, written, true)]);
    assert_eq!(changes[0].old.as_ref().unwrap().version, gone);
    assert_eq!((&changes[1].old, changes[1].new.as_ref().unwrap().version), (&None, written));
    assert_eq!(world.state().next_expiry_ms, None);
    assert_eq!(expire(&mut world, u64::MAX / 2), (0, false), "it is not told twice");
}

fn expire_removes_what_is_due_and_nothing_else(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    world.must(vec![put_ttl("late", "", 300), put_ttl("b", "", 200), put_ttl("a", "", 200), put("never", "")]);
    let (begin_ms, seq) = (world.time_ms, world.state().change_next_seq);
    assert_eq!(expire(&mut world, begin_ms + 199), (0, false));
    assert_eq!(expire(&mut world, begin_ms + 200), (2, false));
    assert_eq!(world.state().logged_time_ms, begin_ms + 200);
    let told: Vec<_> =
        world.changes(seq).iter().map(|change| (change.kind, change.key.clone(), change.is_last_of_batch)).collect();
    assert_eq!(told, [(ChangeKind::Expire, "a".into(), true), (ChangeKind::Expire, "b".into(), true)]);
    assert_eq!(world.state().next_expiry_ms, Some(begin_ms + 300));
    assert!(world.value("late").is_some() && world.value("never").is_some());
    assert_eq!(expire(&mut world, begin_ms), (0, false), "time does not go back");
    assert_eq!(world.state().logged_time_ms, begin_ms + 200);
}

fn expire_is_bounded(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let count = EXPIRED_PER_COMMAND_MAX + 1;
    for number in 0..count {
        world.must(vec![put_ttl(&format!("k{number:05}"), "", 10)]);
    }
    let due_ms = world.time_ms + 10;
    assert_eq!(expire(&mut world, due_ms), (EXPIRED_PER_COMMAND_MAX, true));
    assert_eq!(world.state().next_expiry_ms, Some(due_ms), "something is still due");
    assert_eq!(world.value(&format!("k{:05}", count - 1)), None, "removed or not, it is gone");
    assert_eq!(expire(&mut world, due_ms), (1, false));
    assert_eq!(world.state().next_expiry_ms, None);
}

/// Rule T3, the storage side: when something is due is known from memory, exactly, also after a restart.
fn the_next_expiry_is_known_exactly(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let begin_ms = world.time_ms;
    let after = |world: &World<'_>| world.state().next_expiry_ms.map(|next_ms| next_ms - begin_ms);
    assert_eq!(after(&world), None);
    world.must(vec![put_ttl("a", "", 300)]);
    assert_eq!(after(&world), Some(300));
    world.must(vec![put_ttl("b", "", 100), put_ttl("c", "", 200)]);
    assert_eq!(after(&world), Some(100));
    world.must(vec![put_ttl("b", "", 400)]);
    assert_eq!(after(&world), Some(200), "the head was moved");
    world.must(vec![delete("c")]);
    assert_eq!(after(&world), Some(300), "the head was deleted");
    world.must(vec![put_ttl("d", "", 50), delete("d")]);
    assert_eq!(after(&world), Some(300), "the head came and went in one command");
    world.engine.flush().unwrap();
    world.lose_power();
    assert_eq!(after(&world), Some(300));
    expire(&mut world, begin_ms + 300);
    assert_eq!(after(&world), Some(400));
    world.must(vec![put("b", "")]);
    assert_eq!(after(&world), None);
}

fn what_is_due_within_the_same_run_is_removed(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    world.must(vec![put_ttl("stored", "", 10), put_ttl("kept", "", 10)]);
    let begin_ms = world.time_ms;
    let write = |operations| Command::Write(crate::WriteCommand { request: None, operations });
    let entries = [
        world.log(vec![write(vec![put_ttl("fresh", "", 5), put_ttl("kept", "", 90)])]),
        world.log(vec![Command::Expire { up_to_ms: begin_ms + 20 }, write(vec![put_ttl("fresh", "", 70)])]),
        world.log(vec![Command::Expire { up_to_ms: begin_ms + 89 }]),
    ];
    let outcomes = world.shard.apply(&entries).unwrap();
    assert_eq!(outcomes[1][0], Outcome::Expired { removed: 2, more: false });
    assert_eq!(outcomes[2][0], Outcome::Expired { removed: 0, more: false }, "a new life from the logged time on");
    assert_eq!(world.shard.get(b"fresh").unwrap().entry.unwrap().expires_ms, Some(begin_ms + 90));
    assert_eq!(world.state().next_expiry_ms, Some(begin_ms + 90));
    assert_eq!((world.value("stored"), world.value("kept").as_deref()), (None, Some("")));
}
