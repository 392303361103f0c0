//! Commands to the metadata as bytes: a number (1) and what the command says, in the order of its fields.
//!
//! **Invariant.** Decoding takes any bytes without a panic. Numbers are append-only.

use super::{
    Behaviour, Ending, KeyspaceWish, MetadataCommand, OperatorWish,
    codec::{
        images, level, mode, mode_number, node_state, node_state_number, put_level, sharding, sharding_number, text,
    },
    codec_shard::{origin, put_origin},
    wire::{option, put_option},
};
use bytes::Bytes;
use kvorum_api::{NodeId, OperatorId, ShardId};
use kvorum_storage::{
    StorageError,
    codec::{Reader, Writer},
};

pub(super) fn put_command(writer: &mut Writer, command: &MetadataCommand) {
    let put_node = |writer: &mut Writer, texts: [&String; 3]| {
        texts.into_iter().for_each(|text| writer.bytes(text.as_bytes()));
    };
    match command {
        MetadataCommand::CreateKeyspace { name, wish } => {
            writer.u8(1);
            writer.bytes(name.as_bytes());
            put_wish(writer, wish);
        }
        MetadataCommand::AlterKeyspace { name, wish } => {
            writer.u8(2);
            writer.bytes(name.as_bytes());
            put_wish(writer, wish);
        }
        MetadataCommand::DropKeyspace { name } => {
            writer.u8(3);
            writer.bytes(name.as_bytes());
        }
        MetadataCommand::Join { directory, client, peer, zone } => {
            writer.u8(4);
            writer.u128(*directory);
            put_node(writer, [client, peer, zone]);
        }
        MetadataCommand::Announce { node, client, peer, zone, behaviour, build } => {
            writer.u8(5);
            writer.u64(node.0);
            put_node(writer, [client, peer, zone]);
            writer.u32(behaviour.0);
            writer.bytes(build.as_bytes());
        }
        MetadataCommand::Operate { shard, wish, origin, cause } => {
            writer.u8(7);
            writer.u64(shard.0);
            put_operator_wish(writer, *wish);
            put_origin(writer, *origin);
            writer.bytes(cause.as_bytes());
        }
        MetadataCommand::CancelOperator { operator } => {
            writer.u8(8);
            writer.u64(operator.0);
        }
        MetadataCommand::OperatorEnded { operator, ending } => {
            writer.u8(9);
            writer.u64(operator.0);
            put_ending(writer, ending);
        }
        MetadataCommand::SetNodeState { node, state } => {
            writer.u8(10);
            writer.u64(node.0);
            writer.u8(node_state_number(*state));
        }
        MetadataCommand::RaiseBehaviour { behaviour } => {
            writer.u8(11);
            // Behaviours are counted from 1.
            writer.u32(behaviour.map_or(0, |behaviour| behaviour.0));
        }
        MetadataCommand::ShardsReady { shards } => {
            writer.u8(6);
            writer.count(shards.len());
            shards.iter().for_each(|shard| writer.u64(shard.0));
        }
    }
}

pub(super) fn command(reader: &mut Reader) -> Result<MetadataCommand, StorageError> {
    Ok(match reader.u8()? {
        1 => MetadataCommand::CreateKeyspace { name: text(reader)?, wish: wish(reader)? },
        2 => MetadataCommand::AlterKeyspace { name: text(reader)?, wish: wish(reader)? },
        3 => MetadataCommand::DropKeyspace { name: text(reader)? },
        4 => MetadataCommand::Join {
            directory: reader.u128()?,
            client: text(reader)?,
            peer: text(reader)?,
            zone: text(reader)?,
        },
        5 => MetadataCommand::Announce {
            node: NodeId(reader.u64()?),
            client: text(reader)?,
            peer: text(reader)?,
            zone: text(reader)?,
            behaviour: Behaviour(reader.u32()?),
            build: text(reader)?,
        },
        7 => MetadataCommand::Operate {
            shard: ShardId(reader.u64()?),
            wish: operator_wish(reader)?,
            origin: origin(reader)?,
            cause: text(reader)?,
        },
        8 => MetadataCommand::CancelOperator { operator: OperatorId(reader.u64()?) },
        9 => MetadataCommand::OperatorEnded { operator: OperatorId(reader.u64()?), ending: ending(reader)? },
        10 => MetadataCommand::SetNodeState { node: NodeId(reader.u64()?), state: node_state(reader)? },
        11 => {
            let behaviour = Some(reader.u32()?).filter(|behaviour| *behaviour > 0).map(Behaviour);
            MetadataCommand::RaiseBehaviour { behaviour }
        }
        6 => {
            let shards = (0..reader.count(8)?).map(|_| reader.u64().map(ShardId));
            MetadataCommand::ShardsReady { shards: shards.collect::<Result<_, _>>()? }
        }
        other => return Err(reader.unknown(format!("command {other}"))),
    })
}

pub(super) fn put_operator_wish(writer: &mut Writer, wish: OperatorWish) {
    let (number, node) = match wish {
        OperatorWish::Move { to, .. } => (1, to),
        OperatorWish::Add(to) => (2, to),
        OperatorWish::Remove(from) => (3, from),
        OperatorWish::Lead(node) => (4, node),
    };
    writer.u8(number);
    writer.u64(node.0);
    if let OperatorWish::Move { from, .. } = wish {
        writer.u64(from.0);
    }
}

pub(super) fn operator_wish(reader: &mut Reader) -> Result<OperatorWish, StorageError> {
    let (number, node) = (reader.u8()?, NodeId(reader.u64()?));
    Ok(match number {
        1 => OperatorWish::Move { to: node, from: NodeId(reader.u64()?) },
        2 => OperatorWish::Add(node),
        3 => OperatorWish::Remove(node),
        4 => OperatorWish::Lead(node),
        other => return Err(reader.unknown(format!("wish {other} of an operator"))),
    })
}

fn put_ending(writer: &mut Writer, ending: &Ending) {
    match ending {
        Ending::Done => writer.u8(1),
        Ending::Cancelled => writer.u8(2),
        Ending::Failed(why) => {
            writer.u8(3);
            writer.bytes(why.as_bytes());
        }
    }
}

fn ending(reader: &mut Reader) -> Result<Ending, StorageError> {
    Ok(match reader.u8()? {
        1 => Ending::Done,
        2 => Ending::Cancelled,
        3 => Ending::Failed(text(reader)?),
        other => return Err(reader.unknown(format!("ending {other}"))),
    })
}

fn put_wish(writer: &mut Writer, wish: &KeyspaceWish) {
    put_option(writer, wish.mode.as_ref(), |writer, mode| writer.u8(mode_number(*mode)));
    put_option(writer, wish.sharding.as_ref(), |writer, sharding| writer.u8(sharding_number(*sharding)));
    put_option(writer, wish.shards.as_ref(), |writer, shards| writer.u32(*shards));
    writer.count(wish.split_at.len());
    wish.split_at.iter().for_each(|point| writer.bytes(point));
    put_option(writer, wish.replicas.as_ref(), |writer, replicas| writer.u32(*replicas));
    put_option(writer, wish.read_level.as_ref(), |writer, level| put_level(writer, *level));
    put_option(writer, wish.value_bytes_max.as_ref(), |writer, bytes| writer.u64(*bytes));
    put_option(writer, wish.images.as_ref(), |writer, images| writer.u8(*images as u8));
    put_option(writer, wish.has_leases.as_ref(), |writer, leases| writer.u8((*leases).into()));
}

fn wish(reader: &mut Reader) -> Result<KeyspaceWish, StorageError> {
    Ok(KeyspaceWish {
        mode: option(reader, mode)?,
        sharding: option(reader, sharding)?,
        shards: option(reader, Reader::u32)?,
        // Copied: a range outlives the message that asked for it.
        split_at: (0..reader.count(4)?)
            .map(|_| reader.bytes().map(|point| Bytes::copy_from_slice(&point)))
            .collect::<Result<_, _>>()?,
        replicas: option(reader, Reader::u32)?,
        read_level: option(reader, level)?,
        value_bytes_max: option(reader, Reader::u64)?,
        images: option(reader, images)?,
        has_leases: option(reader, |reader| Ok(reader.flags(1)? == 1))?,
    })
}
