//! Installing a snapshot: a redo.
//!
//! ```text
//!   InstallBegin durable ─▶ Shard::install ─▶ Purged + InstallDone durable ─▶ the stage may go
//! ```
//!
//! A start that finds a begin without its done repeats the middle from the verified files, before the group opens
//! (rule S4).

use super::{
    codec::raft::encode_log_id,
    store::ReplicaStore,
    types::{LogId, log_id},
};
use kvorum_api::GroupId;
use kvorum_storage::{
    Blocking, Engine, Journal, Shard, StorageError,
    journal::{Completion, Mark},
    shard::StagedSnapshot,
};
use std::sync::Arc;
use tokio::sync::oneshot;

impl ReplicaStore {
    /// Replaces the shard by a staged snapshot.
    ///
    /// # Errors
    /// The journal's or the engine's; the shard then refuses reads and applies until a restart has repeated it.
    pub(crate) async fn install(&self, staged: StagedSnapshot) -> Result<(), StorageError> {
        self.mark_durably(Mark::InstallBegin(staged.encode())).await?;
        tracing::info!(group = %self.group, position = ?staged.applied.position, "installing a snapshot");
        let upto = redo(&self.blocking, self.shard.clone(), staged.clone()).await.inspect_err(|error| {
            self.poison_if_fatal(error);
        })?;
        if let Some(upto) = upto {
            let purged = Mark::Purged { index: upto.index, log_id: encode_log_id(&upto) };
            self.journal.mark(self.group, purged, Completion::None)?;
        }
        self.mark_durably(Mark::InstallDone).await?;
        tracing::info!(group = %self.group, "the snapshot is installed");
        if let Some(upto) = upto {
            self.end_moved(upto);
        }
        let (engine, stage) = (self.engine.clone(), staged.manifest.id);
        self.blocking.run(move || engine.discard_stage(stage)).await
    }
}

/// The middle of an installation; gives the entry the log goes on behind.
async fn redo(blocking: &Blocking, shard: Arc<Shard>, staged: StagedSnapshot) -> Result<Option<LogId>, StorageError> {
    let upto = staged.applied.position.map(log_id);
    blocking.run(move || shard.install(&staged)).await?;
    Ok(upto)
}

/// Finishes what an earlier life began, and removes the stages it left behind. Called before anything else of the
/// group is opened.
///
/// # Errors
/// The journal's, the engine's, or a stage that does not verify.
pub async fn finish_interrupted(
    journal: &Arc<dyn Journal>,
    engine: &Arc<dyn Engine>,
    blocking: &Blocking,
    shard: &Arc<Shard>,
) -> Result<(), StorageError> {
    let group = GroupId::from(shard.spec().shard);
    if let Some(begun) = journal.group(group).installing {
        shard.begin_installing();
        let staged = StagedSnapshot::decode(&begun)?;
        tracing::info!(%group, position = ?staged.applied.position, "finishing an interrupted installation");
        let upto = redo(blocking, shard.clone(), staged).await?;
        if let Some(upto) = upto {
            let purged = Mark::Purged { index: upto.index, log_id: encode_log_id(&upto) };
            journal.mark(group, purged, Completion::None)?;
        }
        let (done, told) = oneshot::channel();
        let signal = Completion::Signal(Box::new(move |result| {
            let _ = done.send(result);
        }));
        journal.mark(group, Mark::InstallDone, signal)?;
        told.await.unwrap_or(Err(StorageError::Stopped))?;
        tracing::info!(%group, "the interrupted installation is finished");
    }
    let engine = engine.clone();
    blocking
        .run(move || {
            for counter in ReplicaStore::own_stages(group, &engine.stages()?) {
                engine.discard_stage(ReplicaStore::stage_id(group, counter))?;
            }
            Ok(())
        })
        .await
}
