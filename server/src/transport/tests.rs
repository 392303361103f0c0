//! Both ends of a lane over loopback.

use super::*;
use crate::rpc::lane::{self, Answers, FRAME_BYTES_MAX};
use futures::{FutureExt, future::join_all};
use kvorum_api::proto::{
    JoinReply, JoinRequest, LaneFrame,
    peer_server::{Peer as PeerDoor, PeerServer},
};
use parking_lot::Mutex;
use std::{
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::watch,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a far end does with an envelope.
type Handle = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Bytes> + Send + Sync>;

struct Door {
    /// Without one the lane is accepted and never read.
    handle: Option<Handle>,
    stop: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl PeerDoor for Door {
    type LaneStream = futures::stream::BoxStream<'static, Result<LaneFrame, Status>>;

    async fn lane(&self, request: Request<Streaming<LaneFrame>>) -> Result<Response<Self::LaneStream>, Status> {
        let calls = request.into_inner();
        let Some(handle) = self.handle.clone() else {
            let unread = futures::stream::once(async move {
                let _calls = calls;
                pending().await
            });
            return Ok(Response::new(Box::pin(unread)));
        };
        let answers: Answers = lane::serve(calls, move |envelope| handle(envelope), self.stop.clone());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        unreachable!("lanes carry no requests to join")
    }
}

/// A process of its own, as far as connections go: it can be killed with all of them.
struct Far {
    runtime: Option<Runtime>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
}

impl Far {
    async fn at(address: SocketAddr, handle: Option<Handle>) -> Far {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, stopped) = watch::channel(false);
        let door = PeerServer::new(Door { handle, stop: stopped.clone() })
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX);
        let told = async move {
            let mut stopped = stopped;
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let (bound, found) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(door)
                .serve_with_incoming_shutdown(incoming, told)
                .await
                .unwrap();
        });
        Far { address: found.await.unwrap(), runtime: Some(runtime), stop }
    }

    async fn with(handle: impl Fn(Bytes) -> BoxFuture<'static, Bytes> + Send + Sync + 'static) -> Far {
        Far::at((Ipv4Addr::LOCALHOST, 0).into(), Some(Arc::new(handle))).await
    }

    async fn echo() -> Far {
        Far::with(|envelope| async { envelope }.boxed()).await
    }

    fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn transport_to(address: SocketAddr) -> GrpcTransport {
    let transport = GrpcTransport::default();
    transport.set_peers(&BTreeMap::from([(NodeId(2), address.to_string())]));
    transport
}

fn ask(transport: &GrpcTransport, envelope: impl Into<Bytes>) -> BoxFuture<'static, Result<Bytes, TransportError>> {
    transport.call(NodeId(2), Lane::Data, envelope.into(), PATIENCE)
}

fn is_unreachable(answer: &Result<Bytes, TransportError>) -> bool {
    matches!(answer, Err(TransportError::Unreachable { node: NodeId(2), .. }))
}

#[tokio::test]
async fn an_envelope_larger_than_tonics_default_travels_both_ways_on_every_lane() {
    let far = Far::echo().await;
    let transport = transport_to(far.address);
    let envelope = Bytes::from(vec![7; 40 << 20]);
    for lane in [Lane::Control, Lane::Data, Lane::Bulk] {
        let answer = transport.call(NodeId(2), lane, envelope.clone(), PATIENCE).await.unwrap();
        assert_eq!(answer.len(), envelope.len());
        assert!(answer == envelope);
    }
}

#[tokio::test]
async fn an_envelope_over_the_limit_is_refused_before_it_leaves() {
    let far = Far::echo().await;
    let transport = transport_to(far.address);
    assert!(is_unreachable(&ask(&transport, vec![0; crate::rpc::ENVELOPE_BYTES_MAX + 1]).await));
    assert_eq!(ask(&transport, "small").await.unwrap(), "small");
}

/// The appends of one group reach it in the order in which they were sent.
#[tokio::test]
async fn calls_are_started_in_the_order_in_which_they_were_made() {
    let started = Arc::new(Mutex::new(Vec::new()));
    let far = Far::with({
        let started = Arc::clone(&started);
        move |envelope| {
            let started = Arc::clone(&started);
            async move {
                let number = u32::from_be_bytes(envelope[..].try_into().unwrap());
                started.lock().push(number);
                // Later ones are done first.
                sleep(Duration::from_millis(u64::from(20 - number / 100))).await;
                envelope
            }
            .boxed()
        }
    })
    .await;
    let transport = transport_to(far.address);
    let calls: Vec<_> = (0..2_000_u32).map(|number| ask(&transport, number.to_be_bytes().to_vec())).collect();
    // Waiting in another order changes nothing.
    for (number, answer) in join_all(calls.into_iter().rev()).await.into_iter().rev().enumerate() {
        assert_eq!(answer.unwrap(), (number as u32).to_be_bytes().to_vec());
    }
    assert_eq!(*started.lock(), (0..2_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn ten_thousand_calls_at_once_are_all_answered() {
    let far = Far::echo().await;
    let transport = transport_to(far.address);
    let calls = (0..10_000).map(|number: u32| ask(&transport, format!("call {number}")));
    for (number, answer) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), format!("call {number}"));
    }
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_unreachable() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let transport = transport_to(address);
    assert!(is_unreachable(&ask(&transport, "").await));
    let stranger = transport.call(NodeId(3), Lane::Control, Bytes::new(), PATIENCE).await;
    assert!(matches!(stranger, Err(TransportError::Unreachable { node: NodeId(3), .. })));
}

#[tokio::test]
async fn a_peer_that_is_killed_fails_all_its_calls_at_once_and_is_found_again_when_it_returns() {
    let (arrived, mut arrivals) = watch::channel(0);
    let mut far = Far::with(move |_| {
        arrived.send_modify(|count| *count += 1);
        pending().boxed()
    })
    .await;
    let address = far.address;
    let transport = transport_to(address);
    let began = Instant::now();
    let calls: Vec<_> = (0..100).map(|_| ask(&transport, "never answered")).collect();
    arrivals.wait_for(|count| *count == 100).await.unwrap();
    far.kill();
    assert!(join_all(calls).await.iter().all(is_unreachable));
    assert!(began.elapsed() < PATIENCE / 2, "they did not wait for their patience");

    assert!(is_unreachable(&ask(&transport, "nobody there").await));
    let _back = Far::at(address, Some(Arc::new(|envelope| async { envelope }.boxed()))).await;
    let returned = Instant::now();
    while ask(&transport, "hello").await.is_err() {
        assert!(returned.elapsed() < PATIENCE, "it is not found");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_silent_peer_costs_the_patience_and_no_more() {
    let far = Far::with(|_| pending().boxed()).await;
    let transport = transport_to(far.address);
    let patience = Duration::from_millis(100);
    let answer = transport.call(NodeId(2), Lane::Data, Bytes::new(), patience).await;
    assert_eq!(answer, Err(TransportError::Timeout { node: NodeId(2), after: patience }));
}

#[tokio::test]
async fn an_address_that_changes_is_used_at_once() {
    let (arrived, mut arrivals) = watch::channel(false);
    let old = Far::with(move |_| {
        arrived.send_replace(true);
        pending().boxed()
    })
    .await;
    let new = Far::with(|_| async { Bytes::from_static(b"new") }.boxed()).await;
    let transport = transport_to(old.address);
    let under_way = ask(&transport, "to the old one");
    arrivals.wait_for(|arrived| *arrived).await.unwrap();
    transport.set_peers(&BTreeMap::from([(NodeId(2), new.address.to_string())]));
    assert!(is_unreachable(&under_way.await), "its connection is gone");
    assert_eq!(ask(&transport, "").await.unwrap(), "new");
    // What does not change is not touched.
    let kept = ask(&transport, "");
    transport.set_peers(&BTreeMap::from([(NodeId(2), new.address.to_string()), (NodeId(3), old.address.to_string())]));
    assert_eq!(kept.await.unwrap(), "new");
    transport.set_peers(&BTreeMap::new());
    assert!(is_unreachable(&ask(&transport, "").await));
}

#[tokio::test]
async fn what_waits_for_a_peer_that_does_not_read_is_bounded() {
    let far = Far::at((Ipv4Addr::LOCALHOST, 0).into(), None).await;
    let transport = transport_to(far.address);
    let envelope = Bytes::from(vec![0; 1 << 20]);
    let mut calls = Vec::new();
    for _ in 0..200 {
        calls.push(ask(&transport, envelope.clone()));
        // Gives the connection the time to send what it can.
        sleep(Duration::from_millis(1)).await;
    }
    let refused = calls.into_iter().filter_map(FutureExt::now_or_never).filter(is_unreachable).count();
    // 64 MiB wait here, and some MiB fit into windows and sockets.
    assert!((100..=137).contains(&refused), "{refused} of 200 were refused");
    // Those that were given up left nothing behind.
    let again = ask(&transport, envelope).now_or_never();
    assert!(again.is_none(), "{again:?}");
}

#[tokio::test]
async fn a_lane_whose_calls_are_not_done_is_read_no_further() {
    let started = Arc::new(AtomicUsize::new(0));
    let far = Far::with({
        let started = Arc::clone(&started);
        move |_| {
            started.fetch_add(1, Ordering::SeqCst);
            pending().boxed()
        }
    })
    .await;
    let transport = transport_to(far.address);
    let envelope = Bytes::from(vec![0; 1 << 20]);
    let calls: Vec<_> =
        (0..60).map(|_| transport.call(NodeId(2), Lane::Data, envelope.clone(), Duration::from_secs(3))).collect();
    let answers = join_all(calls).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(TransportError::Timeout { .. }))));
    let started = started.load(Ordering::SeqCst);
    assert!((16..=34).contains(&started), "{started} MiB are under way");
}

/// A door that shuts waits for its streams: lanes end by themselves.
#[tokio::test]
async fn a_peer_that_stops_ends_its_lanes() {
    let (arrived, mut arrivals) = watch::channel(false);
    let far = Far::with(move |_| {
        arrived.send_replace(true);
        pending().boxed()
    })
    .await;
    let transport = transport_to(far.address);
    let under_way = ask(&transport, "");
    arrivals.wait_for(|arrived| *arrived).await.unwrap();
    let began = Instant::now();
    far.stop.send_replace(true);
    assert!(is_unreachable(&under_way.await));
    assert!(began.elapsed() < PATIENCE / 2);
}
