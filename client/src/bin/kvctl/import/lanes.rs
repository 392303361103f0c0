//! Lanes: several requests at once, and the rows of one key never out of order.
//!
//! ```text
//!   rows ─▶ lane of the key ─▶ a load of rows ─┬▶ rows of shard 1 ─▶ request, request, …
//!                                              └▶ rows of shard 2 ─▶ request, …   both at once, then the next load
//! ```

use super::{
    clock::Clock,
    journal::Journal,
    places::Places,
    report::Report,
    rows::{Bad, Row},
};
use futures::future::join_all;
use kvorum_client::{ClientError, Cp, Effect, Keyspace, Put};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    mem,
    sync::Arc,
};
use tokio::{sync::mpsc, task::JoinSet};

/// Bytes of one request, about; a larger row travels alone.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// Requests of one load, so that each is about full: more shards than this share less full ones.
const LOAD_REQUESTS_MAX: usize = 8;

/// What all lanes share.
pub struct Work {
    pub keyspace: Keyspace<Cp>,
    pub places: Places,
    pub report: Arc<Report>,
    pub journal: Arc<Journal>,
    pub clock: Clock,
    /// Rows of one request.
    pub batch_rows: usize,
}

/// All lanes of an import.
pub struct Lanes {
    lanes: Vec<Lane>,
    load_rows: usize,
    load_bytes: usize,
    workers: JoinSet<Result<(), ClientError>>,
}

struct Lane {
    waiting: Vec<Row>,
    bytes: usize,
    loads: mpsc::Sender<Vec<Row>>,
}

impl Lanes {
    pub fn start(work: &Arc<Work>, concurrency: u16) -> Self {
        let mut workers = JoinSet::new();
        let lanes = (0..concurrency).map(|_| {
            let (loads, queue) = mpsc::channel(1);
            workers.spawn(carry(work.clone(), queue));
            Lane { waiting: Vec::new(), bytes: 0, loads }
        });
        let lanes = lanes.collect();
        let requests = work.places.count().min(LOAD_REQUESTS_MAX);
        Lanes { lanes, load_rows: work.batch_rows * requests, load_bytes: REQUEST_BYTES_MAX * requests, workers }
    }

    /// Takes rows in file order; waits while their lanes are busy. `false`: a lane has ended, nothing more is sent.
    pub async fn take(&mut self, rows: Vec<Row>) -> bool {
        for row in rows {
            let lane = lane_of(&row.key, self.lanes.len());
            let lane = &mut self.lanes[lane];
            let row_bytes = row.key.len() + row.value.len();
            let is_full = lane.waiting.len() >= self.load_rows || lane.bytes + row_bytes > self.load_bytes;
            if is_full && !lane.hand_over().await {
                return false;
            }
            lane.bytes += row_bytes;
            lane.waiting.push(row);
        }
        true
    }

    /// Sends what waits and waits for every outcome.
    pub async fn finish(mut self) -> Result<(), ClientError> {
        for lane in &mut self.lanes {
            // A lane that has ended tells why below.
            let _has_ended = lane.hand_over().await;
        }
        self.stop().await
    }

    /// Sends nothing more, and waits for the outcome of what is under way.
    pub async fn stop(mut self) -> Result<(), ClientError> {
        self.lanes.clear();
        let mut outcomes = Vec::new();
        while let Some(ended) = self.workers.join_next().await {
            outcomes.push(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())));
        }
        worst(outcomes)
    }
}

/// An unknown outcome says more than a refusal of another request.
fn worst(outcomes: impl IntoIterator<Item = Result<(), ClientError>>) -> Result<(), ClientError> {
    let mut worst = Ok(());
    for outcome in outcomes {
        match outcome {
            Err(ClientError::Unknown(unknown)) => worst = Err(ClientError::Unknown(unknown)),
            Err(error) if worst.is_ok() => worst = Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    worst
}

impl Lane {
    async fn hand_over(&mut self) -> bool {
        self.bytes = 0;
        let rows = mem::take(&mut self.waiting);
        rows.is_empty() || self.loads.send(rows).await.is_ok()
    }
}

fn lane_of(key: &[u8], lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % lanes as u64).expect("a remainder is smaller than the number of lanes")
}

/// One lane: one load after the other.
async fn carry(work: Arc<Work>, mut queue: mpsc::Receiver<Vec<Row>>) -> Result<(), ClientError> {
    while let Some(rows) = queue.recv().await {
        let mut shards: BTreeMap<usize, Vec<Row>> = BTreeMap::new();
        for row in rows {
            shards.entry(work.places.place_of(&row.key)).or_default().push(row);
        }
        // Two shards have no key in common: their order does not matter.
        worst(join_all(shards.into_values().map(|rows| work.store_in_order(rows))).await)?;
    }
    Ok(())
}

/// Cuts rows into requests of at most so many rows and bytes.
fn requests(rows: Vec<Row>, batch_rows: usize) -> Vec<Vec<Row>> {
    let mut requests: Vec<Vec<Row>> = Vec::new();
    let mut bytes = 0;
    for row in rows {
        let row_bytes = row.key.len() + row.value.len();
        match requests.last_mut().filter(|last| last.len() < batch_rows && bytes + row_bytes <= REQUEST_BYTES_MAX) {
            Some(last) => {
                bytes += row_bytes;
                last.push(row);
            }
            None => {
                bytes = row_bytes;
                requests.push(vec![row]);
            }
        }
    }
    requests
}

impl Work {
    async fn store_in_order(&self, rows: Vec<Row>) -> Result<(), ClientError> {
        // The last part is the next to go.
        let mut parts = requests(rows, self.batch_rows);
        parts.reverse();
        while let Some(mut part) = parts.pop() {
            match self.store(&part).await {
                Ok(()) => {}
                Err(error) if !is_of_a_row(&error) => return Err(error),
                // One row is over a limit, or they do not lie together: the halves tell which, and keep the order.
                Err(_) if part.len() > 1 => {
                    let second = part.split_off(part.len() / 2);
                    parts.push(second);
                    parts.push(part);
                }
                Err(error) => {
                    self.report.rejected(part.iter().map(|row| bad(row, &error)));
                    self.journal.settled(&part, true);
                }
            }
        }
        Ok(())
    }

    /// Stores the rows atomically. Of several rows with one key the last is sent.
    async fn store(&self, rows: &[Row]) -> Result<(), ClientError> {
        let newest: BTreeMap<&[u8], &Row> = rows.iter().map(|row| (&row.key[..], row)).collect();
        let mut puts = Vec::with_capacity(newest.len());
        let mut expired = Vec::new();
        for row in newest.into_values() {
            let put = Put::new(row.key.clone(), row.value.clone());
            match row.expires_ms {
                None => puts.push(put.into()),
                Some(expires_ms) => match self.clock.left(&self.keyspace, expires_ms).await? {
                    Some(left) => puts.push(put.ttl(left).into()),
                    None => expired.push(row.clone()),
                },
            }
        }
        if !puts.is_empty() {
            self.keyspace.batch().operations(puts).await?;
        }
        let is_expired = |row: &&Row| expired.iter().any(|expired| expired.line == row.line);
        let stored: Vec<Row> = rows.iter().filter(|row| !is_expired(row)).cloned().collect();
        self.report.stored(&stored);
        self.report.expired(&expired);
        self.journal.settled(rows, false);
        Ok(())
    }
}

/// Whether something about these rows was refused, rather than something that holds for all rows.
fn is_of_a_row(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(_) => true,
        ClientError::Failed(failure) => {
            failure.effect == Effect::None
                && matches!(failure.reason.as_str(), "OVER_LIMIT" | "KEY_EMPTY" | "MALFORMED")
        }
        ClientError::NotApplied(_) | ClientError::Unknown(_) => false,
    }
}

fn bad(row: &Row, error: &ClientError) -> Bad {
    let text = String::from_utf8_lossy(&row.value).chars().take(200).collect();
    Bad { line: row.line, problem: error.to_string(), text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_always_takes_the_same_lane(key: Vec<u8>, lanes in 1_usize..300) {
            let lane = lane_of(&key, lanes);
            prop_assert!(lane < lanes);
            prop_assert_eq!(lane, lane_of(&key, lanes));
        }

        #[test]
        fn requests_keep_the_order_and_their_limits(
            sizes in proptest::collection::vec(prop_oneof![0..100_usize, 400_000..1_500_000_usize], 0..40),
            batch_rows in 1_usize..10,
        ) {
            let row = |(line, bytes): (usize, usize)| Row {
                line: line as u64,
                key: "k".into(),
                value: vec![0; bytes].into(),
                expires_ms: None,
                chunk: 0,
            };
            let count = sizes.len() as u64;
            let requests = requests(sizes.into_iter().enumerate().map(row).collect(), batch_rows);
            for request in &requests {
                let bytes: usize = request.iter().map(|row| row.key.len() + row.value.len()).sum();
                prop_assert!(request.len() <= batch_rows && (bytes <= REQUEST_BYTES_MAX || request.len() == 1));
            }
            let lines: Vec<u64> = requests.iter().flatten().map(|row| row.line).collect();
            prop_assert_eq!(lines, (0..count).collect::<Vec<_>>());
        }
    }
}
