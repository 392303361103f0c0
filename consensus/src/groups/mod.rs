//! # Groups: the replicas a node holds, most of them closed
//!
//! ```text
//!   map ──reconcile──▶ one Replica per shard held here          replica   open on need, close in agreement
//!                       │  shard: always open, cheap            closing   the agreement, and messages to the closed
//!                       │  record: who led, up to where         serve     what the router sees
//!                       └─ group: only while somebody needs it  rest      reads that need no group
//!                                                               rounds    what is done unasked
//!                       └─ leaving: dropped, not erased yet     dropping  what a newer map no longer names
//!   hellos ──▶ liveness ──▶ who opens, who stands, who is skipped (decide: pure)
//! ```
//!
//! **Invariant.** Every shard that the newest map places here has exactly one `Replica`, from then on until a newer
//! map drops it; then it leaves, and is kept until nothing of it is left on the disk. A closed one costs no task and no
//! timer.
//!
//! **Deliberately absent.** What the map says and how it comes here (`metadata`); Raft (`cp`).

mod closing;
#[cfg(test)]
mod closing_tests;
pub(crate) mod decide;
mod dropping;
mod gate;
pub mod liveness;
mod replica;
mod rest;
mod rounds;
mod serve;
mod shared;
mod transfer;
mod wish;

pub(crate) use closing::Unanswered;
pub use decide::Record;
pub use liveness::{Life, Liveness};
pub(crate) use replica::Place;
pub use replica::Replica;
pub use rounds::ReadyReport;
pub(crate) use shared::{Flushing, Shared, Tasks};
pub use transfer::NotMoved;
pub use wish::settings_of;

use crate::{
    config::ShardConfig,
    metadata::{ClusterMap, ShardRow, ShardStage},
    node::StartError,
};
use decide::How;
use futures::future::join_all;
use kvorum_api::GroupId;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

/// The replicas a node holds.
pub struct Groups {
    pub(crate) shared: Arc<Shared>,
    held: RwLock<BTreeMap<GroupId, Arc<Replica>>>,
    /// Those whose shard is being created: what a hello speaks of.
    creating: Mutex<BTreeMap<GroupId, Arc<Replica>>>,
    /// Those that a map has dropped, until they are erased and forgotten.
    leaving: Mutex<BTreeMap<GroupId, Arc<Replica>>>,
    /// The revision of the newest map taken in; held while one is.
    revision: tokio::sync::Mutex<u64>,
    /// Whom the leaders of new shards tell that they are founded.
    report: Mutex<Option<ReadyReport>>,
}

impl Groups {
    /// Holds nothing yet.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Groups {
            shared,
            held: RwLock::default(),
            creating: Mutex::default(),
            leaving: Mutex::default(),
            revision: tokio::sync::Mutex::new(0),
            report: Mutex::new(None),
        }
    }

    /// The replica of a group here.
    pub fn get(&self, group: GroupId) -> Option<Arc<Replica>> {
        self.held.read().get(&group).cloned()
    }

    /// Every replica here.
    pub fn all(&self) -> Vec<Arc<Replica>> {
        self.held.read().values().cloned().collect()
    }

    /// Those whose shard is being created.
    pub fn creating(&self) -> Vec<Arc<Replica>> {
        self.creating.lock().values().cloned().collect()
    }

    /// Those that are open.
    pub fn open(&self) -> Vec<Arc<Replica>> {
        self.shared.open.lock().values().cloned().collect()
    }

    /// Holds a shard that is in no map: the metadata, or what a configuration places. Never closed.
    pub(crate) async fn keep(&self, config: ShardConfig) -> Result<(), StartError> {
        let place = Place { config, stage: ShardStage::Creating, leader_wish: None, is_kept: true };
        self.hold(place).await
    }

    /// Brings the replicas here in line with a map that is not older than the last. Shards that are gone are ended,
    /// erased and forgotten; new ones are held; one that is being created is opened at once. To be repeated, with the
    /// same map or a newer one, until it succeeds.
    ///
    /// # Errors
    /// The first replica that could not be held, erased or forgotten; the others are in line.
    pub async fn reconcile(&self, map: &ClusterMap) -> Result<(), StartError> {
        let mut revision = self.revision.lock().await;
        if map.revision < *revision {
            return Ok(());
        }
        let placed = self.hold_placed(map).await;
        let dropped = self.drop_gone(map).await;
        *revision = map.revision;
        placed.and(dropped)
    }

    /// Holds what a map places here, and nothing more: what it has dropped since is a chore's to erase, and may fail
    /// without keeping the node from its start.
    pub(crate) async fn begin_with(&self, map: &ClusterMap) -> Result<(), StartError> {
        let _turn = self.revision.lock().await;
        self.hold_placed(map).await
    }

    async fn hold_placed(&self, map: &ClusterMap) -> Result<(), StartError> {
        let me = self.shared.me();
        let mut first_failure = Ok(());
        let here = map.shards.values().filter(|row| row.founders.iter().any(|(_, node)| *node == me));
        for row in here {
            let Some(place) = place_of(map, row) else { continue };
            match self.get(GroupId::from(row.shard)) {
                Some(replica) => {
                    replica.set_place(place);
                    self.sort(&replica);
                }
                None => first_failure = first_failure.and(self.hold(place).await),
            }
        }
        first_failure
    }

    async fn hold(&self, place: Place) -> Result<(), StartError> {
        let is_begun = place.is_kept || place.stage == ShardStage::Creating;
        let replica = Replica::new(self.shared.clone(), place).await?;
        self.held.write().insert(replica.group_id(), replica.clone());
        self.sort(&replica);
        if is_begun {
            let opened = replica.opened(How::Begin).await;
            opened.map_err(|why| StartError::Group { shard: replica.shard_id(), why })?;
        }
        Ok(())
    }

    fn sort(&self, replica: &Arc<Replica>) {
        let mut creating = self.creating.lock();
        match replica.place().stage {
            ShardStage::Creating => drop(creating.insert(replica.group_id(), replica.clone())),
            ShardStage::Ready => drop(creating.remove(&replica.group_id())),
        }
    }

    /// Turns standing for election on or off for every replica, those opened later included.
    pub(crate) async fn set_electable(&self, is_electable: bool) {
        self.shared.is_electable.store(is_electable, Ordering::Release);
        let open = self.open();
        let groups = open.iter().filter_map(|replica| replica.group());
        join_all(groups.map(|group| async move { group.set_electable(is_electable).await })).await;
    }

    /// Ends every replica.
    pub(crate) async fn stop(&self) {
        self.shared.tasks.end().await;
        let leaving: Vec<Arc<Replica>> = self.leaving.lock().values().cloned().collect();
        join_all(self.all().iter().chain(&leaving).map(|replica| replica.stop())).await;
    }
}

/// What a map says of one shard; `None` = it names no keyspace of it.
fn place_of(map: &ClusterMap, row: &ShardRow) -> Option<Place> {
    let keyspace = map.keyspaces.get(&row.keyspace)?;
    let config = ShardConfig {
        shard: row.shard,
        keyspace: row.keyspace,
        incarnation: row.incarnation,
        founders: row.founders.clone(),
        settings: settings_of(keyspace, row),
    };
    Some(Place { config, stage: row.stage, leader_wish: Some(row.leader_wish), is_kept: false })
}
