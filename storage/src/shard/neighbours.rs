//! Property: two shards of one keyspace in one engine are two ordered maps that know nothing of each other (rule C3).
//!
//! ```text
//!   deeds, each for one of the two ──▶ shard below `m` │ shard from `m` on     one engine, one keyspace
//!                                 └──▶ map of the one  │ map of the other      equal after every deed
//! ```

use super::{
    Shard, ShardSnapshot, ShardSpec,
    suite::{BEGIN_MS, SPEC, apply_next, settings, tests::MemLab},
};
use crate::{
    command::{Command, Condition, Operation, Outcome, Settings, WriteCommand},
    engine::{Engine, mem::MemEngine},
    error::StorageError,
    shard::{ScanRange, suite::Lab},
};
use bytes::Bytes;
use kvorum_api::{PlacementRange, ShardId};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

const KEYS: [&str; 6] = ["", "a", "lz", "m", "ma", "z"];

/// What one shard should hold: values and when they are due, and the time it has logged.
#[derive(Clone, Default)]
struct Model {
    is_founded: bool,
    rows: BTreeMap<Bytes, (Bytes, Option<u64>)>,
    time_ms: u64,
}

impl Model {
    fn alive(&self) -> Vec<(Bytes, Bytes)> {
        let rows = self.rows.iter().filter(|(_, (_, due_ms))| due_ms.is_none_or(|due_ms| due_ms > self.time_ms));
        rows.map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }

    fn write(&mut self, operations: &[Operation]) {
        for operation in operations {
            match operation {
                Operation::Put { key, value, ttl_ms, .. } => {
                    let due_ms = ttl_ms.map(|ttl_ms| self.time_ms + ttl_ms);
                    self.rows.insert(key.clone(), (value.clone(), due_ms));
                }
                // What is due already is not there to be removed: `Expire` does that.
                Operation::Delete { key, .. } => {
                    let is_due =
                        |(_, due_ms): &(Bytes, Option<u64>)| due_ms.is_some_and(|due_ms| due_ms <= self.time_ms);
                    if !self.rows.get(key).is_some_and(is_due) {
                        self.rows.remove(key);
                    }
                }
                Operation::Increment { .. } => unreachable!("not among the deeds"),
            }
        }
    }
}

/// What happens next, to one of the two or to both.
#[derive(Clone, Debug)]
enum Deed {
    /// A write, of keys that may not be its own.
    Write(Vec<Operation>),
    /// Time passes for one shard, and what is due goes.
    Expire {
        after_ms: u64,
    },
    /// It is sent to itself and installed.
    Install,
    /// It is removed; the next write founds it anew.
    Remove,
    Flush,
    LosePower,
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = || proptest::sample::select(&KEYS[..]).prop_map(|key| Bytes::from_static(key.as_bytes()));
    prop_oneof![
        3 => (key(), 0..3u8, proptest::option::of(0..30u64)).prop_map(|(key, value, ttl_ms)| Operation::Put {
            key,
            value: value.to_string().into(),
            ttl_ms,
            condition: Condition::Always,
            return_previous: false,
        }),
        1 => key().prop_map(|key| Operation::Delete { key, condition: Condition::Always, return_previous: false }),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => proptest::collection::vec(operation(), 1..3).prop_map(Deed::Write),
        2 => (0..20u64).prop_map(|after_ms| Deed::Expire { after_ms }),
        1 => Just(Deed::Install),
        1 => Just(Deed::Remove),
        1 => Just(Deed::Flush),
        1 => Just(Deed::LosePower),
    ]
}

fn spec(side: usize) -> ShardSpec {
    ShardSpec { shard: ShardId(SPEC.shard.0 + side as u64), ..SPEC }
}

fn ranges() -> [PlacementRange; 2] {
    let ranges = PlacementRange::cut(&[Bytes::from_static(b"m")]);
    ranges.try_into().expect("one point makes two ranges")
}

/// Two shards in one engine, and what they should hold.
struct Street {
    lab: MemLab,
    engine: Arc<dyn Engine>,
    shards: [Arc<Shard>; 2],
    models: [Model; 2],
    flushed: [Model; 2],
}

impl Street {
    fn new() -> Self {
        let mut lab = MemLab::default();
        let engine = lab.begin_life();
        let shards = open(&engine);
        Street { lab, engine, shards, models: Default::default(), flushed: Default::default() }
    }

    fn flush(&mut self) {
        self.engine.flush().unwrap();
        self.flushed = self.models.clone();
    }

    fn apply(&mut self, side: usize, command: Command) -> Outcome {
        let model = &mut self.models[side];
        model.time_ms = model.time_ms.max(BEGIN_MS);
        let mut commands = vec![command];
        if !std::mem::replace(&mut model.is_founded, true) {
            commands.insert(0, Command::Configure(Settings { range: ranges()[side].clone(), epoch: 2, ..settings() }));
        }
        let time_ms = model.time_ms;
        apply_next(&self.shards[side], time_ms, commands).pop().unwrap()
    }

    fn perform(&mut self, side: usize, deed: Deed) {
        match deed {
            Deed::Write(operations) => {
                let is_own = operations.iter().all(|operation| ranges()[side].contains(operation.key()));
                let write = WriteCommand { request: None, operations: operations.clone() };
                let outcome = self.apply(side, Command::Write(write));
                assert_eq!(outcome == Outcome::OutOfRange { epoch: 2 }, !is_own, "{operations:?}");
                if is_own {
                    self.models[side].write(&operations);
                }
            }
            Deed::Expire { after_ms } => {
                let up_to_ms = self.models[side].time_ms.max(BEGIN_MS) + after_ms;
                self.apply(side, Command::Expire { up_to_ms });
                let model = &mut self.models[side];
                model.time_ms = up_to_ms;
                model.rows.retain(|_, (_, due_ms)| due_ms.is_none_or(|due_ms| due_ms > up_to_ms));
            }
            Deed::Install => {
                let shard = &self.shards[side];
                let chunks = chunks_of(shard.snapshot().unwrap());
                let mut receiver = shard.receive_snapshot(side as u64).unwrap();
                chunks.iter().for_each(|chunk| receiver.put_chunk(chunk).unwrap());
                shard.install(&receiver.finish().unwrap()).unwrap();
                self.flush();
            }
            Deed::Remove => {
                self.shards[side].remove(None, &[side as u64]).unwrap();
                self.shards[side] = Shard::open(self.engine.clone(), spec(side)).unwrap();
                self.models[side] = Model::default();
                self.flush();
            }
            Deed::Flush => self.flush(),
            Deed::LosePower => {
                self.engine = self.lab.begin_life();
                self.shards = open(&self.engine);
                self.models = self.flushed.clone();
            }
        }
    }

    fn check(&self) {
        for (side, (shard, model)) in self.shards.iter().zip(&self.models).enumerate() {
            let expected = model.alive();
            for reverse in [false, true] {
                let mut rows = scan(shard, reverse);
                if reverse {
                    rows.reverse();
                }
                assert_eq!(rows, expected);
            }
            for key in KEYS {
                let found = shard.get(key.as_bytes()).map(|answer| answer.entry);
                if model.is_founded && !ranges()[side].contains(key.as_bytes()) {
                    assert_eq!(found, Err(StorageError::OutOfRange { epoch: 2 }));
                } else {
                    let value = found.unwrap().map(|entry| entry.value.unwrap());
                    let row = expected.iter().find(|(of, _)| of == key.as_bytes());
                    assert_eq!(value.as_ref(), row.map(|(_, value)| value));
                }
            }
            let due_ms = model.rows.values().filter_map(|(_, due_ms)| *due_ms).min();
            assert_eq!(shard.state().next_expiry_ms, due_ms);
        }
    }
}

fn open(engine: &Arc<dyn Engine>) -> [Arc<Shard>; 2] {
    [0, 1].map(|side| Shard::open(engine.clone(), spec(side)).unwrap())
}

fn scan(shard: &Shard, reverse: bool) -> Vec<(Bytes, Bytes)> {
    let mut scan = shard.scan(ScanRange { reverse, ..ScanRange::default() }).unwrap();
    let rows = scan.next(usize::MAX, usize::MAX).unwrap();
    rows.into_iter().map(|row| (row.key, row.entry.value.unwrap())).collect()
}

fn chunks_of(mut snapshot: ShardSnapshot) -> Vec<Bytes> {
    std::iter::from_fn(|| snapshot.next_chunk(40).unwrap()).collect()
}

proptest! {
    #[test]
    fn neighbours_are_two_maps(deeds in proptest::collection::vec((0..2usize, deed()), 1..60)) {
        let mut street = Street::new();
        for (side, deed) in deeds {
            street.perform(side, deed);
            street.check();
        }
        // And what is left when both are gone is nothing.
        for shard in &street.shards {
            shard.remove(None, &[]).unwrap();
        }
        prop_assert_eq!(MemEngine::stats(&street.lab.0.open()).disk_bytes, 0);
    }
}
