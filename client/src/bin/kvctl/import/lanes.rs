//! Lanes: several requests at once, and the rows of one key never out of order.

use super::{
    report::Report,
    rows::{Bad, Row},
};
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

/// All lanes of an import.
pub struct Lanes {
    lanes: Vec<Lane>,
    batch_rows: usize,
    workers: JoinSet<Result<(), ClientError>>,
}

struct Lane {
    waiting: Vec<Row>,
    bytes: usize,
    requests: mpsc::Sender<Vec<Row>>,
}

impl Lanes {
    pub fn start(keyspace: &Keyspace<Cp>, report: &Arc<Report>, concurrency: u16, batch_rows: u16) -> Self {
        let mut workers = JoinSet::new();
        let lanes = (0..concurrency).map(|_| {
            let (requests, queue) = mpsc::channel(1);
            workers.spawn(work(keyspace.clone(), report.clone(), queue));
            Lane { waiting: Vec::new(), bytes: 0, requests }
        });
        let lanes = lanes.collect();
        Lanes { lanes, batch_rows: usize::from(batch_rows), workers }
    }

    /// Takes rows in file order; waits while their lanes are busy. `false`: a lane has ended, nothing more is sent.
    pub async fn take(&mut self, rows: Vec<Row>) -> bool {
        for row in rows {
            let lane = lane_of(&row.key, self.lanes.len());
            let lane = &mut self.lanes[lane];
            let row_bytes = row.key.len() + row.value.len();
            let is_full = lane.waiting.len() >= self.batch_rows || lane.bytes + row_bytes > REQUEST_BYTES_MAX;
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
        for mut lane in self.lanes {
            // A lane that has ended tells why below.
            let _has_ended = lane.hand_over().await;
        }
        let mut outcome = Ok(());
        while let Some(ended) = self.workers.join_next().await {
            // An unknown outcome says more than a refusal of another lane.
            match ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
                Err(ClientError::Unknown(unknown)) => outcome = Err(ClientError::Unknown(unknown)),
                Err(error) if outcome.is_ok() => outcome = Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        outcome
    }
}

impl Lane {
    async fn hand_over(&mut self) -> bool {
        self.bytes = 0;
        let rows = mem::take(&mut self.waiting);
        rows.is_empty() || self.requests.send(rows).await.is_ok()
    }
}

fn lane_of(key: &str, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % lanes as u64).expect("a remainder is smaller than the number of lanes")
}

/// One lane: one request after the other.
async fn work(
    keyspace: Keyspace<Cp>,
    report: Arc<Report>,
    mut queue: mpsc::Receiver<Vec<Row>>,
) -> Result<(), ClientError> {
    while let Some(rows) = queue.recv().await {
        let mut parts = vec![rows];
        while let Some(mut part) = parts.pop() {
            match store(&keyspace, &part).await {
                Ok(()) => report.stored(&part),
                Err(error) if !is_of_a_row(&error) => return Err(error),
                // One row is over a limit: the halves tell which, and keep the order.
                Err(_) if part.len() > 1 => {
                    let second = part.split_off(part.len() / 2);
                    parts.push(second);
                    parts.push(part);
                }
                Err(error) => report.rejected(part.iter().map(|row| bad(row, &error))),
            }
        }
    }
    Ok(())
}

/// Stores the rows atomically. Of several rows with one key the last is sent.
async fn store(keyspace: &Keyspace<Cp>, rows: &[Row]) -> Result<(), ClientError> {
    let newest: BTreeMap<&str, &Row> = rows.iter().map(|row| (row.key.as_str(), row)).collect();
    let puts = newest.into_iter().map(|(key, row)| Put::new(key, &row.value).into());
    keyspace.batch().operations(puts).await.map(drop)
}

/// Whether a limit on one row was met, rather than something that holds for all rows.
fn is_of_a_row(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(_) => true,
        ClientError::Failed(failure) => {
            failure.effect == Effect::None && matches!(failure.reason.as_str(), "OVER_LIMIT" | "KEY_EMPTY")
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
        fn a_key_always_takes_the_same_lane(key in ".*", lanes in 1_usize..300) {
            let lane = lane_of(&key, lanes);
            prop_assert!(lane < lanes);
            prop_assert_eq!(lane, lane_of(&key, lanes));
        }
    }
}
