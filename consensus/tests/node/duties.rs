//! Founding, draining, poison, full disks, chores (invariants 5, 11, rules G8, J6, S5).

use crate::{
    node::house::{House, SHARD, get, put, role},
    support::wait_until,
};
use bytes::Bytes;
use kvorum_api::{GroupId, NodeId, ReadLevel, ReplicaId};
use kvorum_consensus::{
    envelope::{Envelope, Form, Refusal},
    peers::MessageKind,
    replicator::Role,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Rule G8.
#[tokio::test(start_paused = true)]
async fn a_group_is_founded_once_every_founder_has_answered() {
    let mut house = House::empty();
    house.start(1).await;
    house.start(2).await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(house.leader(), None, "two of three found nothing");
    assert!(house.nodes.values().all(|node| node.status().replicas[0].last_log_index == 0));
    house.start(3).await;
    house.put("k", "v").await;
}

#[tokio::test(start_paused = true)]
async fn draining_hands_leadership_over() {
    let house = House::founded().await;
    let leader = house.wait_for_leader().await;
    let began = Instant::now();
    house.nodes[&leader].drain(Duration::from_secs(10)).await;
    assert!(began.elapsed() < Duration::from_secs(3), "it waited {:?}", began.elapsed());
    assert_ne!(role(&house.nodes[&leader]), Role::Leader);
    wait_until("another leader", || house.leader().is_some_and(|other| other != leader)).await;
    assert!(put(&house.nodes[&leader], "k", "v").await.is_err(), "a draining node takes nothing new");
    house.put("k", "v").await;
}

/// Invariant 5.
#[tokio::test(start_paused = true)]
async fn a_failed_sync_poisons_and_another_leads() {
    let house = House::founded().await;
    let leader = house.wait_for_leader().await;
    let node = &house.nodes[&leader];
    house.machines[&leader].journal.fail_next_sync();
    wait_until("the poison", || node.status().degraded.iter().any(|why| why.starts_with("poisoned"))).await;
    assert!(put(node, "k", "v").await.is_err(), "a poisoned node acknowledges nothing");
    wait_until("another leader", || house.leader().is_some_and(|other| other != leader)).await;
    house.put("k", "by another").await;
    let local = get(node, "first", ReadLevel::Local).await.unwrap();
    assert_eq!(local.as_deref(), Some(&b"1"[..]), "it stays for local reads");
    assert_eq!(node.status().refused, None);
}

/// Invariant 5: a background error of the engine poisons like a failed sync.
#[tokio::test(start_paused = true)]
async fn a_background_error_of_the_engine_poisons() {
    let house = House::founded().await;
    let leader = house.wait_for_leader().await;
    let error = kvorum_storage::StorageError::Engine("compaction: checksum mismatch".to_owned());
    house.machines[&leader].engine.fail_in_background(error);
    let node = &house.nodes[&leader];
    wait_until("the poison", || node.status().degraded.iter().any(|why| why.contains("checksum mismatch"))).await;
    house.put("k", "by another").await;
}

/// Rule J6.
#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_sync_hands_over_and_recovers() {
    let house = House::founded().await;
    let leader = house.wait_for_leader().await;
    let node = &house.nodes[&leader];
    house.machines[&leader].journal.stall(true);
    wait_until("another leader", || house.leader().is_some_and(|other| other != leader)).await;
    house.put("k", "by another").await;
    wait_until("the cause", || node.status().degraded.iter().any(|why| why.starts_with("sync_overdue"))).await;
    house.machines[&leader].journal.stall(false);
    house.journals[&leader].run();
    wait_until("the recovery", || node.status().degraded.is_empty()).await;
}

/// Rule S5.
#[tokio::test(start_paused = true)]
async fn a_full_disk_hands_leadership_to_where_there_is_room() {
    let house = House::founded().await;
    let leader = house.wait_for_leader().await;
    house.nodes[&leader].set_disk_full(Some("12 MiB left of 64 MiB".to_owned()));
    wait_until("another leader", || house.leader().is_some_and(|other| other != leader)).await;
    house.put("k", "by another").await;
    assert!(house.nodes[&leader].status().degraded[0].starts_with("disk_full"));
    house.nodes[&leader].set_disk_full(None);
    assert!(house.nodes[&leader].status().degraded.is_empty());
}

/// Rule S5: when every disk is full somebody still leads, or nobody could delete anything.
#[tokio::test(start_paused = true)]
async fn when_every_disk_is_full_somebody_still_leads() {
    let house = House::founded().await;
    for node in house.nodes.values() {
        node.set_disk_full(Some("no room".to_owned()));
    }
    sleep(Duration::from_secs(20)).await;
    let leader = house.wait_for_leader().await;
    let error = put(&house.nodes[&leader], "k", "v").await.unwrap_err();
    assert!(error.contains("disk_full"), "{error}");
    let found = get(&house.nodes[&leader], "first", ReadLevel::Linearizable).await.unwrap();
    assert_eq!(found.as_deref(), Some(&b"1"[..]));
}

/// Rules S5, J6: asked on every tick: a follower that could not lead at first may be able to later.
#[tokio::test(start_paused = true)]
async fn an_unfit_leader_is_asked_to_hand_over_for_as_long_as_it_lasts() {
    let house = House::founded().await;
    let leader = house.wait_for_leader().await;
    let followers: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for id in &followers {
        house.machines[id].journal.stall(true);
    }
    // Whoever cannot sync does not stand for election; their heartbeats are answered all the same.
    let unfit = |id: &u64| house.nodes[id].status().degraded.iter().any(|why| why.starts_with("sync_overdue"));
    let _undecided = put(&house.nodes[&leader], "k", "v").await;
    wait_until("the followers are unfit", || followers.iter().all(unfit)).await;
    house.nodes[&leader].set_disk_full(Some("no room".to_owned()));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(role(&house.nodes[&leader]), Role::Leader, "nobody could take over");
    for id in &followers {
        house.machines[id].journal.stall(false);
        house.journals[id].run();
    }
    wait_until("another leader", || house.leader().is_some_and(|other| other != leader)).await;
}

/// Invariant 11.
#[tokio::test(start_paused = true)]
async fn every_chore_is_listed() {
    let house = House::founded().await;
    let workers = house.nodes[&1].status().workers;
    let names: Vec<_> = workers.iter().map(|worker| worker.name).collect();
    assert_eq!(
        names,
        [
            "note",
            "watch",
            "fitness",
            "hello",
            "founding",
            "expiry",
            "retention",
            "liveness",
            "closing",
            "records",
            "moving",
            "map",
            "reconcile",
            "metadata",
            "operators",
            "balancer",
        ]
    );
    assert!(workers.iter().all(|worker| worker.runs > 0), "{workers:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_envelope_gets_an_answer() {
    let house = House::founded().await;
    for bytes in [&b""[..], b"\x09", b"GET / HTTP/1.1\r\n\r\n"] {
        let answer = house.nodes[&1].handle(Bytes::copy_from_slice(bytes)).await;
        let answer = Envelope::decode(&answer).unwrap();
        assert_eq!((answer.form, answer.kind), (Form::Refusal, Refusal::Malformed as u8));
        assert!(!answer.payload.is_empty(), "a refusal says why");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_to_or_from_another_replica_is_answered_unknown_replica() {
    let house = House::founded().await;
    let hello = house.nodes[&2].handle(request(&house, MessageKind::Hello, (0, 0))).await;
    assert_eq!(Envelope::decode(&hello).unwrap().form, Form::Reply, "the sender is known");
    for replicas in [(11, 99), (13, 12), (99, 12)] {
        let answer = house.nodes[&2].handle(request(&house, MessageKind::PreVote, replicas)).await;
        let answer = Envelope::decode(&answer).unwrap();
        assert_eq!((answer.form, answer.kind), (Form::Refusal, Refusal::UnknownReplica as u8));
        assert!(answer.payload.starts_with(b"unknown replica"), "{:?}", answer.payload);
    }
}

/// What node 1 would send to node 2, from one replica to another.
fn request(house: &House, kind: MessageKind, (from_replica, to_replica): (u64, u64)) -> Bytes {
    let config = house.config(1);
    let boot_nonce = house.nonces[&1];
    Envelope {
        form: Form::Request,
        cluster: config.cluster,
        from: NodeId(1),
        to: NodeId(2),
        life: kvorum_consensus::identity::Life {
            start: config.start,
            boot_nonce,
            last_synced: kvorum_storage::journal::BatchNumber(1),
        },
        stamp: kvorum_api::Stamp::default(),
        physical_ms: crate::node::house::BEGIN_MS,
        group: GroupId::from(SHARD),
        from_replica: ReplicaId(from_replica),
        to_replica: ReplicaId(to_replica),
        kind: kind as u8,
        trace: Bytes::new(),
        payload: Bytes::new(),
    }
    .encode()
}
