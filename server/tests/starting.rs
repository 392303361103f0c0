//! Starting and stopping: who may not start says why in one sentence; who is asked to stop finishes what it began.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod cluster;

use cluster::{CLUSTER, Cluster, Kvd, Ports, calls, kvd, small, until};
use kvorum_api::proto;
use rustix::process::Signal;
use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

/// A node by itself that is not started.
fn alone(root: &Path) -> Kvd {
    let node = Kvd::new(1, root);
    node.configure(small());
    node
}

/// What a node that cannot start says, with exit code 1.
async fn refusal(node: &mut Kvd) -> String {
    node.start();
    let status = node.exit().await;
    assert_eq!(status.code(), Some(1), "{}", node.log_tail());
    node.last_words()
}

#[tokio::test]
async fn a_port_in_use_is_named_and_no_start_is_counted() {
    let root = tempfile::tempdir().unwrap();
    let mut node = alone(root.path());
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, node.ports.peer)).unwrap();
    let words = refusal(&mut node).await;
    let sentence = format!("cannot listen on 127.0.0.1:{}: the port is in use", node.ports.peer);
    assert!(words.contains(&sentence) && words.contains("node.listen_peer"), "{words}");
    assert!(!node.data().join("identity").exists());
    drop(taken);
    node.start();
    node.ready().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_named() {
    let root = tempfile::tempdir().unwrap();
    let mut node = alone(root.path());
    // A file in the way: root may write anywhere else.
    fs::write(node.data(), b"").unwrap();
    let words = refusal(&mut node).await;
    assert!(words.contains(&format!("data directory {}: cannot make it", node.data().display())), "{words}");
}

/// Where not even root may write.
#[tokio::test]
async fn a_directory_where_nobody_may_write_is_named() {
    let root = tempfile::tempdir().unwrap();
    let mut node = alone(root.path());
    let text = fs::read_to_string(root.path().join("node.toml")).unwrap();
    let data = node.data().display().to_string();
    fs::write(root.path().join("node.toml"), text.replace(&data, "/proc/kvorum")).unwrap();
    let words = refusal(&mut node).await;
    assert!(words.contains("data directory /proc/kvorum: cannot make it: "), "{words}");
}

#[tokio::test]
async fn a_directory_in_use_by_another_process_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut first = alone(root.path());
    first.start();
    first.ready().await;
    let mut second = Kvd::new(1, root.path());
    second.configure(small());
    let words = refusal(&mut second).await;
    assert!(words.contains("is in use by another process"), "{words}");
    assert!(first.is_running());
}

#[tokio::test]
async fn a_directory_of_another_cluster_or_node_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut node = alone(root.path());
    node.start();
    node.ready().await;
    assert!(node.stop().await.success());

    node.configure(&format!("{}\n[cluster]\nid = \"{CLUSTER}\"\n", small()));
    let words = refusal(&mut node).await;
    assert!(words.contains("belongs to cluster") && words.contains(CLUSTER), "{words}");

    node.id = 2;
    node.configure(small());
    let words = refusal(&mut node).await;
    assert!(words.contains("belongs to node 1, and the configuration says 2"), "{words}");
}

/// Invariant 12: a list of nodes that would be ignored is refused; addresses are not part of what founded the cluster.
#[tokio::test]
async fn a_changed_list_of_nodes_is_refused_and_changed_addresses_are_not() {
    let root = tempfile::tempdir().unwrap();
    let mut node = alone(root.path());
    let entry = |id: u64, Ports { client, peer, .. }: Ports| {
        format!("\n[[cluster.nodes]]\nid = {id}\nclient = \"127.0.0.1:{client}\"\npeer = \"127.0.0.1:{peer}\"\n")
    };
    let lists = |nodes: &str| format!("{}\n[cluster]\nid = \"{CLUSTER}\"\n{nodes}", small());
    let me = entry(1, node.ports);
    node.configure(&lists(&me));
    node.start();
    node.ready().await;
    assert!(node.stop().await.success());

    node.configure(&lists(&format!("{me}{}{}", entry(2, Ports::free()), entry(3, Ports::free()))));
    let words = refusal(&mut node).await;
    assert!(words.contains("was founded with the nodes 1, and the configuration lists 1, 2, 3"), "{words}");
    assert!(words.contains("the list of founding nodes never changes, correct cluster.nodes"), "{words}");

    node.ports = Ports::free();
    node.configure(&lists(&entry(1, node.ports)));
    node.start();
    node.ready().await;
    assert_eq!(node.status().await.start_count, 2, "a refusal counts no start");
}

/// Invariant 12: the images of a keyspace are those it was founded with; another setting is said to be without effect.
#[tokio::test]
async fn a_changed_setting_of_a_founded_keyspace_is_warned_about_at_each_start() {
    let root = tempfile::tempdir().unwrap();
    let mut node = alone(root.path());
    let of = |changes: &str| format!("{}\n[[keyspaces]]\nname = \"default\"\nchanges = \"{changes}\"\n", small());
    let log = root.path().join("kvd.log");
    let warnings = || {
        let log = fs::read_to_string(&log).unwrap();
        let warnings = log.lines().filter(|line| line.contains("[[keyspaces]] is not in force"));
        warnings.map(str::to_owned).collect::<Vec<_>>()
    };
    for (changes, expected) in [("keys", 0), ("new", 1), ("new", 2), ("keys", 2)] {
        node.configure(&of(changes));
        node.start();
        node.ready().await;
        node.kv().put(calls::put("k", "v")).await.unwrap();
        let warned = "the warning";
        until(warned, || async { (warnings().len() >= expected).then_some(()) }).await;
        assert!(node.stop().await.success());
        assert_eq!(warnings().len(), expected, "{:?}", warnings());
    }
    assert!(warnings().iter().all(|line| line.contains("changes is keys, listed new")), "{:?}", warnings());
}

#[tokio::test]
async fn a_damaged_identity_is_refused_with_its_place() {
    let root = tempfile::tempdir().unwrap();
    let mut node = alone(root.path());
    node.start();
    node.ready().await;
    assert!(node.stop().await.success());
    let file = node.data().join("identity");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\nstart 1\n", "\nstart 2\n")).unwrap();
    let words = refusal(&mut node).await;
    assert!(words.contains("data/identity cannot be understood (its checksum does not fit)"), "{words}");
}

/// Rule D1: the start count grows with every start, crashes included; a node keeps the cluster id it made.
#[tokio::test]
async fn every_start_is_counted_and_what_was_written_is_there() {
    let root = tempfile::tempdir().unwrap();
    let mut node = alone(root.path());
    node.start();
    node.ready().await;
    let cluster = node.status().await.cluster;
    node.kv().put(calls::put("k", "before")).await.unwrap();
    node.kill();
    node.start();
    node.ready().await;
    let status = node.status().await;
    assert_eq!((status.start_count, status.cluster), (2, cluster));
    assert_eq!(calls::value(&mut node.kv(), "k").await.unwrap().as_deref(), Some(&b"before"[..]));
}

#[tokio::test]
async fn without_arguments_it_is_one_node_in_the_current_directory() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Kvd::new(1, root.path());
    let ports = node.ports;
    // The defaults are fixed ports: only they are overridden, so that tests can run side by side.
    let mut child = kvd()
        .current_dir(root.path())
        .env("KV__NODE__LISTEN_CLIENT", format!("127.0.0.1:{}", ports.client))
        .env("KV__NODE__LISTEN_PEER", format!("127.0.0.1:{}", ports.peer))
        .env("KV__NODE__LISTEN_ADMIN", format!("127.0.0.1:{}", ports.admin))
        .stderr(fs::File::create(root.path().join("kvd.log")).unwrap())
        .spawn()
        .unwrap();
    let ready = until("readiness", || async { cluster::http(ports.admin, "/readyz") }).await;
    assert!(ready.0 == 200 || ready.0 == 503, "{ready:?}");
    let put = until("a write", || async { node.kv().put(calls::put("k", "v")).await.ok() }).await.into_inner();
    assert_eq!(put.receipt.unwrap().durable_replicas, 1);
    assert!(root.path().join("kvorum-data/identity").exists());
    let first: serde_json::Value =
        serde_json::from_str(fs::read_to_string(root.path().join("kvd.log")).unwrap().lines().next().unwrap()).unwrap();
    assert_eq!(first["message"], "node starts", "logs are JSON when nobody watches");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!node.is_running());
}

/// An orderly stop: readiness goes off, the process ends with 0, nothing is lost, and nothing is left to recover from
/// peers.
#[tokio::test]
async fn an_orderly_stop_ends_with_success_and_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut node = alone(root.path());
    node.start();
    node.ready().await;
    let mut health = HealthClient::new(node.channel());
    let serving = until("health", || async {
        let reply = health.clone().check(HealthCheckRequest { service: "kv.v1.Kv".into() }).await.ok()?;
        (reply.into_inner().status() == ServingStatus::Serving).then_some(())
    });
    serving.await;
    for number in 0..100 {
        node.kv().put(calls::put(format!("k{number}"), "v")).await.unwrap();
    }
    assert!(node.stop().await.success(), "{}", node.log_tail());
    node.start();
    node.ready().await;
    for number in 0..100 {
        assert!(calls::value(&mut node.kv(), format!("k{number}")).await.unwrap().is_some());
    }
    assert!(health.check(HealthCheckRequest { service: "kv.v1.Kv".into() }).await.is_ok());
}

/// The leader of three is asked to stop: it hands leadership on before it goes, so the others answer at once.
#[tokio::test]
async fn a_stopping_leader_hands_leadership_on() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let term = cluster::first(&cluster.node(leader).status().await).unwrap().term;
    assert!(cluster.node(leader).stop().await.success(), "{}", cluster.node(leader).log_tail());
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    let status = cluster.node(next).status().await;
    assert_eq!(cluster::first(&status).unwrap().term, term + 1, "handed over: one election, not a search");
    cluster.node(next).kv().put(calls::put("k", "v")).await.unwrap();
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let mut cluster = Cluster::start_with(3, |_| "[limits]\ndrain_timeout = \"10m\"\n".into()).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    // A write that waits for nodes that do not answer keeps the drain waiting.
    for other in &others {
        cluster.node(*other).signal(Signal::STOP);
    }
    let mut request = tonic::Request::new(calls::put("k", "v"));
    request.set_timeout(std::time::Duration::from_secs(60));
    let mut kv = cluster.node(leader).kv();
    let mut writes = tokio::task::JoinSet::new();
    writes.spawn(async move { kv.put(request).await });
    let node = cluster.node(leader);
    let in_flight = "kv_server_in_flight_requests 1";
    until("the write to be in flight", || async {
        cluster::http(node.ports.admin, "/metrics").filter(|(_, text)| text.contains(in_flight))
    })
    .await;
    node.signal(Signal::TERM);
    until("the drain", || async {
        cluster::http(node.ports.admin, "/readyz").filter(|(_, text)| text.contains("draining"))
    })
    .await;
    let refused = calls::refusal(node.kv().put(calls::put("other", "v")).await);
    assert_eq!((refused.reason.as_str(), refused.effect()), ("DRAINING", "none"));
    node.signal(Signal::INT);
    assert_eq!(node.exit().await.code(), Some(1));
    assert!(node.last_words().contains("second signal"), "{}", node.last_words());
    assert!(writes.join_next().await.unwrap().unwrap().is_err());
    for other in others {
        cluster.node(other).signal(Signal::CONT);
    }
}

#[tokio::test]
async fn an_open_address_is_warned_about_at_each_start() {
    let root = tempfile::tempdir().unwrap();
    let mut node = alone(root.path());
    let text = fs::read_to_string(root.path().join("node.toml")).unwrap();
    let open = text.replace("listen_client = \"127.0.0.1", "insecure = true\nlisten_client = \"0.0.0.0");
    fs::write(root.path().join("node.toml"), open).unwrap();
    for _ in 0..2 {
        node.start();
        node.ready().await;
        assert!(node.stop().await.success());
    }
    let log = fs::read_to_string(root.path().join("kvd.log")).unwrap();
    assert_eq!(log.matches("open to the network without encryption").count(), 2);
}

/// A client learns the cluster, the node and every keyspace from one answer.
#[tokio::test]
async fn the_first_words_tell_a_client_what_it_needs() {
    let root = tempfile::tempdir().unwrap();
    let mut node = alone(root.path());
    node.start();
    node.ready().await;
    let hello = node.kv().handshake(proto::HandshakeRequest::default()).await.unwrap().into_inner();
    assert_eq!(hello.node, 1);
    assert_eq!(hello.cluster.len(), 32);
    assert!(hello.stamp > 0);
    let keyspace = &hello.keyspaces[0];
    assert_eq!((keyspace.name.as_str(), keyspace.mode.as_str()), ("default", "cp"));
    assert_eq!(keyspace.shards[0].leader, Some(1));
    assert_eq!(keyspace.shards[0].replicas[0].address, node.address());
}
