//! Three nodes and an impostor: who is not who it says it is, is refused with a sentence and ends; the others go on.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod cluster;

use cluster::{
    Cluster, Kvd,
    calls::{self, Said},
    copy_directory, until,
};
use kvorum_api::proto;
use std::{fs, time::Duration};

/// A write that some node of the cluster takes.
async fn write(cluster: &Cluster, key: &str) {
    until("an acknowledged write", || async {
        for node in &cluster.nodes {
            let mut request = tonic::Request::new(calls::put(key, "v"));
            request.set_timeout(Duration::from_secs(2));
            if node.kv().put(request).await.is_ok() {
                return Some(());
            }
        }
        None
    })
    .await;
}

/// Waits until a node has applied everything its leader committed, so that its journal is known to its peers.
async fn caught_up(cluster: &Cluster, id: u64) {
    until("the node to catch up", || async {
        let mut applied = Vec::new();
        for node in &cluster.nodes {
            applied.push((node.id, cluster::first(&node.try_status().await?)?.applied_index));
        }
        let highest = applied.iter().map(|(_, index)| *index).max();
        applied.iter().any(|(node, index)| *node == id && Some(*index) == highest).then_some(())
    })
    .await;
}

/// A node that ends with a sentence of its peers' while the other two go on.
async fn refused(cluster: &mut Cluster, id: u64) -> String {
    let status = cluster.node(id).exit().await;
    assert_eq!(status.code(), Some(1), "{}", cluster.node(id).log_tail());
    let words = cluster.node(id).last_words();
    for other in (1..=3).filter(|other| *other != id) {
        assert!(cluster.node(other).is_running(), "node {other} went down with it");
    }
    write(cluster, "after").await;
    words
}

/// Invariant 9: a node whose directory was emptied has forgotten what it promised.
#[tokio::test]
async fn an_emptied_directory_coming_back_is_refused() {
    let mut cluster = Cluster::start(3).await;
    write(&cluster, "before").await;
    caught_up(&cluster, 3).await;
    let node = cluster.node(3);
    node.kill();
    fs::remove_dir_all(node.data()).unwrap();
    node.start();
    let words = refused(&mut cluster, 3).await;
    // A first life shows the same start count as the one that was emptied: its peers cannot tell it from a second
    // process.
    let sentence = "node 3 was started twice with start count 1: two processes run with one id, or its data directory was \
                    emptied or cloned";
    assert!(words.contains(sentence), "{words}");
}

/// Rule J7: an image taken while the node ran lacks what was synced afterwards.
#[tokio::test]
async fn an_older_copy_taken_while_the_node_ran_is_refused() {
    let mut cluster = Cluster::start(3).await;
    write(&cluster, "before").await;
    caught_up(&cluster, 3).await;
    let image = cluster.root().join("image");
    let node = cluster.node(3);
    copy_directory(&node.data(), &image);
    for number in 0..20 {
        write(&cluster, &format!("later {number}")).await;
    }
    caught_up(&cluster, 3).await;
    let node = cluster.node(3);
    node.kill();
    fs::remove_dir_all(node.data()).unwrap();
    fs::rename(&image, node.data()).unwrap();
    node.start();
    let words = refused(&mut cluster, 3).await;
    assert!(words.contains("node 3 shows journal batch "), "{words}");
    assert!(words.contains("of it was seen durable: its data directory is an older copy"), "{words}");
}

#[tokio::test]
async fn an_older_copy_of_a_stopped_node_is_refused() {
    let mut cluster = Cluster::start(3).await;
    write(&cluster, "before").await;
    caught_up(&cluster, 3).await;
    let image = cluster.root().join("image");
    let node = cluster.node(3);
    assert!(node.stop().await.success());
    copy_directory(&node.data(), &image);
    node.start();
    node.ready().await;
    write(&cluster, "later").await;
    caught_up(&cluster, 3).await;
    let node = cluster.node(3);
    node.kill();
    fs::remove_dir_all(node.data()).unwrap();
    fs::rename(&image, node.data()).unwrap();
    node.start();
    let words = refused(&mut cluster, 3).await;
    // The copy counts the same start that the node had counted already.
    let sentence = "node 3 was started twice with start count 2: two processes run with one id, or its data directory was \
                    emptied or cloned";
    assert!(words.contains(sentence), "{words}");
}

/// The second process with the id of a node that runs ends; the first one stays.
#[tokio::test]
async fn of_two_nodes_with_one_id_the_newcomer_ends() {
    let mut cluster = Cluster::start(3).await;
    write(&cluster, "before").await;
    caught_up(&cluster, 3).await;
    let mut twin = Kvd::new(3, &cluster.root().join("twin"));
    twin.configure(&cluster.configuration(""));
    twin.start();
    let status = twin.exit().await;
    assert_eq!(status.code(), Some(1), "{}", twin.log_tail());
    let words = twin.last_words();
    let sentence = "node 3 was started twice with start count 1: two processes run with one id";
    assert!(words.contains(sentence), "{words}");
    for id in 1..=3 {
        assert!(cluster.node(id).is_running());
    }
    write(&cluster, "after").await;
    caught_up(&cluster, 3).await;
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_and_says_whose_it_is() {
    let mut cluster = Cluster::start(3).await;
    write(&cluster, "before").await;
    let foreign = cluster.configuration("").replace(cluster::CLUSTER, "ffffffffffffffffffffffffffffffff");
    let node = cluster.node(3);
    assert!(node.stop().await.success());
    fs::remove_dir_all(node.data()).unwrap();
    node.configure(&foreign);
    node.start();
    let words = refused(&mut cluster, 3).await;
    assert!(words.contains("cluster") && words.contains(cluster::CLUSTER), "{words}");
}

/// Rule T4: a node whose clock is 10 s ahead neither leads nor takes writes; its entries are stored all the same.
#[tokio::test]
async fn a_clock_ten_seconds_ahead_is_suspect_and_never_leads() {
    let shifted = |id: u64| if id == 3 { "[fault]\nclock_offset = \"10s\"\n".to_owned() } else { String::new() };
    let mut cluster = Cluster::start_with(3, shifted).await;
    let status = until("the suspicion", || async {
        let status = cluster.nodes[2].try_status().await?;
        status.degraded.iter().any(|why| why.starts_with("clock_suspect")).then_some(status)
    })
    .await;
    assert!(status.clock_offset_ms.is_some_and(|offset| (9_000..=11_000).contains(&offset)), "{status:?}");
    until("another leader", || async {
        let status = cluster.nodes[2].try_status().await?;
        (cluster::first(&status)?.leader_node.is_some() && cluster::first(&status)?.role != "leader").then_some(())
    })
    .await;
    let refused = cluster.node(3).kv().put(calls::put("k", "v")).await.unwrap_err();
    let said = Said::of(&refused);
    assert!(["CLOCK_SUSPECT", "NOT_LEADER"].contains(&said.reason.as_str()), "{said:?}");
    assert_eq!(said.effect(), "none");

    // One of the two good nodes goes: the other one leads, with the suspect's vote.
    let leader = cluster.leader().await;
    assert_ne!(leader, 3);
    cluster.node(leader).kill();
    let next = cluster.leader().await;
    assert_eq!(next, 3 - leader);
    let stamp = cluster.node(next).kv().handshake(proto::HandshakeRequest::default()).await.unwrap().into_inner().stamp;
    write(&cluster, "k").await;
    let written = cluster.node(next).kv().get(calls::get("k")).await.unwrap().into_inner().entry.unwrap();
    let ahead_ms = (written.version.unwrap().stamp >> 16).saturating_sub(stamp >> 16);
    assert!(ahead_ms < 9_000, "the good nodes' time was dragged ahead by {ahead_ms} ms");
    caught_up_of_two(&cluster, leader).await;
}

async fn caught_up_of_two(cluster: &Cluster, without: u64) {
    until("the suspect to store what was decided", || async {
        let mut hashes = Vec::new();
        for node in cluster.nodes.iter().filter(|node| node.id != without) {
            hashes.push(cluster::first(&node.try_status().await?)?.rolling_hash.clone());
        }
        (hashes[0] == hashes[1]).then_some(())
    })
    .await;
}

/// Rule S5: a full follower refuses appends and is not poisoned; leader and the other one suffice for a majority. A
/// full leader hands leadership on.
#[tokio::test]
async fn a_full_node_of_three_does_not_stop_the_others_and_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let file = |id: u64| root.path().join(format!("free{id}"));
    for id in 1..=3 {
        fs::write(file(id), "1000000000").unwrap();
    }
    let mut cluster =
        Cluster::start_with(3, |id| format!("[fault]\ndisk_free_from = \"{}\"\n", file(id).display())).await;
    let leader = cluster.leader().await;
    write(&cluster, "before").await;
    fs::write(file(leader), "1000").unwrap();
    let next = until("another leader", || async {
        for node in cluster.nodes.iter().filter(|node| node.id != leader) {
            if cluster::first(&node.try_status().await?)?.role == "leader" {
                return Some(node.id);
            }
        }
        None
    })
    .await;
    let mut request = tonic::Request::new(calls::put("during", "v"));
    request.set_timeout(Duration::from_secs(20));
    cluster.node(next).kv().put(request).await.unwrap();
    assert!(cluster.node(leader).is_running());
    fs::write(file(leader), "1000000000").unwrap();
    write(&cluster, "after").await;
    caught_up(&cluster, leader).await;
    assert!(cluster.node(leader).status().await.degraded.is_empty());
}
