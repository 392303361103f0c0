//! Receipts: what a reply delivered, not what was asked for.

use crate::{
    ids::{NodeId, ShardId},
    level::{Mode, ReadLevel},
    version::{LogPosition, Stamp, Version},
};
use std::time::Duration;

/// What one reply guaranteed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Mode of the keyspace.
    pub mode: Mode,
    /// Reads: the level delivered.
    pub level: Option<ReadLevel>,
    /// Which shard answered.
    pub shard: ShardId,
    /// Its epoch.
    pub epoch: u64,
    /// Its incarnation: grows when a lost majority is recovered by a new group.
    pub incarnation: u32,
    /// Who answered.
    pub node: NodeId,
    /// Version of the entry read or written, if there is one.
    pub version: Option<Version>,
    /// Where the answering replica stood.
    pub position: LogPosition,
    /// Reads: the answer is no older than this; `None` = unknown, never "fresh".
    pub staleness: Option<Duration>,
    /// Writes: on how many replicas it is known to be durable (CP: at least a majority). 0 for reads.
    pub durable_replicas: u32,
    /// The server's clock, to be handed on with the next request.
    pub stamp: Stamp,
}
