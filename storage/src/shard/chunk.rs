//! Chunks: how a snapshot travels.
//!
//! ```text
//!   │ 1 │ kind │ sequence │ shard │ keyspace │ body …                           │ CRC-32 of everything before │
//!            1 head   where the snapshot stands, of a shard that has every key
//!            2 rows   column │ key, value │ key, value │ …
//!            3 end    chunks │ rows │ bytes of rows
//!            4 head   range? │ where the snapshot stands
//! ```
//!
//! **Invariant.** A chunk says by itself what it is, whose, and which in order, and proves that it arrived whole. A
//! head says whose rows follow before the first of them does; a shard that has every key says it as releases did that
//! knew no ranges.

use super::state::{Applied, ShardSpec};
use crate::{
    codec::{Reader, Writer},
    engine::Column,
    error::StorageError,
};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, PlacementRange, ShardId};

/// The format of chunks this build sends.
const FORMAT: u8 = 1;

const HEAD: u8 = 1;
const ROWS: u8 = 2;
const END: u8 = 3;
const HEAD_WITH_RANGE: u8 = 4;

const CRC_BYTES: usize = 4;

/// What a whole snapshot consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Chunks of rows.
    pub(super) chunks: u64,
    /// Rows.
    pub(super) rows: u64,
    /// Bytes of their keys and values.
    pub(super) bytes: u64,
}

impl Totals {
    pub(super) fn add_row(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.bytes += (key.len() + value.len()) as u64;
    }
}

/// One chunk, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) spec: ShardSpec,
    /// Its place in the order, from 0.
    pub(super) sequence: u64,
    pub(super) body: Body,
}

/// What a chunk carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    Head(Head),
    Rows(Column, Vec<(Bytes, Bytes)>),
    End(Totals),
}

/// What comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Where the snapshot stands.
    pub(super) applied: Applied,
    /// Which placement keys its rows have; `None` = it has no rows.
    pub(super) range: Option<PlacementRange>,
}

/// A chunk of rows being filled.
pub(super) struct RowsWriter(Writer);

impl RowsWriter {
    pub(super) fn new(spec: ShardSpec, sequence: u64, column: Column, capacity: usize) -> Self {
        let mut writer = open(spec, sequence, ROWS, capacity);
        writer.u8(column as u8);
        RowsWriter(writer)
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.bytes(key);
        self.0.bytes(value);
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.as_slice().len()
    }

    pub(super) fn finish(self) -> Bytes {
        seal(self.0)
    }
}

pub(super) fn encode_head(spec: ShardSpec, sequence: u64, head: &Head) -> Bytes {
    let Head { applied, range } = head;
    let is_whole = range.as_ref() == Some(&PlacementRange::all());
    let kind = if is_whole { HEAD } else { HEAD_WITH_RANGE };
    let mut writer = open(spec, sequence, kind, 128 + applied.membership.len());
    if !is_whole {
        writer.range(range.as_ref());
    }
    writer.rest(&applied.encode());
    seal(writer)
}

pub(super) fn encode_end(spec: ShardSpec, sequence: u64, totals: Totals) -> Bytes {
    let mut writer = open(spec, sequence, END, 64);
    writer.u64(totals.chunks);
    writer.u64(totals.rows);
    writer.u64(totals.bytes);
    seal(writer)
}

fn open(spec: ShardSpec, sequence: u64, kind: u8, capacity: usize) -> Writer {
    let mut writer = Writer::new(FORMAT, capacity);
    writer.u8(kind);
    writer.u64(sequence);
    writer.u64(spec.shard.0);
    writer.u32(spec.keyspace.0);
    writer
}

fn seal(mut writer: Writer) -> Bytes {
    let crc = crc32fast::hash(writer.as_slice());
    writer.u32(crc);
    writer.finish()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Chunk, StorageError> {
    let Some((content, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else {
        return Err(damaged(bytes.len(), "is too short for its checksum"));
    };
    if crc32fast::hash(content) != u32::from_be_bytes(*crc) {
        return Err(damaged(bytes.len(), "does not have the checksum it names"));
    }
    let mut reader = Reader::open("snapshot chunk", Bytes::copy_from_slice(content), FORMAT)?;
    let kind = reader.u8()?;
    let sequence = reader.u64()?;
    let spec = ShardSpec { shard: ShardId(reader.u64()?), keyspace: KeyspaceId(reader.u32()?) };
    let body = match kind {
        HEAD => Body::Head(Head { applied: Applied::decode(reader.rest())?, range: Some(PlacementRange::all()) }),
        HEAD_WITH_RANGE => {
            let range = reader.range()?;
            Body::Head(Head { applied: Applied::decode(reader.rest())?, range })
        }
        ROWS => {
            let column = column(&mut reader)?;
            let mut rows = Vec::new();
            while !reader.is_at_end() {
                rows.push((reader.bytes()?, reader.bytes()?));
            }
            Body::Rows(column, rows)
        }
        END => Body::End(Totals { chunks: reader.u64()?, rows: reader.u64()?, bytes: reader.u64()? }),
        other => return Err(reader.unknown(format!("kind {other}"))),
    };
    reader.end()?;
    Ok(Chunk { spec, sequence, body })
}

/// Reads the number of a column.
pub(super) fn column(reader: &mut Reader) -> Result<Column, StorageError> {
    let number = reader.u8()?;
    let known = Column::ALL.into_iter().find(|column| *column as u8 == number);
    known.ok_or_else(|| reader.unknown(format!("column {number}")))
}

fn damaged(bytes: usize, why: &str) -> StorageError {
    StorageError::Refused(format!("a snapshot chunk of {bytes} bytes {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{journal::BatchNumber, spoil::raw_and_spoiled};
    use kvorum_api::LogPosition;
    use proptest::prelude::*;

    const SPEC: ShardSpec = ShardSpec { shard: ShardId(1), keyspace: KeyspaceId(2) };

    fn rows_chunk(rows: &[(Vec<u8>, Vec<u8>)]) -> Bytes {
        let mut writer = RowsWriter::new(SPEC, 3, Column::Meta, 100);
        for (key, value) in rows {
            writer.put(key, value);
        }
        writer.finish()
    }

    proptest! {
        #[test]
        fn rows_read_back_and_no_flipped_bit_passes(
            rows in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..9), proptest::collection::vec(any::<u8>(), 0..9)), 0..5
            ),
            at in any::<prop::sample::Index>(),
            bit in 0..8u32,
        ) {
            let bytes = rows_chunk(&rows);
            let chunk = decode(&bytes).unwrap();
            let rows: Vec<_> = rows.into_iter().map(|(key, value)| (Bytes::from(key), Bytes::from(value))).collect();
            prop_assert_eq!(chunk, Chunk { spec: SPEC, sequence: 3, body: Body::Rows(Column::Meta, rows) });
            let mut flipped = bytes.to_vec();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(decode(&flipped).is_err());
            prop_assert!(decode(&bytes[..at.index(bytes.len())]).is_err());
        }
    }

    /// What no honest sender makes, but with a checksum that holds.
    #[test]
    fn fuzz_any_sealed_bytes_are_refused_without_a_panic() {
        let applied = Applied { position: Some(LogPosition { term: 4, index: 5 }), ..Applied::default() };
        let range = Some(PlacementRange { start: "b".into(), end: Some("d".into()) });
        let sound = [
            encode_head(SPEC, 0, &Head { applied, range }),
            rows_chunk(&[(b"key".to_vec(), b"value".to_vec()), (b"l".to_vec(), Vec::new())]),
            encode_end(SPEC, 4, Totals { chunks: 1, rows: 2, bytes: 9 }),
        ];
        bolero::check!().with_iterations(3_000).with_max_len(100).for_each(|input: &[u8]| {
            assert!(decode(input).is_err(), "a checksum does not fit by chance");
            for chunk in &sound {
                for content in raw_and_spoiled(&chunk[..chunk.len() - CRC_BYTES], input) {
                    let bytes = [&content[..], &crc32fast::hash(&content).to_be_bytes()].concat();
                    if let Ok(Chunk { body: Body::Rows(_, rows), .. }) = decode(&bytes) {
                        assert!(rows.len() <= content.len());
                    }
                }
            }
        });
    }

    #[test]
    fn format_1_is_what_it_was() {
        let position = Some(LogPosition { term: 4, index: 5 });
        let applied = Applied { position, batch: BatchNumber(6), membership: "m".into() };
        #[rustfmt::skip]
        let head: &[u8] = &[
            1, 1,  0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 2,
            1, 1,  0, 0, 0, 0, 0, 0, 0, 4,  0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 0, 0, 0, 0, 6,  b'm',
        ];
        #[rustfmt::skip]
        let rows: &[u8] = &[
            1, 2,  0, 0, 0, 0, 0, 0, 0, 3,  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 2,
            3,  0, 0, 0, 1, b'k',  0, 0, 0, 1, b'v',
        ];
        #[rustfmt::skip]
        let end: &[u8] = &[
            1, 3,  0, 0, 0, 0, 0, 0, 0, 4,  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 2,
            0, 0, 0, 0, 0, 0, 0, 7,  0, 0, 0, 0, 0, 0, 0, 8,  0, 0, 0, 0, 0, 0, 0, 9,
        ];
        #[rustfmt::skip]
        let ranged: &[u8] = &[
            1, 4,  0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 2,
            3,  0, 0, 0, 1, b'b',  0, 0, 0, 1, b'd',
            1, 1,  0, 0, 0, 0, 0, 0, 0, 4,  0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 0, 0, 0, 0, 6,  b'm',
        ];
        #[rustfmt::skip]
        let pristine: &[u8] = &[
            1, 4,  0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 2,
            0,
            1, 1,  0, 0, 0, 0, 0, 0, 0, 4,  0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 0, 0, 0, 0, 6,  b'm',
        ];
        let range = PlacementRange { start: "b".into(), end: Some("d".into()) };
        let encoded = [
            encode_head(SPEC, 0, &Head { applied: applied.clone(), range: Some(PlacementRange::all()) }),
            rows_chunk(&[(b"k".to_vec(), b"v".to_vec())]),
            encode_end(SPEC, 4, Totals { chunks: 7, rows: 8, bytes: 9 }),
            encode_head(SPEC, 0, &Head { applied: applied.clone(), range: Some(range) }),
            encode_head(SPEC, 0, &Head { applied, range: None }),
        ];
        for (encoded, fixture) in encoded.iter().zip([head, rows, end, ranged, pristine]) {
            let (content, crc) = encoded.split_last_chunk::<CRC_BYTES>().unwrap();
            assert_eq!(content, fixture);
            assert_eq!(u32::from_be_bytes(*crc), crc32fast::hash(fixture));
            if let Body::Head(head) = decode(encoded).unwrap().body {
                assert_eq!(&encode_head(SPEC, 0, &head), encoded);
            }
        }
    }
}
