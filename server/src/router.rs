//! # The hall: key → shard → replicator
//!
//! ```text
//!   the cluster's map ──taken in, revision by revision──▶ Hall (swapped whole) ◀── every request takes the newest
//!
//!   keyspace name ──▶ Keyspace { row, shards } ──▶ placement key ──▶ ShardRoute { row, replica here or elsewhere }
//! ```
//!
//! **Invariant.** Every placement key of a keyspace lies in exactly one of its shards: the first one starts at the
//! empty key, and each reaches to the start of the next. A request sees one revision of the map from its first look to
//! its last.
//!
//! **Deliberately absent.** Consistency. The hall shows the way; what a level or an acknowledgement means is decided in
//! the council room.

use arc_swap::ArcSwap;
use bytes::Bytes;
use kvorum_api::{NodeId, Refused, ShardId};
use kvorum_consensus::{
    Replicator,
    metadata::{ClusterMap, KeyspaceRow, METADATA_KEYSPACE, ShardRow},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

/// Finds the replica of a shard on this node; `None` = it has not been made yet, or is gone.
pub type ReplicatorOf = Arc<dyn Fn(ShardId) -> Option<Arc<dyn Replicator>> + Send + Sync>;

/// Bytes of an unknown name that a refusal repeats.
const NAME_BYTES_SAID_MAX: usize = 64;

/// The way to one shard.
pub struct ShardRoute {
    /// What the map says about it.
    pub row: ShardRow,
    /// `None` = no replica of it belongs here. Filled when the replica has been made.
    here: Option<OnceLock<Arc<dyn Replicator>>>,
    replicator_of: ReplicatorOf,
}

/// Why a shard is not served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// Its replicas are on other nodes.
    Elsewhere,
    /// Its replica on this node has not been made yet.
    NotYet,
}

/// One keyspace, as requests meet it.
pub struct Keyspace {
    /// What the map says about it.
    pub row: KeyspaceRow,
    shards: Vec<Arc<ShardRoute>>,
}

/// Every keyspace, at one revision of the map.
pub struct Hall {
    /// The map it was made from.
    pub map: Arc<ClusterMap>,
    keyspaces: BTreeMap<String, Arc<Keyspace>>,
}

/// The newest hall.
pub struct Router {
    here: NodeId,
    replicator_of: ReplicatorOf,
    hall: ArcSwap<Hall>,
    /// Held while a map is taken in: the newest wins, however many bring one.
    taking: Mutex<()>,
}

impl ShardRoute {
    /// The replica on this node.
    ///
    /// # Errors
    /// There is none, or not yet.
    pub fn replicator(&self) -> Result<&Arc<dyn Replicator>, Unserved> {
        let here = self.here.as_ref().ok_or(Unserved::Elsewhere)?;
        if let Some(replicator) = here.get() {
            return Ok(replicator);
        }
        let made = (self.replicator_of)(self.row.shard).ok_or(Unserved::NotYet)?;
        Ok(here.get_or_init(|| made))
    }

    /// Whether a replica of it belongs on this node.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.here.is_some()
    }

    /// Who leads it, as far as the replica on this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.replicator().ok()?.status().leader
    }
}

impl Keyspace {
    /// Every shard, in placement order.
    #[must_use]
    pub fn shards(&self) -> &[Arc<ShardRoute>] {
        &self.shards
    }

    /// The shard of a placement key.
    #[must_use]
    pub fn shard_of(&self, placement: &[u8]) -> &Arc<ShardRoute> {
        let after = self.shards.partition_point(|shard| shard.row.range.start.as_ref() <= placement);
        &self.shards[after.checked_sub(1).expect("the first shard starts at the empty key")]
    }

    /// The one shard of several placement keys: a batch is atomic within a shard, and refused across.
    ///
    /// # Errors
    /// The keys lie in different shards.
    pub fn shard_of_all<'a>(
        &self,
        placements: impl IntoIterator<Item = &'a Bytes>,
    ) -> Result<&Arc<ShardRoute>, Refused> {
        let mut placements = placements.into_iter();
        let first = placements.next().map_or(&self.shards[0], |key| self.shard_of(key));
        match placements.all(|key| first.row.range.contains(key)) {
            true => Ok(first),
            false => Err(Refused::Malformed {
                field: "operations",
                problem: "keys lie in different shards: a batch is atomic within one, send one batch per shard".into(),
            }),
        }
    }
}

impl Hall {
    fn new(map: Arc<ClusterMap>, here: NodeId, replicator_of: &ReplicatorOf) -> Self {
        let mut shards: BTreeMap<_, Vec<Arc<ShardRoute>>> = BTreeMap::new();
        for row in map.shards.values() {
            let is_here = map.replica_on(row.shard, here).is_some();
            let here = is_here.then(|| replicator_of(row.shard).map_or_else(OnceLock::new, OnceLock::from));
            let route = ShardRoute { row: row.clone(), here, replicator_of: replicator_of.clone() };
            shards.entry(row.keyspace).or_default().push(Arc::new(route));
        }
        let mut keyspaces = BTreeMap::new();
        for row in map.keyspaces.values().filter(|row| row.id != METADATA_KEYSPACE) {
            let mut shards = shards.remove(&row.id).unwrap_or_default();
            shards.sort_by(|left, right| left.row.range.start.cmp(&right.row.range.start));
            // A keyspace without its first shard is on its way in or out: nobody is shown into half of one.
            if shards.first().is_some_and(|first| first.row.range.start.is_empty()) {
                keyspaces.insert(row.name.clone(), Arc::new(Keyspace { row: row.clone(), shards }));
            }
        }
        Hall { map, keyspaces }
    }

    /// The keyspace of that name.
    ///
    /// # Errors
    /// There is none; the refusal names those there are.
    pub fn keyspace(&self, name: &str) -> Result<&Arc<Keyspace>, Refused> {
        self.keyspaces.get(name).ok_or_else(|| Refused::UnknownKeyspace {
            name: name.chars().take(NAME_BYTES_SAID_MAX).collect(),
            known: self.known(),
        })
    }

    fn known(&self) -> String {
        const NAMES_SAID_MAX: usize = 20;
        let names: Vec<&str> = self.keyspaces.keys().map(String::as_str).take(NAMES_SAID_MAX).collect();
        match (names.len(), self.keyspaces.len()) {
            (0, _) => "none yet".to_owned(),
            (said, all) if said < all => format!("{} and {} more", names.join(", "), all - said),
            _ => names.join(", "),
        }
    }

    /// Every keyspace, by name.
    pub fn keyspaces(&self) -> impl Iterator<Item = &Arc<Keyspace>> {
        self.keyspaces.values()
    }

    /// The keyspace of a shard, by name.
    #[must_use]
    pub fn keyspace_of(&self, shard: ShardId) -> Option<&KeyspaceRow> {
        self.map.keyspaces.get(&self.map.shards.get(&shard)?.keyspace)
    }

    /// The way to a shard, whatever its keyspace.
    #[must_use]
    pub fn route_to(&self, shard: ShardId) -> Option<&Arc<ShardRoute>> {
        let row = self.map.shards.get(&shard)?;
        let keyspace = self.keyspaces.get(&self.map.keyspaces.get(&row.keyspace)?.name)?;
        Some(keyspace.shard_of(&row.range.start))
    }
}

impl Router {
    /// A hall for a node that has no map yet.
    #[must_use]
    pub fn new(here: NodeId, replicator_of: ReplicatorOf) -> Self {
        let empty = Hall { map: Arc::default(), keyspaces: BTreeMap::new() };
        Router { here, replicator_of, hall: ArcSwap::from_pointee(empty), taking: Mutex::new(()) }
    }

    /// Shows the way by this map from now on, unless it already does so by this or a newer one.
    pub fn take_in(&self, map: &Arc<ClusterMap>) {
        let _taking = self.taking.lock();
        if map.revision <= self.hall.load().map.revision {
            return;
        }
        self.hall.store(Arc::new(Hall::new(map.clone(), self.here, &self.replicator_of)));
    }

    /// The newest hall: taken once by a request, and kept until it is answered.
    #[must_use]
    pub fn hall(&self) -> Arc<Hall> {
        self.hall.load_full()
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
pub(crate) mod tests;
