//! Requests: under one id a write happens once, and never twice (rules I1, I2).

use super::{
    Case, Lab,
    world::{World, bytes, increment, put, put_if, settings},
};
use crate::{
    command::{Command, Condition, ExpiredBecause, Operation, Outcome, Previous, RequestId, Settings},
    engine::{Column, Direction},
    keys::{self, MetaKind},
};
use kvorum_api::Stamp;

pub(super) const CASES: &[Case] = &[
    ("a repeated request gets its first outcome", a_repeated_request_gets_its_first_outcome),
    ("a large previous value is forgotten", a_large_previous_value_is_forgotten),
    ("what a client no longer waits for is refused", what_a_client_no_longer_waits_for_is_refused),
    ("an old id is refused, executed or not", an_old_id_is_refused_executed_or_not),
    ("a full memory raises the floor", a_full_memory_raises_the_floor),
    ("a longer window makes no id young again", a_longer_window_makes_no_id_young_again),
    ("idle clients are forgotten in bounded steps", idle_clients_are_forgotten_in_bounded_steps),
    ("a client that is heard is kept", a_client_that_is_heard_is_kept),
    ("repetitions within one run are seen", repetitions_within_one_run_are_seen),
];

const TOO_OLD: Outcome = Outcome::RequestIdExpired { why: ExpiredBecause::TooOld };
const BELOW_FLOOR: Outcome = Outcome::RequestIdExpired { why: ExpiredBecause::BelowFloor };

fn repeated(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Written { applied, repeated: false, results } => Outcome::Written { applied, repeated: true, results },
        other => panic!("{other:?}"),
    }
}

/// How many rows of a kind the shard has.
fn rows_of(world: &World<'_>, kind: MetaKind) -> usize {
    let range = keys::meta_range(kind, world.shard.spec().shard);
    let mut cursor = world.engine.view().cursor(Column::Meta, range, Direction::Forward);
    std::iter::from_fn(|| cursor.next().unwrap()).count()
}

fn a_repeated_request_gets_its_first_outcome(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let (applied, failed) = (world.id(1, 5, 1), world.id(1, 6, 1));
    let ask = Operation::Increment { key: bytes("n"), delta: 1, return_previous: true };
    let first = world.request(applied, vec![ask.clone()]);
    let absent = put_if("n", "", Condition::Absent);
    let refused = world.request(failed, vec![absent.clone()]);
    assert!(matches!(refused, Outcome::Written { applied: false, .. }));
    world.must(vec![Operation::Delete { key: bytes("n"), condition: Condition::Always, return_previous: false }]);
    for _ in 0..2 {
        let state = world.state();
        assert_eq!(world.request(applied, vec![ask.clone()]), repeated(first.clone()));
        assert_eq!(
            world.request(failed, vec![absent.clone()]),
            repeated(refused.clone()),
            "a failure is remembered too"
        );
        assert_eq!(world.value("n"), None);
        assert_eq!(world.state().last_version, state.last_version);
        world.engine.flush().unwrap();
        world.lose_power();
    }
    let other_client = world.id(2, 5, 1);
    assert!(matches!(world.request(other_client, vec![ask]), Outcome::Written { repeated: false, .. }));
}

fn a_large_previous_value_is_forgotten(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let limit = kvorum_api::limits::OUTCOME_VALUE_BYTES_MAX;
    for (sequence, bytes_count) in [(1, limit), (2, limit + 1)] {
        let version = world.must(vec![put("a", &"x".repeat(bytes_count))])[0].version.unwrap();
        let ask = |value: &str| {
            let condition = Condition::Always;
            Operation::Put { key: bytes("a"), value: bytes(value), ttl_ms: None, condition, return_previous: true }
        };
        let id = world.id(1, sequence, 1);
        let first = world.request(id, vec![ask("y")]);
        let Outcome::Written { results, .. } = &first else { panic!() };
        assert!(matches!(&results[0].previous, Previous::Found(entry) if entry.version == version));
        let Outcome::Written { results, repeated: true, .. } = world.request(id, vec![ask("y")]) else { panic!() };
        let is_forgotten = results[0].previous == Previous::Forgotten(version);
        assert_eq!(is_forgotten, bytes_count > limit);
        assert!(results[0].version.is_some());
    }
}

/// Rule I2: the next frame raises the floor above what was dropped, so that a late copy is refused.
fn what_a_client_no_longer_waits_for_is_refused(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let (first, second, dropped) = (world.id(1, 1, 1), world.id(1, 2, 1), world.id(1, 3, 1));
    world.request(first, vec![increment("n", 1)]);
    world.request(second, vec![increment("n", 1)]);
    assert_eq!(rows_of(&world, MetaKind::Outcome), 2);
    let next = world.id(1, 4, 2);
    world.request(next, vec![increment("n", 1)]);
    assert_eq!(rows_of(&world, MetaKind::Outcome), 2, "below the floor nothing is remembered");
    assert_eq!(world.request(first, vec![increment("n", 1)]), BELOW_FLOOR);
    assert!(matches!(world.request(second, vec![increment("n", 1)]), Outcome::Written { repeated: true, .. }));
    let after = world.id(1, 5, 4);
    world.request(after, vec![increment("n", 1)]);
    assert_eq!(world.request(dropped, vec![increment("n", 1)]), BELOW_FLOOR, "never executed, and never will be");
    let contradiction = world.id(1, 6, 7);
    assert_eq!(world.request(contradiction, vec![increment("n", 1)]), BELOW_FLOOR);
    assert_eq!(world.value("n").as_deref(), Some("4"));
}

fn an_old_id_is_refused_executed_or_not(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let window_ms = settings().request_window_ms;
    let (executed, never) = (world.id(1, 1, 1), world.id(1, 2, 1));
    world.request(executed, vec![increment("n", 1)]);
    world.time_ms += window_ms;
    assert!(matches!(world.request(executed, vec![increment("n", 1)]), Outcome::Written { repeated: true, .. }));
    world.time_ms += 1;
    assert_eq!(world.request(executed, vec![increment("n", 1)]), TOO_OLD);
    assert_eq!(world.request(never, vec![increment("n", 1)]), TOO_OLD);
    world.time_ms -= window_ms;
    assert_eq!(world.request(never, vec![increment("n", 1)]), TOO_OLD, "by logged time, which never goes back");
    assert_eq!(world.value("n").as_deref(), Some("1"));
}

fn a_full_memory_raises_the_floor(lab: &mut dyn Lab) {
    let mut world = World::founded(lab, Settings { request_outcomes_max: 3, ..settings() });
    let ids: Vec<RequestId> = [4, 1, 2, 3].map(|sequence| world.id(1, sequence, 0)).to_vec();
    for id in &ids {
        world.request(*id, vec![increment("n", 1)]);
    }
    assert_eq!(world.value("n").as_deref(), Some("4"));
    assert_eq!(rows_of(&world, MetaKind::Outcome), 3);
    assert_eq!(world.request(ids[1], vec![increment("n", 1)]), BELOW_FLOOR, "the lowest went");
    let late = world.id(1, 0, 0);
    assert_eq!(world.request(late, vec![increment("n", 1)]), BELOW_FLOOR, "and whatever is below it");
    for id in [ids[0], ids[2], ids[3]] {
        assert!(matches!(world.request(id, vec![increment("n", 1)]), Outcome::Written { repeated: true, .. }));
    }
    assert_eq!(world.value("n").as_deref(), Some("4"));
}

fn a_longer_window_makes_no_id_young_again(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let window_ms = settings().request_window_ms;
    let id = world.id(1, 1, 1);
    world.request(id, vec![increment("n", 1)]);
    world.time_ms += 2 * window_ms;
    world.must(vec![put("other", "")]);
    assert_eq!(rows_of(&world, MetaKind::Client), 0, "the client is forgotten");
    world.apply(vec![Command::Configure(Settings { request_window_ms: 10 * window_ms, ..settings() })]);
    assert_eq!(world.request(id, vec![increment("n", 1)]), TOO_OLD);
    assert_eq!(world.value("n").as_deref(), Some("1"));
}

/// Rule I1: a client's floor is kept until no id of it can be young.
fn idle_clients_are_forgotten_in_bounded_steps(lab: &mut dyn Lab) {
    let mut world = World::founded(lab, Settings { request_outcomes_max: 1_000, ..settings() });
    for sequence in 0..600 {
        let id = world.id(1, sequence, 0);
        world.request(id, vec![put("a", "")]);
    }
    for client in 2..50 {
        let id = world.id(client, 1, 0);
        world.request(id, vec![put("a", "")]);
    }
    let old = world.id(1, 599, 0);
    world.time_ms += settings().request_window_ms + 60_000;
    world.must(vec![put("a", "")]);
    assert_eq!(rows_of(&world, MetaKind::Client), 49, "an id on its way may still arrive");
    world.time_ms += 1;
    let mut rows_before = rows_of(&world, MetaKind::Outcome);
    let mut entries = 0;
    while rows_of(&world, MetaKind::Client) > 0 {
        assert_eq!(world.request(old, vec![increment("n", 1)]), TOO_OLD, "half forgotten, and never executed");
        let rows = rows_of(&world, MetaKind::Outcome);
        assert!(rows_before - rows <= 256, "{rows_before} to {rows} rows in one entry");
        rows_before = rows;
        entries += 1;
    }
    assert!((3..6).contains(&entries), "{entries}");
    for kind in [MetaKind::Client, MetaKind::Outcome, MetaKind::ClientAge] {
        assert_eq!(rows_of(&world, kind), 0, "{kind:?}");
    }
    assert_eq!(world.value("n"), None);
}

fn a_client_that_is_heard_is_kept(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    for sequence in 0..40 {
        let id = world.id(1, sequence, 0);
        assert!(matches!(world.request(id, vec![increment("n", 1)]), Outcome::Written { repeated: false, .. }));
        assert_eq!(rows_of(&world, MetaKind::Client), 1);
        assert_eq!(rows_of(&world, MetaKind::ClientAge), 1, "noted once");
        assert!(matches!(world.request(id, vec![increment("n", 1)]), Outcome::Written { repeated: true, .. }));
        world.time_ms += settings().request_window_ms / 3;
    }
    assert_eq!(world.value("n").as_deref(), Some("40"));
    // A stamp ahead of the logged time keeps the client as long as that id may be young.
    let ahead_ms = world.time_ms + 500_000;
    let ahead = RequestId { first_sent: Stamp::from_ms(ahead_ms), ..world.id(9, 1, 0) };
    world.request(ahead, vec![increment("n", 1)]);
    world.time_ms = ahead_ms + settings().request_window_ms;
    assert!(matches!(world.request(ahead, vec![increment("n", 1)]), Outcome::Written { repeated: true, .. }));
}

fn repetitions_within_one_run_are_seen(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let request = Some(world.id(1, 1, 1));
    let write = Command::Write(crate::WriteCommand { request, operations: vec![increment("n", 1)] });
    let entries = [world.log(vec![write.clone(), write.clone()]), world.log(vec![write])];
    let outcomes = world.shard.apply(&entries).unwrap();
    let first = outcomes[0][0].clone();
    assert_eq!(outcomes, [vec![first.clone(), repeated(first.clone())], vec![repeated(first)]]);
    assert_eq!(world.value("n").as_deref(), Some("1"));
}
