//! Several appends to one follower under way at once.
//!
//! ```text
//!   openraft's requests ──▶ at most APPENDS_MAX under way, started in order ──▶ results, in order ──▶ openraft
//! ```
//!
//! A follower syncs what arrives together, so entries need not wait for the round trip of those before them.
//!
//! **Invariant.** A peer that cannot be reached costs one request taken from openraft's stream (rule G7): its pause
//! between attempts happens before it hands over the next one. So a link takes one request at first and the next ones
//! only once the peer has answered; after a failure it starts over. A failure ends the stream, and what was sent after
//! it is forgotten: openraft sends it again from what is known to match.
//!
//! A lane keeps the order of what travels on it, but a lane that broke and came back may deliver the last of the old
//! connection after the first of the new one. The follower then finds a gap that is none, and says *conflict* about a
//! log id that it has confirmed meanwhile. Openraft would take that for a log that was lost: it is told of a failed
//! call.

use super::types::{LogId, Types};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use openraft::{
    errors::{NetworkError, RPCError, Unreachable},
    raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult},
};
use thiserror::Error;

/// Appends under way to one follower.
pub(crate) const APPENDS_MAX: usize = 8;

/// What became of one append.
type Answer = Result<AppendEntriesResponse<Types>, RPCError<Types>>;

/// One append under way, and what it carries.
struct Sent {
    prev: Option<LogId>,
    last: Option<LogId>,
    answer: Answer,
}

/// The answer speaks of a moment before the answers to earlier requests.
#[derive(Debug, Error)]
#[error("an append was overtaken by the ones after it")]
struct Overtaken;

/// The answer cannot be one to this request.
#[derive(Debug, Error)]
#[error("the peer finds a conflict before the first entry")]
struct Impossible;

/// A stream of appends to one follower.
pub(crate) struct Pipeline<'s, S, F> {
    input: Option<S>,
    send: F,
    under_way: FuturesOrdered<BoxFuture<'static, Sent>>,
    /// Whether the peer answered last: kept by the link from one stream to the next.
    is_answering: &'s mut bool,
    /// What this stream knows to match.
    matching: Option<LogId>,
}

impl<'s, S, F> Pipeline<'s, S, F>
where
    S: futures::Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 's,
    F: Fn(AppendEntriesRequest<Types>) -> BoxFuture<'static, Answer> + Send + 's,
{
    pub(crate) fn new(input: S, is_answering: &'s mut bool, send: F) -> Self {
        Pipeline { input: Some(input), send, under_way: FuturesOrdered::new(), is_answering, matching: None }
    }

    /// Its results, as openraft wants them.
    pub(crate) fn results(
        self,
    ) -> impl futures::Stream<Item = Result<StreamAppendResult<Types>, RPCError<Types>>> + Send + 's {
        futures::stream::unfold(self, |mut pipeline| async move {
            let result = pipeline.next().await?;
            Some((result, pipeline))
        })
    }

    async fn next(&mut self) -> Option<Result<StreamAppendResult<Types>, RPCError<Types>>> {
        loop {
            let room = if *self.is_answering { APPENDS_MAX } else { 1 };
            let has_room = self.under_way.len() < room;
            tokio::select! {
                // Answers first: looking for them is what starts the requests taken so far, in their order.
                biased;
                Some(sent) = self.under_way.next() => return Some(self.judge(sent)),
                request = next_of(&mut self.input), if has_room && self.input.is_some() => match request {
                    Some(request) => self.start(request),
                    None => self.input = None,
                },
                else => return None,
            }
        }
    }

    fn start(&mut self, request: AppendEntriesRequest<Types>) {
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let answer = (self.send)(request);
        self.under_way.push_back(Box::pin(async move { Sent { prev, last, answer: answer.await } }));
    }

    fn judge(&mut self, sent: Sent) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
        let answer = match sent.answer {
            Ok(AppendEntriesResponse::Conflict) if sent.prev.is_none() => {
                Err(RPCError::Unreachable(Unreachable::new(&Impossible)))
            }
            Ok(AppendEntriesResponse::Conflict) if sent.prev <= self.matching => {
                Err(RPCError::Network(NetworkError::new(&Overtaken)))
            }
            answer => answer,
        };
        *self.is_answering = answer.is_ok();
        match answer {
            Ok(AppendEntriesResponse::Success) => self.matching = self.matching.max(sent.last),
            Ok(AppendEntriesResponse::PartialSuccess(log_id)) if log_id == sent.last => {
                self.matching = self.matching.max(log_id);
            }
            // What follows the part that was taken cannot be taken either.
            Ok(AppendEntriesResponse::PartialSuccess(_)) => self.end(),
            Ok(AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_)) | Err(_) => self.end(),
        }
        answer.map(|response| response.into_stream_result(sent.prev, sent.last))
    }

    fn end(&mut self) {
        self.input = None;
        self.under_way.clear();
    }
}

/// The next request; never asked once the input is gone.
async fn next_of<S: futures::Stream + Unpin>(input: &mut Option<S>) -> Option<S::Item> {
    match input {
        Some(input) => input.next().await,
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cp::types::Vote;
    use futures::FutureExt as _;
    use openraft::raft::StreamAppendError;
    use parking_lot::Mutex;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };
    use tokio::time::sleep;

    const ROUND_TRIP: Duration = Duration::from_millis(50);

    fn log_id(index: u64) -> LogId {
        LogId::new_term_index(1, index)
    }

    /// Asks whether the follower has everything up to `index`.
    fn request(index: u64) -> AppendEntriesRequest<Types> {
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(index)),
            entries: Vec::new(),
            leader_commit: None,
        }
    }

    fn lost() -> RPCError<Types> {
        RPCError::Unreachable(Unreachable::new(&Impossible))
    }

    /// Requests 1 to `count`, and how many of them were taken.
    fn input(
        count: u64,
    ) -> (impl futures::Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&taken);
        let requests = futures::stream::iter(1..=count).map(move |index| {
            counter.fetch_add(1, Ordering::SeqCst);
            request(index)
        });
        (requests, taken)
    }

    /// Runs a stream to its end against a peer that answers each request after a round trip.
    async fn run(
        count: u64,
        is_answering: &mut bool,
        answer: impl Fn(u64) -> Answer + Send + Sync + 'static,
    ) -> (Vec<Result<StreamAppendResult<Types>, RPCError<Types>>>, usize, usize) {
        let (input, taken) = input(count);
        let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (highest, answer) = (Arc::clone(&most), Arc::new(answer));
        let send = move |request: AppendEntriesRequest<Types>| {
            let (under_way, highest, answer) = (Arc::clone(&under_way), Arc::clone(&highest), Arc::clone(&answer));
            async move {
                highest.fetch_max(1 + under_way.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                let index = request.prev_log_id.map_or(0, |log_id| log_id.index);
                // Later ones are answered first.
                sleep(ROUND_TRIP - Duration::from_millis(index % 8)).await;
                under_way.fetch_sub(1, Ordering::SeqCst);
                answer(index)
            }
            .boxed()
        };
        let results: Vec<_> = Pipeline::new(input, is_answering, send).results().collect().await;
        (results, taken.load(Ordering::SeqCst), most.load(Ordering::SeqCst))
    }

    #[tokio::test(start_paused = true)]
    async fn several_are_under_way_and_their_results_keep_the_order() {
        let began = tokio::time::Instant::now();
        let (results, taken, most) = run(80, &mut true, |_| Ok(AppendEntriesResponse::Success)).await;
        let confirmed: Vec<_> = results.into_iter().map(|result| result.unwrap().unwrap().unwrap().index).collect();
        assert_eq!(confirmed, (1..=80).collect::<Vec<_>>());
        assert_eq!((taken, most), (80, APPENDS_MAX));
        assert!(began.elapsed() <= ROUND_TRIP * 11, "80 took {:?}", began.elapsed());
    }

    /// Rule G7.
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_cannot_be_reached_costs_one_request() {
        let mut is_answering = false;
        for _ in 0..3 {
            let (results, taken, _) = run(80, &mut is_answering, |_| Err(lost())).await;
            assert!(matches!(results[..], [Err(RPCError::Unreachable(_))]));
            assert_eq!(taken, 1);
        }
        let (_, _, most) = run(80, &mut is_answering, |_| Ok(AppendEntriesResponse::Success)).await;
        assert_eq!(most, APPENDS_MAX, "it is back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_ends_the_stream_and_what_was_sent_after_it_is_forgotten() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, heard) = (Arc::clone(&asked), Arc::clone(&asked));
        let mut is_answering = true;
        let (results, _, _) = run(80, &mut is_answering, move |index| {
            answer.lock().push(index);
            if index == 5 { Err(lost()) } else { Ok(AppendEntriesResponse::Success) }
        })
        .await;
        assert_eq!(results.len(), 5);
        assert!(results[..4].iter().all(Result::is_ok) && results[4].is_err());
        assert!(!is_answering);
        assert!(heard.lock().len() < 20, "the rest is not sent");
    }

    /// Openraft takes a conflict about what is confirmed for a log that was lost.
    #[tokio::test(start_paused = true)]
    async fn an_overtaken_append_is_a_failed_call_and_no_conflict() {
        let overtaken = Arc::new(AtomicUsize::new(0));
        let (results, _, _) = run(8, &mut true, move |_| {
            // Everything is asked about what the first one has confirmed.
            match overtaken.fetch_add(1, Ordering::SeqCst) {
                0 => Ok(AppendEntriesResponse::Conflict),
                _ => Ok(AppendEntriesResponse::Success),
            }
        })
        .await;
        // The answer to the seventh, which comes first, is a conflict about more than is confirmed: a real one.
        let last = results.last().unwrap();
        assert!(matches!(last, Ok(Err(StreamAppendError::Conflict(found))) if found.index == 7), "{results:?}");

        let (input, _) = input(0);
        let send = |_| -> BoxFuture<'static, Answer> { std::future::pending().boxed() };
        let mut is_answering = true;
        let mut pipeline = Pipeline::new(input, &mut is_answering, send);
        let sent = |index, answer| Sent { prev: Some(log_id(index)), last: Some(log_id(index)), answer: Ok(answer) };
        assert!(pipeline.judge(sent(7, AppendEntriesResponse::Success)).is_ok());
        let judged = pipeline.judge(sent(7, AppendEntriesResponse::Conflict));
        assert!(matches!(judged, Err(RPCError::Network(_))), "{judged:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_real_conflict_is_reported_and_ends_the_stream() {
        let (results, _, _) = run(80, &mut true, |_| Ok(AppendEntriesResponse::Conflict)).await;
        assert!(matches!(&results[..], [Ok(Err(StreamAppendError::Conflict(found)))] if found.index == 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_before_the_first_entry_is_nonsense() {
        let (input, _) = input(0);
        let send = |_| -> BoxFuture<'static, Answer> { std::future::pending().boxed() };
        let mut is_answering = true;
        let mut pipeline = Pipeline::new(input, &mut is_answering, send);
        let sent = Sent { prev: None, last: None, answer: Ok(AppendEntriesResponse::Conflict) };
        assert!(matches!(pipeline.judge(sent), Err(RPCError::Unreachable(_))));
    }
}
