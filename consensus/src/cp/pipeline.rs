//! Several appends to one follower under way at once.
//!
//! ```text
//!   openraft's requests ──▶ at most APPENDS_MAX under way, started in order ──▶ results, in order ──▶ openraft
//! ```
//!
//! A follower syncs what arrives together, so entries need not wait for the round trip of those before them. The news
//! that something was committed has no entries of its own. Where entries follow each other closely it waits for the
//! next ones and rides along, which halves the messages of a busy shard; where they do not, it is sent at once.
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
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, sleep_until};

/// Appends under way to one follower.
pub(crate) const APPENDS_MAX: usize = 8;

/// How long the news of a commit may wait for entries to ride along with. Followers of a busy shard answer reads that
/// name a position, or an age, later by at most this much.
const COMMIT_HELD_MAX: Duration = Duration::from_millis(20);

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
    /// Up to where this stream has sent entries; `None` = nothing was sent yet.
    sent: Option<Option<LogId>>,
    /// How closely entries follow each other.
    pace: Pace,
    /// The newest commit that the follower was not told of, and until when it is held back.
    held: Option<(AppendEntriesRequest<Types>, Instant)>,
}

impl<'s, S, F> Pipeline<'s, S, F>
where
    S: futures::Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 's,
    F: Fn(AppendEntriesRequest<Types>) -> BoxFuture<'static, Answer> + Send + 's,
{
    pub(crate) fn new(input: S, is_answering: &'s mut bool, send: F) -> Self {
        Pipeline {
            input: Some(input),
            send,
            under_way: FuturesOrdered::new(),
            is_answering,
            matching: None,
            sent: None,
            pace: Pace::default(),
            held: None,
        }
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
                    Some(request) => self.start_or_hold(request),
                    None => {
                        self.input = None;
                        self.release();
                    }
                },
                () = until(self.held.as_ref()), if has_room && self.held.is_some() => self.release(),
                else => return None,
            }
        }
    }

    /// Holds back what brings nothing but a commit index to a follower that was sent everything before, if entries can
    /// be expected soon. What takes its place tells the same, and its answer is all that openraft waits for.
    fn start_or_hold(&mut self, request: AppendEntriesRequest<Types>) {
        let tells_only_of_a_commit = request.entries.is_empty() && self.sent == Some(request.prev_log_id);
        match self.pace.patience().filter(|_| tells_only_of_a_commit) {
            Some(patience) => {
                let until = self.held.take().map_or_else(|| Instant::now() + patience, |(_, until)| until);
                self.held = Some((request, until));
            }
            None => self.start(request),
        }
    }

    fn release(&mut self) {
        if let Some((request, _)) = self.held.take() {
            self.start(request);
        }
    }

    fn start(&mut self, request: AppendEntriesRequest<Types>) {
        // A later request knows of every commit an earlier one knew of.
        self.held = None;
        if !request.entries.is_empty() {
            self.pace.entries_leave();
        }
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        self.sent = Some(last);
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
        self.held = None;
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

/// How closely entries follow each other on one stream, smoothed.
#[derive(Default)]
struct Pace {
    last: Option<Instant>,
    gap: Option<Duration>,
}

impl Pace {
    fn entries_leave(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            // One long rest is forgotten after a few quick entries.
            let gap = now.duration_since(last).min(2 * COMMIT_HELD_MAX);
            self.gap = Some(self.gap.map_or(gap, |smoothed| (3 * smoothed + gap) / 4));
        }
    }

    /// How long to wait for the next entries; `None` = they are not expected soon.
    fn patience(&self) -> Option<Duration> {
        self.gap.filter(|gap| *gap <= COMMIT_HELD_MAX).map(|gap| (2 * gap).min(COMMIT_HELD_MAX))
    }
}

/// Until a held request has waited long enough; for ever if there is none.
async fn until(held: Option<&(AppendEntriesRequest<Types>, Instant)>) {
    match held {
        Some((_, until)) => sleep_until(*until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cp::types::{Entry, Vote};
    use futures::FutureExt as _;
    use openraft::raft::StreamAppendError;
    use parking_lot::Mutex;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
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

    /// One entry at `index`, with a commit index.
    fn entry(index: u64, commit: u64) -> AppendEntriesRequest<Types> {
        let entries = vec![Entry { log_id: log_id(index), payload: openraft::EntryPayload::Blank }];
        AppendEntriesRequest { entries, ..news(index - 1, commit) }
    }

    /// Nothing but a commit index, after entries up to `index`.
    fn news(index: u64, commit: u64) -> AppendEntriesRequest<Types> {
        AppendEntriesRequest { leader_commit: Some(log_id(commit)), ..request(index) }
    }

    /// What is sent, and when, if requests come after these pauses in milliseconds.
    async fn sent(requests: Vec<(u64, AppendEntriesRequest<Types>)>) -> Vec<(u64, usize, u64)> {
        let began = Instant::now();
        let input = futures::stream::iter(requests).then(|(pause, request)| async move {
            sleep(Duration::from_millis(pause)).await;
            request
        });
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&told);
        let send = move |request: AppendEntriesRequest<Types>| {
            let commit = request.leader_commit.map_or(0, |commit| commit.index);
            log.lock().push((began.elapsed().as_millis() as u64, request.entries.len(), commit));
            async { Ok(AppendEntriesResponse::Success) }.boxed()
        };
        let mut is_answering = true;
        let results = Pipeline::new(Box::pin(input), &mut is_answering, send).results();
        assert!(results.collect::<Vec<_>>().await.iter().all(Result::is_ok));
        std::mem::take(&mut *told.lock())
    }

    #[tokio::test(start_paused = true)]
    async fn the_news_of_a_commit_rides_with_entries_that_follow_closely() {
        let told =
            sent(vec![(0, entry(1, 0)), (4, entry(2, 0)), (1, news(2, 1)), (3, entry(3, 1)), (1, news(3, 2))]).await;
        assert_eq!(told, [(0, 1, 0), (4, 1, 0), (8, 1, 1), (9, 0, 2)], "the last one goes when nothing can follow");
    }

    #[tokio::test(start_paused = true)]
    async fn the_news_of_a_commit_waits_only_a_moment() {
        let news = vec![(0, entry(1, 0)), (4, entry(2, 0)), (1, news(2, 1)), (6, news(2, 2)), (90, entry(3, 2))];
        assert_eq!(sent(news).await, [(0, 1, 0), (4, 1, 0), (13, 0, 2), (101, 1, 2)], "counted from the first");
    }

    #[tokio::test(start_paused = true)]
    async fn the_news_of_a_commit_of_a_quiet_shard_is_told_at_once() {
        let mut requests = vec![(0, entry(1, 0)), (1, news(1, 1)), (500, entry(2, 1)), (1, news(2, 2))];
        let told = sent(requests.clone()).await;
        assert_eq!(told, [(0, 1, 0), (1, 0, 1), (501, 1, 1), (502, 0, 2)]);
        // It is busy again after a few entries.
        requests.extend((3..=6).map(|index| (2, entry(index, 2))));
        requests.extend([(1, news(6, 6)), (2, entry(7, 6))]);
        assert_eq!(sent(requests).await[8..], [(513, 1, 6)]);
    }

    /// A follower whose log is not known yet is asked at once.
    #[tokio::test(start_paused = true)]
    async fn a_question_is_not_held_back() {
        let told = sent(vec![(0, news(5, 3)), (50, news(4, 3))]).await;
        assert_eq!(told, [(0, 0, 3), (50, 0, 3)]);
    }
}
