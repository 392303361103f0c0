//! What a replica writes down of its group as it closes it.

use crate::{
    Clock, Env, Lane, Node, NodeConfig, Transport, TransportError,
    config::{Budget, ShardConfig, Timing},
    cp::close::last_leader,
    metadata::Founding,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_api::{ClusterId, GroupId, KeyspaceId, NodeId, PlacementRange, ReplicaId, ShardId, StartCount};
use kvorum_storage::{
    Blocking,
    command::{Images, Settings},
    engine::mem::MemEngine,
    journal::{JournalOptions, MemDisk, MemJournal},
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

/// Rules G1, G2: whoever agrees to close may be elected before its Raft instance has ended. Its record says so: one that
/// named the former leader would send callers there, while that one has heard of this replica and sends them back.
#[tokio::test(start_paused = true)]
async fn a_closed_replica_names_whom_its_journal_names() {
    let journal = MemJournal::open(MemDisk::new(), JournalOptions::small()).unwrap();
    let env = Env {
        engine: MemEngine::fresh(),
        journal: journal.clone(),
        transport: Arc::new(Alone),
        clock: Clock::new(|| 1_700_000_000_000),
        blocking: Blocking::inline(),
        seed: 1,
    };
    let node = Node::start(env, config()).await.unwrap();
    let replica = node.replica(SHARD).unwrap();
    let group = replica.group().unwrap();
    while !group.is_leading() || replica.shard().state().settings.is_none() {
        sleep(Duration::from_millis(10)).await;
    }
    let agreed = group.known_leader();
    group.elect_now().await;
    assert_eq!(group.known_leader(), agreed, "nothing has come of it yet");
    replica.close_down(&group, Vec::new()).await;
    let record = replica.record();
    assert_eq!((record.term, record.leader), last_leader(&*journal, GroupId::from(SHARD)));
    assert!(record.term > agreed.0, "it was elected once more: {record:?}");
    assert!(!record.was_closed_in_order, "nobody has agreed to that: {record:?}");
    node.stop().await;
}
