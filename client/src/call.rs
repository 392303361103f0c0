//! One write on its way: its ticket, its id, and what is sent again under it.
//!
//! ```text
//!   ticket + id ─▶ retry::run ─▶ outcome                 ticket settled: the floor of its shard may rise
//!                       └─▶ UnknownWrite { call }        retry() keeps the id
//! ```
//!
//! **Invariant (I2).** The ticket lives as long as the write may be sent again: in the future, then in the handle.

use crate::{
    error::{ClientError, NotApplied},
    failure::Failure,
    framed,
    inner::Inner,
    map::Target,
    maps::Aim,
    progress::Lost,
    reply::{WriteAnswer, Written, mismatched, written_from},
    request_id::RequestId,
    retry::{Call, Repeat, Sending, run},
    routing::Route,
    unanswered::{NoRoom, OUTCOMES_AHEAD_LIMIT, OUTCOMES_AHEAD_MAX, Ticket},
    unknown::UnknownWrite,
    write::{Body, Identity, Writing, timed},
};
use kvorum_api::{
    Effect, ReadLevel, frame,
    frame::{Outcome, RequestParts},
    proto,
};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

/// One write with its identity: what a retry sends again, unchanged but for stamp and floor.
#[derive(Debug)]
pub(crate) struct WriteCall {
    writing: Writing,
    body: Body,
    target: Target,
    /// Its sequence, drawn when it may be sent for the first time: what waits for that holds nothing back.
    ticket: OnceLock<Ticket>,
    /// The id as sent; made when the first stamp is known.
    id: parking_lot::Mutex<Option<RequestId>>,
}

impl WriteCall {
    pub(crate) fn new(writing: Writing, body: Body) -> Self {
        let id = match writing.identity {
            Identity::Given(id) => Some(id),
            Identity::Fresh | Identity::None => None,
        };
        let target = Target::Key(body.key());
        WriteCall { writing, body, target, ticket: OnceLock::new(), id: parking_lot::Mutex::new(id) }
    }

    /// A new id, under new stamps.
    pub(crate) fn renew(&mut self) {
        self.writing.inner.nodes.forget_greetings();
        self.ticket = OnceLock::new();
        *self.id.lock() = None;
    }

    /// A session that has seen another keyspace does not go on here: what it has seen would be forgotten in silence.
    fn check_session(&self, inner: &Inner, node: &str) -> Result<(), Failure> {
        let (maps, name) = (&inner.nodes.maps, &self.writing.keyspace);
        let seen = self.writing.session.as_ref().and_then(|session| session.keyspace());
        let own = maps.aim(name, &self.target).map(|aim| aim.keyspace);
        let Some((seen, own)) = seen.zip(own).filter(|(seen, own)| seen != own) else { return Ok(()) };
        Err(Failure::foreign_session(
            format!(
                "session_token is of the keyspace with number {seen}, this request is for {name} (number {own}): begin \
                 a new session"
            ),
            node,
        ))
    }

    /// Its id. A fresh one is stamped at its first sending, and never again.
    pub(crate) fn id(&self) -> Option<RequestId> {
        let mut id = self.id.lock();
        if let (None, Some(ticket)) = (*id, self.ticket.get()) {
            let first_sent = self.writing.inner.nodes.stamp();
            *id = Some(RequestId { client: self.writing.inner.client, sequence: ticket.sequence(), first_sent });
        }
        *id
    }

    /// The outer error is the lost call, the inner result what the shard answered.
    pub(crate) async fn send_until(&self, within: Duration) -> Result<Result<Written, ClientError>, Lost> {
        let inner = &self.writing.inner;
        let answered = run(inner, self, within).await?;
        self.settle();
        let WriteAnswer { delivered, applied, repeated, results } = answered.reply;
        let Writing { keyspace, session, own, .. } = &self.writing;
        if inner.nodes.saw(keyspace, &delivered, inner.nodes.memory(keyspace, session.as_ref(), own)) {
            inner.nodes.maps.learn_leader(&self.writing.keyspace, &self.target, &answered.node);
        }
        let written = Written { receipt: delivered.receipt, request_id: self.id(), repeated, results };
        Ok(if applied { Ok(written) } else { Err(ClientError::NotApplied(Box::new(NotApplied { answer: written }))) })
    }

    /// The error of a lost call. What was sent before under a given id stays in doubt.
    pub(crate) fn lost(self, lost: Lost, timeout: Duration) -> ClientError {
        let mut failure = lost.failure;
        if matches!(self.writing.identity, Identity::Given(_)) {
            failure.effect = Effect::Unknown;
        }
        let id = if failure.effect == Effect::Unknown { self.id() } else { None };
        match id {
            Some(id) => ClientError::Unknown(Box::new(UnknownWrite::new(self, id, failure, timeout))),
            None => {
                if failure.effect == Effect::None {
                    self.settle();
                }
                failure.into()
            }
        }
    }

    fn settle(&self) {
        self.ticket.get().into_iter().for_each(Ticket::settle);
    }

    async fn send_one(&self, inner: &Inner, sending: &Sending) -> Result<proto::WriteReply, Status> {
        // An id of another client says nothing about what that client still waits for: the shard forgets nothing.
        let shard = sending.aim.as_ref().map(|aim| aim.shard);
        let lowest = self.ticket.get().map_or(1, |_ticket| inner.unanswered.floor(shard).lowest);
        let header = Some(inner.header(&self.writing.keyspace, sending.epoch(), bytes::Bytes::new()));
        let request_id = self.id().map(|id| id.to_proto(lowest));
        let (mut client, budget) = (sending.node.kv(), sending.budget);
        let reply = match &self.body {
            Body::Put(put) => {
                let request = proto::PutRequest { header, request_id, put: Some(put.clone()) };
                client.put(timed(request, budget)).await?
            }
            Body::Delete(delete) => {
                let request = proto::DeleteRequest { header, request_id, delete: Some(delete.clone()) };
                client.delete(timed(request, budget)).await?
            }
            Body::Increment(increment) => {
                let increment = Some(increment.clone());
                client.increment(timed(proto::IncrementRequest { header, request_id, increment }, budget)).await?
            }
            Body::Batch(operations) => {
                let operations = operations.clone();
                client.batch(timed(proto::BatchRequest { header, request_id, operations }, budget)).await?
            }
        };
        Ok(reply.into_inner())
    }
}

impl Call for WriteCall {
    type Reply = WriteAnswer;

    fn keyspace(&self) -> &Arc<str> {
        &self.writing.keyspace
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn route(&self, _default: Option<ReadLevel>) -> Route {
        Route::Leader
    }

    fn repeat(&self) -> Repeat {
        if matches!(self.writing.identity, Identity::None) { Repeat::Never } else { Repeat::UnderItsId }
    }

    fn bytes(&self) -> usize {
        self.body.bytes()
    }

    fn aim(&self, inner: &Inner) -> Option<Aim> {
        match self.ticket.get() {
            Some(ticket) => inner.nodes.maps.aim_write(&self.writing.keyspace, &self.target, ticket),
            None => inner.nodes.maps.aim(&self.writing.keyspace, &self.target),
        }
    }

    /// I1: the shard must not forget the outcome of a write that may still be asked for.
    async fn admitted(&self, inner: &Inner, node: &str, deadline: Instant) -> Result<(), Failure> {
        self.check_session(inner, node)?;
        if !matches!(self.writing.identity, Identity::Fresh) {
            return Ok(());
        }
        while self.ticket.get().is_none() {
            match inner.nodes.maps.open_write(&self.writing.keyspace, &self.target) {
                Ok(ticket) => drop(self.ticket.set(ticket)),
                Err(NoRoom(room)) => {
                    let too_far = |_elapsed| Failure::too_far_ahead(OUTCOMES_AHEAD_LIMIT, OUTCOMES_AHEAD_MAX);
                    timeout_at(deadline, room.notified()).await.map_err(too_far)?;
                }
            }
        }
        Ok(())
    }

    fn restamp(&self) {
        if self.ticket.get().is_some() {
            *self.id.lock() = None;
        }
    }

    /// A frame names one client and one floor, and an id of elsewhere has neither.
    fn is_framed(&self) -> bool {
        !matches!(self.writing.identity, Identity::Given(_))
    }

    fn framed(&self, _sending: &Sending) -> Option<frame::Body> {
        let request = self.id().map(|id| RequestParts { sequence: id.sequence, first_sent: id.first_sent });
        let operation = match &self.body {
            Body::Put(put) => framed::put(put),
            Body::Delete(delete) => framed::delete(delete),
            Body::Increment(increment) => framed::increment(increment),
            Body::Batch(operations) => {
                let operations = operations.iter().filter_map(framed::operation).collect();
                return Some(frame::Body::Batch { request, operations });
            }
        };
        Some(frame::Body::Single { request, operation })
    }

    fn unframed(&self, outcome: Outcome, node: &str) -> Result<Self::Reply, Failure> {
        match outcome {
            Outcome::Written { delivered, applied, repeated, results } => {
                let keys = self.body.keys();
                let results = keys.iter().zip(results).map(|(key, result)| framed::result(key, result)).collect();
                Ok(WriteAnswer { delivered: delivered.into(), applied, repeated, results })
            }
            Outcome::Found { .. } | Outcome::Failed(_) => Err(mismatched(node)),
        }
    }

    async fn send(&self, inner: &Inner, sending: &Sending) -> Result<Self::Reply, Failure> {
        let node = &*sending.node.address;
        let reply = self.send_one(inner, sending).await;
        written_from(reply.map_err(|status| Failure::from_status(&status, node))?, node)
    }
}
