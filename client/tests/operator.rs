//! What an operator asks through the library, against a scripted cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod fake;

use fake::{Fake, Fault, Told};
use kvorum_client::{
    Client, Effect, FailureKind, NodeFate, NodeId, OperatorId, Options, ShardId, admin::KeyspaceWish,
    operators::ListOperatorsRequest,
};
use std::time::Duration;
use tonic::Code;

async fn connected(fake: &Fake) -> Client {
    let patience = Duration::from_secs(30);
    let options = Options { timeout: patience, attempt_timeout: patience, ..Options::default() };
    Client::connect(fake.endpoints(), options).await.unwrap()
}

#[tokio::test]
async fn a_keyspace_is_created_used_altered_and_dropped() {
    let fake = Fake::start(3);
    let client = connected(&fake).await;
    let admin = client.admin();
    let wish = KeyspaceWish { shards: 8, shard_by: "hash".to_owned(), ..KeyspaceWish::default() };
    let created = admin.create_keyspace("carts", wish.clone()).await.unwrap();
    assert_eq!((created.name.as_str(), created.wish), ("carts", Some(wish.clone())));
    client.keyspace("carts").put("a", "1").await.unwrap();
    assert_eq!(admin.keyspaces(&["carts"]).await.unwrap().len(), 1);
    assert_eq!(admin.keyspaces(&[]).await.unwrap().len(), 3);
    assert_eq!(admin.alter_keyspace("carts", wish.clone()).await.unwrap().wish, Some(wish.clone()));

    let error = admin.create_keyspace("carts", wish.clone()).await.unwrap_err();
    assert_eq!((error.effect(), error.failure().unwrap().kind), (Effect::None, FailureKind::Conflict));
    assert_eq!(admin.drop_keyspace("carts").await.unwrap(), created.id);
    let error = admin.alter_keyspace("carts", wish).await.unwrap_err();
    assert_eq!(
        (error.failure().unwrap().kind, error.failure().unwrap().reason.as_str()),
        (FailureKind::Request, "NOT_FOUND")
    );
    assert_eq!(client.keyspace("carts").put("a", "1").await.unwrap_err().failure().unwrap().reason, "UNKNOWN_KEYSPACE");
}

/// A change whose answer is lost may have been made: nobody asks for it again behind the caller's back.
#[tokio::test]
async fn a_change_in_doubt_is_asked_for_once() {
    let fake = Fake::start(3);
    let admin = connected(&fake).await.admin();
    for node in 0..3 {
        fake.fault(node, Fault::Lose);
    }
    let error = admin.create_keyspace("carts", KeyspaceWish::default()).await.unwrap_err();
    assert_eq!((error.effect(), fake.world.lock().changes), (Effect::Unknown, 1), "{error}");
}

#[tokio::test]
async fn a_change_the_metadata_cannot_decide_now_is_asked_for_until_it_can() {
    let fake = Fake::start(1);
    let admin = connected(&fake).await.admin();
    let metadata = [("effect", "none"), ("retry", "later"), ("retry_after_ms", "5")];
    fake.fault(0, Fault::Refuse(Told::new(Code::Unavailable, "METADATA_UNAVAILABLE", &metadata)));
    admin.create_keyspace("carts", KeyspaceWish::default()).await.unwrap();
    assert_eq!(fake.world.lock().changes, 2);
    fake.fault(0, Fault::Lose);
    assert_eq!(admin.keyspaces(&[]).await.unwrap().len(), 3, "a lookup may be repeated");
}

#[tokio::test]
async fn a_leader_hands_over_wherever_one_asks() {
    let fake = Fake::start(3);
    fake.world.lock().leader = Some(2);
    let client = connected(&fake).await;
    let admin = client.admin();
    let made = admin.transfer_leader(ShardId(1), Some(NodeId(2)), false).await.unwrap().operator.unwrap();
    let ended = admin.operator_ended(OperatorId(made.id), None).await.unwrap();
    assert_eq!((ended.state.as_str(), fake.world.lock().leader_of(1)), ("done", Some(1)));
    client.keyspace("orders").put("a", "1").await.unwrap();
}

/// What is foreseen changes nothing, what is under way is found, and who waits too long is told what it waits for.
#[tokio::test]
async fn operators_are_foreseen_made_awaited_and_cancelled() {
    let fake = Fake::start(3);
    let admin = connected(&fake).await.admin();
    let seats = (NodeId(1), NodeId(4));
    let foreseen = admin.move_replica(ShardId(1), seats, true).await.unwrap();
    assert_eq!((foreseen.operator, foreseen.moves[0].bytes), (None, Some(3 << 20)));
    assert_eq!(admin.operators(ListOperatorsRequest::default()).await.unwrap(), []);

    let made = admin.move_replica(ShardId(1), seats, false).await.unwrap().operator.unwrap();
    let id = OperatorId(made.id);
    let waited = admin.operator_ended(id, Some(Duration::from_millis(50))).await.unwrap();
    assert_eq!((waited.state.as_str(), waited.waits_for.as_str()), ("running", "replica 7 has not answered yet"));
    let cancelled = admin.cancel_operator(id, false).await.unwrap().operator.unwrap();
    assert_eq!(cancelled.state, "cancelled");
    assert_eq!(admin.operator_ended(id, None).await.unwrap().state, "cancelled");
    let unknown = admin.cancel_operator(OperatorId(99), false).await.unwrap_err();
    assert_eq!(unknown.failure().unwrap().reason, "NOT_FOUND");

    let drained = admin.change_node(NodeId(2), NodeFate::Draining, false).await.unwrap();
    assert_eq!(drained.node.unwrap().state, "draining");
    assert_eq!(admin.change_node(NodeId(2), NodeFate::Forgotten, false).await.unwrap().node, None);
}

#[tokio::test]
async fn nodes_capabilities_and_their_status_are_listed() {
    let mut fake = Fake::start(3);
    let admin = connected(&fake).await.admin();
    assert_eq!(admin.nodes().await.unwrap().len(), 3);
    assert_eq!(admin.capabilities().await.unwrap()[0].feature, "scan");
    fake.stop(1);
    let reports = admin.node_status().await;
    assert_eq!(reports.iter().map(|report| report.status.is_ok()).collect::<Vec<_>>(), [true, false, true]);
}
