//! Restart storms: every node is killed and started, again and again, faster than it gets ready.

use super::{Cluster, Nemesis, Outcome, Seen, count, told};
use anyhow::Result;
use futures::future::BoxFuture;
use rand::{Rng as _, rngs::SmallRng, seq::SliceRandom as _};
use std::time::Duration;
use tokio::time::sleep;

/// How often every node is restarted.
const ROUNDS: u64 = 3;

/// Between two restarts.
const PAUSE_MS: std::ops::Range<u64> = 20..400;

/// A storm. It is over when it has begun: holding it only makes the calm after it longer.
pub struct Storm {
    chance: SmallRng,
    restarts: u64,
}

impl Storm {
    /// Has not begun.
    pub fn new(chance: SmallRng) -> Self {
        Storm { chance, restarts: 0 }
    }
}

impl Nemesis for Storm {
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            let mut numbers = cluster.numbers();
            for _ in 0..ROUNDS {
                numbers.shuffle(&mut self.chance);
                for number in &numbers {
                    // Who was brought down by another fault stays so.
                    self.restarts += u64::from(cluster.node(*number).kill()?);
                    cluster.launch(*number)?;
                    let pause_ms = self.chance.random_range(PAUSE_MS);
                    sleep(Duration::from_millis(pause_ms)).await;
                }
            }
            Ok(Outcome::Installed(told(&numbers, [("restarts", count(self.restarts))])))
        })
    }

    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Seen>> {
        Box::pin(async move {
            let ended: Vec<u64> =
                cluster.nodes.iter().filter(|node| !node.is_running()).map(|node| node.number).collect();
            Ok(told(&ended, [("still_up", count((cluster.nodes.len() - ended.len()) as u64))]).into())
        })
    }
}
