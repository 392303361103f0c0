//! Leases: what they save, and that nothing makes them lie.

use crate::cp_group::world::World;
use futures::future::join_all;
use kvorum_api::{NodeId, ReadError, ReadLevel};
use kvorum_consensus::Replicator as _;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_leader_with_a_lease_answers_without_asking() {
    let world = World::founded_with_leases().await;
    let leader = world.leader().await;
    world.put(leader, "k", "v").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = world.group(leader).read_rounds();
    for _ in 0..200 {
        assert!(world.get(leader, "k", ReadLevel::Linearizable).await.is_ok());
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    let rounds = world.group(leader).read_rounds() - before;
    assert_eq!(rounds, 0, "heartbeats keep the lease");
}

#[tokio::test(start_paused = true)]
async fn without_leases_in_the_settings_every_read_asks() {
    let world = World::founded().await;
    let leader = world.leader().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = world.group(leader).read_rounds();
    for _ in 0..20 {
        assert!(world.get(leader, "k", ReadLevel::Linearizable).await.is_ok());
    }
    assert_eq!(world.group(leader).read_rounds() - before, 20);
}

/// Rule G6: a lease that ran out means a round, and without a majority no answer.
#[tokio::test(start_paused = true)]
async fn a_lease_that_ran_out_means_a_round() {
    let world = World::founded_with_leases().await;
    let leader = world.leader().await;
    world.put(leader, "k", "v").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.net.isolate(leader);
    assert!(world.get(leader, "k", ReadLevel::Linearizable).await.is_ok(), "nobody else can lead yet");
    // Half of the smallest election timeout; the process may have been paused meanwhile.
    tokio::time::advance(Duration::from_millis(500)).await;
    let before = world.group(leader).read_rounds();
    let refused = world.get(leader, "k", ReadLevel::Linearizable).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ReadError::NoQuorum { .. } | ReadError::NotLeader { .. } | ReadError::DeadlineExceeded { .. }
        ),
        "{refused:?}"
    );
    assert!(world.group(leader).read_rounds() > before);
}

/// A leader that hands over gives its lease up first: its heir is elected past all promises.
#[tokio::test(start_paused = true)]
async fn a_leader_that_hands_over_answers_nothing_old() {
    for delay_ms in 0..12 {
        let world = World::founded_with_leases().await;
        let old = world.leader().await;
        world.put(old, "k", "old").await.unwrap();
        tokio::time::sleep(Duration::from_millis(2_000 + delay_ms * 20)).await;
        let group = world.group(old);
        // The old leader never hears of the election it asked for.
        for other in (1..=3).filter(|other| *other != old) {
            world.net.delay(other, old, Duration::from_secs(3));
        }
        let handing_over = async { group.hand_over(Duration::from_millis(400)).await };
        let reading = async { nothing_old(&world, old, Duration::from_millis(600)).await };
        let (_, was_overtaken) = tokio::join!(handing_over, reading);
        assert!(was_overtaken, "the heir leads while the old leader does not know");
    }
}

/// Rule G5, the hazard: a follower acknowledges the leader, restarts, and votes for another one while the old leader
/// still trusts its lease. At whatever moment it restarts, nothing old is read once something new is acknowledged.
#[tokio::test(start_paused = true)]
async fn a_follower_that_restarts_keeps_its_promise() {
    for offset_ms in (0..1_500).step_by(50) {
        let mut world = World::founded_with_leases().await;
        let old = world.leader().await;
        world.put(old, "k", "old").await.unwrap();
        let mut others = (1..=3).filter(|node| *node != old);
        let (voter, candidate) = (others.next().unwrap(), others.next().unwrap());
        world.net.cut_pair(old, candidate);
        // The candidate has stopped hearing its leader and asks for votes again and again; the voter keeps the old
        // leader.
        tokio::time::sleep(Duration::from_millis(6_000 + offset_ms)).await;
        assert_eq!(world.leader_now(), Some(old));
        world.crash(voter).await;
        world.net.cut_pair(old, voter);
        world.start(voter).await;
        nothing_old(&world, old, Duration::from_secs(4)).await;
        world.eventually("the others elect one of them", || world.leader_now() != Some(old)).await;
    }
}

/// Writes at whoever else leads, reads at `old`, for a while: whatever `old` answers is no older than what was
/// acknowledged before. Says whether something new was acknowledged while `old` still thought it led.
async fn nothing_old(world: &World, old: u64, during: Duration) -> bool {
    let end = tokio::time::Instant::now() + during;
    let mut is_new = false;
    let mut was_overtaken = false;
    while tokio::time::Instant::now() < end {
        if let Some(new) = world.leader_now().filter(|new| *new != old && !is_new) {
            let write = tokio::time::timeout(Duration::from_millis(20), world.put(new, "k", "new")).await;
            is_new = matches!(write, Ok(Ok(_)));
        }
        let reads = (0..2).map(|_| world.get(old, "k", ReadLevel::Linearizable));
        let reads = tokio::time::timeout(Duration::from_millis(10), join_all(reads)).await;
        for found in reads.into_iter().flatten().flatten() {
            let value = found.entry.unwrap().value.unwrap();
            assert!(!is_new || value == "new", "a stale read");
        }
        was_overtaken |= is_new && world.group(old).status().leader == Some(NodeId(old));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    was_overtaken
}
