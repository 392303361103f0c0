//! Growing, draining, losing and forgetting nodes, as an operator does it: the real `kvctl` against real nodes.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod cluster;

use cluster::{
    Cluster, http,
    program::{Run, kvctl, told},
    small, until,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Quick elections, and a balancer that waits no longer than it must.
const EAGER: &str = "[raft]\nheartbeat = \"100ms\"\nelection_min = \"400ms\"\nelection_max = \"800ms\"\n\
                     [balance]\nreplace_after = \"2s\"\nmoves_per_node = 4\n";

/// The same, with a balancer that moves nothing by itself.
const STILL: &str = "[raft]\nheartbeat = \"100ms\"\nelection_min = \"400ms\"\nelection_max = \"800ms\"\n\
                     [balance]\nenabled = false\n";

/// Keys that are there before anything moves.
const KEYS: usize = 40;

/// A cluster with a keyspace `orders` of so many shards, and rows in it.
async fn filled(nodes: u64, shards: u32, configuration: &'static str) -> Cluster {
    let cluster = Cluster::start_with(nodes, |_| configuration.to_owned()).await;
    cluster.leader().await;
    let shard_by = format!("hash:{shards}");
    kvctl(&cluster, &["keyspace", "create", "orders", "--shard-by", &shard_by, "--replicas", "3"]).await.ok();
    for number in 0..KEYS {
        kvctl(&cluster, &["-k", "orders", "put", &format!("k{number}"), &format!("v{number}")]).await.ok();
    }
    cluster
}

/// Every key is there, and what is written is taken.
async fn is_whole(cluster: &Cluster) {
    for number in 0..KEYS {
        let got = kvctl(cluster, &["-k", "orders", "get", &format!("k{number}")]).await.ok();
        assert_eq!(got.out, format!("v{number}\n"));
    }
    kvctl(cluster, &["-k", "orders", "put", "last", "word"]).await.ok();
}

/// Whatever was asked for, and whatever the balancer finds, is done: for longer than it takes the balancer to look.
async fn settled(cluster: &Cluster) {
    let began = std::cell::Cell::new(None);
    until("nothing to be done", || async {
        let listed = kvctl(cluster, &["operator", "list", "-o", "json"]).await;
        let listed: Value = serde_json::from_str(&listed.out).ok()?;
        let made = told(cluster, &["operator", "list", "--all"]).await["operators"].as_array()?.len();
        let is_idle = listed["operators"].as_array()?.is_empty();
        let (since, seen) =
            began.get().filter(|(_, seen)| is_idle && *seen == made).unwrap_or((tokio::time::Instant::now(), made));
        began.set(Some((since, seen)));
        (is_idle && since.elapsed().as_secs() >= 3).then_some(())
    })
    .await;
}

async fn nodes(cluster: &Cluster) -> BTreeMap<u64, Value> {
    let listed = told(cluster, &["node", "list"]).await;
    let nodes = listed["nodes"].as_array().unwrap().iter();
    nodes.map(|node| (node["id"].as_u64().unwrap(), node.clone())).collect()
}

async fn shards(cluster: &Cluster) -> Vec<Value> {
    told(cluster, &["shard", "list", "-k", "orders"]).await["shards"].as_array().unwrap().clone()
}

fn holders(shard: &Value) -> Vec<u64> {
    shard["nodes"].as_array().unwrap().iter().map(|node| node.as_u64().unwrap()).collect()
}

/// The map has not moved: what a dry run must leave behind.
async fn untouched(cluster: &Cluster) -> Value {
    let nodes: Vec<Value> = nodes(cluster).await.values().map(|node| node["state"].clone()).collect();
    let shards: Vec<Value> = shards(cluster).await.iter().map(|shard| shard["replicas"].clone()).collect();
    let operators = told(cluster, &["operator", "list", "--all"]).await["operators"].as_array().unwrap().len();
    json!([nodes, shards, operators])
}

/// Ended with 3, and the sentence names all of `parts`.
#[track_caller]
fn not_found(run: &Run, parts: &[&str]) {
    assert_eq!(run.code, 3, "{run:?}");
    assert!(parts.iter().all(|part| run.err.contains(part)), "{run:?}");
}

/// A fourth node joins three and fills up; the second is drained, seen to be empty, stopped and forgotten; when it
/// comes back it is told so, ends, and nobody talks to it.
#[tokio::test]
async fn a_node_joins_and_fills_up_another_is_drained_and_forgotten_for_good() {
    let mut cluster = filled(3, 8, EAGER).await;
    let how = told(&cluster, &["node", "add"]).await;
    assert!(how["command"].as_str().unwrap().contains(&format!("127.0.0.1:{}", cluster.nodes[0].ports.peer)), "{how}");
    assert_eq!(cluster.join().await, 4);
    until("its share", || async {
        let held = nodes(&cluster).await[&4]["replicas"].as_u64()?;
        (held >= 6).then_some(())
    })
    .await;
    settled(&cluster).await;
    let held: Vec<u64> = nodes(&cluster).await.values().map(|node| node["replicas"].as_u64().unwrap()).collect();
    assert!(
        held.iter().max().unwrap() - held.iter().min().unwrap() <= 2,
        "{held:?}, and the metadata on three of them"
    );
    is_whole(&cluster).await;
    let why = told(&cluster, &["operator", "list", "--all", "--state", "done"]).await;
    let made = why["operators"].as_array().unwrap();
    assert!(made.iter().any(|made| made["origin"] == "balance" && made["cause"].as_str().is_some()), "{why}");

    let before = untouched(&cluster).await;
    let foreseen = told(&cluster, &["node", "drain", "2", "--dry-run"]).await;
    let of_data = foreseen["moves"].as_array().unwrap().iter().filter(|moved| moved["shard"] != 0);
    assert_eq!(of_data.count() as u64, held[1], "{foreseen}");
    assert!(foreseen["moves"].as_array().unwrap().iter().all(|moved| moved["can_lose_meanwhile"] == 1), "{foreseen}");
    assert_eq!(untouched(&cluster).await, before);

    let drained = kvctl(&cluster, &["node", "drain", "2", "--wait"]).await.ok();
    assert!(drained.out.contains("node 2 is empty"), "{drained:?}");
    let seen = nodes(&cluster).await[&2].clone();
    assert_eq!(
        (&seen["state"], &seen["replicas"], &seen["metadata_voter"]),
        (&json!("draining"), &json!(0), &json!(false))
    );
    assert!(kvctl(&cluster, &["node", "list"]).await.ok().out.contains("draining, empty"));
    is_whole(&cluster).await;
    kvctl(&cluster, &["node", "forget", "2"]).await.refused(&["node 2 is alive", "drain it", "stop it"]);

    assert!(cluster.node(2).stop().await.success());
    until("node 2 to be forgotten", || async {
        let forgotten = kvctl(&cluster, &["node", "forget", "2"]).await;
        (forgotten.code == 0).then_some(())
    })
    .await;
    assert!(!nodes(&cluster).await.contains_key(&2));
    not_found(&kvctl(&cluster, &["node", "drain", "2"]).await, &["node 2", "forgotten", "1, 3, 4"]);

    cluster.node(2).start();
    assert_eq!(cluster.node(2).exit().await.code(), Some(1));
    let words = cluster.node(2).last_words();
    for part in ["node 2 was forgotten", "empty data directory", "--join"] {
        assert!(words.contains(part), "{words}");
    }
    is_whole(&cluster).await;
    // A directory of its own makes it a node like any other, under a number of its own.
    std::fs::remove_dir_all(cluster.node(2).data()).unwrap();
    let again = cluster.applicant();
    cluster.node(2).flags = again.flags.clone();
    cluster.node(2).configure(small());
    cluster.node(2).start();
    cluster.node(2).ready().await;
    assert_eq!(cluster.node(2).status().await.node, 5);
}

/// A node is killed and does not come back: what it held is made again elsewhere, by itself; it can be given up then.
#[tokio::test]
async fn a_dead_node_is_replaced_and_refused_when_it_returns() {
    let mut cluster = filled(4, 4, EAGER).await;
    let dead = holders(&shards(&cluster).await[0])[0];
    cluster.node(dead).kill();
    until("somebody to miss it", || async {
        let status = kvctl(&cluster, &["cluster", "status"]).await;
        (status.code == 0 && status.err.contains("has 2 of 3 replicas")).then_some(())
    })
    .await;
    until("full replication", || async {
        let shards = shards(&cluster).await;
        let is_full = |shard: &Value| {
            let nodes = holders(shard);
            nodes.len() == 3 && !nodes.contains(&dead)
        };
        let status = kvctl(&cluster, &["cluster", "status", "-o", "json"]).await.json();
        let short = status["nodes"].as_array()?.iter().all(|node| node["short"].as_array().is_none_or(Vec::is_empty));
        (shards.iter().all(is_full) && short).then_some(())
    })
    .await;
    settled(&cluster).await;
    is_whole(&cluster).await;
    let repaired = told(&cluster, &["operator", "list", "--all", "--state", "done"]).await;
    let causes = repaired["operators"].as_array().unwrap().iter().filter(|made| made["origin"] == "repair");
    assert!(
        causes.clone().count() > 0 && causes.clone().all(|made| made["cause"].as_str().unwrap().contains("answered"))
    );

    let name = dead.to_string();
    kvctl(&cluster, &["node", "forget", &name, "--wait=60s"]).await.ok();
    cluster.node(dead).start();
    assert_eq!(cluster.node(dead).exit().await.code(), Some(1));
    assert!(
        cluster.node(dead).last_words().contains("was forgotten by its cluster"),
        "{}",
        cluster.node(dead).last_words()
    );
    is_whole(&cluster).await;

    let other = cluster.nodes.iter().find(|node| node.id != dead).unwrap();
    let (_, figures) = http(other.ports.admin, "/metrics").unwrap();
    for figure in [
        "kv_consensus_operators_open",
        "kv_consensus_operators_ended_total",
        "kv_consensus_move_bytes_total",
        "kv_consensus_shards_short 0",
    ] {
        assert!(figures.contains(figure), "{figure} is not among:\n{figures}");
    }
}

/// A replica goes to a node that was stopped in its tracks: the move is listed with what it waits for, keeps others
/// from moving the shard, and is undone when it is cancelled.
#[tokio::test]
async fn a_move_that_waits_is_explained_and_cancelled() {
    let mut cluster = filled(3, 1, STILL).await;
    assert_eq!(cluster.join().await, 4);
    until("everybody to know node 4", || async {
        let seen = nodes(&cluster).await;
        (seen.get(&4)?["liveness"] == "alive").then_some(())
    })
    .await;
    let shard = shards(&cluster).await[0].clone();
    let (id, before) = (shard["id"].to_string(), holders(&shard));
    let leader = shard["leader"].as_u64().unwrap();
    let from = before.iter().find(|node| **node != leader).unwrap().to_string();
    let name = format!("orders/{id}");
    let wanted = ["shard", "move", name.as_str(), "--from", from.as_str(), "--to", "4"];

    let kept = untouched(&cluster).await;
    let foreseen = told(&cluster, &[&wanted[..], &["--dry-run"]].concat()).await;
    assert_eq!(foreseen["moves"][0]["can_lose_now"], 1, "{foreseen}");
    assert_eq!(foreseen["moves"][0]["to"], 4);
    assert_eq!(untouched(&cluster).await, kept);

    cluster.node(4).signal(Signal::STOP);
    let made = told(&cluster, &wanted).await;
    let operator = made["id"].to_string();
    let waiting = until("a reason", || async {
        let shown = told(&cluster, &["operator", "show", &operator]).await;
        shown["waits_for"].is_string().then_some(shown)
    })
    .await;
    assert_eq!((&waiting["state"], &waiting["origin"]), (&json!("running"), &json!("user")), "{waiting}");
    let listed = kvctl(&cluster, &["operator", "list", "--shard", &id]).await.ok();
    assert!(listed.out.contains(&format!("move {from} -> 4")), "{listed:?}");
    let described = told(&cluster, &["shard", "describe", &id]).await;
    let standing = described["replicas"].as_array().unwrap().iter().find(|replica| replica["node"] == 4).unwrap();
    assert_eq!((&standing["standing"], described["operators"].as_array().unwrap().len()), (&json!("joining"), 1));
    let busy = kvctl(&cluster, &["shard", "transfer-leader", &id]).await;
    busy.refused(&[&format!("operator {operator}"), "cancel it"]);
    let late = kvctl(&cluster, &[&wanted[..], &["--wait=1s"]].concat()).await;
    late.refused(&[&format!("operator {operator}")]);

    kvctl(&cluster, &["operator", "cancel", &operator, "--dry-run"]).await.ok();
    kvctl(&cluster, &["operator", "cancel", &operator]).await.ok();
    until("the end of it", || async {
        let shown = told(&cluster, &["operator", "show", &operator]).await;
        (shown["state"] == "cancelled").then_some(())
    })
    .await;
    cluster.node(4).signal(Signal::CONT);
    assert_eq!(holders(&shards(&cluster).await[0]), before);
    kvctl(&cluster, &["operator", "cancel", &operator]).await.refused(&["has ended"]);
    is_whole(&cluster).await;

    // Awake, it takes the replica in; whoever waits sees the end.
    let done = until("a move", || async {
        let run = kvctl(&cluster, &[&wanted[..], &["--wait=60s", "-o", "json"]].concat()).await;
        (run.code == 0).then(|| run.json())
    })
    .await;
    assert_eq!(done["state"], "done", "{done}");
    assert!(holders(&shards(&cluster).await[0]).contains(&4));
    is_whole(&cluster).await;
}

/// Whatever cannot be is refused with what is in the way and the way out, as a dry run and in earnest.
#[tokio::test]
async fn what_cannot_be_is_refused_with_the_way_out() {
    let mut cluster = filled(3, 2, STILL).await;
    let list = shards(&cluster).await;
    let shard = list[0]["id"].to_string();
    for dry in [&["--dry-run"][..], &[]] {
        let run = async |arguments: &[&str]| kvctl(&cluster, &[arguments, dry].concat()).await;
        let kept = untouched(&cluster).await;
        run(&["node", "drain", "3"]).await.refused(&["orders", "3 replicas", "add a node first"]);
        run(&["node", "forget", "3"]).await.refused(&["node 3 is alive", "kvctl node drain 3"]);
        not_found(&run(&["node", "drain", "9"]).await, &["node 9", "1, 2, 3"]);
        not_found(&run(&["node", "recommission", "9"]).await, &["node 9"]);
        run(&["shard", "move", &shard, "--from", "1", "--to", "2"])
            .await
            .refused(&["node 2 holds a replica", "already"]);
        run(&["shard", "move", &shard, "--from", "9", "--to", "2"]).await.refused(&[
            "node 9 holds no replica",
            "nodes ",
            " do",
        ]);
        not_found(&run(&["shard", "move", &shard, "--from", "1", "--to", "9"]).await, &["node 9", "1, 2, 3"]);
        not_found(&run(&["shard", "move", "999", "--from", "1", "--to", "2"]).await, &["shard 999", "nearest"]);
        not_found(&run(&["shard", "move", "orders/1", "--from", "1", "--to", "2"]).await, &["no shard 1 of orders"]);
        run(&["shard", "transfer-leader", &shard, "--to", "9"]).await.refused(&[
            "node 9 holds no replica",
            "nodes ",
            " do",
        ]);
        not_found(&run(&["operator", "cancel", "77"]).await, &["operator 77"]);
        assert_eq!(untouched(&cluster).await, kept);
    }
    not_found(&kvctl(&cluster, &["operator", "show", "77"]).await, &["operator 77", "none at all"]);
    not_found(&kvctl(&cluster, &["operator", "list", "--shard", "999"]).await, &["shard 999"]);
    let member = format!("127.0.0.1:{}", cluster.nodes[1].ports.peer);
    kvctl(&cluster, &["node", "add", &member]).await.refused(&["node 2 is a member", "kvctl node forget 2"]);

    // Somebody who says that he is where a member lives.
    let mut double = cluster.applicant();
    double.configure(&format!("advertise_peer = \"{member}\"\n{}", small()));
    double.start();
    assert_eq!(double.exit().await.code(), Some(1));
    let words = double.last_words();
    assert!(words.contains(&format!("{member} is the address of node 2, which is a member")), "{words}");

    // A node that does not answer neither leads nor takes anything in.
    cluster.node(3).kill();
    until("node 3 to be missed", || async { (nodes(&cluster).await[&3]["liveness"] == "lost").then_some(()) }).await;
    let leader = ["shard", "transfer-leader", shard.as_str(), "--to", "3"];
    until("the loss to be known where it counts", || async {
        let run = kvctl(&cluster, &[&leader[..], &["--dry-run"]].concat()).await;
        (run.code == 2 && run.err.contains("node 3 does not answer")).then_some(())
    })
    .await;
    kvctl(&cluster, &["node", "forget", "3"]).await.refused(&["orders", "add a node first"]);
}

/// Fewer zones than there are is not what anybody means.
#[tokio::test]
async fn a_move_into_a_zone_that_has_one_is_refused_while_another_is_free() {
    let mut cluster = Cluster::start_with(1, |_| STILL.to_owned()).await;
    for zone in ["b", "c", "b", "c"] {
        let mut node = cluster.applicant();
        node.configure(&format!("zone = \"{zone}\"\n{}", small()));
        node.start();
        node.ready().await;
        cluster.nodes.push(node);
    }
    until("everybody to be heard", || async {
        nodes(&cluster).await.values().all(|node| node["liveness"] == "alive").then_some(())
    })
    .await;
    kvctl(&cluster, &["keyspace", "create", "orders", "--replicas", "3"]).await.ok();
    let shard = shards(&cluster).await[0].clone();
    let (id, held) = (shard["id"].to_string(), holders(&shard));
    let zones: BTreeMap<u64, String> =
        nodes(&cluster).await.into_iter().map(|(id, node)| (id, node["zone"].as_str().unwrap().to_owned())).collect();
    let held_in: BTreeMap<&str, u64> = held.iter().map(|node| (zones[node].as_str(), *node)).collect();
    assert_eq!(held_in.len(), 3, "three zones, three replicas: {zones:?}, {held:?}");
    let free_in =
        |zone: &str| zones.keys().find(|node| zones[*node] == zone && !held.contains(node)).unwrap().to_string();
    let (from, crowded, better) = (held_in["b"].to_string(), free_in("c"), free_in("b"));
    let crowding = kvctl(&cluster, &["shard", "move", &id, "--from", &from, "--to", &crowded]).await;
    crowding.refused(&["zone \"c\"", &format!("take node {better}")]);
    kvctl(&cluster, &["shard", "move", &id, "--from", &from, "--to", &better, "--wait"]).await.ok();
}

/// A leader is moved by an operator, from any node, awaited or not.
#[tokio::test]
async fn a_leader_is_moved_by_an_operator_that_is_awaited() {
    let cluster = filled(3, 1, STILL).await;
    let shard = shards(&cluster).await[0].clone();
    let (id, leader) = (shard["id"].to_string(), shard["leader"].as_u64().unwrap());
    let foreseen = told(&cluster, &["shard", "transfer-leader", &id, "--dry-run"]).await;
    assert_eq!((&foreseen["moves"][0]["task"], &foreseen["bytes"]), (&json!("lead"), &json!(0)), "{foreseen}");
    let moved = told(&cluster, &["shard", "transfer-leader", &id]).await;
    assert_ne!(moved["leader"].as_u64(), Some(leader), "whoever is best is somebody else: {moved}");
    let back =
        told(&cluster, &["shard", "transfer-leader", &format!("orders/{id}"), "--to", &leader.to_string()]).await;
    assert_eq!(back["leader"].as_u64(), Some(leader), "{back}");
    let ended = told(&cluster, &["operator", "show", &back["operator"].to_string()]).await;
    assert_eq!((&ended["state"], &ended["task"]), (&json!("done"), &json!("lead")), "{ended}");
    let noted = told(&cluster, &["shard", "transfer-leader", &id, "--no-wait"]).await;
    assert_eq!(noted["task"], "lead", "{noted}");
    is_whole(&cluster).await;
}
