//! Pauses: a process stands still and then goes on, believing that no time has passed.

use super::{Cluster, Nemesis, Outcome, Seen, aim, count, told};
use crate::history::Value;
use anyhow::Result;
use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use tokio::time::Instant;

/// Paused nodes.
pub struct Pause {
    target: String,
    chance: SmallRng,
    paused: Vec<u64>,
    since: Instant,
}

impl Pause {
    /// Pauses nobody yet.
    pub fn new(target: &str, chance: SmallRng) -> Self {
        Pause { target: target.to_owned(), chance, paused: Vec::new(), since: Instant::now() }
    }
}

impl Nemesis for Pause {
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            let nodes = match aim(&self.target, cluster, &mut self.chance) {
                Ok(nodes) => nodes,
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            self.since = Instant::now();
            for number in nodes {
                if cluster.node(number).pause(true)? {
                    self.paused.push(number);
                }
            }
            Ok(match self.paused.is_empty() {
                true => Outcome::Skipped("no node is up".to_owned()),
                false => Outcome::Installed(told(&self.paused, [])),
            })
        })
    }

    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Seen>> {
        Box::pin(async move {
            let mut went_on = true;
            for number in &self.paused {
                went_on &= cluster.node(*number).pause(false)?;
            }
            let changes = cluster.observer.changes_since(self.since);
            let led_anew = changes.iter().find(|change| change.shard == 1 && !self.paused.contains(&change.node));
            let new_leader = led_anew
                .map(|change| count(u64::try_from((change.at - self.since).as_millis()).unwrap_or(u64::MAX)))
                .unwrap_or_default();
            let seen = [("went_on", Value::Bool(went_on)), ("new_leader_after_ms", new_leader)];
            Ok(told(&self.paused, seen).into())
        })
    }
}
