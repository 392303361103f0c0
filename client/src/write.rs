//! Writes: a builder that becomes one call under one request id.
//!
//! ```text
//!   orders.put(k, v).ttl(..).await ─▶ ticket + id ─▶ retry::run ─▶ outcome            ticket dropped: floor rises
//!                                                         └─▶ UnknownWrite { ticket } retry() keeps the id
//! ```
//!
//! **Invariant (I2).** The ticket lives as long as the write may be sent again: in the future, then in the handle.

use crate::{
    error::{ClientError, NotApplied},
    failure::REQUEST_ID_EXPIRED,
    inner::Inner,
    into_bytes::IntoBytes,
    operation::{Condition, Delete, Increment, Operation, Put, check_key, check_value},
    reply::{Incremented, Written, incremented_from, written_from},
    request_id::RequestId,
    retry::{Call, Lost, Repeat, run},
    routing::Route,
    unanswered::Ticket,
    unknown::UnknownWrite,
};
use kvorum_api::{Effect, Refused, limits, proto};
use proto::kv_client::KvClient;
use std::{future::IntoFuture, pin::Pin, sync::Arc, time::Duration};
use tonic::{Request, Status, transport::Channel};

/// A write that has not been sent: set its options, then `.await` it.
#[must_use = "a write is sent when it is awaited"]
#[derive(Debug)]
pub struct Write<O> {
    pub(crate) inner: Arc<Inner>,
    pub(crate) keyspace: Arc<str>,
    pub(crate) timeout: Duration,
    pub(crate) identity: Identity,
    pub(crate) operation: O,
}

/// Several operations of which all happen or none.
#[derive(Clone, Debug, Default)]
pub struct Batch(Vec<proto::Operation>);

/// Under which id a write goes out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Identity {
    Fresh,
    Given(RequestId),
    None,
}

/// The body of a write.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Put(proto::Put),
    Delete(proto::Delete),
    Increment(proto::Increment),
    Batch(Vec<proto::Operation>),
}

impl<O> Write<O> {
    /// Total time over all attempts.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Repeats an earlier write whose outcome is unknown, perhaps one of another process: the same operation under the
    /// id it was sent with. If it had been applied, its first outcome is answered. The result stays unknown until it
    /// is answered, however the attempts end.
    pub fn request_id(mut self, id: RequestId) -> Self {
        self.identity = Identity::Given(id);
        self
    }

    /// Sends it without a request id: once, never repeated after an unknown outcome, and nothing is remembered.
    pub fn without_request_id(mut self) -> Self {
        self.identity = Identity::None;
        self
    }

    fn map(mut self, change: impl FnOnce(O) -> O) -> Self {
        self.operation = change(self.operation);
        self
    }
}

impl Write<Put> {
    /// The entry lives at least this long.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.map(|put| put.ttl(ttl))
    }

    /// Only if the key is not there.
    pub fn if_absent(self) -> Self {
        self.condition(Condition::Absent)
    }

    /// Only if `condition` holds; else [`ClientError::NotApplied`].
    pub fn condition(self, condition: Condition) -> Self {
        self.map(|put| put.condition(condition))
    }

    /// Answers what was there before, in [`Written::previous`].
    pub fn return_previous(self) -> Self {
        self.map(Put::return_previous)
    }
}

impl Write<Delete> {
    /// Only if `condition` holds; else [`ClientError::NotApplied`].
    pub fn condition(self, condition: Condition) -> Self {
        self.map(|delete| delete.condition(condition))
    }

    /// Answers what was there before, in [`Written::previous`].
    pub fn return_previous(self) -> Self {
        self.map(Delete::return_previous)
    }
}

impl Write<Increment> {
    /// Answers what was there before, in [`Written::previous`].
    pub fn return_previous(self) -> Self {
        self.map(Increment::return_previous)
    }
}

impl Write<Batch> {
    /// Adds an operation, with its own options.
    pub fn operation(mut self, operation: impl Into<Operation>) -> Self {
        self.operation.0.push(operation.into().0);
        self
    }

    /// Adds several.
    pub fn operations(mut self, operations: impl IntoIterator<Item = Operation>) -> Self {
        self.operation.0.extend(operations.into_iter().map(|operation| operation.0));
        self
    }

    /// Adds a put.
    pub fn put(self, key: impl IntoBytes, value: impl IntoBytes) -> Self {
        self.operation(Put::new(key, value))
    }

    /// Adds a delete.
    pub fn delete(self, key: impl IntoBytes) -> Self {
        self.operation(Delete::new(key))
    }

    /// Adds an increment.
    pub fn increment(self, key: impl IntoBytes, delta: i64) -> Self {
        self.operation(Increment::new(key, delta))
    }
}

type Sent<T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send>>;

impl IntoFuture for Write<Put> {
    type Output = Result<Written, ClientError>;
    type IntoFuture = Sent<Written>;

    fn into_future(self) -> Self::IntoFuture {
        let body = Body::Put(self.operation.0);
        Box::pin(start(self.inner, self.keyspace, self.timeout, self.identity, body))
    }
}

impl IntoFuture for Write<Delete> {
    type Output = Result<Written, ClientError>;
    type IntoFuture = Sent<Written>;

    fn into_future(self) -> Self::IntoFuture {
        let body = Body::Delete(self.operation.0);
        Box::pin(start(self.inner, self.keyspace, self.timeout, self.identity, body))
    }
}

impl IntoFuture for Write<Increment> {
    type Output = Result<Incremented, ClientError>;
    type IntoFuture = Sent<Incremented>;

    fn into_future(self) -> Self::IntoFuture {
        let body = Body::Increment(self.operation.0);
        Box::pin(
            async move { incremented_from(start(self.inner, self.keyspace, self.timeout, self.identity, body).await?) },
        )
    }
}

impl IntoFuture for Write<Batch> {
    type Output = Result<Written, ClientError>;
    type IntoFuture = Sent<Written>;

    fn into_future(self) -> Self::IntoFuture {
        let body = Body::Batch(self.operation.0);
        Box::pin(start(self.inner, self.keyspace, self.timeout, self.identity, body))
    }
}

async fn start(
    inner: Arc<Inner>,
    keyspace: Arc<str>,
    within: Duration,
    identity: Identity,
    body: Body,
) -> Result<Written, ClientError> {
    check(&body)?;
    let mut call = WriteCall::new(inner, keyspace, identity, body);
    let lost = match call.send_until(within).await {
        Ok(outcome) => return outcome,
        Err(lost) => lost,
    };
    // An id refused as too old at its very first sending was never executed: nothing else was sent under it. It happens
    // when this machine slept. New stamps, a new id, once.
    if matches!(identity, Identity::Fresh)
        && lost.sent == 1
        && lost.failure.reason.eq_ignore_ascii_case(REQUEST_ID_EXPIRED)
    {
        call.inner.nodes.forget_greetings();
        call.renew();
        return match call.send_until(within).await {
            Ok(outcome) => outcome,
            Err(lost) => Err(call.lost(lost, within)),
        };
    }
    Err(call.lost(lost, within))
}

/// One write with its identity: what a retry sends again, unchanged but for stamp and floor.
#[derive(Debug)]
pub(crate) struct WriteCall {
    pub(crate) inner: Arc<Inner>,
    keyspace: Arc<str>,
    body: Body,
    ticket: Option<Ticket>,
    identity: Identity,
    /// The id as sent; made when the first stamp is known.
    id: parking_lot::Mutex<Option<RequestId>>,
}

impl WriteCall {
    fn new(inner: Arc<Inner>, keyspace: Arc<str>, identity: Identity, body: Body) -> Self {
        let (ticket, id) = match identity {
            Identity::Fresh => (Some(inner.unanswered.open()), None),
            Identity::Given(id) => (None, Some(id)),
            Identity::None => (None, None),
        };
        WriteCall { inner, keyspace, body, ticket, identity, id: parking_lot::Mutex::new(id) }
    }

    fn renew(&mut self) {
        self.ticket = Some(self.inner.unanswered.open());
        *self.id.lock() = None;
    }

    /// Its id. A fresh one is stamped at its first sending, and never again.
    pub(crate) fn id(&self) -> Option<RequestId> {
        let mut id = self.id.lock();
        if let (None, Some(ticket)) = (*id, &self.ticket) {
            let first_sent = self.inner.nodes.stamp();
            *id = Some(RequestId { client: self.inner.client, sequence: ticket.sequence(), first_sent });
        }
        *id
    }

    /// The outer error is the lost call, the inner result what the shard answered.
    pub(crate) async fn send_until(&self, within: Duration) -> Result<Result<Written, ClientError>, Lost> {
        let answered = run(&self.inner, self, within).await?;
        let (applied, written) =
            written_from(answered.reply, self.id(), &answered.node).map_err(|failure| Lost { failure, sent: 1 })?;
        self.inner.nodes.observe(written.receipt.stamp);
        self.inner.nodes.learn_leader(&self.keyspace, &answered.node);
        Ok(if applied { Ok(written) } else { Err(ClientError::NotApplied(Box::new(NotApplied { answer: written }))) })
    }

    /// The error of a lost call. What was sent before under a given id stays in doubt.
    pub(crate) fn lost(self, lost: Lost, timeout: Duration) -> ClientError {
        let mut failure = lost.failure;
        if matches!(self.identity, Identity::Given(_)) {
            failure.effect = Effect::Unknown;
        }
        let id = if failure.effect == Effect::Unknown { self.id() } else { None };
        match id {
            Some(id) => ClientError::Unknown(Box::new(UnknownWrite::new(self, id, failure, timeout))),
            None => failure.into(),
        }
    }
}

impl Call for WriteCall {
    type Reply = proto::WriteReply;

    fn keyspace(&self) -> &str {
        &self.keyspace
    }

    fn route(&self) -> Route {
        Route::Leader
    }

    fn repeat(&self) -> Repeat {
        if matches!(self.identity, Identity::None) { Repeat::Never } else { Repeat::UnderItsId }
    }

    async fn send(
        &self,
        mut client: KvClient<Channel>,
        header: proto::RequestHeader,
        budget: Duration,
    ) -> Result<Self::Reply, Status> {
        // An id of another client says nothing about what that client still waits for: the shard forgets nothing.
        let lowest = self.ticket.as_ref().map_or(1, Ticket::lowest);
        let (header, request_id) = (Some(header), self.id().map(|id| id.to_proto(lowest)));
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

/// The request with its deadline in the `grpc-timeout` header.
pub(crate) fn timed<T>(message: T, budget: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(budget);
    request
}

fn check(body: &Body) -> Result<(), Refused> {
    match body {
        Body::Put(put) => check_put(put),
        Body::Delete(delete) => check_key(&delete.key),
        Body::Increment(increment) => check_key(&increment.key),
        Body::Batch(operations) => check_batch(operations),
    }
}

fn check_put(put: &proto::Put) -> Result<(), Refused> {
    check_key(&put.key)?;
    check_value(&put.value)
}

fn check_batch(operations: &[proto::Operation]) -> Result<(), Refused> {
    use proto::operation::Kind;
    if operations.is_empty() {
        let problem = "a batch without operations: add at least one".to_owned();
        return Err(Refused::Malformed { field: "operations", problem });
    }
    if operations.len() > limits::BATCH_OPERATIONS_MAX {
        return Err(Refused::OverLimit {
            field: "operations",
            actual: operations.len() as u64,
            limit: "batch_operations_max",
            max: limits::BATCH_OPERATIONS_MAX as u64,
            fix: "split the batch; each part is atomic by itself",
        });
    }
    operations.iter().try_for_each(|operation| match &operation.kind {
        Some(Kind::Put(put)) => check_put(put),
        Some(Kind::Delete(delete)) => check_key(&delete.key),
        Some(Kind::Increment(increment)) => check_key(&increment.key),
        None => Ok(()),
    })
}
