//! Writes: many in one entry, never lost, never twice.

use crate::cp_group::world::{World, context, increment, put};
use futures::future::join_all;
use kvorum_api::{Effect, NodeId, ReadLevel, Refused, Stamp, WriteError};
use kvorum_consensus::Replicator;
use kvorum_storage::{Outcome, RequestId, command::OperationStatus};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn what_the_leader_acknowledges_everybody_applies() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let written = world.put(leader, "k", "v").await.unwrap();
    assert_eq!(written.receipt.durable_replicas, 2);
    assert_eq!(written.receipt.node, NodeId(leader));
    let Outcome::Written { applied: true, repeated: false, results } = written.outcome else { panic!("{written:?}") };
    assert_eq!(results[0].status, OperationStatus::Applied);
    assert_eq!(written.receipt.version, results[0].version);
    let found = world.get(leader, "k", ReadLevel::Linearizable).await.unwrap();
    assert_eq!(found.entry.unwrap().value.unwrap(), "v");
    assert!(found.receipt.position >= written.receipt.position);
    world.converged().await;
}

/// The trace context of a request travels with the entries it causes, as far as the followers.
#[tokio::test(start_paused = true)]
async fn followers_learn_on_whose_behalf_an_entry_travels() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let world = World::founded().await;
    let leader = world.leader().await;
    let traced = kvorum_consensus::RequestContext { trace: TRACE.to_owned(), ..context(5_000) };
    world.group(leader).write(put("k", "v"), traced).await.unwrap();
    world.converged().await;
    let followers: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    assert!(followers.iter().all(|follower| world.net.has_seen(*follower, TRACE)));
    assert!(!world.net.has_seen(leader, TRACE));
}

/// Design section 7: many operations per Raft entry.
#[tokio::test(start_paused = true)]
async fn many_commands_share_an_entry() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let group = world.group(leader);
    let before = group.status().last_log_index;
    let writes = (0..500).map(|n| {
        let (group, command) = (group.clone(), put(&format!("k{n}"), "v"));
        async move { group.write(command, context(5_000)).await }
    });
    let written = join_all(writes).await;
    assert!(written.iter().all(Result::is_ok));
    let entries = group.status().last_log_index - before;
    assert!(entries <= 10, "500 commands took {entries} entries");
    world.converged().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_writes_and_names_the_leader() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let refused = world.put(world.follower_of(leader), "k", "v").await.unwrap_err();
    assert_eq!(refused.effect(), Effect::None);
    let WriteError::NotLeader { leader: Some(hint), .. } = refused else { panic!("{refused:?}") };
    assert_eq!(hint.node, NodeId(leader));
    assert_eq!(hint.address, format!("node{leader}:7100"));
}

/// Invariant 5: an acknowledgement is given only after what it promises is durable.
#[tokio::test(start_paused = true)]
async fn acknowledged_writes_survive_a_leader_that_loses_power() {
    let mut world = World::founded().await;
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let leader = world.leader().await;
        for n in 0..20 {
            let key = format!("k{round}-{n}");
            if world.put(leader, &key, "v").await.is_ok() {
                acknowledged.push(key);
            }
        }
        world.crash(leader).await;
        world.leader().await;
        world.start(leader).await;
    }
    assert!(acknowledged.len() >= 80, "{} writes were acknowledged", acknowledged.len());
    for key in acknowledged {
        assert_eq!(world.value(&key).await.as_deref(), Some("v"), "{key}");
    }
    world.converged().await;
}

#[tokio::test(start_paused = true)]
async fn acknowledged_writes_survive_when_all_nodes_lose_power_at_once() {
    let mut world = World::founded().await;
    let leader = world.leader().await;
    for n in 0..50 {
        world.put(leader, &format!("k{n}"), "v").await.unwrap();
    }
    for node in 1..=3 {
        world.crash(node).await;
    }
    world.start_all().await;
    for n in 0..50 {
        assert_eq!(world.value(&format!("k{n}")).await.as_deref(), Some("v"), "k{n}");
    }
}

/// Rules I1, I2: the same request id, sent to the next leader because the outcome is unknown, is applied once.
#[tokio::test(start_paused = true)]
async fn a_request_retried_across_a_leader_change_is_applied_once() {
    let mut world = World::founded().await;
    let leader = world.leader().await;
    let request =
        RequestId { client: 1, sequence: 1, first_sent: Stamp::from_ms(1_700_000_000_000), lowest_unanswered: 1 };
    let command = increment("n", Some(request));
    let group = world.group(leader);
    let first = group.write(command.clone(), context(5_000)).await.unwrap();
    world.crash(leader).await;
    let next = world.leader().await;
    assert_ne!(next, leader);
    let again = retry(&world, command).await;
    let Outcome::Written { repeated, results, .. } = again.outcome else { panic!("{again:?}") };
    assert!(repeated);
    let Outcome::Written { results: before, .. } = first.outcome else { panic!("not a write") };
    assert_eq!(results, before);
    assert_eq!(world.value("n").await.as_deref(), Some("1"));
}

async fn retry(world: &World, command: kvorum_storage::WriteCommand) -> kvorum_consensus::Written {
    for _ in 0..100 {
        let leader = world.leader().await;
        if let Ok(written) = world.group(leader).write(command.clone(), context(5_000)).await {
            return written;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no write succeeds");
}

/// Invariant 11: every queue is bounded in bytes.
#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_names_its_limit() {
    let mut world = World::new();
    world.budget.queue_bytes_max = 4_096;
    world.budget.proposals_in_flight_max = 1;
    world.start_all().await;
    world.found().await;
    let leader = world.leader().await;
    let value = "x".repeat(1_000);
    let writes = (0..20).map(|n| {
        let (group, command) = (world.group(leader), put(&format!("k{n}"), &value));
        async move { group.write(command, context(5_000)).await }
    });
    let written = join_all(writes).await;
    let refused: Vec<_> = written.into_iter().filter_map(Result::err).collect();
    assert!(!refused.is_empty());
    for error in refused {
        assert_eq!(error, Refused::Overloaded { limit: "queue_bytes_max", max: 4_096 }.into());
        assert_eq!(error.effect(), Effect::None);
    }
}
