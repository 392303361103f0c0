//! `kill -9`: of one node, the leader, a minority, all.

use super::{Cluster, Nemesis, Outcome, Seen, aim, count, told};
use crate::history::Value;
use anyhow::Result;
use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use tokio::time::Instant;

/// Killed nodes.
pub struct Kill {
    target: String,
    chance: SmallRng,
    killed: Vec<u64>,
    since: Instant,
}

impl Kill {
    /// Kills nobody yet.
    pub fn new(target: &str, chance: SmallRng) -> Self {
        Kill { target: target.to_owned(), chance, killed: Vec::new(), since: Instant::now() }
    }
}

impl Nemesis for Kill {
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            let nodes = match aim(&self.target, cluster, &mut self.chance) {
                Ok(nodes) => nodes,
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            let leader = cluster.leader();
            self.since = Instant::now();
            self.killed = cluster.bring_down(&nodes)?;
            if self.killed.is_empty() {
                return Ok(Outcome::Skipped("no node is up".to_owned()));
            }
            let leader = leader.map(|leader| Value::Text(format!("n{leader}"))).unwrap_or_default();
            Ok(Outcome::Installed(told(&self.killed, [("gone", Value::Bool(true)), ("leader_before", leader)])))
        })
    }

    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Seen>> {
        Box::pin(async move {
            let changes = cluster.observer.changes_since(self.since);
            let led_anew = changes.iter().find(|change| change.shard == 1 && !self.killed.contains(&change.node));
            let new_leader = led_anew
                .map(|change| count(u64::try_from((change.at - self.since).as_millis()).unwrap_or(u64::MAX)))
                .unwrap_or_default();
            cluster.bring_back(&self.killed)?;
            let seen = [("started_again", Value::Bool(true)), ("new_leader_after_ms", new_leader)];
            Ok(told(&self.killed, seen).into())
        })
    }
}
