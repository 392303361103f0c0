//! The map under real processes: restarts, a lost majority of the metadata, a long absence, a dropped keyspace.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod cluster;

use bytes::Bytes;
use cluster::{Cluster, calls, calls::Said, until};
use kvorum_api::{GroupId, KeyspaceId, PlacementRange, ShardId, Sharding, proto};
use kvorum_storage::{
    Column, Engine, Journal,
    engine::{
        Direction, KeyRange,
        rocks::{RocksEngine, RocksOptions},
    },
    journal::{FileJournal, JournalOptions},
    keys,
};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::timeout};

/// No call may take longer, whatever happened to the nodes.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Rows of a keyspace that has some.
const ROWS: usize = 24;

/// Lives in which a node has erased what it must.
const LIVES_MAX: usize = 5;

async fn create(
    cluster: &mut Cluster,
    node: u64,
    name: &str,
    wish: Option<proto::KeyspaceWish>,
) -> proto::KeyspaceDescription {
    let request = proto::CreateKeyspaceRequest { name: name.into(), wish };
    cluster.node(node).admin().create_keyspace(request).await.unwrap().into_inner()
}

async fn keyspaces(cluster: &mut Cluster, node: u64) -> Option<proto::ListKeyspacesReply> {
    let request = proto::ListKeyspacesRequest::default();
    cluster.node(node).admin().list_keyspaces(request).await.ok().map(tonic::Response::into_inner)
}

/// Writes at whichever of these nodes takes it.
async fn put_at(cluster: &Cluster, nodes: &[u64], keyspace: &str, key: &str) -> Option<()> {
    for node in nodes {
        let put = cluster.nodes[*node as usize - 1].kv().put(calls::put_in(keyspace, key, "v")).await;
        if put.is_ok() {
            return Some(());
        }
    }
    None
}

/// Reads, linearizable, at whichever of these nodes answers.
async fn get_at(cluster: &Cluster, nodes: &[u64], keyspace: &str, key: &str) -> Option<Option<Bytes>> {
    for node in nodes {
        if let Ok(reply) = cluster.nodes[*node as usize - 1].kv().get(calls::get_from(keyspace, key)).await {
            return Some(reply.into_inner().entry.map(|entry| entry.value));
        }
    }
    None
}

/// Keys that lie in these shards of a keyspace spread by hash.
fn keys_in(shards: &[&proto::ShardDescription], count: usize) -> Vec<String> {
    let ranges: Vec<PlacementRange> =
        shards.iter().map(|shard| PlacementRange { start: shard.start.clone(), end: shard.end.clone() }).collect();
    let lies = |key: &String| {
        let placement = Sharding::Hash.placement_key(&Bytes::copy_from_slice(key.as_bytes()));
        ranges.iter().any(|range| range.contains(&placement))
    };
    (0..).map(|number| format!("k{number}")).filter(lies).take(count).collect()
}

/// All nodes are killed at once; from their copies of the map they find their shards and each other.
#[tokio::test]
async fn all_nodes_start_again_from_their_copies_of_the_map() {
    let mut cluster = Cluster::start(3).await;
    create(&mut cluster, 2, "orders", calls::hash(8)).await;
    for number in 0..24 {
        let key = format!("k{number}");
        until("a write", || put_at(&cluster, &[1, 2, 3], "orders", &key)).await;
    }
    for node in 1..=3 {
        until("the map on disk", || async { cluster.nodes[node - 1].data().join("map").exists().then_some(()) }).await;
    }
    let before = keyspaces(&mut cluster, 1).await.unwrap();
    // In their next life idle shards are closed at once, and opened by the reads.
    for node in &mut cluster.nodes {
        node.kill();
        node.idle_close_after = "1s";
    }
    cluster.nodes.iter_mut().for_each(cluster::Kvd::start);
    for node in &mut cluster.nodes {
        node.ready().await;
    }
    for number in 0..24 {
        let key = format!("k{number}");
        let value = until("a read", || get_at(&cluster, &[1, 2, 3], "orders", &key)).await;
        assert_eq!(value.as_deref(), Some(&b"v"[..]), "{key}");
    }
    let after = keyspaces(&mut cluster, 3).await.unwrap();
    let names = |reply: &proto::ListKeyspacesReply| {
        reply.keyspaces.iter().map(|one| (one.id, one.name.clone(), one.shards.len())).collect::<Vec<_>>()
    };
    assert_eq!(names(&before), names(&after));
}

/// Invariant 8 for CP: with a majority of the metadata down, shards that have a majority elsewhere serve reads and
/// writes; changes are refused with that reason, and without effect. They are made again once it is back.
#[tokio::test]
async fn with_the_metadata_down_data_goes_on_and_changes_are_refused() {
    // A balancer would let the fourth and the fifth node hold the metadata too.
    let mut cluster = Cluster::start_with(3, |_| "[balance]\nenabled = false\n".to_owned()).await;
    cluster.join().await;
    cluster.join().await;
    let made = create(&mut cluster, 1, "orders", calls::hash(20)).await;
    let survivors = BTreeSet::from([3, 4, 5]);
    let survives = |shard: &&proto::ShardDescription| {
        shard.replicas.iter().filter(|replica| survivors.contains(&replica.node)).count() >= 2
    };
    let surviving: Vec<&proto::ShardDescription> = made.shards.iter().filter(survives).collect();
    assert!(surviving.len() >= 8, "three replicas on five nodes: most shards have two on three of them");
    let keys = keys_in(&surviving, 12);
    for key in &keys {
        until("a write", || put_at(&cluster, &[1, 2, 3, 4, 5], "orders", key)).await;
    }
    cluster.node(1).kill();
    cluster.node(2).kill();
    for key in &keys {
        let value = until("a read", || get_at(&cluster, &[3, 4, 5], "orders", key)).await;
        assert_eq!(value.as_deref(), Some(&b"v"[..]), "{key}");
        until("a write", || put_at(&cluster, &[3, 4, 5], "orders", key)).await;
    }
    let request = proto::CreateKeyspaceRequest { name: "carts".into(), wish: None };
    let refused = timeout(CALL_MAX, cluster.node(4).admin().create_keyspace(request)).await.unwrap();
    let said = Said::of(&refused.expect_err("the metadata has no majority"));
    assert_eq!((said.reason.as_str(), said.effect()), ("METADATA_UNAVAILABLE", "none"), "{said:?}");
    assert!(
        keyspaces(&mut cluster, 5).await.is_some_and(|reply| reply.keyspaces.iter().any(|one| one.name == "orders"))
    );
    // One of the two is enough for a majority of the three founders.
    cluster.node(1).start();
    cluster.node(1).ready().await;
    until("a change", || async {
        let request = proto::CreateKeyspaceRequest { name: "carts".into(), wish: None };
        match cluster.nodes[4].admin().create_keyspace(request).await {
            Ok(_) => Some(()),
            Err(status) => (Said::of(&status).reason == "EXISTS").then_some(()),
        }
    })
    .await;
}

/// Rule G8 asks every founder, so a shard made while one of them is dead waits for it. That holds up this shard, and no
/// node: whoever waits for the others to be ready must not wait for the dead.
#[tokio::test]
async fn a_shard_that_waits_for_a_dead_founder_makes_no_node_unready() {
    let mut cluster = Cluster::start(3).await;
    cluster.node(3).kill();
    let made = create(&mut cluster, 1, "orders", calls::hash(4)).await;
    assert!(made.shards.iter().all(|shard| shard.replicas.iter().any(|replica| replica.node == 3)), "{made:?}");
    for node in 1..=2 {
        let held_up = |why: &String| why.starts_with("held_up: shard") && why.ends_with("waits for node 3");
        until("the reason", || async {
            let status = cluster.nodes[node - 1].try_status().await?;
            (status.degraded.iter().filter(|why| held_up(why)).count() == made.shards.len()).then_some(())
        })
        .await;
        cluster.node(node as u64).ready().await;
    }
    cluster.node(3).start();
    for key in (0..8).map(|number| format!("k{number}")) {
        until("a write", || put_at(&cluster, &[1, 2, 3], "orders", &key)).await;
    }
}

/// With a majority of the nodes gone, nothing can be agreed on: the one that is left is not ready, and says why.
#[tokio::test]
async fn a_node_that_is_left_alone_is_not_ready() {
    let mut cluster = Cluster::start(3).await;
    cluster.node(1).kill();
    cluster.node(3).kill();
    until("it says that it is cut off", || async {
        let (status, why) = cluster::http(cluster.nodes[1].ports.admin, "/readyz")?;
        (status == 503 && why.contains("cut_off: 1 of 3 nodes live")).then_some(())
    })
    .await;
    cluster.node(3).start();
    cluster.node(2).ready().await;
}

/// A node that missed five hundred changes of the map has the same map as the others once it is back.
#[tokio::test]
async fn a_node_away_through_five_hundred_changes_comes_back_right() {
    let mut cluster = Cluster::start(3).await;
    create(&mut cluster, 1, "orders", calls::hash(2)).await;
    assert!(cluster.node(3).stop().await.success());
    for round in 0..50 {
        create(&mut cluster, 1, &format!("one-{round}"), None).await;
        for number in 0..8 {
            let read_level = ["local", "linearizable"][number % 2].to_owned();
            let wish = Some(proto::KeyspaceWish { read_level, ..proto::KeyspaceWish::default() });
            let request = proto::AlterKeyspaceRequest { name: "orders".into(), wish };
            cluster.node(1).admin().alter_keyspace(request).await.unwrap();
        }
        if round % 10 != 0 {
            let request = proto::DropKeyspaceRequest { name: format!("one-{round}") };
            cluster.node(2).admin().drop_keyspace(request).await.unwrap();
        }
    }
    cluster.node(3).start();
    cluster.node(3).ready().await;
    let expected = keyspaces(&mut cluster, 1).await.unwrap();
    assert_eq!(expected.keyspaces.len(), 7, "default, orders, and five that were not dropped");
    let wishes = |reply: proto::ListKeyspacesReply| {
        reply.keyspaces.into_iter().map(|one| (one.id, one.name, one.wish, one.shards.len())).collect::<Vec<_>>()
    };
    let expected = wishes(expected);
    until("the same map", || async {
        let request = proto::ListKeyspacesRequest::default();
        let reply = cluster.nodes[2].admin().list_keyspaces(request).await.ok()?.into_inner();
        (wishes(reply) == expected).then_some(())
    })
    .await;
    until("a write to a keyspace made meanwhile", || put_at(&cluster, &[1, 2, 3], "one-40", "k")).await;
}

/// A keyspace is dropped while many write to it: everybody is answered, with a reason; nothing of it comes back.
#[tokio::test]
async fn a_keyspace_dropped_under_load_answers_everybody_and_leaves_nothing() {
    let mut cluster = Cluster::start(3).await;
    let made = create(&mut cluster, 1, "orders", calls::hash(4)).await;
    until("a write", || put_at(&cluster, &[1, 2, 3], "orders", "k0")).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..12 {
        let (mut kv, is_over) = (cluster.nodes[writer % 3].kv(), is_over.clone());
        writers.spawn(async move {
            for number in 0.. {
                let key = format!("k{writer}-{number}");
                let put = timeout(CALL_MAX, kv.put(calls::put_in("orders", key, "v"))).await.expect("a call hangs");
                match put {
                    Ok(_) => {}
                    Err(status) if Said::of(&status).reason == "UNKNOWN_KEYSPACE" => return,
                    // Led elsewhere, or ended under way: both say so, and the next try tells.
                    Err(status) => assert!(!Said::of(&status).effect().is_empty()),
                }
                assert!(!is_over.load(Ordering::Relaxed) || number < 1_000_000, "nobody said that it is gone");
            }
        });
    }
    let request = proto::DropKeyspaceRequest { name: "orders".into() };
    cluster.node(2).admin().drop_keyspace(request).await.unwrap();
    is_over.store(true, Ordering::Relaxed);
    while let Some(writer) = timeout(CALL_MAX, writers.join_next()).await.expect("a writer hangs") {
        writer.unwrap();
    }
    let dropped: BTreeSet<u64> = made.shards.iter().map(|shard| shard.id).collect();
    for node in 0..3 {
        until("the replicas to go", || async {
            let status = cluster.nodes[node].try_status().await?;
            status.replicas.iter().all(|replica| !dropped.contains(&replica.shard)).then_some(())
        })
        .await;
    }
    for node in 1..=3 {
        cluster.node(node).kill();
        cluster.node(node).start();
    }
    for node in &mut cluster.nodes {
        node.ready().await;
        let status = node.status().await;
        assert!(status.replicas.iter().all(|replica| !dropped.contains(&replica.shard)), "they are back: {status:?}");
    }
    // Another keyspace of the same name is empty.
    create(&mut cluster, 3, "orders", calls::hash(4)).await;
    let value = until("a read", || get_at(&cluster, &[1, 2, 3], "orders", "k0")).await;
    assert_eq!(value, None);
}

/// A node that was down while a keyspace was dropped has nothing of it left once it is back: neither when its own copy
/// of the map still names the shards, nor when it starts from a copy that has forgotten them.
#[tokio::test]
async fn a_node_that_was_down_while_a_keyspace_was_dropped_keeps_nothing_of_it() {
    let mut cluster = Cluster::start(3).await;
    let dropped = filled(&mut cluster, "dropped").await;
    let kept = filled(&mut cluster, "kept").await;
    let held = |cluster: &Cluster, node: usize, keyspace: &proto::KeyspaceDescription| {
        let remains = Remains::of(cluster, node, keyspace);
        remains.rows >= ROWS && remains.groups == keyspace.shards.len()
    };
    // Stopped in order: what is written lies in the engine, too.
    assert!(cluster.node(2).stop().await.success() && cluster.node(3).stop().await.success());
    assert!(held(&cluster, 2, &dropped) && held(&cluster, 3, &dropped), "there is something to erase");
    // Two of three are gone: one comes back for the change, and sees it like node 1.
    cluster.node(2).start();
    let request = proto::DropKeyspaceRequest { name: "dropped".into() };
    until("the drop", || async { cluster.nodes[1].admin().drop_keyspace(request.clone()).await.ok() }).await;
    for node in 1..=2 {
        until("it to forget", || async { forgot(cluster.nodes[node - 1].try_status().await?, &dropped) }).await;
    }
    // Node 3 comes back with its own old copy of the map.
    cluster.node(3).start();
    cluster.node(3).ready().await;
    until("node 3 to forget", || async { forgot(cluster.nodes[2].try_status().await?, &dropped) }).await;
    // Node 2 will come back with a copy of another's.
    let orphaned = filled(&mut cluster, "orphaned").await;
    assert!(cluster.node(2).stop().await.success());
    let request = proto::DropKeyspaceRequest { name: "orphaned".into() };
    until("the drop", || async { cluster.nodes[0].admin().drop_keyspace(request.clone()).await.ok() }).await;
    until("it to forget", || async { forgot(cluster.nodes[0].try_status().await?, &orphaned) }).await;
    let [theirs, own] = [0, 1].map(|node| cluster.nodes[node].data().join("map"));
    let names_it = |map: &std::path::Path| std::fs::read(map).unwrap().windows(8).any(|word| word == b"orphaned");
    assert!(names_it(&own), "it was alive when the node died");
    until("a map on disk without it", || async { (!names_it(&theirs)).then_some(()) }).await;
    std::fs::copy(&theirs, &own).unwrap();
    std::fs::remove_file(cluster.nodes[1].data().join("map.previous")).unwrap();
    assert!(held(&cluster, 2, &orphaned), "there is something to erase");
    cluster.node(2).start();
    cluster.node(2).ready().await;

    for node in 2..=3 {
        // The files are looked at between two lives of the node.
        for life in 0.. {
            assert!(cluster.node(node).stop().await.success());
            let remains = [&dropped, &orphaned].map(|gone| Remains::of(&cluster, node as usize, gone));
            if remains == [Remains::default(), Remains::default()] {
                break;
            }
            assert!(life < LIVES_MAX, "node {node} has still {remains:?}");
            cluster.node(node).start();
            cluster.node(node).ready().await;
        }
    }
    assert!(held(&cluster, 2, &kept) && held(&cluster, 3, &kept), "what lives stays");
    cluster.node(2).start();
    cluster.node(3).start();
    for number in 0..ROWS {
        let key = format!("k{number}");
        let value = until("a read", || get_at(&cluster, &[1, 2, 3], "kept", &key)).await;
        assert_eq!(value.as_deref(), Some(&b"v"[..]), "{key}");
    }
}

/// A keyspace of four shards with rows in it.
async fn filled(cluster: &mut Cluster, name: &str) -> proto::KeyspaceDescription {
    let made = create(cluster, 1, name, calls::hash(4)).await;
    for number in 0..ROWS {
        let key = format!("k{number}");
        until("a write", || put_at(cluster, &[1, 2, 3], name, &key)).await;
    }
    made
}

/// Whether a node holds no replica of a keyspace any more.
fn forgot(status: proto::NodeStatusReply, keyspace: &proto::KeyspaceDescription) -> Option<()> {
    let shards: BTreeSet<u64> = keyspace.shards.iter().map(|shard| shard.id).collect();
    status.replicas.iter().all(|replica| !shards.contains(&replica.shard)).then_some(())
}

/// What lies on a node's disk of a keyspace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remains {
    /// Rows of its data, and of what its shards keep besides.
    rows: usize,
    /// Groups in the journal.
    groups: usize,
}

impl Remains {
    /// Looks into a copy of the node's files, as they are now.
    fn of(cluster: &Cluster, node: usize, keyspace: &proto::KeyspaceDescription) -> Remains {
        let copy = tempfile::tempdir_in(cluster.root()).unwrap();
        cluster::copy_directory(&cluster.nodes[node - 1].data(), copy.path());
        let journal = FileJournal::open(&copy.path().join("journal"), JournalOptions::default()).unwrap();
        let engine = RocksEngine::open(&copy.path().join("engine"), &RocksOptions::default()).unwrap();
        let view = engine.view();
        let count = |column: Column, range: KeyRange| {
            let mut cursor = view.cursor(column, range, Direction::Forward);
            std::iter::from_fn(|| cursor.next().unwrap()).count()
        };
        let mut remains =
            Remains { rows: count(Column::Data, keys::keyspace_range(KeyspaceId(keyspace.id))), groups: 0 };
        let groups = journal.groups();
        for shard in keyspace.shards.iter().map(|shard| ShardId(shard.id)) {
            remains.rows += keys::own_ranges(shard).map(|(column, range)| count(column, range)).sum::<usize>();
            remains.groups += usize::from(groups.contains(&GroupId::from(shard)));
        }
        remains
    }
}
