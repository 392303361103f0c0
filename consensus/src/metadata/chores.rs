//! What a node does for the metadata without being asked.
//!
//! ```text
//!   map        as it comes   follows the newest map
//!   reconcile  as it comes   brings the replicas here in line with the newest map
//!   metadata   250 ms        founds what is not founded, says where this node is
//!   operators  250 ms        the shards led here take the next step of what is being done to them
//!   balancer   1 s           where the metadata is led: nodes are weighed, what should be done next is asked for
//! ```

use super::{
    ClusterMap, Forecast, METADATA_GROUP, METADATA_SHARD, MetadataCommand, MetadataReply, ShardStage, balance::balance,
};
use crate::{
    groups::{Place, Replica},
    node::{Node, StartError},
    peers::{Incoming, Received},
    replicator::Replicator,
    worker::{Step, Workers},
};
use kvorum_api::{AdminError, ShardId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// How long one step waits for a newer map.
const NEWS_PATIENCE: Duration = Duration::from_millis(500);

/// After a failure.
const PAUSE: Duration = Duration::from_millis(250);

/// How long telling which shards are ready may take before it is tried again.
const READY_PATIENCE: Duration = Duration::from_secs(2);

/// How long one change that the balancer asks for may take.
const BALANCE_PATIENCE: Duration = Duration::from_secs(5);

/// Shards that are told of at once.
const READY_MAX: usize = 1_024;

impl Node {
    /// The newest map this node has.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.study.map()
    }

    /// The newest map, as it changes.
    pub fn watch_map(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.study.watch()
    }

    /// Changes the map, wherever the metadata is led.
    ///
    /// # Errors
    /// What cannot be, or `Unavailable` with its effect.
    pub async fn metadata(&self, command: MetadataCommand, patience: Duration) -> Result<MetadataReply, AdminError> {
        self.study.command(command, patience).await
    }

    /// What a change of the map would lead to; nothing is changed.
    ///
    /// # Errors
    /// As the change itself.
    pub async fn forecast(&self, command: MetadataCommand, patience: Duration) -> Result<Forecast, AdminError> {
        self.study.forecast(command, patience).await
    }

    /// About how many bytes of rows each replica here has.
    pub async fn weigh(&self) -> BTreeMap<ShardId, u64> {
        self.study.weigh().await
    }

    /// What the balancer would do and cannot, and why; nothing where the metadata is not led.
    pub fn balance_held_up(&self) -> Vec<String> {
        self.study.balance_held_up()
    }

    pub(crate) fn start_metadata_chores(self: &Arc<Self>, workers: &Workers) {
        let study = Arc::downgrade(&self.study);
        self.set_ready_report(Arc::new(move |shards| {
            let study = study.upgrade();
            Box::pin(async move {
                let Some(study) = study else { return Ok(()) };
                let shards = shards.into_iter().take(READY_MAX).collect();
                let told = study.command(MetadataCommand::ShardsReady { shards }, READY_PATIENCE).await;
                told.map(drop).map_err(|error| error.to_string())
            })
        }));
        let node: Weak<Node> = Arc::downgrade(self);
        let follow = move || {
            let study = Arc::clone(&node.upgrade()?.study);
            Some(Box::pin(async move { study.follow().await }) as _)
        };
        workers.start("map", Duration::ZERO, Arc::default(), follow);
        let node: Weak<Node> = Arc::downgrade(self);
        let reconcile = move || node.upgrade().map(|node| Box::pin(node.reconcile_next()) as _);
        workers.start("reconcile", Duration::ZERO, Arc::default(), reconcile);
        let node: Weak<Node> = Arc::downgrade(self);
        let tend = move || node.upgrade().map(|node| Box::pin(node.tend_metadata()) as _);
        workers.start("metadata", Duration::from_millis(250), Arc::default(), tend);
        let node: Weak<Node> = Arc::downgrade(self);
        let operate = move || node.upgrade().map(|node| Box::pin(node.operate()) as _);
        workers.start("operators", Duration::from_millis(250), Arc::default(), operate);
        let node: Weak<Node> = Arc::downgrade(self);
        let balance = move || node.upgrade().map(|node| Box::pin(node.balance()) as _);
        workers.start("balancer", Duration::from_secs(1), Arc::default(), balance);
    }

    /// Answers another node about the metadata.
    pub(crate) async fn answer_metadata(&self, request: &Received) -> Result<bytes::Bytes, String> {
        let envelope = &request.envelope;
        let incoming = Incoming {
            from: envelope.from,
            from_replica: envelope.from_replica,
            kind: request.kind,
            payload: envelope.payload.clone(),
        };
        self.study.answer(incoming).await
    }

    /// The replica of group 0 that is here, by a map or, if that is too old to know it, by the journal.
    pub(crate) fn metadata_place(&self, map: &ClusterMap) -> Option<Place> {
        let recorded = self.groups.recorded(METADATA_GROUP, &[]);
        let config = self.study.shard_config(map, recorded)?;
        let stage = if map.is_founded() { ShardStage::Ready } else { ShardStage::Creating };
        let is_operated = map.operator_of(METADATA_SHARD).is_some();
        Some(Place { config, stage, leader_wish: None, is_kept: true, is_operated })
    }

    /// Holds the replica of group 0 that a map places here.
    pub(crate) async fn reconcile_metadata(&self, map: &ClusterMap) -> Result<(), StartError> {
        if let Some(place) = self.metadata_place(map) {
            self.groups.hold_or_place(place, map.counters.serial).await?;
        }
        self.seat_metadata(map).await;
        Ok(())
    }

    /// Whoever holds a replica of group 0 follows and changes the map through it, unless the map has dropped it: also
    /// one that the map takes for a newcomer, or does not know yet, for it may lead, and nobody else could say
    /// otherwise.
    pub(crate) async fn seat_metadata(&self, map: &ClusterMap) {
        let held = self.replica(METADATA_SHARD);
        let seated = held.filter(|replica: &Arc<Replica>| !map.has_dropped(METADATA_SHARD, replica.id()));
        if seated.is_some() != self.study.has_seat() {
            let seat = seated.map(|replica| {
                let shard = Arc::clone(replica.shard());
                (replica as Arc<dyn Replicator>, shard)
            });
            self.study.take_seat(seat).await;
        }
    }

    /// Asks for what the balancer advises, if the metadata is led here.
    async fn balance(self: Arc<Self>) -> Step {
        let map = self.map();
        if !self.study.leads() || !map.is_founded() {
            self.study.watched.lock().clear();
            self.study.forget_figures();
            return Ok(());
        }
        self.study.learn_figures().await;
        let facts = self.study.facts();
        let (map, rules) = (Arc::clone(&map), self.config.budget.balance);
        let advice = self.env.blocking.run(move || balance(&map, &facts, rules)).await;
        *self.study.held_up.lock() = advice.held_up;
        for command in advice.commands {
            match self.study.command(command, BALANCE_PATIENCE).await {
                Ok(_) => {}
                // The map has changed since: the next round looks at it anew.
                Err(AdminError::Invalid { problem, .. }) => tracing::debug!(problem, "advice came too late"),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    async fn tend_metadata(self: Arc<Self>) -> Step {
        self.study.found().await?;
        self.study.announce().await
    }

    /// Brings the replicas here in line with the newest map.
    pub(crate) async fn take_map_in(&self) -> Result<(), StartError> {
        let map = self.map();
        self.reconcile(&map).await?;
        self.study.reconciled.fetch_max(map.revision, Ordering::Relaxed);
        Ok(())
    }

    /// One step: as soon as there is a newer map, or the last could not be taken in wholly.
    async fn reconcile_next(self: Arc<Self>) -> Step {
        let known = self.study.reconciled.load(Ordering::Relaxed);
        let mut map = self.watch_map();
        let newer = timeout(NEWS_PATIENCE, map.wait_for(|map| map.revision > known)).await.is_ok();
        if !newer {
            return Ok(());
        }
        let taken = self.take_map_in().await;
        if taken.is_err() {
            sleep(PAUSE).await;
        }
        taken.map_err(|error| error.to_string())
    }
}
