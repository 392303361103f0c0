//! Scans: rows in placement order, bounded bytes at a time.
//!
//! ```text
//!   shard rows ──next(bytes)──▶ feeder task ──one message waits──▶ ScanStream ──▶ wire
//! ```
//!
//! The feeder pulls a portion only when the one before was taken from its channel, so that a slow reader costs one
//! message and one pinned view, and both end with the deadline. The first portion is small: the first row is there
//! fast.
//!
//! A keyspace sharded by hash has its rows in the order of their hashes. Bounds on its keys say nothing about where
//! they lie: they are refused unless the request allows a full scan, which reads every shard and sends what lies
//! within.
//!
//! **Invariant.** A stream that ends without an error is complete. A feeder that disappears (deadline, stop) makes the
//! stream end with an error, never short.

use super::{
    convert::{answer, asked, command, proto_out},
    deadline,
    door::{Asked, Door, Entered},
    scan_plan::{self, Part, Wanted},
    status,
};
use crate::{admission::Permit, metrics};
use kvorum_api::{ReadError, ReadLevel, ShardId, limits, proto};
use kvorum_consensus::{Replicator, replicator::Rows};
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

/// The longest that a scan says nothing while it walks rows that nobody wants.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// What the feeder hands over.
enum Portion {
    Message(Box<proto::ScanReply>),
    Failed(Status),
    End,
}

/// The messages of one scan.
pub struct ScanStream {
    portions: mpsc::Receiver<Portion>,
    shard: ShardId,
    patience: Duration,
    is_over: bool,
}

/// One shard's part of a scan, and the replica that serves it.
type Opened = (Part, Arc<dyn Replicator>);

struct Feeder {
    entered: Entered,
    parts: VecDeque<Opened>,
    wanted: Wanted,
    level: ReadLevel,
    /// What a shard is given to open its part.
    timeout: Duration,
    deadline: Instant,
    /// `None` = no limit.
    rows_left: Option<u64>,
    portion_bytes: usize,
}

/// Lets a scan in, opens its first shard, and feeds the rest from a task of the door's.
///
/// # Errors
/// Refused at the door, or the first shard does not answer at that level.
pub async fn open(door: &Door, request: Request<proto::ScanRequest>) -> Result<ScanStream, Status> {
    let mut seen = None;
    let opened = try_open(door, request, &mut seen).await;
    let hall = seen.as_ref().map(|entered: &Entered| entered.hall.as_ref());
    opened.map_err(|error| status::of(status::read_failure(&error, hall)))
}

async fn try_open(
    door: &Door,
    request: Request<proto::ScanRequest>,
    seen: &mut Option<Entered>,
) -> Result<ScanStream, ReadError> {
    let (metadata, _, mut request) = request.into_parts();
    let (header, epoch) = Asked::of(request.header.take())?;
    let entered = seen.insert(door.enter(header)?).clone();
    let row = &entered.keyspace.row;
    let patience = deadline::scan(&metadata, &door.limits)?;
    let level = command::read_level(asked::read_level(request.level)?, row)?;
    let wanted = Wanted::of(&request, row)?;
    let mut parts = VecDeque::new();
    for part in scan_plan::plan(&entered.keyspace, &wanted, ShardId(request.shard))? {
        let replicator = door.open_for_scan(&entered, &part.route, level, epoch)?;
        parts.push_back((part, replicator));
    }
    // One message on the wire, one waiting.
    let permit = door.admission.scan(2 * limits::SCAN_MESSAGE_BYTES_MAX as u64)?;
    let first = parts.pop_front().expect("every range lies in at least one shard");
    let shard = first.0.route.row.shard;
    let mut feeder = Feeder {
        parts,
        wanted,
        level,
        timeout: patience.min(door.limits.request_timeout_max),
        deadline: Instant::now() + patience,
        rows_left: (request.limit > 0).then_some(request.limit),
        portion_bytes: FIRST_PORTION_BYTES,
        entered,
    };
    let rows = feeder.open_part(&first).await?;
    let (sender, portions) = mpsc::channel(1);
    door.tasks.spawn(async move { feeder.run(rows, sender, permit).await });
    Ok(ScanStream { portions, shard, patience, is_over: false })
}

impl Feeder {
    async fn open_part(&mut self, (part, replicator): &Opened) -> Result<Box<dyn Rows>, ReadError> {
        let context = self.entered.context(&part.route, part.route.row.epoch, self.timeout);
        let opening = replicator.scan(part.range.clone(), self.level, context);
        match timeout_at(self.deadline, opening).await {
            Ok(rows) => rows,
            Err(_) => Err(ReadError::DeadlineExceeded { shard: part.route.row.shard, deadline: self.timeout }),
        }
    }

    async fn run(mut self, mut rows: Box<dyn Rows>, sender: mpsc::Sender<Portion>, _permit: Permit) {
        loop {
            let error = match self.feed(rows, &sender).await {
                Ok(true) => {
                    let next = match self.rows_left {
                        Some(0) => None,
                        _ => self.parts.pop_front(),
                    };
                    let Some(part) = next else {
                        return self.send(&sender, Portion::End).await.unwrap_or(());
                    };
                    match self.open_part(&part).await {
                        Ok(next) => {
                            rows = next;
                            continue;
                        }
                        Err(error) => error,
                    }
                }
                // Nobody listens any more, or the deadline has passed: the stream notices the missing end.
                Ok(false) => return,
                Err(error) => error,
            };
            let failed = status::of(status::read_failure(&error, Some(&self.entered.hall)));
            return self.send(&sender, Portion::Failed(failed)).await.unwrap_or(());
        }
    }

    /// Sends all rows of one shard; false = the other side is gone or too slow.
    async fn feed(&mut self, mut rows: Box<dyn Rows>, sender: &mpsc::Sender<Portion>) -> Result<bool, ReadError> {
        let row = &self.entered.keyspace.row;
        let (sharding, keyspace) = (row.sharding, row.id);
        let mut receipt = Some(proto_out::receipt(&answer::delivered(rows.receipt(), keyspace)));
        let mut said = Instant::now();
        loop {
            // Of those that are walked for a few that are wanted, many at a time.
            let most = match self.rows_left {
                Some(0) => 0,
                Some(left) if self.wanted.takes_all() => left.min(PORTION_ROWS_MAX as u64) as usize,
                Some(_) | None => PORTION_ROWS_MAX,
            };
            let portion = match most {
                0 => Vec::new(),
                _ => rows.next(self.portion_bytes, most).await?,
            };
            self.portion_bytes = limits::SCAN_MESSAGE_BYTES_MAX;
            let is_end = portion.is_empty();
            let mut entries: Vec<_> = portion.into_iter().map(|row| proto_out::row(row, sharding)).collect();
            entries.retain(|entry| self.wanted.takes(&entry.key));
            if let Some(left) = &mut self.rows_left {
                entries.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= entries.len() as u64;
            }
            metrics::scanned(entries.len());
            // A client that hears nothing for long takes the node for dead.
            let says_nothing = entries.is_empty() && receipt.is_none() && said.elapsed() < SILENCE_MAX;
            let message = proto::ScanReply { receipt: receipt.take(), entries };
            if !says_nothing {
                if self.send(sender, Portion::Message(Box::new(message))).await.is_err() {
                    return Ok(false);
                }
                said = Instant::now();
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
        let failed = match portion {
            Some(Portion::Message(message)) => return Poll::Ready(Some(Ok(*message))),
            Some(Portion::End) => {
                self.is_over = true;
                return Poll::Ready(None);
            }
            Some(Portion::Failed(failed)) => failed,
            None => status::read_error(&ReadError::DeadlineExceeded { shard: self.shard, deadline: self.patience }),
        };
        self.is_over = true;
        Poll::Ready(Some(Err(failed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        router::tests::{add, map},
        rpc::fake::World,
    };
    use bytes::Bytes;
    use futures::future::BoxFuture;
    use kvorum_api::{PlacementRange, Receipt, Sharding, Version};
    use kvorum_storage::{Entry, shard::Row};

    /// Rows that nobody wants, one a portion, each after a while.
    struct Slow {
        receipt: Receipt,
        portions_left: u32,
    }

    impl Rows for Slow {
        fn receipt(&self) -> &Receipt {
            &self.receipt
        }

        fn next(&mut self, _: usize, _: usize) -> BoxFuture<'_, Result<Vec<Row>, ReadError>> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(600)).await;
                let Some(left) = self.portions_left.checked_sub(1) else { return Ok(Vec::new()) };
                self.portions_left = left;
                let entry = Entry { version: Version::default(), value: Some(Bytes::new()), expires_ms: None };
                Ok(vec![Row { key: Sharding::Hash.placement_key(&Bytes::from_static(b"a")), entry }])
            })
        }
    }

    fn receipt() -> Receipt {
        Receipt {
            mode: kvorum_api::Mode::Cp,
            level: Some(ReadLevel::Local),
            shard: ShardId(1),
            epoch: 1,
            incarnation: 0,
            node: kvorum_api::NodeId(1),
            version: None,
            position: kvorum_api::LogPosition::default(),
            staleness: None,
            durable_replicas: 0,
            stamp: kvorum_api::Stamp::default(),
        }
    }

    /// A client that hears nothing for long takes the node for dead.
    #[tokio::test(start_paused = true)]
    async fn a_scan_that_walks_long_for_nothing_is_heard_of() {
        let mut map = map();
        let hashed = PlacementRange::of_hashes(1).into_iter().map(|range| (range, vec![1]));
        add(&mut map, "hashed", Sharding::Hash, hashed.collect());
        let world = World::new(map, "");
        let entered = world.door.enter(Asked { keyspace: "hashed".into(), ..Asked::default() }).unwrap();
        let request = proto::ScanRequest { start: "x".into(), full_scan: true, ..proto::ScanRequest::default() };
        let mut feeder = Feeder {
            parts: VecDeque::new(),
            wanted: Wanted::of(&request, &entered.keyspace.row).unwrap(),
            level: ReadLevel::Local,
            timeout: Duration::from_secs(5),
            deadline: Instant::now() + Duration::from_secs(60),
            rows_left: Some(1),
            portion_bytes: FIRST_PORTION_BYTES,
            entered,
        };
        let (sender, mut portions) = mpsc::channel(1);
        let walking = world.door.tasks.spawn(async move {
            let rows = Box::new(Slow { receipt: receipt(), portions_left: 10 });
            feeder.feed(rows, &sender).await.unwrap()
        });
        let mut heard = Instant::now();
        let mut messages = 0;
        while let Some(portion) = portions.recv().await {
            assert!(heard.elapsed() <= 2 * SILENCE_MAX, "nothing for {:?}", heard.elapsed());
            heard = Instant::now();
            messages += 1;
            let Portion::Message(message) = portion else { panic!("a message") };
            assert!(message.entries.is_empty());
        }
        assert!(messages >= 4 && walking.await.unwrap(), "{messages} messages in 6.6 s");
    }

    #[tokio::test]
    async fn a_feeder_that_disappears_never_looks_like_the_end() {
        use tokio_stream::StreamExt as _;
        let (sender, portions) = mpsc::channel(1);
        let stream = ScanStream { portions, shard: ShardId(1), patience: Duration::from_secs(1), is_over: false };
        sender.send(Portion::Message(Box::default())).await.unwrap();
        drop(sender);
        let seen: Vec<_> = stream.collect().await;
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[1].as_ref().unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }
}
