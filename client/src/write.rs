//! Writes: a builder that becomes one call under one request id.
//!
//! ```text
//!   orders.put(k, v).ttl(..).await ─▶ checked ─▶ WriteCall (call.rs) ─▶ outcome
//! ```

use crate::{
    call::WriteCall,
    error::ClientError,
    failure::REQUEST_ID_EXPIRED,
    inner::Inner,
    into_bytes::IntoBytes,
    operation::{Condition, Delete, Increment, Operation, Put, check_key, check_value},
    reply::{Incremented, Written, incremented_from},
    request_id::RequestId,
    session::Memory,
};
use bytes::Bytes;
use kvorum_api::{Refused, limits, proto};
use std::{future::IntoFuture, pin::Pin, sync::Arc, time::Duration};
use tokio::time::Instant;
use tonic::Request;

/// A write that has not been sent: set its options, then `.await` it.
#[must_use = "a write is sent when it is awaited"]
#[derive(Debug)]
pub struct Write<O> {
    pub(crate) writing: Writing,
    pub(crate) operation: O,
}

/// What every write of one keyspace shares.
#[derive(Clone, Debug)]
pub(crate) struct Writing {
    pub(crate) inner: Arc<Inner>,
    pub(crate) keyspace: Arc<str>,
    pub(crate) timeout: Duration,
    pub(crate) identity: Identity,
    pub(crate) session: Option<Arc<Memory>>,
    /// Of the handle itself, for a keyspace that is read at level `session` unless said otherwise.
    pub(crate) own: Arc<Memory>,
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
        self.writing.timeout = timeout;
        self
    }

    /// Repeats an earlier write whose outcome is unknown, perhaps one of another process: the same operation under the
    /// id it was sent with. If it had been applied, its first outcome is answered. The result stays unknown until it
    /// is answered, however the attempts end.
    pub fn request_id(mut self, id: RequestId) -> Self {
        self.writing.identity = Identity::Given(id);
        self
    }

    /// Sends it without a request id: once, never repeated after an unknown outcome, and nothing is remembered.
    pub fn without_request_id(mut self) -> Self {
        self.writing.identity = Identity::None;
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
        Box::pin(start(self.writing, body))
    }
}

impl IntoFuture for Write<Delete> {
    type Output = Result<Written, ClientError>;
    type IntoFuture = Sent<Written>;

    fn into_future(self) -> Self::IntoFuture {
        let body = Body::Delete(self.operation.0);
        Box::pin(start(self.writing, body))
    }
}

impl IntoFuture for Write<Increment> {
    type Output = Result<Incremented, ClientError>;
    type IntoFuture = Sent<Incremented>;

    fn into_future(self) -> Self::IntoFuture {
        let body = Body::Increment(self.operation.0);
        Box::pin(async move { incremented_from(start(self.writing, body).await?) })
    }
}

impl IntoFuture for Write<Batch> {
    type Output = Result<Written, ClientError>;
    type IntoFuture = Sent<Written>;

    fn into_future(self) -> Self::IntoFuture {
        let body = Body::Batch(self.operation.0);
        Box::pin(start(self.writing, body))
    }
}

/// Sends a write, under an id of its own unless it was given one or asked for none.
pub(crate) async fn start(writing: Writing, body: Body) -> Result<Written, ClientError> {
    check(&body)?;
    let (within, began) = (writing.timeout, Instant::now());
    let is_fresh = matches!(writing.identity, Identity::Fresh);
    let mut call = WriteCall::new(writing, body);
    let lost = match call.send_until(within).await {
        Ok(outcome) => return outcome,
        Err(lost) => lost,
    };
    // An id refused as too old at its very first sending was never executed: nothing else was sent under it. It happens
    // when this machine slept. New stamps, a new id, once.
    if is_fresh && lost.sent == 1 && lost.failure.is(REQUEST_ID_EXPIRED) {
        call.renew();
        return match call.send_until(within.saturating_sub(began.elapsed())).await {
            Ok(outcome) => outcome,
            Err(lost) => Err(call.lost(lost, within)),
        };
    }
    Err(call.lost(lost, within))
}

/// The request with its deadline in the `grpc-timeout` header.
pub(crate) fn timed<T>(message: T, budget: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(budget);
    request
}

impl Body {
    /// The key that says where it goes: of a batch, the first.
    pub(crate) fn key(&self) -> Bytes {
        match self {
            Body::Put(put) => put.key.clone(),
            Body::Delete(delete) => delete.key.clone(),
            Body::Increment(increment) => increment.key.clone(),
            Body::Batch(operations) => {
                operations.first().map(|operation| operation_key(operation).clone()).unwrap_or_default()
            }
        }
    }

    /// The keys of its operations, in order.
    pub(crate) fn keys(&self) -> Vec<Bytes> {
        match self {
            Body::Batch(operations) => operations.iter().map(|operation| operation_key(operation).clone()).collect(),
            Body::Put(_) | Body::Delete(_) | Body::Increment(_) => vec![self.key()],
        }
    }

    /// Bytes of keys and values.
    pub(crate) fn bytes(&self) -> usize {
        let put = |put: &proto::Put| put.key.len() + put.value.len();
        match self {
            Body::Put(one) => put(one),
            Body::Delete(delete) => delete.key.len(),
            Body::Increment(increment) => increment.key.len(),
            Body::Batch(operations) => {
                let sizes = operations.iter().map(|operation| match &operation.kind {
                    Some(proto::operation::Kind::Put(one)) => put(one),
                    Some(_) | None => operation_key(operation).len(),
                });
                sizes.sum()
            }
        }
    }
}

fn operation_key(operation: &proto::Operation) -> &Bytes {
    use proto::operation::Kind;
    static NONE: Bytes = Bytes::new();
    match &operation.kind {
        Some(Kind::Put(put)) => &put.key,
        Some(Kind::Delete(delete)) => &delete.key,
        Some(Kind::Increment(increment)) => &increment.key,
        None => &NONE,
    }
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
