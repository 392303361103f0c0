//! Every error says whether the write may have happened.

use crate::cp_group::world::{World, context, increment};
use kvorum_api::{Effect, ReadError, ReadLevel, WriteError};
use kvorum_consensus::Replicator;
use std::time::Duration;

/// Invariant 6: handed over and not answered is unknown.
#[tokio::test(start_paused = true)]
async fn a_write_that_was_proposed_and_not_decided_is_unknown() {
    let world = World::founded().await;
    let leader = world.leader().await;
    world.put(leader, "k", "v").await.unwrap();
    world.net.isolate(leader);
    let error = world.group(leader).write(increment("n", None), context(500)).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    assert!(matches!(error, WriteError::DeadlineExceeded { .. }), "{error:?}");
}

/// Rule G6: a leader that has not heard from a majority lately asks it first; without an answer nothing was appended.
#[tokio::test(start_paused = true)]
async fn a_leader_without_a_majority_refuses_before_it_appends() {
    let world = World::founded().await;
    let leader = world.leader().await;
    world.net.isolate(leader);
    // The lease is over; nobody else leads yet, or somebody does and this node has not heard of it.
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    let before = world.group(leader).status().last_log_index;
    let error = world.group(leader).write(increment("n", None), context(10_000)).await.unwrap_err();
    assert_eq!(error.effect(), Effect::None, "{error:?}");
    assert!(matches!(error, WriteError::NoQuorum { .. } | WriteError::NotLeader { .. }), "{error:?}");
    assert_eq!(world.group(leader).status().last_log_index, before);
}

/// Rule G6: `LeaseExpired` means "hear from a majority", never "leader unknown": the write succeeds.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_ran_out_hears_from_a_majority_and_goes_on() {
    let world = World::founded().await;
    let leader = world.leader().await;
    // Nobody else stands for election, so the office is kept while the lease runs out.
    for node in 1..=3 {
        if node != leader {
            world.group(node).set_electable(false).await;
        }
    }
    world.net.isolate(leader);
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.net.heal();
    let term = world.group(leader).status().term;
    world.put(leader, "k", "v").await.unwrap();
    assert_eq!(world.group(leader).status().term, term);
}

/// A command that still waits is withdrawn at its deadline: it never happens.
#[tokio::test(start_paused = true)]
async fn a_write_that_is_still_queued_at_its_deadline_never_happens() {
    let mut world = World::new();
    world.budget.proposals_in_flight_max = 1;
    world.start_all().await;
    world.found().await;
    let leader = world.leader().await;
    let group = world.group(leader);
    world.net.isolate(leader);
    let (first, second) = tokio::join!(group.write(increment("n", None), context(1_000)), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        group.write(increment("n", None), context(500)).await
    });
    assert_eq!(first.unwrap_err().effect(), Effect::Unknown);
    assert_eq!(second.unwrap_err().effect(), Effect::None);
}

/// Increments tell: acknowledged ones happened once, ones without effect never, and the rest at most once.
#[tokio::test(start_paused = true)]
async fn effects_are_the_truth_while_leaders_come_and_go() {
    let world = World::founded().await;
    let (mut acknowledged, mut unknown) = (0, 0);
    for round in 0..60 {
        let leader = world.leader().await;
        if round % 6 == 3 {
            let group = world.group(leader);
            let write = async {
                let mut ended = Vec::new();
                for _ in 0..20 {
                    ended.push(group.write(increment("n", None), context(3_000)).await.map(|_| ()));
                }
                ended
            };
            let (handed_over, ended) = tokio::join!(group.hand_over(Duration::from_secs(3)), write);
            assert!(handed_over);
            for error in ended {
                match error.map_err(|error| error.effect()) {
                    Ok(()) => acknowledged += 1,
                    Err(Effect::Unknown) => unknown += 1,
                    Err(Effect::None) => {}
                }
            }
        }
        if round % 10 == 5 {
            world.net.isolate(leader);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        match world.group(leader).write(increment("n", None), context(700)).await.map_err(|error| error.effect()) {
            Ok(_) => acknowledged += 1,
            Err(Effect::Unknown) => unknown += 1,
            Err(Effect::None) => {}
        }
        world.net.heal();
    }
    world.converged().await;
    let counted: u64 = world.value("n").await.unwrap().parse().unwrap();
    assert!(acknowledged <= counted && counted <= acknowledged + unknown, "{acknowledged} {counted} {unknown}");
    assert!(acknowledged > 30, "most writes between the faults succeed: {acknowledged}");
}

#[tokio::test(start_paused = true)]
async fn with_two_nodes_down_writes_and_linearizable_reads_are_refused_and_local_ones_say_how_stale() {
    let mut world = World::founded().await;
    let leader = world.leader().await;
    world.put(leader, "k", "v").await.unwrap();
    world.converged().await;
    let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    for node in &others {
        world.crash(*node).await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let error = world.put(leader, "k", "w").await.unwrap_err();
    assert_eq!(error.effect(), Effect::None, "{error:?}");
    let error = world.get(leader, "k", ReadLevel::Linearizable).await.unwrap_err();
    assert!(matches!(error, ReadError::NoQuorum { .. } | ReadError::NotLeader { .. }), "{error:?}");
    let found = world.get(leader, "k", ReadLevel::Local).await.unwrap();
    assert_eq!(found.entry.unwrap().value.unwrap(), "v");
    assert!(found.receipt.staleness.is_none_or(|staleness| staleness >= Duration::from_secs(9)), "{:?}", found.receipt);
    for node in others {
        world.start(node).await;
    }
    assert_eq!(world.value("k").await.as_deref(), Some("v"));
}
