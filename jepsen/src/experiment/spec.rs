//! An experiment as its file says it, checked before anything is started.
//!
//! **Invariant.** An [`Experiment`] can be run: every name in it is known, every quantity has been read, and what it
//! claims can be measured.

use super::probe::{Claim, ClaimWish, Probe};
use crate::{
    real::{
        names,
        nemesis::{Plan, Wish},
        schedule::Recurring,
        units,
    },
    workload,
};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::time::Duration;

/// Nodes that can be asked for: fewer have no minority, more do not fit one machine.
const NODES: std::ops::RangeInclusive<u64> = 3..=5;

/// Faults after which a leader still leads.
const STOPS_NOBODY: [&str; 7] = ["weather", "slow-sync", "clock-offset", "clock-strobe", "join", "move", "drain"];

/// Operations a second of one workload, unless the experiment says otherwise.
const RATE: f64 = 100.0;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    about: String,
    #[serde(default = "three")]
    nodes: u64,
    #[serde(default)]
    joiners: u64,
    seconds: u64,
    #[serde(default = "five_seconds")]
    warm_up: String,
    #[serde(default = "five_seconds")]
    quiet: String,
    #[serde(default = "two_seconds")]
    deadline: String,
    #[serde(default)]
    overlap: bool,
    #[serde(default)]
    leases: bool,
    workloads: Vec<WorkloadWish>,
    #[serde(default)]
    faults: Vec<Wish>,
    #[serde(default)]
    steady_state: Vec<ClaimWish>,
    #[serde(default)]
    hypothesis: Vec<ClaimWish>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkloadWish {
    workload: String,
    clients: Option<u64>,
    rate: Option<f64>,
}

fn three() -> u64 {
    3
}

fn two_seconds() -> String {
    "2s".to_owned()
}

fn five_seconds() -> String {
    "5s".to_owned()
}

/// Some clients doing the same.
#[derive(Clone)]
pub struct Load {
    /// What they do.
    pub kind: &'static workload::Kind,
    /// How many.
    pub clients: u64,
    /// Operations a second, all of them together.
    pub rate: f64,
}

/// An experiment that can be run.
#[derive(Clone)]
pub struct Experiment {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub about: String,
    /// Nodes that found the cluster.
    pub nodes: u64,
    /// Machines that wait to be let in.
    pub joiners: u64,
    /// How long faults happen.
    pub length: Duration,
    /// How long nothing happens before.
    pub warm_up: Duration,
    /// How long nothing happens after.
    pub quiet: Duration,
    /// How long clients wait for an operation.
    pub deadline: Duration,
    /// Whether a fault may begin during another.
    pub may_overlap: bool,
    /// Whether leaders answer reads by their lease.
    pub has_leases: bool,
    /// What clients do.
    pub loads: Vec<Load>,
    /// What is done to nodes and links.
    pub faults: Vec<Recurring>,
    /// What holds while nothing bad happens.
    pub steady_state: Vec<Claim>,
    /// What holds nevertheless.
    pub hypothesis: Vec<Claim>,
}

impl Experiment {
    /// Reads and checks one.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
        if file.name.is_empty()
            || !file.name.bytes().all(|byte| byte.is_ascii_lowercase() || b"-0123456789".contains(&byte))
        {
            bail!("name: {:?} is no name: write a-z 0-9 -", file.name);
        }
        if file.workloads.is_empty() {
            bail!("workloads: none: nothing would be shown");
        }
        let mut experiment = Experiment {
            name: file.name,
            about: file.about.split_whitespace().collect::<Vec<_>>().join(" "),
            nodes: 0,
            joiners: file.joiners,
            length: Duration::from_secs(file.seconds),
            warm_up: units::duration(&file.warm_up).context("warm_up")?,
            quiet: units::duration(&file.quiet).context("quiet")?,
            deadline: units::duration(&file.deadline).context("deadline")?,
            may_overlap: file.overlap,
            has_leases: file.leases,
            loads: file.workloads.iter().map(load).collect::<Result<_>>()?,
            faults: file.faults.iter().map(recurring).collect::<Result<_>>()?,
            steady_state: file.steady_state.iter().map(Claim::of).collect::<Result<_>>().context("steady_state")?,
            hypothesis: file.hypothesis.iter().map(Claim::of).collect::<Result<_>>().context("hypothesis")?,
        };
        experiment.set_nodes(file.nodes)?;
        experiment.check()?;
        Ok(experiment)
    }

    /// As many nodes instead.
    ///
    /// # Errors
    /// Too few or too many, or too few for a fault.
    pub fn set_nodes(&mut self, nodes: u64) -> Result<()> {
        if !NODES.contains(&nodes) {
            bail!("nodes: {nodes}: write {} to {}", NODES.start(), NODES.end());
        }
        if nodes + self.joiners > *NODES.end() {
            bail!("joiners: {} beside {nodes} nodes: at most {} fit one machine", self.joiners, NODES.end());
        }
        if nodes < 5 && self.faults.iter().any(|fault| fault.plan.target == "ring") {
            bail!("nodes: {nodes}: a partition in a ring needs 5 nodes, or everybody keeps everybody");
        }
        self.nodes = nodes;
        Ok(())
    }

    /// Faults for as long instead.
    ///
    /// # Errors
    /// No time at all.
    pub fn set_length(&mut self, length: Duration) -> Result<()> {
        if length.is_zero() && !self.faults.is_empty() {
            bail!("seconds: 0: no fault would happen");
        }
        self.length = length;
        self.check()
    }

    fn check(&self) -> Result<()> {
        let mut names: Vec<&str> = self.loads.iter().map(|load| load.kind.name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("workloads: {} is named twice: give it more clients instead", twice[0]);
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(10)).contains(&self.deadline) {
            bail!("deadline: write 100ms to 10s: who waits longer hides what happens");
        }
        if self.warm_up < Duration::from_secs(1) {
            bail!("warm_up: at least 1s: without it there is no steady state to come from");
        }
        for fault in &self.faults {
            let needs_joiners = ["join", "replace", "grow-and-drain"].contains(&fault.plan.kind.name);
            if needs_joiners && self.joiners == 0 {
                bail!("faults: {} needs machines that wait: write joiners: 1 or 2", fault.plan.name());
            }
            if *fault.hold.start() > self.length {
                bail!("faults: {} holds longer than the experiment: lengthen seconds", fault.plan.name());
            }
        }
        if let Some(claim) = self.steady_state.iter().find(|claim| claim.probe.needs_faults()) {
            bail!("steady_state: {} needs faults: it can only be claimed in the hypothesis", claim.probe.name());
        }
        let has_victims = self.faults.iter().any(|fault| !STOPS_NOBODY.contains(&fault.plan.kind.name));
        if let Some(claim) = self.hypothesis.iter().find(|claim| claim.probe.needs_faults() && !has_victims) {
            bail!("hypothesis: {} cannot be probed: no fault stops a leader", claim.probe.name());
        }
        Ok(())
    }
}

fn load(wish: &WorkloadWish) -> Result<Load> {
    let Some(kind) = workload::KINDS.iter().find(|kind| kind.name == wish.workload) else {
        let known = workload::KINDS.iter().map(|kind| kind.name);
        bail!("workloads: {}", names::unknown("workload", &wish.workload, known));
    };
    let (clients, rate) = (wish.clients.unwrap_or(kind.clients), wish.rate.unwrap_or(RATE));
    if !(1..=100).contains(&clients) {
        bail!("workloads: {}: clients: {clients}: write 1 to 100", kind.name);
    }
    if !(rate > 0.0 && rate <= 100_000.0) {
        bail!("workloads: {}: rate: {rate}: write operations a second above 0", kind.name);
    }
    Ok(Load { kind, clients, rate })
}

fn recurring(wish: &Wish) -> Result<Recurring> {
    let plan = Plan::of(wish)?;
    let every = units::duration(&wish.every).with_context(|| format!("faults: {}: every", plan.name()))?;
    let hold = units::duration_range(&wish.hold).with_context(|| format!("faults: {}: hold", plan.name()))?;
    if every < Duration::from_millis(100) {
        bail!("faults: {}: every: at least 100ms", plan.name());
    }
    Ok(Recurring { plan, every, hold })
}

/// Whether a claim is about something an experiment can measure; for people.
pub fn probes() -> Vec<&'static str> {
    Probe::ALL.iter().map(|probe| probe.name()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name: one\nabout: x\nseconds: 10\nworkloads: [{workload: register}]\n";

    fn refused(more: &str) -> String {
        format!("{:#}", Experiment::parse(&format!("{GOOD}{more}")).err().unwrap())
    }

    #[test]
    fn a_good_one_is_read_with_its_defaults() {
        let faults = "faults: [{fault: kill, target: leader, every: 5s, hold: 1s..2s}]\n";
        let claims =
            "steady_state: [{probe: p99_ms, below: 500}]\nhypothesis: [{probe: recovery_max_ms, below: 9000}]\n";
        let experiment = Experiment::parse(&format!("{GOOD}{faults}{claims}")).unwrap();
        assert_eq!((experiment.nodes, experiment.loads[0].clients), (3, 6));
        assert_eq!(experiment.faults[0].plan.name(), "kill leader");
        assert_eq!(experiment.warm_up, Duration::from_secs(5));
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_a_reason() {
        assert!(refused("nods: 3\n").contains("nods"));
        assert!(refused("nodes: 2\n").contains("3 to 5"));
        assert!(refused("deadline: 60s\n").contains("100ms to 10s"));
        assert!(refused("nodes: 4\njoiners: 2\n").contains("at most 5 fit"));
        assert!(refused("faults: [{fault: join, every: 5s, hold: 1s}]\n").contains("write joiners"));
        assert!(refused("faults: [{fault: kil, every: 5s, hold: 1s}]\n").contains("did you mean kill"));
        assert!(refused("faults: [{fault: kill, every: 5, hold: 1s}]\n").contains("every"));
        assert!(refused("faults: [{fault: kill, every: 5s, hold: 11s}]\n").contains("longer than the experiment"));
        assert!(refused("faults: [{fault: partition, target: ring, every: 5s, hold: 1s}]\n").contains("needs 5 nodes"));
        let unknown = Experiment::parse("name: one\nabout: x\nseconds: 9\nworkloads: [{workload: registr}]\n");
        assert!(unknown.err().unwrap().to_string().contains("did you mean register"));
    }

    #[test]
    fn a_hypothesis_that_cannot_be_probed_is_refused() {
        let claim = "hypothesis: [{probe: recovery_max_ms, below: 9000}]\n";
        assert!(refused(claim).contains("cannot be probed: no fault stops a leader"));
        let weather = "faults: [{fault: weather, delay: 5ms, every: 5s, hold: 1s}]\n";
        assert!(refused(&format!("{weather}{claim}")).contains("cannot be probed"));
        assert!(refused("hypothesis: [{probe: p98_ms, below: 1}]\n").contains("did you mean p99_ms"));
        assert!(refused("hypothesis: [{probe: p99_ms}]\n").contains("below or above"));
        assert!(refused("steady_state: [{probe: recovery_max_ms, below: 1}]\n").contains("needs faults"));
    }
}
