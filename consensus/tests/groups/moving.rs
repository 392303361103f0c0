//! Leaders go where the map wants them; settings become what it wishes (rule C1).

use crate::{
    groups::town::{SHARD, Town},
    support::wait_until,
};
use kvorum_api::ShardId;
use kvorum_storage::command::Images;
use std::time::Duration;
use tokio::time::sleep;

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
