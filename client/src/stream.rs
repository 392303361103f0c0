//! One stream of frames to one node.
//!
//! ```text
//!   ask ──▶ queue ──▶ frame ──▶ on its way ──▶ waiting, by id ──▶ answer, in any order
//!             ▲         what is queued while a frame is on its way rides the next
//!             └── no timer: one turn of the scheduler lets everybody who is ready add theirs
//! ```
//!
//! **Invariant.** A request that was not put into a frame provably has no effect; one that was and is not answered when
//! the stream ends is unknown. Whoever gave up waiting before its frame was cut is not sent.
//!
//! **Deliberately absent.** Retrying and deadlines: who asks waits as long as it likes.

use crate::{
    clock::Stamps,
    failure::Failure,
    frames::{Ask, Frames},
    map::Address,
    unanswered::Unanswered,
};
use bytes::Bytes;
use kvorum_api::{
    frame::{CALLS_MAX, Outcome, Reply, Request},
    proto,
};
use parking_lot::Mutex;
use proto::{StreamFrame, kv_stream_client::KvStreamClient};
use std::{collections::BTreeMap, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
    time::Instant,
};
use tonic::{Status, Streaming, transport::Channel};

/// Turns of the scheduler a frame waits for others to add to it, as long as they do.
const TURNS_MAX: usize = 3;

/// Waiting requests from which on those given up by their callers are swept out.
const SWEEP_AT_MIN: usize = 1_024;

/// What every frame of a client says.
#[derive(Debug)]
pub(crate) struct Words {
    /// Names this client in its request ids.
    pub(crate) client: u128,
    pub(crate) traceparent: String,
    /// Requests one node may hold.
    pub(crate) operations_max: usize,
    pub(crate) stamps: Arc<Stamps>,
    pub(crate) unanswered: Arc<Unanswered>,
}

/// The handle of one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    asks: mpsc::Sender<Ask>,
    heard: Arc<Mutex<Instant>>,
}

/// What owns the stream: to be run by a task.
#[derive(Debug)]
pub(crate) struct Pump {
    address: Address,
    words: Arc<Words>,
    asks: mpsc::Receiver<Ask>,
    frames: mpsc::Sender<StreamFrame>,
    answers: Streaming<StreamFrame>,
    heard: Arc<Mutex<Instant>>,
    queue: Frames,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Outcome, Failure>>>,
    next_id: u64,
    sweep_at: usize,
}

impl Stream {
    /// Opens it and waits until the node has taken it: before that nothing is sent.
    pub(crate) async fn open(
        mut client: KvStreamClient<Channel>,
        address: Address,
        words: Arc<Words>,
    ) -> Result<(Stream, Pump), Status> {
        let (frames, outgoing) = mpsc::channel(1);
        let outgoing = futures::stream::unfold(outgoing, |mut outgoing| async move {
            let frame: StreamFrame = outgoing.recv().await?;
            Some((frame, outgoing))
        });
        let answers = client.exchange(outgoing).await?.into_inner();
        // As many as the node's gate lets pass: it is never full.
        let (sender, asks) = mpsc::channel(words.operations_max);
        let heard = Arc::new(Mutex::new(Instant::now()));
        let pump = Pump {
            address,
            words,
            asks,
            frames,
            answers,
            heard: heard.clone(),
            queue: Frames::default(),
            waiting: BTreeMap::new(),
            next_id: 1,
            sweep_at: SWEEP_AT_MIN,
        };
        Ok((Stream { asks: sender, heard }, pump))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.asks.is_closed()
    }

    /// When the node last answered anything.
    pub(crate) fn heard(&self) -> Instant {
        *self.heard.lock()
    }

    /// Queues a request. `false`: it was not taken, the stream is over.
    pub(crate) fn send(&self, ask: Ask) -> bool {
        self.asks.try_send(ask).is_ok()
    }
}

impl Pump {
    /// Carries frames until the stream ends or its handle is gone.
    pub(crate) async fn run(mut self) {
        let why = loop {
            tokio::select! {
                // Answers first: they let their callers ask again, into the frame that is cut next.
                biased;
                answer = self.answers.message() => match answer {
                    Ok(Some(frame)) => {
                        if let Err(why) = self.take_answers(frame.body) {
                            break why;
                        }
                    }
                    Ok(None) => break "the node ended it".to_owned(),
                    Err(status) => break status.message().to_owned(),
                },
                ask = self.asks.recv() => match ask {
                    Some(ask) => {
                        self.queue.push(ask);
                        self.gather().await;
                    }
                    None => return,
                },
                // Granted when the frame before has been taken over by the connection.
                permit = self.frames.clone().reserve_owned(), if !self.queue.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(frame) = self.cut() {
                            drop(permit.send(frame));
                        }
                    }
                    Err(_closed) => break "the connection ended".to_owned(),
                },
            }
        };
        self.end(&why);
    }

    /// Lets everybody who is ready add to the queue.
    async fn gather(&mut self) {
        for _turn in 0..TURNS_MAX {
            yield_now().await;
            let before = self.queue.len();
            while self.queue.len() < CALLS_MAX
                && let Ok(ask) = self.asks.try_recv()
            {
                self.queue.push(ask);
            }
            if self.queue.len() == before || self.queue.len() >= CALLS_MAX {
                return;
            }
        }
    }

    fn cut(&mut self) -> Option<StreamFrame> {
        let now = Instant::now();
        let cut = self.queue.cut(now, self.next_id, |shards| self.words.unanswered.floors(shards))?;
        self.next_id += cut.calls.len() as u64;
        for (call, reply) in cut.calls.iter().zip(cut.replies) {
            self.waiting.insert(call.id, reply);
        }
        if self.waiting.len() >= self.sweep_at {
            self.waiting.retain(|_, reply| !reply.is_closed());
            self.sweep_at = SWEEP_AT_MIN.max(2 * self.waiting.len());
        }
        let request = Request {
            keyspace: cut.keyspace.to_string(),
            stamp: self.words.stamps.at(now),
            client: self.words.client,
            lowest_unanswered: cut.lowest_unanswered,
            traceparent: self.words.traceparent.clone(),
            session_token: cut.session_token,
            calls: cut.calls,
        };
        Some(StreamFrame { body: request.encode() })
    }

    fn take_answers(&mut self, body: Bytes) -> Result<(), String> {
        let reply = Reply::decode(body).map_err(|unreadable| unreadable.to_string())?;
        let now = Instant::now();
        *self.heard.lock() = now;
        self.words.stamps.observe(reply.stamp, now);
        for answer in reply.answers {
            let Some(waiting) = self.waiting.remove(&answer.id) else { continue };
            let outcome = match answer.outcome {
                Outcome::Failed(failure) => Err(Failure::from_frame(&failure, &self.address)),
                outcome => Ok(outcome),
            };
            // Who does not wait any more needs no answer.
            drop(waiting.send(outcome));
        }
        Ok(())
    }

    /// Tells everybody what the end means for them.
    fn end(mut self, why: &str) {
        tracing::debug!(node = &*self.address, why, "stream ended");
        self.asks.close();
        for reply in std::mem::take(&mut self.waiting).into_values() {
            drop(reply.send(Err(Failure::broken(&self.address, why))));
        }
        while let Ok(ask) = self.asks.try_recv() {
            self.queue.push(ask);
        }
        for ask in self.queue.drain() {
            let text = format!("the stream broke before the request was sent: {why}");
            drop(ask.reply.send(Err(Failure::not_sent("UNAVAILABLE", text, Some(&self.address)))));
        }
    }
}
