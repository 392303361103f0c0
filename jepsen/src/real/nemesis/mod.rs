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

mod clock;
mod disk;
mod flip;
mod kill;
mod members;
mod partition;
mod pause;
mod power;
mod rot;
mod storm;
mod trial;
mod weather;

use super::cluster::Cluster;
use crate::{history::Value, real::names};
use anyhow::{Result, bail};
use futures::future::BoxFuture;
use members::{Deed, Members};
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

/// What was seen of a fault until its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// All of it.
    pub value: Value,
    /// Why nobody can say any more that it took hold, although its beginning looked so.
    pub doubt: Option<String>,
}

impl From<Value> for Seen {
    fn from(value: Value) -> Self {
        Seen { value, doubt: None }
    }
}

/// One fault, once.
pub trait Nemesis: Send {
    /// Begins.
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>>;

    /// Ends, and says what was seen meanwhile.
    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Seen>>;
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
    /// `weather`: added to every message. `slow-sync`: to every sync, `20ms` or `20ms..2s`. `power-loss`: to every sync
    /// just before.
    pub delay: Option<String>,
    /// `weather`: added on top, at random up to this.
    pub jitter: Option<String>,
    /// `weather`: of a hundred messages so many are lost.
    pub loss_percent: Option<f64>,
    /// `weather`: of a hundred packets so many arrive twice.
    pub duplicate_percent: Option<f64>,
    /// `weather`: of a hundred packets so many are overtaken by later ones.
    pub reorder_percent: Option<f64>,
    /// Disks: which part is bad, `journal`, `engine` or `all`.
    pub part: Option<String>,
    /// Disks: how often; until the hold ends unless given.
    pub times: Option<u64>,
    /// Clocks: by how much they are off, `1s` or `100ms..288s`; before or behind is drawn.
    pub offset: Option<String>,
    /// `clock-strobe`: how long the clock stays on one side.
    pub period: Option<String>,
}

impl Wish {
    /// The fields of single kinds that are given.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        let fields = [
            ("delay", self.delay.is_some()),
            ("jitter", self.jitter.is_some()),
            ("loss_percent", self.loss_percent.is_some()),
            ("duplicate_percent", self.duplicate_percent.is_some()),
            ("reorder_percent", self.reorder_percent.is_some()),
            ("part", self.part.is_some()),
            ("times", self.times.is_some()),
            ("offset", self.offset.is_some()),
            ("period", self.period.is_some()),
        ];
        fields.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name)
    }
}

/// What a kind of fault needs of the way nodes are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// The shim.
    Shim,
    /// The shim, writing down whatever is not synced.
    Recording,
}

/// A kind of fault.
pub struct Kind {
    /// Its name in experiments.
    pub name: &'static str,
    /// What it does, for people.
    pub about: &'static str,
    /// At whom it can be aimed, the usual one first.
    pub targets: &'static [&'static str],
    /// The fields it takes beside those that all take.
    pub takes: &'static [&'static str],
    /// What it needs.
    pub needs: Needs,
    /// Draws one.
    pub draw: fn(&Wish, &str, SmallRng) -> Result<Box<dyn Nemesis>>,
}

/// Every kind there is.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "partition",
        about: "cuts links between nodes: one node off, the leader off, two halves, a ring in which each sees a \
                majority, one direction only, the leader off from clients as well",
        targets: &["one", "leader", "halves", "ring", "one-way", "deaf", "deaf-leader", "unreachable"],
        takes: &[],
        needs: Needs::Nothing,
        draw: |_, target, chance| Ok(Box::new(partition::Partition::new(target, chance))),
    },
    Kind {
        name: "weather",
        about: "delays, jitters, loses, duplicates and reorders what nodes say to each other",
        targets: &["all", "one", "leader"],
        takes: &["delay", "jitter", "loss_percent", "duplicate_percent", "reorder_percent"],
        needs: Needs::Nothing,
        draw: |wish, target, chance| Ok(Box::new(weather::BadWeather::new(wish, target, chance)?)),
    },
    Kind {
        name: "kill",
        about: "ends processes as a crash would, and starts them again",
        targets: &["one", "leader", "minority", "all"],
        takes: &[],
        needs: Needs::Nothing,
        draw: |_, target, chance| Ok(Box::new(kill::Kill::new(target, chance))),
    },
    Kind {
        name: "pause",
        about: "stops the time of processes, and lets them go on",
        targets: &["one", "leader", "minority"],
        takes: &[],
        needs: Needs::Nothing,
        draw: |_, target, chance| Ok(Box::new(pause::Pause::new(target, chance))),
    },
    Kind {
        name: "restart-storm",
        about: "kills and starts every node, one after the other, again and again, without waiting for it to be ready",
        targets: &["all"],
        takes: &[],
        needs: Needs::Nothing,
        draw: |_, _, chance| Ok(Box::new(storm::Storm::new(chance))),
    },
    Kind {
        name: "join",
        about: "a machine that waits is let in, and stays",
        targets: &["next"],
        takes: &[],
        needs: Needs::Nothing,
        draw: |_, _, chance| Ok(Box::new(Members::new(Deed::Join, chance))),
    },
    Kind {
        name: "drain",
        about: "a node is drained, and taken back",
        targets: &["one"],
        takes: &[],
        needs: Needs::Nothing,
        draw: |_, _, chance| Ok(Box::new(Members::new(Deed::Drain, chance))),
    },
    Kind {
        name: "move",
        about: "the replica of whoever leads a shard goes to another node, or the lead alone",
        targets: &["replica", "lead"],
        takes: &[],
        needs: Needs::Nothing,
        draw: |_, target, chance| {
            let deed = if target == "lead" { Deed::Lead } else { Deed::Move };
            Ok(Box::new(Members::new(deed, chance)))
        },
    },
    Kind {
        name: "replace",
        about: "a node is killed for good, another machine comes in its place, and it is forgotten",
        targets: &["one"],
        takes: &[],
        needs: Needs::Nothing,
        draw: |_, _, chance| Ok(Box::new(Members::new(Deed::Replace, chance))),
    },
    Kind {
        name: "grow-and-drain",
        about: "all machines that wait are let in, two old nodes are drained, one is forgotten and another one killed for \
                good and forgotten, and the rest are restarted one after the other",
        targets: &["all"],
        takes: &[],
        needs: Needs::Nothing,
        draw: |_, _, chance| Ok(Box::new(Members::new(Deed::Trial, chance))),
    },
    Kind {
        name: "flip-journal",
        about: "kills a node, flips bits of its journal, starts it: it must refuse, or recover",
        targets: &["one", "leader"],
        takes: &[],
        needs: Needs::Nothing,
        draw: |_, target, chance| Ok(Box::new(flip::Flip::new(target, chance))),
    },
    Kind {
        name: "flip-engine",
        about: "stops a node, flips bits of its engine's files, starts it: it must refuse and name the file, or never \
                show garbage",
        targets: &["one", "leader"],
        takes: &[],
        needs: Needs::Nothing,
        draw: |_, target, chance| Ok(Box::new(rot::Rot::new(target, chance))),
    },
    Kind {
        name: "slow-sync",
        about: "every sync takes longer",
        targets: &["one", "leader", "minority", "all"],
        takes: &["delay", "part", "times"],
        needs: Needs::Shim,
        draw: |wish, target, chance| bad_disk(disk::Trouble::SlowSync, wish, target, chance),
    },
    Kind {
        name: "failing-sync",
        about: "syncs fail (EIO), and what they should have covered is never synced; then the node is started anew",
        targets: &["one", "leader", "minority", "all"],
        takes: &["part", "times"],
        needs: Needs::Shim,
        draw: |wish, target, chance| bad_disk(disk::Trouble::FailingSync, wish, target, chance),
    },
    Kind {
        name: "write-error",
        about: "writes fail (EIO); then the node is started anew",
        targets: &["one", "leader", "minority", "all"],
        takes: &["part", "times"],
        needs: Needs::Shim,
        draw: |wish, target, chance| bad_disk(disk::Trouble::WriteError, wish, target, chance),
    },
    Kind {
        name: "disk-full",
        about: "files do not grow and none are made (ENOSPC); then the node is started anew if it gave up",
        targets: &["one", "leader", "minority", "all"],
        takes: &["part", "times"],
        needs: Needs::Shim,
        draw: |wish, target, chance| bad_disk(disk::Trouble::DiskFull, wish, target, chance),
    },
    Kind {
        name: "power-loss",
        about: "ends processes, and what they had not synced is gone, torn, or partly there",
        targets: &["one", "leader", "minority", "all"],
        takes: &["delay"],
        needs: Needs::Recording,
        draw: |wish, target, chance| Ok(Box::new(power::PowerLoss::new(wish, target, chance)?)),
    },
    Kind {
        name: "clock-offset",
        about: "the time of day of a process jumps, and back",
        targets: &["one", "leader", "minority", "all"],
        takes: &["offset"],
        needs: Needs::Shim,
        draw: |wish, target, chance| Ok(Box::new(clock::WrongClock::new(false, wish, target, chance)?)),
    },
    Kind {
        name: "clock-strobe",
        about: "the time of day of a process jumps to and fro",
        targets: &["one", "leader", "minority", "all"],
        takes: &["offset", "period"],
        needs: Needs::Shim,
        draw: |wish, target, chance| Ok(Box::new(clock::WrongClock::new(true, wish, target, chance)?)),
    },
];

fn bad_disk(trouble: disk::Trouble, wish: &Wish, target: &str, chance: SmallRng) -> Result<Box<dyn Nemesis>> {
    Ok(Box::new(disk::BadDisk::new(trouble, wish, target, chance)?))
}

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
        if let Some(field) = wish.given().find(|field| !kind.takes.contains(field)) {
            let fit: Vec<&str> =
                KINDS.iter().filter(|kind| kind.takes.contains(&field)).map(|kind| kind.name).collect();
            bail!("faults: {}: {field} is for {}", kind.name, fit.join(", "));
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
    let minority = (cluster.members().len() - 1) / 2;
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

/// Nodes of which something was counted.
fn numbers(counted: &[(u64, u64)]) -> Vec<u64> {
    counted.iter().map(|(node, _)| *node).collect()
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
        assert!(field.contains("kill: delay is for weather, slow-sync, power-loss"), "{field}");
        let empty = refused(r#"{"fault": "weather", "every": "5s", "hold": "1s"}"#);
        assert!(empty.contains("does nothing"), "{empty}");
        let slow = refused(r#"{"fault": "slow-sync", "every": "5s", "hold": "1s"}"#);
        assert!(slow.contains("delay is missing"), "{slow}");
        let part = refused(r#"{"fault": "write-error", "part": "jornal", "every": "5s", "hold": "1s"}"#);
        assert!(part.contains("did you mean journal"), "{part}");
    }

    #[test]
    fn a_target_is_the_first_of_its_kind_unless_given() {
        let plan = wish(r#"{"fault": "partition", "every": "5s", "hold": "1s"}"#).unwrap();
        assert_eq!(plan.name(), "partition one");
    }
}
