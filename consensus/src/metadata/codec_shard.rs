//! Shards, their replicas and operators as bytes.
//!
//! ```text
//!   shard     │ 2 │ keyspace (4) │ flags │ start │ end? │ epoch (8) │ incarnation (4) │ founders │ leader wish (8)
//!             │ stage │ replicas                             format 1: without replicas, which are the founders
//!   metadata  │ 2 │ replicas                                 format 1: founders
//!   operator  │ 1 │ shard (8) │ task │ origin │ cause │ state │ why? │ created (8) │ ended (8)
//! ```
//!
//! Founders are a count (4) and pairs of replica (8) and node (8); replicas have a standing (1) besides. A task is a
//! number (1) and what it names.
//!
//! **Invariant.** Decoding takes any bytes without a panic. Numbers are append-only.

use super::{
    codec::text,
    map::{ReplicaRow, ShardRow, ShardStage, Standing},
    operator::{OperatorRow, OperatorState, Origin, Task},
};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, NodeId, OperatorId, PlacementRange, ReplicaId, ShardId};
use kvorum_storage::{
    StorageError,
    codec::{Reader, Writer},
};

const HAS_END: u8 = 1;
const ADDS: u8 = 1;
const REMOVES: u8 = 2;

pub(super) fn put_shard(writer: &mut Writer, row: &ShardRow) {
    writer.u32(row.keyspace.0);
    writer.u8(if row.range.end.is_some() { HAS_END } else { 0 });
    writer.bytes(&row.range.start);
    row.range.end.iter().for_each(|end| writer.bytes(end));
    writer.u64(row.epoch);
    writer.u32(row.incarnation);
    writer.count(row.founders.len());
    row.founders.iter().for_each(|seat| put_seat(writer, *seat));
    writer.u64(row.leader_wish.0);
    writer.u8(match row.stage {
        ShardStage::Creating => 1,
        ShardStage::Ready => 2,
    });
    put_replicas(writer, &row.replicas);
}

pub(super) fn shard(reader: &mut Reader, format: u8, id: ShardId) -> Result<ShardRow, StorageError> {
    let keyspace = KeyspaceId(reader.u32()?);
    let has_end = reader.flags(HAS_END)? & HAS_END != 0;
    // Copied: a row outlives the portion that brought it.
    let start = Bytes::copy_from_slice(&reader.bytes()?);
    let end = if has_end { Some(Bytes::copy_from_slice(&reader.bytes()?)) } else { None };
    let (epoch, incarnation, founders) = (reader.u64()?, reader.u32()?, founders(reader)?);
    let leader_wish = NodeId(reader.u64()?);
    let stage = match reader.u8()? {
        1 => ShardStage::Creating,
        2 => ShardStage::Ready,
        other => return Err(reader.unknown(format!("stage {other}"))),
    };
    let replicas = if format == 1 { ReplicaRow::members(&founders) } else { replicas(reader)? };
    let range = PlacementRange { start, end };
    Ok(ShardRow { shard: id, keyspace, range, epoch, incarnation, founders, replicas, leader_wish, stage })
}

/// The replicas of the metadata.
pub(super) fn metadata(reader: &mut Reader, format: u8) -> Result<Vec<ReplicaRow>, StorageError> {
    if format == 1 { Ok(ReplicaRow::members(&founders(reader)?)) } else { replicas(reader) }
}

pub(super) fn put_replicas(writer: &mut Writer, replicas: &[ReplicaRow]) {
    writer.count(replicas.len());
    for row in replicas {
        put_seat(writer, row.seat());
        writer.u8(match row.standing {
            Standing::Member => 1,
            Standing::Joining => 2,
            Standing::Leaving => 3,
        });
    }
}

fn replicas(reader: &mut Reader) -> Result<Vec<ReplicaRow>, StorageError> {
    let row = |reader: &mut Reader| {
        let (replica, node) = seat(reader)?;
        let standing = match reader.u8()? {
            1 => Standing::Member,
            2 => Standing::Joining,
            3 => Standing::Leaving,
            other => return Err(reader.unknown(format!("standing {other}"))),
        };
        Ok(ReplicaRow { replica, node, standing })
    };
    (0..reader.count(17)?).map(|_| row(reader)).collect()
}

fn founders(reader: &mut Reader) -> Result<Vec<(ReplicaId, NodeId)>, StorageError> {
    (0..reader.count(16)?).map(|_| seat(reader)).collect()
}

fn put_seat(writer: &mut Writer, (replica, node): (ReplicaId, NodeId)) {
    writer.u64(replica.0);
    writer.u64(node.0);
}

fn seat(reader: &mut Reader) -> Result<(ReplicaId, NodeId), StorageError> {
    Ok((ReplicaId(reader.u64()?), NodeId(reader.u64()?)))
}

pub(super) fn put_operator(writer: &mut Writer, row: &OperatorRow) {
    writer.u64(row.shard.0);
    match row.task {
        Task::Change { add, remove } => {
            writer.u8(1);
            writer.u8(if add.is_some() { ADDS } else { 0 } | if remove.is_some() { REMOVES } else { 0 });
            [add, remove].into_iter().flatten().for_each(|changed| put_seat(writer, changed));
        }
        Task::Lead(node) => {
            writer.u8(2);
            writer.u64(node.0);
        }
    }
    put_origin(writer, row.origin);
    writer.bytes(row.cause.as_bytes());
    match &row.state {
        OperatorState::Running => writer.u8(1),
        OperatorState::Cancelling => writer.u8(2),
        OperatorState::Done => writer.u8(3),
        OperatorState::Cancelled => writer.u8(4),
        OperatorState::Failed(why) => {
            writer.u8(5);
            writer.bytes(why.as_bytes());
        }
    }
    writer.u64(row.created_ms);
    writer.u64(row.ended_ms);
}

pub(super) fn operator(reader: &mut Reader, id: OperatorId) -> Result<OperatorRow, StorageError> {
    let shard = ShardId(reader.u64()?);
    let task = match reader.u8()? {
        1 => {
            let flags = reader.flags(ADDS | REMOVES)?;
            let add = if flags & ADDS != 0 { Some(seat(reader)?) } else { None };
            let remove = if flags & REMOVES != 0 { Some(seat(reader)?) } else { None };
            Task::Change { add, remove }
        }
        2 => Task::Lead(NodeId(reader.u64()?)),
        other => return Err(reader.unknown(format!("task {other}"))),
    };
    let (origin, cause) = (origin(reader)?, text(reader)?);
    let state = match reader.u8()? {
        1 => OperatorState::Running,
        2 => OperatorState::Cancelling,
        3 => OperatorState::Done,
        4 => OperatorState::Cancelled,
        5 => OperatorState::Failed(text(reader)?),
        other => return Err(reader.unknown(format!("state {other} of an operator"))),
    };
    let (created_ms, ended_ms) = (reader.u64()?, reader.u64()?);
    Ok(OperatorRow { id, shard, task, origin, cause, state, created_ms, ended_ms })
}

pub(super) fn put_origin(writer: &mut Writer, origin: Origin) {
    writer.u8(match origin {
        Origin::User => 1,
        Origin::Drain => 2,
        Origin::Repair => 3,
        Origin::Balance => 4,
    });
}

pub(super) fn origin(reader: &mut Reader) -> Result<Origin, StorageError> {
    match reader.u8()? {
        1 => Ok(Origin::User),
        2 => Ok(Origin::Drain),
        3 => Ok(Origin::Repair),
        4 => Ok(Origin::Balance),
        other => Err(reader.unknown(format!("origin {other}"))),
    }
}
