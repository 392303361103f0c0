//! The ledger: one JSON line for each sweep of seeds and each run on real nodes, only ever appended to.
//!
//! **Invariant.** Only lines of clean checkouts count for their commit.

use super::tally::Run;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs::{self, File},
    io::Write as _,
    path::Path,
};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The commit that was built, as far as the checkout tells.
    pub commit: String,
    /// Whether the checkout was exactly that commit, and the programs were built since its code was written.
    pub is_clean: bool,
    /// When it ended, seconds since 1970.
    pub ended_unix_s: u64,
    /// Processors of the machine.
    pub processors: usize,
    /// What ran.
    #[serde(flatten)]
    pub what: What,
}

/// What ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// Simulated worlds.
    Simulated(Sweep),
    /// Real nodes.
    Real(Run),
}

/// Several seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// The first seed.
    pub first: u64,
    /// The last seed.
    pub last: u64,
    /// Simulated seconds of work in each.
    pub seconds: u64,
    /// Seeds that failed.
    pub failed: Vec<u64>,
    /// Wall seconds for all.
    pub took_s: u64,
}

impl Sweep {
    fn seeds(&self) -> u64 {
        (self.last + 1).saturating_sub(self.first)
    }
}

/// Appends a line.
///
/// # Errors
/// The file cannot be written.
pub fn append(path: &Path, line: &Line) -> Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut file = File::options().create(true).append(true).open(path).with_context(|| path.display().to_string())?;
    file.write_all(text.as_bytes()).with_context(|| path.display().to_string())
}

/// Reads all lines.
///
/// # Errors
/// The file cannot be read, or a line of it, named by its number.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(path).with_context(|| format!("the ledger {} cannot be read", path.display()))?;
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    numbered
        .map(|(number, line)| {
            serde_json::from_str(line).with_context(|| format!("{}: line {}", path.display(), number + 1))
        })
        .collect()
}

/// What lines add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    seeds: u64,
    simulated_s: u64,
    failed_seeds: Vec<u64>,
    verdicts: BTreeMap<String, u64>,
    experiments: BTreeMap<String, u64>,
    real_s: u64,
    kills: u64,
    power_losses: u64,
    operations: u64,
    recoveries_ms: Vec<u64>,
    never_recovered: u64,
}

impl Sum {
    /// Adds lines up.
    #[must_use]
    pub fn of<'l>(lines: impl IntoIterator<Item = &'l Line>) -> Self {
        let mut sum = Sum::default();
        for line in lines {
            match &line.what {
                What::Simulated(sweep) => {
                    sum.seeds += sweep.seeds();
                    sum.simulated_s += sweep.seeds() * sweep.seconds;
                    sum.failed_seeds.extend(&sweep.failed);
                }
                What::Real(run) => sum.add(run),
            }
        }
        sum.recoveries_ms.sort_unstable();
        sum
    }

    fn add(&mut self, run: &Run) {
        *self.verdicts.entry(run.verdict.clone()).or_default() += 1;
        *self.experiments.entry(run.experiment.clone()).or_default() += 1;
        self.real_s += run.seconds;
        self.kills += run.kills;
        self.power_losses += run.power_losses;
        self.operations += run.operations;
        self.recoveries_ms.extend(run.leader_kill_recoveries_ms.iter().flatten());
        self.never_recovered += run.leader_kill_recoveries_ms.iter().filter(|one| one.is_none()).count() as u64;
    }

    /// The time within which so many of a hundred killed leaders had a successor that acknowledged a write.
    fn recovery_ms(&self, percentile: usize) -> Option<u64> {
        let place = (self.recoveries_ms.len() * percentile).div_ceil(100).saturating_sub(1);
        self.recoveries_ms.get(place).copied()
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
        };
        let hours = self.simulated_s as f64 / 3_600.0;
        writeln!(f, "  simulated: {} seeds, {hours:.1} h, {} failed", self.seeds, self.failed_seeds.len())?;
        if !self.failed_seeds.is_empty() {
            writeln!(f, "    failed: {:?}", self.failed_seeds)?;
        }
        let runs: u64 = self.verdicts.values().sum();
        writeln!(f, "  real nodes: {runs} runs, {} s of faults: {}", self.real_s, list(&self.verdicts))?;
        writeln!(f, "    {} operations, {} kill -9, {} power losses", self.operations, self.kills, self.power_losses)?;
        if let (Some(median), Some(last)) = (self.recovery_ms(50), self.recovery_ms(99)) {
            let count = self.recoveries_ms.len();
            writeln!(
                f,
                "    killed leader to next acknowledged write: median {median} ms, p99 {last} ms, of {count}, {} never",
                self.never_recovered
            )?;
        }
        write!(f, "    experiments: {}", list(&self.experiments))
    }
}

/// Totals by commit, in the order in which commits first appear, then of all.
#[must_use]
pub fn told(lines: &[Line]) -> String {
    let mut commits: Vec<&str> = Vec::new();
    for line in lines.iter().filter(|line| line.is_clean) {
        if !commits.contains(&line.commit.as_str()) {
            commits.push(&line.commit);
        }
    }
    let mut text = String::new();
    for commit in commits {
        let sum = Sum::of(lines.iter().filter(|line| line.is_clean && line.commit == commit));
        let _ = writeln!(text, "{commit}\n{sum}");
    }
    let unclean = lines.iter().filter(|line| !line.is_clean).count();
    let _ = write!(text, "all {} lines, {unclean} of checkouts with changes\n{}", lines.len(), Sum::of(lines));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(commit: &str, what: What) -> Line {
        Line { commit: commit.into(), is_clean: true, ended_unix_s: 1, processors: 2, what }
    }

    fn sweep(first: u64, last: u64, failed: &[u64]) -> What {
        What::Simulated(Sweep { first, last, seconds: 60, failed: failed.to_vec(), took_s: 9 })
    }

    fn run(verdict: &str, recoveries: &[Option<u64>]) -> What {
        What::Real(Run {
            experiment: "leader-killed".into(),
            seed: 7,
            seconds: 60,
            nodes: 3,
            network: "network namespaces".into(),
            verdict: verdict.into(),
            reason: None,
            operations: 1_000,
            kills: 5,
            power_losses: 1,
            faults: BTreeMap::from([("kill leader".to_owned(), [5, 0, 0])]),
            operators: BTreeMap::new(),
            leader_kill_recoveries_ms: recoveries.to_vec(),
            replay: "jepsen run leader-killed --seed 7".into(),
        })
    }

    #[test]
    fn lines_are_appended_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docs/campaigns.jsonl");
        let lines = [line("a", sweep(1, 50, &[7])), line("b", run("ok", &[Some(900), None]))];
        for one in &lines {
            append(&path, one).unwrap();
        }
        assert_eq!(read(&path).unwrap(), lines);
    }

    #[test]
    fn a_torn_line_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        append(&path, &line("a", sweep(1, 1, &[]))).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}{}", &whole[..20])).unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("ledger: line 2"));
        let absent = read(&directory.path().join("absent")).unwrap_err();
        assert!(format!("{absent:#}").contains("cannot be read"), "{absent:#}");
    }

    #[test]
    fn lines_add_up_by_commit() {
        let mut dirty = line("b", sweep(1, 9, &[]));
        dirty.is_clean = false;
        let lines = [
            line("a", sweep(1, 50, &[7])),
            line("b", sweep(51, 100, &[])),
            line("b", run("ok", &[Some(1_000), Some(800), Some(1_200)])),
            line("b", run("violation", &[None])),
            dirty,
        ];
        let told = told(&lines);
        assert!(told.starts_with("a\n  simulated: 50 seeds, 0.8 h, 1 failed\n    failed: [7]\n"), "{told}");
        let of_b = &told[told.find("\nb\n").unwrap()..told.find("all 5 lines, 1 of checkouts").unwrap()];
        for part in [
            "simulated: 50 seeds, 0.8 h, 0 failed",
            "real nodes: 2 runs, 120 s of faults: 1 ok, 1 violation",
            "2000 operations, 10 kill -9, 2 power losses",
            "median 1000 ms, p99 1200 ms, of 3, 1 never",
        ] {
            assert!(of_b.contains(part), "{part} is not in {of_b}");
        }
        assert!(told[told.find("all 5").unwrap()..].contains("simulated: 109 seeds"), "{told}");
    }
}
