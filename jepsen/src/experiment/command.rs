//! `jepsen run`, `list`, `clean`.
//!
//! ```text
//!   0 ok    1 violation    2 the harness, the machine or the request is at fault    3 unknown    4 vacuous
//! ```
//!
//! **Invariant.** Only a run that went through has a verdict. Data directories are kept if there is something to find
//! in them.

use super::{
    judge::judge,
    library::LIBRARY,
    progress,
    report::page,
    result::{replay, to_json},
    run::{Request, run},
    spec::Experiment,
};
use crate::{
    check::{self, Verdict},
    real::{
        cluster::find_kvd,
        directory::{self, HOME, RunDirectory},
        fabric::Choice,
        names, namespace,
    },
};
use anyhow::{Context, Result, bail};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// A name of the library, or a file.
    pub experiment: String,
    /// Seconds of faults instead of the experiment's.
    pub seconds: Option<u64>,
    /// What everything is drawn from; any, unless given.
    pub seed: Option<u64>,
    /// Nodes instead of the experiment's.
    pub nodes: Option<u64>,
    /// The program.
    pub kvd: Option<PathBuf>,
    /// The library that faults of disks and clocks need.
    pub shim: Option<PathBuf>,
    /// Where the run lies.
    pub out: Option<PathBuf>,
    /// Which network.
    pub network: Choice,
}

/// What to print, and what to end with.
#[derive(Debug)]
pub struct Answer {
    /// Several lines.
    pub text: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Where the run lies.
    pub directory: PathBuf,
}

/// Runs an experiment, judges it, writes the report.
///
/// # Errors
/// Whatever is not a verdict.
pub async fn run_experiment(wish: &Wish) -> Result<Answer> {
    let mut experiment = find(&wish.experiment)?;
    if let Some(nodes) = wish.nodes {
        experiment.set_nodes(nodes)?;
    }
    if let Some(seconds) = wish.seconds {
        experiment.set_length(Duration::from_secs(seconds))?;
    }
    let kvd = find_kvd(wish.kvd.as_deref())?;
    clean_up_directories(Path::new(HOME))?;
    // Somebody else's leftovers that we may not remove are no reason not to run.
    if let Err(refused) = clean_up_namespaces() {
        progress::line(&format!("{refused:#}"));
    }
    let seed = wish.seed.unwrap_or_else(|| u64::from(SmallRng::from_os_rng().random::<u32>()));
    let directory = match &wish.out {
        Some(out) => RunDirectory::take(out)?,
        None => RunDirectory::take_new(Path::new(HOME), &format!("{}-{seed}", experiment.name))?,
    };
    let request = Request { experiment, seed, kvd, shim: wish.shim.clone(), network: wish.network, is_told: true };
    progress::line(&format!("{}: {}", request.experiment.name, request.experiment.about));
    progress::line(&format!("seed {seed}, in {}; again: {}", directory.path().display(), replay(&request)));
    let mut shown = tokio::select! {
        biased;
        shown = run(&request, directory) => shown?,
        word = interrupted() => bail!("interrupted by {word}: everything was stopped, there is no verdict"),
    };
    progress::line("judging");
    let (request, shown, judgement) = tokio::task::spawn_blocking(move || {
        let judgement = judge(&request.experiment, &mut shown)?;
        anyhow::Ok((request, shown, judgement))
    })
    .await??;
    let directory = shown.directory.clone();
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    write("result.json", format!("{:#}\n", to_json(&request, &shown, &judgement)))?;
    write("report.html", page(&request, &shown, &judgement))?;
    let verdict = judgement.verdict;
    let mut text = format!("{}: {} (seed {seed})\n", request.experiment.name, verdict.as_str().to_uppercase());
    for (verdict, reason) in &judgement.reasons {
        let _ = writeln!(text, "  {verdict}: {reason}");
    }
    for judged in &judgement.judged {
        let findings = judged.reports.iter().flat_map(|report| report.findings.first());
        for finding in findings {
            text.push_str(&check::window(&judged.history, finding));
        }
        if judged.reports.iter().any(|report| report.verdict == Verdict::Violation) {
            let page = check::timeline(&judged.name, &judged.history, &judged.reports);
            write(&format!("timeline-{}.html", judged.name), page)?;
        }
    }
    if verdict == Verdict::Ok {
        directory::remove_data(&directory)?;
    }
    let _ = write!(text, "report: {}", directory.join("report.html").display());
    Ok(Answer { text, verdict, directory })
}

/// A name of the library, or a file.
fn find(name: &str) -> Result<Experiment> {
    if let Some((_, text)) = LIBRARY.iter().find(|(known, _)| *known == name) {
        return Experiment::parse(text);
    }
    let path = Path::new(name);
    if path.extension().is_none() && !path.exists() {
        bail!(names::unknown("experiment", name, LIBRARY.iter().map(|(name, _)| *name)));
    }
    let text = fs::read_to_string(path).with_context(|| format!("{name} cannot be read"))?;
    Experiment::parse(&text).with_context(|| name.to_owned())
}

/// Waits for somebody who wants it to end.
async fn interrupted() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => "Ctrl-C",
        _ = terminate.recv() => "a signal",
    }
}

/// What there is to run.
#[must_use]
pub fn list() -> String {
    let mut text = String::from("experiments (jepsen run NAME):\n");
    for (name, file) in LIBRARY {
        let about = Experiment::parse(file).map(|experiment| experiment.about).unwrap_or_default();
        let _ = writeln!(text, "  {name:20} {about}");
    }
    text.push_str("workloads:\n");
    for kind in crate::workload::KINDS {
        let _ = writeln!(text, "  {:20} {} (judged by {})", kind.name, kind.about, kind.checks.join(", "));
    }
    text.push_str("faults:\n");
    for kind in crate::real::nemesis::KINDS {
        let _ = writeln!(text, "  {:20} {} (target: {})", kind.name, kind.about, kind.targets.join(", "));
    }
    let _ = write!(text, "probes:\n  {}", super::spec::probes().join(", "));
    text
}

/// Ends what killed runs left, and removes their networks.
///
/// # Errors
/// Something cannot be removed.
pub fn clean_up(home: &Path) -> Result<usize> {
    let runs = clean_up_directories(home)?;
    clean_up_namespaces()?;
    Ok(runs)
}

fn clean_up_directories(home: &Path) -> Result<usize> {
    let cleaned = directory::clean(home)?;
    for run in &cleaned {
        progress::line(&format!("cleaned up {}: {} processes ended", run.path.display(), run.ended));
    }
    Ok(cleaned.len())
}

fn clean_up_namespaces() -> Result<()> {
    let namespace::Cleaned { namespaces, ended } = namespace::clean(&namespace::Host::here())?;
    if namespaces > 0 {
        progress::line(&format!("cleaned up {namespaces} network namespaces: {ended} more processes ended"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_experiment_nobody_knows_is_refused_with_the_nearest() {
        let refused = find("leader-kiled").err().unwrap().to_string();
        assert!(refused.contains("did you mean leader-killed"), "{refused}");
        assert!(find("nowhere.yaml").err().unwrap().to_string().contains("nowhere.yaml"));
    }

    #[test]
    fn the_list_names_everything() {
        let list = list();
        for name in ["leader-killed", "cas-register", "flip-journal", "availability_percent"] {
            assert!(list.contains(name), "{name}");
        }
    }
}
