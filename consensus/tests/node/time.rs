//! Clocks (rules T1, T4, R3).

use crate::{
    node::house::{BEGIN_MS, House, SHARD, context, get, put, role},
    support::{self, wait_until},
};
use kvorum_api::{ReadLevel, Stamp};
use kvorum_consensus::replicator::Role;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::sleep;

/// Rule T4.
#[tokio::test(start_paused = true)]
async fn a_clock_ten_seconds_ahead_neither_leads_nor_is_elected() {
    let house = House::founded().await;
    let suspect = house.wait_for_leader().await;
    house.machines[&suspect].ahead_ms.store(10_000, Ordering::SeqCst);
    let node = &house.nodes[&suspect];
    wait_until("the suspicion", || node.status().degraded.iter().any(|why| why.starts_with("clock_suspect"))).await;
    let offset_ms = node.status().clock_offset_ms.expect("two others are heard");
    assert!((9_900..10_100).contains(&offset_ms), "{offset_ms}");
    assert!(put(node, "k", "v").await.is_err(), "a suspect does not coordinate");
    wait_until("another leader", || house.leader().is_some_and(|leader| leader != suspect)).await;
    house.put("k", "by another").await;
    for (id, other) in house.nodes.iter().filter(|(id, _)| **id != suspect) {
        assert!(other.status().degraded.is_empty(), "node {id} has a good clock: {:?}", other.status().degraded);
    }

    // Not even when it is one of two who are left.
    let leader = house.wait_for_leader().await;
    house.wire.cut(&[leader]);
    for _ in 0..600 {
        sleep(Duration::from_millis(10)).await;
        assert_ne!(role(node), Role::Leader, "a suspect was elected");
    }
    house.wire.cut(&[]);

    house.machines[&suspect].ahead_ms.store(0, Ordering::SeqCst);
    wait_until("the recovery", || node.status().degraded.is_empty()).await;
    house.put("k", "recovered").await;
}

/// Rule T4: alone there is nobody to compare with.
#[tokio::test(start_paused = true)]
async fn a_node_that_hears_nobody_is_no_suspect() {
    let house = House::founded().await;
    house.machines[&3].ahead_ms.store(10_000, Ordering::SeqCst);
    let node = &house.nodes[&3];
    let is_suspect = || node.status().degraded.iter().any(|why| why.starts_with("clock_suspect"));
    wait_until("the suspicion", is_suspect).await;
    house.wire.cut(&[3]);
    wait_until("the freedom", || !is_suspect()).await;
    assert_eq!(node.status().clock_offset_ms, None);
}

/// Rule T1: a stamp too far ahead is not adopted, neither from a client nor from a peer.
#[tokio::test(start_paused = true)]
async fn stamps_from_the_future_are_not_adopted() {
    let house = House::founded().await;
    let node = &house.nodes[&1];
    let now_ms = node.stamp().ms();
    assert!(node.observe(Stamp::from_ms(now_ms + 60_000)).is_err_and(|ahead_ms| ahead_ms > 59_000));
    assert!(node.stamp().ms() < now_ms + 1_000);
    assert_eq!(node.observe(Stamp::from_ms(now_ms + 100)), Ok(()));
    assert!(node.stamp() > Stamp::from_ms(now_ms + 100), "what follows a stamp is ordered after it");

    house.machines[&2].ahead_ms.store(3_600_000, Ordering::SeqCst);
    sleep(Duration::from_secs(5)).await;
    assert!(node.stamp().ms() < now_ms + 60_000, "the stamps of a node an hour ahead did not spread");
}

/// Rule T5: a leader whose clock leaps for a moment expires nothing that is to live on, and gives no stamp that others
/// refuse; its clients go from node to node as before.
#[tokio::test(start_paused = true)]
async fn a_clock_that_leaps_alone_reaches_neither_stamps_nor_the_logged_time() {
    let house = House::founded().await;
    let leader = house.wait_for_leader().await;
    let replicator = house.nodes[&leader].replicator(SHARD).unwrap();
    replicator.write(support::put("mortal", "v", Some(60_000)), context()).await.unwrap();
    let other = &house.nodes[&(1 + leader % 3)];
    for _ in 0..3 {
        house.machines[&leader].ahead_ms.store(207_000, Ordering::SeqCst);
        for _ in 0..30 {
            // Whoever leads, whoever is suspect: what the node says is taken.
            let _ = put(&house.nodes[&leader], "k", "v").await;
            assert_eq!(other.observe(house.nodes[&leader].stamp()), Ok(()));
            sleep(Duration::from_millis(20)).await;
        }
        house.machines[&leader].ahead_ms.store(0, Ordering::SeqCst);
        sleep(Duration::from_millis(200)).await;
    }
    house.put("k", "afterwards").await;
    let told = get(&house.nodes[&house.wait_for_leader().await], "mortal", ReadLevel::Linearizable).await.unwrap();
    assert_eq!(told.as_deref(), Some(&b"v"[..]), "it was to live for a minute");
}

/// Rule T5: clocks that leap together are right.
#[tokio::test(start_paused = true)]
async fn a_leap_of_all_clocks_is_followed() {
    let house = House::founded().await;
    let before_ms = house.nodes[&1].stamp().ms();
    for machine in house.machines.values() {
        machine.ahead_ms.store(3_600_000, Ordering::SeqCst);
    }
    let has_followed = || house.nodes.values().all(|node| node.stamp().ms() >= before_ms + 3_600_000);
    wait_until("the hour that was put on", has_followed).await;
    house.put("k", "v").await;
    assert!(house.nodes.values().all(|node| node.status().degraded.is_empty()));
}

/// The clock starts above the bound of its earlier life, whatever the machine's clock says then.
#[tokio::test(start_paused = true)]
async fn stamps_grow_over_a_crash_with_the_clock_set_back() {
    let mut house = House::founded().await;
    house.machines[&2].ahead_ms.store(400, Ordering::SeqCst);
    sleep(Duration::from_secs(2)).await;
    let given = house.nodes[&2].stamp();
    assert!(given.ms() > BEGIN_MS);
    house.crash(2).await;
    house.machines[&2].ahead_ms.store(-400, Ordering::SeqCst);
    house.start(2).await;
    assert!(house.nodes[&2].stamp() > given);
}

/// After a crash a node waits until its stamps are close to its clock again: others would refuse them (rule T1).
#[tokio::test(start_paused = true)]
async fn stamps_of_a_new_life_are_taken_by_the_others() {
    let mut house = House::founded().await;
    house.crash(2).await;
    house.start(2).await;
    let stamp = house.nodes[&2].stamp();
    assert_eq!(house.nodes[&1].observe(stamp), Ok(()));
}
