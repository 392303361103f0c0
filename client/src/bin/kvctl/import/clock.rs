//! The cluster's time, for entries that expire: an export carries the moment, a put takes what is left.

use kvorum_client::{ClientError, Cp, Keyspace, ReadLevel};
use std::time::Duration;
use tokio::{sync::OnceCell, time::Instant};

/// A moment of the cluster's clock, asked for when it is first needed, and what has passed since.
#[derive(Debug, Default)]
pub struct Clock(OnceCell<(u64, Instant)>);

impl Clock {
    /// What is left of an entry's life; `None` = it is over.
    pub async fn left(&self, keyspace: &Keyspace<Cp>, expires_ms: u64) -> Result<Option<Duration>, ClientError> {
        let (told_ms, at) = self.0.get_or_try_init(|| ask(keyspace)).await?;
        let passed_ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let left_ms = expires_ms.saturating_sub(told_ms.saturating_add(passed_ms));
        Ok((left_ms > 0).then(|| Duration::from_millis(left_ms)))
    }
}

/// Every reply carries the clock of whoever answers; the key need not be there.
async fn ask(keyspace: &Keyspace<Cp>) -> Result<(u64, Instant), ClientError> {
    let reply = keyspace.get("\0").level(ReadLevel::Local).await?;
    Ok((reply.receipt.stamp.0 >> 16, Instant::now()))
}
