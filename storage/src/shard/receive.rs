//! Receive: takes the chunks of a snapshot in, verifies each, and lays the rows down as files of this node's engine.
//!
//! **Invariant.** A [`StagedSnapshot`] exists only if every chunk verified, in order, the totals agree, and the files
//! and their directory are synced (rule S4). Nothing of the shard itself has been touched by then. What the sender got
//! wrong is `Refused`; every other error is this node's own disk. The range in the head is the range in the replicated
//! state that follows.

use super::{
    chunk::{self, Body, Head, Totals},
    state::{Applied, ShardSpec, ShardState},
};
use crate::{
    codec::{Reader, Writer},
    engine::{Column, Engine, KeyRange, Stage, StageFile, StageManifest},
    error::StorageError,
    journal::BatchNumber,
    keys::{self, MetaKind},
};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, PlacementRange, ShardId};

/// The format of staged snapshots of shards that have every key: the only one of releases that knew no ranges.
const FORMAT_WHOLE: u8 = 1;
/// The format of all others.
const FORMAT_WITH_RANGE: u8 = 2;

/// Takes the chunks of a [`ShardSnapshot`](super::ShardSnapshot) in, on another node.
pub struct SnapshotReceiver {
    spec: ShardSpec,
    stage: Box<dyn Stage>,
    next_sequence: u64,
    head: Option<Head>,
    /// The range that the replicated state names.
    range_seen: Option<PlacementRange>,
    /// What may still come, in order.
    ranges: Vec<(Column, KeyRange)>,
    /// The last row that came.
    last: Option<(Column, Bytes)>,
    totals: Totals,
    is_ended: bool,
}

/// A snapshot that lies complete, verified and synced in this node's stage, ready to be installed; survives a crash
/// through [`StagedSnapshot::encode`] in the journal's `InstallBegin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedSnapshot {
    /// The shard.
    pub spec: ShardSpec,
    /// Where it stands. The batch is 0: nothing of it lies in this node's journal.
    pub applied: Applied,
    /// Which placement keys its rows have; `None` = it has no rows.
    pub range: Option<PlacementRange>,
    /// Its files.
    pub manifest: StageManifest,
}

impl SnapshotReceiver {
    pub(super) fn begin(engine: &dyn Engine, spec: ShardSpec, stage: u64) -> Result<Self, StorageError> {
        Ok(SnapshotReceiver {
            spec,
            stage: engine.stage(stage)?,
            next_sequence: 0,
            head: None,
            range_seen: None,
            ranges: Vec::new(),
            last: None,
            totals: Totals::default(),
            is_ended: false,
        })
    }

    /// Takes the next chunk in. Chunks arrive in order.
    ///
    /// # Errors
    /// `Refused` or `UnknownFormat` for a chunk that does not verify or is out of order, or the engine's.
    pub fn put_chunk(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        let chunk = chunk::decode(chunk)?;
        if chunk.spec != self.spec {
            return Err(self.refused(format!("a chunk of {:?}", chunk.spec)));
        }
        if self.is_ended || chunk.sequence != self.next_sequence {
            return Err(self.refused(format!("chunk {} is not the next one", chunk.sequence)));
        }
        match chunk.body {
            Body::Head(Head { applied, range }) if chunk.sequence == 0 => {
                self.ranges = keys::snapshot_ranges(self.spec, range.as_ref()).collect();
                self.head = Some(Head { applied: Applied { batch: BatchNumber(0), ..applied }, range });
            }
            Body::Rows(column, rows) if chunk.sequence > 0 => {
                for (key, value) in rows {
                    self.put_row(column, &key, &value)?;
                }
                self.totals.chunks += 1;
            }
            Body::End(totals) if chunk.sequence > 0 => {
                if totals != self.totals {
                    return Err(self.refused(format!("{totals:?} were sent and {:?} arrived", self.totals)));
                }
                self.is_ended = true;
            }
            Body::Head(_) | Body::Rows(..) | Body::End(_) => {
                return Err(self.refused("the head comes first, and once"));
            }
        }
        self.next_sequence += 1;
        Ok(())
    }

    /// After the last chunk: everything verified and synced.
    ///
    /// # Errors
    /// `Refused` if something is missing, or the engine's.
    pub fn finish(mut self) -> Result<StagedSnapshot, StorageError> {
        let Some(Head { applied, range }) = self.head.take().filter(|_| self.is_ended) else {
            return Err(self.refused("the last chunk has not arrived"));
        };
        if range != self.range_seen {
            return Err(self.refused(format!("the head says {range:?}, the state says {:?}", self.range_seen)));
        }
        Ok(StagedSnapshot { spec: self.spec, applied, range, manifest: self.stage.finish()? })
    }

    /// Rows lie in the ranges of this shard that a snapshot carries, one range after the other.
    fn put_row(&mut self, column: Column, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let holds = |(of, range): &(Column, KeyRange)| *of == column && range.contains(key);
        let Some(at) = self.ranges.iter().position(holds) else {
            return Err(self.refused(format!("a row of column {} that is not this shard's", column.name())));
        };
        if column == Column::Meta && !keys::is_meta_key(key) {
            return Err(self.refused("a row whose key is not one of its kind"));
        }
        self.ranges.drain(..at);
        // Checked before the stage does: to the engine it would be a mistake of this node.
        if self.last.as_ref().is_some_and(|(of, last)| *of == column && key <= last.as_ref()) {
            return Err(self.refused(format!("a row of column {} that is out of order", column.name())));
        }
        if column == Column::Meta && *key == keys::meta_key(MetaKind::State, self.spec.shard) {
            self.range_seen = ShardState::range_of(Bytes::copy_from_slice(value))?;
        }
        self.last = Some((column, Bytes::copy_from_slice(key)));
        self.totals.add_row(key, value);
        self.stage.put(column, key, value)
    }

    fn refused(&self, why: impl Into<String>) -> StorageError {
        let (shard, sequence) = (self.spec.shard, self.next_sequence);
        StorageError::Refused(format!("chunk {sequence} of a snapshot of shard {shard}: {}", why.into()))
    }
}

impl StagedSnapshot {
    /// For `InstallBegin`.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let is_whole = self.range.as_ref() == Some(&PlacementRange::all());
        let mut writer = Writer::new(if is_whole { FORMAT_WHOLE } else { FORMAT_WITH_RANGE }, 128);
        writer.u64(self.spec.shard.0);
        writer.u32(self.spec.keyspace.0);
        if !is_whole {
            writer.range(self.range.as_ref());
        }
        writer.bytes(&self.applied.encode());
        writer.u64(self.manifest.id);
        writer.count(self.manifest.files.len());
        for file in &self.manifest.files {
            writer.u8(file.column as u8);
            writer.bytes(file.name.as_bytes());
            writer.u64(file.bytes);
            writer.u32(file.crc);
        }
        writer.finish()
    }

    /// The reverse.
    ///
    /// # Errors
    /// A format this build does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let has_range = bytes.first() == Some(&FORMAT_WITH_RANGE);
        let format = if has_range { FORMAT_WITH_RANGE } else { FORMAT_WHOLE };
        let mut reader = Reader::open("staged snapshot", Bytes::copy_from_slice(bytes), format)?;
        let spec = ShardSpec { shard: ShardId(reader.u64()?), keyspace: KeyspaceId(reader.u32()?) };
        let range = if has_range { reader.range()? } else { Some(PlacementRange::all()) };
        if has_range && range.as_ref() == Some(&PlacementRange::all()) {
            return Err(reader.unknown("every key, in the layout with a range"));
        }
        let applied = Applied::decode(reader.bytes()?)?;
        let id = reader.u64()?;
        let count = reader.count(1 + 4 + 8 + 4)?;
        let files = (0..count).map(|_| file(&mut reader)).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(StagedSnapshot { spec, applied, range, manifest: StageManifest { id, files } })
    }
}

fn file(reader: &mut Reader) -> Result<StageFile, StorageError> {
    let column = chunk::column(reader)?;
    let name = String::from_utf8(reader.bytes()?.to_vec()).map_err(|_| reader.unknown("a file name"))?;
    Ok(StageFile { column, name, bytes: reader.u64()?, crc: reader.u32()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::mem::MemEngine, spoil::raw_and_spoiled};
    use kvorum_api::LogPosition;

    fn staged(range: Option<PlacementRange>) -> StagedSnapshot {
        StagedSnapshot {
            spec: ShardSpec { shard: ShardId(1), keyspace: KeyspaceId(2) },
            applied: Applied {
                position: Some(LogPosition { term: 3, index: 4 }),
                batch: BatchNumber(0),
                membership: "m".into(),
            },
            range,
            manifest: StageManifest {
                id: 5,
                files: vec![StageFile { column: Column::Meta, name: "f".into(), bytes: 6, crc: 7 }],
            },
        }
    }

    fn range() -> PlacementRange {
        PlacementRange { start: "b".into(), end: Some("d".into()) }
    }

    #[test]
    fn fuzz_any_record_is_refused_or_read_as_exactly_what_it_says() {
        let sound = [Some(range()), Some(PlacementRange::all()), None].map(|range| staged(range).encode());
        bolero::check!().with_iterations(2_000).with_max_len(120).for_each(|input: &[u8]| {
            for bytes in sound.iter().flat_map(|sound| raw_and_spoiled(sound, input)) {
                if let Ok(read) = StagedSnapshot::decode(&bytes) {
                    assert_eq!(read.encode(), bytes);
                }
            }
        });
    }

    /// Such a row would make every later start panic: the expiry index is read at once.
    #[test]
    fn a_row_whose_key_is_not_one_of_its_kind_is_refused() {
        let spec = ShardSpec { shard: ShardId(1), keyspace: KeyspaceId(2) };
        for (more, is_refused) in [(7, true), (8, false)] {
            let key = [&keys::meta_key(MetaKind::Expiry, spec.shard)[..], &[0; 8][..more]].concat();
            let mut rows = chunk::RowsWriter::new(spec, 1, Column::Meta, 100);
            rows.put(&key, keys::MARKER);
            let head = Head { applied: Applied::default(), range: None };
            let engine = MemEngine::fresh();
            let mut receiver = SnapshotReceiver::begin(&*engine, spec, 1).unwrap();
            receiver.put_chunk(&chunk::encode_head(spec, 0, &head)).unwrap();
            let taken = receiver.put_chunk(&rows.finish());
            assert_eq!(matches!(taken, Err(StorageError::Refused(_))), is_refused, "{taken:?}");
        }
    }

    #[test]
    fn format_1_is_what_it_was() {
        #[rustfmt::skip]
        let fixture: &[u8] = &[
            1,  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 2,
            0, 0, 0, 27,  1, 1,  0, 0, 0, 0, 0, 0, 0, 3,  0, 0, 0, 0, 0, 0, 0, 4,  0, 0, 0, 0, 0, 0, 0, 0,  b'm',
            0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 1,
            3,  0, 0, 0, 1, b'f',  0, 0, 0, 0, 0, 0, 0, 6,  0, 0, 0, 7,
        ];
        let whole = staged(Some(PlacementRange::all()));
        assert_eq!(whole.encode(), fixture);
        assert_eq!(StagedSnapshot::decode(fixture).unwrap(), whole);
    }

    #[test]
    fn format_2_is_what_it_was() {
        #[rustfmt::skip]
        let (head, range_of, tail): (&[u8], &[u8], &[u8]) = (
            &[2,  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 2],
            &[3,  0, 0, 0, 1, b'b',  0, 0, 0, 1, b'd'],
            &[
                0, 0, 0, 27,  1, 1,  0, 0, 0, 0, 0, 0, 0, 3,  0, 0, 0, 0, 0, 0, 0, 4,  0, 0, 0, 0, 0, 0, 0, 0,  b'm',
                0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 1,
                3,  0, 0, 0, 1, b'f',  0, 0, 0, 0, 0, 0, 0, 6,  0, 0, 0, 7,
            ],
        );
        for (range, range_of) in [(Some(range()), range_of), (None, &[0])] {
            let fixture = [head, range_of, tail].concat();
            assert_eq!(staged(range.clone()).encode(), fixture);
            assert_eq!(StagedSnapshot::decode(&fixture).unwrap(), staged(range));
        }
        let whole = [head, &[1, 0, 0, 0, 0], tail].concat();
        assert!(StagedSnapshot::decode(&whole).is_err(), "every key is written in format 1");
    }
}
