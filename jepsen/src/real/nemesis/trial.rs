//! The trial: what a cluster of three lives through, in order.
//!
//! ```text
//!   three founders ─ all that wait join ─ 1 and 2 drained until empty ─ 1 stopped, forgotten; 2 taken back
//!      ─ 2 or 3 made to lead, killed for good, forgotten ─ the rest stopped and started, one after the other
//! ```
//!
//! **Invariant.** The first thing that cannot be done ends it and is a violation: half a trial shows nothing. No step
//! begins before the cluster is settled and well after the one before.

use super::{
    count,
    members::{PATIENCE, join_next, led_by, millis, remove, waiting},
    told,
};
use crate::{
    history::Value,
    real::{cluster::Cluster, nemesis::Outcome, node::Readiness, people},
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a node that ends in order may take.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// How long somebody may take to lead what it was given.
const LEAD_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is asked for.
const LEAD_ATTEMPTS: usize = 4;

/// The shard most clients write to, the only one of its keyspace.
const BUSIEST: u64 = 1;

/// How long each step took, and what was done.
type Steps = Vec<(&'static str, Value)>;

/// All of it.
pub async fn trial(cluster: &mut Cluster) -> Result<Value, String> {
    if waiting(cluster).is_none() {
        return Err("it was done already".to_owned());
    }
    let mut steps = Steps::new();
    match live(cluster, &mut steps).await {
        Ok(lost) => Ok(told(&[lost], steps)),
        Err(why) => {
            let done = steps.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            cluster.affairs.complaints.push(format!("the trial could not go on after {done:?}: {why}"));
            Err(why)
        }
    }
}

async fn live(cluster: &mut Cluster, steps: &mut Steps) -> Result<u64, String> {
    let mut began = Instant::now();
    let mut over = |name: &'static str, steps: &mut Steps| {
        steps.push((name, millis(began)));
        began = Instant::now();
    };
    grow(cluster).await?;
    over("grown_ms", steps);
    for node in [1, 2] {
        people::change_node(cluster, node, "draining", PATIENCE).await?;
    }
    for node in [1, 2] {
        people::until_empty(cluster, node, PATIENCE).await?;
    }
    over("drained_ms", steps);
    stop(cluster, 1).await?;
    remove(cluster, 1).map_err(sentence)?;
    people::insist(cluster, 1, "forgotten", PATIENCE).await?;
    people::change_node(cluster, 2, "active", PATIENCE).await?;
    people::until_settled(cluster, PATIENCE).await?;
    over("forgotten_ms", steps);
    let lost = victim(cluster).await?;
    make_lead(cluster, lost).await;
    over("steered_ms", steps);
    remove(cluster, lost).map_err(sentence)?;
    let led = cluster.affairs.losses.last().map_or(0, |loss| loss.shards.len());
    steps.push(("killed_led_shards", count(led as u64)));
    people::insist(cluster, lost, "forgotten", PATIENCE).await?;
    people::until_settled(cluster, PATIENCE).await?;
    over("replaced_ms", steps);
    let rest = cluster.members();
    for node in &rest {
        restart(cluster, *node).await?;
    }
    over("restarted_ms", steps);
    steps.push(("restarted", count(rest.len() as u64)));
    Ok(lost)
}

/// All that wait are let in, and given something to hold.
async fn grow(cluster: &mut Cluster) -> Result<(), String> {
    while waiting(cluster).is_some() {
        match join_next(cluster, PATIENCE).await.map_err(sentence)? {
            Outcome::Installed(_) => {}
            Outcome::Skipped(why) | Outcome::Indeterminate(why) => return Err(why),
        }
    }
    people::until_settled(cluster, PATIENCE).await?;
    for node in cluster.members() {
        let held = people::status_of(cluster, node).await.map_or(0, |status| status.replicas.len());
        if held == 0 {
            return Err(format!("n{node} was given nothing to hold"));
        }
    }
    Ok(())
}

/// Of the old nodes left, the one that holds what most clients write to; if both do, the one that leads more.
async fn victim(cluster: &Cluster) -> Result<u64, String> {
    let mut fit = Vec::new();
    for node in [2, 3] {
        let status = people::status_of(cluster, node).await.ok_or_else(|| format!("n{node} does not answer"))?;
        if status.replicas.iter().any(|replica| replica.shard == BUSIEST && replica.role != "learner") {
            fit.push(node);
        }
    }
    let most = fit.into_iter().max_by_key(|node| led_by(cluster, *node).len());
    most.ok_or_else(|| format!("neither n2 nor n3 holds shard {BUSIEST}, although three of four nodes do"))
}

/// Has a node lead what it can, above all what most clients write to: the loss of one that leads nothing shows nothing.
/// The cluster may take leads from it again, so it is asked for more than once. What it leads in the end is for the
/// verdict.
async fn make_lead(cluster: &mut Cluster, node: u64) {
    for _ in 0..LEAD_ATTEMPTS {
        let led = led_by(cluster, node);
        let mut others: Vec<u64> =
            cluster.observer.leaders().into_keys().filter(|shard| !led.contains(shard)).collect();
        // The one that matters most comes last, and is least likely to be taken away again.
        others.sort_unstable_by(|one, other| other.cmp(one));
        let mut given = Vec::new();
        for shard in others {
            given.extend(people::transfer_leader(cluster, shard, node).await);
        }
        let until = Instant::now() + LEAD_PATIENCE;
        while Instant::now() < until {
            let open = people::operators(cluster, Vec::new(), LEAD_PATIENCE).await;
            let is_given = open.is_ok_and(|open| open.iter().all(|operator| !given.contains(&operator.id)));
            if is_given && led_by(cluster, node).contains(&BUSIEST) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Stops a node in order and starts it, and waits until the cluster is well again.
async fn restart(cluster: &mut Cluster, node: u64) -> Result<(), String> {
    stop(cluster, node).await?;
    cluster.launch(node).map_err(sentence)?;
    match cluster.node(node).readiness(PATIENCE).await {
        Readiness::Ready => people::until_settled(cluster, PATIENCE).await,
        Readiness::NotReady(why) | Readiness::Ended(why) => Err(format!("n{node}: {why}")),
    }
}

async fn stop(cluster: &mut Cluster, node: u64) -> Result<(), String> {
    match cluster.node(node).stop_in_order(STOP_PATIENCE).await.map_err(sentence)? {
        true => Ok(()),
        false => Err(format!("n{node} did not end within {} s of being told to", STOP_PATIENCE.as_secs())),
    }
}

fn sentence(error: anyhow::Error) -> String {
    format!("{error:#}")
}
