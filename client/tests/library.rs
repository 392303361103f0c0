//! The library against a scripted cluster: what is retried, what is not, and what the caller is told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod fake;

use fake::{Fake, Fault, Told, shard::START_MS};
use kvorum_client::{Client, ClientError, Condition, Effect, FailureKind, Options, Put, ReadLevel};
use std::time::Duration;
use tonic::Code;

/// Long enough for any machine; tests that wait for a deadline choose their own.
const PATIENCE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(300);

async fn connected(fake: &Fake) -> Client {
    let options = Options { timeout: PATIENCE, attempt_timeout: PATIENCE, ..Options::default() };
    Client::connect(fake.endpoints(), options).await.unwrap()
}

fn refused(metadata: &[(&'static str, &'static str)]) -> Fault {
    Fault::Refuse(Told::new(Code::Unavailable, "SCRIPTED", metadata))
}

#[tokio::test]
async fn every_operation_answers_with_a_receipt() {
    let fake = Fake::start(3);
    let client = connected(&fake).await;
    let orders = client.keyspace("orders");

    let written = orders.put("a", "1").ttl(Duration::from_secs(9)).await.unwrap();
    assert_eq!((written.receipt.durable_replicas, written.receipt.node.0), (2, 1));
    assert!(written.version().is_some() && written.request_id.is_some() && !written.repeated);

    let got = orders.get("a").await.unwrap();
    let entry = got.entry.unwrap();
    assert_eq!((&entry.value[..], got.receipt.level), (&b"1"[..], Some(ReadLevel::Linearizable)));
    assert!(entry.expires_ms.unwrap() >= START_MS + 9_000);

    let replaced = orders.compare_and_set("a", "1", "2").return_previous().await.unwrap();
    assert_eq!(&replaced.previous().unwrap().value[..], b"1");
    assert_eq!(orders.increment("a", -5).await.unwrap().number, -3);

    let batch = orders.batch().put("b", "x").delete("a").operation(Put::new("c", "y").condition(Condition::Absent));
    assert_eq!(batch.await.unwrap().results.len(), 3);
    assert_eq!(orders.get("a").await.unwrap().entry, None);
    orders.delete("b").condition(Condition::Present).await.unwrap();

    let mut scan = orders.scan().await.unwrap();
    assert_eq!(scan.receipts().len(), 1);
    assert_eq!(&scan.next().await.unwrap().unwrap().key[..], b"c");
    assert!(scan.next().await.unwrap().is_none());
    // A scan lives as long as its reader: a deadline on the wire would end the stream half way.
    let seen = fake.world.lock().seen.clone();
    assert!(
        seen.iter().all(|seen| seen.deadline_sent == (seen.what != "scan")),
        "every unary call carries its deadline"
    );
}

#[tokio::test]
async fn a_condition_that_does_not_hold_is_an_answer_with_a_receipt() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    orders.put("k", "old").await.unwrap();
    let error = orders.put("k", "new").if_absent().await.unwrap_err();
    assert_eq!(error.effect(), Effect::None);
    let answer = error.not_applied().unwrap();
    let (place, result) = answer.first().unwrap();
    assert_eq!((place, &result.previous.as_ref().unwrap().value[..]), (0, &b"old"[..]));
    assert_eq!(answer.answer.receipt.mode, kvorum_api::Mode::Cp);
    let error = orders.increment("k", 1).await.unwrap_err();
    assert!(error.to_string().contains("not a decimal 64-bit signed integer"), "{error}");
    assert_eq!(fake.value("k").as_deref(), Some("old"));
}

#[tokio::test]
async fn a_follower_names_the_leader_and_it_is_asked_at_once() {
    let fake = Fake::start(3);
    let client = connected(&fake).await;
    let orders = client.keyspace("orders");
    orders.put("a", "1").await.unwrap();
    fake.world.lock().leader = Some(2);
    orders.put("a", "2").await.unwrap();
    orders.put("a", "3").await.unwrap();
    let asked: Vec<usize> = fake.seen("put").iter().map(|seen| seen.node).collect();
    assert_eq!(asked, [0, 0, 2, 2], "the old leader once, then the new one, remembered");
}

#[tokio::test]
async fn without_a_hint_the_others_are_asked_in_turn() {
    let fake = Fake::start(3);
    fake.world.lock().hints = false;
    fake.world.lock().leader = Some(2);
    let orders = connected(&fake).await.keyspace("orders");
    orders.put("a", "1").await.unwrap();
    assert_eq!(fake.seen("put").len(), 3);
}

#[tokio::test]
async fn a_circle_of_hints_ends_at_the_deadline_without_effect() {
    let fake = Fake::start(2);
    let orders = connected(&fake).await.keyspace("orders");
    // Both say the other leads: nobody does.
    let elsewhere = |leader: String| {
        let metadata =
            [("effect", "none"), ("retry", "elsewhere"), ("leader", "9"), ("leader_address", leader.leak() as &str)];
        refused(&metadata)
    };
    for _ in 0..1_000 {
        fake.fault(0, elsewhere(fake.address(1)));
        fake.fault(1, elsewhere(fake.address(0)));
    }
    let error = orders.put("a", "1").timeout(SHORT).await.unwrap_err();
    assert_eq!(error.effect(), Effect::None);
    assert!(fake.seen("put").len() < 200, "{} attempts: the circle was not left by pauses", fake.seen("put").len());
}

/// What provably had no effect is tried again, also an increment.
#[tokio::test]
async fn an_attempt_without_effect_is_repeated_freely() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    fake.fault(0, refused(&[("effect", "none"), ("retry", "later"), ("retry_after_ms", "1")]));
    fake.fault(0, refused(&[("effect", "none"), ("retry", "elsewhere")]));
    assert_eq!(orders.increment("n", 1).await.unwrap().number, 1);
    assert_eq!(fake.seen("increment").len(), 3);
}

#[tokio::test]
async fn what_is_at_fault_itself_is_not_tried_again() {
    let fake = Fake::start(3);
    let client = connected(&fake).await;
    let error = client.keyspace("nowhere").put("a", "1").await.unwrap_err();
    assert_eq!(error.failure().unwrap().kind, FailureKind::Request);
    assert!(error.to_string().contains("this cluster has default, orders"), "{error}");
    assert_eq!(fake.seen("put").len(), 1);
}

/// I2: an unknown outcome is asked for again under the same id, so an increment happens once.
#[tokio::test]
async fn a_lost_acknowledgement_is_asked_for_again_under_the_same_id() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    fake.fault(0, Fault::ApplyThenLose);
    fake.fault(0, Fault::Lose);
    let incremented = orders.increment("n", 5).await.unwrap();
    assert_eq!((incremented.number, incremented.written.repeated), (5, true));
    let seen = fake.seen("increment");
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|seen| seen.sequence == 1));
    assert_eq!(fake.value("n").as_deref(), Some("5"));
}

/// A node that swallows a request is left after a while, and the request goes to another under the same id.
#[tokio::test]
async fn a_silent_node_does_not_hold_the_write_for_the_whole_deadline() {
    let fake = Fake::start(2);
    let options = Options { timeout: PATIENCE, attempt_timeout: Duration::from_millis(100), ..Options::default() };
    let orders = Client::connect(fake.endpoints(), options).await.unwrap().keyspace("orders");
    fake.fault(0, Fault::ApplyThenHang);
    assert_eq!(orders.increment("n", 1).await.unwrap().number, 1);
    assert_eq!(fake.value("n").as_deref(), Some("1"));
}

/// A leader that hangs is asked once; while its followers still name it, they are asked until they elect another.
#[tokio::test]
async fn a_hanging_leader_is_passed_over_although_its_followers_name_it() {
    let fake = Fake::start(3);
    fake.world.lock().frozen.insert(0);
    let options = Options {
        timeout: PATIENCE,
        connect_timeout: Duration::from_millis(200),
        avoid: PATIENCE,
        ..Options::default()
    };
    let orders = Client::new([fake.address(1)], options).unwrap().keyspace("orders");
    let world = fake.world.clone();
    let mut put = tokio::task::JoinSet::new();
    put.spawn(std::future::IntoFuture::into_future(orders.put("k", "v")));
    // An election, once both followers have been asked and have named the old leader again.
    while world.lock().seen.len() < 4 {
        tokio::task::yield_now().await;
    }
    world.lock().leader = Some(2);
    put.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(world.lock().asked_frozen, [0]);
}

/// I3: a request without an id is never retried once its effect is unknown.
#[tokio::test]
async fn a_write_without_an_id_is_never_retried() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    fake.fault(0, Fault::ApplyThenLose);
    let error = orders.increment("n", 1).without_request_id().await.unwrap_err();
    assert_eq!((error.effect(), error.request_id()), (Effect::Unknown, None));
    assert_eq!(fake.seen("increment").len(), 1);
}

/// I2: the handle keeps the id; retrying through it answers the first outcome.
#[tokio::test]
async fn an_unknown_write_is_settled_through_its_handle() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    fake.fault(0, Fault::ApplyThenHang);
    let error = orders.put("k", "v").timeout(SHORT).await.unwrap_err();
    let ClientError::Unknown(unknown) = error else { panic!("{error}") };
    // An id stays unanswered while its handle lives: no other write may raise the floor above it.
    orders.put("other", "x").await.unwrap();
    assert_eq!(fake.seen("put").last().unwrap().lowest, 1);
    let id = unknown.request_id();
    let written = unknown.retry_within(PATIENCE).await.unwrap();
    assert_eq!((written.repeated, written.request_id), (true, Some(id)));
    orders.put("other", "y").await.unwrap();
    assert_eq!(fake.seen("put").last().unwrap().lowest, 3, "settled: nothing older is unanswered");
}

/// I2: a dropped handle raises the floor, so that a late copy is refused and an awaited put is never overtaken.
#[tokio::test]
async fn an_awaited_put_is_never_overtaken_by_a_copy_of_an_earlier_one() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    fake.fault(0, Fault::Hold);
    for _ in 0..100 {
        fake.fault(0, Fault::Lose);
    }
    let error = orders.put("k", "earlier").timeout(SHORT).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    drop(error);
    fake.world.lock().faults.clear();
    orders.put("k", "later").await.unwrap();
    assert_eq!(fake.deliver_held(), 0, "the late copy must be refused");
    assert_eq!(fake.value("k").as_deref(), Some("later"));
}

/// I2: a cancelled call gives its id up like a dropped handle.
#[tokio::test]
async fn a_cancelled_write_cannot_come_back() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    fake.fault(0, Fault::Hold);
    fake.fault(0, Fault::Hang);
    assert!(
        tokio::time::timeout(SHORT, std::future::IntoFuture::into_future(orders.put("k", "earlier"))).await.is_err()
    );
    orders.put("k", "later").await.unwrap();
    assert_eq!(fake.deliver_held(), 0);
    assert_eq!(fake.value("k").as_deref(), Some("later"));
}

/// The control of the two tests above: without a later write of the client a late copy is applied, as `Unknown` says.
#[tokio::test]
async fn until_the_next_write_a_late_copy_may_still_happen() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    fake.fault(0, Fault::Hold);
    fake.fault(0, Fault::Hang);
    drop(orders.put("k", "earlier").timeout(SHORT).await.unwrap_err());
    assert_eq!(fake.deliver_held(), 1);
}

/// Once one attempt is in doubt, later refusals do not make the write a failure without effect.
#[tokio::test]
async fn a_refusal_after_a_lost_attempt_leaves_the_write_unknown() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    fake.fault(0, Fault::ApplyThenLose);
    fake.fault(0, refused(&[("effect", "none"), ("retry", "never")]));
    let error = orders.put("k", "v").await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    assert_eq!(fake.value("k").as_deref(), Some("v"), "it did happen");
}

/// I1: an id that was refused as expired after it may have been executed stays unknown and is not sent again.
#[tokio::test]
async fn an_expired_id_that_was_sent_before_stays_unknown() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    fake.fault(0, Fault::ApplyThenLose);
    let expired =
        Told::new(Code::FailedPrecondition, "REQUEST_ID_EXPIRED", &[("effect", "unknown"), ("retry", "never")]);
    fake.fault(0, Fault::Refuse(expired));
    let error = orders.increment("n", 1).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    assert_eq!(fake.seen("increment").len(), 2);
    assert_eq!(fake.value("n").as_deref(), Some("1"));
}

/// I1: an id refused at its very first sending was never executed; the write goes out once more, newly stamped.
#[tokio::test]
async fn an_id_expired_before_its_first_sending_is_renewed_once() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    let expired =
        Told::new(Code::FailedPrecondition, "REQUEST_ID_EXPIRED", &[("effect", "unknown"), ("retry", "never")]);
    fake.fault(0, Fault::Refuse(expired.clone()));
    assert_eq!(orders.increment("n", 1).await.unwrap().number, 1);
    let sequences: Vec<u64> = fake.seen("increment").iter().map(|seen| seen.sequence).collect();
    assert_eq!(sequences, [1, 2]);
    fake.fault(0, Fault::Refuse(expired.clone()));
    fake.fault(0, Fault::Refuse(expired));
    assert_eq!(orders.increment("n", 1).await.unwrap_err().effect(), Effect::Unknown);
}

/// Another process repeats a write by its printed id.
#[tokio::test]
async fn another_client_settles_a_write_by_its_id() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    fake.fault(0, Fault::ApplyThenHang);
    let error = orders.increment("n", 1).timeout(SHORT).await.unwrap_err();
    let id = error.request_id().unwrap();
    let other = connected(&fake).await.keyspace("orders");
    let again = other.increment("n", 1).request_id(id.to_string().parse().unwrap()).await.unwrap();
    assert_eq!((again.number, again.written.repeated), (1, true));
}

/// A write repeated by id stays unknown when nobody can be asked: the earlier sending may have happened.
#[tokio::test]
async fn a_write_repeated_by_id_stays_unknown_when_nobody_answers() {
    let mut fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    let written = orders.put("k", "v").await.unwrap();
    fake.stop_all();
    let error = orders.put("k", "v").request_id(written.request_id.unwrap()).timeout(SHORT).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
}

#[tokio::test]
async fn when_all_nodes_are_down_a_write_provably_did_not_happen() {
    let mut fake = Fake::start(3);
    let client = connected(&fake).await;
    let orders = client.keyspace("orders");
    fake.stop_all();
    // The first write may meet connections that die under it; from then on every node is greeted first.
    let _ = orders.put("k", "v").timeout(SHORT).await;
    let error = orders.put("k", "v").timeout(SHORT).await.unwrap_err();
    assert_eq!(error.effect(), Effect::None, "{error}");
    let fresh = Client::new(fake.endpoints(), Options { timeout: SHORT, ..Options::default() }).unwrap();
    let error = fresh.keyspace("orders").put("k", "v").await.unwrap_err();
    assert_eq!(error.effect(), Effect::None, "{error}");
    let error = Client::connect(fake.endpoints(), Options { timeout: SHORT, ..Options::default() }).await.unwrap_err();
    assert!(fake.endpoints().iter().all(|address| error.to_string().contains(address)), "{error}");
}

#[tokio::test]
async fn a_stopped_leader_is_passed_by() {
    let mut fake = Fake::start(3);
    let orders = connected(&fake).await.keyspace("orders");
    orders.put("k", "1").await.unwrap();
    fake.stop(0);
    fake.world.lock().leader = Some(1);
    orders.put("k", "2").await.unwrap();
    assert_eq!(fake.value("k").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_local_read_is_answered_by_the_node_that_was_named() {
    let fake = Fake::start(3);
    let client = Client::connect([fake.address(1)], Options::default()).await.unwrap();
    let orders = client.keyspace("orders");
    orders.put("k", "v").await.unwrap();
    let got = orders.get("k").level(ReadLevel::Local).await.unwrap();
    assert_eq!((got.receipt.node.0, got.receipt.staleness), (2, Some(Duration::from_millis(40))));
}

#[tokio::test]
async fn a_read_is_repeated_elsewhere() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    fake.fault(0, Fault::Lose);
    fake.fault(0, refused(&[("effect", "none"), ("retry", "later")]));
    assert_eq!(orders.get("k").await.unwrap().entry, None);
    fake.fault(0, Fault::Hang);
    let error = orders.get("k").timeout(SHORT).await.unwrap_err();
    assert_eq!(error.effect(), Effect::None, "a read changes nothing");
}

#[tokio::test]
async fn a_scan_streams_in_order_and_within_its_bounds() {
    let fake = Fake::start(3);
    let orders = connected(&fake).await.keyspace("orders");
    for number in 0..9 {
        orders.put(format!("k{number}"), "v").await.unwrap();
    }
    orders.put("l", "v").await.unwrap();
    let keys = async |scan: kvorum_client::Scan| {
        use futures::TryStreamExt as _;
        let entries: Vec<_> = scan.await.unwrap().into_stream().try_collect().await.unwrap();
        entries.iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(keys(orders.scan().prefix("k")).await.len(), 9);
    assert_eq!(keys(orders.scan().start("k7")).await, ["k7", "k8", "l"]);
    assert_eq!(keys(orders.scan().end("k2").reverse()).await, ["k1", "k0"]);
    assert_eq!(keys(orders.scan().limit(1).keys_only()).await, ["k0"]);
    assert!(keys(orders.scan().prefix("z")).await.is_empty());
}

#[tokio::test]
async fn a_scan_that_broke_after_its_first_message_is_not_patched_together() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    for number in 0..6 {
        orders.put(format!("k{number}"), "v").await.unwrap();
    }
    fake.fault(0, Fault::BreakScan);
    let mut scan = orders.scan().await.unwrap();
    let mut count = 0;
    let error = loop {
        match scan.next().await {
            Ok(Some(_)) => count += 1,
            Ok(None) => panic!("a broken scan must not look complete"),
            Err(error) => break error,
        }
    };
    assert_eq!((count, error.effect()), (2, Effect::None));
    assert!(error.to_string().contains("begin it again"), "{error}");
    assert!(scan.next().await.unwrap().is_none(), "nothing follows an error");
}

/// T1: stamps come from servers; this machine's wall clock never leaves it.
#[tokio::test]
async fn a_client_sends_the_stamps_it_was_given() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    orders.put("k", "v").await.unwrap();
    orders.get("k").await.unwrap();
    let world = fake.world.lock();
    for seen in &world.seen {
        let ms = seen.stamp >> 16;
        assert!((START_MS..=world.now_ms()).contains(&ms), "{ms}");
    }
}

#[tokio::test]
async fn the_trace_context_travels_in_the_header() {
    let fake = Fake::start(1);
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let options = Options { traceparent: Some(traceparent.to_owned()), ..Options::default() };
    let client = Client::connect(fake.endpoints(), options).await.unwrap();
    client.keyspace("orders").put("k", "v").await.unwrap();
    assert_eq!(fake.seen("put")[0].traceparent, traceparent);
}

#[tokio::test]
async fn limits_that_hold_everywhere_are_refused_before_sending() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    let errors = [
        orders.put("", "v").await.unwrap_err(),
        orders.get(vec![b'k'; 4_097]).await.unwrap_err(),
        orders.put("k", vec![0; (16 << 20) + 1]).await.unwrap_err(),
        orders.batch().await.unwrap_err(),
        orders.batch().operations((0..1_025).map(|n| Put::new(n.to_string(), "v").into())).await.unwrap_err(),
    ];
    let said = ["key is empty", "key_bytes_max", "value_bytes_ceiling", "at least one", "batch_operations_max"];
    for (error, said) in errors.iter().zip(said) {
        assert!(matches!(error, ClientError::Refused(_)) && error.to_string().contains(said), "{error}");
    }
    assert!(fake.world.lock().seen.is_empty(), "nothing was sent");
}

#[tokio::test]
async fn the_cluster_reports_every_node_also_the_unreachable_one() {
    let mut fake = Fake::start(3);
    let client = Client::connect([fake.address(0)], Options::default()).await.unwrap();
    fake.stop(2);
    let reports = client.cluster_status().await;
    assert_eq!(reports.len(), 3);
    let reached: Vec<bool> = reports.iter().map(|report| report.status.is_ok()).collect();
    assert_eq!(reached, [true, true, false]);
}

#[tokio::test]
async fn handles_are_shared_between_tasks() {
    let fake = Fake::start(3);
    let orders = connected(&fake).await.keyspace("orders");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let orders = orders.clone();
        tasks.spawn(async move { orders.increment("n", 1).await.unwrap().number });
    }
    let mut numbers = tasks.join_all().await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=64).collect::<Vec<i64>>());
}

/// The deadline is total, also over a write that went out once more under a new id.
#[tokio::test]
async fn a_renewed_write_has_what_is_left_of_its_time() {
    let fake = Fake::start(1);
    let orders = connected(&fake).await.keyspace("orders");
    let expired =
        Told::new(Code::FailedPrecondition, "REQUEST_ID_EXPIRED", &[("effect", "unknown"), ("retry", "never")]);
    let late = Duration::from_millis(400);
    fake.fault(0, Fault::RefuseLate(late, expired));
    assert_eq!(orders.increment("n", 1).await.unwrap().number, 1);
    let deadlines: Vec<u64> = fake.seen("increment").iter().map(|seen| seen.deadline_ms).collect();
    assert!(deadlines.len() == 2 && deadlines[1] <= deadlines[0] - 400, "{deadlines:?}");
}
