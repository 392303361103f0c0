//! `Shard::apply`, per command, in batches of 1, 16 and 256: over the engine in memory (what our own code costs) and,
//! with the feature `rocks`, over RocksDB (what a node pays).

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kvorum_api::{KeyspaceId, LogPosition, ShardId};
use kvorum_benches::{proposal, put};
use kvorum_storage::{
    Engine, Shard,
    command::{Command, Images, Settings},
    engine::mem::MemEngine,
    journal::BatchNumber,
    shard::{LoggedEntry, ShardSpec, Step},
};
use std::sync::Arc;

/// Rows the benches walk over and over: a set of keys that exist, as in a store that has run for a while.
const ROWS: u64 = 100_000;

/// Applied entries between two flushes, as the journal's limit would force them.
const ENTRIES_PER_FLUSH: u64 = 50_000;

/// Makes the entries of one log, in order.
#[derive(Default)]
struct Log {
    index: u64,
    row: u64,
}

impl Log {
    fn entry(&mut self, commands: Vec<Command>) -> LoggedEntry {
        self.index += 1;
        LoggedEntry {
            position: LogPosition { term: 1, index: self.index },
            batch: BatchNumber(self.index),
            step: Step::Commands(proposal(commands)),
        }
    }

    fn founding(&mut self) -> LoggedEntry {
        let settings = Settings {
            behaviour: 1,
            images: Images::Keys,
            request_window_ms: 600_000,
            request_outcomes_max: 1_024,
            range: kvorum_api::PlacementRange::all(),
            epoch: 1,
            has_leases: false,
        };
        self.entry(vec![Command::Configure(settings)])
    }

    fn puts(&mut self, count: u64) -> LoggedEntry {
        let first = self.row;
        self.row += count;
        self.entry((first..first + count).map(|row| put(row * 7_919 % ROWS)).collect())
    }
}

fn apply(criterion: &mut Criterion, engine_name: &str, open: &dyn Fn() -> Arc<dyn Engine>) {
    let mut group = criterion.benchmark_group(format!("shard::apply/{engine_name}"));
    for batch in [1_u64, 16, 256] {
        let engine = open();
        let spec = ShardSpec { shard: ShardId(1), keyspace: KeyspaceId(1) };
        let shard = Shard::open(Arc::clone(&engine), spec).expect("an empty engine opens");
        let mut log = Log::default();
        shard.apply(&[log.founding()]).expect("the founding entry applies");
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::from_parameter(format!("batch={batch}")), |bencher| {
            // Building the entry is the leader's work, not `apply`'s. Criterion runs a group of setups and then their
            // routines, both in order, which is the order of the log.
            bencher.iter_batched(
                || log.puts(batch),
                |entry| {
                    let index = entry.position.index;
                    let outcomes = shard.apply(&[entry]).expect("an ordinary write applies");
                    if index.is_multiple_of(ENTRIES_PER_FLUSH) {
                        engine.flush().expect("the disk holds a bench");
                    }
                    outcomes
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn over_memory(criterion: &mut Criterion) {
    apply(criterion, "mem", &|| MemEngine::fresh());
}

#[cfg(feature = "rocks")]
fn over_rocksdb(criterion: &mut Criterion) {
    use kvorum_storage::engine::rocks::{RocksEngine, RocksOptions};

    let directory = tempfile::tempdir().expect("a temporary directory");
    let number = std::cell::Cell::new(0);
    apply(criterion, "rocks", &|| {
        number.set(number.get() + 1);
        let place = directory.path().join(number.get().to_string());
        Arc::new(RocksEngine::open(&place, &RocksOptions::default()).expect("an empty directory opens"))
    });
}

#[cfg(feature = "rocks")]
criterion_group!(applies, over_memory, over_rocksdb);
#[cfg(not(feature = "rocks"))]
criterion_group!(applies, over_memory);
criterion_main!(applies);
