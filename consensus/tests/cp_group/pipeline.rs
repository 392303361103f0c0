//! Several appends to one follower under way at once.

use crate::cp_group::world::World;
use futures::future::join_all;
use kvorum_consensus::peers::MessageKind;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// One way to the followers; the way back takes a millisecond.
const FAR: Duration = Duration::from_millis(50);

async fn far_away() -> (World, u64) {
    let mut world = World::new();
    world.budget.proposals_in_flight_max = 16;
    world.start_all().await;
    world.found().await;
    let leader = world.leader().await;
    for follower in (1..=3).filter(|node| *node != leader) {
        world.net.delay(leader, follower, FAR);
    }
    // One write at the new pace: the links are answering.
    world.put(leader, "first", "1").await.unwrap();
    (world, leader)
}

/// How long each of `count` writes took that came 10 ms after each other.
async fn staggered(world: &World, leader: u64, count: u64) -> Vec<Duration> {
    let writes = (0..count).map(|number| async move {
        sleep(Duration::from_millis(10 * number)).await;
        let began = Instant::now();
        world.put(leader, &format!("key {number}"), "v").await.unwrap();
        began.elapsed()
    });
    join_all(writes).await
}

/// A write does not wait for the round trip of the one before it.
#[tokio::test(start_paused = true)]
async fn writes_over_a_long_way_take_one_round_trip_each() {
    let (world, leader) = far_away().await;
    let began = Instant::now();
    let latencies = staggered(&world, leader, 40).await;
    let slowest = latencies.iter().max().unwrap();
    assert!(*slowest < FAR + FAR / 2, "one round trip is 51 ms, a write took {slowest:?}");
    assert!(began.elapsed() < 12 * FAR, "40 round trips one after the other are 2 s: {:?}", began.elapsed());
    world.converged().await;
}

/// What was sent after an append that got lost finds a gap; it is sent again, and nothing is lost.
#[tokio::test(start_paused = true)]
async fn an_append_lost_in_the_middle_is_repaired() {
    let (world, leader) = far_away().await;
    let losing = async {
        for _ in 0..4 {
            sleep(Duration::from_millis(75)).await;
            world.net.lose_requests(MessageKind::Append, 1);
        }
    };
    let (_, latencies) = tokio::join!(losing, staggered(&world, leader, 40));
    assert_eq!(latencies.len(), 40);
    world.net.heal();
    world.converged().await;
    for number in 0..40 {
        assert_eq!(world.value(&format!("key {number}")).await.as_deref(), Some("v"));
    }
}

/// Answers that get lost cost time, and nothing else.
#[tokio::test(start_paused = true)]
async fn answers_lost_in_the_middle_are_repaired() {
    let (world, leader) = far_away().await;
    let losing = async {
        for _ in 0..4 {
            sleep(Duration::from_millis(75)).await;
            world.net.lose_replies(MessageKind::Append, 2);
        }
    };
    let (_, latencies) = tokio::join!(losing, staggered(&world, leader, 40));
    assert_eq!(latencies.len(), 40);
    world.net.heal();
    world.converged().await;
}
