//! Diary: what is told, to whom, and for how long.

use super::{
    Case, Lab,
    world::{World, bytes, delete, increment, put, put_ttl, settings},
};
use crate::{
    changelog::{ChangeKind, ChangesError},
    command::{Command, Images, Outcome, Settings},
    shard::{Collected, ScanRange},
};
use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

pub(super) const CASES: &[Case] = &[
    ("every change is told once and in order", every_change_is_told_once_and_in_order),
    ("images are kept as configured", images_are_kept_as_configured),
    ("a reader catches up and follows", a_reader_catches_up_and_follows),
    ("a reader ahead of the tail waits", a_reader_ahead_of_the_tail_waits),
    ("a reader that fell off is told and starts over", a_reader_that_fell_off_is_told_and_starts_over),
    ("a whole map says where the diary goes on", a_whole_map_says_where_the_diary_goes_on),
    ("the diary is trimmed by age and bytes", the_diary_is_trimmed_by_age_and_bytes),
    ("trimming does a bounded amount", trimming_does_a_bounded_amount),
    ("trimming changes nothing that replicas agree on", trimming_changes_nothing_that_replicas_agree_on),
];

/// Whether a future is ready at once.
fn is_ready(future: impl Future) -> bool {
    matches!(pin!(future).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
}

fn every_change_is_told_once_and_in_order(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let id = world.id(4, 9, 0);
    world.request(id, vec![put("a", "1"), put("b", "1")]);
    world.must(vec![put("a", "2"), increment("n", 1)]);
    world.must(vec![delete("b")]);
    world.must(vec![delete("b")]);
    world.must(vec![put_ttl("c", "", 1)]);
    let up_to_ms = world.time_ms + 1;
    assert_eq!(world.apply(vec![Command::Expire { up_to_ms }]), [Outcome::Expired { removed: 1, more: false }]);
    let changes = world.changes(1);
    let told: Vec<_> = changes
        .iter()
        .map(|change| (change.seq, change.kind, std::str::from_utf8(&change.key).unwrap(), change.is_last_of_batch))
        .collect();
    use ChangeKind::{Expire, Insert, Modify, Remove};
    let expected = [
        (1, Insert, "a", false),
        (2, Insert, "b", true),
        (3, Modify, "a", false),
        (4, Insert, "n", true),
        (5, Remove, "b", true),
        (6, Insert, "c", true),
        (7, Expire, "c", true),
    ];
    assert_eq!(told, expected);
    assert_eq!(changes[0].request, Some((4, 9)));
    assert_eq!(changes[2].request, None);
    assert_eq!(changes[2].time_ms, world.time_ms);
    assert_eq!(changes[6].time_ms, up_to_ms);
    assert!(changes[..6].is_sorted_by(|left, right| left.version < right.version));
    assert_eq!(world.state().change_next_seq, 8);
}

fn images_are_kept_as_configured(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let table = [(Images::Keys, false, false), (Images::New, true, false), (Images::NewAndOld, true, true)];
    for (images, has_new, has_old) in table {
        world.apply(vec![Command::Configure(Settings { images, ..settings() })]);
        let seq = world.state().change_next_seq;
        world.must(vec![put("a", "old")]);
        world.must(vec![put("a", "new")]);
        world.must(vec![delete("a")]);
        let changes = world.changes(seq);
        let value = |entry: &Option<crate::Entry>| entry.as_ref().map(|entry| entry.value.clone().unwrap());
        assert_eq!((value(&changes[0].new), value(&changes[0].old)), (has_new.then(|| bytes("old")), None));
        let expected = (has_new.then(|| bytes("new")), has_old.then(|| bytes("old")));
        assert_eq!((value(&changes[1].new), value(&changes[1].old)), expected);
        assert_eq!((value(&changes[2].new), value(&changes[2].old)), (None, has_old.then(|| bytes("new"))));
    }
}

fn a_reader_catches_up_and_follows(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    for number in 0..10 {
        world.must(vec![put(&format!("k{number}"), "")]);
    }
    let mut reader = world.shard.changes(1);
    let mut seqs = Vec::new();
    loop {
        let changes = reader.read(usize::MAX, 3).unwrap();
        assert!(changes.len() <= 3);
        if changes.is_empty() {
            break;
        }
        seqs.extend(changes.iter().map(|change| change.seq));
    }
    assert_eq!(seqs, (1..=10).collect::<Vec<_>>());
    assert!(!is_ready(reader.wait()), "nothing more");
    world.must(vec![put("later", ""), put("latest", "")]);
    assert!(is_ready(reader.wait()));
    assert_eq!(reader.read(0, usize::MAX).unwrap().len(), 1, "one that is too large for the portion travels alone");
    assert!(is_ready(reader.wait()));
    assert_eq!(reader.read(usize::MAX, usize::MAX).unwrap()[0].key, "latest");
    assert_eq!(reader.next_seq(), 13);
}

fn a_reader_ahead_of_the_tail_waits(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    let mut reader = world.shard.changes(3);
    for number in 1..=3 {
        assert!(!is_ready(reader.wait()), "it has seen {} changes elsewhere", 2);
        assert_eq!(reader.read(usize::MAX, usize::MAX).unwrap(), []);
        world.must(vec![put(&format!("k{number}"), "")]);
    }
    assert!(is_ready(reader.wait()));
    assert_eq!(reader.read(usize::MAX, usize::MAX).unwrap()[0].key, "k3");
}

fn a_reader_that_fell_off_is_told_and_starts_over(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    for number in 0..10 {
        world.must(vec![put(&format!("k{number}"), "")]);
    }
    let mut reader = world.shard.changes(2);
    assert_eq!(world.shard.collect_changes(u64::MAX, 0).unwrap().changes, 10);
    let fell_off = reader.read(usize::MAX, usize::MAX).unwrap_err();
    assert_eq!(fell_off, ChangesError::Truncated { oldest: 11 });
    let mut resync = reader.resync().unwrap();
    assert_eq!((resync.next_seq, resync.position), (11, world.state().applied.position));
    world.must(vec![delete("k3"), put("after", "")]);
    let rows = resync.scan.next(usize::MAX, usize::MAX).unwrap();
    assert_eq!(rows.len(), 10, "the map as it was at that moment");
    let keys: Vec<_> = reader.read(usize::MAX, usize::MAX).unwrap().into_iter().map(|change| change.key).collect();
    assert_eq!(keys, ["k3", "after"], "and everything after it");
}

/// How a follower of the cluster's map begins: everything at one position, then each change once.
fn a_whole_map_says_where_the_diary_goes_on(lab: &mut dyn Lab) {
    let mut world = World::founded(lab, Settings { images: Images::New, ..settings() });
    world.must(vec![put("a", "1"), put("b", "1")]);
    let mut scan = world.shard.scan(ScanRange::default()).unwrap();
    let position = world.state().applied.position;
    world.must(vec![put("a", "2"), put("c", "2")]);
    world.must(vec![delete("b")]);
    let mut rows: BTreeMap<_, _> =
        scan.next(usize::MAX, usize::MAX).unwrap().into_iter().map(|row| (row.key, row.entry)).collect();
    assert_eq!((scan.position(), scan.change_next_seq(), rows.len()), (position, 3, 2));
    let changes = world.changes(scan.change_next_seq());
    assert_eq!(changes.iter().map(|change| change.seq).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(changes.iter().map(|change| change.is_last_of_batch).collect::<Vec<_>>(), [false, true, true]);
    for change in changes {
        match change.new {
            Some(entry) => rows.insert(change.key, entry),
            None => rows.remove(&change.key),
        };
    }
    let now = world.shard.scan(ScanRange::default()).unwrap().next(usize::MAX, usize::MAX).unwrap();
    assert_eq!(rows, now.into_iter().map(|row| (row.key, row.entry)).collect());
    // Without a single change the next seq is known as well.
    world.engine.flush().unwrap();
    world.lose_power();
    assert_eq!(world.shard.scan(ScanRange::default()).unwrap().change_next_seq(), 6);
}

fn the_diary_is_trimmed_by_age_and_bytes(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    for number in 0..10 {
        world.must(vec![put(&format!("k{number}"), "value")]);
        world.time_ms += 100;
    }
    let state = world.state();
    let per_change = state.change_bytes / 10;
    assert_eq!(world.shard.collect_changes(u64::MAX, u64::MAX).unwrap(), Collected::default());
    // The last was written 0 ms ago by logged time, the first 900 ms ago.
    let by_age = world.shard.collect_changes(750, u64::MAX).unwrap();
    assert_eq!(by_age, Collected { changes: 2, bytes: 2 * per_change, more: false });
    let by_bytes = world.shard.collect_changes(u64::MAX, 5 * per_change).unwrap();
    assert_eq!(by_bytes, Collected { changes: 3, bytes: 3 * per_change, more: false });
    let state = world.state();
    assert_eq!((state.change_oldest_seq, state.change_bytes), (6, 5 * per_change));
    assert_eq!(world.changes(6).len(), 5);
    world.engine.flush().unwrap();
    world.lose_power();
    assert_eq!(world.state(), state);
    assert_eq!(world.changes(6).len(), 5);
}

fn trimming_does_a_bounded_amount(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    for _ in 0..5 {
        world.must((0..1_000).map(|number| put(&format!("k{number}"), "")).collect());
    }
    let first = world.shard.collect_changes(u64::MAX, 0).unwrap();
    assert_eq!((first.changes, first.more), (4_096, true));
    let second = world.shard.collect_changes(u64::MAX, 0).unwrap();
    assert_eq!((second.changes, second.more), (904, false));
    assert_eq!(world.state().change_bytes, 0);
}

fn trimming_changes_nothing_that_replicas_agree_on(lab: &mut dyn Lab) {
    let mut world = World::new(lab);
    world.must(vec![put("a", "1"), put("b", "2")]);
    let before = world.contents();
    world.shard.collect_changes(0, 0).unwrap();
    assert_eq!(world.contents(), before);
}
