//! Power loss: nodes are killed, and what they had not synced is gone, torn, or partly there.
//!
//! For a moment before, syncs are slow: so that there is something to lose when a disk is quick.
//!
//! **Invariant.** Only nodes whose every change was written down lose power: what cannot be undone would make the
//! result one that no disk shows.

use super::{Cluster, Nemesis, Outcome, Seen, Wish, aim, count, told};
use crate::{
    history::Value,
    real::{
        power::Lost,
        seats::Seat,
        shim::{
            Shim,
            layout::{ALL_PARTS, Fault},
        },
        units,
    },
};
use anyhow::{Context, Result};
use futures::future::BoxFuture;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::time::Duration;
use tokio::time::sleep;

/// How slow syncs are before, unless the experiment says.
const DELAY: &str = "0ms..300ms";

/// Nodes without power.
pub struct PowerLoss {
    target: String,
    delay: Duration,
    chance: SmallRng,
    dark: Vec<u64>,
}

impl PowerLoss {
    /// Hits nobody yet.
    pub fn new(wish: &Wish, target: &str, mut chance: SmallRng) -> Result<Self> {
        let range = units::duration_range(wish.delay.as_deref().unwrap_or(DELAY)).context("delay")?;
        // As often a disk as it is.
        let delay = if chance.random() { chance.random_range(range) } else { *range.start() };
        Ok(PowerLoss { target: target.to_owned(), delay, chance, dark: Vec::new() })
    }
}

/// Whether there was nothing at stake: such a loss is no more than a kill.
fn has_lost_nothing(lost: &Lost) -> bool {
    lost.unsynced_sectors + lost.unsynced_names == 0
}

impl Nemesis for PowerLoss {
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            let nodes = match aim(&self.target, cluster, &mut self.chance) {
                Ok(nodes) => nodes,
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            let mut shims = Vec::new();
            for number in &nodes {
                let shim = match cluster.node(*number).shim() {
                    Ok(shim) => shim.clone(),
                    Err(reason) => return Ok(Outcome::Skipped(reason)),
                };
                if let Some(why) = shim.has_nothing_to_lose() {
                    return Ok(Outcome::Skipped(format!("n{number}: {why}")));
                }
                shims.push((*number, shim));
            }
            let delay_ns = u64::try_from(self.delay.as_nanos())?;
            if delay_ns > 0 {
                if let Err(reason) = cluster.take(&nodes, Seat::SlowSync) {
                    return Ok(Outcome::Skipped(reason));
                }
                shims.iter().try_for_each(|(_, shim)| shim.arm(Fault::SlowSync, ALL_PARTS, None, delay_ns))?;
            }
            sleep(self.delay).await;
            // All of them at once, before anything of a disk is looked at.
            self.dark = cluster.bring_down(&nodes)?;
            for (number, shim) in shims.iter().filter(|_| delay_ns > 0) {
                shim.disarm(Fault::SlowSync)?;
                cluster.node(*number).release(Seat::SlowSync);
            }
            let shims: Vec<Shim> =
                shims.into_iter().filter(|(number, _)| self.dark.contains(number)).map(|(_, shim)| shim).collect();
            if shims.is_empty() {
                return Ok(Outcome::Skipped("no node is up".to_owned()));
            }
            if let Some(why) = shims.iter().find_map(|shim| shim.is_not_covered()) {
                return Ok(Outcome::Indeterminate(format!("killed, and nothing lost: {why}")));
            }
            let mut chance = SmallRng::seed_from_u64(self.chance.random());
            // Now and then nothing survives anywhere: no other node helps out then.
            let loses_all = chance.random_bool(0.3);
            let lose = move || {
                let mut all = Lost::default();
                for shim in &shims {
                    all.add(&shim.lose_power(loses_all, &mut chance)?);
                }
                anyhow::Ok(all)
            };
            let lost = tokio::task::spawn_blocking(lose).await?.context("what is not synced cannot be undone")?;
            if has_lost_nothing(&lost) {
                return Ok(Outcome::Indeterminate("killed, and nothing was unsynced".to_owned()));
            }
            let seen = [
                ("syncs_slower_by_ms", count(delay_ns / 1_000_000)),
                ("unsynced_sectors", count(lost.unsynced_sectors)),
                ("sectors_lost", count(lost.sectors)),
                ("lengths_lost", count(lost.lengths)),
                ("unsynced_names", count(lost.unsynced_names)),
                ("names_lost", count(lost.names)),
                ("nothing_survives", Value::Bool(loses_all)),
            ];
            Ok(Outcome::Installed(told(&self.dark, seen)))
        })
    }

    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Seen>> {
        Box::pin(async move {
            cluster.bring_back(&self.dark)?;
            Ok(told(&self.dark, [("started_again", Value::Bool(true))]).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_with_nothing_at_stake_is_none() {
        assert!(has_lost_nothing(&Lost::default()));
        assert!(!has_lost_nothing(&Lost { unsynced_names: 1, ..Lost::default() }));
        // At stake, and all of it survived.
        assert!(!has_lost_nothing(&Lost { unsynced_sectors: 1, ..Lost::default() }));
    }
}
