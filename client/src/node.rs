//! One node: its channels, its breaker, its bulkhead, its stream.
//!
//! ```text
//!   channel ── greetings · single requests · the stream of frames
//!   scans   ── scans alone, from the first one on: what their readers leave lying there stops nobody else
//! ```
//!
//! **Invariant.** No write is handed to a connection that has not been greeted since it last failed: while nobody
//! answers the greeting, the failure is provably without effect.

use crate::{
    breaker::{Breaker, Trouble},
    failure::Failure,
    gate::Gate,
    map::Address,
    options::{Options, Transport},
    routing::Look,
    stream::{Pump, Stream, Words},
};
use kvorum_api::proto;
use parking_lot::Mutex;
use proto::{kv_client::KvClient, kv_stream_client::KvStreamClient};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

/// Bytes of one reply: a full batch of previous values, with room for its frame.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// Bytes of one scan that may lie unread on this side.
const SCAN_WINDOW_BYTES: u32 = 1 << 20;

/// The same of all scans of a node: more of them than anybody opens, so that none waits for the reader of another.
const SCANS_WINDOW_BYTES: u32 = 1 << 30;

/// One node, by the address it is reached at.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) address: Address,
    pub(crate) channel: Channel,
    endpoint: Endpoint,
    scans: OnceLock<Channel>,
    pub(crate) gate: Arc<Gate>,
    /// One greeting at a time.
    pub(crate) greeting: tokio::sync::Mutex<()>,
    greeted: AtomicBool,
    breaker: Mutex<Breaker>,
    /// One opening at a time.
    opening: tokio::sync::Mutex<()>,
    stream: Mutex<Option<Arc<Stream>>>,
    is_unary: AtomicBool,
}

impl Node {
    pub(crate) fn new(address: Address, endpoint: Endpoint, options: &Options) -> Self {
        Node {
            address,
            channel: endpoint.connect_lazy(),
            endpoint,
            scans: OnceLock::new(),
            gate: Gate::new(options.in_flight_operations_max, options.in_flight_bytes_max),
            greeting: tokio::sync::Mutex::new(()),
            greeted: AtomicBool::new(false),
            breaker: Mutex::new(Breaker::new(options.avoid, options.connect_timeout, options.slow)),
            opening: tokio::sync::Mutex::new(()),
            stream: Mutex::default(),
            is_unary: AtomicBool::new(options.transport == Transport::Unary),
        }
    }

    /// A client for its unary calls.
    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX)
    }

    /// A client for its scans.
    pub(crate) fn scans(&self) -> KvClient<Channel> {
        let channel = self.scans.get_or_init(|| {
            let endpoint = self.endpoint.clone().initial_stream_window_size(SCAN_WINDOW_BYTES);
            endpoint.initial_connection_window_size(SCANS_WINDOW_BYTES).connect_lazy()
        });
        KvClient::new(channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX)
    }

    pub(crate) fn is_greeted(&self) -> bool {
        self.greeted.load(Ordering::Acquire)
    }

    /// It answered a greeting.
    pub(crate) fn greeted(&self) {
        self.greeted.store(true, Ordering::Release);
        self.breaker.lock().greeted(Instant::now());
    }

    /// It is to be greeted before its next use.
    pub(crate) fn forget_greeting(&self) {
        self.greeted.store(false, Ordering::Release);
    }

    /// It answered an operation.
    pub(crate) fn answered(&self, latency: Duration) {
        self.breaker.lock().answered(latency, Instant::now());
    }

    /// It failed: it is greeted before it is used again, and others are asked first for a while.
    pub(crate) fn failed(&self, trouble: Trouble, asked: Instant) {
        self.forget_greeting();
        self.breaker.lock().failed(trouble, asked, Instant::now());
    }

    pub(crate) fn look(&self) -> Look {
        let breaker = self.breaker.lock();
        let now = Instant::now();
        Look { health: breaker.health(now), latency: breaker.latency(now) }
    }

    /// Another node says that it leads.
    pub(crate) fn vouched(&self) {
        self.breaker.lock().vouched(Instant::now());
    }

    /// Whether the asker should probe it.
    pub(crate) fn takes_probe(&self) -> bool {
        self.breaker.lock().takes_probe(Instant::now())
    }

    /// The probe was answered, or not. Others greet it as they need it.
    pub(crate) fn probed(&self, outcome: Result<(), Trouble>) {
        let (mut breaker, now) = (self.breaker.lock(), Instant::now());
        match outcome {
            Ok(()) => breaker.greeted(now),
            Err(trouble) => breaker.failed(trouble, now, now),
        }
    }

    /// Its stream, opened if need be; `None` if it offers none or none is wanted. `spawn` owns the task that pumps it.
    ///
    /// # Errors
    /// It could not be opened: nothing was sent.
    pub(crate) async fn stream(
        &self,
        words: &Arc<Words>,
        spawn: impl FnOnce(Pump) + Send,
    ) -> Result<Option<Arc<Stream>>, Failure> {
        if let Some(ready) = self.ready_stream() {
            return Ok(ready);
        }
        let _one_at_a_time = self.opening.lock().await;
        if let Some(ready) = self.ready_stream() {
            return Ok(ready);
        }
        let client = KvStreamClient::new(self.channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX);
        match Stream::open(client, self.address.clone(), words.clone()).await {
            Ok((stream, pump)) => {
                let stream = Arc::new(stream);
                *self.stream.lock() = Some(stream.clone());
                spawn(pump);
                Ok(Some(stream))
            }
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                tracing::info!(node = &*self.address, "node offers no stream, asking one by one");
                self.is_unary.store(true, Ordering::Release);
                Ok(None)
            }
            Err(status) => {
                let failure = Failure::from_status(&status, &self.address);
                Err(Failure { effect: kvorum_api::Effect::None, retry: kvorum_api::Retry::Elsewhere, ..failure })
            }
        }
    }

    /// `None`: it is to be opened; `Some(None)`: there will be none.
    fn ready_stream(&self) -> Option<Option<Arc<Stream>>> {
        if self.is_unary.load(Ordering::Acquire) {
            return Some(None);
        }
        self.stream.lock().clone().filter(|stream| !stream.is_over()).map(Some)
    }
}
