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
//! has counted and names no more is erased: an older map may not know it yet. A replica is judged by its own id, not by
//! its shard's: the shard may live on elsewhere, or here in another replica.

use super::{Groups, Replica};
use crate::{
    cp::removal,
    metadata::{ClusterMap, METADATA_KEYSPACE, METADATA_SHARD},
    node::StartError,
};
use kvorum_api::{GroupId, KeyspaceId, NodeId, ReplicaId, ShardId};
use kvorum_storage::{StorageError, journal::NODE_GROUP, shard::ShardSpec};
use std::{collections::BTreeSet, sync::Arc};

impl Groups {
    /// Ends what the map dropped, and erases what an earlier life of the node has left of shards dropped since. Begins
    /// with whatever an earlier round has not finished.
    ///
    /// # Errors
    /// The first that could not be erased or forgotten: it is tried again with the next round. The others are gone.
    pub(super) async fn drop_gone(&self, map: &ClusterMap) -> Result<(), StartError> {
        self.part_with(map);
        let leaving = self.erase_leaving(map).await;
        let orphans = self.erase_orphans(map).await;
        leaving.and(orphans)
    }

    /// Moves what the map dropped from those that are held to those that leave.
    fn part_with(&self, map: &ClusterMap) {
        let (mut held, mut leaving) = (self.held.write(), self.leaving.lock());
        let gone = held.extract_if(.., |group, replica| map.has_dropped((*group).into(), replica.id()));
        for (group, replica) in gone {
            self.creating.lock().remove(&group);
            tracing::info!(shard = %replica.shard_id(), replica = %replica.id(), "the map names the replica no more");
            leaving.insert(group, replica);
        }
    }

    async fn erase_leaving(&self, map: &ClusterMap) -> Result<(), StartError> {
        let leaving: Vec<Arc<Replica>> = self.leaving.lock().values().cloned().collect();
        let mut first_failure = Ok(());
        let mut erased = Vec::new();
        for replica in leaving {
            match replica.remove(why_gone(map, replica.shard_id())).await {
                Ok(()) => erased.push(replica.group_id()),
                Err(error) => first_failure = first_failure.and(Err(stays(replica.group_id(), &error))),
            }
        }
        let forgotten = self.forget(&erased).await;
        first_failure.and(forgotten)
    }

    /// Whether a replica that is held is one that the map names no more.
    pub(super) fn has_gone(&self, map: &ClusterMap) -> bool {
        self.held.read().iter().any(|(group, replica)| map.has_dropped((*group).into(), replica.id()))
    }

    /// What lies in the journal under groups that nobody holds and that the map has seen come and go.
    pub(super) fn orphans(&self, map: &ClusterMap) -> Vec<GroupId> {
        let is_nobodys = |group: &GroupId| {
            *group != NODE_GROUP && self.get(*group).is_none() && !self.leaving.lock().contains_key(group)
        };
        let nobodys: Vec<GroupId> = self.shared.env.journal.groups().into_iter().filter(is_nobodys).collect();
        let orphans = nobodys.into_iter().filter(|group| match self.recorded(*group, founders(map, *group)) {
            // Somebody has begun to erase it: a map that knows the shard knows which rows are meant.
            Some(removal::NOBODY) => map.is_founded() && *group < GroupId::from(map.counters.next_shard),
            Some(replica) => map.has_dropped((*group).into(), replica),
            // Of an older directory: nothing is known but the shard, and ids only grow.
            None => *group < GroupId::from(map.counters.next_shard) && !is_named(map, *group),
        });
        orphans.collect()
    }

    async fn erase_orphans(&self, map: &ClusterMap) -> Result<(), StartError> {
        let orphans = self.orphans(map).into_iter();
        let (of_living, of_dropped): (Vec<GroupId>, Vec<GroupId>) = orphans.partition(|group| is_named(map, *group));
        self.erase_orphans_of_living(map, &of_living).await?;
        let Some(first) = of_dropped.first().copied() else { return Ok(()) };
        for group in &of_dropped {
            tracing::info!(shard = %ShardId::from(*group), "erases what is left of a shard that was dropped");
        }
        let living = self.living_keyspaces(map);
        let uncounted = map.counters.next_keyspace;
        let is_no_more = move |keyspace| keyspace < uncounted && !living.contains(&keyspace);
        let erased = removal::erase_orphans(&self.shared.env, of_dropped.clone(), is_no_more).await;
        erased.map_err(|error| stays(first, &error))?;
        self.forget(&of_dropped).await
    }

    /// What former replicas have left here of shards that live on.
    async fn erase_orphans_of_living(&self, map: &ClusterMap, orphans: &[GroupId]) -> Result<(), StartError> {
        for group in orphans {
            let shard = ShardId::from(*group);
            tracing::info!(%shard, "erases what a former replica has left");
            let keyspace = map.shards.get(&shard).map_or(METADATA_KEYSPACE, |row| row.keyspace);
            let erased = removal::erase_former(&self.shared.env, ShardSpec { shard, keyspace }).await;
            erased.map_err(|error| stays(*group, &error))?;
        }
        self.forget(orphans).await
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
    group == GroupId::from(METADATA_SHARD) || map.shards.contains_key(&ShardId::from(group))
}

fn founders(map: &ClusterMap, group: GroupId) -> &[(ReplicaId, NodeId)] {
    map.shards.get(&ShardId::from(group)).map_or(&[], |row| &row.founders)
}

fn why_gone(map: &ClusterMap, shard: ShardId) -> &'static str {
    if is_named(map, shard.into()) { "its replica was moved to another node" } else { "its keyspace was dropped" }
}

/// Why something that was dropped is still there, as the chore says it.
fn stays(group: GroupId, error: &StorageError) -> StartError {
    StartError::Group {
        shard: group.into(),
        why: format!("its replica went, and not all of it is erased yet: {error}"),
    }
}
