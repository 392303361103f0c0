//! Purging, snapshots, and followers that come back too late for the log (rules S1, S2, S4).

use crate::cp_group::world::{SPEC, World, context, put};
use kvorum_api::{GroupId, ReadLevel};
use kvorum_consensus::{Replicator, peers::MessageKind};
use kvorum_storage::{Engine, Journal, StorageError};
use std::time::Duration;

/// A budget that is exceeded at once, and follower logs that are never worth keeping.
fn tight() -> World {
    let mut world = World::new();
    world.budget.journal_bytes_max = 0;
    world.budget.follower_log_bytes_max = 0;
    world.budget.snapshot_chunk_bytes = 1_024;
    world
}

async fn fill(world: &World, from: u32, to: u32) {
    for n in from..to {
        let command = put(&format!("k{n:04}"), &"v".repeat(100));
        while world.group(world.leader().await).write(command.clone(), context(5_000)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn purged_beyond(world: &World, node: u64, index: u64) {
    world.eventually("the log is purged", || world.group(node).status().purged_index >= index).await;
}

/// Nodes 1 and 2, which have purged what node 3, that never ran, would need: it gets a snapshot.
async fn two_that_purged() -> World {
    let mut world = tight();
    world.start(1).await;
    world.start(2).await;
    world.found().await;
    fill(&world, 0, 100).await;
    let leader = world.leader().await;
    purged_beyond(&world, leader, 90).await;
    world
}

/// Whether a node finds in its own copy what [`fill`] wrote.
async fn has_row(world: &World, node: u64, key: &str) -> bool {
    let found = world.get(node, key, ReadLevel::Local).await.unwrap();
    found.entry.and_then(|entry| entry.value).is_some_and(|value| value == "v".repeat(100))
}

#[tokio::test(start_paused = true)]
async fn a_journal_over_its_limit_is_flushed_and_purged() {
    let mut world = tight();
    world.start_all().await;
    world.found().await;
    fill(&world, 0, 50).await;
    for node in 1..=3 {
        purged_beyond(&world, node, 40).await;
        let status = world.group(node).status();
        assert!(status.purged_index <= status.flushed_index, "{status:?}");
    }
    for node in 1..=3 {
        world.crash(node).await;
    }
    world.start_all().await;
    assert_eq!(world.value("k0000").await, Some("v".repeat(100)));
    fill(&world, 50, 60).await;
    world.converged().await;
}

/// crates.md 1.1: a follower behind a fully purged log must get a snapshot, and go on from there.
#[tokio::test(start_paused = true)]
async fn a_follower_behind_the_purged_log_gets_a_snapshot() {
    let mut world = tight();
    world.start_all().await;
    world.found().await;
    fill(&world, 0, 20).await;
    world.converged().await;
    let leader = world.leader().await;
    let follower = world.follower_of(leader);
    world.crash(follower).await;
    fill(&world, 20, 120).await;
    let last = world.group(leader).status().last_log_index;
    purged_beyond(&world, leader, last.saturating_sub(3)).await;
    world.start(follower).await;
    fill(&world, 120, 140).await;
    world.converged().await;
    assert!(world.net.arrived(MessageKind::SnapshotFinish) >= 1);
    assert!(has_row(&world, follower, "k0100").await);
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_never_ran_gets_a_snapshot_and_lost_replies_do_not_repeat_it() {
    let mut world = two_that_purged().await;
    world.net.lose_replies(MessageKind::SnapshotChunk, 3);
    world.start(3).await;
    world.converged().await;
    assert_eq!(world.net.arrived(MessageKind::SnapshotBegin), 1, "lost replies cost a chunk, not the whole");
    assert!(has_row(&world, 3, "k0050").await);
    // Once it is installed the log goes on as usual, also across a restart.
    fill(&world, 100, 110).await;
    world.crash(3).await;
    world.start(3).await;
    fill(&world, 110, 120).await;
    world.converged().await;
}

/// A transport that gives up drops the future that answers: what was begun goes on, and the repeated message joins it.
#[tokio::test(start_paused = true)]
async fn calls_given_up_in_the_middle_are_joined_by_their_repetition() {
    let mut world = two_that_purged().await;
    world.net.hang_up(MessageKind::SnapshotBegin, 1);
    world.net.hang_up(MessageKind::SnapshotChunk, 3);
    world.net.hang_up(MessageKind::SnapshotFinish, 3);
    world.start(3).await;
    world.converged().await;
    // Converged as soon as it is installed: its sender still asks.
    world.eventually("the repeated finish arrived", || world.net.arrived(MessageKind::SnapshotFinish) == 4).await;
    assert_eq!(world.net.arrived(MessageKind::SnapshotBegin), 2, "the one that was given up, and its repetition");
    let rivals = world.net.rivals();
    assert!(!rivals.is_empty(), "a newer snapshot began while one was being installed");
    for answer in rivals {
        assert!(answer.as_ref().is_err_and(|why| why.contains("ask later")), "{answer:?}");
    }
    assert!(world.running[&3].engine.stages().unwrap().is_empty(), "no stage is left behind");
    assert_eq!(world.running[&3].health.causes().poisoned, None);
    fill(&world, 100, 110).await;
    world.converged().await;
}

/// What a peer sent wrongly says nothing about this node's own disk.
#[tokio::test(start_paused = true)]
async fn a_chunk_damaged_on_the_way_is_refused_and_poisons_nobody() {
    let mut world = two_that_purged().await;
    world.net.damage(MessageKind::SnapshotChunk, 1);
    world.start(3).await;
    world.converged().await;
    assert_eq!(world.net.arrived(MessageKind::SnapshotBegin), 2, "the damaged attempt and the next one");
    assert_eq!(world.running[&3].health.causes().poisoned, None);
    world.eventually("no stage is left", || world.running[&3].engine.stages().unwrap().is_empty()).await;
    assert!(has_row(&world, 3, "k0050").await);
}

/// Rule S4: killed in the middle of installing, it finishes at the next start.
#[tokio::test(start_paused = true)]
async fn an_interrupted_installation_is_finished_at_the_next_start() {
    let mut world = two_that_purged().await;
    world.disks[&3].engine.fail_next_flush(StorageError::Engine("pulled plug".into()));
    world.start(3).await;
    world.eventually("the installation has failed", || world.running[&3].health.causes().poisoned.is_some()).await;
    let group = GroupId::from(SPEC.shard);
    assert!(world.running[&3].journal.group(group).installing.is_some(), "it had begun");
    let refused = world.get(3, "k0050", ReadLevel::Local).await;
    assert!(refused.is_err(), "half a shard answers nothing");
    world.crash(3).await;
    world.start(3).await;
    assert!(world.running[&3].journal.group(group).installing.is_none());
    assert!(has_row(&world, 3, "k0050").await);
    assert!(world.running[&3].engine.stages().unwrap().is_empty(), "no stage is left behind");
    fill(&world, 100, 110).await;
    world.converged().await;
}

/// What a reachable follower still needs is kept.
#[tokio::test(start_paused = true)]
async fn the_log_a_follower_still_needs_is_kept() {
    let mut world = World::new();
    world.budget.journal_bytes_max = 0;
    world.start_all().await;
    world.found().await;
    fill(&world, 0, 20).await;
    world.converged().await;
    let leader = world.leader().await;
    let follower = world.follower_of(leader);
    let had = world.group(follower).status().last_log_index;
    world.crash(follower).await;
    fill(&world, 20, 60).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(world.group(leader).status().purged_index <= had);
    world.start(follower).await;
    world.converged().await;
    assert_eq!(world.net.arrived(MessageKind::SnapshotBegin), 0);
}
