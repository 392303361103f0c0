//! Rows and whole maps as bytes.
//!
//! ```text
//!   key     n │ node (8)      k │ keyspace (4)      s │ shard (8)      m      i
//!   node     │ 1 │ client │ peer │ zone │ directory (16)
//!   keyspace │ 1 │ name │ mode │ sharding │ replicas (4) │ level (1), ms (8) │ limits (4 × 8) │ images │ flags
//!            │ created (8)
//!   shard    │ 1 │ keyspace (4) │ flags │ start │ end? │ epoch (8) │ incarnation (4) │ founders │ leader wish (8)
//!            │ stage
//!   metadata │ 1 │ founders
//!   counters │ 1 │ serial (8) │ node (8) │ keyspace (4) │ shard (8) │ replica (8)
//!   map      │ 1 │ revision (8) │ count (4) │ (key, value) …
//! ```
//!
//! Byte strings carry their length (4) in front; founders are a count (4) and pairs of replica (8) and node (8).
//!
//! **Invariant.** Decoding takes any bytes without a panic. Numbers are append-only. A key of another letter was
//! written by a newer build and is no part of this build's map; a value of another format is refused, because half a
//! map is none.

use super::map::{ClusterMap, Counters, KeyspaceRow, NodeRow, Row, RowEdit, RowKey, ShardRow, ShardStage};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, Limits, Mode, NodeId, PlacementRange, ReadLevel, ReplicaId, ShardId, Sharding};
use kvorum_storage::{
    StorageError,
    codec::{Reader, Writer},
    command::Images,
};
use std::time::Duration;

/// The format of rows and maps this build writes.
const FORMAT: u8 = 1;

const HAS_END: u8 = 1;
const HAS_LEASES: u8 = 1;

impl RowKey {
    /// The key in group 0.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let mut key = Vec::with_capacity(9);
        match self {
            RowKey::Node(node) => {
                key.push(b'n');
                key.extend_from_slice(&node.0.to_be_bytes());
            }
            RowKey::Keyspace(keyspace) => {
                key.push(b'k');
                key.extend_from_slice(&keyspace.0.to_be_bytes());
            }
            RowKey::Shard(shard) => {
                key.push(b's');
                key.extend_from_slice(&shard.0.to_be_bytes());
            }
            RowKey::Metadata => key.push(b'm'),
            RowKey::Counters => key.push(b'i'),
        }
        Bytes::from(key)
    }

    /// The reverse; `None` for a row that this build does not know.
    #[must_use]
    pub fn decode(key: &[u8]) -> Option<Self> {
        let (kind, id) = key.split_first()?;
        let word = || id.try_into().ok().map(u64::from_be_bytes);
        match kind {
            b'n' => word().map(|node| RowKey::Node(NodeId(node))),
            b'k' => id.try_into().ok().map(|id| RowKey::Keyspace(KeyspaceId(u32::from_be_bytes(id)))),
            b's' => word().map(|shard| RowKey::Shard(ShardId(shard))),
            b'm' if id.is_empty() => Some(RowKey::Metadata),
            b'i' if id.is_empty() => Some(RowKey::Counters),
            _ => None,
        }
    }
}

impl Row {
    /// The value in group 0.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT, 96);
        match self {
            Row::Node(row) => {
                for text in [&row.client, &row.peer, &row.zone] {
                    writer.bytes(text.as_bytes());
                }
                writer.u128(row.directory);
            }
            Row::Keyspace(row) => put_keyspace(&mut writer, row),
            Row::Shard(row) => put_shard(&mut writer, row),
            Row::Metadata(replicas) => put_replicas(&mut writer, replicas),
            Row::Counters(counters) => {
                writer.u64(counters.serial);
                writer.u64(counters.next_node.0);
                writer.u32(counters.next_keyspace.0);
                writer.u64(counters.next_shard.0);
                writer.u64(counters.next_replica.0);
            }
        }
        writer.finish()
    }

    /// The reverse.
    ///
    /// # Errors
    /// A format this build does not know, or bytes that are none.
    pub fn decode(key: RowKey, value: Bytes) -> Result<Self, StorageError> {
        let mut reader = Reader::open("metadata row", value, FORMAT)?;
        let row = match key {
            RowKey::Node(node) => Row::Node(NodeRow {
                node,
                client: text(&mut reader)?,
                peer: text(&mut reader)?,
                zone: text(&mut reader)?,
                directory: reader.u128()?,
            }),
            RowKey::Keyspace(id) => Row::Keyspace(keyspace(&mut reader, id)?),
            RowKey::Shard(id) => Row::Shard(shard(&mut reader, id)?),
            RowKey::Metadata => Row::Metadata(replicas(&mut reader)?),
            RowKey::Counters => Row::Counters(Counters {
                serial: reader.u64()?,
                next_node: NodeId(reader.u64()?),
                next_keyspace: KeyspaceId(reader.u32()?),
                next_shard: ShardId(reader.u64()?),
                next_replica: ReplicaId(reader.u64()?),
            }),
        };
        reader.end()?;
        Ok(row)
    }
}

impl RowEdit {
    /// What a change of group 0 does to the map; `None` for a row that this build does not know.
    ///
    /// # Errors
    /// As [`Row::decode`].
    pub fn of_change(key: &[u8], value: Option<Bytes>) -> Result<Option<Self>, StorageError> {
        let Some(key) = RowKey::decode(key) else { return Ok(None) };
        match value {
            Some(value) => Ok(Some(RowEdit::Put(Row::decode(key, value)?))),
            None => Ok(Some(RowEdit::Remove(key))),
        }
    }
}

impl ClusterMap {
    /// Its bytes: what a node keeps beside its identity, and what travels to one that was away for long.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let rows: Vec<Row> = self.rows().collect();
        let mut writer = Writer::new(FORMAT, 16 + rows.len() * 112);
        writer.u64(self.revision);
        writer.count(rows.len());
        for row in rows {
            writer.bytes(&row.key().encode());
            writer.bytes(&row.encode());
        }
        writer.finish()
    }

    /// The reverse.
    ///
    /// # Errors
    /// As [`Row::decode`].
    pub fn decode(bytes: Bytes) -> Result<Self, StorageError> {
        let mut reader = Reader::open("cluster map", bytes, FORMAT)?;
        let mut map = ClusterMap { revision: reader.u64()?, ..ClusterMap::default() };
        for _ in 0..reader.count(8)? {
            let (key, value) = (reader.bytes()?, reader.bytes()?);
            if let Some(edit) = RowEdit::of_change(&key, Some(value))? {
                map.apply(edit);
            }
        }
        reader.end()?;
        Ok(map)
    }
}

fn put_keyspace(writer: &mut Writer, row: &KeyspaceRow) {
    writer.bytes(row.name.as_bytes());
    writer.u8(mode_number(row.mode));
    writer.u8(sharding_number(row.sharding));
    writer.u32(row.replicas);
    put_level(writer, row.read_level);
    let limits = row.limits;
    let sizes = [limits.key_bytes_max, limits.value_bytes_max, limits.batch_operations_max, limits.batch_bytes_max];
    sizes.into_iter().for_each(|size| writer.u64(size as u64));
    writer.u8(row.images as u8);
    writer.u8(if row.has_leases { HAS_LEASES } else { 0 });
    writer.u64(row.created_ms);
}

fn keyspace(reader: &mut Reader, id: KeyspaceId) -> Result<KeyspaceRow, StorageError> {
    Ok(KeyspaceRow {
        id,
        name: text(reader)?,
        mode: mode(reader)?,
        sharding: sharding(reader)?,
        replicas: reader.u32()?,
        read_level: level(reader)?,
        limits: Limits {
            key_bytes_max: size(reader)?,
            value_bytes_max: size(reader)?,
            batch_operations_max: size(reader)?,
            batch_bytes_max: size(reader)?,
        },
        images: images(reader)?,
        has_leases: reader.flags(HAS_LEASES)? & HAS_LEASES != 0,
        created_ms: reader.u64()?,
    })
}

fn put_shard(writer: &mut Writer, row: &ShardRow) {
    writer.u32(row.keyspace.0);
    writer.u8(if row.range.end.is_some() { HAS_END } else { 0 });
    writer.bytes(&row.range.start);
    row.range.end.iter().for_each(|end| writer.bytes(end));
    writer.u64(row.epoch);
    writer.u32(row.incarnation);
    put_replicas(writer, &row.founders);
    writer.u64(row.leader_wish.0);
    writer.u8(match row.stage {
        ShardStage::Creating => 1,
        ShardStage::Ready => 2,
    });
}

fn shard(reader: &mut Reader, id: ShardId) -> Result<ShardRow, StorageError> {
    let keyspace = KeyspaceId(reader.u32()?);
    let has_end = reader.flags(HAS_END)? & HAS_END != 0;
    // Copied: a row outlives the portion that brought it.
    let start = Bytes::copy_from_slice(&reader.bytes()?);
    let end = if has_end { Some(Bytes::copy_from_slice(&reader.bytes()?)) } else { None };
    Ok(ShardRow {
        shard: id,
        keyspace,
        range: PlacementRange { start, end },
        epoch: reader.u64()?,
        incarnation: reader.u32()?,
        founders: replicas(reader)?,
        leader_wish: NodeId(reader.u64()?),
        stage: match reader.u8()? {
            1 => ShardStage::Creating,
            2 => ShardStage::Ready,
            other => return Err(reader.unknown(format!("stage {other}"))),
        },
    })
}

fn put_replicas(writer: &mut Writer, replicas: &[(ReplicaId, NodeId)]) {
    writer.count(replicas.len());
    for (replica, node) in replicas {
        writer.u64(replica.0);
        writer.u64(node.0);
    }
}

fn replicas(reader: &mut Reader) -> Result<Vec<(ReplicaId, NodeId)>, StorageError> {
    (0..reader.count(16)?).map(|_| Ok((ReplicaId(reader.u64()?), NodeId(reader.u64()?)))).collect()
}

pub(super) fn text(reader: &mut Reader) -> Result<String, StorageError> {
    let bytes = reader.bytes()?;
    String::from_utf8(bytes.to_vec()).map_err(|_| reader.unknown("a text that is not UTF-8"))
}

fn size(reader: &mut Reader) -> Result<usize, StorageError> {
    let size = reader.u64()?;
    usize::try_from(size).map_err(|_| reader.unknown(format!("a size of {size} bytes")))
}

pub(super) fn mode_number(mode: Mode) -> u8 {
    match mode {
        Mode::Cp => 1,
        Mode::Ap => 2,
    }
}

pub(super) fn mode(reader: &mut Reader) -> Result<Mode, StorageError> {
    match reader.u8()? {
        1 => Ok(Mode::Cp),
        2 => Ok(Mode::Ap),
        other => Err(reader.unknown(format!("mode {other}"))),
    }
}

pub(super) fn sharding_number(sharding: Sharding) -> u8 {
    match sharding {
        Sharding::Range => 1,
        Sharding::Hash => 2,
    }
}

pub(super) fn sharding(reader: &mut Reader) -> Result<Sharding, StorageError> {
    match reader.u8()? {
        1 => Ok(Sharding::Range),
        2 => Ok(Sharding::Hash),
        other => Err(reader.unknown(format!("sharding {other}"))),
    }
}

pub(super) fn images(reader: &mut Reader) -> Result<Images, StorageError> {
    match reader.u8()? {
        1 => Ok(Images::Keys),
        2 => Ok(Images::New),
        3 => Ok(Images::NewAndOld),
        other => Err(reader.unknown(format!("images {other}"))),
    }
}

pub(super) fn put_level(writer: &mut Writer, level: ReadLevel) {
    let (number, ms) = match level {
        ReadLevel::Linearizable => (1, 0),
        ReadLevel::Session => (2, 0),
        ReadLevel::Bounded(bound) => (3, bound.as_millis() as u64),
        ReadLevel::Local => (4, 0),
        ReadLevel::One => (5, 0),
        ReadLevel::Quorum => (6, 0),
        ReadLevel::All => (7, 0),
    };
    writer.u8(number);
    writer.u64(ms);
}

pub(super) fn level(reader: &mut Reader) -> Result<ReadLevel, StorageError> {
    let (number, ms) = (reader.u8()?, reader.u64()?);
    Ok(match number {
        1 => ReadLevel::Linearizable,
        2 => ReadLevel::Session,
        3 => ReadLevel::Bounded(Duration::from_millis(ms)),
        4 => ReadLevel::Local,
        5 => ReadLevel::One,
        6 => ReadLevel::Quorum,
        7 => ReadLevel::All,
        other => return Err(reader.unknown(format!("level {other}"))),
    })
}

#[cfg(test)]
#[path = "codec_tests.rs"]
pub(super) mod tests;
