//! Removing a replica for good: its rows, its diary, what lies staged for it.
//!
//! ```text
//!   erase, any number of shards ─▶ one flush of the engine ─▶ ReplicaRemoved in the journal
//! ```
//!
//! **Invariant.** The journal forgets a replica only once nothing of it can come back from the engine: else nobody
//! would know of it any more. Every step may be repeated.

use super::store::ReplicaStore;
use crate::env::Env;
use kvorum_api::GroupId;
use kvorum_storage::{
    Shard, StorageError,
    journal::{Completion, Mark},
    shard::StagedSnapshot,
};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Removes everything of a shard from the engine. Not durable before the engine is flushed.
///
/// # Errors
/// The engine's.
pub(crate) async fn erase(env: &Env, shard: Arc<Shard>) -> Result<(), StorageError> {
    let group = GroupId::from(shard.spec().shard);
    let begun = env.journal.group(group).installing.map(|begun| StagedSnapshot::decode(&begun)).transpose()?;
    let engine = env.engine.clone();
    let erased = env.blocking.run(move || {
        let stages = engine.stages()?;
        let own = ReplicaStore::own_stages(group, &stages).map(|counter| ReplicaStore::stage_id(group, counter));
        shard.remove(begun.as_ref(), &own.collect::<Vec<_>>())
    });
    erased.await
}

/// Tells the journal that a replica is gone, durably.
///
/// # Errors
/// The journal's.
pub(crate) async fn forget(env: &Env, group: GroupId) -> Result<(), StorageError> {
    let (done, told) = oneshot::channel();
    let signal = Completion::Signal(Box::new(move |result| {
        let _ = done.send(result);
    }));
    env.journal.mark(group, Mark::ReplicaRemoved, signal)?;
    told.await.unwrap_or(Err(StorageError::Stopped))
}
