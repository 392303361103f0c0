//! Writes: conditions, atomicity, versions, settings.

use super::{
    Case, Lab,
    world::{World, bytes, delete, increment, put, put_if, put_ttl, settings},
};
use crate::{
    command::{Command, Condition, Operation, OperationResult, OperationStatus, Outcome, Previous, Proposal, Settings},
    entry::Entry,
    error::StorageError,
    shard::{LoggedEntry, Lookup, ScanRange, Step},
};
use kvorum_api::{Actor, LogPosition, NodeId, Stamp, StartCount, Version};

pub(super) const CASES: &[Case] = &[
    ("what is put is read and what is deleted is gone", what_is_put_is_read_and_what_is_deleted_is_gone),
    ("a condition decides whether a put happens", a_condition_decides_whether_a_put_happens),
    ("a failed condition says what is there", a_failed_condition_says_what_is_there),
    ("a command happens wholly or not at all", a_command_happens_wholly_or_not_at_all),
    ("later operations see earlier ones", later_operations_see_earlier_ones),
    ("an increment counts in decimal", an_increment_counts_in_decimal),
    ("an increment keeps the expiry", an_increment_keeps_the_expiry),
    ("versions grow though clocks go back", versions_grow_though_clocks_go_back),
    ("what was there is told on request", what_was_there_is_told_on_request),
    ("an unknown behaviour stops apply", an_unknown_behaviour_stops_apply),
    ("blank and membership entries move the position", blank_and_membership_entries_move_the_position),
    ("a scan is ordered, bounded, both ways and unmoved", a_scan_is_ordered_bounded_both_ways_and_unmoved),
    ("the position is watched", the_position_is_watched),
];

fn what_is_put_is_read_and_what_is_deleted_is_gone(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    assert_eq!(world.value("a"), None);
    let version = world.must(vec![put("a", "1")])[0].version.unwrap();
    let entry = Entry { version, value: Some(bytes("1")), expires_ms: None };
    assert_eq!(world.shard.get(b"a").unwrap().entry, Some(entry.clone()));
    match world.shard.get_cached(b"a").unwrap() {
        Lookup::Known(found) => assert_eq!(found.entry, Some(entry)),
        Lookup::WouldBlock => {}
    }
    world.must(vec![put("a", "")]);
    assert_eq!(world.value("a").as_deref(), Some(""));
    world.must(vec![delete("a")]);
    assert_eq!(world.value("a"), None);
    let nothing = world.must(vec![delete("a")]);
    assert_eq!((&nothing[0].previous, nothing[0].version), (&Previous::Absent, None), "nothing was written");
}

fn a_condition_decides_whether_a_put_happens(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let version = world.must(vec![put("there", "v")])[0].version.unwrap();
    let other = Version { stamp: version.stamp.next(), ..version };
    let table = [
        (Condition::Always, true, true),
        (Condition::Absent, false, true),
        (Condition::Present, true, false),
        (Condition::Version(version), true, false),
        (Condition::Version(other), false, false),
        (Condition::Value(bytes("v")), true, false),
        (Condition::Value(bytes("w")), false, false),
    ];
    for (condition, if_there, if_absent) in table {
        for (key, expected) in [("there", if_there), ("absent", if_absent)] {
            // The second operation always fails, so the row stays as it is whatever the condition says.
            let tried = put_if(key, "v", condition.clone());
            let outcome = world.write(vec![tried, put_if("never", "", Condition::Present)]);
            let Outcome::Written { applied: false, results, .. } = outcome else { panic!("{outcome:?}") };
            let failed_first = results[0].status == OperationStatus::ConditionFailed;
            assert_eq!(!failed_first, expected, "{condition:?} on {key}");
        }
    }
    let removal = |condition| Operation::Delete { key: bytes("there"), condition, return_previous: false };
    let refused = world.write(vec![removal(Condition::Version(other))]);
    assert!(matches!(refused, Outcome::Written { applied: false, .. }));
    world.must(vec![removal(Condition::Version(version))]);
    assert_eq!(world.value("there"), None);
}

fn a_failed_condition_says_what_is_there(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let version = world.must(vec![put("a", "1")])[0].version.unwrap();
    let found = Previous::Found(Entry { version, value: Some(bytes("1")), expires_ms: None });
    for (condition, key, expected) in [(Condition::Absent, "a", found), (Condition::Present, "b", Previous::Absent)] {
        let outcome = world.write(vec![put_if(key, "2", condition)]);
        let Outcome::Written { applied: false, results, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(results[0].status, OperationStatus::ConditionFailed);
        assert_eq!(results[0].previous, expected);
        assert_eq!(results[0].version, None);
    }
}

fn a_command_happens_wholly_or_not_at_all(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    world.must(vec![put("a", "1")]);
    let before = world.state();
    let outcome = world.write(vec![put("a", "2"), put("b", "2"), put_if("a", "3", Condition::Absent), delete("a")]);
    let Outcome::Written { applied: false, repeated: false, results } = outcome else { panic!("{outcome:?}") };
    let statuses: Vec<_> = results.iter().map(|result| result.status).collect();
    use OperationStatus::{ConditionFailed, Skipped};
    assert_eq!(statuses, [Skipped, Skipped, ConditionFailed, Skipped]);
    assert_eq!((world.value("a").as_deref(), world.value("b")), (Some("1"), None));
    let after = world.state();
    assert_eq!(after.last_version, before.last_version, "no version was used");
    assert_eq!(after.change_next_seq, before.change_next_seq, "nothing to tell");
    let results = world.must(vec![put("a", "2"), delete("a"), put("b", "3")]);
    assert!(results.iter().all(|result| result.status == OperationStatus::Applied));
    assert_eq!((world.value("a"), world.value("b").as_deref()), (None, Some("3")));
}

fn later_operations_see_earlier_ones(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let results = world.must(vec![
        put_if("a", "5", Condition::Absent),
        put_if("a", "6", Condition::Value(bytes("5"))),
        increment("a", 1),
        delete("a"),
        put_if("a", "7", Condition::Absent),
    ]);
    assert_eq!(results[2].number, Some(7));
    let Previous::Found(seen) = &results[3].previous else { panic!("{results:?}") };
    assert_eq!((seen.value.as_deref(), Some(seen.version)), (Some(&b"7"[..]), results[2].version));
    assert_eq!(world.value("a").as_deref(), Some("7"));
    let versions: Vec<_> = results.iter().map(|result| result.version.unwrap()).collect();
    assert!(versions.is_sorted_by(|left, right| left < right), "each operation has its own: {versions:?}");
}

fn an_increment_counts_in_decimal(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    assert_eq!(world.must(vec![increment("n", -3)])[0].number, Some(-3));
    assert_eq!(world.must(vec![increment("n", 5)])[0].number, Some(2));
    assert_eq!(world.value("n").as_deref(), Some("2"));
    for text in ["", "x", "+1", " 1", "1.0", "9223372036854775808"] {
        world.must(vec![put("n", text)]);
        assert_refused(world.write(vec![increment("n", 1)]), OperationStatus::NotANumber);
        assert_eq!(world.value("n").as_deref(), Some(text));
    }
    for (number, delta) in [(i64::MAX, 1), (i64::MIN, -1)] {
        world.must(vec![put("n", &number.to_string())]);
        assert_refused(world.write(vec![increment("n", delta)]), OperationStatus::Overflow);
        assert_eq!(world.must(vec![increment("n", 0)])[0].number, Some(number));
    }
}

fn assert_refused(outcome: Outcome, why: OperationStatus) {
    let Outcome::Written { applied: false, results, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(results[0].status, why);
    assert!(matches!(results[0].previous, Previous::Found(_)), "what was met is told");
}

fn an_increment_keeps_the_expiry(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    world.must(vec![put_ttl("n", "1", 500)]);
    let expires_ms = world.shard.get(b"n").unwrap().entry.unwrap().expires_ms;
    assert_eq!(expires_ms, Some(world.time_ms + 500));
    world.time_ms += 100;
    world.must(vec![increment("n", 1)]);
    assert_eq!(world.shard.get(b"n").unwrap().entry.unwrap().expires_ms, expires_ms);
    world.must(vec![put("n", "1")]);
    assert_eq!(world.shard.get(b"n").unwrap().entry.unwrap().expires_ms, None, "a put without one takes it away");
}

fn versions_grow_though_clocks_go_back(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let first = world.must(vec![put("a", "1")])[0].version.unwrap();
    assert_eq!(first.stamp, Stamp::from_ms(world.time_ms), "the proposer's hint, when it is above");
    world.time_ms -= 1_000;
    let second = world.must(vec![put("a", "2")])[0].version.unwrap();
    assert_eq!(second.stamp, first.stamp.next());
    let actor = Actor { node: NodeId(9), start: StartCount(9) };
    let commands = vec![Command::Write(crate::WriteCommand { request: None, operations: vec![put("a", "3")] })];
    let proposal = Proposal { time_ms: 0, stamp: Stamp(0), actor, commands };
    let entry = world.log_step(Step::Commands(proposal));
    world.shard.apply(&[entry]).unwrap();
    let third = world.shard.get(b"a").unwrap().entry.unwrap().version;
    assert_eq!(third, Version { stamp: second.stamp.next(), actor }, "with the actor of its proposal");
    assert_eq!(world.state().last_version, third);
    assert_eq!(world.state().logged_time_ms, world.time_ms + 1_000, "the highest seen");
}

fn what_was_there_is_told_on_request(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let asking = |value: &str| Operation::Put {
        key: bytes("a"),
        value: bytes(value),
        ttl_ms: None,
        condition: Condition::Always,
        return_previous: true,
    };
    let first = world.must(vec![asking("1")]);
    assert_eq!(first[0].previous, Previous::Absent);
    let second = world.must(vec![asking("2"), put("b", "")]);
    let entry = Entry { version: first[0].version.unwrap(), value: Some(bytes("1")), expires_ms: None };
    assert_eq!(second[0].previous, Previous::Found(entry));
    assert_eq!(second[1].previous, Previous::NotAsked);
    let counted = world.must(vec![Operation::Increment { key: bytes("a"), delta: 1, return_previous: true }]);
    let OperationResult { previous: Previous::Found(entry), number: Some(3), .. } = &counted[0] else {
        panic!("{counted:?}")
    };
    assert_eq!(entry.value, Some(bytes("2")));
}

/// Invariant 3: a replica that meets a behaviour version it does not know stops applying and says so.
fn an_unknown_behaviour_stops_apply(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let before = world.contents();
    let unknown = Settings { behaviour: 99, ..settings() };
    let entry = world.log(vec![Command::Configure(unknown)]);
    for _ in 0..2 {
        let refused = world.shard.apply(std::slice::from_ref(&entry)).unwrap_err();
        let StorageError::UnknownFormat { what: "behaviour of apply", found } = refused else { panic!("{refused}") };
        assert!(found.contains("99"), "{found}");
        assert_eq!(world.contents(), before);
    }
}

fn blank_and_membership_entries_move_the_position(lab: &mut dyn Lab) {
    let mut world = World::empty(lab);
    let mut watched = world.shard.watch_applied();
    assert_eq!(*watched.borrow_and_update(), None);
    let entries = [world.log_step(Step::Membership(bytes("members"))), world.log_step(Step::Blank)];
    assert_eq!(world.shard.apply(&entries).unwrap(), [vec![], vec![]]);
    let applied = world.state().applied;
    assert_eq!(applied.position, Some(LogPosition { term: 1, index: 2 }));
    assert_eq!((applied.batch, &applied.membership), (entries[1].batch, &bytes("members")));
    assert_eq!(*watched.borrow_and_update(), applied.position);
    let hash = world.state().rolling_hash;
    let LoggedEntry { position, .. } = world.log_step(Step::Membership(bytes("others")));
    let entry = world.log[position.index as usize - 1].clone();
    world.shard.apply(&[entry]).unwrap();
    assert_ne!(world.state().rolling_hash, hash);
    assert_eq!(world.shard.apply(&[]).unwrap(), Vec::<Vec<Outcome>>::new());
}

fn a_scan_is_ordered_bounded_both_ways_and_unmoved(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let keys: Vec<String> = (0..100).map(|number| format!("k{number:03}")).collect();
    for key in keys.iter().rev() {
        world.must(vec![put(key, "value")]);
    }
    let range = ScanRange { start: bytes("k010"), end: Some(bytes("k090")), ..ScanRange::default() };
    for reverse in [false, true] {
        let mut scan = world.shard.scan(ScanRange { reverse, keys_only: reverse, ..range.clone() }).unwrap();
        assert_eq!(scan.position(), world.state().applied.position);
        world.must(vec![delete("k050"), put("k0505", "later")]);
        let mut seen = Vec::new();
        loop {
            let rows = scan.next(20, 7).unwrap();
            // A row weighs its key and value: 9 bytes with them, 4 without; 2 and 5 of them fit into 20 bytes.
            assert!(rows.len() <= if reverse { 5 } else { 2 });
            if rows.is_empty() {
                break;
            }
            assert!(rows.iter().all(|row| row.entry.value == Some(bytes(if reverse { "" } else { "value" }))));
            seen.extend(rows.into_iter().map(|row| String::from_utf8(row.key.to_vec()).unwrap()));
        }
        let mut expected = keys[10..90].to_vec();
        if reverse {
            expected.reverse();
        }
        assert_eq!(seen, expected);
        world.must(vec![put("k050", "value"), delete("k0505")]);
    }
    let mut scan = world.shard.scan(ScanRange::default()).unwrap();
    assert_eq!(scan.next(0, 0).unwrap().len(), 1, "a row too large for the portion travels alone");
    assert_eq!(scan.next(usize::MAX, 3).unwrap().len(), 3);
}

fn the_position_is_watched(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let watched = world.shard.watch_applied();
    world.must(vec![put("a", "1")]);
    assert_eq!(*watched.borrow(), world.state().applied.position);
}
