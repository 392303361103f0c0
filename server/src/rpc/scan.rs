//! Scans: rows in placement order, bounded bytes at a time.
//!
//! ```text
//!   shard rows ──next(bytes)──▶ feeder task ──one message waits──▶ ScanStream ──▶ wire
//! ```
//!
//! The feeder pulls a portion only when the one before was taken from its channel, so that a slow reader costs one message
//! and one pinned view, and both end with the deadline. The first portion is small: the first row is there fast.
//!
//! **Invariant.** A stream that ends without an error is complete. A feeder that disappears (deadline, stop) makes the
//! stream end with an error, never short.

use super::{
    convert,
    door::{Door, EnteredScan},
    status,
};
use crate::{
    metrics,
    router::{Keyspace, ShardRoute},
};
use bytes::Bytes;
use kvorum_api::{ReadError, ReadLevel, ShardId, limits, proto};
use kvorum_consensus::{RequestContext, replicator::Rows};
use kvorum_storage::shard::ScanRange;
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_stream::Stream;
use tonic::{Request, Status};

/// Bytes of the first portion.
const FIRST_PORTION_BYTES: usize = 16 << 10;

/// Rows of one portion: many tiny rows are bounded too.
const PORTION_ROWS_MAX: usize = 4_096;

/// What the feeder hands over.
enum Portion {
    Message(proto::ScanReply),
    Failed(ReadError),
    End,
}

/// The messages of one scan.
pub struct ScanStream {
    portions: mpsc::Receiver<Portion>,
    shard: ShardId,
    patience: Duration,
    is_over: bool,
}

/// One shard's part of a scan.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    /// Its place among the keyspace's shards.
    place: usize,
    range: ScanRange,
}

struct Feeder {
    keyspace: Arc<Keyspace>,
    parts: VecDeque<Part>,
    level: ReadLevel,
    context: RequestContext,
    deadline: Instant,
    /// `None` = no limit.
    rows_left: Option<u64>,
    portion_bytes: usize,
}

/// Lets a scan in, opens its first shard, and feeds the rest from a task of the door's.
///
/// # Errors
/// Refused at the door, or the first shard does not answer at that level.
pub async fn open(door: &Door, request: Request<proto::ScanRequest>) -> Result<ScanStream, ReadError> {
    let (metadata, _, mut request) = request.into_parts();
    let entered = door.enter_scan(&metadata, request.header.take())?;
    let EnteredScan { keyspace, context, deadline, permit } = entered;
    let level = convert::read_level(request.level, &keyspace)?;
    let range = convert::scan_range(&request, &keyspace.limits)?;
    let patience = deadline.duration_since(Instant::now());
    let mut feeder = Feeder {
        parts: plan(keyspace.shards(), &range).into(),
        keyspace,
        level,
        context,
        deadline,
        rows_left: (request.limit > 0).then_some(request.limit),
        portion_bytes: FIRST_PORTION_BYTES,
    };
    let first = feeder.parts.pop_front().expect("every range lies in at least one shard");
    let shard = feeder.keyspace.shards()[first.place].shard;
    let rows = feeder.open_part(first).await?;
    let (sender, portions) = mpsc::channel(1);
    door.scans.spawn(async move {
        feeder.run(rows, sender).await;
        drop(permit);
    });
    Ok(ScanStream { portions, shard, patience, is_over: false })
}

/// Which shards a range touches, in the order in which they are walked.
fn plan(shards: &[ShardRoute], range: &ScanRange) -> Vec<Part> {
    let mut parts = Vec::new();
    for (place, shard) in shards.iter().enumerate() {
        let next: Option<&Bytes> = shards.get(place + 1).map(|next| &next.start);
        let ends_before = range.end.as_ref().is_some_and(|end| *end <= shard.start) && place > 0;
        let starts_after = next.is_some_and(|next| *next <= range.start);
        if ends_before || starts_after {
            continue;
        }
        let start = range.start.clone().max(shard.start.clone());
        let end = match (&range.end, next) {
            (Some(end), Some(next)) => Some(end.clone().min(next.clone())),
            (end, next) => end.clone().or_else(|| next.cloned()),
        };
        parts.push(Part { place, range: ScanRange { start, end, ..range.clone() } });
    }
    if range.reverse {
        parts.reverse();
    }
    parts
}

impl Feeder {
    async fn open_part(&self, part: Part) -> Result<Box<dyn Rows>, ReadError> {
        let route = &self.keyspace.shards()[part.place];
        let opening = route.replicator.scan(part.range, self.level, self.context.clone());
        match timeout_at(self.deadline, opening).await {
            Ok(rows) => rows,
            Err(_) => Err(ReadError::DeadlineExceeded { shard: route.shard, deadline: self.context.timeout }),
        }
    }

    async fn run(mut self, mut rows: Box<dyn Rows>, sender: mpsc::Sender<Portion>) {
        loop {
            match self.feed(rows, &sender).await {
                Ok(true) => {}
                // Nobody listens any more, or the deadline has passed: the stream notices the missing end.
                Ok(false) => return,
                Err(error) => return self.send(&sender, Portion::Failed(error)).await.unwrap_or(()),
            }
            let next = match self.rows_left {
                Some(0) => None,
                _ => self.parts.pop_front(),
            };
            let Some(part) = next else {
                return self.send(&sender, Portion::End).await.unwrap_or(());
            };
            rows = match self.open_part(part).await {
                Ok(rows) => rows,
                Err(error) => return self.send(&sender, Portion::Failed(error)).await.unwrap_or(()),
            };
        }
    }

    /// Sends all rows of one shard; false = the other side is gone or too slow.
    async fn feed(&mut self, mut rows: Box<dyn Rows>, sender: &mpsc::Sender<Portion>) -> Result<bool, ReadError> {
        let mut receipt = Some(convert::receipt_out(rows.receipt()));
        loop {
            let wanted = self.rows_left.map_or(PORTION_ROWS_MAX, |left| left.min(PORTION_ROWS_MAX as u64) as usize);
            let portion = match wanted {
                0 => Vec::new(),
                _ => rows.next(self.portion_bytes, wanted).await?,
            };
            self.portion_bytes = limits::SCAN_MESSAGE_BYTES_MAX;
            let is_end = portion.is_empty();
            if is_end && receipt.is_none() {
                return Ok(true);
            }
            if let Some(left) = &mut self.rows_left {
                *left -= portion.len() as u64;
            }
            metrics::scanned(portion.len());
            let entries = portion.into_iter().map(convert::row_out).collect();
            let message = proto::ScanReply { receipt: receipt.take(), entries };
            if self.send(sender, Portion::Message(message)).await.is_err() {
                return Ok(false);
            }
            if is_end {
                return Ok(true);
            }
        }
    }

    async fn send(&self, sender: &mpsc::Sender<Portion>, portion: Portion) -> Result<(), ()> {
        match timeout_at(self.deadline, sender.send(portion)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(()),
        }
    }
}

impl Stream for ScanStream {
    type Item = Result<proto::ScanReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let Poll::Ready(portion) = self.portions.poll_recv(context) else { return Poll::Pending };
        let error = match portion {
            Some(Portion::Message(message)) => return Poll::Ready(Some(Ok(message))),
            Some(Portion::End) => {
                self.is_over = true;
                return Poll::Ready(None);
            }
            Some(Portion::Failed(error)) => error,
            None => ReadError::DeadlineExceeded { shard: self.shard, deadline: self.patience },
        };
        self.is_over = true;
        Poll::Ready(Some(Err(status::read_error(&error))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::keyspace;

    fn parts(start: &'static str, end: Option<&'static str>, reverse: bool) -> Vec<(usize, String, Option<String>)> {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let range = ScanRange { start: bytes(start), end: end.map(bytes), reverse, keys_only: false };
        let parts = plan(keyspace().shards(), &range);
        parts.into_iter().map(|part| (part.place, text(part.range.start), part.range.end.map(text))).collect()
    }

    #[test]
    fn a_scan_visits_the_shards_it_touches_in_walking_order() {
        let part = |place, start: &str, end: Option<&str>| (place, start.to_owned(), end.map(str::to_owned));
        assert_eq!(parts("", None, false), [part(0, "", Some("g")), part(1, "g", Some("p")), part(2, "p", None)]);
        assert_eq!(parts("h", Some("i"), false), [part(1, "h", Some("i"))]);
        assert_eq!(parts("a", Some("g"), false), [part(0, "a", Some("g"))]);
        assert_eq!(parts("h", None, true), [part(2, "p", None), part(1, "h", Some("p"))]);
        assert_eq!(parts("", Some(""), false), [part(0, "", Some(""))]);
    }

    #[tokio::test]
    async fn a_feeder_that_disappears_never_looks_like_the_end() {
        use tokio_stream::StreamExt as _;
        let (sender, portions) = mpsc::channel(1);
        let stream = ScanStream { portions, shard: ShardId(1), patience: Duration::from_secs(1), is_over: false };
        sender.send(Portion::Message(proto::ScanReply::default())).await.unwrap();
        drop(sender);
        let seen: Vec<_> = stream.collect().await;
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[1].as_ref().unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }
}
