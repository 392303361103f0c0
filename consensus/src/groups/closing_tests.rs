//! What a replica writes down of its group as it closes it.

use crate::{
    Clock, Env, Lane, Node, NodeConfig, Transport, TransportError,
    config::{Budget, ShardConfig, Timing},
    cp::{codec::raft::encode_vote, types::Vote},
    metadata::{Founding, ReplicaRow},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::{ClusterId, GroupId, KeyspaceId, NodeId, PlacementRange, ReplicaId, ShardId, StartCount};
use kvorum_storage::{
    Blocking, Journal as _,
    command::{Images, Settings},
    engine::mem::MemEngine,
    journal::{Completion, JournalOptions, Mark, MemDisk, MemJournal},
    shard::BEHAVIOUR,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::sleep;

const SHARD: ShardId = ShardId(1);

/// Nobody else is there.
struct Alone;

impl Transport for Alone {
    fn call(&self, to: NodeId, _: Lane, _: Bytes, _: Duration) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        Box::pin(async move { Err(TransportError::Unreachable { node: to, why: "nobody is there".to_owned() }) })
    }

    fn set_peers(&self, _: &BTreeMap<NodeId, String>) {}
}

fn config() -> NodeConfig {
    let settings = Settings {
        behaviour: BEHAVIOUR,
        images: Images::Keys,
        request_window_ms: 600_000,
        request_outcomes_max: 64,
        range: PlacementRange::all(),
        epoch: 1,
        has_leases: false,
    };
    let shard = ShardConfig {
        shard: SHARD,
        keyspace: KeyspaceId(1),
        incarnation: 0,
        founders: vec![(ReplicaId(7), NodeId(1))],
        replicas: ReplicaRow::members(&[(ReplicaId(7), NodeId(1))]),
        settings,
    };
    NodeConfig {
        cluster: ClusterId(*b"a node by itself"),
        node: NodeId(1),
        start: StartCount(1),
        boot_nonce: 1,
        founding: Founding::default(),
        map: None,
        nodes: BTreeMap::from([(NodeId(1), "node-1:1".to_owned())]),
        shards: vec![shard],
        timing: Timing::default(),
        budget: Budget::default(),
    }
}

/// A node with one shard, which it founds and leads alone.
async fn started() -> (Arc<Node>, Arc<MemJournal>) {
    let journal = MemJournal::open(MemDisk::new(), JournalOptions::small()).unwrap();
    let env = Env {
        engine: MemEngine::fresh(),
        journal: journal.clone(),
        transport: Arc::new(Alone),
        clock: Clock::new(|| 1_700_000_000_000),
        blocking: Blocking::inline(),
        seed: 1,
    };
    (Node::start(env, config()).await.unwrap(), journal)
}

/// Rules G1, G2: whoever agreed to close may vote or be elected before its Raft instance has ended, and before the
/// figures it agreed by show that. Its record says so: one that named the former leader could send callers to somebody
/// who has heard of this replica and sends them back.
#[tokio::test(start_paused = true)]
async fn a_closed_replica_names_whom_its_journal_names() {
    for (leader, is_heard) in [(7, true), (8, true), (8, false)] {
        let (node, journal) = started().await;
        let replica = node.replica(SHARD).unwrap();
        let group = replica.group().unwrap();
        while !group.is_leading() || replica.shard().state().settings.is_none() {
            sleep(Duration::from_millis(10)).await;
        }
        let (term, _) = group.known_leader();
        let vote = match is_heard {
            true => Vote::new_committed(term + 1, leader),
            false => Vote::new(term + 1, leader),
        };
        journal.mark(GroupId::from(SHARD), Mark::Vote(encode_vote(&vote)), Completion::None).unwrap();
        replica.close_down(&group, Vec::new()).await;
        let record = replica.record();
        assert_eq!((record.term, record.leader), (term + 1, is_heard.then_some(ReplicaId(leader))));
        assert!(!record.was_closed_in_order, "nobody has agreed to that: {record:?}");
        node.stop().await;
    }
}

/// Rule G1: with nothing in between, the leader goes on in its term.
#[tokio::test(start_paused = true)]
async fn what_was_agreed_is_closed_in_order() {
    let (node, _) = started().await;
    let replica = node.replica(SHARD).unwrap();
    let group = replica.group().unwrap();
    while !group.is_leading() {
        sleep(Duration::from_millis(10)).await;
    }
    let agreed = group.known_leader();
    replica.close_down(&group, Vec::new()).await;
    let record = replica.record();
    assert_eq!((record.term, record.leader), agreed);
    assert!(record.was_closed_in_order);
    node.stop().await;
}
