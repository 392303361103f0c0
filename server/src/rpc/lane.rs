//! The far end of a lane: calls come in frames, are started in their order, and are answered as they are done.
//!
//! ```text
//!   frames ──▶ calls, started in order ──▶ under way, at most UNDER_WAY_BYTES_MAX ──▶ done ──▶ frames
//!                (not read while more are under way, or nobody takes the answers)
//! ```
//!
//! **Invariant.** Calls are started in the order in which they came: the appends of one group must reach it so. What
//! arrived and what is answered is bounded in bytes: a lane whose peer does not read is not read either.
//!
//! **Deliberately absent.** Deadlines: the caller gives up on its own, and what was started is finished.

use super::{ENVELOPE_BYTES_MAX, status};
use crate::metrics;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream::FuturesUnordered};
use kvorum_api::proto::{LaneCall, LaneFrame};
use kvorum_consensus::gather::Gather;
use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinSet, yield_now},
};
use tonic::{Code, Status, Streaming};

/// Bytes of envelopes gathered into one frame; a larger one travels alone.
pub const ENVELOPES_BYTES_PER_FRAME: usize = 1 << 20;

/// Bytes of the largest frame: one of the largest envelopes, or many small ones and what wraps each.
pub const FRAME_BYTES_MAX: usize = ENVELOPE_BYTES_MAX + (1 << 20);

/// Bytes of calls under way on one lane before it is read no further.
const UNDER_WAY_BYTES_MAX: usize = 32 << 20;

/// What a call under way costs besides its envelope.
const CALL_BYTES: usize = 1 << 10;

/// Whether a frame that holds `bytes` takes an envelope of `more`.
#[must_use]
pub fn fits_frame(bytes: usize, more: usize) -> bool {
    bytes == 0 || bytes + more <= ENVELOPES_BYTES_PER_FRAME
}

/// The answers of one lane, for as long as somebody takes them.
pub struct Answers {
    frames: mpsc::Receiver<Result<LaneFrame, Status>>,
    /// Handles the calls; ends with the lane.
    _attendant: JoinSet<()>,
}

impl Stream for Answers {
    type Item = Result<LaneFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.frames.poll_recv(context)
    }
}

/// Answers the calls of one lane until it ends or `stop` is told.
pub fn serve<H, F>(calls: Streaming<LaneFrame>, handle: H, stop: watch::Receiver<bool>) -> Answers
where
    H: Fn(Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Bytes> + Send + 'static,
{
    // One frame waits while the one before is on its way: what is done meanwhile rides the next.
    let (out, frames) = mpsc::channel(1);
    let mut attendant = JoinSet::new();
    attendant.spawn(attend(calls, handle, out, stop));
    Answers { frames, _attendant: attendant }
}

async fn attend<H, F>(
    mut calls: Streaming<LaneFrame>,
    handle: H,
    out: mpsc::Sender<Result<LaneFrame, Status>>,
    stop: watch::Receiver<bool>,
) where
    H: Fn(Bytes) -> F,
    F: Future<Output = Bytes> + Send + 'static,
{
    let mut stop = stop;
    let mut stopped = std::pin::pin!(async move {
        // A sender that is gone means the process is going too.
        let _ = stop.wait_for(|stop| *stop).await;
    });
    let mut under_way = FuturesUnordered::new();
    let mut under_way_bytes = 0;
    let mut done = Done::default();
    let (mut has_ended, mut gather) = (false, Gather::default());
    loop {
        let waits = !done.is_full() && gather.waits(done.calls.len());
        tokio::select! {
            // The door shuts first of all. Then answers are gathered before they are sent, so that many share a frame,
            // and both come before new calls, so that a busy lane finishes what it has begun.
            biased;
            () = &mut stopped => return,
            Some((id, bytes, envelope)) = under_way.next(), if !done.is_full() => {
                under_way_bytes -= bytes;
                done.add(LaneCall { id, envelope });
            }
            () = yield_now(), if waits => {}
            permit = out.reserve(), if !waits && !done.calls.is_empty() => {
                let Ok(permit) = permit else { return };
                let frame = done.frame();
                gather.went(frame.calls.len());
                permit.send(Ok(frame));
            }
            frame = calls.message(), if !has_ended && under_way_bytes < UNDER_WAY_BYTES_MAX => {
                let frame = match frame {
                    Ok(frame) => frame,
                    Err(broken) => {
                        // Of a broken connection nobody hears; bytes that are no frame get a sentence.
                        let _ = out.send(Err(undecodable(&broken))).await;
                        return;
                    }
                };
                has_ended = frame.is_none();
                metrics::peer_frame_received();
                for call in frame.into_iter().flat_map(|frame| frame.calls) {
                    metrics::peer_received(call.envelope.len());
                    let bytes = call.envelope.len() + CALL_BYTES;
                    under_way_bytes += bytes;
                    let answer = handle(call.envelope);
                    // New ones are polled in the order in which they are added: that starts them.
                    under_way.push(async move { (call.id, bytes, answer.await) });
                }
            }
            else => return,
        }
    }
}

/// What is said to bytes that are no frame: tonic's codes for them mean something else, as at the other doors.
fn undecodable(broken: &Status) -> Status {
    if matches!(broken.code(), Code::Internal | Code::OutOfRange) {
        metrics::undecodable();
    }
    status::undecodable(broken)
}

/// Answers that have not left.
#[derive(Default)]
struct Done {
    calls: VecDeque<LaneCall>,
    bytes: usize,
}

impl Done {
    fn is_full(&self) -> bool {
        self.bytes >= ENVELOPES_BYTES_PER_FRAME
    }

    fn add(&mut self, call: LaneCall) {
        self.bytes += call.envelope.len() + CALL_BYTES;
        metrics::peer_sent(call.envelope.len());
        self.calls.push_back(call);
    }

    /// The next frame.
    fn frame(&mut self) -> LaneFrame {
        let mut frame = LaneFrame { calls: Vec::new() };
        let mut bytes = 0;
        while let Some(call) = self.calls.pop_front_if(|call| fits_frame(bytes, call.envelope.len())) {
            bytes += call.envelope.len();
            self.bytes -= call.envelope.len() + CALL_BYTES;
            frame.calls.push(call);
        }
        metrics::peer_frame_sent();
        frame
    }
}
