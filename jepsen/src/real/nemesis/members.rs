//! Members: nodes join, are drained and taken back, replicas move, one is lost for good and replaced.
//!
//! ```text
//!   join     the next machine that waits is let in
//!   drain    a node is emptied; taken back at the end
//!   move     a replica, or the lead of a shard, goes to another node
//!   replace  a node is killed for good, the next machine comes in its place if one waits; it is forgotten at the end
//!   trial    all of it, in order
//! ```
//!
//! **Invariant.** A node that is gone stays gone, and none goes before the cluster has got over the last one. What was
//! refused says why, and is skipped. Nobody waits long, as other faults wait meanwhile: what people do not get at once
//! is wanted of the cluster until everything is whole, and then it is due.

use super::{Cluster, Nemesis, Outcome, Seen, count, told, trial::trial};
use crate::{
    history::Value,
    real::{
        affairs::Loss,
        node::{Readiness, Standing},
        people,
    },
};
use anyhow::{Result, bail};
use futures::future::BoxFuture;
use rand::{
    rngs::SmallRng,
    seq::{IndexedRandom as _, SliceRandom as _},
};
use std::time::Duration;
use tokio::time::Instant;

/// How long one thing of the trial may take, on a machine that is busy with other work.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// How long people wait while other faults do.
const PATIENCE_AMONG_FAULTS: Duration = Duration::from_secs(5);

/// Nodes that must be left when one is killed for good: every shard has three replicas, and on three nodes nothing can
/// be drained or moved any more.
const LEFT_MIN: usize = 4;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// The next machine is let in.
    Join,
    /// A node is drained.
    Drain,
    /// A replica moves.
    Move,
    /// A leader moves.
    Lead,
    /// A node is lost for good.
    Replace,
    /// All of it, in order.
    Trial,
}

/// One change of members.
pub struct Members {
    deed: Deed,
    chance: SmallRng,
    node: Option<u64>,
    operator: Option<u64>,
    /// Replicas of the node when it began.
    held: u64,
}

impl Members {
    /// Changes nothing yet.
    pub fn new(deed: Deed, chance: SmallRng) -> Self {
        Members { deed, chance, node: None, operator: None, held: 0 }
    }

    async fn begin(&mut self, cluster: &mut Cluster) -> Result<Outcome> {
        cluster.affairs.is_changed = true;
        for (node, state) in std::mem::take(&mut cluster.affairs.wanted) {
            want(cluster, node, state).await;
        }
        let changed = match self.deed {
            Deed::Join => return join_next(cluster, PATIENCE_AMONG_FAULTS).await,
            Deed::Replace => return self.lose(cluster).await,
            Deed::Trial => trial(cluster).await,
            Deed::Drain => self.drain(cluster).await,
            Deed::Move | Deed::Lead => self.shift(cluster).await,
        };
        Ok(changed.map_or_else(Outcome::Skipped, Outcome::Installed))
    }

    fn pick(&mut self, cluster: &Cluster) -> Result<u64, String> {
        running(cluster).choose(&mut self.chance).copied().ok_or_else(|| "no node is up".to_owned())
    }

    async fn drain(&mut self, cluster: &mut Cluster) -> Result<Value, String> {
        let node = self.pick(cluster)?;
        let held = people::status_of(cluster, node).await.map(|status| status.replicas.len() as u64);
        self.held = held.filter(|held| *held > 0).ok_or_else(|| format!("n{node} has nothing to give away"))?;
        people::change_node(cluster, node, "draining", PATIENCE_AMONG_FAULTS).await?;
        self.node = Some(node);
        Ok(told(&[], [("drained", name(node)), ("replicas", count(self.held))]))
    }

    async fn shift(&mut self, cluster: &mut Cluster) -> Result<Value, String> {
        let up = running(cluster);
        let leaders = cluster.observer.leaders();
        let places = leaders.iter().flat_map(|(shard, leader)| up.iter().map(|to| (*shard, *leader, *to)));
        // To lead what one leads is granted, and moves nothing.
        let mut places: Vec<(u64, u64, u64)> = places.filter(|(_, leader, to)| leader != to).collect();
        places.shuffle(&mut self.chance);
        let mut refused = "nobody leads, or no other node is up".to_owned();
        let until = Instant::now() + PATIENCE_AMONG_FAULTS;
        for (shard, leader, to) in places {
            if Instant::now() >= until {
                break;
            }
            let asked = match self.deed {
                Deed::Lead => people::transfer_leader(cluster, shard, to).await,
                _ => people::move_replica(cluster, shard, (leader, to)).await,
            };
            match asked {
                Ok(operator) => {
                    self.operator = Some(operator);
                    let what = if self.deed == Deed::Lead { "move lead" } else { "move replica" };
                    cluster.affairs.asked.push((what, operator));
                    let seen = [("from", name(leader)), ("to", name(to)), ("shard", count(shard))];
                    return Ok(told(&[], seen.into_iter().chain([("operator", count(operator))])));
                }
                Err(why) => refused = why,
            }
        }
        Err(refused)
    }

    /// Kills a node for good and lets another machine come in its place.
    async fn lose(&mut self, cluster: &mut Cluster) -> Result<Outcome> {
        let chosen = match self.pick(cluster) {
            Ok(_) if cluster.members().len() <= LEFT_MIN && waiting(cluster).is_none() => {
                Err("no machine waits that could come in its place".to_owned())
            }
            Ok(node) => match people::has_got_over_its_lost(cluster, PATIENCE_AMONG_FAULTS).await {
                Ok(()) => people::has_let_in_all(cluster, PATIENCE_AMONG_FAULTS).await.map(|()| node),
                Err(why) => Err(why),
            },
            refused => refused,
        };
        let node = match chosen {
            Ok(node) => node,
            Err(why) => return Ok(Outcome::Skipped(why)),
        };
        remove(cluster, node)?;
        self.node = Some(node);
        let in_its_place = match waiting(cluster) {
            None => Value::Nil,
            Some(_) => match join_next(cluster, PATIENCE_AMONG_FAULTS).await? {
                Outcome::Installed(value) => value,
                Outcome::Skipped(why) | Outcome::Indeterminate(why) => Value::Text(why),
            },
        };
        Ok(Outcome::Installed(told(&[node], [("in_its_place", in_its_place)])))
    }

    async fn finish(&mut self, cluster: &mut Cluster) -> Result<Seen> {
        Ok(match (self.deed, self.node, self.operator) {
            (Deed::Drain, Some(node), _) => self.take_back(cluster, node).await,
            (Deed::Replace, Some(node), _) => {
                let given = want(cluster, node, "forgotten").await;
                told(&[], [("lost", name(node)), ("forgotten", given)]).into()
            }
            (_, _, Some(operator)) => {
                let found = people::operators(cluster, vec![operator], PATIENCE_AMONG_FAULTS).await;
                let found = found.map(|found| found.into_iter().next());
                match found {
                    Ok(Some(operator)) => {
                        let sentence = people::told(&operator);
                        let is_off = ["failed", "cancelled"].contains(&operator.state.as_str());
                        Seen { value: Value::Text(sentence.clone()), doubt: is_off.then_some(sentence) }
                    }
                    Ok(None) => Value::from("not there any more").into(),
                    Err(why) => Value::Text(why).into(),
                }
            }
            _ => Value::Bool(true).into(),
        })
    }

    /// A node that gave nothing away until then was not drained.
    async fn take_back(&self, cluster: &mut Cluster, node: u64) -> Seen {
        let left = people::status_of(cluster, node).await.map(|status| status.replicas.len() as u64);
        let given = match cluster.node(node).standing() {
            Standing::Gone => Value::from("it is lost for good"),
            Standing::Waiting | Standing::Member => want(cluster, node, "active").await,
        };
        let seen = [("drained", name(node)), ("replicas_left", left.map_or(Value::Nil, count)), ("taken_back", given)];
        let doubt = left.filter(|left| *left >= self.held).map(|left| format!("n{node} still held {left} replicas"));
        Seen { value: told(&[], seen), doubt }
    }
}

/// Asks for a state of a node; where it is not given, it is wanted from now on.
async fn want(cluster: &mut Cluster, node: u64, state: &'static str) -> Value {
    match people::change_node(cluster, node, state, PATIENCE_AMONG_FAULTS).await {
        Ok(()) => Value::Bool(true),
        Err(why) => {
            cluster.affairs.wanted.push((node, state));
            Value::Text(format!("not yet: {why}"))
        }
    }
}

impl Nemesis for Members {
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(self.begin(cluster))
    }

    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Seen>> {
        Box::pin(self.finish(cluster))
    }
}

/// What it leads, as last heard.
pub(super) fn led_by(cluster: &Cluster, node: u64) -> Vec<u64> {
    let leaders = cluster.observer.leaders();
    leaders.into_iter().filter(|(_, leader)| *leader == node).map(|(shard, _)| shard).collect()
}

fn name(node: u64) -> Value {
    Value::Text(format!("n{node}"))
}

fn running(cluster: &Cluster) -> Vec<u64> {
    let up = cluster.nodes.iter().filter(|node| node.is_running() && !node.is_paused());
    up.map(|node| node.number).collect()
}

/// The next machine that was not let in yet.
pub(super) fn waiting(cluster: &Cluster) -> Option<u64> {
    cluster.nodes.iter().find(|node| node.standing() == Standing::Waiting).map(|node| node.number)
}

/// Lets it in. Who is not ready in time goes on asking, and must be once everything is whole.
pub(super) async fn join_next(cluster: &mut Cluster, patience: Duration) -> Result<Outcome> {
    let Some(number) = waiting(cluster) else {
        return Ok(Outcome::Skipped("no machine waits to be let in".to_owned()));
    };
    // One after the other: each is called by the number it will be given.
    if let Err(why) = people::has_let_in_all(cluster, PATIENCE_AMONG_FAULTS).await {
        return Ok(Outcome::Skipped(why));
    }
    let began = Instant::now();
    cluster.node(number).set_standing(Standing::Member);
    cluster.launch(number)?;
    match cluster.node(number).readiness(patience).await {
        Readiness::Ready => {}
        Readiness::NotReady(why) => return Ok(Outcome::Indeterminate(format!("n{number} is not let in yet: {why}"))),
        Readiness::Ended(why) => return Ok(Outcome::Indeterminate(format!("n{number} ended: {why}"))),
    }
    let given = people::status_of(cluster, number).await.map(|status| status.node);
    if given.is_some_and(|given| given != number) {
        bail!("the machine n{number} was let in as node {given:?}: what follows would be asked of another one");
    }
    Ok(Outcome::Installed(told(&[], [("joined", name(number)), ("ready_after_ms", millis(began))])))
}

pub(super) fn millis(since: Instant) -> Value {
    count(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Kills a node for good. Nobody wants anything of it any more.
pub(super) fn remove(cluster: &mut Cluster, node: u64) -> Result<()> {
    let shards = led_by(cluster, node);
    let at = Instant::now();
    cluster.bring_down(&[node])?;
    cluster.node(node).set_standing(Standing::Gone);
    cluster.affairs.wanted.retain(|(of, _)| *of != node);
    cluster.affairs.losses.push(Loss { at, shards });
    Ok(())
}
