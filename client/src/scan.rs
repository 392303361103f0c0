//! Scans: a stream of entries in placement order, never more of it in memory than one message.
//!
//! **Invariant.** A scan is retried only until its first message. Afterwards it stands on one position per shard, and
//! going on from another one would be a different answer: the error goes to the caller instead.

use crate::{
    error::ClientError,
    failure::Failure,
    inner::Inner,
    into_bytes::IntoBytes,
    read::route_of,
    reply::{Entry, entry_from, level_to_proto, receipt_from},
    retry::{Call, Repeat, run},
    routing::Route,
};
use bytes::Bytes;
use futures::Stream;
use kvorum_api::{Effect, ReadLevel, Receipt, Refused, limits, proto};
use proto::kv_client::KvClient;
use std::{collections::VecDeque, future::IntoFuture, pin::Pin, sync::Arc, time::Duration};
use tokio::time::timeout;
use tonic::{Status, Streaming, transport::Channel};

/// A scan that has not been sent: set its options, then `.await` it for the stream.
#[must_use = "a scan is sent when it is awaited"]
#[derive(Debug)]
pub struct Scan {
    pub(crate) inner: Arc<Inner>,
    pub(crate) keyspace: Arc<str>,
    pub(crate) timeout: Duration,
    pub(crate) level: Option<ReadLevel>,
    pub(crate) request: proto::ScanRequest,
}

impl Scan {
    /// Only keys that begin with `prefix`.
    pub fn prefix(mut self, prefix: impl IntoBytes) -> Self {
        let prefix = prefix.into_bytes();
        self.request.end = after_prefix(&prefix);
        self.request.start = prefix;
        self
    }

    /// Only keys at or above `start`. Empty: from the first key.
    pub fn start(mut self, start: impl IntoBytes) -> Self {
        self.request.start = start.into_bytes();
        self
    }

    /// Only keys below `end`. Empty: to the last key.
    pub fn end(mut self, end: impl IntoBytes) -> Self {
        self.request.end = end.into_bytes();
        self
    }

    /// At most this many entries; 0 = all.
    pub fn limit(mut self, entries: u64) -> Self {
        self.request.limit = entries;
        self
    }

    /// From the last key to the first.
    pub fn reverse(mut self) -> Self {
        self.request.reverse = true;
        self
    }

    /// Entries come without their values.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// How fresh the answer must be, per shard.
    pub fn level(mut self, level: ReadLevel) -> Self {
        self.level = Some(level);
        self
    }

    /// Time to the first message over all attempts, and the longest silence of the server after it. How long the whole
    /// scan takes is up to the reader.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// The first key after all that begin with `prefix`; empty if there is none.
fn after_prefix(prefix: &[u8]) -> Bytes {
    let Some(last) = prefix.iter().rposition(|byte| *byte < u8::MAX) else { return Bytes::new() };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

impl Call for Scan {
    type Reply = (Option<proto::ScanReply>, Streaming<proto::ScanReply>);

    fn keyspace(&self) -> &str {
        &self.keyspace
    }

    fn route(&self) -> Route {
        route_of(self.level)
    }

    fn repeat(&self) -> Repeat {
        Repeat::Freely
    }

    async fn send(
        &self,
        mut client: KvClient<Channel>,
        header: proto::RequestHeader,
        _budget: Duration,
    ) -> Result<Self::Reply, Status> {
        let level = Some(level_to_proto(self.level));
        let request = proto::ScanRequest { header: Some(header), level, ..self.request.clone() };
        // The budget is for the first message, and `grpc-timeout` would end the whole stream: the caller waits, not the
        // server, and a stream that is dropped ends there too.
        let mut messages = client.scan(request).await?.into_inner();
        let first = messages.message().await?;
        Ok((first, messages))
    }
}

impl IntoFuture for Scan {
    type Output = Result<ScanStream, ClientError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            for (field, key) in [("start", &self.request.start), ("end", &self.request.end)] {
                check_bound(field, key)?;
            }
            let answered = run(&self.inner, &self, self.timeout).await.map_err(|lost| lost.failure)?;
            if self.route() == Route::Leader {
                self.inner.nodes.learn_leader(&self.keyspace, &answered.node);
            }
            let (first, messages) = answered.reply;
            let mut stream = ScanStream {
                inner: self.inner,
                node: answered.node,
                silence_max: self.timeout,
                messages: Some(messages),
                ready: VecDeque::new(),
                receipts: Vec::new(),
            };
            match first {
                Some(message) => stream.take(message)?,
                None => stream.messages = None,
            }
            Ok(stream)
        })
    }
}

fn check_bound(field: &'static str, key: &[u8]) -> Result<(), Refused> {
    if key.len() <= limits::KEY_BYTES_MAX {
        return Ok(());
    }
    Err(Refused::OverLimit {
        field,
        actual: key.len() as u64,
        limit: "key_bytes_max",
        max: limits::KEY_BYTES_MAX as u64,
        fix: "use a shorter bound",
    })
}

/// Entries as they come. After an error or the end nothing follows.
#[derive(Debug)]
pub struct ScanStream {
    inner: Arc<Inner>,
    node: String,
    silence_max: Duration,
    messages: Option<Streaming<proto::ScanReply>>,
    ready: VecDeque<proto::Entry>,
    receipts: Vec<Receipt>,
}

impl ScanStream {
    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// The stream broke: what came before stands, what was to follow is missing.
    pub async fn next(&mut self) -> Result<Option<Entry>, ClientError> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(Some(entry_from(entry)));
            }
            let Some(messages) = &mut self.messages else { return Ok(None) };
            let message = match timeout(self.silence_max, messages.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => {
                    self.messages = None;
                    return Ok(None);
                }
                Ok(Err(status)) => return Err(self.broken(Failure::from_status(&status, &self.node))),
                Err(_elapsed) => return Err(self.broken(Failure::no_answer(&self.node, self.silence_max))),
            };
            self.take(message)?;
        }
    }

    /// What the scan guarantees so far: one receipt per shard begun.
    #[must_use]
    pub fn receipts(&self) -> &[Receipt] {
        &self.receipts
    }

    /// The entries as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Entry, ClientError>> + Send {
        futures::stream::try_unfold(self, |mut scan| async move { Ok(scan.next().await?.map(|entry| (entry, scan))) })
    }

    fn take(&mut self, message: proto::ScanReply) -> Result<(), ClientError> {
        if message.receipt.is_some() {
            let receipt = receipt_from(message.receipt, &self.node).map_err(|failure| self.broken(failure))?;
            self.inner.nodes.observe(receipt.stamp);
            self.receipts.push(receipt);
        }
        self.ready.extend(message.entries);
        Ok(())
    }

    fn broken(&mut self, failure: Failure) -> ClientError {
        self.messages = None;
        self.ready.clear();
        self.inner.nodes.failed(&self.node, failure.health());
        let message = format!("the scan broke off: {}: begin it again", failure.message);
        Failure { effect: Effect::None, message, ..failure }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_prefix_ends_where_its_last_key_has_passed(
            prefix in prop::collection::vec(250_u8.., 1..4),
            rest in prop::collection::vec(any::<u8>(), 0..3),
            other in prop::collection::vec(250_u8.., 0..4),
        ) {
            let end = after_prefix(&prefix);
            let inside = |key: &[u8]| key >= &prefix[..] && (end.is_empty() || key < &end[..]);
            prop_assert!(inside(&[prefix.clone(), rest].concat()));
            prop_assert_eq!(inside(&other), other.starts_with(&prefix));
        }
    }
}
