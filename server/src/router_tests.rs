//! Which way a key goes.

use super::*;
use futures::future::BoxFuture;
use kvorum_api::{KeyspaceId, Limits, Mode, PlacementRange, ReadError, ReadLevel, ReplicaId, Sharding, WriteError};
use kvorum_consensus::{
    RequestContext, Written,
    metadata::{NodeRow, ReplicaRow, ShardStage},
    replicator::{Found, ReplicaStatus, Rows},
};
use kvorum_storage::{WriteCommand, command::Images, shard::ScanRange};
use std::sync::atomic::{AtomicBool, Ordering};

/// This node.
pub(crate) const HERE: NodeId = NodeId(1);

struct Nobody;

impl Replicator for Nobody {
    fn write_many(&self, _: Vec<WriteCommand>, _: RequestContext) -> BoxFuture<'_, Vec<Result<Written, WriteError>>> {
        unreachable!("the hall calls nobody")
    }

    fn get(&self, _: Bytes, _: ReadLevel, _: RequestContext) -> BoxFuture<'_, Result<Found, ReadError>> {
        unreachable!("the hall calls nobody")
    }

    fn scan(&self, _: ScanRange, _: ReadLevel, _: RequestContext) -> BoxFuture<'_, Result<Box<dyn Rows>, ReadError>> {
        unreachable!("the hall calls nobody")
    }

    fn status(&self) -> ReplicaStatus {
        unreachable!("the hall calls nobody")
    }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// A map of three nodes, to which keyspaces are added.
pub(crate) fn map() -> ClusterMap {
    let mut map = ClusterMap { revision: 1, ..ClusterMap::default() };
    for node in 1..=3 {
        let (client, peer) = (format!("127.0.0.1:710{node}"), format!("127.0.0.1:720{node}"));
        let row = NodeRow::of_this_build(NodeId(node), client, peer, format!("zone-{node}"), 0);
        map.nodes.insert(row.node, row);
    }
    map
}

/// Adds a keyspace; each range comes with the nodes that hold it, the first of which should lead.
pub(crate) fn add(map: &mut ClusterMap, name: &str, sharding: Sharding, shards: Vec<(PlacementRange, Vec<u64>)>) {
    let id = KeyspaceId(map.keyspaces.len() as u32 + 1);
    let row = KeyspaceRow {
        id,
        name: name.to_owned(),
        mode: Mode::Cp,
        sharding,
        replicas: 1,
        read_level: ReadLevel::Linearizable,
        limits: Limits::default(),
        images: Images::Keys,
        has_leases: false,
        created_ms: 0,
    };
    map.keyspaces.insert(id, row);
    for (range, nodes) in shards {
        let shard = ShardId(map.shards.len() as u64 + 1);
        let founders: Vec<_> = nodes.iter().map(|node| (ReplicaId(shard.0 * 10 + node), NodeId(*node))).collect();
        let row = ShardRow {
            shard,
            keyspace: id,
            range,
            epoch: 2,
            incarnation: 0,
            leader_wish: founders[0].1,
            replicas: ReplicaRow::members(&founders),
            founders,
            stage: ShardStage::Ready,
        };
        map.shards.insert(shard, row);
    }
}

fn hall(map: ClusterMap) -> Arc<Hall> {
    let router = Router::new(HERE, Arc::new(|_| Some(Arc::new(Nobody))));
    router.take_in(&Arc::new(map));
    router.hall()
}

/// Three shards here: up to `g`, up to `p`, and the rest.
pub(crate) fn keyspace() -> Arc<Keyspace> {
    let mut map = map();
    let ranges = PlacementRange::cut(&[bytes("g"), bytes("p")]);
    add(&mut map, "default", Sharding::Range, ranges.into_iter().map(|range| (range, vec![1])).collect());
    hall(map).keyspace("default").unwrap().clone()
}

/// So many shards here, by hash.
pub(crate) fn hashed(shards: u32) -> Arc<Keyspace> {
    let mut map = map();
    let ranges = PlacementRange::of_hashes(shards);
    add(&mut map, "default", Sharding::Hash, ranges.into_iter().map(|range| (range, vec![1])).collect());
    hall(map).keyspace("default").unwrap().clone()
}

#[test]
fn every_key_has_one_shard() {
    let keyspace = keyspace();
    for (key, shard) in [("a", 1), ("g", 2), ("gg", 2), ("ozz", 2), ("p", 3), ("zz", 3)] {
        assert_eq!(keyspace.shard_of(key.as_bytes()).row.shard, ShardId(shard), "{key}");
    }
    let hashed = hashed(8);
    for number in 0..200 {
        let placement = Sharding::Hash.placement_key(&Bytes::from(format!("key {number}")));
        assert!(hashed.shard_of(&placement).row.range.contains(&placement));
    }
}

#[test]
fn a_batch_across_shards_is_refused() {
    let keyspace = keyspace();
    let keys = |keys: &[&'static str]| keys.iter().map(|key| bytes(key)).collect::<Vec<_>>();
    assert_eq!(keyspace.shard_of_all(&keys(&["h", "i"])).unwrap().row.shard, ShardId(2));
    let refused = keyspace.shard_of_all(&keys(&["a", "z"])).err();
    assert!(matches!(refused, Some(Refused::Malformed { field: "operations", .. })));
}

#[test]
fn an_unknown_keyspace_is_refused_with_those_there_are() {
    let mut map = map();
    assert_eq!(
        hall(map.clone()).keyspace("x").err().unwrap().to_string(),
        "unknown keyspace \"x\": this cluster has none yet"
    );
    for number in 0..22 {
        add(&mut map, &format!("k{number:02}"), Sharding::Range, vec![(PlacementRange::all(), vec![1])]);
    }
    let refused = hall(map).keyspace("k99").err().unwrap().to_string();
    assert!(refused.contains("k00, k01") && refused.ends_with("and 2 more"), "{refused}");
}

#[test]
fn a_shard_elsewhere_is_known_and_not_served() {
    let mut map = map();
    add(&mut map, "far", Sharding::Range, vec![(PlacementRange::all(), vec![2, 3])]);
    let hall = hall(map);
    let route = hall.keyspace("far").unwrap().shard_of(b"k").clone();
    assert_eq!(route.replicator().err(), Some(Unserved::Elsewhere));
    assert!(!route.is_here());
    assert_eq!(hall.route_to(route.row.shard).unwrap().row, route.row);
    assert_eq!(hall.keyspace_of(route.row.shard).unwrap().name, "far");
}

#[test]
fn a_replica_that_is_made_later_is_found_then() {
    let is_made = Arc::new(AtomicBool::new(false));
    let seen = is_made.clone();
    let router = Router::new(
        HERE,
        Arc::new(move |_| seen.load(Ordering::Relaxed).then(|| Arc::new(Nobody) as Arc<dyn Replicator>)),
    );
    let mut map = map();
    add(&mut map, "new", Sharding::Range, vec![(PlacementRange::all(), vec![1])]);
    router.take_in(&Arc::new(map));
    let hall = router.hall();
    let route = hall.keyspace("new").unwrap().shard_of(b"k");
    assert_eq!(route.replicator().err(), Some(Unserved::NotYet));
    is_made.store(true, Ordering::Relaxed);
    assert!(route.replicator().is_ok());
}

#[test]
fn a_newer_map_is_taken_in_whole_and_an_older_one_is_not() {
    let router = Router::new(HERE, Arc::new(|_| Some(Arc::new(Nobody))));
    let mut newer = map();
    add(&mut newer, "orders", Sharding::Range, vec![(PlacementRange::all(), vec![1])]);
    newer.revision = 7;
    router.take_in(&Arc::new(newer));
    let during = router.hall();
    router.take_in(&Arc::new(ClusterMap { revision: 6, ..map() }));
    assert!(router.hall().keyspace("orders").is_ok(), "an older map changes nothing");
    router.take_in(&Arc::new(ClusterMap { revision: 8, ..map() }));
    assert!(router.hall().keyspace("orders").is_err(), "a dropped keyspace is gone");
    assert!(during.keyspace("orders").is_ok(), "a request keeps the hall that it entered");
}
