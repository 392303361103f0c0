//! `jepsen campaign` and `jepsen ledger`.
//!
//! **Invariant.** The worst that came of anything is what the campaign ends with.

use super::{
    ledger::{self, Line, Sum, Sweep, What},
    tally::Run,
};
use crate::{
    check::Verdict,
    experiment::{
        command::{self as experiments, Wish},
        library::LIBRARY,
    },
    real::{cluster::find_kvd, fabric::Choice, names},
    sim::command as simulation,
};
use anyhow::{Context, Result, bail};
use std::{
    env, fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

/// Seeds that make one line of the ledger.
const SEEDS_PER_LINE: u64 = 50;

/// What to run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Seeds to simulate, if any.
    pub seeds: Option<RangeInclusive<u64>>,
    /// How each is simulated.
    pub simulation: simulation::Request,
    /// Seeds that run at once.
    pub jobs: usize,
    /// Runs on real nodes.
    pub runs: u64,
    /// Their experiments, in turn; all of the library unless given.
    pub experiments: Vec<String>,
    /// The first run's seed; the others count on.
    pub first_seed: u64,
    /// Seconds of faults in each.
    pub run_seconds: u64,
    /// The program kvd, if it does not lie beside this one.
    pub kvd: Option<PathBuf>,
    /// The library for faults of disks and clocks, if it does not lie beside this program.
    pub shim: Option<PathBuf>,
    /// Which network.
    pub network: Choice,
    /// Where every result goes.
    pub ledger: PathBuf,
}

/// Runs it all. Says what there was, and the worst of it; `None` = something had no verdict.
///
/// # Errors
/// The ledger cannot be written, an experiment is not known, or this program cannot be started again.
pub async fn run(campaign: &Campaign, say: &(dyn Fn(&str) + Sync)) -> Result<(String, Option<Verdict>)> {
    let experiments = chosen(&campaign.experiments)?;
    let here = Checkout::of_this_directory(campaign);
    let mut lines = Vec::new();
    let mut note = |what| {
        let line = here.line(what);
        let written = ledger::append(&campaign.ledger, &line);
        lines.push(line);
        written
    };
    if let Some(seeds) = &campaign.seeds {
        for first in (*seeds.start()..=*seeds.end()).step_by(SEEDS_PER_LINE as usize) {
            let last = (first + SEEDS_PER_LINE - 1).min(*seeds.end());
            let swept = simulation::many(first..=last, &campaign.simulation, campaign.jobs, say)?;
            let seconds = campaign.simulation.options.length.as_secs();
            note(What::Simulated(Sweep { first, last, seconds, failed: swept.failed, took_s: swept.took.as_secs() }))?;
        }
    }
    for (number, experiment) in (0..campaign.runs).zip(experiments.iter().cycle()) {
        let run = one_run(campaign, experiment, campaign.first_seed + number).await;
        let reason = run.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        say(&format!(
            "run {} of {}: {} seed {}: {}{reason}",
            number + 1,
            campaign.runs,
            experiment,
            run.seed,
            run.verdict
        ));
        note(What::Real(run))?;
    }
    let text = format!("this campaign, written to {}\n{}", campaign.ledger.display(), Sum::of(&lines));
    Ok((text, worst(&lines)))
}

/// The names of the experiments to run; whatever nobody knows is refused before anything runs.
fn chosen(wanted: &[String]) -> Result<Vec<String>> {
    let known = || LIBRARY.iter().map(|(name, _)| *name);
    if let Some(unknown) = wanted.iter().find(|name| !known().any(|one| one == *name)) {
        bail!("--experiments: {}", names::unknown("experiment", unknown, known()));
    }
    Ok(if wanted.is_empty() { known().map(str::to_owned).collect() } else { wanted.to_vec() })
}

/// One run; a failure of the harness is a run without verdict, and the next one goes on.
async fn one_run(campaign: &Campaign, experiment: &str, seed: u64) -> Run {
    let wish = Wish {
        experiment: experiment.to_owned(),
        seconds: Some(campaign.run_seconds),
        seed: Some(seed),
        nodes: None,
        kvd: campaign.kvd.clone(),
        shim: campaign.shim.clone(),
        out: None,
        network: campaign.network,
    };
    let run = match experiments::run_experiment(&wish).await {
        Ok(answer) => result_of(&answer.directory),
        Err(error) => Err(error),
    };
    run.unwrap_or_else(|error| Run {
        experiment: experiment.to_owned(),
        seed,
        seconds: campaign.run_seconds,
        verdict: "none".to_owned(),
        reason: Some(format!("{error:#}")),
        ..Run::default()
    })
}

fn result_of(directory: &Path) -> Result<Run> {
    let path = directory.join("result.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Run::of(&serde_json::from_str(&text).with_context(|| path.display().to_string())?)
}

/// The worst verdict; `None` = one is missing, and nothing else is a violation.
fn worst(lines: &[Line]) -> Option<Verdict> {
    let verdicts: Vec<&str> = lines
        .iter()
        .map(|line| match &line.what {
            What::Simulated(sweep) if sweep.failed.is_empty() => "ok",
            What::Simulated(_) => "violation",
            What::Real(run) => run.verdict.as_str(),
        })
        .collect();
    let has = |verdict: Verdict| verdicts.contains(&verdict.as_str());
    if has(Verdict::Violation) {
        return Some(Verdict::Violation);
    }
    if verdicts.contains(&"none") {
        return None;
    }
    let order = [Verdict::Unknown, Verdict::Vacuous];
    Some(order.into_iter().find(|verdict| has(*verdict)).unwrap_or(Verdict::Ok))
}

/// What a ledger adds up to.
///
/// # Errors
/// It cannot be read.
pub fn totals(ledger: &Path) -> Result<String> {
    Ok(ledger::told(&ledger::read(ledger)?))
}

/// The checkout in which this runs, as far as git tells.
struct Checkout {
    commit: String,
    /// Nothing was changed, and the programs are younger than the newest commit of code.
    is_clean: bool,
    processors: usize,
}

impl Checkout {
    fn of_this_directory(campaign: &Campaign) -> Self {
        let git = |arguments: &[&str]| {
            let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let changes = git(&["status", "--porcelain", "--untracked-files=no"]);
        // The ledger itself changes while a campaign goes on.
        let ledger = campaign.ledger.to_string_lossy();
        let is_unchanged = changes.is_some_and(|changes| changes.lines().all(|line| line.ends_with(&*ledger)));
        let coded = git(&["log", "-1", "--format=%ct", "--", "*.rs", "*.toml", "*.lock"]);
        let coded_unix_s = coded.and_then(|coded| coded.parse().ok()).unwrap_or(u64::MAX);
        let kvd = if campaign.runs > 0 { find_kvd(campaign.kvd.as_deref()).ok() } else { None };
        let programs = env::current_exe().ok().into_iter().chain(kvd);
        let is_clean = is_unchanged && programs.into_iter().all(|program| built_unix_s(&program) >= coded_unix_s);
        let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Checkout { commit, is_clean, processors }
    }

    #[expect(clippy::disallowed_methods, reason = "people want to know when; nothing is decided by it")]
    fn line(&self, what: What) -> Line {
        let ended = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Line {
            commit: self.commit.clone(),
            is_clean: self.is_clean,
            ended_unix_s: ended,
            processors: self.processors,
            what,
        }
    }
}

/// When a program was written, seconds since 1970; 0 = nobody knows.
fn built_unix_s(program: &Path) -> u64 {
    let modified = fs::metadata(program).and_then(|metadata| metadata.modified()).ok();
    modified.and_then(|moment| moment.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(verdicts: &[&str], failed: &[u64]) -> Vec<Line> {
        let here = Checkout { commit: "c".into(), is_clean: true, processors: 1 };
        let sweep = Sweep { first: 1, last: 9, seconds: 60, failed: failed.to_vec(), took_s: 1 };
        let runs = verdicts.iter().map(|verdict| What::Real(Run { verdict: (*verdict).to_owned(), ..Run::default() }));
        runs.chain([What::Simulated(sweep)]).map(|what| here.line(what)).collect()
    }

    #[test]
    fn a_campaign_ends_with_the_worst_there_was() {
        assert_eq!(worst(&lines(&["ok"], &[])), Some(Verdict::Ok));
        assert_eq!(worst(&lines(&["ok", "vacuous", "unknown"], &[])), Some(Verdict::Unknown));
        assert_eq!(worst(&lines(&["ok", "none", "unknown"], &[])), None);
        assert_eq!(worst(&lines(&["ok", "none", "violation"], &[])), Some(Verdict::Violation));
        assert_eq!(worst(&lines(&["ok"], &[4])), Some(Verdict::Violation));
    }

    #[test]
    fn an_experiment_that_nobody_knows_is_refused_before_anything_runs() {
        let refused = chosen(&["smoke".to_owned(), "leader-kiled".to_owned()]).unwrap_err().to_string();
        assert!(refused.contains("did you mean leader-killed"), "{refused}");
        assert_eq!(chosen(&[]).unwrap().len(), LIBRARY.len());
    }
}
