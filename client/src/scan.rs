//! Scans: entries in placement order, shard after shard, never more of them in memory than one message.
//!
//! ```text
//!   shard 1 ── its leader (or a replica, by level) ──▶ messages ──▶ end ─┐
//!   shard 2 ◀────────────────────────────────────────────────────────────┘  … to the last shard within the bounds
//! ```
//!
//! **Invariant.** Each shard is read at one position, and retried only until its first message: afterwards going on
//! from another position would be a different answer, so the error goes to the caller. [`ScanStream::position`] says
//! from where a new scan can go on. A scan is of one keyspace: if that is dropped and made anew on the way, the scan
//! ends with an error.
//!
//! **Deliberately absent.** Reading several shards at once: placement order is what makes a scan resumable. Ahead of
//! the reader are the messages the connection's window holds.

use crate::{
    error::ClientError,
    failure::Failure,
    inner::Inner,
    into_bytes::IntoBytes,
    map::Target,
    read::Reading,
    reply::{Entry, delivered_from, entry_from},
    retry::run,
    shard_scan::ShardScan,
};
use bytes::Bytes;
use futures::Stream;
use kvorum_api::{Effect, KeyspaceId, PlacementRange, ReadLevel, Receipt, Refused, Sharding, limits, proto};
use std::{collections::VecDeque, future::IntoFuture, pin::Pin, time::Duration};
use tokio::time::{Instant, timeout};
use tonic::Streaming;

/// A scan that has not been sent: set its options, then `.await` it for the stream.
#[must_use = "a scan is sent when it is awaited"]
#[derive(Debug)]
pub struct Scan {
    pub(crate) reading: Reading,
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

    /// Goes on behind `key`, where an earlier scan of the same bounds and direction stopped
    /// ([`ScanStream::position`]). The key need not be there any more.
    pub fn after(mut self, key: impl IntoBytes) -> Self {
        self.request.after = key.into_bytes();
        self
    }

    /// At most this many entries; 0 = all.
    pub fn limit(mut self, entries: u64) -> Self {
        self.request.limit = entries;
        self
    }

    /// From the last placement to the first.
    pub fn reverse(mut self) -> Self {
        self.request.reverse = true;
        self
    }

    /// Entries come without their values.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Bounds on a keyspace that is sharded by hash: every shard is read for them.
    pub fn full_scan(mut self) -> Self {
        self.request.full_scan = true;
        self
    }

    /// How fresh the answer must be, per shard.
    pub fn level(mut self, level: ReadLevel) -> Self {
        self.reading.level = Some(level);
        self
    }

    /// Time to the first message of each shard over all attempts, and the longest silence of the server after it. How
    /// long the whole scan takes is up to the reader.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.reading.timeout = timeout;
        self
    }

    fn check(&self) -> Result<(), Refused> {
        let request = &self.request;
        for (field, key) in [("start", &request.start), ("end", &request.end), ("after", &request.after)] {
            check_bound(field, key)?;
        }
        Ok(())
    }

    /// Waits for the first message.
    async fn begin(&self) -> Result<ScanStream, ClientError> {
        let sharding = known_sharding(&self.reading.inner, &self.reading).await?;
        if sharding == Sharding::Hash && self.is_bounded() && !self.request.full_scan {
            let problem = "a keyspace sharded by hash has no ranges of keys: say full_scan to read every shard for \
                           them, or scan without bounds";
            return Err(Refused::Malformed { field: "start", problem: problem.to_owned() }.into());
        }
        let mut stream = ScanStream {
            cursor: Cursor::begin(self, sharding),
            left: (self.request.limit > 0).then_some(self.request.limit),
            request: self.request.clone(),
            reading: self.reading.clone(),
            sharding,
            keyspace: None,
            open: None,
            ready: VecDeque::new(),
            receipts: Vec::new(),
            position: None,
        };
        stream.open_next().await?;
        Ok(stream)
    }

    fn is_bounded(&self) -> bool {
        !self.request.start.is_empty() || !self.request.end.is_empty()
    }
}

/// The first key after all that begin with `prefix`; empty if there is none.
fn after_prefix(prefix: &[u8]) -> Bytes {
    let Some(last) = prefix.iter().rposition(|byte| *byte < u8::MAX) else { return Bytes::new() };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

fn check_bound(field: &'static str, key: &[u8]) -> Result<(), Refused> {
    // The first bound behind the longest key is one byte longer.
    if key.len() <= limits::KEY_BYTES_MAX + 1 {
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

impl IntoFuture for Scan {
    type Output = Result<ScanStream, ClientError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.check()?;
            self.reading.check()?;
            match self.begin().await {
                // Nothing was read yet: the map was of a dropped keyspace of that name, and a new one is learnt.
                Err(error) if error.failure().is_some_and(Failure::is_foreign_shard) => {
                    self.reading.inner.nodes.maps.forget(&self.reading.keyspace);
                    self.begin().await
                }
                begun => begun,
            }
        })
    }
}

/// Waits until the keyspace's map is known: without it nobody knows which shards there are.
async fn known_sharding(inner: &Inner, reading: &Reading) -> Result<Sharding, ClientError> {
    let deadline = Instant::now() + reading.timeout;
    let mut reasons = Vec::new();
    if let Some((_, sharding)) = inner.nodes.maps.kind(&reading.keyspace) {
        return Ok(sharding);
    }
    for address in inner.nodes.addresses() {
        if let Some(sharding) = inner.nodes.maps.read(&reading.keyspace, |map| map.sharding) {
            return Ok(sharding);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if let Err(failure) = inner.nodes.greeted(&address, Some(&reading.keyspace), left).await {
            inner.nodes.failed(&address, &failure, Instant::now());
            reasons.push(format!("{address}: {}", failure.message));
        }
    }
    match inner.nodes.maps.read(&reading.keyspace, |map| map.sharding) {
        Some(sharding) => Ok(sharding),
        None if reasons.is_empty() => Ok(Sharding::Range),
        None => {
            let message = format!("no node answered within {:?}: {}", reading.timeout, reasons.join("; "));
            Err(Failure::not_sent("UNAVAILABLE", message, None).into())
        }
    }
}

/// Where the scan stands among the shards.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cursor {
    /// The shard of this placement is next, upwards.
    Up(Bytes),
    /// The shard that ends at this placement is next, downwards; `None` = the last.
    Down(Option<Bytes>),
    End,
}

impl Cursor {
    fn begin(scan: &Scan, sharding: Sharding) -> Self {
        let after = Some(&scan.request.after).filter(|key| !key.is_empty()).map(|key| sharding.placement_key(key));
        let (start, end) = match sharding {
            Sharding::Range => (scan.request.start.clone(), scan.request.end.clone()),
            Sharding::Hash => (Bytes::new(), Bytes::new()),
        };
        if scan.request.reverse {
            let end = Some(end).filter(|end| !end.is_empty());
            // Bytes order: what is left out sorts as larger than every key.
            Cursor::Down(match (after, end) {
                (Some(after), Some(end)) => Some(after.min(end)),
                (after, end) => after.or(end),
            })
        } else {
            Cursor::Up(after.map_or(start.clone(), |after| after.max(start)))
        }
    }
}

/// Entries as they come. After an error or the end nothing follows.
#[derive(Debug)]
pub struct ScanStream {
    reading: Reading,
    request: proto::ScanRequest,
    sharding: Sharding,
    /// Its number, as the first answer told it.
    keyspace: Option<KeyspaceId>,
    cursor: Cursor,
    /// Entries that may still come; `None` = any number.
    left: Option<u64>,
    open: Option<Open>,
    ready: VecDeque<proto::Entry>,
    receipts: Vec<Receipt>,
    position: Option<Bytes>,
}

/// The shard that is being read.
#[derive(Debug)]
struct Open {
    node: std::sync::Arc<str>,
    messages: Streaming<proto::ScanReply>,
    target: Target,
}

impl ScanStream {
    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// The stream broke: what came before stands, what was to follow is missing.
    pub async fn next(&mut self) -> Result<Option<Entry>, ClientError> {
        loop {
            if self.left == Some(0) {
                self.stop();
            }
            if let Some(entry) = self.ready.pop_front() {
                self.left = self.left.map(|left| left - 1);
                self.position = Some(entry.key.clone());
                return Ok(Some(entry_from(entry)));
            }
            let Some(open) = &mut self.open else {
                if self.cursor == Cursor::End {
                    return Ok(None);
                }
                self.open_next().await?;
                continue;
            };
            let silence_max = self.reading.timeout;
            match timeout(silence_max, open.messages.message()).await {
                Ok(Ok(Some(message))) => self.take(message)?,
                Ok(Ok(None)) => self.open = None,
                Ok(Err(status)) => {
                    let failure = Failure::from_status(&status, &open.node);
                    return Err(self.broken(failure));
                }
                Err(_elapsed) => {
                    let failure = Failure::no_answer(&open.node, silence_max);
                    return Err(self.broken(failure));
                }
            }
        }
    }

    /// What the scan guarantees so far: one receipt per shard begun.
    #[must_use]
    pub fn receipts(&self) -> &[Receipt] {
        &self.receipts
    }

    /// The last key that was handed out: a scan [`Scan::after`] it goes on from here.
    #[must_use]
    pub fn position(&self) -> Option<&Bytes> {
        self.position.as_ref()
    }

    /// The entries as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Entry, ClientError>> + Send {
        futures::stream::try_unfold(self, |mut scan| async move { Ok(scan.next().await?.map(|entry| (entry, scan))) })
    }

    /// Opens the shard at the cursor and moves the cursor behind it.
    async fn open_next(&mut self) -> Result<(), ClientError> {
        let (shard, placement) = self.shard_at_cursor();
        let limit = self.left.unwrap_or(0);
        let call = ShardScan {
            reading: self.reading.clone(),
            target: Target::Placement(placement),
            request: proto::ScanRequest { shard, limit, ..self.request.clone() },
        };
        let answered = match run(&self.reading.inner, &call, self.reading.timeout).await {
            Ok(answered) => answered,
            Err(lost) => {
                self.stop();
                return Err(Failure { effect: Effect::None, ..lost.failure }.into());
            }
        };
        let (first, messages) = answered.reply;
        self.open = Some(Open { node: answered.node, messages, target: call.target });
        match first {
            Some(message) => self.take(message),
            None => {
                self.open = None;
                Ok(())
            }
        }
    }

    /// The shard to be read next, and a placement in it. Moves the cursor.
    fn shard_at_cursor(&mut self) -> (u64, Bytes) {
        let found = self.reading.inner.nodes.maps.read(&self.reading.keyspace, |map| {
            let entry = match &self.cursor {
                Cursor::Up(placement) => map.shard_of(placement),
                Cursor::Down(end) => map.shard_below(end.as_deref()),
                Cursor::End => None,
            }?;
            Some((entry.id.0, entry.range.clone()))
        });
        // Without a map a server is asked for all there is.
        let Some((shard, range)) = found.flatten() else {
            self.cursor = Cursor::End;
            return (0, Bytes::new());
        };
        self.cursor = self.behind(&range);
        (shard, range.start)
    }

    /// Where the cursor stands behind a shard.
    fn behind(&self, range: &PlacementRange) -> Cursor {
        // Only placements by range are bounded by keys.
        let (first, last) = match self.sharding {
            Sharding::Range => (self.request.start.clone(), self.request.end.clone()),
            Sharding::Hash => (Bytes::new(), Bytes::new()),
        };
        match &range.end {
            _ if self.request.reverse && range.start <= first => Cursor::End,
            _ if self.request.reverse => Cursor::Down(Some(range.start.clone())),
            Some(end) if last.is_empty() || *end < last => Cursor::Up(end.clone()),
            Some(_) | None => Cursor::End,
        }
    }

    fn take(&mut self, message: proto::ScanReply) -> Result<(), ClientError> {
        let Some(open) = &self.open else { return Ok(()) };
        if message.receipt.is_some() {
            match delivered_from(message.receipt, &open.node) {
                Ok(mut delivered) => {
                    if *self.keyspace.get_or_insert(delivered.keyspace.unwrap_or_default())
                        != delivered.keyspace.unwrap_or_default()
                    {
                        let text = "the keyspace was dropped and made anew while it was read".to_owned();
                        return Err(self.broken(Failure::not_sent("UNKNOWN_KEYSPACE", text, None)));
                    }
                    self.reading.answered(&open.target, &mut delivered, &open.node);
                    self.receipts.push(delivered.receipt);
                }
                Err(failure) => return Err(self.broken(failure)),
            }
        }
        self.ready.extend(message.entries);
        Ok(())
    }

    fn stop(&mut self) {
        self.open = None;
        self.cursor = Cursor::End;
        self.ready.clear();
    }

    fn broken(&mut self, failure: Failure) -> ClientError {
        self.stop();
        if let Some(node) = &failure.node {
            self.reading.inner.nodes.failed(node, &failure, Instant::now());
        }
        let message = format!("the scan broke off: {}: begin it again, or go on behind its position", failure.message);
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
