//! Gets: one key, at a level.

use crate::{
    error::ClientError,
    failure::Failure,
    framed,
    inner::Inner,
    map::Target,
    operation::check_key,
    reply::{Delivered, Entry, GetReply, delivered_from, entry_from, level_to_proto, mismatched},
    retry::{Call, Repeat, Sending, run},
    routing::Route,
    session::Memory,
    write::timed,
};
use bytes::Bytes;
use kvorum_api::{
    Effect, ReadLevel, Refused,
    frame::{Body, Outcome},
    proto,
};
use std::{future::IntoFuture, pin::Pin, sync::Arc, time::Duration};

/// What every read of one keyspace shares.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) inner: Arc<Inner>,
    pub(crate) keyspace: Arc<str>,
    pub(crate) timeout: Duration,
    pub(crate) level: Option<ReadLevel>,
    pub(crate) session: Option<Arc<Memory>>,
    /// Of the handle itself, for a keyspace that is read at level `session` unless said otherwise.
    pub(crate) own: Arc<Memory>,
}

impl Reading {
    /// The level one attempt asks for.
    pub(crate) fn level_sent(&self, elapsed: Duration) -> Option<ReadLevel> {
        self.level.map(|level| level_after(level, elapsed))
    }

    /// What the session has seen, for the levels that ask.
    pub(crate) fn session_token(&self, sending: &Sending) -> Bytes {
        let aim = sending.aim.as_ref();
        match &self.session {
            Some(session) => session.for_read(aim),
            None if self.level.is_some() => Bytes::new(),
            None => self.memory().map_or_else(Bytes::new, |own| own.for_read_anew(aim)),
        }
    }

    /// A read of level `session` is one of a session, or it promises nothing.
    pub(crate) fn check(&self) -> Result<(), Refused> {
        if self.level != Some(ReadLevel::Session) || self.session.is_some() {
            return Ok(());
        }
        let problem = "session is the level of a session: read through Keyspace::session() or Session::from_token()";
        Err(Refused::Malformed { field: "level", problem: problem.to_owned() })
    }

    /// Takes note of an answer, and says in its receipt what the call asked for.
    pub(crate) fn answered(&self, target: &Target, delivered: &mut Delivered, node: &str) {
        let nodes = &self.inner.nodes;
        let is_map_right = nodes.saw(&self.keyspace, delivered, self.memory());
        if is_map_right && matches!(delivered.receipt.level, Some(ReadLevel::Linearizable)) {
            nodes.maps.learn_leader(&self.keyspace, target, node);
        }
        if let (Some(ReadLevel::Bounded(_)), Some(asked @ ReadLevel::Bounded(_))) =
            (delivered.receipt.level, self.level)
        {
            delivered.receipt.level = Some(asked);
        }
    }

    /// What the answers are noted in, and reads of level `session` go by.
    fn memory(&self) -> Option<&Memory> {
        self.inner.nodes.memory(&self.keyspace, self.session.as_ref(), &self.own)
    }
}

/// What a level means `elapsed` after the call was first sent.
///
/// `bounded(b)` promises the newest state at some moment no earlier than *b* before the request was sent, on the
/// asker's clock (R1). For a call first sent at *t*, any state as of *t − b* or later will do. A server that is asked
/// at *t + e* for `bounded(b')` proves a state as of *t + e − b'* or later; that is enough if *b' ≤ b + e*. So a
/// repeated call may ask for *b + e* and no more; rounded down to milliseconds, it never asks for more.
fn level_after(level: ReadLevel, elapsed: Duration) -> ReadLevel {
    match level {
        ReadLevel::Bounded(bound) => {
            let whole = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            ReadLevel::Bounded(Duration::from_millis(whole(bound).saturating_add(whole(elapsed))))
        }
        other => other,
    }
}

/// A get that has not been sent: set its options, then `.await` it.
#[must_use = "a get is sent when it is awaited"]
#[derive(Debug)]
pub struct Get {
    pub(crate) reading: Reading,
    pub(crate) target: Target,
    pub(crate) key: Bytes,
}

impl Get {
    pub(crate) fn new(reading: Reading, key: Bytes) -> Self {
        Get { reading, target: Target::Key(key.clone()), key }
    }

    /// How fresh the answer must be.
    pub fn level(mut self, level: ReadLevel) -> Self {
        self.reading.level = Some(level);
        self
    }

    /// Total time over all attempts.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.reading.timeout = timeout;
        self
    }
}

impl Call for Get {
    type Reply = (Delivered, Option<Entry>);

    fn keyspace(&self) -> &Arc<str> {
        &self.reading.keyspace
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn route(&self, default: Option<ReadLevel>) -> Route {
        Route::of(self.reading.level.or(default))
    }

    fn repeat(&self) -> Repeat {
        Repeat::Freely
    }

    fn bytes(&self) -> usize {
        self.key.len()
    }

    fn session_token(&self, sending: &Sending) -> Bytes {
        self.reading.session_token(sending)
    }

    fn is_framed(&self) -> bool {
        true
    }

    fn framed(&self, sending: &Sending) -> Option<Body> {
        Some(Body::Get { key: self.key.clone(), level: self.reading.level_sent(sending.elapsed) })
    }

    fn unframed(&self, outcome: Outcome, node: &str) -> Result<Self::Reply, Failure> {
        match outcome {
            Outcome::Found { delivered, entry } => {
                Ok((delivered.into(), entry.map(|entry| framed::entry(&self.key, entry))))
            }
            Outcome::Written { .. } | Outcome::Failed(_) => Err(mismatched(node)),
        }
    }

    async fn send(&self, inner: &Inner, sending: &Sending) -> Result<Self::Reply, Failure> {
        let header = inner.header(&self.reading.keyspace, sending.epoch(), self.session_token(sending));
        let level = Some(level_to_proto(self.reading.level_sent(sending.elapsed)));
        let request = proto::GetRequest { header: Some(header), key: self.key.clone(), level };
        let node = &*sending.node.address;
        let reply = sending.node.kv().get(timed(request, sending.budget)).await;
        let reply = reply.map_err(|status| Failure::from_status(&status, node))?.into_inner();
        Ok((delivered_from(reply.receipt, node)?, reply.entry.map(entry_from)))
    }
}

impl IntoFuture for Get {
    type Output = Result<GetReply, ClientError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            check_key(&self.key)?;
            self.reading.check()?;
            let answered = run(&self.reading.inner, &self, self.reading.timeout).await;
            let answered = answered.map_err(|lost| Failure { effect: Effect::None, ..lost.failure })?;
            let (mut delivered, entry) = answered.reply;
            self.reading.answered(&self.target, &mut delivered, &answered.node);
            Ok(GetReply { entry, receipt: delivered.receipt })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_other_levels_mean_the_same_later() {
        for level in [ReadLevel::Linearizable, ReadLevel::Session, ReadLevel::Local] {
            assert_eq!(level_after(level, Duration::from_secs(9)), level);
        }
    }

    proptest! {
        /// R1: what a repeated call is answered is never older than what its first sending asked for.
        #[test]
        fn a_repeated_bounded_read_never_asks_for_something_older(
            bound_ms in 0..10_000_u64, elapsed_micros in 0..60_000_000_u64, more_micros in 0..1_000_000_u64,
        ) {
            let (bound, elapsed) = (Duration::from_millis(bound_ms), Duration::from_micros(elapsed_micros));
            let first_sent = Duration::from_secs(100);
            let asked = |elapsed| match level_after(ReadLevel::Bounded(bound), elapsed) {
                ReadLevel::Bounded(bound) => bound,
                other => panic!("{other}"),
            };
            // The server proves a state as of this moment, on the asker's clock.
            let proven = first_sent + elapsed - asked(elapsed);
            prop_assert!(proven >= first_sent - bound);
            prop_assert!(proven < first_sent - bound + Duration::from_millis(1), "it asks for no more than it needs");
            prop_assert!(asked(elapsed + Duration::from_micros(more_micros)) >= asked(elapsed));
        }
    }
}
