//! The stream door: frames of many calls, answers in any order.
//!
//! ```text
//!   frames ──▶ Exchange ─┬─ gets, each by itself ────────────────┐
//!      ▲                 └─ writes of a frame, shard by shard ───┤
//!      │ not read while too much is in flight                    ▼
//!      └───────────────── answers that are ready together ◀── Running
//! ```
//!
//! One task serves one stream: it reads frames, drives what is in flight and writes answers. What becomes ready while a
//! frame of answers waits for the wire rides the next one; there is no timer.
//!
//! **Invariant.** Every call of a frame that was read is answered exactly once, unless the client goes away. A stream
//! that the server ends says why, after everything it read is answered: what is not answered then was not tried.
//!
//! **Deliberately absent.** Order between calls in flight. Writes of one frame to one shard are handed over in their
//! order; nothing else is promised.

mod exchange;
mod work;

use super::door::Door;
use exchange::Exchange;
use kvorum_api::proto;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Frames of answers that wait for the wire: while one is sent, the next fills.
const FRAMES_WAITING_MAX: usize = 1;

/// Serves `kv.v1.KvStream`.
pub struct StreamService {
    door: Arc<Door>,
}

impl StreamService {
    /// Behind this door.
    #[must_use]
    pub fn new(door: Arc<Door>) -> Self {
        StreamService { door }
    }
}

#[tonic::async_trait]
impl proto::kv_stream_server::KvStream for StreamService {
    type ExchangeStream = ReceiverStream<Result<proto::StreamFrame, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<proto::StreamFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (sender, receiver) = mpsc::channel(FRAMES_WAITING_MAX);
        let exchange = Exchange::new(self.door.clone(), sender);
        self.door.tasks.spawn(exchange.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
