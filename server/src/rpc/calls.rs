//! A call on its way to its shard: checked, converted, shown the way. Unary calls and calls within a frame come
//! together here.
//!
//! **Invariant.** A call that is refused here has touched nothing, and its refusal says where to go if that is
//! elsewhere.

use super::{
    convert::{answer, asked::AskedId, command},
    door::{Door, Entered},
};
use crate::router::{ShardRoute, Unserved};
use bytes::Bytes;
use kvorum_api::{
    Effect, NodeId, ReadError, ReadLevel, ShardId, WriteError,
    error::LeaderHint,
    frame::{Operation, Outcome},
};
use kvorum_consensus::Replicator;
use kvorum_storage::WriteCommand;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// A read that knows its shard.
pub struct Get {
    /// Its shard.
    pub route: Arc<ShardRoute>,
    /// The replica here.
    pub replicator: Arc<dyn Replicator>,
    /// Its placement key.
    pub key: Bytes,
    /// Its level.
    pub level: ReadLevel,
    /// The asker's epoch of the shard, 0 = it knows none.
    pub epoch: u64,
}

/// A write that knows its shard.
pub struct Write {
    /// Its shard.
    pub route: Arc<ShardRoute>,
    /// The replica here.
    pub replicator: Arc<dyn Replicator>,
    /// What it does, in placement keys.
    pub command: WriteCommand,
    /// The asker's epoch of the shard, 0 = it knows none.
    pub epoch: u64,
}

/// When a call is given up.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// What the shard is given.
    pub shard: Duration,
    /// When the door answers in its place.
    pub until: Instant,
}

/// Why a shard cannot be asked here.
enum Barred {
    Elsewhere(Option<LeaderHint>),
    NotYet,
    Stale { why: String },
}

/// The one change of a single write, or those of a batch.
pub enum Changes {
    /// One.
    Single(Operation),
    /// Several, atomically.
    Batch(Vec<Operation>),
}

impl Door {
    /// Shows a read the way to its shard.
    ///
    /// # Errors
    /// Why it cannot be answered here.
    pub fn prepare_get(
        &self,
        entered: &Entered,
        key: &Bytes,
        level: Option<ReadLevel>,
        epoch: u64,
    ) -> Result<Get, ReadError> {
        let row = &entered.keyspace.row;
        let key = command::placement(key, &row.limits, row.sharding)?;
        let level = command::read_level(level, row)?;
        let route = entered.keyspace.shard_of(&key).clone();
        let (shard, at) = (route.row.shard, route.row.epoch);
        match self.open(entered, &route, epoch) {
            Ok(replicator) => Ok(Get { route, replicator, key, level, epoch }),
            Err(barred) => Err(barred.for_read(shard, at)),
        }
    }

    /// Shows a write the way to its shard.
    ///
    /// # Errors
    /// Why it cannot be decided here.
    pub fn prepare_write(
        &self,
        entered: &Entered,
        id: Option<AskedId>,
        changes: Changes,
        epoch: u64,
    ) -> Result<Write, WriteError> {
        let row = &entered.keyspace.row;
        let command = match changes {
            Changes::Single(operation) => command::single(id, operation, row)?,
            Changes::Batch(operations) => command::batch(id, operations, row)?,
        };
        let route = entered.keyspace.shard_of_all(command.operations.iter().map(kvorum_storage::Operation::key))?;
        let route = route.clone();
        let (shard, at) = (route.row.shard, route.row.epoch);
        match self.open(entered, &route, epoch) {
            Ok(replicator) => Ok(Write { route, replicator, command, epoch }),
            Err(barred) => Err(barred.for_write(shard, at)),
        }
    }

    /// The replica of a shard here, for an asker of that epoch (rule C3): an older one is told the newer map, a newer
    /// one is believed, and the replica decides by its own range.
    fn open(&self, entered: &Entered, route: &ShardRoute, epoch: u64) -> Result<Arc<dyn Replicator>, Barred> {
        if epoch > 0 && epoch < route.row.epoch {
            return Err(Barred::Stale { why: format!("the request is for epoch {epoch}") });
        }
        match route.replicator() {
            Ok(replicator) => Ok(replicator.clone()),
            Err(Unserved::NotYet) => Err(Barred::NotYet),
            Err(Unserved::Elsewhere) => Err(Barred::Elsewhere(self.hint(&entered.hall, &route.row))),
        }
    }

    /// The replica of a shard that a scan opens, or where else to go.
    ///
    /// # Errors
    /// There is none here, or its leader is elsewhere and the level needs it.
    pub fn open_for_scan(
        &self,
        entered: &Entered,
        route: &ShardRoute,
        level: ReadLevel,
        epoch: u64,
    ) -> Result<Arc<dyn Replicator>, ReadError> {
        let shard = route.row.shard;
        let opened = self.open(entered, route, epoch);
        let replicator = opened.map_err(|barred| barred.for_read(shard, route.row.epoch))?;
        // Later shards of a long scan would be refused when their turn comes: better now.
        if level == ReadLevel::Linearizable
            && let Some(leader) = replicator.status().leader.filter(|leader| *leader != self.id)
        {
            return Err(ReadError::NotLeader { shard, leader: self.address_of(entered, leader) });
        }
        Ok(replicator)
    }

    fn address_of(&self, entered: &Entered, node: NodeId) -> Option<LeaderHint> {
        let address = entered.hall.map.nodes.get(&node)?.client.clone();
        Some(LeaderHint { node, address })
    }
}

impl Barred {
    const NOT_YET: &str = "its replica on this node is being made";

    fn for_read(self, shard: ShardId, epoch: u64) -> ReadError {
        match self {
            Barred::Elsewhere(leader) => ReadError::NotLeader { shard, leader },
            Barred::NotYet => ReadError::NoQuorum { shard, why: Self::NOT_YET.to_owned() },
            Barred::Stale { why } => ReadError::StaleEpoch { shard, epoch, why },
        }
    }

    fn for_write(self, shard: ShardId, epoch: u64) -> WriteError {
        match self {
            Barred::Elsewhere(leader) => WriteError::NotLeader { shard, leader },
            Barred::NotYet => WriteError::NoQuorum { shard, why: Self::NOT_YET.to_owned() },
            Barred::Stale { why } => WriteError::StaleEpoch { shard, epoch, why },
        }
    }
}

impl Get {
    /// Asks the shard.
    ///
    /// # Errors
    /// The shard's, or it did not answer at all.
    pub async fn run(self, entered: &Entered, patience: Patience) -> Result<Outcome, ReadError> {
        let shard = self.route.row.shard;
        let context = entered.context(&self.route, self.epoch, patience.shard);
        let reading = self.replicator.get(self.key, self.level, context);
        // The shard keeps its own deadline; this is for one that does not answer at all.
        let found = timeout_at(patience.until, reading)
            .await
            .unwrap_or(Err(ReadError::DeadlineExceeded { shard, deadline: patience.shard }))?;
        Ok(answer::found(found, entered.keyspace_id()))
    }
}

impl Write {
    /// Asks the shard for a decision.
    ///
    /// # Errors
    /// The shard's, or it did not answer at all.
    pub async fn run(self, entered: &Entered, patience: Patience) -> Result<Outcome, WriteError> {
        let shard = self.route.row.shard;
        let context = entered.context(&self.route, self.epoch, patience.shard);
        let writing = self.replicator.write(self.command, context);
        // The shard keeps its own deadline and knows the true effect; this is for one that does not answer at all.
        let written = timeout_at(patience.until, writing).await.unwrap_or_else(|_| Err(no_answer(shard, patience)))?;
        answer::written(written, entered.keyspace_id())
    }
}

/// What is known of a write whose shard says nothing.
#[must_use]
pub fn no_answer(shard: ShardId, patience: Patience) -> WriteError {
    WriteError::DeadlineExceeded { shard, deadline: patience.shard, effect: Effect::Unknown }
}
