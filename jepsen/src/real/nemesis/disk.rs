//! Disks that are slow, refuse, forget or are full: `slow-sync`, `failing-sync`, `write-error`, `disk-full`.
//!
//! A node that has nothing to sync or to make room for while its disk is bad is killed and started on it: a start
//! always does.
//!
//! **Invariant.** It is installed once the shim has counted that it struck. When it is over, whoever ended or promises
//! nothing more is started again, as an operator would once the disk is well.

use super::{Cluster, Nemesis, Outcome, Seen, Wish, aim, count, numbers, told};
use crate::{
    history::Value,
    real::{
        names,
        seats::Seat,
        shim::layout::{ALL_PARTS, Counter, Fault, Part},
        units,
    },
};
use anyhow::{Result, bail};
use futures::future::BoxFuture;
use rand::{Rng as _, rngs::SmallRng};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a node that runs may take to run into it.
const STRIKES_WITHIN: Duration = Duration::from_millis(1_500);

/// How long one that is started may take.
const STRIKES_A_START_WITHIN: Duration = Duration::from_secs(6);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Which of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Syncs take longer.
    SlowSync,
    /// Syncs fail.
    FailingSync,
    /// Writes fail.
    WriteError,
    /// There is no room.
    DiskFull,
}

impl Trouble {
    fn fault(self) -> Fault {
        match self {
            Trouble::SlowSync => Fault::SlowSync,
            Trouble::FailingSync => Fault::FailSync,
            Trouble::WriteError => Fault::FailWrite,
            Trouble::DiskFull => Fault::DiskFull,
        }
    }

    fn counter(self) -> (&'static str, Counter) {
        match self {
            Trouble::SlowSync => ("syncs_delayed", Counter::SyncsDelayed),
            Trouble::FailingSync => ("syncs_failed", Counter::SyncsFailed),
            Trouble::WriteError => ("writes_refused", Counter::WritesRefused),
            Trouble::DiskFull => ("room_refused", Counter::RoomRefused),
        }
    }
}

/// Bad disks of some nodes.
pub struct BadDisk {
    trouble: Trouble,
    target: String,
    parts: u64,
    times: Option<u64>,
    delay: Duration,
    chance: SmallRng,
    /// Whom it hit, with what had been counted before.
    hit: Vec<(u64, u64)>,
}

impl BadDisk {
    /// Hits nobody yet.
    pub fn new(trouble: Trouble, wish: &Wish, target: &str, mut chance: SmallRng) -> Result<Self> {
        let parts = match wish.part.as_deref() {
            None | Some("all") => ALL_PARTS,
            Some("journal") => Part::Journal as u64,
            Some("engine") => Part::Engine as u64,
            Some(other) => {
                bail!(
                    "faults: {}: {}",
                    wish.fault,
                    names::unknown("part", other, ["journal", "engine", "all"].into_iter())
                )
            }
        };
        let delay = match (trouble, &wish.delay) {
            (Trouble::SlowSync, None) => bail!("faults: slow-sync: delay is missing: without it, it does nothing"),
            (Trouble::SlowSync, Some(delay)) => {
                let range = units::duration_range(delay)?;
                chance.random_range(range)
            }
            _ => Duration::ZERO,
        };
        if wish.times == Some(0) {
            bail!("faults: {}: times: 0: it does nothing", wish.fault);
        }
        let target = target.to_owned();
        Ok(BadDisk { trouble, target, parts, times: wish.times, delay, chance, hit: Vec::new() })
    }

    fn counted(&self, cluster: &mut Cluster) -> u64 {
        self.strikes_by_node(cluster).into_iter().map(|(_, strikes)| strikes).sum()
    }

    /// How often it struck, those left out whom it did not.
    fn strikes_by_node(&self, cluster: &mut Cluster) -> Vec<(u64, u64)> {
        let (_, counter) = self.trouble.counter();
        let counts = self.hit.iter().map(|(node, before)| {
            let now = cluster.node(*node).shim().map_or(0, |shim| shim.count(counter));
            (*node, now.saturating_sub(*before))
        });
        counts.filter(|(_, strikes)| *strikes > 0).collect()
    }

    async fn strikes(&self, cluster: &mut Cluster, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while self.counted(cluster) == 0 {
            if Instant::now() > until {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
        true
    }
}

impl Nemesis for BadDisk {
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            let nodes = match aim(&self.target, cluster, &mut self.chance) {
                Ok(nodes) => nodes,
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            let (name, counter) = self.trouble.counter();
            let mut hit = Vec::new();
            for number in &nodes {
                let shim = match cluster.node(*number).shim() {
                    Ok(shim) => shim,
                    Err(reason) => return Ok(Outcome::Skipped(reason)),
                };
                hit.push((*number, shim.count(counter)));
            }
            if let Err(reason) = cluster.take(&nodes, Seat::from(self.trouble.fault())) {
                return Ok(Outcome::Skipped(reason));
            }
            self.hit = hit;
            for number in &nodes {
                let delay_ns = u64::try_from(self.delay.as_nanos())?;
                if let Ok(shim) = cluster.node(*number).shim() {
                    shim.arm(self.trouble.fault(), self.parts, self.times, delay_ns)?;
                }
            }
            let mut started_on_it = false;
            if !self.strikes(cluster, STRIKES_WITHIN).await {
                if let Some(number) = nodes.first() {
                    cluster.node(*number).kill()?;
                    cluster.launch(*number)?;
                }
                started_on_it = true;
                if !self.strikes(cluster, STRIKES_A_START_WITHIN).await {
                    return Ok(Outcome::Indeterminate(format!("{nodes:?} did not run into it, nor at a start")));
                }
            }
            let struck = self.strikes_by_node(cluster);
            let mut seen = vec![(name, count(self.counted(cluster))), ("started_on_it", Value::Bool(started_on_it))];
            if self.trouble == Trouble::SlowSync {
                seen.push(("delay_ms", count(u64::try_from(self.delay.as_millis())?)));
            }
            Ok(Outcome::Installed(told(&numbers(&struck), seen)))
        })
    }

    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Seen>> {
        Box::pin(async move {
            let (name, _) = self.trouble.counter();
            let struck = self.strikes_by_node(cluster);
            let mut started_again = Vec::new();
            for (number, _) in &self.hit {
                if let Ok(shim) = cluster.node(*number).shim() {
                    shim.disarm(self.trouble.fault())?;
                }
                cluster.node(*number).release(Seat::from(self.trouble.fault()));
                let said = cluster.node(*number).last_words();
                if cluster.revive(*number).await? {
                    started_again.push(Value::Text(format!("n{number}: {said}")));
                }
            }
            let strikes = struck.iter().map(|(_, strikes)| strikes).sum();
            let seen = [(name, count(strikes)), ("started_again", Value::List(started_again))];
            Ok(told(&numbers(&struck), seen).into())
        })
    }
}
