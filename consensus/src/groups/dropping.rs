//! Dropping: what the map no longer names leaves this node, and nothing of it stays.
//!
//! ```text
//!   held ──the map drops it──▶ leaving ──erase──▶ flush ──▶ forget ──▶ gone          a replica of this life
//!                                 ▲                 │
//!                                 └──── failed ─────┘ the next round begins again
//!
//!   in the journal, in no map and held by nobody ──erase──▶ flush ──▶ forget          what an earlier life left
//! ```
//!
//! The journal is the last to forget, so whatever is interrupted anywhere is found again: in this life among those that
//! leave, in a later one among the groups of the journal.
//!
//! **Invariant.** A replica that leaves serves nobody and is kept until the journal has forgotten it. Only what a map
//! has counted and names no more is erased: an older map may not know it yet.

use super::{Groups, Replica};
use crate::{
    cp::removal,
    metadata::{ClusterMap, METADATA_KEYSPACE, METADATA_SHARD},
    node::StartError,
};
use kvorum_api::{GroupId, KeyspaceId, ShardId};
use kvorum_storage::{StorageError, journal::NODE_GROUP};
use std::{collections::BTreeSet, sync::Arc};

impl Groups {
    /// Ends what the map dropped, and erases what an earlier life of the node has left of shards dropped since. Begins
    /// with whatever an earlier round has not finished.
    ///
    /// # Errors
    /// The first that could not be erased or forgotten: it is tried again with the next round. The others are gone.
    pub(super) async fn drop_gone(&self, map: &ClusterMap) -> Result<(), StartError> {
        self.part_with(map);
        let leaving = self.erase_leaving().await;
        let orphans = self.erase_orphans(map).await;
        leaving.and(orphans)
    }

    /// Moves what the map dropped from those that are held to those that leave.
    fn part_with(&self, map: &ClusterMap) {
        let (mut held, mut leaving) = (self.held.write(), self.leaving.lock());
        let gone = held.extract_if(.., |group, replica| !replica.place().is_kept && !is_named(map, *group));
        for (group, replica) in gone {
            self.creating.lock().remove(&group);
            tracing::info!(shard = %replica.shard_id(), "the shard was dropped");
            leaving.insert(group, replica);
        }
    }

    async fn erase_leaving(&self) -> Result<(), StartError> {
        let leaving: Vec<Arc<Replica>> = self.leaving.lock().values().cloned().collect();
        let mut first_failure = Ok(());
        let mut erased = Vec::new();
        for replica in leaving {
            match replica.remove("its keyspace was dropped").await {
                Ok(()) => erased.push(replica.group_id()),
                Err(error) => first_failure = first_failure.and(Err(stays(replica.group_id(), &error))),
            }
        }
        let forgotten = self.forget(&erased).await;
        first_failure.and(forgotten)
    }

    /// What lies in the journal under groups that nobody holds and that the map has seen come and go.
    async fn erase_orphans(&self, map: &ClusterMap) -> Result<(), StartError> {
        // Ids only grow: a map that has counted beyond a shard has seen this one come and go.
        let unborn = GroupId::from(map.counters.next_shard);
        let is_orphan = |group: &GroupId| {
            *group != NODE_GROUP
                && *group != GroupId::from(METADATA_SHARD)
                && *group < unborn
                && !is_named(map, *group)
                && self.get(*group).is_none()
                && !self.leaving.lock().contains_key(group)
        };
        let orphans: Vec<GroupId> = self.shared.env.journal.groups().into_iter().filter(is_orphan).collect();
        let Some(first) = orphans.first().copied() else { return Ok(()) };
        for group in &orphans {
            tracing::info!(shard = %ShardId::from(*group), "erases what is left of a shard that was dropped");
        }
        let living = self.living_keyspaces(map);
        let uncounted = map.counters.next_keyspace;
        let is_no_more = move |keyspace| keyspace < uncounted && !living.contains(&keyspace);
        let erased = removal::erase_orphans(&self.shared.env, orphans.clone(), is_no_more).await;
        erased.map_err(|error| stays(first, &error))?;
        self.forget(&orphans).await
    }

    /// Keyspaces that may have rows of somebody who lives.
    fn living_keyspaces(&self, map: &ClusterMap) -> BTreeSet<KeyspaceId> {
        let named = map.keyspaces.keys().copied().chain(map.shards.values().map(|row| row.keyspace));
        let held = self.all().into_iter().map(|replica| replica.shard().spec().keyspace);
        named.chain(held).chain([METADATA_KEYSPACE]).collect()
    }

    /// Has the journal forget what is erased, after one flush for all: nothing of it can come back from the engine.
    async fn forget(&self, erased: &[GroupId]) -> Result<(), StartError> {
        let Some(first) = erased.first().copied() else { return Ok(()) };
        let engine = self.shared.env.engine.clone();
        let flushed = self.shared.env.blocking.run(move || engine.flush()).await;
        flushed.map_err(|error| stays(first, &error))?;
        let mut first_failure = Ok(());
        for group in erased {
            match removal::forget(&self.shared.env, *group).await {
                Ok(()) => drop(self.leaving.lock().remove(group)),
                Err(error) => first_failure = first_failure.and(Err(stays(*group, &error))),
            }
        }
        first_failure
    }
}

fn is_named(map: &ClusterMap, group: GroupId) -> bool {
    map.shards.contains_key(&ShardId::from(group))
}

/// Why something that was dropped is still there, as the chore says it.
fn stays(group: GroupId, error: &StorageError) -> StartError {
    StartError::Group { shard: group.into(), why: format!("it was dropped, and not all of it is erased yet: {error}") }
}
