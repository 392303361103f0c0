//! The doors of one node: what is answered, what is refused and with which words, and what garbage does (nothing).
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod cluster;

use axum::body::HttpBody as _;
use cluster::{
    Kvd,
    calls::{self, Said, refusal, value},
    http, small,
};
use kvorum_api::{limits, proto};
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    pin::Pin,
    time::Duration,
};
use tempfile::TempDir;
use tonic::{Code, Request, Status, codegen::http as http_types};
use tower::ServiceExt as _;

/// A node by itself, ready.
async fn node() -> (TempDir, Kvd) {
    node_with("").await
}

async fn node_with(more: &str) -> (TempDir, Kvd) {
    let root = tempfile::tempdir().unwrap();
    let mut node = Kvd::new(1, root.path());
    node.configure(&format!("{}\n{more}", small()));
    node.start();
    node.ready().await;
    (root, node)
}

fn result(reply: &proto::WriteReply) -> &proto::OperationResult {
    &reply.results[0]
}

#[tokio::test]
async fn writes_and_reads_carry_receipts() {
    let (_root, node) = node().await;
    let mut kv = node.kv();
    let written = kv.put(calls::put("k", "v")).await.unwrap().into_inner();
    let receipt = written.receipt.clone().unwrap();
    assert!(written.applied && !written.repeated_request);
    assert_eq!((receipt.mode.as_str(), receipt.ack.as_str(), receipt.durable_replicas), ("cp", "majority", 1));
    assert!(receipt.position.unwrap().index > 0 && receipt.stamp > 0);

    let read = kv.get(calls::get("k")).await.unwrap().into_inner();
    let entry = read.entry.unwrap();
    assert_eq!((entry.value.as_ref(), entry.version), (&b"v"[..], result(&written).version));
    assert_eq!(read.receipt.unwrap().level, "linearizable");
    let local = kv.get(calls::get_at("k", proto::read_level::Kind::Local)).await.unwrap().into_inner();
    assert_eq!(local.receipt.unwrap().level, "local");

    assert!(kv.delete(calls::delete("k")).await.unwrap().into_inner().applied);
    assert_eq!(value(&mut kv, "k").await.unwrap(), None);
    let counted = kv.increment(calls::increment("n", 41)).await.unwrap().into_inner();
    assert_eq!(result(&counted).number, Some(41));
}

#[tokio::test]
async fn a_condition_that_does_not_hold_is_an_answer_and_nothing_happens() {
    let (_root, node) = node().await;
    let mut kv = node.kv();
    let mut request = calls::put("k", "first");
    let absent = proto::condition::Kind::Absent(proto::condition::Absent {});
    request.put.as_mut().unwrap().condition = Some(proto::Condition { kind: Some(absent) });
    assert!(kv.put(request.clone()).await.unwrap().into_inner().applied);
    let again = kv.put(request).await.unwrap().into_inner();
    assert!(!again.applied);
    assert_eq!(result(&again).status(), proto::operation_result::Status::ConditionFailed);
    assert_eq!(result(&again).previous.as_ref().unwrap().value, "first");
}

#[tokio::test]
async fn a_batch_happens_wholly_or_not_at_all() {
    let (_root, node) = node().await;
    let mut kv = node.kv();
    kv.put(calls::put("word", "no number")).await.unwrap();
    let put = |key: &str| proto::operation::Kind::Put(calls::put(key, "v").put.unwrap());
    let count = proto::operation::Kind::Increment(calls::increment("word", 1).increment.unwrap());
    let batch = |kinds: Vec<proto::operation::Kind>| proto::BatchRequest {
        header: calls::header(),
        request_id: None,
        operations: kinds.into_iter().map(|kind| proto::Operation { kind: Some(kind) }).collect(),
    };
    let failed = kv.batch(batch(vec![put("a"), count])).await.unwrap().into_inner();
    assert!(!failed.applied);
    let statuses: Vec<_> = failed.results.iter().map(proto::OperationResult::status).collect();
    use proto::operation_result::Status::{NotANumber, Skipped};
    assert_eq!(statuses, [Skipped, NotANumber]);
    assert_eq!(value(&mut kv, "a").await.unwrap(), None);
    assert!(kv.batch(batch(vec![put("a"), put("b")])).await.unwrap().into_inner().applied);
    assert!(value(&mut kv, "b").await.unwrap().is_some());
    assert_eq!(refusal(kv.batch(batch(vec![])).await).reason, "MALFORMED");
    let many = kv.batch(batch(vec![put("a"); limits::BATCH_OPERATIONS_MAX + 1])).await;
    assert_eq!(refusal(many).metadata["limit"], "batch_operations_max");
}

#[tokio::test]
async fn a_repeated_request_id_is_applied_once() {
    let (_root, node) = node().await;
    let mut kv = node.kv();
    let stamp = kv.handshake(proto::HandshakeRequest::default()).await.unwrap().into_inner().stamp;
    let id = proto::RequestId { client: vec![7; 16].into(), sequence: 1, first_sent: stamp, lowest_unanswered: 1 };
    let request = proto::IncrementRequest { request_id: Some(id), ..calls::increment("n", 1) };
    let first = kv.increment(request.clone()).await.unwrap().into_inner();
    let second = kv.increment(request).await.unwrap().into_inner();
    assert!(!first.repeated_request && second.repeated_request);
    assert_eq!((result(&first).number, result(&second).number), (Some(1), Some(1)));
    assert_eq!(value(&mut kv, "n").await.unwrap().as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn every_limit_is_refused_by_name_with_no_effect() {
    let (_root, node) = node().await;
    let mut kv = node.kv();
    let over = |said: Said, limit: &str| {
        assert_eq!((said.code, said.reason.as_str(), said.effect()), (Code::InvalidArgument, "OVER_LIMIT", "none"));
        assert_eq!(said.metadata["limit"], limit, "{}", said.message);
    };
    over(refusal(kv.put(calls::put([b'k'; limits::KEY_BYTES_MAX + 1], "")).await), "key_bytes_max");
    over(refusal(kv.put(calls::put("k", vec![0; limits::VALUE_BYTES_DEFAULT + 1])).await), "value_bytes_max");
    over(refusal(kv.put(calls::put("k", vec![0; 40 << 20])).await), "request_bytes_max");
    assert_eq!(refusal(kv.put(calls::put("", "v")).await).reason, "KEY_EMPTY");
    assert_eq!(refusal(kv.get(calls::get("")).await).reason, "KEY_EMPTY");
    assert!(kv.put(calls::put([b'k'; limits::KEY_BYTES_MAX], vec![0; limits::VALUE_BYTES_DEFAULT])).await.is_ok());
    assert!(kv.put(calls::put("empty value", "")).await.is_ok());
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_with_the_field() {
    let (_root, node) = node().await;
    let mut kv = node.kv();
    let unknown = proto::PutRequest { header: calls::header_of("carts"), ..calls::put("k", "v") };
    let said = refusal(kv.put(unknown).await);
    assert_eq!((said.code, said.reason.as_str(), said.effect()), (Code::NotFound, "UNKNOWN_KEYSPACE", "none"));
    assert!(said.message.contains("this cluster has default"), "{}", said.message);

    let headless = proto::PutRequest { header: None, ..calls::put("k", "v") };
    assert_eq!(refusal(kv.put(headless).await).metadata["field"], "header");
    let quorum = kv.get(calls::get_at("k", proto::read_level::Kind::Quorum)).await;
    assert_eq!(refusal(quorum).reason, "LEVEL_NOT_OFFERED");
    let short = proto::RequestId { client: vec![7; 3].into(), sequence: 1, first_sent: 1, lowest_unanswered: 1 };
    let request = proto::PutRequest { request_id: Some(short), ..calls::put("k", "v") };
    assert_eq!(refusal(kv.put(request).await).metadata["field"], "request_id.client");
    let upside_down = proto::ScanRequest { start: "b".into(), end: "a".into(), ..calls::scan() };
    assert_eq!(refusal(kv.scan(upside_down).await).metadata["field"], "end");
    let mut request = Request::new(calls::put("k", "v"));
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    assert_eq!(refusal(kv.put(request).await).metadata["field"], "grpc-timeout");
}

/// Rule T1: a stamp from the future is refused, one within the bound is adopted and what follows is ordered after it.
#[tokio::test]
async fn a_stamp_too_far_ahead_is_refused_and_a_near_one_is_adopted() {
    let (_root, node) = node().await;
    let mut kv = node.kv();
    let stamp = kv.handshake(proto::HandshakeRequest::default()).await.unwrap().into_inner().stamp;
    let ahead = |ms: u64| {
        let header =
            proto::RequestHeader { keyspace: "default".into(), stamp: stamp + (ms << 16), ..Default::default() };
        proto::PutRequest { header: Some(header), ..calls::put("k", "v") }
    };
    let said = refusal(kv.put(ahead(60_000)).await);
    assert_eq!((said.reason.as_str(), said.metadata["limit"].as_str()), ("STAMP_AHEAD", "max_clock_offset"));
    let near = kv.put(ahead(300)).await.unwrap().into_inner();
    assert!(result(&near).version.unwrap().stamp > stamp + (300 << 16));
    let future = proto::HandshakeRequest { stamp: stamp + (60_000 << 16), ..proto::HandshakeRequest::default() };
    assert_eq!(refusal(kv.handshake(future).await).reason, "STAMP_AHEAD");
    // An id whose first attempt lies in the future would outlive the window in which it is remembered.
    let id = proto::RequestId {
        client: vec![7; 16].into(),
        sequence: 1,
        first_sent: stamp + (60_000 << 16),
        lowest_unanswered: 1,
    };
    let request = proto::PutRequest { request_id: Some(id), ..calls::put("k", "v") };
    assert_eq!(refusal(kv.put(request).await).reason, "STAMP_AHEAD");
}

#[tokio::test]
async fn a_scan_streams_everything_in_order_in_bounded_messages() {
    let (_root, node) = node().await;
    let mut kv = node.kv();
    let value = vec![b'v'; 100 << 10];
    for number in 0..20 {
        kv.put(calls::put(format!("k{number:02}"), &value)).await.unwrap();
    }
    let mut stream = kv.scan(calls::scan()).await.unwrap().into_inner();
    let (mut keys, mut receipts) = (Vec::new(), 0);
    while let Some(message) = stream.message().await.unwrap() {
        receipts += usize::from(message.receipt.is_some());
        let bytes: usize = message.entries.iter().map(|entry| entry.value.len()).sum();
        assert!(bytes <= limits::SCAN_MESSAGE_BYTES_MAX + value.len(), "{bytes} bytes in one message");
        keys.extend(message.entries.into_iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()));
    }
    assert_eq!(receipts, 1, "one receipt per shard");
    assert_eq!(keys, (0..20).map(|number| format!("k{number:02}")).collect::<Vec<_>>());

    let last = proto::ScanRequest { reverse: true, limit: 2, keys_only: true, ..calls::scan() };
    let mut stream = kv.scan(last).await.unwrap().into_inner();
    let entries = stream.message().await.unwrap().unwrap().entries;
    assert_eq!(entries.iter().map(|entry| entry.key.as_ref()).collect::<Vec<_>>(), [b"k19", b"k18"]);
    assert!(entries[0].value.is_empty());
    assert_eq!(stream.message().await.unwrap(), None);

    let nothing = proto::ScanRequest { start: "x".into(), ..calls::scan() };
    let mut stream = kv.scan(nothing).await.unwrap().into_inner();
    let only = stream.message().await.unwrap().unwrap();
    assert!(only.receipt.is_some() && only.entries.is_empty(), "an empty answer has a receipt too");
}

#[tokio::test]
async fn a_scan_that_nobody_takes_is_cut_off_with_an_error_and_frees_its_place() {
    let (_root, node) = node_with("[limits]\nscans_max = 1\n").await;
    let mut kv = node.kv();
    for number in 0..200 {
        kv.put(calls::put(format!("k{number:03}"), vec![b'v'; 100 << 10])).await.unwrap();
    }
    // 20 MB against a window of 2 MiB: what is not taken stays with the server.
    let mut request = Request::new(calls::scan());
    request.set_timeout(Duration::from_millis(500));
    let mut idle = kv.scan(request).await.unwrap().into_inner();
    let said = refusal(kv.scan(calls::scan()).await.map(drop));
    assert_eq!((said.reason.as_str(), said.metadata["limit"].as_str()), ("OVERLOADED", "scans_max"));
    let mut second =
        cluster::until("the place of the first scan", || async { node.kv().scan(calls::scan()).await.ok() })
            .await
            .into_inner();
    let cut = loop {
        match idle.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a scan that was cut off looked complete"),
            Err(status) => break status,
        }
    };
    assert_eq!(cut.code(), Code::DeadlineExceeded);
    let mut rows = 0;
    while let Some(message) = second.message().await.unwrap() {
        rows += message.entries.len();
    }
    assert_eq!(rows, 200);
}

/// Sends bytes as the body of a call and gives the status of the answer.
async fn call(port: u16, method: &str, body: Vec<u8>) -> Status {
    let request = http_types::Request::builder()
        .method("POST")
        .uri(format!("http://127.0.0.1:{port}/kv.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(axum::body::Body::from(body)))
        .unwrap();
    let mut response = cluster::channel(port).oneshot(request).await.unwrap();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    // A stream that was accepted has its status at the end.
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(response.body_mut()).poll_frame(context)).await;
        let frame = frame.expect("a stream ends with a status").unwrap();
        if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
            return status;
        }
    }
}

/// One message: not compressed, its length, its bytes.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

#[tokio::test]
async fn bytes_that_are_no_message_get_a_sentence_and_change_nothing() {
    let (_root, node) = node().await;
    let garbage = [0xff; 64];
    let mut cut = framed(b"a longer message than what follows");
    cut.truncate(12);
    for (port, methods) in [
        (node.ports.client, &["Kv/Put", "Kv/Get", "Kv/Scan", "Kv/Batch", "Admin/NodeStatus", "Kv/Handshake"][..]),
        (node.ports.peer, &["Peer/Lane", "Peer/Join"][..]),
    ] {
        for method in methods {
            for body in [framed(&garbage), cut.clone(), vec![0, 0], vec![9; 5]] {
                let status = call(port, method, body.clone()).await;
                assert_ne!(status.code(), Code::Ok, "{method} took {body:?}");
                assert!(!status.message().is_empty(), "{method} says nothing to {body:?}");
            }
            let said = Said::of(&call(port, method, framed(&garbage)).await);
            assert_eq!((said.code, said.reason.as_str(), said.effect()), (Code::InvalidArgument, "MALFORMED", "none"));
        }
    }
    let unknown = call(node.ports.client, "Kv/Pout", framed(b"")).await;
    assert_eq!(unknown.code(), Code::Unimplemented);
    assert!(node.kv().put(calls::put("k", "v")).await.is_ok());
    let (_, figures) = http(node.ports.admin, "/metrics").unwrap();
    let counted = figures.lines().find(|line| line.starts_with("kv_server_undecodable_requests_total"));
    assert!(counted.is_some_and(|line| !line.ends_with(" 0")), "{counted:?}");
}

/// An envelope is bytes inside a message: those too may be anything.
#[tokio::test]
async fn bytes_that_are_no_envelope_are_answered_with_one() {
    let (_root, node) = node().await;
    let mut peer = proto::peer_client::PeerClient::new(cluster::channel(node.ports.peer));
    for envelope in [vec![], vec![0xff; 3], vec![0; 4_096], b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let call = proto::LaneCall { id: 7, envelope: envelope.into() };
        let calls = tokio_stream::once(proto::LaneFrame { calls: vec![call] });
        let answers = peer.lane(calls).await.unwrap().into_inner().message().await.unwrap().unwrap();
        assert!(answers.calls.len() == 1 && answers.calls[0].id == 7 && !answers.calls[0].envelope.is_empty());
    }
    assert!(node.kv().put(calls::put("k", "v")).await.is_ok());
}

#[tokio::test]
async fn raw_garbage_and_cut_connections_on_every_port_change_nothing() {
    let (_root, node) = node().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for port in [node.ports.client, node.ports.peer, node.ports.admin] {
        let floods: [&[u8]; 4] = [&[0xff; 10_000], preface, b"GET", &[0; 300]];
        for flood in floods {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            // The node may hang up in the middle.
            let _ = stream.write_all(flood);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let _ = stream.read(&mut [0; 64]);
        }
        // A frame whose head promises more than ever comes.
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(preface).unwrap();
        let _ = stream.write_all(&[0x00, 0x40, 0x00, 0x04, 0, 0, 0, 0, 0, 1, 2]);
    }
    assert!(node.kv().put(calls::put("k", "v")).await.is_ok());
    assert_eq!(http(node.ports.admin, "/healthz").unwrap().0, 200);
    assert_eq!(http(node.ports.admin, "/nowhere").unwrap().0, 404);
}

/// Rule S5: on a full disk new data is refused, deletes and reads are served, and it ends by itself.
#[tokio::test]
async fn a_full_disk_refuses_new_data_serves_the_rest_and_recovers_by_itself() {
    let root = tempfile::tempdir().unwrap();
    let free = root.path().join("free");
    std::fs::write(&free, "1000000000").unwrap();
    let mut node = Kvd::new(1, root.path());
    node.configure(&format!("{}\n[fault]\ndisk_free_from = \"{}\"\n", small(), free.display()));
    node.start();
    node.ready().await;
    let mut kv = node.kv();
    kv.put(calls::put("k", "v")).await.unwrap();

    std::fs::write(&free, "1000").unwrap();
    let refused = cluster::until("the refusal", || async { node.kv().put(calls::put("more", "v")).await.err() }).await;
    let said = Said::of(&refused);
    assert_eq!((said.code, said.reason.as_str(), said.effect()), (Code::ResourceExhausted, "DISK_FULL", "none"));
    assert_eq!(value(&mut kv, "k").await.unwrap().as_deref(), Some(&b"v"[..]));
    assert!(kv.delete(calls::delete("k")).await.unwrap().into_inner().applied);
    let status = node.status().await;
    assert!(status.degraded.iter().any(|why| why.starts_with("disk_full")), "{:?}", status.degraded);

    std::fs::write(&free, "1000000000").unwrap();
    cluster::until("the recovery", || async { node.kv().put(calls::put("more", "v")).await.ok() }).await;
    assert!(node.status().await.degraded.is_empty());
}

#[tokio::test]
async fn figures_and_status_tell_what_happened() {
    let (_root, node) = node().await;
    let mut kv = node.kv();
    kv.put(calls::put("k", "v")).await.unwrap();
    let _ = kv.put(calls::put("", "v")).await;
    let (_, figures) = http(node.ports.admin, "/metrics").unwrap();
    for line in [
        "kv_server_requests_total{op=\"put\",outcome=\"ok\"} 1",
        "kv_server_requests_total{op=\"put\",outcome=\"invalid_argument\"} 1",
        "kv_consensus_raft_role_state{shard=\"1\",role=\"leader\"} 1",
        "kv_server_request_seconds_bucket{op=\"put\",le=\"0.0001\"}",
        "kv_server_in_flight_requests 0",
    ] {
        assert!(figures.contains(line), "{line} is missing in:\n{figures}");
    }
    let status = node.status().await;
    assert!(status.ready && status.degraded.is_empty());
    assert_eq!((status.node, status.start_count), (1, 1));
    assert!(status.journal.unwrap().syncs > 0);
    for keyspace in ["default", "(metadata)"] {
        let replica = status.replicas.iter().find(|replica| replica.keyspace == keyspace).unwrap();
        assert_eq!((replica.role.as_str(), replica.epoch > 0), ("leader", true), "{keyspace}");
        assert!(replica.applied_index > 0);
    }
    assert!(!status.workers.is_empty() && status.workers.iter().all(|worker| !worker.name.is_empty()));
}

#[tokio::test]
async fn health_is_asked_and_every_service_is_listed_by_reflection() {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let (_root, node) = node().await;
    for service in ["", "kv.v1.Kv"] {
        cluster::until("health", || async {
            let asked = HealthCheckRequest { service: service.to_owned() };
            let answer = HealthClient::new(node.channel()).check(asked).await.ok()?.into_inner();
            (answer.status() == ServingStatus::Serving).then_some(())
        })
        .await;
    }
    let asked = async |request: MessageRequest| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let mut client = ServerReflectionClient::new(node.channel());
        let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(listed) = asked(MessageRequest::ListServices(String::new())).await else {
        panic!("no list of services")
    };
    let listed: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    for service in ["kv.v1.Kv", "kv.v1.KvStream", "kv.v1.Admin", "grpc.health.v1.Health"] {
        assert!(listed.iter().any(|name| name == service), "{service} is not among {listed:?}");
    }
    let found = asked(MessageRequest::FileContainingSymbol("kv.v1.KvStream".to_owned())).await;
    assert!(matches!(found, MessageResponse::FileDescriptorResponse(file) if !file.file_descriptor_proto.is_empty()));
}

/// Invariant 12: what the table says is refused is refused by name, and what it offers is served.
#[tokio::test]
async fn the_table_of_capabilities_is_what_the_doors_do() {
    use kvorum_api::{
        Mode, ReadLevel,
        capabilities::{CAPABILITIES, LEVELS, offer_of_level},
    };
    use proto::{admin_client::AdminClient, read_level::Kind};
    let (_root, node) = node().await;
    let mut admin = AdminClient::new(node.channel());
    let rows = admin.capabilities(proto::CapabilitiesRequest {}).await.unwrap().into_inner().rows;
    assert_eq!(rows.len(), CAPABILITIES.len());
    for (told, row) in rows.iter().zip(CAPABILITIES) {
        let expected = (row.feature, row.cp.as_str(), row.ap.as_str());
        assert_eq!((told.feature.as_str(), told.cp.as_str(), told.ap.as_str()), expected);
    }
    let mut kv = node.kv();
    kv.put(calls::put("k", "v")).await.unwrap();
    for level in LEVELS {
        let kind = match level {
            ReadLevel::Linearizable => Kind::Linearizable,
            ReadLevel::Session => Kind::Session,
            ReadLevel::Bounded(_) => Kind::Bounded,
            ReadLevel::Local => Kind::Local,
            ReadLevel::One => Kind::One,
            ReadLevel::Quorum => Kind::Quorum,
            ReadLevel::All => Kind::All,
        };
        let level_asked = Some(proto::ReadLevel { kind: kind.into(), staleness_ms_max: 200 });
        let answer = kv.get(proto::GetRequest { level: level_asked, ..calls::get("k") }).await;
        match offer_of_level(*level, Mode::Cp).is_served() {
            true => assert_eq!(answer.unwrap().into_inner().receipt.unwrap().level, level.to_string()),
            false => assert_eq!(refusal(answer).reason, "LEVEL_NOT_OFFERED", "{level}"),
        }
    }
    let served = |feature: &str, mode| kvorum_api::capabilities::offer(feature, mode).is_served();
    let cp = |feature: &str| served(feature, Mode::Cp);
    let mut lasting = calls::put("lasting", "v");
    lasting.put.as_mut().unwrap().ttl_ms = Some(60_000);
    assert_eq!(kv.put(lasting).await.is_ok(), cp("time to live"));
    assert_eq!(kv.increment(calls::increment("n", 1)).await.is_ok(), cp("increments"));
    let mut guarded = calls::put("new", "v");
    let absent = proto::condition::Kind::Absent(proto::condition::Absent {});
    guarded.put.as_mut().unwrap().condition = Some(proto::Condition { kind: Some(absent) });
    let written = kv.put(guarded).await.unwrap().into_inner();
    assert_eq!(written.applied, cp("conditions and compare-and-set"));
    let acknowledged = written.receipt.unwrap().ack;
    assert_eq!(acknowledged == "majority", cp("write acknowledgement majority"));
    assert_eq!(kv.scan(calls::scan()).await.is_ok(), cp("scan"));
    let operations = ["a", "b"]
        .map(|key| proto::Operation { kind: Some(proto::operation::Kind::Put(calls::put(key, "v").put.unwrap())) });
    let batch = proto::BatchRequest { header: calls::header(), request_id: None, operations: operations.into() };
    assert_eq!(kv.batch(batch).await.is_ok(), cp("atomic batches within a shard"));
    for (mode, word) in [(Mode::Cp, "cp"), (Mode::Ap, "ap")] {
        let wish = Some(proto::KeyspaceWish { mode: word.to_owned(), ..proto::KeyspaceWish::default() });
        let made = admin.create_keyspace(proto::CreateKeyspaceRequest { name: format!("of-{word}"), wish }).await;
        assert_eq!(made.is_ok(), served("keyspaces of this mode", mode), "{made:?}");
    }
    let wish = Some(proto::KeyspaceWish { leases: Some(true), ..proto::KeyspaceWish::default() });
    let leased = admin.create_keyspace(proto::CreateKeyspaceRequest { name: "leased".to_owned(), wish }).await;
    assert_eq!(leased.is_ok(), cp("lease reads"));
}
