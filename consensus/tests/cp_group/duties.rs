//! Founding, handing over, standing for election.

use crate::cp_group::world::World;
use kvorum_api::{Effect, WriteError};
use kvorum_consensus::{Replicator, replicator::Role};
use std::time::Duration;

/// Rule G8: pristine before, never again after.
#[tokio::test(start_paused = true)]
async fn a_group_is_initialized_once() {
    let mut world = World::new();
    world.start_all().await;
    assert!((1..=3).all(|node| world.group(node).is_pristine()));
    world.found().await;
    assert!((1..=3).all(|node| !world.group(node).is_pristine()));
    assert!(world.group(1).initialize().await.is_err());
    for node in 1..=3 {
        world.crash(node).await;
    }
    world.start_all().await;
    assert!((1..=3).all(|node| !world.group(node).is_pristine()));
}

/// Rule C1: whoever leads first founds the group, also when the initializer died in between.
#[tokio::test(start_paused = true)]
async fn the_founding_settings_come_first_whoever_leads() {
    let mut world = World::new();
    world.start_all().await;
    world.group(1).initialize().await.unwrap();
    world
        .eventually("the others have the membership", || {
            (2..=3).all(|node| world.group(node).status().last_log_index > 0)
        })
        .await;
    world.crash(1).await;
    let leader = world.leader().await;
    world.eventually("it is founded", || world.group(leader).shard().state().settings.is_some()).await;
    while world.put(leader, "k", "v").await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.start(1).await;
    world.converged().await;
}

/// Rule G1: a restarted leader does not go on leading in its old term.
#[tokio::test(start_paused = true)]
async fn a_restarted_leader_stands_for_election_again() {
    let mut world = World::founded().await;
    let leader = world.leader().await;
    let term = world.group(leader).status().term;
    world.crash(leader).await;
    world.start(leader).await;
    assert_ne!(world.group(leader).status().role, Role::Leader);
    world.leader().await;
    let next = world.leader().await;
    assert!(world.group(next).status().term > term);
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_to_a_follower_that_is_alive() {
    let mut world = World::founded().await;
    for _ in 0..3 {
        let leader = world.leader().await;
        let dead = world.follower_of(leader);
        world.crash(dead).await;
        assert!(world.group(leader).hand_over(Duration::from_secs(5)).await);
        let next = world.leader().await;
        assert!(next != leader && next != dead);
        world.start(dead).await;
        world.converged().await;
    }
}

/// crates.md 1.6-9: nobody is asked who may not answer, so a leader without a living follower goes on.
#[tokio::test(start_paused = true)]
async fn leadership_is_not_handed_to_the_dead() {
    let mut world = World::founded().await;
    let leader = world.leader().await;
    for node in (1..=3).filter(|node| *node != leader) {
        world.crash(node).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!world.group(leader).hand_over(Duration::from_secs(1)).await);
}

/// Rule T4: a suspect hands leadership on and does not stand for election; its vote still counts.
#[tokio::test(start_paused = true)]
async fn a_suspect_neither_leads_nor_is_asked_to() {
    let mut world = World::founded().await;
    let leader = world.leader().await;
    world.running[&leader].health.set_clock_suspect(Some("10000 ms ahead".into()));
    let error = world.put(leader, "k", "v").await.unwrap_err();
    assert!(matches!(error, WriteError::ClockSuspect { .. }), "{error:?}");
    assert_eq!(error.effect(), Effect::None);
    world.group(leader).set_electable(false).await;
    let next = world.leader().await;
    assert_ne!(next, leader);
    let third = (1..=3).find(|node| *node != leader && *node != next).unwrap();
    // With the third node gone the suspect's vote is needed, and given.
    world.crash(third).await;
    while world.put(next, "k", "v").await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!world.group(next).hand_over(Duration::from_secs(1)).await, "the suspect is not asked");
    assert_eq!(world.leader().await, next);
}

/// Same seed, same story.
#[test]
fn one_seed_gives_one_history() {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::founded().await;
            let mut story = Vec::new();
            for round in 0..4 {
                let leader = world.leader().await;
                for n in 0..5 {
                    story.push(format!("{:?}", world.put(leader, &format!("k{n}"), "v").await));
                }
                world.crash(leader).await;
                world.leader().await;
                world.start(leader).await;
                world.converged().await;
                story.push(format!("{round} {leader} {:?}", world.group(leader).shard().state()));
            }
            story
        })
    };
    assert_eq!(run(), run());
}
