//! # Spoiled snapshots: what a receiver makes of chunks that no honest sender makes
//!
//! **Invariant.** A snapshot with spoiled contents under sound checksums is refused, or taken in whole; a shard that
//! took it in answers, and never panics over a row it holds.

use super::{
    Shard,
    chunk::{Head, RowsWriter, Totals, encode_end, encode_head},
    state::{Applied, ShardState},
    suite::{BEGIN_MS, SPEC, apply_next, settings},
};
use crate::{
    command::{Command, Condition, Operation, RequestId, WriteCommand},
    engine::{Column, Engine, mem::MemEngine},
    error::StorageError,
    journal::BatchNumber,
    keys::{self, MetaKind},
    shard::ScanRange,
    spoil::spoiled,
};
use bytes::Bytes;
use kvorum_api::Stamp;
use std::sync::Arc;

fn chunks_of(shard: &Shard) -> Vec<Bytes> {
    let mut snapshot = shard.snapshot().unwrap();
    std::iter::from_fn(|| snapshot.next_chunk(200).unwrap()).collect()
}

/// The chunks of a shard with something of everything.
fn chunks() -> Vec<Bytes> {
    let shard = Shard::open(MemEngine::fresh(), SPEC).unwrap();
    apply_next(&shard, BEGIN_MS, vec![Command::Configure(settings())]);
    for number in 0..6_u64 {
        let put = Operation::Put {
            key: number.to_string().into(),
            value: "value".into(),
            ttl_ms: (number % 2 == 0).then_some(100),
            condition: Condition::Always,
            return_previous: true,
        };
        let first_sent = Stamp(BEGIN_MS << 16);
        let request = RequestId { client: number.into(), sequence: 2, first_sent, lowest_unanswered: 1 };
        let write = WriteCommand { request: Some(request), operations: vec![put] };
        apply_next(&shard, BEGIN_MS, vec![Command::Write(write)]);
    }
    chunks_of(&shard)
}

/// The chunk with other contents, under a checksum that fits them.
fn resealed(chunk: &[u8], script: &[u8]) -> Vec<u8> {
    let content = spoiled(&chunk[..chunk.len() - 4], script);
    [&content[..], &crc32fast::hash(&content).to_be_bytes()].concat()
}

/// Takes the chunks in and looks at everything. The engine is this node's own: only the chunks can be wrong.
fn take_in(chunks: &[Vec<u8>]) -> Result<(), StorageError> {
    let engine = MemEngine::fresh();
    let shard = Shard::open(engine.clone(), SPEC)?;
    let mut receiver = shard.receive_snapshot(1)?;
    chunks.iter().try_for_each(|chunk| receiver.put_chunk(chunk))?;
    shard.install(&receiver.finish()?)?;
    assert_eq!(shard.state().applied.batch, BatchNumber(0));
    let again = Shard::open(engine as Arc<dyn Engine>, SPEC)?;
    again.scan(ScanRange::default())?.next(usize::MAX, usize::MAX)?;
    chunks_of(&again);
    Ok(())
}

/// Chunks of one row of each kind, each with a key of its kind's prefix and this tail.
fn chunks_with(tails: [&[u8]; 4]) -> Vec<Vec<u8>> {
    let mut rows = RowsWriter::new(SPEC, 1, Column::Meta, 500);
    let mut totals = Totals { chunks: 1, ..Totals::default() };
    let mut put = |key: &[u8], value: &[u8]| {
        rows.put(key, value);
        totals.add_row(key, value);
    };
    put(&keys::meta_key(MetaKind::State, SPEC.shard), &ShardState::default().encode_replicated());
    let kinds = [MetaKind::Expiry, MetaKind::Client, MetaKind::Outcome, MetaKind::ClientAge];
    for (kind, tail) in kinds.into_iter().zip(tails) {
        put(&[&keys::meta_key(kind, SPEC.shard), tail].concat(), keys::MARKER);
    }
    let head = Head { applied: Applied::default(), range: None };
    [encode_head(SPEC, 0, &head), rows.finish(), encode_end(SPEC, 2, totals)].map(|chunk| chunk.to_vec()).into()
}

#[test]
fn fuzz_rows_with_any_keys_are_refused_or_taken_in_whole() {
    assert_eq!(take_in(&chunks_with([&[0; 9], &[0; 16], &[0; 24], &[0; 24]])), Ok(()));
    bolero::check!().with_iterations(1_500).with_max_len(120).for_each(|input: &[u8]| {
        let [lengths @ .., _] = input.first_chunk::<5>().unwrap_or(&[0; 5]);
        let mut rest = input.get(5..).unwrap_or_default();
        let tails = lengths.map(|length| {
            let (tail, after) = rest.split_at(rest.len().min(usize::from(length) % 32));
            rest = after;
            tail
        });
        let taken = take_in(&chunks_with(tails));
        assert!(matches!(taken, Ok(()) | Err(StorageError::Refused(_))), "{taken:?}");
    });
}

#[test]
fn fuzz_spoiled_chunks_are_refused_or_taken_in_whole() {
    let sound = chunks();
    assert!(sound.len() > 4, "{} chunks", sound.len());
    let whole: Vec<Vec<u8>> = sound.iter().map(|chunk| chunk.to_vec()).collect();
    take_in(&whole).unwrap();
    bolero::check!().with_iterations(1_500).with_max_len(14).for_each(|input: &[u8]| {
        let [which, script @ ..] = input else { return };
        let mut chunks = whole.clone();
        let at = usize::from(*which) % chunks.len();
        chunks[at] = resealed(&chunks[at], script);
        match take_in(&chunks) {
            Ok(()) | Err(StorageError::Refused(_) | StorageError::UnknownFormat { .. }) => {}
            Err(other) => panic!("{other} blames this node"),
        }
    });
}
