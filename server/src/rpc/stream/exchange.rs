//! One stream, from its first frame to its end.
//!
//! **Invariant.** What is in flight is bounded in calls and bytes: beyond it no frame is read, and the client's own
//! window fills. One frame more than the bound may be in flight, never two.

use super::work::{Begun, Done, Work};
use crate::{
    metrics,
    rpc::{door::Door, status},
};
use futures::{FutureExt as _, Stream, StreamExt as _, stream::FuturesUnordered};
use kvorum_api::{
    Refused,
    frame::{Answer, BYTES_MAX, CALLS_MAX, Reply, Request},
    proto::StreamFrame,
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tonic::Status;

/// Calls of one stream that are not answered yet.
const CALLS_IN_FLIGHT_MAX: usize = 4 * CALLS_MAX;

/// Bytes of calls of one stream that are not answered yet, and of answers that are not sent.
const BYTES_IN_FLIGHT_MAX: usize = 4 * BYTES_MAX;

/// Bytes of answers that are not sent: beyond, nothing in flight is driven on until the client takes some.
const ANSWER_BYTES_MAX: usize = 4 * BYTES_MAX;

/// A client that takes no answer for so long, while so many wait, is gone: what it asked for holds up others.
const READER_PATIENCE: Duration = Duration::from_secs(30);

/// One stream.
pub struct Exchange {
    door: Arc<Door>,
    sender: mpsc::Sender<Result<StreamFrame, Status>>,
    ready: VecDeque<Answer>,
    ready_bytes: usize,
    calls_in_flight: usize,
    bytes_in_flight: usize,
    figures: metrics::StreamFigures,
}

/// What may happen to a stream next.
enum Event {
    /// The wire takes another frame of answers.
    Room,
    /// Something in flight was answered.
    Done(Done),
    /// A frame arrived; `None` = the client has sent its last.
    Frame(Option<Result<StreamFrame, Status>>),
    /// The node is stopping.
    Drained,
    /// The client went away.
    Gone,
}

impl Exchange {
    pub(super) fn new(door: Arc<Door>, sender: mpsc::Sender<Result<StreamFrame, Status>>) -> Self {
        Exchange {
            door,
            sender,
            ready: VecDeque::new(),
            ready_bytes: 0,
            calls_in_flight: 0,
            bytes_in_flight: 0,
            figures: metrics::StreamFigures::new(),
        }
    }

    fn has_room(&self) -> bool {
        self.calls_in_flight < CALLS_IN_FLIGHT_MAX && self.bytes_in_flight + self.ready_bytes < BYTES_IN_FLIGHT_MAX
    }

    /// Whether answers may be added to those that wait.
    fn takes_answers(&self) -> bool {
        self.ready_bytes < ANSWER_BYTES_MAX
    }

    /// Serves it until the client has sent its last frame, sends what is none, or goes away, or the node drains.
    pub(super) async fn run(mut self, frames: impl Stream<Item = Result<StreamFrame, Status>> + Send) {
        let mut frames = std::pin::pin!(frames);
        let mut draining = self.door.draining.subscribe();
        let mut running = FuturesUnordered::new();
        // `Some` = no frame is read any more, and this is what the stream ends with.
        let mut last_words: Option<Option<Status>> = None;
        while last_words.is_none() || !running.is_empty() || !self.ready.is_empty() {
            let reads = last_words.is_none() && self.has_room();
            let event = tokio::select! {
                biased;
                // Answers first: they free what a new frame needs.
                room = self.sender.reserve(), if !self.ready.is_empty() => match room {
                    Ok(_) => Event::Room,
                    Err(_) => Event::Gone,
                },
                Some(done) = running.next(), if !running.is_empty() && self.takes_answers() => Event::Done(done),
                () = drained(&mut draining), if last_words.is_none() => Event::Drained,
                frame = frames.next(), if reads => Event::Frame(frame),
                () = self.sender.closed() => Event::Gone,
                () = sleep(READER_PATIENCE), if !self.takes_answers() => Event::Gone,
            };
            match event {
                Event::Room => {
                    // Whatever else is ready by now rides along.
                    while self.takes_answers()
                        && let Some(Some(done)) = running.next().now_or_never()
                    {
                        running.extend(self.take(done).map(Work::run));
                    }
                    self.send();
                }
                Event::Done(done) => running.extend(self.take(done).map(Work::run)),
                Event::Drained => last_words = Some(Some(status::refused(&Refused::Draining))),
                Event::Frame(None) => last_words = Some(None),
                // A client that broke off reads no answers either.
                Event::Frame(Some(Err(_))) | Event::Gone => return,
                Event::Frame(Some(Ok(frame))) => match Request::decode(frame.body) {
                    Ok(request) => running.extend(self.begin(request).into_iter().map(Work::run)),
                    Err(error) => {
                        metrics::undecodable();
                        last_words = Some(Some(status::unreadable_frame(&error)));
                    }
                },
            }
        }
        if let Some(Some(status)) = last_words {
            // A client that went away needs no last words.
            let _ = self.sender.send(Err(status)).await;
        }
    }

    /// Shows the calls of a frame the way; those that are refused are answered at once.
    fn begin(&mut self, request: Request) -> Vec<Work> {
        metrics::stream_frame("in");
        let Begun { refused, work } = super::work::begin(&self.door, request, &self.figures);
        refused.into_iter().for_each(|answer| self.push(answer));
        for work in &work {
            self.calls_in_flight += work.calls();
            self.bytes_in_flight += work.bytes();
        }
        work
    }

    /// Takes answers in; what is still to be waited for comes back.
    fn take(&mut self, done: Done) -> Option<Work> {
        for answered in done.answered {
            self.calls_in_flight -= 1;
            self.bytes_in_flight -= answered.call.bytes;
            self.figures.answered(answered.call.op, answered.call.started, &answered.answer.outcome);
            self.push(answered.answer);
        }
        done.rest
    }

    fn push(&mut self, answer: Answer) {
        self.ready_bytes += answer.size();
        self.ready.push_back(answer);
    }

    /// Sends one frame of what is ready.
    fn send(&mut self) {
        let (mut bytes, mut answers) = (0, Vec::with_capacity(self.ready.len().min(CALLS_MAX)));
        while let Some(answer) = self.ready.front() {
            // One larger answer travels alone.
            if answers.len() == CALLS_MAX || (bytes + answer.size() > BYTES_MAX && !answers.is_empty()) {
                break;
            }
            bytes += answer.size();
            answers.extend(self.ready.pop_front());
        }
        self.ready_bytes -= bytes;
        let reply = Reply { node: self.door.id, stamp: self.door.node.stamp(), answers };
        metrics::stream_frame("out");
        // There was room a moment ago, and nobody else sends; a client that went away meanwhile is noticed next.
        let _ = self.sender.try_send(Ok(StreamFrame { body: reply.encode() }));
    }
}

async fn drained(draining: &mut watch::Receiver<bool>) {
    // The sender lives in the door, which this stream holds.
    let _ = draining.wait_for(|is_draining| *is_draining).await;
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
