//! Expiry by logged time (rules T2, T3).

use crate::cp_group::world::{World, context, put_for};
use kvorum_api::ReadLevel;
use kvorum_consensus::Replicator;
use std::time::Duration;
use tokio::time::Instant;

/// Rule T3: in silence, with the leader killed: gone on every node within the TTL and a second of the next leader's
/// first second.
#[tokio::test(start_paused = true)]
async fn a_key_is_gone_in_silence_although_the_leader_was_killed() {
    let mut world = World::founded().await;
    let leader = world.leader().await;
    let written = Instant::now();
    world.group(leader).write(put_for("k", "v", Some(10_000)), context(5_000)).await.unwrap();
    world.converged().await;
    world.crash(leader).await;
    world.leader().await;
    tokio::time::sleep_until(written + Duration::from_millis(9_900)).await;
    for node in world.running.keys() {
        let found = world.get(*node, "k", ReadLevel::Local).await.unwrap();
        assert!(found.entry.is_some(), "a time to live is a minimum");
    }
    tokio::time::sleep_until(written + Duration::from_millis(11_000)).await;
    for node in world.running.keys() {
        let found = world.get(*node, "k", ReadLevel::Local).await.unwrap();
        assert!(found.entry.is_none(), "gone on node {node}");
    }
}

/// Rule T3: the first read of a leader brings logged time up to date, also when no chore has.
#[tokio::test(start_paused = true)]
async fn the_first_read_after_a_silence_does_not_see_what_is_due() {
    let mut world = World::new();
    world.has_chores = false;
    world.start_all().await;
    world.found().await;
    let leader = world.leader().await;
    world.group(leader).write(put_for("k", "v", Some(2_000)), context(5_000)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let local = world.get(leader, "k", ReadLevel::Local).await.unwrap();
    assert!(local.entry.is_some(), "nobody has logged that it is due");
    let found = world.get(leader, "k", ReadLevel::Linearizable).await.unwrap();
    assert!(found.entry.is_none());
}
