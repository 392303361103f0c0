//! Streams over shards in memory.

use super::*;
use crate::{
    router::tests::{add, map},
    rpc::fake::{NOW_MS, World},
};
use bytes::Bytes;
use kvorum_api::{
    PlacementRange, SessionToken, Sharding, Stamp,
    frame::{Body, Call, Condition, Failure, Operation, Outcome, RequestParts},
};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_types::StatusExt as _;

/// The client's end of a stream.
struct Client {
    frames: Option<mpsc::Sender<Result<StreamFrame, Status>>>,
    replies: mpsc::Receiver<Result<StreamFrame, Status>>,
    server: JoinHandle<()>,
}

/// Keyspaces: `here` of two shards (1 up to `m`, 2 from there), `far` on other nodes, `hashed` of four shards.
fn world(limits: &str) -> World {
    let mut map = map();
    let cut = PlacementRange::cut(&[Bytes::from_static(b"m")]);
    add(&mut map, "here", Sharding::Range, cut.into_iter().map(|range| (range, vec![1, 2])).collect());
    add(&mut map, "far", Sharding::Range, vec![(PlacementRange::all(), vec![2, 3])]);
    let hashed = PlacementRange::of_hashes(4).into_iter().map(|range| (range, vec![1]));
    add(&mut map, "hashed", Sharding::Hash, hashed.collect());
    World::new(map, limits)
}

fn open(world: &World) -> Client {
    let (frames, received) = mpsc::channel(64);
    let (sender, replies) = mpsc::channel(1);
    let exchange = Exchange::new(world.door.clone(), sender);
    let server = world.door.tasks.spawn(exchange.run(ReceiverStream::new(received)));
    Client { frames: Some(frames), replies, server }
}

impl Client {
    async fn send(&self, request: Request) {
        let frame = StreamFrame { body: request.encode() };
        self.frames.as_ref().unwrap().send(Ok(frame)).await.unwrap();
    }

    async fn reply(&mut self) -> Reply {
        let frame = self.replies.recv().await.expect("the stream goes on").expect("a frame");
        Reply::decode(frame.body).unwrap()
    }

    /// So many answers, by id, and in how many frames they came.
    async fn answers(&mut self, count: usize) -> (std::collections::BTreeMap<u64, Outcome>, usize) {
        let (mut answers, mut frames) = (std::collections::BTreeMap::new(), 0);
        while answers.len() < count {
            frames += 1;
            for answer in self.reply().await.answers {
                assert!(answers.insert(answer.id, answer.outcome).is_none(), "a call is answered once");
            }
        }
        (answers, frames)
    }
}

fn of(keyspace: &str, calls: Vec<Call>) -> Request {
    Request { keyspace: keyspace.to_owned(), client: 7, lowest_unanswered: 1, calls, ..Request::default() }
}

fn put(id: u64, key: &str) -> Call {
    let operation = Operation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::from_static(b"value"),
        ttl_ms: None,
        condition: Condition::None,
        return_previous: false,
    };
    Call { id, deadline_ms: 0, epoch: 0, body: Body::Single { request: None, operation } }
}

fn get(id: u64, key: &str) -> Call {
    Call { id, deadline_ms: 0, epoch: 0, body: Body::Get { key: Bytes::copy_from_slice(key.as_bytes()), level: None } }
}

fn failure(outcome: &Outcome) -> &Failure {
    match outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

fn reason(outcome: &Outcome) -> (&str, &str) {
    let failure = failure(outcome);
    (&failure.reason, &failure.metadata["effect"])
}

#[tokio::test]
async fn writes_of_a_frame_and_shard_are_handed_over_in_one_call() {
    let world = world("");
    let mut client = open(&world);
    client.send(of("here", vec![put(1, "a"), put(2, "z"), put(3, "b"), get(4, "none"), put(5, "c")])).await;
    let (answers, _) = client.answers(5).await;
    for id in [1, 2, 3, 5] {
        assert!(matches!(&answers[&id], Outcome::Written { applied: true, results, .. } if results.len() == 1));
    }
    let Outcome::Found { delivered, entry: None } = &answers[&4] else { panic!("{:?}", answers[&4]) };
    assert_eq!(delivered.session_token().keyspace.0, 1);
    let handed = |shard: u64| world.shard(shard).handed.lock().iter().map(|(count, _)| *count).collect::<Vec<_>>();
    assert_eq!((handed(1), handed(2)), (vec![3], vec![1]));
}

#[tokio::test]
async fn answers_that_are_ready_together_leave_together_and_nobody_waits_for_the_slow() {
    let world = world("");
    world.shard(1).shut();
    let mut client = open(&world);
    let mut calls = vec![put(1, "slow")];
    calls[0].body = put(1, "a slow one").body;
    calls.extend((2..=100).map(|id| get(id, "z")));
    client.send(of("here", calls)).await;
    let (fast, frames) = client.answers(99).await;
    assert!(!fast.contains_key(&1), "the slow write holds nobody up");
    assert!(frames <= 2, "{frames} frames for 99 answers");
    world.shard(1).gate.add_permits(1);
    assert!(matches!(client.answers(1).await.0[&1], Outcome::Written { .. }));
}

#[tokio::test]
async fn keys_are_placed_on_the_way_in() {
    let world = world("");
    let mut client = open(&world);
    client.send(of("hashed", (0..40).map(|id| put(id, &format!("key {id}"))).collect())).await;
    client.answers(40).await;
    client.send(of("hashed", (0..40).map(|id| get(id, &format!("key {id}"))).collect())).await;
    let (answers, _) = client.answers(40).await;
    assert!(answers.values().all(|outcome| matches!(outcome, Outcome::Found { entry: Some(_), .. })));
    let used = world.shards.values().filter(|shard| !shard.handed.lock().is_empty()).count();
    assert_eq!(used, 4, "forty keys lie in all four shards");
}

#[tokio::test]
async fn each_call_is_refused_by_itself_and_says_its_effect() {
    let world = world("");
    let mut client = open(&world);
    let batch = |operations| Call { body: Body::Batch { request: None, operations }, ..get(5, "") };
    let operation = |key| match put(0, key).body {
        Body::Single { operation, .. } => operation,
        _ => unreachable!(),
    };
    let future = RequestParts { sequence: 1, first_sent: Stamp::from_ms(NOW_MS + 60_000) };
    let from_the_future =
        Call { id: 6, body: Body::Single { request: Some(future), operation: operation("k") }, ..get(6, "") };
    let quorum = Body::Get { key: "k".into(), level: Some(kvorum_api::ReadLevel::Quorum) };
    let calls = vec![
        put(1, ""),
        Call { id: 2, body: quorum, ..get(2, "") },
        put(3, &"k".repeat(5_000)),
        get(4, "fine"),
        batch(vec![operation("a"), operation("z")]),
        from_the_future,
    ];
    client.send(of("here", calls)).await;
    let (answers, _) = client.answers(6).await;
    assert_eq!(reason(&answers[&1]), ("KEY_EMPTY", "none"));
    assert_eq!(reason(&answers[&2]), ("LEVEL_NOT_OFFERED", "none"));
    assert_eq!(reason(&answers[&3]), ("OVER_LIMIT", "none"));
    assert!(matches!(answers[&4], Outcome::Found { .. }), "the others are served");
    assert_eq!(reason(&answers[&5]), ("MALFORMED", "none"));
    assert_eq!(reason(&answers[&6]), ("STAMP_AHEAD", "none"));
    assert!(world.shards.values().all(|shard| shard.handed.lock().is_empty()), "nothing was tried");
    client.send(of("nowhere", vec![put(7, "k"), get(8, "k")])).await;
    let (answers, _) = client.answers(2).await;
    assert_eq!(reason(&answers[&7]), ("UNKNOWN_KEYSPACE", "none"));
    assert_eq!(reason(&answers[&8]), ("UNKNOWN_KEYSPACE", "none"));
}

/// Rule C3: an older asker is told the newer row of the map.
#[tokio::test]
async fn a_stale_epoch_carries_the_entry_of_the_map() {
    use base64::Engine as _;
    use prost::Message as _;
    let world = world("");
    let mut client = open(&world);
    client.send(of("far", vec![Call { epoch: 1, ..put(1, "k") }])).await;
    let (answers, _) = client.answers(1).await;
    let entry = &failure(&answers[&1]).metadata["shard_entry"];
    let bytes = base64::engine::general_purpose::STANDARD.decode(entry).unwrap();
    let shard = kvorum_api::proto::Shard::decode(bytes.as_slice()).unwrap();
    assert_eq!((shard.id, shard.epoch, shard.replicas.len()), (3, 2, 2));
    assert_eq!(shard.replicas[0].address, "127.0.0.1:7102");
}

#[tokio::test]
async fn a_shard_elsewhere_is_refused_with_where_to_go() {
    let world = world("");
    let mut client = open(&world);
    client.send(of("far", vec![put(1, "k"), get(2, "k")])).await;
    let (answers, _) = client.answers(2).await;
    for id in [1, 2] {
        assert_eq!(reason(&answers[&id]), ("NOT_LEADER", "none"));
        let metadata = &failure(&answers[&id]).metadata;
        assert_eq!((metadata["leader"].as_str(), metadata["leader_address"].as_str()), ("2", "127.0.0.1:7102"));
        assert_eq!(metadata["retry"], "elsewhere");
    }
}

#[tokio::test]
async fn a_token_of_another_or_a_dropped_keyspace_is_refused_by_name() {
    let world = world("");
    let mut client = open(&world);
    let with = |token: Bytes, id| Request { session_token: token, ..of("here", vec![get(id, "k")]) };
    let token = |keyspace| SessionToken::new(kvorum_api::KeyspaceId(keyspace)).encode();
    client.send(with(token(2), 1)).await;
    client.send(with(token(99), 2)).await;
    client.send(with(Bytes::from_static(b"rubbish"), 3)).await;
    client.send(with(token(1), 4)).await;
    let (answers, _) = client.answers(4).await;
    let said = |id: u64| (failure(&answers[&id]).metadata["field"].as_str(), failure(&answers[&id]).message.as_str());
    assert_eq!(said(1).0, "session_token");
    assert!(said(1).1.contains("far (number 2)") && said(1).1.contains("here (number 1)"), "{}", said(1).1);
    assert!(said(2).1.contains("was dropped (number 99)"), "{}", said(2).1);
    assert_eq!(said(3).0, "session_token");
    assert!(matches!(answers[&4], Outcome::Found { .. }));
}

#[tokio::test]
async fn a_call_whose_deadline_passes_is_answered_unknown_and_the_rest_goes_on() {
    let world = world("");
    world.shard(1).shut();
    let mut client = open(&world);
    let hasty = Call { deadline_ms: 100, ..put(1, "a") };
    client.send(of("here", vec![hasty, Call { deadline_ms: 60_000, ..put(2, "b") }])).await;
    let (answers, _) = client.answers(1).await;
    assert_eq!(reason(&answers[&1]), ("DEADLINE_EXCEEDED", "unknown"));
    assert_eq!(world.door.admission.in_flight().requests, 1, "its share is given back");
    world.shard(1).gate.add_permits(1);
    assert!(matches!(client.answers(1).await.0[&2], Outcome::Written { .. }));
    assert_eq!(world.door.admission.in_flight().requests, 0);
    let (count, context) = world.shard(1).handed.lock()[0].clone();
    assert_eq!(count, 2);
    assert_eq!(context.timeout, Duration::from_millis(59_950), "the shard is given the longest patience");
}

#[tokio::test]
async fn a_node_at_its_limit_refuses_single_calls_and_the_stream_goes_on() {
    let world = world("requests_in_flight_max = 2");
    world.shard(1).shut();
    let mut client = open(&world);
    client.send(of("here", (1..=4).map(|id| put(id, "a")).collect())).await;
    let (answers, _) = client.answers(2).await;
    for outcome in answers.values() {
        assert_eq!(reason(outcome), ("OVERLOADED", "none"));
        assert_eq!(failure(outcome).metadata["limit"], "requests_in_flight_max");
    }
    world.shard(1).gate.add_permits(1);
    client.answers(2).await;
    client.send(of("here", vec![get(9, "a")])).await;
    assert!(matches!(client.answers(1).await.0[&9], Outcome::Found { entry: Some(_), .. }));
}

/// Backpressure: beyond its bound a stream is not read.
#[tokio::test]
async fn a_stream_with_too_much_in_flight_is_not_read() {
    let world = world("requests_in_flight_max = 100000");
    world.shard(1).shut();
    let mut client = open(&world);
    let frames = CALLS_IN_FLIGHT_MAX / CALLS_MAX + 3;
    for frame in 0..frames as u64 {
        let first = frame * CALLS_MAX as u64;
        client.send(of("here", (first..first + CALLS_MAX as u64).map(|id| put(id, "a")).collect())).await;
    }
    let read = || world.shard(1).handed.lock().len();
    while read() < CALLS_IN_FLIGHT_MAX / CALLS_MAX {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(read(), CALLS_IN_FLIGHT_MAX / CALLS_MAX, "the rest waits in the client's window");
    world.shard(1).gate.add_permits(frames);
    let (answers, _) = client.answers(frames * CALLS_MAX).await;
    assert_eq!(answers.len(), frames * CALLS_MAX);
}

/// A client that asks for much and takes nothing: what waits for it is bounded, and so is how long.
#[tokio::test(start_paused = true)]
async fn answers_that_nobody_takes_are_bounded_in_bytes_and_in_time() {
    let world = world("");
    let value = Bytes::from(vec![7; 1 << 20]);
    world.shard(2).entries.lock().insert(Bytes::from_static(b"z"), value);
    let mut client = open(&world);
    client.send(of("here", (1..=100).map(|id| get(id, "z")).collect())).await;
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    let waiting = world.door.admission.in_flight().requests;
    // What waits, one frame that is handed over, and the answer that came last.
    let answered_max = ((ANSWER_BYTES_MAX + BYTES_MAX) >> 20) as u64 + 1;
    assert!(100 - waiting <= answered_max, "{} answers of 1 MiB wait for a client that takes none", 100 - waiting);
    let asleep = tokio::time::Instant::now();
    client.server.await.unwrap();
    assert!(asleep.elapsed() >= READER_PATIENCE);
    assert_eq!(world.door.admission.in_flight().requests, 0, "it holds nobody up any more");
    let mut taken = 0;
    while let Some(Ok(frame)) = client.replies.recv().await {
        taken += Reply::decode(frame.body).unwrap().answers.len() as u64;
    }
    assert!(taken < 100);
}

#[tokio::test]
async fn a_client_that_has_sent_its_last_frame_gets_every_answer_and_the_end() {
    let world = world("");
    let mut client = open(&world);
    client.send(of("here", (1..=10).map(|id| put(id, "a")).collect())).await;
    client.frames = None;
    client.answers(10).await;
    assert!(client.replies.recv().await.is_none(), "an end without an error");
    client.server.await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_frame_end_the_stream_after_what_came_before() {
    let world = world("");
    let mut client = open(&world);
    client.send(of("here", vec![put(1, "a")])).await;
    let rubbish = StreamFrame { body: Bytes::from_static(b"\x07rubbish") };
    client.frames.as_ref().unwrap().send(Ok(rubbish)).await.unwrap();
    client.send(of("here", vec![put(2, "b")])).await;
    client.answers(1).await;
    let status = client.replies.recv().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("version 7 is not known"), "{}", status.message());
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["effect"].as_str()), ("MALFORMED", "none"));
    assert!(client.replies.recv().await.is_none());
    assert_eq!(world.shard(1).handed.lock().len(), 1, "what follows was not tried");
}

#[tokio::test]
async fn a_draining_node_answers_what_it_has_and_ends_the_stream() {
    let world = world("");
    world.shard(1).shut();
    let mut client = open(&world);
    client.send(of("here", vec![put(1, "a")])).await;
    while world.shard(1).handed.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    world.door.drain();
    client.send(of("here", vec![put(2, "b")])).await;
    world.shard(1).gate.add_permits(2);
    assert!(matches!(client.answers(1).await.0[&1], Outcome::Written { .. }));
    let status = client.replies.recv().await.unwrap().unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().reason, "DRAINING");
    assert_eq!(world.shard(1).handed.lock().len(), 1, "what was not answered was not tried");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_stream_and_gives_its_share_back() {
    let world = world("");
    world.shard(1).shut();
    let client = open(&world);
    client.send(of("here", vec![put(1, "a")])).await;
    while world.shard(1).handed.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(client.replies);
    client.server.await.unwrap();
    assert_eq!(world.door.admission.in_flight().requests, 0);
}
