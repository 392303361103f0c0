//! Clocks that are wrong: `clock-offset` jumps and stays, `clock-strobe` jumps to and fro. The process's own, never the
//! machine's.
//!
//! **Invariant.** It is installed once the process was told a time that is not true.
//!
//! **Deliberately absent.** The monotonic clock: no machine sets it.

use super::{Cluster, Nemesis, Outcome, Seen, Wish, aim, count, numbers, told};
use crate::{
    history::Value,
    real::{seats::Seat, shim::layout::Counter, units},
};
use anyhow::{Context, Result};
use futures::future::BoxFuture;
use rand::{Rng as _, rngs::SmallRng};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How far, unless the experiment says.
const OFFSET: &str = "100ms..288s";

/// How long it stays on one side, unless the experiment says.
const PERIOD: &str = "4ms..1s";

const READ_WITHIN: Duration = Duration::from_secs(3);

/// Wrong clocks of some nodes.
pub struct WrongClock {
    target: String,
    offset_ms: i64,
    /// It jumps to and fro so often.
    period: Option<Duration>,
    chance: SmallRng,
    hit: Vec<(u64, u64)>,
}

impl WrongClock {
    /// Hits nobody yet.
    pub fn new(is_strobe: bool, wish: &Wish, target: &str, mut chance: SmallRng) -> Result<Self> {
        let range = units::duration_range(wish.offset.as_deref().unwrap_or(OFFSET)).context("offset")?;
        let (least, most) = (range.start().as_secs_f64().max(0.001), range.end().as_secs_f64().max(0.001));
        // As many small ones as large ones: what a node tolerates and what it does not.
        let magnitude_ms = (chance.random_range(least.ln()..=most.ln()).exp() * 1_000.0) as i64;
        let offset_ms = if chance.random() { magnitude_ms } else { -magnitude_ms };
        let period = units::duration_range(wish.period.as_deref().unwrap_or(PERIOD)).context("period")?;
        let period = is_strobe.then(|| chance.random_range(period));
        Ok(WrongClock { target: target.to_owned(), offset_ms, period, chance, hit: Vec::new() })
    }

    fn counted(&self, cluster: &mut Cluster) -> u64 {
        self.reads(cluster).into_iter().map(|(_, reads)| reads).sum()
    }

    /// By node, those that were told none left out.
    fn reads(&self, cluster: &mut Cluster) -> Vec<(u64, u64)> {
        let reads = self.hit.iter().map(|(node, before)| {
            let now = cluster.node(*node).shim().map_or(0, |shim| shim.count(Counter::ClockReads));
            (*node, now.saturating_sub(*before))
        });
        reads.filter(|(_, reads)| *reads > 0).collect()
    }
}

impl Nemesis for WrongClock {
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            let nodes = match aim(&self.target, cluster, &mut self.chance) {
                Ok(nodes) => nodes,
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            let mut hit = Vec::new();
            for number in &nodes {
                match cluster.node(*number).shim() {
                    Ok(shim) => hit.push((*number, shim.count(Counter::ClockReads))),
                    Err(reason) => return Ok(Outcome::Skipped(reason)),
                }
            }
            if let Err(reason) = cluster.take(&nodes, Seat::Clock) {
                return Ok(Outcome::Skipped(reason));
            }
            self.hit = hit;
            let offset_ns = self.offset_ms * 1_000_000;
            let mut seen = vec![("offset_ms", Value::Int(self.offset_ms))];
            for number in &nodes {
                let Ok(shim) = cluster.node(*number).shim() else { continue };
                match self.period {
                    None => shim.set_clock(offset_ns, 0, 0)?,
                    Some(period) => shim.set_clock(0, offset_ns, i64::try_from(period.as_nanos())?)?,
                }
            }
            if let Some(period) = self.period {
                seen.push(("period_ms", count(u64::try_from(period.as_millis())?)));
            }
            let until = Instant::now() + READ_WITHIN;
            while self.counted(cluster) == 0 {
                if Instant::now() > until {
                    return Ok(Outcome::Indeterminate(format!("{nodes:?} asked nobody what time it is")));
                }
                sleep(Duration::from_millis(20)).await;
            }
            Ok(Outcome::Installed(told(&numbers(&self.reads(cluster)), seen)))
        })
    }

    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Seen>> {
        Box::pin(async move {
            let reads = self.reads(cluster);
            for (number, _) in &self.hit {
                cluster.node(*number).release(Seat::Clock);
                if let Ok(shim) = cluster.node(*number).shim() {
                    shim.set_clock(0, 0, 0)?;
                }
            }
            let told_wrong = reads.iter().map(|(_, reads)| reads).sum();
            Ok(told(&numbers(&reads), [("wrong_times_told", count(told_wrong))]).into())
        })
    }
}
