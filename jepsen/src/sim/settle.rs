//! Settle: what must be true once the world is whole again.
//!
//! ```text
//!   nobody changes anything ─▶ one map everywhere ─▶ every shard takes a write ─▶ every key is read
//!                           ─▶ the history is judged ─▶ replicas agree
//!     ─▶ readers of diaries know what is there ─▶ nothing of what was dropped is left on any disk
//! ```
//!
//! **Invariant.** Everything here ends within a bound of simulated time, or is a violation.

use super::{
    diary,
    history::{Key, Record, violations},
    observe::positions,
    remains::{Living, remains},
    steward::Grave,
    verdict,
    workload::{Client, Desk},
    world::{CLIENTS, PATIENCE, World},
};
use kvorum_api::{NodeId, ShardId};
use kvorum_consensus::{
    RequestContext,
    metadata::{ClusterMap, METADATA_KEYSPACE, METADATA_SHARD},
};
use kvorum_storage::{Condition, Operation, WriteCommand, keys};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// How long a write through a handle to what was dropped may take to be refused.
const GRAVE_PATIENCE: Duration = Duration::from_secs(2);

impl World {
    /// Judges everything.
    pub(super) async fn settle(&mut self, desk: &Desk) {
        self.come_to_rest().await;
        if !self.wait_until(PATIENCE, World::has_one_map).await {
            let maps = self.running().map(|(id, node)| {
                let held: Vec<ShardId> = positions(node).into_keys().collect();
                format!("node {id} is at revision {} and holds shards {held:?}", node.map().revision)
            });
            self.complain(format!(
                "nodes do not agree on the map within {PATIENCE:?}: {}",
                maps.collect::<Vec<_>>().join("; ")
            ));
        }
        let Some(map) = self.observer.newest_map().cloned() else { return };
        for violation in desk.ledger.lock().violations(&map, &self.observer.names) {
            self.complain(violation);
        }
        let mut last = Client::new(CLIENTS + 1, self.seed, desk.clone());
        desk.ledger.lock().leaving.retain(|keyspace| !map.keyspaces.contains_key(keyspace));
        last.touch_every_shard(&map).await;
        let finally = self.read_everything(desk, &map, &mut last).await;
        let history = desk.history.lock().clone();
        for violation in violations(&history, &finally).into_iter().chain(verdict::judge(&history, &finally)) {
            self.complain(violation);
        }
        self.finally = finally;
        if !self.wait_until(PATIENCE, World::agrees).await {
            let stands: Vec<String> = self.running().map(|(id, node)| format!("{id}: {:?}", positions(node))).collect();
            self.complain(format!("replicas do not agree within {PATIENCE:?}: {}", stands.join(", ")));
        }
        for violation in self.misnamed(&map) {
            self.complain(violation);
        }
        self.read_diaries(desk).await;
        self.visit_graves(desk, &map).await;
        if !self.wait_until(PATIENCE, World::is_swept).await {
            let found: Vec<String> = self.strangers().map(|(id, found)| format!("node {id}: {found:?}")).collect();
            self.complain(format!("what was dropped is still on disk after {PATIENCE:?}: {}", found.join("; ")));
        }
    }

    async fn read_everything(&mut self, desk: &Desk, map: &ClusterMap, reader: &mut Client) -> Vec<Record> {
        let keys: BTreeSet<Key> = desk.history.lock().iter().map(|record| record.key.clone()).collect();
        let mut finally = Vec::new();
        for key in keys.into_iter().filter(|key| map.keyspaces.contains_key(&key.keyspace)) {
            self.look();
            match reader.read_finally(&key).await {
                Ok(found) => finally.push(found),
                Err(why) => {
                    self.complain(why);
                    break;
                }
            }
        }
        finally
    }

    /// Readers of diaries come to their ends, and what they were handed is judged.
    async fn read_diaries(&mut self, desk: &Desk) {
        let readers = std::mem::take(&mut *desk.readers.lock());
        for mut reader in readers {
            self.look();
            if let Err(why) = reader.finish().await {
                self.complain(why);
            }
        }
        for violation in diary::judge(&desk.handed.lock()) {
            self.complain(violation);
        }
    }

    /// Nothing is written through handles to replicas of shards that were dropped.
    async fn visit_graves(&mut self, desk: &Desk, map: &ClusterMap) {
        let graves = std::mem::take(&mut desk.ledger.lock().graves);
        let is_real = |grave: &Grave| grave.life.goes_on() && !map.keyspaces.contains_key(&grave.keyspace);
        for Grave { node, keyspace, replica, .. } in graves.into_iter().filter(is_real) {
            let operation = Operation::Put {
                key: bytes::Bytes::from_static(b"late"),
                value: bytes::Bytes::new(),
                ttl_ms: None,
                condition: Condition::Always,
                return_previous: false,
            };
            let command = WriteCommand { request: None, operations: vec![operation] };
            let context = RequestContext { timeout: GRAVE_PATIENCE, ..RequestContext::default() };
            if let Ok(written) = replica.write(command, context).await {
                self.complain(format!("node {node} wrote to keyspace {keyspace}, which was dropped: {written:?}"));
            }
        }
    }

    /// Whether all nodes run, have the same map, and hold what it places on them and nothing else.
    pub(super) fn has_one_map(&self) -> bool {
        let maps: Vec<(NodeId, Arc<ClusterMap>, BTreeSet<ShardId>)> =
            self.running().map(|(id, node)| (id, node.map(), positions(node).into_keys().collect())).collect();
        maps.len() == self.machines.len()
            && maps.iter().all(|(id, map, held)| {
                map.revision == maps[0].1.revision && *held == placed_on(map, *id).collect::<BTreeSet<_>>()
            })
    }

    /// Whether nothing of what was dropped is left on any disk.
    fn is_swept(&self) -> bool {
        self.strangers().next().is_none()
    }

    /// What lies on the disk of a node and belongs to nothing that the node's map places there.
    fn strangers(&self) -> impl Iterator<Item = (NodeId, Vec<String>)> {
        let running = self.machines.iter().filter_map(|(id, machine)| Some((*id, machine.running.as_ref()?)));
        running.filter_map(|(id, running)| {
            let map = running.node.map();
            let shards: BTreeSet<ShardId> = placed_on(&map, id).collect();
            let rows = |shard: &ShardId| match map.shards.get(shard) {
                Some(row) => keys::data_range(row.keyspace, &row.range),
                None => keys::keyspace_range(METADATA_KEYSPACE),
            };
            let living = Living { rows: shards.iter().map(rows).collect(), shards };
            let found =
                remains(&*running.engine, &*running.journal, &living).unwrap_or_else(|why| vec![why.to_string()]);
            (!found.is_empty()).then_some((id, found))
        })
    }

    /// Whether the replicas of every shard stand at one position with one hash, behind nothing that was decided.
    fn agrees(&self) -> bool {
        let mut stands: BTreeMap<ShardId, BTreeSet<_>> = BTreeMap::new();
        for (_, node) in self.running() {
            for (shard, stand) in positions(node) {
                stands.entry(shard).or_default().insert(stand);
            }
        }
        stands.iter().all(|(shard, stands)| match stands.first() {
            Some(Some((position, _))) => stands.len() == 1 && position.index >= self.observer.decided(*shard),
            Some(None) | None => false,
        })
    }
}

/// The shards that a map places on a node, the metadata included where the node holds it.
fn placed_on(map: &ClusterMap, node: NodeId) -> impl Iterator<Item = ShardId> {
    let placed = map.shards.keys().copied().filter(move |shard| map.replica_on(*shard, node).is_some());
    let holds_metadata = map.metadata.iter().any(|row| row.node == node);
    holds_metadata.then_some(METADATA_SHARD).into_iter().chain(placed)
}
