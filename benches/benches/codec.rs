//! The codecs on the write path: an entry as it is stored, a proposal as it travels and lies in the journal.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kvorum_api::Version;
use kvorum_benches::{TIME_MS, VALUE_BYTES, payload, proposal, put};
use kvorum_storage::{
    Entry,
    codec::{decode_proposal, encode_proposal},
};
use std::hint::black_box;

fn entry(criterion: &mut Criterion) {
    let entry = Entry { version: Version::default(), value: Some(payload(VALUE_BYTES, 1)), expires_ms: Some(TIME_MS) };
    let bytes = entry.encode();
    let mut group = criterion.benchmark_group("codec::entry");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(&entry).encode()));
    group.bench_function("decode", |bencher| bencher.iter(|| Entry::decode(black_box(bytes.clone()))));
    group.finish();
}

fn proposals(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec::proposal");
    for commands in [1_u64, 64] {
        let proposal = proposal((0..commands).map(put).collect());
        let bytes = encode_proposal(&proposal);
        group.throughput(Throughput::Elements(commands));
        group.bench_function(BenchmarkId::new("encode", format!("commands={commands}")), |bencher| {
            bencher.iter(|| encode_proposal(black_box(&proposal)));
        });
        group.bench_function(BenchmarkId::new("decode", format!("commands={commands}")), |bencher| {
            bencher.iter(|| decode_proposal(black_box(bytes.clone())));
        });
    }
    group.finish();
}

criterion_group!(codecs, entry, proposals);
criterion_main!(codecs);
