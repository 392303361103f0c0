//! A shard with its log, driven by a test that plays leader and clock.

use super::Lab;
use crate::{
    changelog::Change,
    command::{
        Command, Condition, Images, Operation, OperationResult, Outcome, Proposal, RequestId, Settings, WriteCommand,
    },
    engine::Engine,
    journal::BatchNumber,
    shard::{Applied, LoggedEntry, ScanRange, Shard, ShardSpec, ShardState, Step},
};
use bytes::Bytes;
use kvorum_api::{Actor, KeyspaceId, LogPosition, NodeId, ShardId, Stamp, StartCount};
use std::sync::Arc;

/// The shard of every world.
pub const SPEC: ShardSpec = ShardSpec { shard: ShardId(7), keyspace: KeyspaceId(3) };

/// When every world begins.
pub const BEGIN_MS: u64 = 1_000_000_000;

/// The founding settings of a world: both images, and a window of ten minutes.
#[must_use]
pub fn settings() -> Settings {
    Settings {
        behaviour: crate::shard::BEHAVIOUR,
        images: Images::NewAndOld,
        request_window_ms: 600_000,
        request_outcomes_max: 64,
        range: kvorum_api::PlacementRange::all(),
        epoch: 1,
        has_leases: false,
    }
}

/// Sets a value.
#[must_use]
pub fn put(key: &str, value: &str) -> Operation {
    put_if(key, value, Condition::Always)
}

/// Sets a value if something holds.
#[must_use]
pub fn put_if(key: &str, value: &str, condition: Condition) -> Operation {
    Operation::Put { key: bytes(key), value: bytes(value), ttl_ms: None, condition, return_previous: false }
}

/// Sets a value for a while.
#[must_use]
pub fn put_ttl(key: &str, value: &str, ttl_ms: u64) -> Operation {
    let (key, value) = (bytes(key), bytes(value));
    Operation::Put { key, value, ttl_ms: Some(ttl_ms), condition: Condition::Always, return_previous: false }
}

/// Removes a key, and asks for what was there.
#[must_use]
pub fn delete(key: &str) -> Operation {
    Operation::Delete { key: bytes(key), condition: Condition::Always, return_previous: true }
}

/// Adds to a number.
#[must_use]
pub fn increment(key: &str, delta: i64) -> Operation {
    Operation::Increment { key: bytes(key), delta, return_previous: false }
}

/// Bytes of their own.
#[must_use]
pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Applies commands as the entry that comes next in the log of a shard.
pub fn apply_next(shard: &Shard, time_ms: u64, commands: Vec<Command>) -> Vec<Outcome> {
    let index = shard.state().applied.position.map_or(0, |position| position.index) + 1;
    let (stamp, actor) = (Stamp::from_ms(time_ms), Actor { node: NodeId(1), start: StartCount(1) });
    let step = Step::Commands(Proposal { time_ms, stamp, actor, commands });
    let entry = LoggedEntry { position: LogPosition { term: 1, index }, batch: BatchNumber(10 + index), step };
    shard.apply(&[entry]).unwrap().remove(0)
}

/// Rows and state of a shard, without what is this replica's own.
#[must_use]
pub fn contents_of(shard: &Shard) -> Contents {
    let mut scan = shard.scan(ScanRange::default()).unwrap();
    let rows = scan.next(usize::MAX, usize::MAX).unwrap();
    Contents {
        rows: rows.into_iter().map(|row| format!("{:?} = {:?}", row.key, row.entry)).collect(),
        state: common(shard.state()),
    }
}

/// A shard with its log.
pub struct World<'a> {
    lab: &'a mut dyn Lab,
    /// The engine of the present life.
    pub engine: Arc<dyn Engine>,
    /// The shard of the present life.
    pub shard: Arc<Shard>,
    /// Everything that was ever logged.
    pub log: Vec<LoggedEntry>,
    /// The leader's clock.
    pub time_ms: u64,
}

impl<'a> World<'a> {
    /// A shard with the settings of [`settings`].
    pub fn new(lab: &'a mut dyn Lab) -> Self {
        World::founded(lab, settings())
    }

    /// A shard whose founding `Configure` says `settings`.
    pub fn founded(lab: &'a mut dyn Lab, settings: Settings) -> Self {
        let mut world = World::empty(lab);
        assert_eq!(world.apply(vec![Command::Configure(settings)]), [Outcome::Configured]);
        world
    }

    /// A shard to which nothing was applied.
    pub fn empty(lab: &'a mut dyn Lab) -> Self {
        let engine = lab.begin_life();
        let shard = Shard::open(engine.clone(), SPEC).unwrap();
        World { lab, engine, shard, log: Vec::new(), time_ms: BEGIN_MS }
    }

    /// Logs commands as one entry.
    pub fn log(&mut self, commands: Vec<Command>) -> LoggedEntry {
        let stamp = Stamp::from_ms(self.time_ms);
        let actor = Actor { node: NodeId(1), start: StartCount(1) };
        self.log_step(Step::Commands(Proposal { time_ms: self.time_ms, stamp, actor, commands }))
    }

    /// Logs one entry.
    pub fn log_step(&mut self, step: Step) -> LoggedEntry {
        let index = self.log.len() as u64 + 1;
        let entry = LoggedEntry { position: LogPosition { term: 1, index }, batch: BatchNumber(10 + index), step };
        self.log.push(entry.clone());
        entry
    }

    /// Logs commands as one entry and applies it.
    pub fn apply(&mut self, commands: Vec<Command>) -> Vec<Outcome> {
        let entry = self.log(commands);
        self.shard.apply(&[entry]).unwrap().remove(0)
    }

    /// Applies one write.
    pub fn write(&mut self, operations: Vec<Operation>) -> Outcome {
        self.apply(vec![Command::Write(WriteCommand { request: None, operations })]).remove(0)
    }

    /// Applies one write that must happen.
    pub fn must(&mut self, operations: Vec<Operation>) -> Vec<OperationResult> {
        match self.write(operations) {
            Outcome::Written { applied: true, repeated: false, results } => results,
            other => panic!("must happen: {other:?}"),
        }
    }

    /// Applies one write under a request id.
    pub fn request(&mut self, request: RequestId, operations: Vec<Operation>) -> Outcome {
        self.apply(vec![Command::Write(WriteCommand { request: Some(request), operations })]).remove(0)
    }

    /// A request id first sent now.
    #[must_use]
    pub fn id(&self, client: u128, sequence: u64, lowest_unanswered: u64) -> RequestId {
        RequestId { client, sequence, first_sent: Stamp::from_ms(self.time_ms), lowest_unanswered }
    }

    /// The value of a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<String> {
        let entry = self.shard.get(key.as_bytes()).unwrap().entry?;
        Some(String::from_utf8(entry.value.unwrap().to_vec()).unwrap())
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> ShardState {
        self.shard.state()
    }

    /// All changes from a seq on.
    #[must_use]
    pub fn changes(&self, from: u64) -> Vec<Change> {
        self.shard.changes(from).read(usize::MAX, usize::MAX).unwrap()
    }

    /// Loses power and opens again.
    pub fn lose_power(&mut self) {
        self.engine = self.lab.begin_life();
        self.shard = Shard::open(self.engine.clone(), SPEC).unwrap();
    }

    /// Applies what is logged and not applied, in runs of `run` entries.
    pub fn replay(&mut self, run: usize) {
        let applied = self.state().applied.position.map_or(0, |position| position.index as usize);
        for entries in self.log[applied..].chunks(run) {
            self.shard.apply(entries).unwrap();
        }
    }

    /// All rows, as one string per row, and what a replica agrees on with every other at the same position.
    #[must_use]
    pub fn contents(&self) -> Contents {
        contents_of(&self.shard)
    }
}

/// What replicas at one position agree on.
#[derive(Debug, PartialEq, Eq)]
pub struct Contents {
    rows: Vec<String>,
    state: ShardState,
}

/// Leaves out what is a replica's own.
#[must_use]
pub fn common(state: ShardState) -> ShardState {
    let applied = Applied { batch: BatchNumber(0), ..state.applied };
    ShardState { applied, change_oldest_seq: 0, change_bytes: 0, ..state }
}
