//! Rest: what must be true of replicas, operators and nodes once nobody changes anything any more.
//!
//! ```text
//!   every errand done ─▶ no operator open ─▶ as many replicas as wished ─▶ who is drained is empty
//!        ─▶ every shard is woken (settle) ─▶ map = members by Raft
//! ```
//!
//! **Invariant.** What is not so after long enough is told together with what it waits for.

use super::world::World;
use kvorum_api::{NodeId, ReplicaId, ShardId};
use kvorum_consensus::{
    Node,
    cp::Members,
    metadata::{ClusterMap, METADATA_SHARD, NodeState, plan::metadata_replicas},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// How long people wait for what they asked for, once the world is whole. A newcomer that never answers is given up
/// after a minute, and much else waits for that.
const PATIENCE: Duration = Duration::from_secs(240);

/// A failure of a chore that is worth telling.
const RECENT: Duration = Duration::from_secs(10);

/// For how long nothing must change.
const CALM: Duration = Duration::from_secs(4);

/// How often it may look calm and not be.
const ALARMS_MAX: usize = 20;

impl World {
    /// Waits until nobody changes anything any more, and says what stands in the way for too long.
    pub(super) async fn come_to_rest(&mut self) {
        self.take_back().await;
        let deadline = Instant::now() + PATIENCE;
        for _ in 0..ALARMS_MAX {
            let patience = deadline.saturating_duration_since(Instant::now());
            if !self.wait_until(patience, World::is_at_rest).await {
                break;
            }
            let revision = self.observer.newest_map().map(|map| map.revision);
            let calm = Instant::now() + CALM;
            while Instant::now() < calm && self.is_at_rest() {
                self.look();
                sleep(Duration::from_millis(250)).await;
            }
            if self.is_at_rest() && self.observer.newest_map().map(|map| map.revision) == revision {
                return;
            }
        }
        let found = self.unrest();
        let mut found = if found.is_empty() { vec!["something always changes".to_owned()] } else { found };
        found.extend(self.complaints());
        self.complain(format!("the cluster does not come to rest within {PATIENCE:?}: {}", found.join("; ")));
    }

    fn is_at_rest(&self) -> bool {
        self.unrest().is_empty()
    }

    /// What is not as it should be in the end.
    fn unrest(&self) -> Vec<String> {
        let mut found = self.members.waits_for();
        if !self.has_one_map() {
            found.push("nodes have different maps, or hold something else".to_owned());
        }
        let Some(map) = self.observer.newest_map() else { return found };
        for row in map.operators.values().filter(|row| row.is_open()) {
            let waits = self.running().filter_map(|(_, node)| node.replica(row.shard)?.waits_for());
            let waits: Vec<String> = waits.collect();
            found.push(format!(
                "operator {} ({} of shard {}) is {}: {}",
                row.id,
                row.task,
                row.shard,
                row.state,
                waits.join(", ")
            ));
        }
        found.extend(self.miscounted(map));
        found
    }

    /// What chores of nodes complain about: most of what takes too long is one of them that cannot go on.
    fn complaints(&self) -> Vec<String> {
        let of_node = |(id, node): (NodeId, &Arc<Node>)| {
            let status = node.status();
            let failed = status.workers.into_iter().filter_map(move |worker| {
                let failure = worker.last_failure.filter(|failure| failure.ago < RECENT)?;
                Some(format!("{} of node {id}: {}", worker.name, failure.why))
            });
            failed.chain(status.degraded.into_iter().map(move |why| format!("node {id}: {why}"))).collect::<Vec<_>>()
        };
        self.running().flat_map(of_node).collect()
    }

    /// How the members of shards differ from those on the map. Who slept through a change knows it once it was woken.
    pub(super) fn misnamed(&self, map: &ClusterMap) -> Vec<String> {
        shards(map).filter_map(|shard| self.differs(map, shard)).collect()
    }

    /// How the members of a shard differ from those on the map, wherever it is held.
    fn differs(&self, map: &ClusterMap, shard: ShardId) -> Option<String> {
        let wished: BTreeSet<ReplicaId> = map.replicas_of(shard).iter().map(|row| row.replica).collect();
        let honest = Members { voters: vec![wished], learners: BTreeSet::new() };
        self.running().find_map(|(id, node)| {
            let replica = node.replica(shard)?;
            let members = Members::applied(&replica.shard().state());
            let is_same = members.as_ref() == Some(&honest);
            (!is_same).then(|| format!("shard {shard} has {honest:?} on the map, and by node {id} {members:?}"))
        })
    }

    /// Shards with another number of replicas than they should have, and nodes that should hold none.
    fn miscounted(&self, map: &ClusterMap) -> Vec<String> {
        let mut found = Vec::new();
        for row in map.shards.values() {
            let wished = map.keyspaces.get(&row.keyspace).map_or(0, |keyspace| keyspace.replicas as usize);
            if row.replicas.len() != wished {
                found.push(format!("shard {} has {} replicas and should have {wished}", row.shard, row.replicas.len()));
            }
        }
        let active = map.nodes.values().filter(|row| row.state == NodeState::Active).count();
        let is_balanced = self.drawn.moving.as_ref().is_some_and(|moving| moving.rules.is_on);
        if is_balanced && map.metadata.len() != metadata_replicas(active) {
            let (has, wished) = (map.metadata.len(), metadata_replicas(active));
            found.push(format!("the metadata has {has} replicas and should have {wished}"));
        }
        for shard in shards(map) {
            let stray = map.replicas_of(shard).iter().map(|row| row.node).find(|node| !may_hold(map, *node));
            found.extend(stray.map(|node| format!("shard {shard} is held by node {node}, which should hold nothing")));
        }
        found
    }
}

fn shards(map: &ClusterMap) -> impl Iterator<Item = ShardId> {
    std::iter::once(METADATA_SHARD).chain(map.shards.keys().copied())
}

fn may_hold(map: &ClusterMap, node: NodeId) -> bool {
    map.nodes.get(&node).is_some_and(|row| row.state == NodeState::Active)
}
