//! # Groups: the replicas a node holds, most of them closed
//!
//! ```text
//!   map ──reconcile──▶ one Replica per shard held here          replica   open on need, close in agreement
//!                       │  shard: always open, cheap            closing   the agreement, and messages to the closed
//!                       │  record: who led, up to where         serve     what the router sees
//!                       └─ group: only while somebody needs it  rest      reads that need no group
//!                                                               rounds    what is done unasked
//!                       └─ leaving: dropped, not erased yet     dropping  what a newer map no longer names
//!                                                             moves     replicas that change, step by step (steps)
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
mod moves;
mod replica;
mod rest;
mod rounds;
mod serve;
mod shared;
pub mod steps;
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
use kvorum_api::{GroupId, ReplicaId};
use kvorum_storage::{
    StorageError,
    journal::{Completion, Mark},
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
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
    /// The serial of the newest map by which something was erased here.
    erased_serial: AtomicU64,
    /// Whom the leaders of new shards tell that they are founded.
    report: Mutex<Option<ReadyReport>>,
}

impl Groups {
    /// Holds nothing yet.
    pub(crate) fn new(shared: Arc<Shared>, erased_serial: u64) -> Self {
        Groups {
            shared,
            held: RwLock::default(),
            creating: Mutex::default(),
            leaving: Mutex::default(),
            revision: tokio::sync::Mutex::new(0),
            erased_serial: AtomicU64::new(erased_serial),
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

    /// Holds a shard that is never closed: the metadata, or what a configuration places.
    pub(crate) async fn keep(&self, config: ShardConfig, stage: ShardStage) -> Result<(), StartError> {
        let place = Place { config, stage, leader_wish: None, is_kept: true, is_operated: false };
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
        // First what goes: a replica that comes may need the place of a former one of the same shard.
        let dropped = self.drop_gone(map).await;
        let placed = self.hold_all(self.placed(map), map).await;
        *revision = map.revision;
        placed.and(dropped)
    }

    /// Whether taking that map in erases something here: then its serial is noted durably before.
    pub(crate) fn erases_by(&self, map: &ClusterMap) -> bool {
        self.has_gone(map) || !self.leaving.lock().is_empty() || !self.orphans(map).is_empty()
    }

    /// From now on only maps of at least that serial place replicas here that have nothing here yet.
    pub(crate) fn note_erased(&self, serial: u64) {
        self.erased_serial.fetch_max(serial, Ordering::AcqRel);
    }

    /// Holds what a map places here, and nothing more: what it has dropped since is a chore's to erase, and may fail
    /// without keeping the node from its start.
    pub(crate) async fn begin_with(&self, map: &ClusterMap) -> Result<(), StartError> {
        let _turn = self.revision.lock().await;
        let placed = self.placed(map);
        // Whose former replica is not erased yet, or who may have been erased since that map, is the chore's as well.
        let ready = placed.into_iter().filter(|place| self.may_hold(place, map.counters.serial).is_ok());
        self.hold_all(ready.collect(), map).await
    }

    /// What a map places here.
    fn placed(&self, map: &ClusterMap) -> Vec<Place> {
        let me = self.shared.me();
        let here = map.shards.values().filter(|row| row.replicas.iter().any(|replica| replica.node == me));
        here.filter_map(|row| place_of(map, row)).collect()
    }

    async fn hold_all(&self, places: Vec<Place>, map: &ClusterMap) -> Result<(), StartError> {
        let mut first_failure = Ok(());
        for place in places {
            first_failure = first_failure.and(self.hold_or_place(place, map.counters.serial).await);
        }
        first_failure
    }

    /// Holds a replica that the map of that serial places here, or tells the one that is held what the map says now.
    pub(crate) async fn hold_or_place(&self, place: Place, serial: u64) -> Result<(), StartError> {
        self.may_hold(&place, serial)?;
        match self.get(GroupId::from(place.config.shard)) {
            Some(replica) => {
                replica.set_place(place);
                self.sort(&replica);
                Ok(())
            }
            None => self.hold(place).await,
        }
    }

    /// Whether a replica may be held: nothing of a former one of the shard is here any more, and it was not itself
    /// erased by a newer map than the one that places it.
    pub(crate) fn may_hold(&self, place: &Place, serial: u64) -> Result<(), StartError> {
        let (shard, group) = (place.config.shard, GroupId::from(place.config.shard));
        let wanted = place.config.replica_on(self.shared.me());
        let held = self.get(group).map(|replica| replica.id());
        let known = held.or_else(|| self.recorded(group, &place.config.founders));
        let is_leaving = self.leaving.lock().contains_key(&group);
        let erased = self.erased_serial.load(Ordering::Acquire);
        let why = match known {
            Some(_) if known == wanted && !is_leaving => return Ok(()),
            None if serial >= erased && !is_leaving => return Ok(()),
            None if !is_leaving => format!(
                "this copy of the map is of change {serial}, and something was erased here by change {erased}: waits for a \
                 newer one"
            ),
            Some(_) | None => "a former replica of it is not erased yet".to_owned(),
        };
        Err(StartError::Group { shard, why })
    }

    /// Whose data the journal has of a group: as it says itself, or else the founder's; `None` = it has none.
    pub(crate) fn recorded(&self, group: GroupId, founders: &[(ReplicaId, kvorum_api::NodeId)]) -> Option<ReplicaId> {
        let state = self.shared.env.journal.group(group);
        let founder = || founders.iter().find(|(_, node)| *node == self.shared.me()).map(|(replica, _)| *replica);
        let is_unknown = state == kvorum_storage::journal::GroupState::default();
        if is_unknown { None } else { state.replica.map(ReplicaId).or_else(founder) }
    }

    async fn hold(&self, place: Place) -> Result<(), StartError> {
        let is_begun = place.is_kept || place.stage == ShardStage::Creating;
        let replica = Replica::new(self.shared.clone(), place).await?;
        self.record(&replica)?;
        self.held.write().insert(replica.group_id(), replica.clone());
        self.sort(&replica);
        if is_begun {
            let opened = replica.opened(How::Begin).await;
            opened.map_err(|why| StartError::Group { shard: replica.shard_id(), why })?;
        }
        Ok(())
    }

    /// Says in the journal whose data the group's are, before there are any. It is not waited for: whatever follows in
    /// the group is behind it. A full disk can wait for what a founder need not say.
    fn record(&self, replica: &Replica) -> Result<(), StartError> {
        let (group, id) = (replica.group_id(), replica.id());
        let journal = &self.shared.env.journal;
        if journal.group(group).replica == Some(id.0) {
            return Ok(());
        }
        match journal.mark(group, Mark::Replica(id.0), Completion::None) {
            Err(StorageError::DiskFull(_))
                if replica.place().config.founders.iter().any(|(founder, _)| *founder == id) =>
            {
                Ok(())
            }
            marked => Ok(marked?),
        }
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
        replicas: row.replicas.clone(),
        settings: settings_of(keyspace, row, map.behaviour),
    };
    let is_operated = map.operator_of(row.shard).is_some();
    Some(Place { config, stage: row.stage, leader_wish: Some(row.leader_wish), is_kept: false, is_operated })
}
