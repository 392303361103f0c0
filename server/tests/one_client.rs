//! The client library against real nodes that change under it: a keyspace made anew, a replica that is stopped.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod cluster;
#[path = "../../client/examples/tour.rs"]
#[allow(dead_code, reason = "its `main` is for people")]
mod tour;

use cluster::{Cluster, PATIENCE, calls, until};
use kvorum_api::proto::{self, read_level::Kind};
use kvorum_client::{Client, Cp, Keyspace, Options, ReadLevel, admin::KeyspaceWish};
use rustix::process::Signal;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// Short elections: an election is not what these tests wait for.
const QUICK: &str = "[raft]\nheartbeat = \"100ms\"\nelection_min = \"400ms\"\nelection_max = \"800ms\"\n";

async fn client_of(cluster: &Cluster) -> Client {
    let options = Options { timeout: PATIENCE, attempt_timeout: Duration::from_millis(500), ..Options::default() };
    Client::connect(cluster.endpoints(), options).await.unwrap()
}

#[tokio::test]
async fn the_tour_of_the_library_does_what_it_shows() {
    let cluster = Cluster::start(1).await;
    tour::tour(cluster.endpoints()).await.unwrap();
}

/// A live client whose keyspace was dropped and made anew by somebody else: its sessions read what they write, its
/// scans read the new one, and a session that saw the dropped one is refused.
#[tokio::test]
async fn a_live_client_goes_on_in_a_keyspace_made_anew_by_somebody_else() {
    let cluster = Cluster::start_with(3, |_| QUICK.to_owned()).await;
    let somebody = client_of(&cluster).await.admin();
    let wish = KeyspaceWish { shard_by: "hash".to_owned(), shards: 2, ..KeyspaceWish::default() };
    somebody.create_keyspace("orders", wish.clone()).await.unwrap();
    let live = client_of(&cluster).await;
    let orders = live.keyspace("orders");
    let old = orders.session();
    old.put("k", "old").await.unwrap();
    for round in 0..3 {
        somebody.drop_keyspace("orders").await.unwrap();
        let made = somebody.create_keyspace("orders", wish.clone()).await.unwrap();
        // Nodes hear of it one after the other: until then they refuse, or answer for the dropped one.
        let session = until("the new keyspace to be written", || async {
            let session = orders.session();
            let written = session.put("k", round.to_string()).await.ok()?;
            // A leader that has not heard of the drop may still have taken it for the dropped one.
            made.shards.iter().any(|shard| shard.id == written.receipt.shard.0).then_some(session)
        })
        .await;
        for _ in 0..10 {
            let read = until("every node to have heard of it", || async { session.get("k").await.ok() }).await;
            assert_eq!(read.entry.map(|entry| entry.value), Some(round.to_string().into()));
            assert_eq!(read.receipt.level, Some(ReadLevel::Session));
        }
        let mut scan = orders.scan().await.unwrap();
        assert_eq!(scan.next().await.unwrap().map(|entry| entry.value), Some(round.to_string().into()));
        assert!(scan.next().await.unwrap().is_none());
    }
    for error in [old.get("k").await.unwrap_err(), old.put("k", "v").await.unwrap_err()] {
        assert!(error.to_string().contains("session_token"), "{error}");
    }
}

/// What was acknowledged of a growing number, and when.
type Acknowledged = Arc<Mutex<Vec<(Instant, u64)>>>;

const BOUND: Duration = Duration::from_millis(200);

async fn count_up(keyspace: Keyspace<Cp>, stop: Arc<AtomicBool>, acknowledged: Acknowledged) {
    while !stop.load(Ordering::Acquire) {
        let counted = keyspace.increment("n", 1).await.unwrap();
        acknowledged.lock().unwrap().push((Instant::now(), u64::try_from(counted.number).unwrap()));
    }
}

/// R1: whatever was acknowledged `BOUND` before the read was sent is in its answer; what nobody has counted yet is 0.
#[track_caller]
fn check(acknowledged: &Acknowledged, sent: Instant, value: Option<&[u8]>) {
    let value: u64 = value.map_or(0, |value| std::str::from_utf8(value).unwrap().parse().unwrap());
    let acknowledged = acknowledged.lock().unwrap();
    let due = acknowledged.iter().rev().find(|(at, _)| *at + BOUND <= sent).map_or(0, |(_, number)| *number);
    assert!(value >= due, "{value} is older than {BOUND:?}: {due} had been acknowledged");
}

/// Asks one node alone, over and over; gives when it answered.
async fn ask_one(
    mut node: proto::kv_client::KvClient<tonic::transport::Channel>,
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
) -> Vec<Instant> {
    let mut answers = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let bound_ms = u32::try_from(BOUND.as_millis()).unwrap();
        let level = Some(proto::ReadLevel { kind: Kind::Bounded.into(), staleness_ms_max: bound_ms });
        let mut request = tonic::Request::new(proto::GetRequest { level, ..calls::get("n") });
        request.set_timeout(Duration::from_secs(10));
        let sent = Instant::now();
        if let Ok(reply) = node.get(request).await {
            check(&acknowledged, sent, reply.into_inner().entry.map(|entry| entry.value).as_deref());
            answers.push(Instant::now());
        }
    }
    answers
}

/// A follower is stopped for a while and goes on: `bounded` reads are answered by others meanwhile, and by it only once
/// it has proven its state anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_read_is_never_older_than_its_bound_though_a_follower_was_stopped() {
    let mut cluster = Cluster::start_with(3, |_| QUICK.to_owned()).await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let keyspace = client_of(&cluster).await.keyspace("default");
    keyspace.increment("n", 1).await.unwrap();
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Acknowledged::default());
    let mut writer = JoinSet::new();
    writer.spawn(count_up(client_of(&cluster).await.keyspace("default"), stop.clone(), acknowledged.clone()));
    let mut asker = JoinSet::new();
    asker.spawn(ask_one(cluster.node(follower).kv(), stop.clone(), acknowledged.clone()));
    let read = async || {
        let sent = Instant::now();
        let reply = keyspace.get("n").level(ReadLevel::Bounded(BOUND)).await.unwrap();
        check(&acknowledged, sent, reply.entry.map(|entry| entry.value).as_deref());
        reply.receipt.node.0
    };
    until("the follower to answer", || async { (read().await == follower).then_some(()) }).await;
    cluster.node(follower).signal(Signal::STOP);
    let stopped = Instant::now();
    let mut answers = 0;
    while stopped.elapsed() < Duration::from_secs(3) {
        read().await;
        answers += 1;
    }
    let resumed = Instant::now();
    cluster.node(follower).signal(Signal::CONT);
    until("the follower to answer again", || async { (read().await == follower).then_some(()) }).await;
    stop.store(true, Ordering::Release);
    let of_follower = asker.join_next().await.unwrap().unwrap();
    writer.join_next().await.unwrap().unwrap();
    assert!(answers > 10, "others answered while it was stopped: {answers}");
    assert!(of_follower.iter().any(|at| *at >= resumed), "it was asked alone, and answered");
}
