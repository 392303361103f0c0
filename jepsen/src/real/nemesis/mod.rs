//! # Nemesis: what is done to a cluster
//!
//! ```text
//!   experiment ─▶ Wish ─▶ KINDS (by name) ─▶ Nemesis { start … stop } ─▶ Outcome: installed | skipped | indeterminate
//! ```
//!
//! A new fault is a file with a type that implements [`Nemesis`] and a row in [`KINDS`].
//!
//! **Invariant.** What is reported is what was seen, not what was wanted: a fault that did not take hold says so.
//!
//! **Deliberately absent.** When: that is drawn in [`super::schedule`].

mod flip;
mod kill;
mod partition;
mod pause;
mod storm;
mod weather;

use super::cluster::Cluster;
use crate::{history::Value, real::names};
use anyhow::{Result, bail};
use futures::future::BoxFuture;
use rand::{rngs::SmallRng, seq::IndexedRandom as _};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What became of an attempt to do something bad.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It took hold, as seen.
    Installed(Value),
    /// It was not tried.
    Skipped(String),
    /// It was tried, and nobody can say whether it took hold.
    Indeterminate(String),
}

/// One fault, once.
pub trait Nemesis: Send {
    /// Begins.
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>>;

    /// Ends, and says what was seen meanwhile.
    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Value>>;
}

/// A fault as an experiment writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Its kind.
    pub fault: String,
    /// At whom; the kind's first target unless given.
    pub target: Option<String>,
    /// Mean time from the end of one to the beginning of the next.
    pub every: String,
    /// How long it lasts, `2s` or `1s..5s`.
    pub hold: String,
    /// `weather`: added to every message.
    pub delay: Option<String>,
    /// `weather`: added on top, at random up to this.
    pub jitter: Option<String>,
    /// `weather`: of a hundred messages so many are lost.
    pub loss_percent: Option<f64>,
    /// `weather`: of a hundred packets so many arrive twice.
    pub duplicate_percent: Option<f64>,
    /// `weather`: of a hundred packets so many are overtaken by later ones.
    pub reorder_percent: Option<f64>,
}

/// A kind of fault.
pub struct Kind {
    /// Its name in experiments.
    pub name: &'static str,
    /// What it does, for people.
    pub about: &'static str,
    /// At whom it can be aimed, the usual one first.
    pub targets: &'static [&'static str],
    /// Whether it takes delay, jitter, loss and the rest of a weather.
    pub has_weather: bool,
    /// Draws one.
    pub draw: fn(&Wish, &str, SmallRng) -> Result<Box<dyn Nemesis>>,
}

/// Every kind there is.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "partition",
        about: "cuts links between nodes: one node off, the leader off, two halves, a ring in which each sees a \
                majority, one direction only",
        targets: &["one", "leader", "halves", "ring", "one-way"],
        has_weather: false,
        draw: |_, target, chance| Ok(Box::new(partition::Partition::new(target, chance))),
    },
    Kind {
        name: "weather",
        about: "delays, jitters, loses, duplicates and reorders what nodes say to each other",
        targets: &["all", "one", "leader"],
        has_weather: true,
        draw: |wish, target, chance| Ok(Box::new(weather::BadWeather::new(wish, target, chance)?)),
    },
    Kind {
        name: "kill",
        about: "ends processes as a crash would, and starts them again",
        targets: &["one", "leader", "minority", "all"],
        has_weather: false,
        draw: |_, target, chance| Ok(Box::new(kill::Kill::new(target, chance))),
    },
    Kind {
        name: "pause",
        about: "stops the time of processes, and lets them go on",
        targets: &["one", "leader", "minority"],
        has_weather: false,
        draw: |_, target, chance| Ok(Box::new(pause::Pause::new(target, chance))),
    },
    Kind {
        name: "restart-storm",
        about: "kills and starts every node, one after the other, again and again, without waiting for it to be ready",
        targets: &["all"],
        has_weather: false,
        draw: |_, _, chance| Ok(Box::new(storm::Storm::new(chance))),
    },
    Kind {
        name: "flip-journal",
        about: "kills a node, flips bits of its journal, starts it: it must refuse, or recover",
        targets: &["one", "leader"],
        has_weather: false,
        draw: |_, target, chance| Ok(Box::new(flip::Flip::new(target, chance))),
    },
];

/// A wish that can be granted.
#[derive(Clone)]
pub struct Plan {
    /// The wish, its target filled in.
    pub wish: Wish,
    /// Its kind.
    pub kind: &'static Kind,
    /// At whom.
    pub target: String,
}

impl Plan {
    /// Refuses what no kind can do.
    pub fn of(wish: &Wish) -> Result<Self> {
        let Some(kind) = KINDS.iter().find(|kind| kind.name == wish.fault) else {
            bail!("faults: {}", names::unknown("fault", &wish.fault, KINDS.iter().map(|kind| kind.name)));
        };
        let target = wish.target.clone().unwrap_or_else(|| kind.targets[0].to_owned());
        if !kind.targets.contains(&target.as_str()) {
            bail!("faults: {}: {}", kind.name, names::unknown("target", &target, kind.targets.iter().copied()));
        }
        let percents = [wish.loss_percent, wish.duplicate_percent, wish.reorder_percent];
        let has_weather = wish.delay.is_some() || wish.jitter.is_some() || percents.iter().any(Option::is_some);
        if has_weather && !kind.has_weather {
            bail!(
                "faults: {}: delay, jitter, loss_percent, duplicate_percent and reorder_percent are for the fault weather",
                kind.name
            );
        }
        // What cannot be drawn is refused now, not in the middle of a run.
        (kind.draw)(wish, &target, rand::SeedableRng::seed_from_u64(0))?;
        Ok(Plan { wish: wish.clone(), kind, target })
    }

    /// `kill leader`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.kind.name, self.target)
    }
}

/// The nodes a target means now, among those that can be aimed at.
fn aim(target: &str, cluster: &Cluster, chance: &mut SmallRng) -> Result<Vec<u64>, String> {
    let fit: Vec<u64> =
        cluster.nodes.iter().filter(|node| node.is_running() && !node.is_paused()).map(|node| node.number).collect();
    let minority = (cluster.nodes.len() - 1) / 2;
    match target {
        "leader" => match cluster.leader() {
            Some(leader) if fit.contains(&leader) => Ok(vec![leader]),
            Some(leader) => Err(format!("n{leader} leads and is not up")),
            None => Err("nobody leads".to_owned()),
        },
        "one" => fit.choose(chance).map(|node| vec![*node]).ok_or_else(|| "no node is up".to_owned()),
        "minority" => Ok(fit.choose_multiple(chance, minority).copied().collect()),
        _ => Ok(fit),
    }
}

/// `{"nodes": ["n1"], …}`.
fn told(nodes: &[u64], more: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let nodes = nodes.iter().map(|node| Value::Text(format!("n{node}"))).collect();
    let fields = more.into_iter().chain([("nodes", Value::List(nodes))]);
    Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>())
}

/// A count as histories write it.
fn count(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(text: &str) -> Result<Plan> {
        Plan::of(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn what_no_kind_can_do_is_refused_with_the_nearest_name() {
        let refused = |text| wish(text).err().unwrap().to_string();
        let unknown = refused(r#"{"fault": "partitoin", "every": "5s", "hold": "1s"}"#);
        assert!(unknown.contains("\"partitoin\"") && unknown.contains("did you mean partition"), "{unknown}");
        let target = refused(r#"{"fault": "kill", "target": "leadr", "every": "5s", "hold": "1s"}"#);
        assert!(target.contains("did you mean leader"), "{target}");
        let field = refused(r#"{"fault": "kill", "delay": "5ms", "every": "5s", "hold": "1s"}"#);
        assert!(field.contains("are for the fault weather"), "{field}");
        let empty = refused(r#"{"fault": "weather", "every": "5s", "hold": "1s"}"#);
        assert!(empty.contains("does nothing"), "{empty}");
    }

    #[test]
    fn a_target_is_the_first_of_its_kind_unless_given() {
        let plan = wish(r#"{"fault": "partition", "every": "5s", "hold": "1s"}"#).unwrap();
        assert_eq!(plan.name(), "partition one");
    }
}
