//! Changes: made once or not at all, and the answer is true (rules G8, C1; invariants 6, 7).

use crate::{
    metadata::house::{House, change, create, drop_keyspace, hash},
    support::{context, wait_until},
};
use futures::future::join_all;
use kvorum_api::{AdminError, Effect, NodeId, ReadLevel, ReplicaId};
use kvorum_consensus::{
    Node,
    metadata::{Counters, KeyspaceWish, METADATA_SHARD, MetadataCommand, ReplicaRow, Row, RowKey, ShardStage},
};
use kvorum_storage::{Condition, Operation, Outcome, WriteCommand};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// Rule G8: the first start of the first nodes makes nodes, metadata, and the first keyspaces, once.
#[tokio::test(start_paused = true)]
async fn three_nodes_found_the_metadata_and_its_first_keyspaces() {
    let keyspaces = vec![("orders".to_owned(), hash(8)), ("flights".to_owned(), KeyspaceWish::default())];
    let mut house = House::empty(3, keyspaces);
    house.start(1).await;
    house.start(2).await;
    sleep(Duration::from_secs(10)).await;
    assert!(house.nodes.values().all(|node| !node.map().is_founded()), "two of three found nothing");
    house.start(3).await;
    house.wait_for_revision(2).await;
    for node in house.nodes.values() {
        let map = node.map();
        assert_eq!((map.nodes.len(), map.keyspaces.len(), map.shards.len()), (3, 2, 9));
        let seats: Vec<_> = (1..=3).map(|id| (ReplicaId(id), NodeId(id))).collect();
        assert_eq!(map.metadata, ReplicaRow::members(&seats));
        assert!(map.shards.values().all(|row| row.founders.len() == 3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_node_founds_its_own() {
    let house = House::founded(1).await;
    change(&house.nodes[&1], create("orders", 4)).await.unwrap();
    assert_eq!(house.nodes[&1].map().keyspace("orders").unwrap().replicas, 1);
}

#[tokio::test(start_paused = true)]
async fn a_keyspace_made_through_any_node_is_on_every_map() {
    let house = House::founded(3).await;
    for (id, node) in &house.nodes {
        let name = format!("made-by-{id}");
        let reply = change(node, create(&name, 8)).await.unwrap();
        let map = node.map();
        assert!(map.revision >= reply.revision, "who asked sees what was made");
        assert_eq!(map.keyspace(&name).map(|row| row.id), reply.keyspace);
        house.wait_for_revision(reply.revision).await;
        for node in house.nodes.values() {
            assert_eq!(node.map().shards_of(reply.keyspace.unwrap()).len(), 8);
        }
    }
}

/// Takes one node id, as a change that another leader makes would: past whatever is being decided here. False: another
/// change came between.
async fn take_node_id(node: &Node) -> bool {
    let replicator = node.replicator(METADATA_SHARD).expect("it holds the metadata");
    let key = RowKey::Counters.encode();
    let found = replicator.get(key.clone(), ReadLevel::Linearizable, context(5_000)).await.expect("its leader answers");
    let entry = found.entry.expect("the cluster is founded");
    let row = Row::decode(RowKey::Counters, entry.value.expect("counters stay")).expect("a row");
    let Row::Counters(counters) = row else { panic!("{row:?}") };
    let next_node = NodeId(counters.next_node.0 + 1);
    let taken = Counters { next_node, serial: counters.serial + 1, ..counters };
    let operation = Operation::Put {
        key,
        value: Row::Counters(taken).encode(),
        ttl_ms: None,
        condition: Condition::Version(entry.version),
        return_previous: false,
    };
    let command = WriteCommand { request: None, operations: vec![operation] };
    let written = replicator.write(command, context(5_000)).await.expect("its leader decides");
    matches!(written.outcome, Outcome::Written { applied: true, .. })
}

/// Changes are serial, whoever makes them: what was planned from counters that are old by now is planned again.
#[tokio::test(start_paused = true)]
async fn a_change_never_overwrites_one_that_came_between() {
    let house = House::founded(3).await;
    let node = &house.nodes[&house.wait_for_leader().await];
    let before = node.map().counters;
    let making = async {
        for round in 0..20 {
            change(node, create(&format!("round-{round}"), 1)).await.unwrap();
        }
    };
    let taking = async {
        let mut taken = 0;
        for _ in 0..20 {
            taken += u64::from(take_node_id(node).await);
            sleep(Duration::from_millis(3)).await;
        }
        taken
    };
    let ((), taken) = tokio::join!(making, taking);
    assert!(taken > 5, "{taken} of 20 came between");
    wait_until("the newest map", || node.map().counters.serial == before.serial + 20 + taken).await;
    assert_eq!(node.map().counters.next_node.0, before.next_node.0 + taken);
}

#[tokio::test(start_paused = true)]
async fn of_two_that_make_one_name_at_once_one_wins() {
    let house = House::founded(3).await;
    for round in 0..5 {
        let name = format!("round-{round}");
        let made = join_all(house.nodes.values().map(|node| change(node, create(&name, 2)))).await;
        assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1, "{made:?}");
        assert_eq!(made.iter().filter(|made| matches!(made, Err(AdminError::Exists { .. }))).count(), 2, "{made:?}");
    }
    let map = house.nodes[&1].map();
    assert_eq!((map.keyspaces.len(), map.shards.len()), (5, 10));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_another_node_arrives_whole() {
    let house = House::founded(3).await;
    let wish = KeyspaceWish { replicas: Some(5), ..KeyspaceWish::default() };
    for node in house.nodes.values() {
        let command = MetadataCommand::CreateKeyspace { name: "k".to_owned(), wish: wish.clone() };
        let error = change(node, command).await.unwrap_err();
        assert!(matches!(error, AdminError::Invalid { field: "replicas", .. }), "{error:?}");
        assert!(error.to_string().contains("the cluster has 3 nodes: ask for 1 or 3"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_number_of_a_dropped_keyspace_never_comes_back() {
    let mut house = House::founded(3).await;
    let mut numbers = BTreeSet::new();
    let mut shards = BTreeSet::new();
    for round in 0..6 {
        if round == 3 {
            for id in 1..=3 {
                house.crash(id).await;
            }
            for id in 1..=3 {
                house.start(id).await;
            }
        }
        let node = &house.nodes[&(round % 3 + 1)];
        let made = change(node, create("k", 3)).await.unwrap();
        assert!(numbers.insert(made.keyspace.unwrap()));
        assert!(node.map().shards.keys().all(|shard| shards.insert(*shard)));
        change(node, drop_keyspace("k")).await.unwrap();
        assert!(node.map().shards.is_empty());
    }
    let error = change(&house.nodes[&2], drop_keyspace("k")).await.unwrap_err();
    assert!(matches!(error, AdminError::NotFound { .. }), "{error:?}");
}

/// Invariant 6: whoever cannot find a leader has changed nothing, and says so.
#[tokio::test(start_paused = true)]
async fn a_minority_refuses_and_proves_that_nothing_happened() {
    let house = House::founded(3).await;
    let leader = house.wait_for_leader().await;
    let follower = leader % 3 + 1;
    house.cut(&[follower]);
    let error = change(&house.nodes[&follower], create("alone", 1)).await.unwrap_err();
    assert!(matches!(error, AdminError::Unavailable { effect: Effect::None, .. }), "{error:?}");
    assert!(error.to_string().starts_with("the metadata cannot decide now: node"), "{error}");
    house.cut(&[leader]);
    let error = change(&house.nodes[&leader], create("deposed", 1)).await.unwrap_err();
    assert!(matches!(error, AdminError::Unavailable { effect: Effect::None, .. }), "{error:?}");
    let made = change(&house.nodes[&follower], create("together", 1)).await.unwrap();
    house.cut(&[]);
    house.wait_for_revision(made.revision).await;
    let map = house.nodes[&leader].map();
    assert_eq!(map.keyspaces.values().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["together"]);
}

/// Invariant 6: while the leaders of the metadata die one after the other, every creation happens at most once, and
/// what was answered is what is.
#[tokio::test(start_paused = true)]
async fn creations_while_leaders_die_happen_at_most_once_and_are_answered_truly() {
    let mut house = House::founded(3).await;
    let mut answers = Vec::new();
    for round in 0..6 {
        let leader = house.wait_for_leader().await;
        let asked = Arc::clone(&house.nodes[&(leader % 3 + 1)]);
        let names: Vec<_> = (0..12).map(|number| format!("k-{round}-{number}")).collect();
        let creations = names.iter().enumerate().map(|(at, name)| {
            let asked = &asked;
            async move {
                sleep(Duration::from_millis(at as u64)).await;
                (name.clone(), asked.metadata(create(name, 2), Duration::from_secs(8)).await)
            }
        });
        let killed = async {
            sleep(Duration::from_millis(5 + round)).await;
            house.crash(leader).await;
        };
        let (made, ()) = tokio::join!(join_all(creations), killed);
        answers.extend(made);
        house.start(leader).await;
    }
    let last = change(&house.nodes[&1], create("last", 1)).await.unwrap();
    house.wait_for_revision(last.revision).await;
    let map = house.nodes[&1].map();
    let mut seen = BTreeSet::new();
    assert!(map.keyspaces.values().all(|row| seen.insert(row.name.clone())), "a name was made twice");
    let (mut made, mut unknown) = (0, 0);
    for (name, answer) in &answers {
        let is_there = map.keyspace(name).is_some();
        match answer {
            Ok(reply) => {
                assert_eq!(map.keyspace(name).map(|row| row.id), reply.keyspace, "{name}");
                assert_eq!(map.shards_of(reply.keyspace.unwrap()).len(), 2);
                made += 1;
            }
            Err(error) if error.effect() == Effect::None => assert!(!is_there, "{name}: {error}"),
            Err(_) => unknown += 1,
        }
    }
    assert!(made > 20 && unknown > 0, "{made} made, {unknown} unknown of {}", answers.len());
    assert_eq!(map.shards.len(), 2 * (map.keyspaces.len() - 1) + 1);
}

/// Rule G8: the leaders of new shards say that they are founded; once they have, saying it again changes nothing.
#[tokio::test(start_paused = true)]
async fn shards_are_founded_and_told_ready_once() {
    let house = House::founded(3).await;
    let made = change(&house.nodes[&1], create("k", 3)).await.unwrap();
    let is_ready = |id| house.nodes[&id].map().shards.values().all(|row| row.stage == ShardStage::Ready);
    wait_until("the shards", || (1..=3).all(is_ready)).await;
    let revision = house.nodes[&1].map().revision;
    assert!(made.revision < revision);
    let shards: Vec<_> = house.nodes[&1].map().shards.keys().copied().collect();
    assert_eq!(shards.len(), 3);
    let again = change(&house.nodes[&3], MetadataCommand::ShardsReady { shards }).await.unwrap();
    assert_eq!(again.revision, revision);
}

/// The revision of a watcher's map only grows, through restarts and losses of leaders.
#[tokio::test(start_paused = true)]
async fn the_map_never_goes_back() {
    let mut house = House::founded(3).await;
    let mut highest = [0; 4];
    for round in 0..8_u64 {
        let id = round % 3 + 1;
        let before = house.nodes[&id].map().revision;
        house.crash(id).await;
        let node = house.start(id).await;
        assert_eq!(node.map().revision, before, "the durable copy is what it begins with");
        let mut map = node.watch_map();
        let until = Instant::now() + Duration::from_secs(5);
        change(&house.nodes[&((round + 1) % 3 + 1)], create(&format!("k-{round}"), 2)).await.unwrap();
        while let Ok(Ok(())) = tokio::time::timeout_at(until, map.changed()).await {
            let revision = map.borrow_and_update().revision;
            assert!(revision > highest[id as usize].max(before), "{revision}");
            highest[id as usize] = revision;
        }
    }
    wait_until("the metadata", || house.leader().is_some()).await;
    let status = house.nodes[&1].status();
    assert!(status.replicas.iter().any(|replica| replica.shard == METADATA_SHARD));
}
