//! Nodes: who joins gets an id of its own for ever, and who moves says so (invariant 9).

use crate::{
    metadata::house::{House, change, create, join, row},
    support::wait_until,
};
use futures::future::join_all;
use kvorum_api::NodeId;
use kvorum_consensus::metadata::{ClusterMap, Founding, NodeRow};

#[tokio::test(start_paused = true)]
async fn joining_twice_with_one_directory_gives_one_id() {
    let mut house = House::founded(3).await;
    let joined = join_all(house.nodes.values().map(|node| change(node, join(7)))).await;
    let ids: Vec<_> = joined.into_iter().map(|joined| joined.unwrap().node).collect();
    assert_eq!(ids, [Some(NodeId(4)); 3]);
    let another = change(&house.nodes[&2], join(8)).await.unwrap();
    assert_eq!(another.node, Some(NodeId(5)));
    let leader = house.wait_for_leader().await;
    house.crash(leader).await;
    let asked = house.nodes.values().next().unwrap();
    assert_eq!(change(asked, join(7)).await.unwrap().node, Some(NodeId(4)), "also in another term");
}

/// The node that joins holds no metadata: it starts with the map it was handed, and is placed like any other.
#[tokio::test(start_paused = true)]
async fn a_node_that_joined_follows_and_gets_shards() {
    let mut house = House::founded(3).await;
    let joined = change(&house.nodes[&1], join(7)).await.unwrap();
    house.kept.insert(4, ClusterMap::clone(&house.nodes[&1].map()));
    let own = house.kept[&4].nodes[&joined.node.unwrap()].clone();
    house.start_as(4, Founding { nodes: vec![own], keyspaces: Vec::new() }).await;
    // Hellos let the others know that it lives.
    wait_until("an acquaintance", || {
        house.nodes[&1].status().peers.iter().any(|peer| peer.node == NodeId(4) && peer.heard_ago.is_some())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let made = change(&house.nodes[&4], create("orders", 8)).await.unwrap();
    house.wait_for_revision(made.revision).await;
    let map = house.nodes[&4].map();
    let here = map.shards.keys().filter(|shard| map.replica_on(**shard, NodeId(4)).is_some()).count();
    assert_eq!(here, 6, "24 replicas on 4 nodes");
    assert_eq!(house.nodes[&4].status().refused, None);
    let addresses = house.wire.addresses.lock();
    assert_eq!(addresses[&NodeId(2)][&NodeId(4)], "joined-7:7201", "the transport was told where it is");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_moved_says_where_it_is_now() {
    let mut house = House::founded(3).await;
    house.crash(2).await;
    let moved = NodeRow { peer: "elsewhere:7201".to_owned(), client: "elsewhere:7101".to_owned(), ..row(2) };
    let nodes = vec![row(1), moved, row(3), row(9)];
    house.start_as(2, Founding { nodes, keyspaces: Vec::new() }).await;
    wait_until("the move", || house.nodes.values().all(|node| node.map().nodes[&NodeId(2)].client == "elsewhere:7101"))
        .await;
    assert_eq!(house.nodes[&2].map().nodes.len(), 3, "of the list nothing else counts any more");
    assert_eq!(house.wire.addresses.lock()[&NodeId(1)][&NodeId(2)], "elsewhere:7201");
}
