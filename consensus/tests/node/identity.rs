//! Who is let in (invariant 9, rules J7, G8).

use crate::{
    node::house::{House, Machine, PATIENCE, get, put, refused, role},
    support::wait_until,
};
use kvorum_api::{ClusterId, NodeId, ReadLevel, StartCount};
use kvorum_consensus::{NodeConfig, replicator::Role};
use kvorum_storage::Journal;
use std::time::Duration;
use tokio::time::sleep;

/// The refused node knows why, says so, and takes no part; the others go on.
async fn is_refused(house: &House, id: u64, sentence: &str) {
    let node = &house.nodes[&id];
    wait_until("the refusal", || node.status().refused.is_some()).await;
    assert!(refused(&node.status()).contains(sentence), "{:?}", node.status().refused);
    assert_ne!(role(node), Role::Leader);
    assert!(put(node, "k", "v").await.is_err(), "a refused node acknowledges nothing");
    for other in house.nodes.iter().filter(|(other, _)| **other != id) {
        assert_eq!(other.1.status().refused, None, "node {} is honest", other.0);
    }
    house.put("later", "2").await;
}

#[tokio::test(start_paused = true)]
async fn an_emptied_directory_coming_back_is_refused() {
    let mut house = House::founded().await;
    house.stop(3).await;
    house.start(3).await;
    // The others have met its second life.
    sleep(Duration::from_secs(3)).await;
    house.stop(3).await;
    house.machines.insert(3, Machine::default());
    house.start(3).await;
    is_refused(&house, 3, "emptied, restored or cloned").await;
    assert!(house.nodes[&1].status().peers.iter().any(|peer| peer.node == NodeId(3) && peer.refused.is_some()));
}

#[tokio::test(start_paused = true)]
async fn an_emptied_directory_started_as_often_as_before_is_refused() {
    let mut house = House::founded().await;
    house.stop(3).await;
    house.machines.insert(3, Machine::default());
    let config = NodeConfig { start: StartCount(1), boot_nonce: 77, ..house.config(3) };
    house.start_as(3, config).await;
    is_refused(&house, 3, "started twice with start count 1").await;
}

/// Rule G8: the first founder, emptied, does not found the group a second time, not even before anybody refuses it.
#[tokio::test(start_paused = true)]
async fn an_emptied_first_founder_founds_nothing() {
    let mut house = House::founded().await;
    house.stop(1).await;
    house.machines.insert(1, Machine::default());
    house.start(1).await;
    is_refused(&house, 1, "started twice").await;
    assert_eq!(house.nodes[&1].status().replicas[0].last_log_index, 0);
    let leader = house.wait_for_leader().await;
    let found = get(&house.nodes[&leader], "first", ReadLevel::Linearizable).await;
    assert_eq!(found.as_ref().map(|value| value.as_deref()), Ok(Some(&b"1"[..])));
}

/// Rule J7.
#[tokio::test(start_paused = true)]
async fn an_older_copy_taken_while_the_node_ran_is_refused() {
    let mut house = House::founded().await;
    let copy = house.machines[&3].image();
    for _ in 0..5 {
        house.put("more", "x").await;
    }
    sleep(Duration::from_secs(3)).await;
    house.stop(3).await;
    house.machines.insert(3, copy);
    house.start(3).await;
    is_refused(&house, 3, "older copy").await;
}

/// Rule J7: neither the starts nor the batches of an emptied directory make up for the life that its peers have seen.
#[tokio::test(start_paused = true)]
async fn an_emptied_directory_that_starts_again_and_again_stays_refused() {
    let mut house = House::founded().await;
    house.stop(3).await;
    house.start(3).await;
    sleep(Duration::from_secs(3)).await;
    let seen = house.journals[&3].status().last_synced;
    house.stop(3).await;
    house.machines.insert(3, Machine::default());
    live_alone_until_beyond(&mut house, seen.0).await;
    for _ in 0..3 {
        house.start(3).await;
        is_refused(&house, 3, "emptied, restored or cloned").await;
        house.stop(3).await;
    }
}

/// Rule J7: what a start recovered of the life that its peers have seen does not grow any more.
#[tokio::test(start_paused = true)]
async fn an_older_copy_that_grew_beyond_its_original_stays_refused() {
    let mut house = House::founded().await;
    let copy = house.machines[&3].image();
    for _ in 0..5 {
        house.put("more", "x").await;
    }
    sleep(Duration::from_secs(3)).await;
    let seen = house.journals[&3].status().last_synced;
    house.stop(3).await;
    house.machines.insert(3, copy);
    live_alone_until_beyond(&mut house, seen.0).await;
    for _ in 0..3 {
        house.start(3).await;
        is_refused(&house, 3, "older copy").await;
        house.stop(3).await;
    }
}

/// Rule J7: the batches that a start itself adds do not hide the one that is missing.
#[tokio::test(start_paused = true)]
async fn a_copy_that_lacks_one_acknowledged_write_is_refused() {
    let mut house = House::founded().await;
    sleep(Duration::from_secs(3)).await;
    let copy = house.machines[&3].image();
    house.put("one", "more").await;
    // The next heartbeats tell of it.
    sleep(Duration::from_millis(500)).await;
    house.stop(3).await;
    house.machines.insert(3, copy);
    house.start(3).await;
    is_refused(&house, 3, "older copy").await;
}

#[tokio::test(start_paused = true)]
async fn an_honest_node_that_started_often_while_a_peer_was_down_is_accepted() {
    let mut house = House::founded().await;
    sleep(Duration::from_secs(3)).await;
    house.crash(1).await;
    for round in 0..20 {
        if round % 2 == 0 {
            house.stop(3).await
        } else {
            house.crash(3).await
        }
        house.start(3).await;
        sleep(Duration::from_secs(1)).await;
    }
    house.start(1).await;
    house.crash(2).await;
    house.put("by the two who had not met", "y").await;
    for node in house.nodes.values() {
        assert_eq!(node.status().refused, None);
    }
}

/// Many lives of node 3 that nobody hears of, until it has more batches than `batch`; it is stopped in the end.
async fn live_alone_until_beyond(house: &mut House, batch: u64) {
    house.wire.cut(&[3]);
    let mut lives = 0;
    while lives < 10 || house.journals[&3].status().last_synced.0 <= batch + 10 {
        house.start(3).await;
        sleep(Duration::from_secs(5)).await;
        house.stop(3).await;
        lives += 1;
        assert!(lives < 100, "the batches of a life must grow");
    }
    house.wire.cut(&[]);
}

/// Rule J7: also from a copy of a directory at rest, which the original has outlived by a start.
#[tokio::test(start_paused = true)]
async fn an_older_copy_of_a_directory_at_rest_is_refused() {
    let mut house = House::founded().await;
    house.stop(3).await;
    let copy = house.machines[&3].image();
    house.start(3).await;
    sleep(Duration::from_secs(3)).await;
    house.stop(3).await;
    house.machines.insert(3, copy);
    house.start(3).await;
    is_refused(&house, 3, "started twice with start count 2").await;
}

#[tokio::test(start_paused = true)]
async fn two_processes_with_one_id_do_not_both_serve() {
    let mut house = House::founded().await;
    let original = house.nodes[&3].clone();
    // Another directory, started with the same id in its configuration.
    house.machines.insert(3, Machine::default());
    house.start(3).await;
    is_refused(&house, 3, "two processes run with one id").await;
    assert_eq!(original.status().refused, None, "the one that was there first goes on");
    house.wire.connect(NodeId(3), original.clone());
    house.nodes.insert(3, original);
    let leader = house.wait_for_leader().await;
    assert!(put(&house.nodes[&leader], "k", "v").await.is_ok());
}

/// A clone that is as new as its original becomes the node; the original, which then shows a lower start count, ends.
#[tokio::test(start_paused = true)]
async fn a_clone_and_its_original_do_not_both_serve() {
    let mut house = House::founded().await;
    let original = house.nodes[&3].clone();
    let clone = house.machines[&3].image();
    house.machines.insert(3, clone);
    house.start(3).await;
    let clone = house.nodes[&3].clone();
    wait_until("one of them ends", || original.status().refused.is_some() || clone.status().refused.is_some()).await;
    sleep(PATIENCE).await;
    let serving = [&original, &clone].iter().filter(|node| node.status().refused.is_none()).count();
    assert!(serving <= 1, "both serve");
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_cluster_is_refused() {
    let mut house = House::founded().await;
    house.stop(3).await;
    house.machines.insert(3, Machine::default());
    let foreign = ClusterId(*b"another cluster.");
    let config = NodeConfig { cluster: foreign, start: StartCount(1), ..house.config(3) };
    house.start_as(3, config).await;
    is_refused(&house, 3, "belongs to cluster").await;
}

/// One foreign node must not talk two honest ones into ending.
#[tokio::test(start_paused = true)]
async fn a_minority_cannot_call_the_others_foreign() {
    let mut house = House::founded().await;
    house.stop(3).await;
    house.machines.insert(3, Machine::default());
    let config = NodeConfig { cluster: ClusterId(*b"another cluster."), ..house.config(3) };
    house.start_as(3, config).await;
    sleep(PATIENCE).await;
    assert_eq!(house.nodes[&1].status().refused, None);
    assert_eq!(house.nodes[&2].status().refused, None);
    let seen = house.nodes[&1].status();
    assert!(
        seen.peers.iter().any(|peer| peer.refused.as_deref().is_some_and(|why| why.contains("belongs to cluster")))
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_cluster_does_not_know_is_refused() {
    let mut house = House::founded().await;
    house.machines.insert(9, Machine::default());
    let mut config = house.config(9);
    config.nodes.insert(NodeId(9), "node-9:1".to_owned());
    config.shards.clear();
    let stranger = house.start_as(9, config).await;
    house.nodes.remove(&9);
    wait_until("the refusal", || stranger.status().refused.is_some()).await;
    assert!(refused(&stranger.status()).contains("node 9 is not in this cluster"), "{:?}", stranger.status().refused);
    house.put("later", "2").await;
}

#[tokio::test(start_paused = true)]
async fn an_honest_node_comes_back_after_any_crash() {
    let mut house = House::founded().await;
    for round in 0..3 {
        for id in 1..=3 {
            house.crash(id).await;
            house.put("while one is down", "x").await;
            house.start(id).await;
        }
        for id in 1..=3 {
            house.crash(id).await;
        }
        for id in 1..=3 {
            house.start(id).await;
        }
        house.put("after all were down", "y").await;
        for node in house.nodes.values() {
            assert_eq!(node.status().refused, None, "round {round}");
        }
    }
}

/// An amnesiac is found before it votes: alone it is silent, and whoever knew it speaks first.
#[tokio::test(start_paused = true)]
async fn a_node_takes_no_part_before_it_has_met_a_majority() {
    let mut house = House::founded().await;
    house.put("acknowledged", "yes").await;
    for id in 1..=3 {
        house.stop(id).await;
    }
    house.wire.cut(&[1, 2, 3]);
    for id in 1..=3 {
        house.start(id).await;
    }
    sleep(PATIENCE).await;
    let terms: Vec<u64> = house.nodes.values().map(|node| node.status().replicas[0].term).collect();
    assert_eq!(house.leader(), None, "nobody leads in terms {terms:?}");
    house.wire.cut(&[3]);
    house.put("two are enough", "2").await;
    house.wire.cut(&[]);
    let leader = house.wait_for_leader().await;
    let found = get(&house.nodes[&leader], "acknowledged", ReadLevel::Linearizable).await.unwrap();
    assert_eq!(found.as_deref(), Some(&b"yes"[..]));
}
