//! Trimmer: cuts diaries back here and there, so that readers fall off.
//!
//! **Invariant.** Each replica by itself: how far back a diary reaches is never agreed upon.

use super::{chance::Chance, workload::Desk};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long it waits for a machine that gets no turns.
const PATIENCE: Duration = Duration::from_millis(500);

/// Cuts diaries back.
pub struct Trimmer {
    desk: Desk,
    chance: Chance,
}

impl Trimmer {
    /// One that has cut nothing.
    pub fn new(seed: u64, desk: Desk) -> Self {
        Trimmer { desk, chance: Chance::new(seed, "trimmer") }
    }

    /// Works until the desk closes, in worlds in which diaries are trimmed.
    pub async fn run(mut self) {
        let Some(bytes_max) = self.desk.drawn.diary_bytes else { return };
        while Instant::now() < self.desk.until {
            sleep(self.chance.millis(200..2_500)).await;
            let id = *self.chance.pick(&self.desk.nodes());
            let Some((node, life)) = self.desk.network.node(id) else { continue };
            let is_awake = timeout(PATIENCE, self.desk.network.awake(id)).await.is_ok();
            if !is_awake || !life.goes_on() {
                continue;
            }
            for status in node.status().replicas {
                let replica = node.replica(status.shard).filter(|_| self.chance.hits(500));
                let Some(replica) = replica else { continue };
                let trimmed = replica.shard().collect_changes(u64::MAX, bytes_max);
                self.desk.audit.event(format_args!("node {id}: diary of shard {}: {trimmed:?}", status.shard));
            }
        }
    }
}
