//! Heartbeats of many groups to one node.

use crate::node::house::House;
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use kvorum_api::{GroupId, NodeId, ReplicaId, StartCount};
use kvorum_consensus::{
    Env, Lane, Transport, TransportError,
    health::Health,
    heartbeats::{self, Heartbeat, Outcome, SLOW_AFTER},
    hlc::Hlc,
    identity::Identity,
    peers::{CallError, MessageKind, Outgoing, Peers},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// The group whose replica takes long to answer.
const SLOW: GroupId = GroupId(7);
const SLOW_TAKES: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_millis(500);

/// A node that echoes heartbeats.
#[derive(Default)]
struct Far {
    peers: OnceLock<Arc<Peers>>,
    /// Envelopes sent to it.
    envelopes: AtomicU64,
    /// Envelopes that get lost before the first arrives.
    lost: AtomicU64,
}

struct ToFar(Arc<Far>);

async fn echo(heartbeat: Heartbeat) -> Outcome {
    if heartbeat.group == SLOW {
        sleep(SLOW_TAKES).await;
    }
    Outcome::Answered(heartbeat.payload)
}

impl Transport for ToFar {
    fn call(
        &self,
        to: NodeId,
        _lane: Lane,
        envelope: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let far = Arc::clone(&self.0);
        let number = far.envelopes.fetch_add(1, Ordering::SeqCst);
        let answer = async move {
            if number < far.lost.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            sleep(Duration::from_millis(1)).await;
            let peers = far.peers.get().expect("it was there before anybody called");
            let request = peers.receive(&envelope).expect("an honest node is let in");
            let payload = request.envelope.payload.clone();
            let payload = match request.kind {
                MessageKind::Heartbeats => heartbeats::answer(payload, echo).await.expect("heartbeats"),
                _ => {
                    let (group, from_replica) = (request.envelope.group, request.envelope.from_replica);
                    let to_replica = request.envelope.to_replica;
                    echo(Heartbeat { group, from_replica, to_replica, payload: payload.clone() }).await;
                    payload
                }
            };
            peers.reply(&request, payload)
        };
        Box::pin(async move {
            timeout(patience, answer).await.map_err(|_| TransportError::Timeout { node: to, after: patience })
        })
    }

    fn set_peers(&self, _peers: &BTreeMap<NodeId, String>) {}
}

fn peers(house: &mut House, id: u64, far: &Arc<Far>) -> Arc<Peers> {
    let env = Env { transport: Arc::new(ToFar(Arc::clone(far))), ..house.env(id) };
    let nodes: BTreeSet<_> = [NodeId(1), NodeId(2)].into();
    let me = Identity { cluster: crate::node::house::CLUSTER, node: NodeId(id), start: StartCount(1), boot_nonce: id };
    let hlc = Arc::new(Hlc::new(env.clock.clone(), kvorum_api::Stamp(0), 500));
    let peers = Peers::new(me, &nodes, &BTreeMap::new(), &env, hlc, Arc::new(Health::default()));
    peers.admit();
    peers
}

fn pair() -> (Arc<Peers>, Arc<Far>) {
    let (mut house, far) = (House::empty(), Arc::new(Far::default()));
    let near = peers(&mut house, 1, &far);
    assert!(far.peers.set(peers(&mut house, 2, &far)).is_ok());
    (near, far)
}

async fn beat(near: &Arc<Peers>, group: u64) -> (Result<Bytes, CallError>, Duration) {
    let began = Instant::now();
    let message = Outgoing {
        to: NodeId(2),
        lane: Lane::Control,
        group: GroupId(group),
        from_replica: ReplicaId(1),
        to_replica: ReplicaId(2),
        kind: MessageKind::Append,
        payload: group.to_be_bytes().to_vec().into(),
        timeout: PATIENCE,
    };
    (near.heartbeat(message).await, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_hundred_groups_share_a_few_envelopes() {
    let (near, far) = pair();
    let answers = join_all((100..200).map(|group| beat(&near, group))).await;
    for (group, (answer, took)) in (100_u64..200).zip(answers) {
        assert_eq!(answer.unwrap(), group.to_be_bytes().to_vec());
        assert!(took <= Duration::from_millis(5), "{took:?}");
    }
    let envelopes = far.envelopes.load(Ordering::SeqCst);
    assert!(envelopes <= 3, "{envelopes} envelopes for 100 groups");
}

/// A read-index probe is a heartbeat: nothing may hold back the first.
#[tokio::test(start_paused = true)]
async fn a_lone_heartbeat_leaves_at_once() {
    let (near, far) = pair();
    let (answer, took) = beat(&near, 100).await;
    assert!(answer.is_ok() && took <= Duration::from_millis(2), "{answer:?} after {took:?}");
    assert_eq!(far.envelopes.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_group_is_answered_and_holds_no_other_up() {
    let (near, _far) = pair();
    let groups = [100, 101, SLOW.0, 102, 103];
    let answers = join_all(groups.map(|group| beat(&near, group))).await;
    for (group, (answer, took)) in groups.into_iter().zip(answers) {
        assert_eq!(answer.unwrap(), group.to_be_bytes().to_vec());
        let at_most = if group == SLOW.0 { SLOW_TAKES + 2 * SLOW_AFTER } else { 2 * SLOW_AFTER };
        assert!(took <= at_most, "group {group} took {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_envelope_holds_the_next_ones_back_for_a_moment_only() {
    let (near, far) = pair();
    far.lost.store(1, Ordering::SeqCst);
    let later = async {
        sleep(Duration::from_millis(5)).await;
        join_all((101..110).map(|group| beat(&near, group))).await
    };
    let ((lost, _), later) = tokio::join!(beat(&near, 100), later);
    assert_eq!(lost, Err(CallError::Timeout(PATIENCE)));
    for (answer, took) in later {
        assert!(answer.is_ok() && took <= 3 * SLOW_AFTER, "{answer:?} after {took:?}");
    }
}
