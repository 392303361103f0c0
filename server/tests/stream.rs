//! Streams of frames to real nodes, keyspaces of many shards behind them, and what an operator does to those meanwhile.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod cluster;

use bytes::Bytes;
use cluster::{
    Cluster, Kvd,
    calls::{self, refusal},
    http, until,
};
use kvorum_api::{
    ReadLevel, SessionToken, Sharding,
    frame::{Body, Call, Condition, Failure, Operation, Outcome, Reply, Request, RequestParts},
    proto::{self, admin_client::AdminClient, kv_stream_client::KvStreamClient},
};
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

/// One stream to one node.
struct Stream {
    frames: mpsc::Sender<proto::StreamFrame>,
    replies: Streaming<proto::StreamFrame>,
}

impl Stream {
    async fn open(node: &Kvd) -> Stream {
        let (frames, received) = mpsc::channel(16);
        let mut client = KvStreamClient::new(node.channel()).max_decoding_message_size(64 << 20);
        let replies = client.exchange(ReceiverStream::new(received)).await.unwrap().into_inner();
        Stream { frames, replies }
    }

    async fn send(&self, request: &Request) {
        self.frames.send(proto::StreamFrame { body: request.encode() }).await.unwrap();
    }

    /// So many answers, by id.
    async fn answers(&mut self, count: usize) -> BTreeMap<u64, Outcome> {
        let mut answers = BTreeMap::new();
        while answers.len() < count {
            let frame = self.replies.message().await.unwrap().expect("the stream goes on");
            let reply = Reply::decode(frame.body).unwrap();
            answers.extend(reply.answers.into_iter().map(|answer| (answer.id, answer.outcome)));
        }
        answers
    }

    async fn ask(&mut self, request: &Request) -> BTreeMap<u64, Outcome> {
        self.send(request).await;
        self.answers(request.calls.len()).await
    }

    async fn last_words(&mut self) -> Status {
        loop {
            match self.replies.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a word"),
                Err(status) => return status,
            }
        }
    }
}

fn of(keyspace: &str, calls: Vec<Call>) -> Request {
    Request { keyspace: keyspace.to_owned(), client: 9, lowest_unanswered: 1, calls, ..Request::default() }
}

fn put(key: &str, value: impl AsRef<[u8]>) -> Operation {
    Operation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_ref()),
        ttl_ms: None,
        condition: Condition::None,
        return_previous: false,
    }
}

fn write(id: u64, operation: Operation) -> Call {
    Call { id, deadline_ms: 20_000, epoch: 0, body: Body::Single { request: None, operation } }
}

fn get(id: u64, key: &str, level: Option<ReadLevel>) -> Call {
    let body = Body::Get { key: Bytes::copy_from_slice(key.as_bytes()), level };
    Call { id, deadline_ms: 20_000, epoch: 0, body }
}

fn value(outcome: &Outcome) -> Option<&[u8]> {
    match outcome {
        Outcome::Found { entry, .. } => entry.as_ref().map(|entry| entry.value.as_ref()),
        other => panic!("expected an answer to a get, got {other:?}"),
    }
}

fn failure(outcome: &Outcome) -> &Failure {
    match outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[tokio::test]
async fn a_frame_of_many_calls_is_answered_call_by_call() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let mut stream = Stream::open(node).await;
    let puts = (0..500).map(|id| write(id, put(&format!("k{id}"), format!("v{id}")))).collect();
    let written = stream.ask(&of("default", puts)).await;
    assert!(written.values().all(|outcome| matches!(outcome, Outcome::Written { applied: true, .. })));
    let gets = (0..500).map(|id| get(id, &format!("k{id}"), None)).collect();
    for (id, outcome) in stream.ask(&of("default", gets)).await {
        assert_eq!(value(&outcome), Some(format!("v{id}").as_bytes()), "k{id}");
    }
    let increment = Operation::Increment { key: "n".into(), delta: 5, return_previous: false };
    let guarded = Operation::Put {
        key: "k1".into(),
        value: "other".into(),
        ttl_ms: None,
        condition: Condition::Absent,
        return_previous: false,
    };
    let batch = Body::Batch { request: None, operations: vec![put("a", "1"), put("b", "2")] };
    let batch = Call { id: 3, deadline_ms: 0, epoch: 0, body: batch };
    let answers = stream.ask(&of("default", vec![write(1, increment), write(2, guarded), batch])).await;
    let Outcome::Written { results, .. } = &answers[&1] else { panic!("{:?}", answers[&1]) };
    assert_eq!(results[0].number, Some(5));
    assert!(matches!(&answers[&2], Outcome::Written { applied: false, .. }));
    assert!(matches!(&answers[&3], Outcome::Written { applied: true, results, .. } if results.len() == 2));
    let (_, figures) = http(node.ports.admin, "/metrics").unwrap();
    for line in
        ["kv_server_stream_frames_total{direction=\"in\"} 3", "kv_server_requests_total{op=\"get\",outcome=\"ok\"} 500"]
    {
        assert!(figures.contains(line), "{line} is missing in:\n{figures}");
    }
}

/// Rules I1, I2: a repeated id is answered with its first outcome, on a stream as by itself.
#[tokio::test]
async fn a_repeated_request_id_on_another_stream_is_applied_once() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let stamp = node.kv().handshake(proto::HandshakeRequest::default()).await.unwrap().into_inner().stamp;
    let request = Some(RequestParts { sequence: 1, first_sent: kvorum_api::Stamp(stamp) });
    let operation = Operation::Increment { key: "n".into(), delta: 1, return_previous: false };
    let call = Call { body: Body::Single { request, operation }, ..get(1, "", None) };
    let mut numbers = Vec::new();
    for is_repeated in [false, true] {
        let answers = Stream::open(node).await.ask(&of("default", vec![call.clone()])).await;
        let Outcome::Written { repeated, results, .. } = &answers[&1] else { panic!("{:?}", answers[&1]) };
        assert_eq!(*repeated, is_repeated);
        numbers.push(results[0].number);
    }
    assert_eq!(numbers, [Some(1), Some(1)]);
}

#[tokio::test]
async fn bytes_that_are_no_frame_end_their_stream_and_nothing_else() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let mut stream = Stream::open(node).await;
    stream.ask(&of("default", vec![write(1, put("k", "v"))])).await;
    stream.frames.send(proto::StreamFrame { body: Bytes::from_static(b"\xff\xff") }).await.unwrap();
    let said = calls::Said::of(&stream.last_words().await);
    assert_eq!((said.code, said.reason.as_str(), said.effect()), (Code::InvalidArgument, "MALFORMED", "none"));
    assert_eq!(said.metadata["field"], "frame");
    let answers = Stream::open(node).await.ask(&of("default", vec![get(1, "k", None)])).await;
    assert_eq!(value(&answers[&1]), Some(&b"v"[..]));
}

#[tokio::test]
async fn a_node_that_stops_in_order_ends_its_streams_with_that_word() {
    let mut cluster = Cluster::start(1).await;
    let mut stream = Stream::open(&cluster.nodes[0]).await;
    stream.ask(&of("default", vec![write(1, put("k", "v"))])).await;
    let stopping = tokio::join!(cluster.node(1).stop(), async {
        let said = calls::Said::of(&stream.last_words().await);
        assert_eq!((said.reason.as_str(), said.effect()), ("DRAINING", "none"));
    });
    assert!(stopping.0.success(), "an open stream does not hold the node up");
}

async fn admin(node: &Kvd) -> AdminClient<Channel> {
    AdminClient::new(node.channel())
}

fn hashed(shards: u32) -> Option<proto::KeyspaceWish> {
    Some(proto::KeyspaceWish { shard_by: "hash".into(), shards, ..proto::KeyspaceWish::default() })
}

async fn create(node: &Kvd, name: &str, wish: Option<proto::KeyspaceWish>) -> proto::KeyspaceDescription {
    let request = proto::CreateKeyspaceRequest { name: name.to_owned(), wish };
    admin(node).await.create_keyspace(request).await.unwrap().into_inner()
}

/// The shards of a keyspace as a node describes them, once every one of them has a leader.
async fn led(node: &Kvd, name: &str) -> Vec<proto::ShardDescription> {
    until("a leader of every shard", || async {
        let request = proto::ListKeyspacesRequest { names: vec![name.to_owned()] };
        let reply = admin(node).await.list_keyspaces(request).await.ok()?.into_inner();
        let shards = reply.keyspaces.into_iter().next()?.shards;
        shards.iter().all(|shard| shard.leader.is_some_and(|leader| leader > 0)).then_some(shards)
    })
    .await
}

/// Asks node after node, each for the calls that the others sent on, until every call has a final answer.
async fn everywhere(cluster: &Cluster, request: &Request) -> BTreeMap<u64, Outcome> {
    let mut streams = Vec::new();
    for node in &cluster.nodes {
        streams.push(Stream::open(node).await);
    }
    let (mut answers, mut left) = (BTreeMap::new(), request.calls.clone());
    let deadline = tokio::time::Instant::now() + cluster::PATIENCE;
    while !left.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "nobody serves {left:?}");
        for stream in &mut streams {
            let asked = stream.ask(&Request { calls: left.clone(), ..request.clone() }).await;
            for (id, outcome) in asked {
                match &outcome {
                    // The map that names a new keyspace may still be on its way to this node.
                    Outcome::Failed(failure)
                        if failure.metadata["retry"] != "never" || failure.reason == "UNKNOWN_KEYSPACE" => {}
                    _ => {
                        left.retain(|call| call.id != id);
                        answers.insert(id, outcome);
                    }
                }
            }
        }
    }
    answers
}

#[tokio::test]
async fn a_keyspace_of_eight_shards_is_made_filled_scanned_altered_and_dropped_through_any_node() {
    let cluster = Cluster::start(3).await;
    let made = create(&cluster.nodes[1], "orders", hashed(8)).await;
    assert_eq!((made.shards.len(), made.wish.as_ref().unwrap().shard_by.as_str()), (8, "hash"));
    let shards = led(&cluster.nodes[0], "orders").await;
    let mut expected: Vec<String> = (0..200).map(|number| format!("order-{number}")).collect();
    let puts = expected.iter().zip(0..).map(|(key, id)| write(id, put(key, key))).collect();
    let written = everywhere(&cluster, &of("orders", puts)).await;
    assert!(written.values().all(|outcome| matches!(outcome, Outcome::Written { applied: true, .. })));

    // Shard by shard, each where it is led: hash order within, every key once.
    let mut keys = Vec::new();
    for shard in &shards {
        let leader = cluster.nodes.iter().find(|node| Some(node.id) == shard.leader).unwrap();
        let scan = proto::ScanRequest { header: calls::header_of("orders"), shard: shard.id, ..calls::scan() };
        let mut stream = leader.kv().scan(scan).await.unwrap().into_inner();
        while let Some(message) = stream.message().await.unwrap() {
            keys.extend(message.entries.into_iter().map(|entry| entry.key));
        }
    }
    let placements: Vec<Bytes> = keys.iter().map(|key| Sharding::Hash.placement_key(key)).collect();
    assert!(placements.is_sorted(), "shards in placement order are one order");
    let mut found: Vec<String> = keys.into_iter().map(|key| String::from_utf8(key.to_vec()).unwrap()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);

    let bounded = proto::ScanRequest { header: calls::header_of("orders"), start: "order-5".into(), ..calls::scan() };
    let said = refusal(cluster.nodes[0].kv().scan(bounded).await.map(drop));
    assert_eq!((said.reason.as_str(), said.metadata["field"].as_str()), ("MALFORMED", "full_scan"));

    let wish = Some(proto::KeyspaceWish { value_bytes_max: 5, ..proto::KeyspaceWish::default() });
    let alter = proto::AlterKeyspaceRequest { name: "orders".into(), wish };
    let altered = admin(&cluster.nodes[2]).await.alter_keyspace(alter).await.unwrap().into_inner();
    assert_eq!(altered.wish.unwrap().value_bytes_max, 5);
    let large = of("orders", vec![write(1, put("order-1", "too large"))]);
    let refused = Stream::open(&cluster.nodes[2]).await.ask(&large).await;
    assert_eq!(failure(&refused[&1]).metadata["limit"], "value_bytes_max", "the new limit holds at once");

    let dropped = proto::DropKeyspaceRequest { name: "orders".into() };
    admin(&cluster.nodes[0]).await.drop_keyspace(dropped).await.unwrap();
    let gone = Stream::open(&cluster.nodes[0]).await.ask(&of("orders", vec![get(1, "order-1", None)])).await;
    assert_eq!(failure(&gone[&1]).reason, "UNKNOWN_KEYSPACE");
}

#[tokio::test]
async fn a_wish_that_cannot_be_is_refused_with_the_nearest_thing_that_works() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let ask = async |name: &str, wish: proto::KeyspaceWish| {
        let request = proto::CreateKeyspaceRequest { name: name.to_owned(), wish: Some(wish) };
        refusal(admin(node).await.create_keyspace(request).await)
    };
    let wish = proto::KeyspaceWish::default;
    let range = || proto::KeyspaceWish { shard_by: "range".into(), ..wish() };
    for (name, asked, field) in [
        ("Orders!", wish(), "name"),
        ("k", proto::KeyspaceWish { mode: "eventual".into(), ..wish() }, "mode"),
        ("k", proto::KeyspaceWish { mode: "ap".into(), ..wish() }, "mode"),
        ("k", proto::KeyspaceWish { replicas: 3, ..wish() }, "replicas"),
        ("k", proto::KeyspaceWish { split_at: vec!["m".into(), "c".into()], ..range() }, "split_at"),
        ("k", proto::KeyspaceWish { read_level: "quorum".into(), ..wish() }, "read_level"),
        ("k", proto::KeyspaceWish { shard_by: "geo".into(), ..wish() }, "shard_by"),
    ] {
        let said = ask(name, asked).await;
        assert_eq!((said.code, said.effect()), (Code::InvalidArgument, "none"), "{}", said.message);
        assert_eq!(said.metadata["field"], field, "{}", said.message);
    }
    create(node, "orders", None).await;
    assert_eq!(ask("orders", wish()).await.reason, "EXISTS");
    let dropped = admin(node).await.drop_keyspace(proto::DropKeyspaceRequest { name: "carts".into() }).await;
    assert_eq!(refusal(dropped).reason, "NOT_FOUND");
}

/// Rule D4 for CP: a token is honoured on another node, and refused for another keyspace or a dropped one.
#[tokio::test]
async fn a_token_of_one_node_is_honoured_on_another_and_a_foreign_one_is_refused() {
    let cluster = Cluster::start(3).await;
    create(&cluster.nodes[0], "orders", hashed(2)).await;
    create(&cluster.nodes[0], "carts", hashed(2)).await;
    led(&cluster.nodes[0], "orders").await;
    for round in 0..20_u32 {
        let value = round.to_string();
        let written = everywhere(&cluster, &of("orders", vec![write(1, put("k", &value))])).await;
        let Outcome::Written { delivered, .. } = &written[&1] else { panic!("{:?}", written[&1]) };
        let token = delivered.session_token().encode();
        for node in &cluster.nodes {
            let session =
                Request { session_token: token.clone(), ..of("orders", vec![get(1, "k", Some(ReadLevel::Session))]) };
            let answers = Stream::open(node).await.ask(&session).await;
            match &answers[&1] {
                Outcome::Failed(failure) => assert_eq!(failure.reason, "SESSION_NOT_MET", "{failure:?}"),
                found => assert_eq!(self::value(found), Some(value.as_bytes()), "node {}", node.id),
            }
        }
        let foreign = proto::RequestHeader { session_token: token.clone(), ..calls::header_of("carts").unwrap() };
        let request = proto::GetRequest { header: Some(foreign), ..calls::get("k") };
        let said = refusal(cluster.nodes[0].kv().get(request).await);
        assert_eq!((said.code, said.metadata["field"].as_str()), (Code::InvalidArgument, "session_token"));
        assert!(said.message.contains("orders") && said.message.contains("carts"), "{}", said.message);
    }
    let written = everywhere(&cluster, &of("orders", vec![write(1, put("k", "last"))])).await;
    let Outcome::Written { delivered, .. } = &written[&1] else { panic!("{:?}", written[&1]) };
    let dropped = proto::DropKeyspaceRequest { name: "orders".into() };
    admin(&cluster.nodes[0]).await.drop_keyspace(dropped).await.unwrap();
    create(&cluster.nodes[0], "orders", hashed(2)).await;
    let session_token = delivered.session_token().encode();
    assert_eq!(SessionToken::decode(&session_token).unwrap().keyspace, delivered.keyspace);
    let again = Request { session_token, ..of("orders", vec![get(1, "k", Some(ReadLevel::Session))]) };
    let answers = Stream::open(&cluster.nodes[0]).await.ask(&again).await;
    assert_eq!(failure(&answers[&1]).metadata["field"], "session_token");
    assert!(failure(&answers[&1]).message.contains("dropped"), "{}", failure(&answers[&1]).message);
}

#[tokio::test]
async fn a_leader_is_moved_where_the_operator_says_and_refused_where_it_cannot_go() {
    let cluster = Cluster::start(3).await;
    create(&cluster.nodes[0], "orders", hashed(1)).await;
    let written = everywhere(&cluster, &of("orders", vec![write(1, put("k", "v"))])).await;
    assert!(matches!(written[&1], Outcome::Written { applied: true, .. }), "{written:?}");
    let shard = led(&cluster.nodes[0], "orders").await.remove(0);
    let leader = shard.leader.unwrap();
    let (heir, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let node = |id: u64| cluster.nodes.iter().find(|node| node.id == id).unwrap();
    let ask = |to_node: u64| proto::TransferLeaderRequest { shard: shard.id, to_node, dry_run: false };

    until("the metadata to know that it is led", || async {
        let request = proto::ListKeyspacesRequest { names: vec!["orders".to_owned()] };
        let reply = admin(node(leader)).await.list_keyspaces(request).await.ok()?.into_inner();
        (reply.keyspaces[0].shards[0].state == "ready").then_some(())
    })
    .await;
    let nowhere = refusal(admin(node(leader)).await.transfer_leader(ask(77)).await);
    assert_eq!((nowhere.reason.as_str(), nowhere.metadata["field"].as_str()), ("INVALID", "to"));
    // Whoever is asked makes an operator of it, which whoever leads carries out.
    let made = admin(node(third)).await.transfer_leader(ask(heir)).await.unwrap().into_inner().operator.unwrap();
    assert_eq!((made.task.as_str(), made.to_node, made.origin.as_str()), ("lead", Some(heir), "user"));
    until("the move", || async {
        let request = proto::ListOperatorsRequest { ids: vec![made.id], ..proto::ListOperatorsRequest::default() };
        let listed = admin(node(heir)).await.list_operators(request).await.ok()?.into_inner();
        (listed.operators[0].state == "done").then_some(())
    })
    .await;
    assert_eq!(led(node(heir), "orders").await[0].leader, Some(heir));
    let answers = everywhere(&cluster, &of("orders", vec![get(1, "k", None)])).await;
    assert_eq!(value(&answers[&1]), Some(&b"v"[..]));
    let missing = proto::TransferLeaderRequest { shard: 9_999, ..proto::TransferLeaderRequest::default() };
    let unknown = admin(node(1)).await.transfer_leader(missing).await;
    assert_eq!(refusal(unknown).reason, "NOT_FOUND");
}

#[tokio::test]
async fn every_node_describes_the_nodes_and_a_lost_one_is_called_lost() {
    let mut cluster = Cluster::start(3).await;
    let nodes =
        async |node: &Kvd| admin(node).await.list_nodes(proto::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    until("three nodes that live", || async {
        nodes(&cluster.nodes[0]).await.iter().all(|node| node.liveness == "alive").then_some(())
    })
    .await;
    let described = nodes(&cluster.nodes[1]).await;
    assert_eq!(described.iter().map(|node| node.id).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(described.iter().all(|node| node.metadata_voter && !node.client.is_empty()));
    cluster.node(3).kill();
    until("the loss of node 3", || async {
        let seen = nodes(&cluster.nodes[0]).await;
        (seen[2].liveness == "lost" && seen[2].heard_ms_ago > Some(1_000)).then_some(())
    })
    .await;
}
