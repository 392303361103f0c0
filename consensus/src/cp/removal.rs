//! Removing a replica for good: its rows, its diary, what lies staged for it.
//!
//! ```text
//!   nobody's ─▶ erase, any number of shards ─▶ one flush of the engine ─▶ ReplicaRemoved in the journal
//! ```
//!
//! **Invariant.** Before the first row goes, the journal says durably that what is there is nobody's: power may be
//! lost, and an older copy of the map would let the replica begin again with its old log and none of its rows. The
//! journal forgets a replica only once nothing of it can come back from the engine: else nobody would know of it any
//! more. Every step may be repeated.

use super::store::ReplicaStore;
use crate::env::Env;
use futures::future::try_join_all;
use kvorum_api::{GroupId, KeyspaceId, ReplicaId, ShardId};
use kvorum_storage::{
    Shard, StorageError,
    journal::{Completion, Mark},
    shard::{ShardSpec, StagedSnapshot, orphans::Orphans},
};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Of whom the journal says that a group's data are once they are being erased: no replica has that id.
pub(crate) const NOBODY: ReplicaId = ReplicaId(0);

/// Says durably that what there is of a group is nobody's.
async fn disown(env: &Env, group: GroupId) -> Result<(), StorageError> {
    if env.journal.group(group).replica == Some(NOBODY.0) {
        return Ok(());
    }
    mark(env, group, Mark::Replica(NOBODY.0)).await
}

/// Removes everything of a shard from the engine. Not durable before the engine is flushed.
///
/// # Errors
/// The engine's.
pub(crate) async fn erase(env: &Env, shard: Arc<Shard>) -> Result<(), StorageError> {
    let group = GroupId::from(shard.spec().shard);
    disown(env, group).await?;
    let begun = env.journal.group(group).installing.map(|begun| StagedSnapshot::decode(&begun)).transpose()?;
    let engine = env.engine.clone();
    let erased = env.blocking.run(move || {
        let stages = engine.stages()?;
        let own = ReplicaStore::own_stages(group, &stages).map(|counter| ReplicaStore::stage_id(group, counter));
        shard.remove(begun.as_ref(), &own.collect::<Vec<_>>())
    });
    erased.await
}

/// Removes what a replica that nobody holds has left of a shard that lives on elsewhere. Not durable before the engine
/// is flushed.
///
/// # Errors
/// The engine's.
pub(crate) async fn erase_former(env: &Env, spec: ShardSpec) -> Result<(), StorageError> {
    let engine = env.engine.clone();
    let shard = env.blocking.run(move || Shard::open(engine, spec)).await?;
    erase(env, shard).await
}

/// Removes what is left in the engine of groups that nobody holds, durably, and the rows of every keyspace of which
/// `is_no_more` says so.
///
/// # Errors
/// The engine's.
pub(crate) async fn erase_orphans(
    env: &Env,
    groups: Vec<GroupId>,
    is_no_more: impl Fn(KeyspaceId) -> bool + Send + 'static,
) -> Result<(), StorageError> {
    try_join_all(groups.iter().map(|group| disown(env, *group))).await?;
    let engine = env.engine.clone();
    let erased = env.blocking.run(move || {
        let stages = engine.stages()?;
        let own = groups.iter().flat_map(|group| {
            ReplicaStore::own_stages(*group, &stages).map(|counter| ReplicaStore::stage_id(*group, counter))
        });
        let stages = own.collect();
        Orphans { shards: groups.into_iter().map(ShardId::from).collect(), stages }.erase(&*engine, is_no_more)
    });
    erased.await
}

/// Tells the journal that a replica is gone, durably.
///
/// # Errors
/// The journal's.
pub(crate) async fn forget(env: &Env, group: GroupId) -> Result<(), StorageError> {
    mark(env, group, Mark::ReplicaRemoved).await
}

/// Writes a mark and waits until it is durable.
async fn mark(env: &Env, group: GroupId, mark: Mark) -> Result<(), StorageError> {
    let (done, told) = oneshot::channel();
    let signal = Completion::Signal(Box::new(move |result| {
        let _ = done.send(result);
    }));
    env.journal.mark(group, mark, signal)?;
    told.await.unwrap_or(Err(StorageError::Stopped))
}
