//! Following: by edits after a short absence, by the whole map after a long one, from any metadata replica.

use crate::{
    metadata::house::{House, bulky, change, create, drop_keyspace, small},
    support::wait_until,
};
use kvorum_api::NodeId;
use kvorum_consensus::{
    metadata::{ClusterMap, ShardStage},
    node::Budget,
};
use std::time::Duration;
use tokio::time::sleep;

/// Seven founders: nodes 6 and 7 hold no metadata and follow the others.
async fn seven() -> House {
    let house = House::founded(7).await;
    let map = house.nodes[&7].map();
    assert_eq!((map.metadata.len(), map.nodes.len()), (5, 7));
    assert!(map.is_founded());
    house
}

async fn changes(house: &House, count: u32) -> u64 {
    let mut revision = 0;
    for number in 0..count / 2 {
        change(&house.nodes[&1], small("comes-and-goes")).await.expect("a majority lives");
        if number + 1 < count / 2 {
            revision =
                change(&house.nodes[&1], drop_keyspace("comes-and-goes")).await.expect("a majority lives").revision;
        }
    }
    revision
}

#[tokio::test(start_paused = true)]
async fn a_node_without_metadata_follows_and_changes_like_any_other() {
    let house = seven().await;
    let made = change(&house.nodes[&7], create("orders", 4)).await.unwrap();
    house.wait_for_revision(made.revision).await;
    assert!(house.nodes[&6].map().keyspace("orders").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_through_few_changes_gets_them_as_edits() {
    let mut house = seven().await;
    let ballast = change(&house.nodes[&1], bulky("ballast", 60)).await.unwrap();
    house.wait_for_revision(ballast.revision).await;
    wait_until("the shards", || house.nodes[&7].map().shards.values().all(|row| row.stage == ShardStage::Ready)).await;
    house.crash(7).await;
    let revision = changes(&house, 10).await;
    house.wire.answered.lock().clear();
    house.start(7).await;
    house.wait_for_revision(revision).await;
    let whole = house.nodes[&7].map().encode().len();
    let answered = house.wire.answered.lock()[&NodeId(7)];
    assert!(answered < whole / 4, "{answered} bytes answered, the whole map has {whole}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_through_500_changes_comes_back_right() {
    let mut house = seven().await;
    house.crash(7).await;
    house.crash(3).await;
    let revision = changes(&house, 500).await;
    assert!(revision > house.kept[&7].revision + 1_000);
    let follower = house.start(7).await;
    let replica = house.start(3).await;
    house.wait_for_revision(revision).await;
    assert_eq!(follower.map().keyspaces.len(), 1);
    wait_until("one map", || follower.map() == house.nodes[&1].map() && replica.map() == follower.map()).await;
}

/// The diary does not lead on from the map it has, and the whole map that was handed out last is no newer than that.
#[tokio::test(start_paused = true)]
async fn a_node_whose_map_the_diary_has_forgotten_gets_a_newer_one() {
    let budget = Budget { change_age_max: Duration::from_secs(1), ..Budget::default() };
    let mut house = House::founded_with(7, budget).await;
    house.crash(7).await;
    house.kept.clear();
    // It gets a whole map, which is kept for whoever asks next; edits bring it further.
    house.start(7).await;
    for round in 0..5 {
        let made = change(&house.nodes[&1], small(&format!("seen-{round}"))).await.unwrap();
        house.wait_for_revision(made.revision).await;
    }
    house.crash(7).await;
    let mut revision = 0;
    for round in 0..5 {
        sleep(Duration::from_secs(5)).await;
        revision = change(&house.nodes[&1], small(&format!("missed-{round}"))).await.unwrap().revision;
    }
    sleep(Duration::from_secs(5)).await;
    let node = house.start(7).await;
    house.wait_for_revision(revision).await;
    let workers = node.status().workers;
    let failure = workers.into_iter().find(|worker| worker.name == "map").unwrap().last_failure;
    assert!(failure.as_ref().is_none_or(|failure| !failure.why.contains("leads from")), "{failure:?}");
}

/// A map that is larger than one page.
#[tokio::test(start_paused = true)]
async fn a_large_map_arrives_in_pages() {
    let mut house = seven().await;
    house.crash(6).await;
    change(&house.nodes[&1], bulky("orders", 130)).await.unwrap();
    let node = house.start(6).await;
    let revision = house.nodes[&1].map().revision;
    house.wait_for_revision(revision).await;
    assert_eq!(node.map().shards.len(), 131);
    assert!(node.map().encode().len() > 1 << 20);
}

/// Any metadata replica answers, also while the leader is gone.
#[tokio::test(start_paused = true)]
async fn a_node_follows_whichever_metadata_replica_lives() {
    let mut house = seven().await;
    house.crash(1).await;
    house.crash(2).await;
    let made = change(&house.nodes[&7], create("k", 1)).await.unwrap();
    house.wait_for_revision(made.revision).await;
}

/// Without a majority of the metadata nothing changes, and every node keeps the map it has.
#[tokio::test(start_paused = true)]
async fn while_the_metadata_is_down_every_node_keeps_its_map() {
    let mut house = seven().await;
    let made = change(&house.nodes[&7], create("k", 2)).await.unwrap();
    house.wait_for_revision(made.revision).await;
    for id in 1..=5 {
        house.crash(id).await;
    }
    sleep(Duration::from_secs(30)).await;
    let before = house.nodes[&6].map();
    house.crash(6).await;
    let node = house.start(6).await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(node.map(), before);
    assert_eq!(node.map().shards_of(made.keyspace.unwrap()).len(), 2);
    for id in 1..=5 {
        house.start(id).await;
    }
    let made = change(&house.nodes[&6], create("later", 2)).await.unwrap();
    house.wait_for_revision(made.revision).await;
}

/// All machines lose power at once; what was decided is there, from the copies and from the log.
#[tokio::test(start_paused = true)]
async fn after_all_were_down_the_map_is_what_it_was() {
    let mut house = House::founded(3).await;
    for round in 0..3 {
        let made = change(&house.nodes[&1], create(&format!("k-{round}"), 4)).await.unwrap();
        house.wait_for_revision(made.revision).await;
        let before = ClusterMap::clone(&house.nodes[&1].map());
        for id in 1..=3 {
            house.crash(id).await;
        }
        if round == 2 {
            // Without the copies the log alone tells it.
            house.kept.clear();
        }
        for id in 1..=3 {
            house.start(id).await;
        }
        let shards = |map: &ClusterMap| map.shards.keys().copied().collect::<Vec<_>>();
        let is_same = |map: &ClusterMap| map.keyspaces == before.keyspaces && shards(map) == shards(&before);
        wait_until("the map", || house.nodes.values().all(|node| is_same(&node.map()))).await;
    }
}
