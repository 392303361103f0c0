//! Calls of one lane between the caller and the wire.
//!
//! ```text
//!   call ──▶ queue ──▶ frame after frame, as the connection takes them ──▶ wire
//!     ▲                                                                     │
//!     └──────────── waits by id ◀── answers, in any order ◀─────────────────┘
//! ```
//!
//! The connection asks for the next frame when it can take one; what has queued since the last rides it, and what
//! everything else that is ready to run adds. No timer.
//!
//! **Invariant.** Whoever waits is told: by an answer, or because the connection broke. A call that is given up leaves
//! nothing behind, sent or not. The queue is bounded in bytes: while a peer does not read, calls beyond are refused.

use crate::{
    metrics,
    rpc::ENVELOPE_BYTES_MAX,
    rpc::lane::{ENVELOPES_BYTES_PER_FRAME, fits_frame},
};
use bytes::Bytes;
use futures::Stream;
use kvorum_api::proto::{LaneCall, LaneFrame};
use kvorum_consensus::gather::Gather;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

/// Bytes that may wait to be sent to one peer on one lane. The largest envelope fits.
pub(super) const QUEUE_BYTES_MAX: usize = 64 << 20;

/// What a waiting call costs besides its envelope.
const CALL_BYTES: usize = 128;

/// An answer, or why there is none.
type Told = Result<Bytes, String>;

/// The calls of one lane.
pub(super) struct Calls {
    state: Mutex<State>,
    has_queued: Notify,
    /// Whether frames wait a few turns for company; heartbeats and votes do not.
    gathers: bool,
}

#[derive(Default)]
struct State {
    last_id: u64,
    queued: BTreeMap<u64, Bytes>,
    queued_bytes: usize,
    waiting: BTreeMap<u64, oneshot::Sender<Told>>,
    /// Which connection calls leave on: frames of a former one end.
    connection: u64,
    /// Of the connection that found nothing queued.
    taker: Option<Waker>,
    /// Until when nobody tries to connect, and why.
    resting: Option<(Instant, String)>,
}

impl Calls {
    pub(super) fn new(gathers: bool) -> Self {
        Calls { state: Mutex::default(), has_queued: Notify::new(), gathers }
    }

    /// Queues one envelope.
    pub(super) fn add(self: &Arc<Self>, envelope: Bytes) -> Result<Call, String> {
        if envelope.len() > ENVELOPE_BYTES_MAX {
            return Err(format!("{} bytes are more than an envelope has ({ENVELOPE_BYTES_MAX})", envelope.len()));
        }
        let mut state = self.state.lock();
        if let Some((until, why)) = &state.resting
            && Instant::now() < *until
        {
            return Err(why.clone());
        }
        let bytes = envelope.len() + CALL_BYTES;
        if state.queued_bytes > 0 && state.queued_bytes + bytes > QUEUE_BYTES_MAX {
            return Err(format!("it does not read: {} bytes wait for it", state.queued_bytes));
        }
        let (told, answer) = oneshot::channel();
        state.last_id += 1;
        let id = state.last_id;
        state.queued_bytes += bytes;
        state.queued.insert(id, envelope);
        state.waiting.insert(id, told);
        let taker = state.taker.take();
        drop(state);
        match taker {
            Some(taker) => taker.wake(),
            None => self.has_queued.notify_one(),
        }
        Ok(Call { calls: Arc::clone(self), id, answer })
    }

    /// Waits until a connection is worth making.
    pub(super) async fn wanted(&self) {
        while self.state.lock().queued.is_empty() {
            self.has_queued.notified().await;
        }
    }

    /// What a new connection sends.
    pub(super) fn frames(self: &Arc<Self>) -> Frames {
        let mut state = self.state.lock();
        state.connection += 1;
        Frames { calls: Arc::clone(self), connection: state.connection, gather: Gather::default() }
    }

    /// Tells whoever waits for these answers.
    pub(super) fn complete(&self, frame: LaneFrame) {
        metrics::peer_frame_received();
        let mut state = self.state.lock();
        let told: Vec<_> = frame.calls.iter().map(|answer| state.waiting.remove(&answer.id)).collect();
        drop(state);
        for (answer, told) in frame.calls.into_iter().zip(told) {
            metrics::peer_received(answer.envelope.len());
            if let Some(told) = told {
                // It may be giving up this very moment.
                let _ = told.send(Ok(answer.envelope));
            }
        }
    }

    /// Tells everybody that there is no connection any more, and whoever comes before `rest_until`.
    pub(super) fn fail(&self, why: &str, rest_until: Option<Instant>) {
        let mut state = self.state.lock();
        state.connection += 1;
        state.queued.clear();
        state.queued_bytes = 0;
        state.resting = rest_until.map(|until| (until, why.to_owned()));
        let waiting = std::mem::take(&mut state.waiting);
        let taker = state.taker.take();
        drop(state);
        if let Some(taker) = taker {
            taker.wake();
        }
        for told in waiting.into_values() {
            let _ = told.send(Err(why.to_owned()));
        }
    }

    fn forget(&self, id: u64) {
        let mut state = self.state.lock();
        state.waiting.remove(&id);
        if let Some(envelope) = state.queued.remove(&id) {
            state.queued_bytes -= envelope.len() + CALL_BYTES;
        }
    }
}

/// One call, until it is answered or dropped.
pub(super) struct Call {
    calls: Arc<Calls>,
    id: u64,
    answer: oneshot::Receiver<Told>,
}

impl Call {
    pub(super) async fn answer(&mut self) -> Told {
        (&mut self.answer).await.unwrap_or_else(|_| Err("the lane is gone".to_owned()))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.forget(self.id);
    }
}

/// What one connection sends: whatever is queued when it asks.
pub(super) struct Frames {
    calls: Arc<Calls>,
    connection: u64,
    gather: Gather,
}

impl Stream for Frames {
    type Item = LaneFrame;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<LaneFrame>> {
        let me = self.get_mut();
        let mut state = me.calls.state.lock();
        if state.connection != me.connection {
            return Poll::Ready(None);
        }
        let is_full = state.queued_bytes >= ENVELOPES_BYTES_PER_FRAME;
        if me.calls.gathers && !is_full && me.gather.waits(state.queued.len()) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut frame = LaneFrame { calls: Vec::new() };
        let mut bytes = 0;
        while let Some((id, envelope)) = state.queued.pop_first() {
            if !fits_frame(bytes, envelope.len()) {
                state.queued.insert(id, envelope);
                break;
            }
            bytes += envelope.len();
            state.queued_bytes -= envelope.len() + CALL_BYTES;
            metrics::peer_sent(envelope.len());
            frame.calls.push(LaneCall { id, envelope });
            if bytes >= ENVELOPES_BYTES_PER_FRAME {
                break;
            }
        }
        if frame.calls.is_empty() {
            state.taker = Some(context.waker().clone());
            return Poll::Pending;
        }
        me.gather.went(frame.calls.len());
        metrics::peer_frame_sent();
        Poll::Ready(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, StreamExt as _};
    use kvorum_storage::spoil::raw_and_spoiled;
    use prost::Message as _;
    use std::time::Duration;
    use tokio::time::timeout;

    /// The next frame, woken as often as it asks for it.
    async fn next(frames: &mut Frames) -> Option<Vec<u64>> {
        let frame = timeout(Duration::from_millis(50), frames.next()).await.ok()?;
        Some(frame.expect("the connection goes on").calls.iter().map(|call| call.id).collect())
    }

    /// Natural batching: what queues while a frame is on the wire rides the next.
    #[tokio::test]
    async fn what_queues_between_two_frames_shares_one() {
        let calls = Arc::new(Calls::new(true));
        let mut frames = calls.frames();
        let _first = calls.add(Bytes::from_static(b"a")).unwrap();
        assert_eq!(next(&mut frames).await, Some(vec![1]));
        let _kept: Vec<_> = (0..1_000).map(|_| calls.add(Bytes::from_static(b"b")).unwrap()).collect();
        assert_eq!(next(&mut frames).await, Some((2..=1_001).collect()));
        assert_eq!(next(&mut frames).await, None, "nothing is queued");
    }

    #[tokio::test]
    async fn a_frame_holds_a_mebibyte_and_a_larger_envelope_travels_alone() {
        let calls = Arc::new(Calls::new(true));
        let mut frames = calls.frames();
        let sizes = [10, 600 << 10, 600 << 10, 5 << 20, 10, 10];
        let _kept: Vec<_> = sizes.map(|bytes| calls.add(Bytes::from(vec![0; bytes])).unwrap()).into();
        for expected in [&[1, 2][..], &[3], &[4], &[5, 6]] {
            assert_eq!(next(&mut frames).await.as_deref(), Some(expected));
        }
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_is_not_sent() {
        let calls = Arc::new(Calls::new(true));
        let mut frames = calls.frames();
        let kept = calls.add(Bytes::from_static(b"kept")).unwrap();
        drop(calls.add(Bytes::from_static(b"given up")).unwrap());
        assert_eq!(next(&mut frames).await, Some(vec![kept.id]));
        drop(kept);
        let state = calls.state.lock();
        assert!(state.queued.is_empty() && state.waiting.is_empty() && state.queued_bytes == 0);
    }

    #[tokio::test]
    async fn a_broken_connection_sends_nothing_of_what_comes_after_it() {
        let calls = Arc::new(Calls::new(true));
        let mut old = calls.frames();
        let mut lost = calls.add(Bytes::from_static(b"lost")).unwrap();
        calls.fail("it broke", None);
        assert_eq!(lost.answer().await, Err("it broke".to_owned()));
        let _kept = calls.add(Bytes::from_static(b"later")).unwrap();
        assert!(old.next().now_or_never().unwrap().is_none(), "the old one ends");
        assert_eq!(next(&mut calls.frames()).await, Some(vec![2]));
    }

    /// A frame from the wire tells those who wait what it says, once, and nobody else.
    #[test]
    fn fuzz_any_frame_is_refused_or_tells_those_it_names() {
        let answers = [(1, &b"one"[..]), (3, b"three"), (3, b"again"), (9, b"nobody")];
        let answers = answers.map(|(id, envelope)| LaneCall { id, envelope: Bytes::from_static(envelope) });
        let sound = LaneFrame { calls: answers.into() }.encode_to_vec();
        bolero::check!().with_iterations(2_000).with_max_len(100).for_each(|input: &[u8]| {
            for bytes in raw_and_spoiled(&sound, input) {
                let Ok(frame) = LaneFrame::decode(bytes) else { continue };
                let calls = Arc::new(Calls::new(true));
                let mut waiting: Vec<Call> = (0..4).map(|_| calls.add(Bytes::new()).unwrap()).collect();
                calls.complete(frame.clone());
                for call in &mut waiting {
                    let told = call.answer().now_or_never();
                    let named = frame.calls.iter().find(|answer| answer.id == call.id);
                    assert_eq!(told, named.map(|answer| Ok(answer.envelope.clone())), "call {}", call.id);
                }
            }
        });
    }

    #[tokio::test]
    async fn while_a_lane_rests_calls_fail_at_once() {
        let calls = Arc::new(Calls::new(true));
        calls.fail("refused", Some(Instant::now() + Duration::from_secs(3_600)));
        assert_eq!(calls.add(Bytes::new()).err(), Some("refused".to_owned()));
        calls.fail("refused", Some(Instant::now()));
        assert!(calls.add(Bytes::new()).is_ok());
    }
}
