//! Dropped keyspaces: the chores erase what is left of them, and say so while they cannot.

use crate::{
    metadata::house::{House, change, create, drop_keyspace},
    support::wait_until,
};
use kvorum_api::ShardId;
use kvorum_consensus::{Node, node::WorkerStatus};
use kvorum_storage::{
    Journal as _,
    journal::{Completion, Mark},
};

fn reconciling(node: &Node) -> WorkerStatus {
    let workers = node.status().workers;
    workers.into_iter().find(|worker| worker.name == "reconcile").expect("every chore is listed")
}

/// Three nodes, and a shard that every one of them has in its journal.
async fn with_orders() -> (House, ShardId) {
    let house = House::founded(3).await;
    let made = change(&house.nodes[&1], create("orders", 1)).await.expect("a new name");
    let shard = house.nodes[&1].map().shards_of(made.keyspace.expect("it was made"))[0].shard;
    wait_until("it is founded", || {
        let is_founded =
            |node: &Node| node.replica(shard).is_some_and(|replica| replica.shard().state().settings.is_some());
        house.nodes.values().all(|node| is_founded(node))
    })
    .await;
    (house, shard)
}

fn is_forgotten(house: &House, id: u64, shard: ShardId) -> bool {
    !house.journals[&id].groups().contains(&shard.into())
}

/// Invariant 11: what keeps a dropped shard on the disk is seen among the chores, which try until it is gone.
#[tokio::test(start_paused = true)]
async fn a_shard_that_cannot_be_erased_is_seen_and_tried_again() {
    let (house, shard) = with_orders().await;
    // Nobody can read what was begun to be installed, so nobody knows what to erase.
    let mark = |mark| house.journals[&2].mark(shard.into(), mark, Completion::None).unwrap();
    mark(Mark::InstallBegin(vec![0xff].into()));
    change(&house.nodes[&1], drop_keyspace("orders")).await.unwrap();
    wait_until("the failure", || reconciling(&house.nodes[&2]).state == "failed").await;
    let why = reconciling(&house.nodes[&2]).last_failure.unwrap().why;
    assert!(why.contains(&format!("shard {shard}")) && why.contains("not all of it is erased yet"), "{why}");
    wait_until("the others", || is_forgotten(&house, 1, shard) && is_forgotten(&house, 3, shard)).await;
    assert!(house.nodes[&2].replica(shard).is_none() && !is_forgotten(&house, 2, shard));
    // A newer map does not make anybody forget it.
    change(&house.nodes[&1], create("carts", 1)).await.unwrap();
    wait_until("the newer map", || house.nodes[&2].map().keyspace("carts").is_some()).await;
    wait_until("another round", || reconciling(&house.nodes[&2]).state == "failed").await;
    assert!(!is_forgotten(&house, 2, shard));
    mark(Mark::InstallDone);
    wait_until("it is gone", || is_forgotten(&house, 2, shard)).await;
    wait_until("the chore is well", || reconciling(&house.nodes[&2]).state != "failed").await;
}

/// A node that starts with a map that names the shard no more, or names it still, erases it by itself.
#[tokio::test(start_paused = true)]
async fn a_keyspace_dropped_while_a_node_was_down_is_erased_once_it_is_back() {
    for is_copy_old in [false, true] {
        let (mut house, shard) = with_orders().await;
        house.crash(3).await;
        change(&house.nodes[&1], drop_keyspace("orders")).await.unwrap();
        if !is_copy_old {
            house.kept.insert(3, (*house.nodes[&1].map()).clone());
        }
        house.start(3).await;
        assert!(!is_forgotten(&house, 3, shard), "erasing is no part of the start");
        wait_until("it is gone", || is_forgotten(&house, 3, shard)).await;
        assert!(house.nodes[&3].replica(shard).is_none());
    }
}
