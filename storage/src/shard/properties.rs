//! Properties of the shard over random histories.
//!
//! ```text
//!   a log ──▶ one entry at a time ──┐
//!         └─▶ in random runs, with  ├──▶ equal to the byte, equal to ordered maps, equal to its diary played back
//!             losses of power       ┘
//! ```

use super::{
    Shard,
    suite::{World, delete, increment, put, put_if, put_ttl, settings, tests::MemLab},
};
use crate::{
    changelog::{Change, ChangeKind},
    command::{Command, Condition, Operation, Outcome, RequestId, Settings, WriteCommand},
    engine::{Column, Direction, Engine},
    entry::Entry,
    keys::{self, MetaKind},
};
use bytes::Bytes;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

/// Everything a shard has in its engine.
fn dump(engine: &dyn Engine, shard: &Shard) -> Vec<(Column, Bytes, Bytes)> {
    let view = engine.view();
    let mut rows = Vec::new();
    for (column, range) in keys::shard_ranges(shard.spec(), shard.state().range()) {
        let mut cursor = view.cursor(column, range, Direction::Forward);
        while let Some((key, value)) = cursor.next().unwrap() {
            rows.push((column, key, value));
        }
    }
    rows
}

fn key() -> impl Strategy<Value = String> {
    (0..6u8).prop_map(|number| format!("k{number}"))
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (key(), 0..3u8).prop_map(|(key, value)| put(&key, &value.to_string())),
        (key(), 0..40u64).prop_map(|(key, ttl_ms)| put_ttl(&key, "1", ttl_ms)),
        (key(), 0..3u8).prop_map(|(key, value)| put_if(&key, &value.to_string(), Condition::Absent)),
        (key(), 0..3u8).prop_map(|(key, value)| put_if(&key, "2", Condition::Value(value.to_string().into()))),
        key().prop_map(|key| delete(&key)),
        (key(), -2..3i64).prop_map(|(key, delta)| increment(&key, delta)),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let request = proptest::option::of((1..4u128, 0..8u64, 0..6u64));
    let write = (request, proptest::collection::vec(operation(), 0..4)).prop_map(|(request, operations)| {
        let request = request.map(|(client, sequence, lowest_unanswered)| RequestId {
            client,
            sequence,
            first_sent: kvorum_api::Stamp::from_ms(super::suite::BEGIN_MS + 10 * sequence),
            lowest_unanswered,
        });
        Command::Write(WriteCommand { request, operations })
    });
    prop_oneof![
        8 => write,
        2 => (0..100u64).prop_map(|ahead_ms| Command::Expire { up_to_ms: super::suite::BEGIN_MS + ahead_ms }),
        1 => (0..4u32).prop_map(|request_outcomes_max| Command::Configure(Settings {
            request_outcomes_max,
            request_window_ms: 30,
            ..settings()
        })),
    ]
}

/// Entries: what each does, and how far the leader's clock moves before it; once in a while very far.
fn history() -> impl Strategy<Value = Vec<(Vec<Command>, u64)>> {
    let step_ms = prop_oneof![9 => 0..15u64, 1 => Just(100_000u64)];
    proptest::collection::vec((proptest::collection::vec(command(), 0..5), step_ms), 1..25)
}

/// What the diary says is there, gone or not.
fn play_back(changes: &[Change]) -> BTreeMap<Bytes, Entry> {
    let mut rows = BTreeMap::new();
    for change in changes {
        let before = match change.kind {
            ChangeKind::Insert | ChangeKind::Modify => {
                rows.insert(change.key.clone(), change.new.clone().expect("images are kept"))
            }
            ChangeKind::Remove | ChangeKind::Expire => rows.remove(&change.key),
            ChangeKind::Merge => unreachable!("CP does not merge"),
        };
        assert_eq!(before, change.old, "the old image is what the one before left behind");
    }
    rows
}

proptest! {
    /// Invariant 3: a replica that applies entries one by one and one that applies them in runs, losing power and
    /// resting in between, end equal to the byte.
    #[test]
    fn runs_and_crashes_leave_no_trace(
        history in history(), runs in proptest::collection::vec((1..9usize, 0..4u8), 1..9)
    ) {
        let (mut single_lab, mut other_lab) = (MemLab::default(), MemLab::default());
        let (mut single, mut other) = (World::new(&mut single_lab), World::new(&mut other_lab));
        for (commands, step_ms) in history {
            single.time_ms += step_ms;
            single.apply(commands);
        }
        other.log = single.log.clone();
        for (run, fate) in runs.into_iter().cycle() {
            let applied = other.state().applied.position.map_or(0, |position| position.index as usize);
            let end = other.log.len().min(applied + run);
            other.shard.apply(&other.log[applied..end]).unwrap();
            match fate {
                0 => other.engine.flush().unwrap(),
                1 => { other.lose_power(); }
                2 => other.shard.rest(),
                _ => {}
            }
            // A loss of power before the first flush would repeat for ever.
            if applied == end || end == other.log.len() {
                break;
            }
            if other.state().applied.position.is_none() {
                other.replay(3);
                other.engine.flush().unwrap();
            }
        }
        other.replay(4);
        prop_assert_eq!(other.state(), single.state());
        prop_assert_eq!(dump(&*other.engine, &other.shard), dump(&*single.engine, &single.shard));
    }

    /// Invariant 1: rows, diary and expiry index are one story.
    #[test]
    fn the_diary_played_back_is_the_map(history in history()) {
        let mut lab = MemLab::default();
        let mut world = World::new(&mut lab);
        for (commands, step_ms) in history {
            world.time_ms += step_ms;
            world.apply(commands);
        }
        let stored = play_back(&world.changes(1));
        let rows: BTreeMap<_, _> = dump(&*world.engine, &world.shard).into_iter().filter_map(|(column, key, value)| {
            (column == Column::Data).then(|| (keys::placement_key(&key), Entry::decode(value).unwrap()))
        }).collect();
        prop_assert_eq!(&stored, &rows);
        let mut due: Vec<_> = rows.iter().filter_map(|(key, entry)| Some((entry.expires_ms?, key.clone()))).collect();
        due.sort();
        let view = world.engine.view();
        let range = keys::meta_range(MetaKind::Expiry, world.shard.spec().shard);
        let mut cursor = view.cursor(Column::Meta, range, Direction::Forward);
        let rows_of_index = std::iter::from_fn(|| cursor.next().unwrap());
        let index: Vec<_> = rows_of_index.map(|(key, _)| keys::parse_expiry_key(&key)).collect();
        prop_assert_eq!(&index, &due);
        prop_assert_eq!(world.state().next_expiry_ms, due.first().map(|(expires_ms, _)| *expires_ms));
        for (key, entry) in &rows {
            let found = world.shard.get(key).unwrap().entry;
            prop_assert_eq!(found.as_ref(), Some(entry).filter(|entry| !entry.is_gone(world.state().logged_time_ms)));
        }
    }

    /// Two histories that differ in one value differ in their hash from there on.
    #[test]
    fn the_rolling_hash_tells_histories_apart(history in history(), at in any::<prop::sample::Index>()) {
        let (mut left_lab, mut right_lab) = (MemLab::default(), MemLab::default());
        let (mut left, mut right) = (World::new(&mut left_lab), World::new(&mut right_lab));
        let differs_at = at.index(history.len());
        for (number, (commands, step_ms)) in history.into_iter().enumerate() {
            prop_assert_eq!(left.state().rolling_hash == right.state().rolling_hash, number <= differs_at);
            (left.time_ms, right.time_ms) = (left.time_ms + step_ms, right.time_ms + step_ms);
            let write = |operation| Command::Write(WriteCommand { request: None, operations: vec![operation] });
            let differing = |value| write(put("differs", value));
            let values = if number == differs_at { ("left", "right") } else { ("same", "same") };
            left.apply([commands.clone(), vec![differing(values.0)]].concat());
            right.apply([commands, vec![differing(values.1)]].concat());
        }
        prop_assert_ne!(left.state().rolling_hash, right.state().rolling_hash);
    }
}

/// What a client and the network between do next.
#[derive(Clone, Debug)]
enum Deed {
    /// A client sends its next request; it may stay on its way.
    Send { client: usize, arrives: bool },
    /// Any copy ever sent arrives, with the floor it was sent with, or as a retry with the floor of now.
    Arrive { which: prop::sample::Index, is_retry: bool },
    /// A client has its outcome, or drops the handle: it waits no longer for its oldest.
    Settle { client: usize },
    /// Time passes, in hundredths of the window.
    Pass { hundredths: u64 },
    /// Power is lost.
    Crash { flushed: bool },
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (0..3usize, any::<bool>()).prop_map(|(client, arrives)| Deed::Send { client, arrives }),
        6 => (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(which, is_retry)| Deed::Arrive { which, is_retry }),
        3 => (0..3usize).prop_map(|client| Deed::Settle { client }),
        2 => (0..150u64).prop_map(|hundredths| Deed::Pass { hundredths }),
        1 => any::<bool>().prop_map(|flushed| Deed::Crash { flushed }),
    ]
}

/// Three clients, and all copies of their requests that are anywhere.
#[derive(Default)]
struct Schedule {
    sent: Vec<RequestId>,
    next_sequence: [u64; 3],
    lowest_unanswered: [u64; 3],
    executed: BTreeMap<(u128, u64), Outcome>,
    refused: BTreeMap<(u128, u64), Outcome>,
}

impl Schedule {
    fn deliver(&mut self, world: &mut World<'_>, id: RequestId) {
        let name = (id.client, id.sequence);
        let outcome = world.request(id, vec![increment(&format!("{name:?}"), 1)]);
        match &outcome {
            Outcome::Written { repeated: false, .. } => {
                assert!(!self.refused.contains_key(&name), "{name:?} was refused and executed later");
                assert_eq!(self.executed.insert(name, outcome), None, "{name:?} was executed twice");
            }
            Outcome::Written { applied, repeated: true, results } => {
                let first = Outcome::Written { applied: *applied, repeated: false, results: results.clone() };
                assert_eq!(self.executed.get(&name), Some(&first), "{name:?} is answered as at first");
            }
            _ => {
                self.refused.insert(name, outcome);
            }
        }
    }

    fn perform(&mut self, world: &mut World<'_>, deed: Deed) {
        match deed {
            Deed::Send { client, arrives } => {
                let id = world.id(client as u128, self.next_sequence[client], self.lowest_unanswered[client]);
                self.next_sequence[client] += 1;
                self.sent.push(id);
                if arrives {
                    self.deliver(world, id);
                    let name = (id.client, id.sequence);
                    assert!(
                        self.executed.contains_key(&name),
                        "{name:?} is young and was never here: {:?}",
                        self.refused
                    );
                }
            }
            Deed::Arrive { which, is_retry } if !self.sent.is_empty() => {
                let mut id = *which.get(&self.sent);
                let floor = self.lowest_unanswered[id.client as usize];
                if is_retry && id.sequence >= floor {
                    id.lowest_unanswered = floor;
                }
                self.deliver(world, id);
            }
            Deed::Arrive { .. } => {}
            Deed::Settle { client } => {
                let lowest = &mut self.lowest_unanswered[client];
                *lowest = (*lowest + 1).min(self.next_sequence[client]);
            }
            Deed::Pass { hundredths } => world.time_ms += hundredths * settings().request_window_ms / 100,
            Deed::Crash { flushed } => {
                if flushed {
                    world.engine.flush().unwrap();
                }
                world.lose_power();
                world.replay(5);
            }
        }
    }
}

proptest! {
    /// Rules I1, I2: whatever is repeated, reordered or late, no id is executed twice, and one that was refused is
    /// never executed.
    #[test]
    fn no_schedule_executes_an_id_twice(
        deeds in proptest::collection::vec(deed(), 1..120), request_outcomes_max in 1..5u32
    ) {
        let mut lab = MemLab::default();
        let mut world = World::founded(&mut lab, Settings { request_outcomes_max, ..settings() });
        let mut schedule = Schedule::default();
        for deed in deeds {
            schedule.perform(&mut world, deed);
        }
        for id in &schedule.sent {
            let name = (id.client, id.sequence);
            let expected = schedule.executed.contains_key(&name).then_some("1");
            let value = world.value(&format!("{name:?}"));
            prop_assert_eq!(value.as_deref(), expected);
        }
    }
}

/// Rule C1: the founding configure is a group's first command.
#[test]
#[should_panic(expected = "rule C1")]
fn nothing_applies_before_the_founding_configure() {
    let mut lab = MemLab::default();
    World::empty(&mut lab).write(vec![put("a", "1")]);
}

#[test]
#[should_panic(expected = "applied once and in order")]
fn an_entry_is_not_applied_twice() {
    let mut lab = MemLab::default();
    let mut world = World::new(&mut lab);
    let entry = world.log(vec![]);
    world.shard.apply(std::slice::from_ref(&entry)).unwrap();
    let _ = world.shard.apply(&[entry]);
}

/// A key that is due all the time and rewritten in the very entry that raises the time is never absent to a reader, and
/// what one command writes is seen together.
#[test]
fn readers_beside_the_writer_see_only_states_that_were() {
    let mut lab = MemLab::default();
    let mut world = World::new(&mut lab);
    world.must(vec![put_ttl("a", "0", 1), put_ttl("b", "0", 1)]);
    let (shard, is_done) = (world.shard.clone(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                assert!(shard.get(b"a").unwrap().entry.is_some(), "gone, and not yet rewritten: no such state");
                let mut scan = shard.scan(super::ScanRange::default()).unwrap();
                let rows = scan.next(usize::MAX, usize::MAX).unwrap();
                assert_eq!(rows.len(), 2);
                assert_eq!(rows[0].entry.value, rows[1].entry.value);
            }
        });
        for number in 0..3_000 {
            world.time_ms += 10;
            let value = number.to_string();
            world.must(vec![put_ttl("a", &value, 1), put_ttl("b", &value, 1)]);
        }
        is_done.store(true, Ordering::SeqCst);
    });
}
