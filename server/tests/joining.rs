//! Nodes that join: let in by those that are in, given a number, and the same one whatever happens in between.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod cluster;

use cluster::{Cluster, calls, small, until};
use kvorum_api::proto;
use kvorum_server::{
    cluster_key::ClusterKey,
    identity::DataDirectory,
    join::{self, Applicant},
};
use std::{fs, time::Duration};

/// Ids of the nodes by one node's copy of the map.
async fn nodes_by(cluster: &mut Cluster, node: u64) -> Vec<u64> {
    let reply = cluster.node(node).admin().list_nodes(proto::ListNodesRequest {}).await.unwrap().into_inner();
    reply.nodes.iter().map(|node| node.id).collect()
}

/// A fourth and a fifth node join three; each sees the map, holds replicas of what is made from then on, serves them,
/// and needs no flag at its next start.
#[tokio::test]
async fn nodes_that_join_see_the_map_hold_replicas_and_start_again_by_themselves() {
    let mut cluster = Cluster::start(3).await;
    assert_eq!(cluster.join().await, 4);
    assert_eq!(cluster.join().await, 5);
    // A node that was not heard yet is given nothing.
    for node in 1..=5 {
        until("the map everywhere, and everybody heard", || async {
            let reply = cluster.nodes[node - 1].admin().list_nodes(proto::ListNodesRequest {}).await.ok()?.into_inner();
            let heard = reply.nodes.iter().filter(|node| node.liveness == "alive").map(|node| node.id);
            (heard.collect::<Vec<_>>() == [1, 2, 3, 4, 5]).then_some(())
        })
        .await;
    }
    let request = proto::CreateKeyspaceRequest { name: "orders".into(), wish: calls::hash(10) };
    let made = cluster.node(5).admin().create_keyspace(request).await.unwrap().into_inner();
    for node in [4, 5] {
        let held = made.shards.iter().filter(|shard| shard.replicas.iter().any(|replica| replica.node == node)).count();
        assert!(held >= 4, "node {node} holds {held} of ten shards with three replicas on five nodes");
    }
    for number in 0..40 {
        let key = format!("k{number}");
        until("a write at whoever leads", || put_somewhere(&cluster, "orders", &key)).await;
    }

    for node in [4, 5] {
        assert!(cluster.node(node).stop().await.success(), "{}", cluster.node(node).log_tail());
        cluster.node(node).flags.clear();
        let file = cluster.node(node).directory.join("node.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("\nid = "), "{text}");
        cluster.node(node).start();
        cluster.node(node).ready().await;
        let status = cluster.node(node).status().await;
        assert_eq!((status.node, status.start_count), (node, 2));
    }
    for number in 0..40 {
        let key = format!("k{number}");
        until("a write at whoever leads", || put_somewhere(&cluster, "orders", &key)).await;
    }
}

/// Writes at whichever node takes it.
async fn put_somewhere(cluster: &Cluster, keyspace: &str, key: &str) -> Option<()> {
    for node in &cluster.nodes {
        if node.kv().put(calls::put_in(keyspace, key, "v")).await.is_ok() {
            return Some(());
        }
    }
    None
}

/// Nodes that joined, hold nothing and never come back do not count where a majority is asked: two of the three that
/// hold everything are enough to serve, also after a restart.
#[tokio::test]
async fn nodes_that_joined_and_are_gone_keep_nobody_from_serving() {
    // A balancer would let them hold something at once.
    let mut cluster = Cluster::start_with(3, |_| "[balance]\nenabled = false\n".to_owned()).await;
    for node in [cluster.join().await, cluster.join().await] {
        cluster.node(node).kill();
    }
    cluster.node(2).kill();
    cluster.node(3).kill();
    cluster.node(3).start();
    cluster.node(3).ready().await;
    until("a write at two of three", || put_somewhere(&cluster, "default", "k")).await;
}

/// `--join` on a directory that founded a cluster of its own would be ignored: it is refused, unless it names that
/// cluster.
#[tokio::test]
async fn a_founder_that_is_told_to_join_others_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let mut loner = cluster.applicant();
    let join = std::mem::take(&mut loner.flags);
    loner.configure(small());
    loner.start();
    loner.ready().await;
    assert!(loner.stop().await.success());
    loner.flags = join[..2].to_vec();
    loner.start();
    assert!(!loner.is_ready().await, "it serves a cluster of its own");
    let words = loner.last_words();
    assert!(words.contains("founded cluster") && words.contains("leave --join out"), "{words}");
    loner.kill();
    // The key of another cluster is not taken either.
    loner.flags = join[2..].to_vec();
    loner.start();
    assert!(!loner.is_ready().await);
    let words = loner.last_words();
    assert!(words.contains("is another than"), "{words}");
    loner.kill();
    // Named as its own, it is as good as absent.
    let peer = format!("127.0.0.1:{}", cluster.node(2).ports.peer);
    assert!(cluster.node(1).stop().await.success());
    cluster.node(1).flags = vec!["--join".to_owned(), peer];
    cluster.node(1).start();
    cluster.node(1).ready().await;
}

/// A node that does not know the cluster's key is refused with that sentence, and leaves no trace in the map.
#[tokio::test]
async fn a_node_with_another_key_is_not_let_in() {
    let mut cluster = Cluster::start(3).await;
    let mut stranger = cluster.applicant();
    let key = cluster::key_file(&stranger.directory);
    *stranger.flags.last_mut().unwrap() = key.display().to_string();
    stranger.start();
    assert_eq!(stranger.exit().await.code(), Some(1), "{}", stranger.log_tail());
    let words = stranger.last_words();
    assert!(words.contains("does not let this node in: the proof does not fit the cluster's key"), "{words}");
    assert_eq!(nodes_by(&mut cluster, 1).await, [1, 2, 3]);

    // The same directory with the right key goes on from there.
    *stranger.flags.last_mut().unwrap() = cluster.key_file().display().to_string();
    stranger.start();
    stranger.ready().await;
    assert_eq!(stranger.status().await.node, 4);
}

/// What is missing is said before anybody is asked.
#[tokio::test]
async fn a_join_that_cannot_be_meant_is_refused_at_once() {
    let cluster = Cluster::start(1).await;
    let mut node = cluster.applicant();
    let flags = node.flags.clone();
    node.flags.truncate(2);
    node.start();
    assert_eq!(node.exit().await.code(), Some(1));
    assert!(node.last_words().contains("--join needs --cluster-key FILE"), "{}", node.last_words());

    node.flags = flags;
    node.configure(&cluster.configuration(""));
    node.start();
    assert_eq!(node.exit().await.code(), Some(1));
    assert!(node.last_words().contains("--join and [[cluster.nodes]] exclude each other"), "{}", node.last_words());

    let file = node.directory.join("node.toml");
    node.configure(small());
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("[node]", "[node]\nid = 9", 1)).unwrap();
    node.start();
    assert_eq!(node.exit().await.code(), Some(1));
    assert!(node.last_words().contains("--join and node.id exclude each other"), "{}", node.last_words());
}

/// A node that got its id and died before it could write that down asks again, and gets the same.
#[tokio::test]
async fn a_join_that_was_interrupted_gets_the_same_id() {
    let mut cluster = Cluster::start(3).await;
    let mut node = cluster.applicant();
    let number = DataDirectory::open(&node.data()).unwrap().directory_number(0x77, 1).unwrap();
    let applicant = Applicant {
        directory: number,
        client: format!("127.0.0.1:{}", node.ports.client),
        peer: format!("127.0.0.1:{}", node.ports.peer),
        zone: String::new(),
    };
    let key = ClusterKey::read(&cluster.key_file()).unwrap();
    let peers = [format!("127.0.0.1:{}", cluster.node(2).ports.peer)];
    let admission = join::ask(&peers, &applicant, &key, Duration::from_secs(60)).await.unwrap();
    assert_eq!(admission.node.0, 4);

    // Killed at whatever moment, twice: it asks as the same directory.
    for _ in 0..2 {
        node.start();
        until("it to ask", || async { (node.log_count("asking to be let in") > 0).then_some(()) }).await;
        node.kill();
    }
    node.start();
    node.ready().await;
    assert_eq!(node.status().await.node, 4);
    assert_eq!(nodes_by(&mut cluster, 1).await, [1, 2, 3, 4]);
}

/// A node that joined and lost both copies of the map says what to do, and asks for the map as who it is.
#[tokio::test]
async fn a_joined_node_that_lost_its_map_asks_for_it_again() {
    let mut cluster = Cluster::start(1).await;
    assert_eq!(cluster.join().await, 2);
    let node = cluster.node(2);
    let flags = std::mem::take(&mut node.flags);
    assert!(node.stop().await.success());
    for file in ["map", "map.previous"] {
        fs::write(node.data().join(file), b"torn").unwrap();
    }
    node.start();
    assert_eq!(node.exit().await.code(), Some(1));
    assert!(node.last_words().contains("start once with --join"), "{}", node.last_words());
    node.flags = flags;
    node.start();
    node.ready().await;
    assert_eq!(node.status().await.node, 2);
}
