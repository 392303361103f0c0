//! Several appends to one follower under way at once.
//!
//! ```text
//!   openraft's requests ──▶ at most APPENDS_MAX under way, started in order ──▶ results, in order ──▶ openraft
//! ```
//!
//! A follower syncs what arrives together, so entries need not wait for the round trip of those before them.
//!
//! **Invariant.** A peer that cannot be reached costs one request taken from openraft's stream (rule G7): its pause between
//! attempts happens before it hands over the next one. So a link takes one request at first and the next ones only once
//! the peer has answered; after a failure it starts over. A failure ends the stream, and what was sent after it is
//! forgotten: openraft sends it again from what is known to match.
//!
//! A lane keeps the order of what travels on it, but a lane that broke and came back may deliver the last of the old
//! connection after the first of the new one. The follower then finds a gap that is none, and says *conflict* about a log
//! id that it has confirmed meanwhile. Openraft would take that for a log that was lost: it is told of a failed call.

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
