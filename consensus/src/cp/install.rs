//! Installing a snapshot: a redo.
//!
//! ```text
//!   InstallBegin durable ─▶ Shard::install ─▶ Purged + InstallDone durable ─▶ the stage may go
//! ```
//!
//! A start that finds a begin without its done repeats the middle from the verified files, before the group opens
//! (rule S4). A worker of openraft may outlive its Raft instance: every step is taken inside the door, so that an
//! installation ends where the replica is opened anew or removed, and nothing of it comes after that.

use super::{
    codec::raft::encode_log_id,
    door::Pass,
    store::ReplicaStore,
    types::{LogId, log_id},
};
use kvorum_api::GroupId;
use kvorum_storage::{
    Blocking, Engine, Journal, Shard, StorageError,
    journal::{Completion, Mark},
    planted,
    shard::StagedSnapshot,
};
use std::sync::Arc;
use tokio::sync::oneshot;

impl ReplicaStore {
    /// Replaces the shard by a staged snapshot, on behalf of one opening of the replica.
    ///
    /// # Errors
    /// The journal's or the engine's; the shard then refuses reads and applies until a restart has repeated it.
    /// `Stopped` if the opening is over.
    pub(crate) async fn install(&self, staged: StagedSnapshot, pass: &Pass) -> Result<(), StorageError> {
        if !planted!("bug-install-not-atomic") {
            self.mark_durably(Mark::InstallBegin(staged.encode()), Some(pass)).await?;
        }
        tracing::info!(group = %self.group, position = ?staged.applied.position, "installing a snapshot");
        let redone = redo(&self.blocking, self.shard.clone(), staged.clone(), Some(pass.clone())).await;
        let upto = redone.inspect_err(|error| self.poison_if_fatal(error))?;
        if let Some(upto) = upto {
            let purged = || Mark::Purged { index: upto.index, log_id: encode_log_id(&upto) };
            while let Err(error) = self.mark_inside(purged(), Completion::None, Some(pass)) {
                let StorageError::DiskFull(why) = error else { return Err(error) };
                self.wait_for_room(&why).await?;
            }
        }
        self.mark_durably(Mark::InstallDone, Some(pass)).await?;
        tracing::info!(group = %self.group, "the snapshot is installed");
        if let Some(upto) = upto {
            self.end_moved(upto);
        }
        let (engine, stage) = (self.engine.clone(), staged.manifest.id);
        self.blocking.run(move || engine.discard_stage(stage)).await
    }
}

/// The middle of an installation; gives the entry the log goes on behind.
async fn redo(
    blocking: &Blocking,
    shard: Arc<Shard>,
    staged: StagedSnapshot,
    pass: Option<Pass>,
) -> Result<Option<LogId>, StorageError> {
    let upto = staged.applied.position.map(log_id);
    let install = move || {
        let _inside = pass.as_ref().map(|pass| pass.enter().ok_or(StorageError::Stopped)).transpose()?;
        shard.install(&staged)
    };
    blocking.run(install).await?;
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
        let upto = redo(blocking, shard.clone(), staged, None).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cp::door::Door, health::Health};
    use futures::FutureExt as _;
    use kvorum_api::{KeyspaceId, LogPosition, ShardId};
    use kvorum_storage::{
        engine::mem::MemEngine,
        journal::{BatchNumber, JournalOptions, MemDisk, MemJournal},
        shard::{LoggedEntry, ShardSpec, Step},
    };

    const SPEC: ShardSpec = ShardSpec { shard: ShardId(1), keyspace: KeyspaceId(1) };

    /// Rule G3: a worker that outlived its Raft instance installs nothing, be the shard gone meanwhile or opened anew;
    /// that it is late is no failure of the disk.
    #[tokio::test]
    async fn a_former_opening_installs_nothing_and_poisons_nobody() {
        for is_begun in [false, true] {
            let engine = MemEngine::fresh();
            let shard = Shard::open(engine.clone(), SPEC).unwrap();
            let journal = MemJournal::open_stepped(MemDisk::new(), JournalOptions::small()).unwrap();
            let health = Arc::new(Health::default());
            let parts = (journal.clone() as Arc<dyn Journal>, engine as Arc<dyn Engine>, Blocking::inline());
            let store = ReplicaStore::open(parts, shard.clone(), health.clone(), 1 << 20).unwrap();
            let staged = staged(&shard);
            let door = Arc::new(Door::default());
            let pass = door.open();
            if !is_begun {
                drop(door.open());
            }
            let mut installing = Box::pin(store.install(staged, &pass));
            if is_begun {
                assert!((&mut installing).now_or_never().is_none(), "it waits for the journal");
                drop(door.open());
                journal.run();
            }
            let ended = installing.now_or_never().expect("nothing is waited for");
            assert!(matches!(ended, Err(StorageError::Stopped)), "{ended:?}");
            assert_eq!(shard.state().applied.position, None);
            assert_eq!(journal.group(GroupId(1)).installing.is_some(), is_begun);
            assert!(!health.is_poisoned());
        }
    }

    /// Another shard's state, verified in a stage of this one.
    fn staged(shard: &Arc<Shard>) -> StagedSnapshot {
        let other = Shard::open(MemEngine::fresh(), SPEC).unwrap();
        let position = LogPosition { term: 1, index: 1 };
        other.apply(&[LoggedEntry { position, batch: BatchNumber(1), step: Step::Blank }]).unwrap();
        let mut view = other.snapshot().unwrap();
        let mut receiver = shard.receive_snapshot(ReplicaStore::stage_id(GroupId(1), 0)).unwrap();
        while let Some(chunk) = view.next_chunk(1 << 20).unwrap() {
            receiver.put_chunk(&chunk).unwrap();
        }
        receiver.finish().unwrap()
    }
}
