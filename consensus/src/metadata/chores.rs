//! What a node does for the metadata without being asked.
//!
//! ```text
//!   map        as it comes   follows the newest map
//!   reconcile  as it comes   brings the replicas here in line with the newest map
//!   metadata   250 ms        founds what is not founded, says where this node is
//! ```

use super::{ClusterMap, MetadataCommand, MetadataReply};
use crate::{
    node::{Node, StartError},
    peers::{Incoming, Received},
    worker::{Step, Workers},
};
use kvorum_api::AdminError;
use std::{
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
