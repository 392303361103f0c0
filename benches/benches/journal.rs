//! Appends of 1, 16 and 64 records of 300 bytes with sync: our journal, and, with the feature `rocks`, RocksDB's own
//! write-ahead log given the same records. Both write below `TMPDIR`: point it at the disk to be measured.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kvorum_api::GroupId;
use kvorum_benches::{RECORD_BYTES, payload};
use kvorum_storage::{
    Journal,
    journal::{Completion, FileJournal, JournalOptions, LogRecord, Mark},
};
use std::sync::mpsc;

const GROUP: GroupId = GroupId(1);

const RECORDS: [u64; 3] = [1, 16, 64];

/// Entries after which the log is purged, as a node does once they are flushed: the journal then recycles its segments,
/// and the bench measures a journal that has run for a while.
const ENTRIES_PER_PURGE: u64 = 65_536;

fn ours(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = FileJournal::open(directory.path(), JournalOptions::default()).expect("an empty directory opens");
    let mut group = criterion.benchmark_group("journal::append");
    let mut next_index = 1;
    for records in RECORDS {
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(format!("records={records}")), |bencher| {
            bencher.iter(|| {
                let indexes = next_index..next_index + records;
                next_index += records;
                append(&*journal, indexes);
            });
        });
    }
    group.finish();
    journal.stop();
}

/// Appends and waits until it is durable.
fn append(journal: &dyn Journal, indexes: std::ops::Range<u64>) {
    if indexes.start / ENTRIES_PER_PURGE != indexes.end / ENTRIES_PER_PURGE {
        let mark = Mark::Purged { index: indexes.start - 1, log_id: payload(16, indexes.start) };
        journal.mark(GROUP, mark, Completion::None).expect("the disk holds a bench");
    }
    let entries = indexes.map(|index| LogRecord { index, term: 1, payload: payload(RECORD_BYTES, index) }).collect();
    let (tell, told) = mpsc::sync_channel(1);
    let done = Completion::Signal(Box::new(move |result| {
        tell.send(result).expect("the bench waits");
    }));
    journal.append(GROUP, entries, done).expect("the disk holds a bench");
    told.recv().expect("the journal answers").expect("the disk holds a bench");
}

#[cfg(feature = "rocks")]
fn rocksdb_log(criterion: &mut Criterion) {
    use rocksdb::{DB, Options, WriteBatch, WriteOptions};

    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut options = Options::default();
    options.create_if_missing(true);
    let database = DB::open(&options, directory.path()).expect("an empty directory opens");
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    let mut group = criterion.benchmark_group("rocksdb_log::append");
    let mut next_index = 1_u64;
    for records in RECORDS {
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(format!("records={records}")), |bencher| {
            bencher.iter(|| {
                let mut batch = WriteBatch::default();
                for index in next_index..next_index + records {
                    let key = [GROUP.0.to_be_bytes(), index.to_be_bytes()].concat();
                    batch.put(key, payload(RECORD_BYTES, index));
                }
                next_index += records;
                database.write_opt(batch, &synced).expect("the disk holds a bench");
            });
        });
    }
    group.finish();
}

#[cfg(feature = "rocks")]
criterion_group!(appends, ours, rocksdb_log);
#[cfg(not(feature = "rocks"))]
criterion_group!(appends, ours);
criterion_main!(appends);
