//! Peers that are not there, disks that fail or stall.

use crate::cp_group::world::{World, context, put};
use kvorum_api::{Effect, ReadLevel, WriteError};
use kvorum_consensus::{Replicator, replicator::Role};
use std::time::Duration;

/// Rule G7: a dead peer costs a few messages a second, not a spinning loop.
#[tokio::test(start_paused = true)]
async fn a_dead_peer_does_not_make_the_leader_spin() {
    let mut world = World::founded().await;
    let leader = world.leader().await;
    let dead = world.follower_of(leader);
    world.crash(dead).await;
    for n in 0..50 {
        world.put(leader, &format!("k{n}"), "v").await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = world.net.sent(leader, dead);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let sent = world.net.sent(leader, dead) - before;
    assert!((60..=600).contains(&sent), "{sent} messages to a dead peer in a minute");
}

/// A peer that swallows everything costs no more.
#[tokio::test(start_paused = true)]
async fn a_silent_peer_does_not_make_the_leader_spin() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let silent = world.follower_of(leader);
    world.net.delay(leader, silent, Duration::from_secs(3_600));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = world.net.sent(leader, silent);
    for n in 0..50 {
        world.put(leader, &format!("k{n}"), "v").await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let sent = world.net.sent(leader, silent) - before;
    assert!(sent <= 600, "{sent} messages to a silent peer in a minute");
}

/// Invariant 5: after a failed sync a node gives up leadership, acknowledges nothing, and stays for `local` reads.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_sync_fails_stops_leading_and_still_answers_local_reads() {
    let mut world = World::founded().await;
    let leader = world.leader().await;
    world.put(leader, "k", "v").await.unwrap();
    world.disks[&leader].journal.fail_next_sync();
    let error = world.put(leader, "k", "w").await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown, "{error:?}");
    world.eventually("the replica has ended", || world.group(leader).status().role == Role::Stopped).await;
    let error = world.put(leader, "k", "x").await.unwrap_err();
    assert!(matches!(error, WriteError::Poisoned { effect: Effect::None, .. }), "{error:?}");
    let local = world.get(leader, "k", ReadLevel::Local).await.unwrap();
    assert!(local.entry.is_some());
    world.eventually("another one leads", || world.leader_now().is_some_and(|node| node != leader)).await;
    world.crash(leader).await;
    world.start(leader).await;
    let value = world.value("k").await.unwrap();
    assert!(value == "v" || value == "w", "{value}");
    world.converged().await;
}

/// Rule J6: a leader whose own sync is overdue by the largest election timeout hands leadership over.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_sync_stalls_hands_over() {
    let world = World::founded().await;
    let leader = world.leader().await;
    world.disks[&leader].journal.stall(true);
    let group = world.group(leader);
    // A majority of the others still decides it, but this node cannot apply what it has not synced.
    let write = async { group.write(put("k", "v"), context(20_000)).await };
    let moved = world.eventually("another one leads", || world.leader_now().is_some_and(|node| node != leader));
    let (written, ()) = tokio::join!(write, moved);
    assert_ne!(written.map(|_| ()).map_err(|error| error.effect()), Err(Effect::None));
    world.disks[&leader].journal.stall(false);
    world.running[&leader].journal.run();
    assert_eq!(world.value("k").await.as_deref(), Some("v"));
    world.converged().await;
}

/// Rule S5: a full follower refuses data and is not poisoned; it catches up by itself.
#[tokio::test(start_paused = true)]
async fn a_full_follower_refuses_data_and_catches_up_later() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let full = world.follower_of(leader);
    world.running[&full].health.set_disk_full(Some("10 MiB left".into()));
    world.put(leader, "k", "v").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(world.get(full, "k", ReadLevel::Local).await.unwrap().entry.is_none());
    assert_eq!(world.group(full).status().role, Role::Follower);
    world.running[&full].health.set_disk_full(None);
    world.converged().await;
    assert!(world.get(full, "k", ReadLevel::Local).await.unwrap().entry.is_some());
}

/// Rule S5: a full leader takes deletes and refuses data.
#[tokio::test(start_paused = true)]
async fn a_full_leader_takes_deletes_only() {
    let world = World::founded().await;
    let leader = world.leader().await;
    world.put(leader, "k", "v").await.unwrap();
    world.running[&leader].health.set_disk_full(Some("10 MiB left".into()));
    let error = world.put(leader, "k", "w").await.unwrap_err();
    assert!(matches!(error, WriteError::DiskFull { .. }), "{error:?}");
    assert_eq!(error.effect(), Effect::None);
    let delete = kvorum_storage::WriteCommand {
        request: None,
        operations: vec![kvorum_storage::Operation::Delete {
            key: "k".into(),
            condition: kvorum_storage::command::Condition::Always,
            return_previous: false,
        }],
    };
    world.group(leader).write(delete, context(5_000)).await.unwrap();
}
