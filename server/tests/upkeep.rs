//! Restarting and upgrading a cluster that serves: the real `kvctl` against real nodes.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod cluster;

use cluster::{
    Cluster, PATIENCE,
    program::{kvctl, program, told},
    until,
};
use kvorum_api::ClusterId;
use kvorum_client::{Client, Options};
use kvorum_consensus::metadata::Behaviour;
use kvorum_server::routing_copy::RoutingCopy;
use serde_json::json;
use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

const QUICK: &str = "[raft]\nheartbeat = \"100ms\"\nelection_min = \"400ms\"\nelection_max = \"800ms\"\n";

/// Writes one key after the other until told to stop; gives what was acknowledged, and how many writes failed.
async fn write_on(endpoints: Vec<String>, writer: usize, stop: Arc<AtomicBool>) -> (Vec<String>, usize) {
    let options = Options { timeout: Duration::from_secs(10), ..Options::default() };
    let client = Client::connect(endpoints, options).await.unwrap();
    let (keyspace, mut acknowledged, mut failed) = (client.keyspace("orders"), Vec::new(), 0);
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("w{writer}-{number:06}");
        match keyspace.put(key.as_str(), "v").await {
            Ok(_) => acknowledged.push(key),
            Err(_) => failed += 1,
        }
    }
    (acknowledged, failed)
}

/// Does what a service manager does: whoever is asked for in a file is stopped in order and started again.
fn serve_restarts(cluster: &mut Cluster, orders: &Path) -> JoinSet<()> {
    let mut services = JoinSet::new();
    for mut node in std::mem::take(&mut cluster.nodes) {
        let order = orders.join(node.id.to_string());
        services.spawn(async move {
            loop {
                if order.exists() {
                    assert!(node.stop().await.success());
                    node.start();
                    std::fs::remove_file(&order).unwrap();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    services
}

/// All three nodes are restarted one after the other, whoever leads the metadata last, while clients write: every
/// acknowledged write is there afterwards, next to none failed, and each node is in a new life.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rolling_restart_loses_no_write_and_fails_next_to_none() {
    let mut cluster = Cluster::start_with(3, |_| QUICK.to_owned()).await;
    cluster.leader().await;
    kvctl(&cluster, &["keyspace", "create", "orders", "--shard-by", "hash:4", "--replicas", "3"]).await.ok();
    let restart = |rest: &[&str], orders: &Path| {
        // The order is written, and then the command waits until it was carried out.
        let line = format!(": > {0}/{{node}}; while [ -e {0}/{{node}} ]; do sleep 0.05; done", orders.display());
        let own = ["cluster", "rolling-restart", "--patience", "60s", "--command"].map(str::to_owned);
        own.into_iter().chain([line]).chain(rest.iter().map(|part| (*part).to_owned())).collect::<Vec<_>>()
    };
    let run = |endpoints: String, arguments: Vec<String>| async move {
        let mut command = Command::new(program());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("KVCTL_ENDPOINTS", endpoints);
        command.args(arguments).stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    };
    let orders = tempfile::tempdir().unwrap();
    let endpoints = cluster.endpoints();
    let before = told(&cluster, &["cluster", "status"]).await;
    let leads_metadata = |node: &&serde_json::Value| {
        let mut replicas = node["replicas"].as_array().unwrap().iter();
        replicas.any(|replica| replica["shard"] == 0 && replica["role"] == "leader")
    };
    let last = before["nodes"].as_array().unwrap().iter().find(leads_metadata).unwrap()["node"].clone();
    let foreseen = run(endpoints.join(","), restart(&["--dry-run", "-o", "json"], orders.path())).await;
    let foreseen: serde_json::Value = serde_json::from_slice(&foreseen.stdout).unwrap();
    let steps = foreseen["steps"].as_array().unwrap();
    assert_eq!((steps.len(), &steps[2]["node"]), (3, &last), "{foreseen}");
    assert_eq!(std::fs::read_dir(orders.path()).unwrap().count(), 0, "nothing was run");

    let services = serve_restarts(&mut cluster, orders.path());
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        writers.spawn(write_on(endpoints.clone(), writer, stop.clone()));
    }
    let done = run(endpoints.join(","), restart(&[], orders.path())).await;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("3 node(s) restarted"), "{done:?}");
    assert_eq!(said.matches("back and well").count(), 3, "{said}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut failed) = (Vec::new(), 0);
    for (keys, failures) in writers.join_all().await {
        acknowledged.extend(keys);
        failed += failures;
    }
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    assert!(failed * 200 <= acknowledged.len(), "{failed} of {} failed", acknowledged.len());
    let client = Client::connect(endpoints.clone(), Options { timeout: PATIENCE, ..Options::default() }).await.unwrap();
    let keyspace = client.keyspace("orders");
    for key in &acknowledged {
        assert!(keyspace.get(key.as_str()).await.unwrap().entry.is_some(), "{key} was acknowledged");
    }
    for report in client.admin().node_status().await {
        assert_eq!(report.status.unwrap().start_count, 2);
    }
    drop(services);
}

/// A command that restarts nobody: the first node is not gone on from, and the sentence says how to go on.
#[tokio::test]
async fn a_rolling_restart_stops_at_the_node_that_does_not_come_back() {
    let mut cluster = Cluster::start_with(3, |_| QUICK.to_owned()).await;
    cluster.leader().await;
    let restart = ["cluster", "rolling-restart", "--nodes", "2,3", "--patience", "2s", "--command"];
    until("the cluster to be well", || async {
        let run = kvctl(&cluster, &[&restart[..], &["true"]].concat()).await;
        assert_eq!(run.code, if run.err.contains("was not touched") { 6 } else { 7 }, "{run:?}");
        let parts = ["node 2", "was not restarted", "--nodes 2,3"];
        parts.iter().all(|part| run.err.contains(part)).then_some(())
    })
    .await;
    let failed = kvctl(&cluster, &[&restart[..], &["exit 9"]].concat()).await;
    failed.code_is(7);
    let unknown = kvctl(&cluster, &["cluster", "rolling-restart", "--nodes", "9", "--command", "true"]).await;
    assert_eq!(unknown.code, 3, "{unknown:?}");
    cluster.node(3).kill();
    let untouched = kvctl(&cluster, &[&restart[..], &["true"]].concat()).await;
    assert_eq!(untouched.code, 6, "{untouched:?}");
    assert!(untouched.err.contains("node 2 was not touched"), "{untouched:?}");
}

/// Rule C4: what each node can apply and what is in the way is shown; a cluster in which somebody does not answer is
/// not raised; a node is not started whose build is below its cluster.
#[tokio::test]
async fn an_upgrade_is_shown_held_up_by_the_dead_and_refuses_older_builds() {
    let mut cluster = Cluster::start_with(3, |_| QUICK.to_owned()).await;
    cluster.leader().await;
    let upgrade = |what: &'static str| ["cluster", "upgrade", what];
    let status = told(&cluster, &upgrade("status")).await;
    assert_eq!((&status["behaviour"], &status["newest"]), (&json!(1), &json!(1)), "{status}");
    assert_eq!((&status["can_be_raised"], &status["in_the_way"]), (&json!(false), &json!([])), "{status}");
    let nodes = status["nodes"].as_array().unwrap();
    assert!(nodes.len() == 3 && nodes.iter().all(|node| node["replicas_behind"] == 0 && node["build"] != ""));
    assert!(kvctl(&cluster, &upgrade("finalize")).await.ok().out.contains("applies behaviour 1, the newest"));
    cluster.node(3).kill();
    until("node 3 to be missed", || async {
        let run = kvctl(&cluster, &upgrade("finalize")).await;
        (run.code == 2 && run.err.contains("node 3 does not answer")).then_some(())
    })
    .await;
    assert!(kvctl(&cluster, &upgrade("status")).await.ok().err.contains("in the way: node 3"));

    // What a newer build has left: a map that asks for more than this one can.
    let cluster_id = ClusterId(u128::from_str_radix(cluster::CLUSTER, 16).unwrap().to_be_bytes());
    let copy = RoutingCopy::new(&cluster.node(3).data(), cluster_id);
    let mut map = copy.load().unwrap();
    map.behaviour = Behaviour(99);
    copy.save(&map).unwrap();
    cluster.node(3).start();
    assert_eq!(cluster.node(3).exit().await.code(), Some(1));
    let words = cluster.node(3).last_words();
    assert!(words.contains("raised to 99") && words.contains("newer build"), "{words}");
}
