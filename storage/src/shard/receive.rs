//! Receive: takes the chunks of a snapshot in, verifies each, and lays the rows down as files of this node's engine.
//!
//! **Invariant.** A [`StagedSnapshot`] exists only if every chunk verified, in order, the totals agree, and the files
//! and their directory are synced (rule S4). Nothing of the shard itself has been touched by then. What the sender got
//! wrong is `Refused`; every other error is this node's own disk.

use super::{
    chunk::{self, Body, Totals},
    state::{Applied, ShardSpec},
};
use crate::{
    codec::{Reader, Writer},
    engine::{Column, Engine, KeyRange, Stage, StageFile, StageManifest},
    error::StorageError,
    journal::BatchNumber,
    keys,
};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, ShardId};

/// The format of staged snapshots this build writes.
const FORMAT: u8 = 1;

/// Takes the chunks of a [`ShardSnapshot`](super::ShardSnapshot) in, on another node.
pub struct SnapshotReceiver {
    spec: ShardSpec,
    stage: Box<dyn Stage>,
    next_sequence: u64,
    applied: Option<Applied>,
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
    /// Its files.
    pub manifest: StageManifest,
}

impl SnapshotReceiver {
    pub(super) fn begin(engine: &dyn Engine, spec: ShardSpec, stage: u64) -> Result<Self, StorageError> {
        Ok(SnapshotReceiver {
            spec,
            stage: engine.stage(stage)?,
            next_sequence: 0,
            applied: None,
            ranges: keys::snapshot_ranges(spec).collect(),
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
            Body::Head(applied) if chunk.sequence == 0 => {
                self.applied = Some(Applied { batch: BatchNumber(0), ..applied });
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
        let Some(applied) = self.applied.take().filter(|_| self.is_ended) else {
            return Err(self.refused("the last chunk has not arrived"));
        };
        Ok(StagedSnapshot { spec: self.spec, applied, manifest: self.stage.finish()? })
    }

    /// Rows lie in the ranges of this shard that a snapshot carries, one range after the other.
    fn put_row(&mut self, column: Column, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let holds = |(of, range): &(Column, KeyRange)| *of == column && range.contains(key);
        let Some(at) = self.ranges.iter().position(holds) else {
            return Err(self.refused(format!("a row of column {} that is not this shard's", column.name())));
        };
        self.ranges.drain(..at);
        // Checked before the stage does: to the engine it would be a mistake of this node.
        if self.last.as_ref().is_some_and(|(of, last)| *of == column && key <= last.as_ref()) {
            return Err(self.refused(format!("a row of column {} that is out of order", column.name())));
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
        let mut writer = Writer::new(FORMAT, 128);
        writer.u64(self.spec.shard.0);
        writer.u32(self.spec.keyspace.0);
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
        let mut reader = Reader::open("staged snapshot", Bytes::copy_from_slice(bytes), FORMAT)?;
        let spec = ShardSpec { shard: ShardId(reader.u64()?), keyspace: KeyspaceId(reader.u32()?) };
        let applied = Applied::decode(reader.bytes()?)?;
        let id = reader.u64()?;
        let count = reader.count(1 + 4 + 8 + 4)?;
        let files = (0..count).map(|_| file(&mut reader)).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(StagedSnapshot { spec, applied, manifest: StageManifest { id, files } })
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
    use kvorum_api::LogPosition;
    use proptest::prelude::*;

    fn staged() -> StagedSnapshot {
        StagedSnapshot {
            spec: ShardSpec { shard: ShardId(1), keyspace: KeyspaceId(2) },
            applied: Applied {
                position: Some(LogPosition { term: 3, index: 4 }),
                batch: BatchNumber(0),
                membership: "m".into(),
            },
            manifest: StageManifest {
                id: 5,
                files: vec![StageFile { column: Column::Meta, name: "f".into(), bytes: 6, crc: 7 }],
            },
        }
    }

    proptest! {
        #[test]
        fn a_damaged_record_never_panics(at in 0usize..90, bit in 0..8u32, cut in 0usize..90) {
            let mut bytes = staged().encode().to_vec();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
            bytes.truncate(cut);
            if let Ok(read) = StagedSnapshot::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
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
        assert_eq!(staged().encode(), fixture);
        assert_eq!(StagedSnapshot::decode(fixture).unwrap(), staged());
    }
}
