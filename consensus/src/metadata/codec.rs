//! Rows and whole maps as bytes.
//!
//! ```text
//!   key     n │ node (8)      k │ keyspace (4)      s │ shard (8)      o │ operator (8)      m      b      i
//!   node     │ 2 │ client │ peer │ zone │ directory (16) │ state │ behaviour (4) │ build     format 1: up to directory
//!   keyspace │ 1 │ name │ mode │ sharding │ replicas (4) │ level (1), ms (8) │ limits (4 × 8) │ images │ flags
//!            │ created (8)
//!   counters │ 2 │ serial (8) │ node (8) │ keyspace (4) │ shard (8) │ replica (8) │ operator (8)
//!            │                                                                       format 1: up to replica
//!   behaviour│ 1 │ (4)
//!   shard, metadata, operator: see `codec_shard`
//!   map      │ 1 │ revision (8) │ count (4) │ (key, value) …
//! ```
//!
//! Byte strings carry their length (4) in front.
//!
//! **Invariant.** Decoding takes any bytes without a panic. Numbers are append-only. A key of another letter was
//! written by a newer build and is no part of this build's map; a value of another format is refused, because half a
//! map is none.

use super::{
    codec_shard::{metadata, operator, put_operator, put_replicas, put_shard, shard},
    map::{Behaviour, ClusterMap, Counters, KeyspaceRow, NodeRow, NodeState, Row, RowEdit, RowKey},
};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, Limits, Mode, NodeId, OperatorId, ReadLevel, ReplicaId, ShardId, Sharding};
use kvorum_storage::{
    StorageError,
    codec::{Reader, Writer},
    command::Images,
};
use std::time::Duration;

/// The format of maps this build writes.
const FORMAT: u8 = 1;

/// The newest format of a row that this build knows.
const ROW_FORMAT_MAX: u8 = 2;

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
            RowKey::Operator(operator) => {
                key.push(b'o');
                key.extend_from_slice(&operator.0.to_be_bytes());
            }
            RowKey::Metadata => key.push(b'm'),
            RowKey::Counters => key.push(b'i'),
            RowKey::Behaviour => key.push(b'b'),
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
            b'o' => word().map(|operator| RowKey::Operator(OperatorId(operator))),
            b'b' if id.is_empty() => Some(RowKey::Behaviour),
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
        let mut writer = Writer::new(self.format(), 96);
        match self {
            Row::Node(row) => put_node(&mut writer, row),
            Row::Keyspace(row) => put_keyspace(&mut writer, row),
            Row::Shard(row) => put_shard(&mut writer, row),
            Row::Metadata(replicas) => put_replicas(&mut writer, replicas),
            Row::Operator(row) => put_operator(&mut writer, row),
            Row::Behaviour(behaviour) => writer.u32(behaviour.0),
            Row::Counters(counters) => {
                writer.u64(counters.serial);
                writer.u64(counters.next_node.0);
                writer.u32(counters.next_keyspace.0);
                writer.u64(counters.next_shard.0);
                writer.u64(counters.next_replica.0);
                writer.u64(counters.next_operator.0);
            }
        }
        writer.finish()
    }

    /// The format this build writes it in.
    fn format(&self) -> u8 {
        match self {
            Row::Keyspace(_) | Row::Operator(_) | Row::Behaviour(_) => 1,
            Row::Node(_) | Row::Shard(_) | Row::Metadata(_) | Row::Counters(_) => 2,
        }
    }

    /// The reverse.
    ///
    /// # Errors
    /// A format this build does not know, or bytes that are none.
    pub fn decode(key: RowKey, value: Bytes) -> Result<Self, StorageError> {
        let (mut reader, format) = Reader::open_up_to("metadata row", value, ROW_FORMAT_MAX)?;
        let row = match key {
            RowKey::Node(id) => Row::Node(node(&mut reader, format, id)?),
            RowKey::Keyspace(id) => Row::Keyspace(keyspace(&mut reader, id)?),
            RowKey::Shard(id) => Row::Shard(shard(&mut reader, format, id)?),
            RowKey::Metadata => Row::Metadata(metadata(&mut reader, format)?),
            RowKey::Operator(id) => Row::Operator(operator(&mut reader, id)?),
            RowKey::Behaviour => Row::Behaviour(Behaviour(reader.u32()?)),
            RowKey::Counters => Row::Counters(Counters {
                serial: reader.u64()?,
                next_node: NodeId(reader.u64()?),
                next_keyspace: KeyspaceId(reader.u32()?),
                next_shard: ShardId(reader.u64()?),
                next_replica: ReplicaId(reader.u64()?),
                next_operator: OperatorId(if format == 1 { 1 } else { reader.u64()? }),
            }),
        };
        reader.end()?;
        if row.format() < format {
            return Err(StorageError::UnknownFormat { what: "metadata row", found: format!("format {format}") });
        }
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

fn put_node(writer: &mut Writer, row: &NodeRow) {
    [&row.client, &row.peer, &row.zone].into_iter().for_each(|text| writer.bytes(text.as_bytes()));
    writer.u128(row.directory);
    writer.u8(node_state_number(row.state));
    writer.u32(row.behaviour.0);
    writer.bytes(row.build.as_bytes());
}

fn node(reader: &mut Reader, format: u8, node: NodeId) -> Result<NodeRow, StorageError> {
    let (client, peer, zone) = (text(reader)?, text(reader)?, text(reader)?);
    let directory = reader.u128()?;
    let (state, behaviour, build) = match format {
        1 => (NodeState::Active, Behaviour(1), String::new()),
        _ => (node_state(reader)?, Behaviour(reader.u32()?), text(reader)?),
    };
    Ok(NodeRow { node, client, peer, zone, directory, state, behaviour, build })
}

pub(super) fn node_state_number(state: NodeState) -> u8 {
    match state {
        NodeState::Active => 1,
        NodeState::Draining => 2,
        NodeState::Forgetting => 3,
    }
}

pub(super) fn node_state(reader: &mut Reader) -> Result<NodeState, StorageError> {
    match reader.u8()? {
        1 => Ok(NodeState::Active),
        2 => Ok(NodeState::Draining),
        3 => Ok(NodeState::Forgetting),
        other => Err(reader.unknown(format!("state {other} of a node"))),
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
