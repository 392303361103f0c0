//! One lane to one peer: its connection, made when it is needed.
//!
//! **Invariant.** A connection that breaks fails all its calls at once. A peer that is not there costs one attempt a
//! [`REST_MAX`] at most, and only while somebody calls; whoever calls a peer that came back finds it after no more than
//! that.
//!
//! **Deliberately absent.** Sending again: a call that failed may have been received.

use super::{
    CONNECT_TIMEOUT,
    frames::{Call, Calls},
};
use crate::rpc::lane::FRAME_BYTES_MAX;
use bytes::Bytes;
use kvorum_api::proto::{LaneFrame, peer_client::PeerClient};
use std::{sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tonic::{Status, Streaming, transport::Endpoint};

/// How long nobody tries to connect after the first failure, and at most.
const REST_MIN: Duration = Duration::from_millis(20);
const REST_MAX: Duration = Duration::from_millis(100);

/// This node's end of a lane.
pub(super) struct LaneEnd {
    calls: Arc<Calls>,
    /// Connects and takes in answers; ends with the lane.
    _attendant: JoinSet<()>,
}

impl LaneEnd {
    /// Nothing is connected before the first call, so that nodes may start in any order.
    pub(super) fn to(endpoint: Endpoint, gathers: bool) -> Self {
        let calls = Arc::new(Calls::new(gathers));
        let mut attendant = JoinSet::new();
        attendant.spawn(attend(Arc::clone(&calls), endpoint));
        LaneEnd { calls, _attendant: attendant }
    }

    /// Queues one envelope.
    pub(super) fn call(&self, envelope: Bytes) -> Result<Call, String> {
        self.calls.add(envelope)
    }
}

impl Drop for LaneEnd {
    fn drop(&mut self) {
        self.calls.fail("it went, or moved to another address", None);
    }
}

async fn attend(calls: Arc<Calls>, endpoint: Endpoint) {
    let mut rest = REST_MIN;
    loop {
        calls.wanted().await;
        // Twice: for the connection, and for the peer to accept the stream.
        let connected = timeout(2 * CONNECT_TIMEOUT, connect(&calls, &endpoint)).await;
        let why = match connected.unwrap_or_else(|_| Err("it takes no connection".to_owned())) {
            Ok(answers) => {
                rest = REST_MIN;
                take_in(&calls, answers).await
            }
            Err(why) => {
                calls.fail(&why, Some(Instant::now() + rest));
                rest = (2 * rest).min(REST_MAX);
                continue;
            }
        };
        calls.fail(&why, None);
    }
}

async fn connect(calls: &Arc<Calls>, endpoint: &Endpoint) -> Result<Streaming<LaneFrame>, String> {
    let channel = endpoint.connect().await.map_err(|error| chain(&error))?;
    let mut client =
        PeerClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX).max_encoding_message_size(FRAME_BYTES_MAX);
    client.lane(calls.frames()).await.map(tonic::Response::into_inner).map_err(|status| words(&status))
}

/// Hands answers out until the connection breaks, and says how.
async fn take_in(calls: &Calls, mut answers: Streaming<LaneFrame>) -> String {
    loop {
        match answers.message().await {
            Ok(Some(frame)) => calls.complete(frame),
            Ok(None) => return "it closed the lane".to_owned(),
            Err(status) => return words(&status),
        }
    }
}

fn words(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// A transport error says what happened only in its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
