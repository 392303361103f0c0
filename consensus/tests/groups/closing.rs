//! Closing: when, and when not (rule G2).

use crate::{
    groups::town::{SHARD, Town, context, is_written},
    support::{increment, wait_until},
};
use kvorum_api::{ReadLevel, ShardId};
use kvorum_consensus::{Replicator as _, node::Timing, peers::MessageKind, replicator::Role};
use kvorum_storage::Outcome;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Rule G2.
#[tokio::test(start_paused = true)]
async fn a_group_closes_when_nobody_needs_it_and_only_then() {
    let town = Town::founded(2).await;
    let used = ShardId(2);
    for round in 0..15 {
        town.put_anywhere(used, "k", &round.to_string()).await;
        sleep(Duration::from_secs(2)).await;
        assert!(town.is_open_somewhere(used));
    }
    assert!(town.is_closed(SHARD), "nobody has needed it for half a minute");
    town.wait_closed(used).await;
    for id in 1..=3 {
        assert_eq!(town.get(id, used, "k", ReadLevel::Local).await.unwrap().as_deref(), Some("14"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_is_never_closed_if_the_configuration_says_so() {
    let timing = Timing { idle_close_after: Duration::ZERO, ..Timing::default() };
    let town = Town::founded_with(1, timing).await;
    let leader = town.wait_for_leader(SHARD).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(town.status(leader, SHARD).role, Role::Leader);
}

/// Rule G2: a follower that lives and lags keeps the group open.
#[tokio::test(start_paused = true)]
async fn a_follower_that_lags_keeps_the_group_open() {
    let town = Town::founded(1).await;
    let leader = town.wait_for_leader(SHARD).await;
    let laggard = (1..=3).find(|id| *id != leader).unwrap();
    town.nodes[&laggard].set_disk_full(Some("no room".to_owned()));
    town.put_anywhere(SHARD, "k", "v").await;
    sleep(Duration::from_secs(40)).await;
    let leader = town.leader(SHARD).expect("it stays open");
    assert!(leader != laggard);
    assert_ne!(town.status(laggard, SHARD).role, Role::Closed);
    town.nodes[&laggard].set_disk_full(None);
    town.wait_closed(SHARD).await;
    assert!(town.is_converged(SHARD));
}

/// Rule G2: whoever arrives while the group is being closed is served, once.
#[tokio::test(start_paused = true)]
async fn a_proposal_that_races_with_a_close_is_neither_lost_nor_doubled() {
    let town = Town::founded(1).await;
    let leader = town.wait_for_leader(SHARD).await;
    let (mut sum, mut closed) = (0_u64, 0);
    for round in 0..60_u64 {
        let before = town.wire.arrived(MessageKind::Close);
        // The offers leave every half second once ten are over: each round meets another moment of it.
        wait_until("an offer to close", || town.wire.arrived(MessageKind::Close) > before).await;
        sleep(Duration::from_micros(97 * round)).await;
        closed += u64::from(town.is_closed(SHARD));
        let written = town.replica(leader, SHARD).write(increment("sum", None), context()).await.unwrap();
        assert!(is_written(&written));
        sum += 1;
        assert_eq!(town.leader(SHARD), Some(leader), "nobody was elected");
    }
    assert!(town.wire.arrived(MessageKind::Close) >= 120);
    assert!(closed > 0, "some rounds found it closed");
    let last = town.replica(leader, SHARD).write(increment("sum", None), context()).await.unwrap();
    let Outcome::Written { results, .. } = last.outcome else { panic!("{last:?}") };
    assert_eq!(results[0].number, Some(sum as i64 + 1));
}

/// Rule G2: whoever arrives while the offers are on their way keeps the group open, and waits for no answer.
#[tokio::test(start_paused = true)]
async fn a_leader_that_somebody_waits_for_does_not_close() {
    let town = Town::founded(1).await;
    // Opened by a read, it has nothing that is not flushed: the next offer is agreed to.
    let leader = town.wait_closed(SHARD).await;
    town.get(leader, SHARD, "sum", ReadLevel::Linearizable).await.unwrap();
    let followers: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    followers.iter().for_each(|follower| town.wire.delay(leader, *follower, Duration::from_millis(100)));
    let (departed, arrived) = (town.wire.departed(MessageKind::Close), town.wire.arrived(MessageKind::Close));
    wait_until("an offer to close", || town.wire.departed(MessageKind::Close) == departed + 2).await;
    assert_eq!(town.wire.arrived(MessageKind::Close), arrived, "it is on its way");
    let replica = town.replica(leader, SHARD);
    let mut writing = replica.write(increment("sum", None), context());
    let written = loop {
        tokio::select! {
            biased;
            written = &mut writing => break written.unwrap(),
            () = sleep(Duration::from_millis(1)) => {
                // One that was ended and opened again knows of no majority yet.
                assert!(town.status(leader, SHARD).staleness.is_some(), "it closed although somebody waits");
            }
        }
    };
    assert!(is_written(&written));
}

/// Rule G2: a leader that hears no answer goes on leading, and opens again who had closed.
#[tokio::test(start_paused = true)]
async fn a_leader_without_answers_goes_on_leading() {
    let town = Town::founded(1).await;
    let leader = town.wait_for_leader(SHARD).await;
    let term = town.status(leader, SHARD).term;
    town.wire.lose_replies(MessageKind::Close, u32::MAX);
    sleep(Duration::from_secs(30)).await;
    assert!(town.wire.arrived(MessageKind::Close) > 4);
    assert_eq!(town.leader(SHARD), Some(leader));
    town.put(leader, SHARD, "k", "v").await.unwrap();
    town.wire.lose_replies(MessageKind::Close, 0);
    assert_eq!(town.wait_closed(SHARD).await, leader);
    assert_eq!(town.status(leader, SHARD).term, term);
    assert!(town.is_converged(SHARD));
}

/// Rule G2: whoever arrives while a replica takes long to answer the offer does not wait for it.
#[tokio::test(start_paused = true)]
async fn who_arrives_while_an_answer_is_awaited_is_served_at_once() {
    let town = Town::founded(1).await;
    let leader = town.wait_for_leader(SHARD).await;
    let slow = 1 + leader % 3;
    town.put_anywhere(SHARD, "k", "v").await;
    let term = town.status(leader, SHARD).term;
    sleep(Duration::from_secs(9)).await;
    town.wire.delay(leader, slow, Duration::from_millis(900));
    let before = town.wire.arrived(MessageKind::Close);
    wait_until("an offer to close", || town.wire.arrived(MessageKind::Close) > before).await;
    let began = Instant::now();
    town.put(leader, SHARD, "k", "w").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(50), "{:?}", began.elapsed());
    town.wire.heal();
    sleep(Duration::from_secs(5)).await;
    assert_eq!((town.leader(SHARD), town.status(leader, SHARD).term), (Some(leader), term), "nobody was elected");
}

/// Rule G2: an offer that is not agreed to opens again who had closed, so the next one is not made at once.
#[tokio::test(start_paused = true)]
async fn offers_that_are_refused_are_paced() {
    let town = Town::founded(1).await;
    town.wait_for_leader(SHARD).await;
    town.wire.lose_replies(MessageKind::Close, u32::MAX);
    wait_until("an offer to close", || town.wire.arrived(MessageKind::Close) > 0).await;
    let before = town.wire.arrived(MessageKind::Close);
    sleep(Duration::from_secs(20)).await;
    let offers = town.wire.arrived(MessageKind::Close) - before;
    assert!((2..=10).contains(&offers), "{offers}: two to every round");
}
