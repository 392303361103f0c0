//! Leaders go where the map wants them; settings become what it wishes (rule C1).

use crate::{
    groups::town::{SHARD, Town},
    support::wait_until,
};
use kvorum_api::{NodeId, ReadLevel, ShardId};
use kvorum_consensus::{node::Timing, peers::MessageKind};
use kvorum_storage::command::Images;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn leaders_move_back_after_a_restart() {
    let mut town = Town::founded(3).await;
    let shards: Vec<ShardId> = (1..=3).map(ShardId).collect();
    let wish = |shard: &ShardId| 1 + shard.0 % 3;
    spread_out(&town, &shards).await;
    town.stop(wish(&SHARD)).await;
    town.put_anywhere(SHARD, "k", "v").await;
    assert_ne!(town.leader(SHARD), Some(wish(&SHARD)));
    town.start(wish(&SHARD)).await;
    spread_out(&town, &shards).await;
}

/// Waits until every shard is led where the map wants it; writes keep the groups open.
async fn spread_out(town: &Town, shards: &[ShardId]) {
    for _ in 0..60 {
        for shard in shards {
            town.put_anywhere(*shard, "k", "v").await;
        }
        if shards.iter().all(|shard| town.leader(*shard) == Some(1 + shard.0 % 3)) {
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
    let leaders: Vec<_> = shards.iter().map(|shard| town.leader(*shard)).collect();
    panic!("leaders are on {leaders:?}");
}

#[tokio::test(start_paused = true)]
async fn no_leader_moves_to_a_node_that_would_not_lead() {
    let town = Town::founded(1).await;
    let shards = [SHARD];
    spread_out(&town, &shards).await;
    let wish = 1 + SHARD.0 % 3;
    town.nodes[&wish].set_disk_full(Some("no room".to_owned()));
    wait_until("it hands over", || town.leader(SHARD).is_some_and(|leader| leader != wish)).await;
    for _ in 0..40 {
        town.put_anywhere(SHARD, "k", "v").await;
        assert_ne!(town.leader(SHARD), Some(wish));
        sleep(Duration::from_millis(500)).await;
    }
    town.nodes[&wish].set_disk_full(None);
    spread_out(&town, &shards).await;
}

/// Rule C1.
#[tokio::test(start_paused = true)]
async fn the_leader_logs_the_settings_that_are_wished_for() {
    let town = Town::founded(2).await;
    let open = ShardId(2);
    town.wait_closed(SHARD).await;
    town.put_anywhere(open, "k", "v").await;
    town.change(|map| map.keyspaces.values_mut().for_each(|row| row.images = Images::New)).await;
    wait_until("every replica has the new settings", || {
        [SHARD, open].iter().all(|shard| {
            let images = |id: u64| town.status(id, *shard).state.settings.map(|settings| settings.images);
            (1..=3).all(|id| images(id) == Some(Images::New))
        })
    })
    .await;
    town.wait_closed(SHARD).await;
}

/// A transfer that comes to nothing: openraft lets such a leader neither propose nor send heartbeats, and the only
/// other one that lives does not stand. It is elected anew.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_transfer_comes_to_nothing_leads_on() {
    let mut town = Town::founded(1).await;
    let leader = town.wait_for_leader(SHARD).await;
    let (heir, third) = (1 + leader % 3, 1 + (leader + 1) % 3);
    town.crash(third).await;
    town.put_anywhere(SHARD, "k", "v").await;
    let term = town.status(leader, SHARD).term;
    assert_eq!(town.leader(SHARD), Some(leader));
    town.wire.lose_requests(MessageKind::TransferLeader, u32::MAX);
    // It will not stand, and its leader does not know that yet.
    town.machines[&heir].ahead_ms.store(10_000, Ordering::SeqCst);
    let degraded = || town.nodes[&heir].status().degraded;
    wait_until("the suspicion", || degraded().iter().any(|why| why.starts_with("clock_suspect"))).await;
    let moved = town.replica(leader, SHARD).transfer(Some(NodeId(heir)), Duration::from_millis(100)).await;
    assert!(moved.is_err());
    let began = Instant::now();
    while town.put(leader, SHARD, "k", "w").await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "it is deaf for ever");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(town.status(leader, SHARD).term > term);
}

/// Rule G5: the request to lead may arrive late. In its term the group is not closed any more: whoever goes on leading
/// in a term would trust its lease, which the transfer has given up.
#[tokio::test(start_paused = true)]
async fn no_group_closes_in_a_term_in_which_a_transfer_was_begun() {
    let timing = Timing { idle_close_after: Duration::from_secs(2), ..Timing::default() };
    let town = Town::founded_with(1, timing).await;
    town.put_anywhere(SHARD, "k", "v").await;
    let leader = town.wait_closed(SHARD).await;
    // Opened by a read, it has nothing that is not flushed: it would be closed as soon as it is idle.
    town.get(leader, SHARD, "k", ReadLevel::Linearizable).await.unwrap();
    sleep(Duration::from_millis(1_500)).await;
    let (term, offers) = (town.status(leader, SHARD).term, town.wire.arrived(MessageKind::Close));
    town.wire.lose_requests(MessageKind::TransferLeader, u32::MAX);
    let to = NodeId(1 + leader % 3);
    // Asked without a need of the group: it has been idle all the time.
    assert!(town.replica(leader, SHARD).transfer(Some(to), Duration::from_millis(100)).await.is_err());
    while town.status(leader, SHARD).term == term {
        assert_eq!(town.wire.arrived(MessageKind::Close), offers);
        sleep(Duration::from_millis(5)).await;
    }
    let followers = (1..=3).filter(|id| *id != leader);
    for id in followers {
        assert!(town.status(id, SHARD).term >= term);
    }
}
