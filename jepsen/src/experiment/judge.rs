//! The verdict on a run.
//!
//! ```text
//!   violation   a check found a broken promise, a node panicked, ended by itself or promised nothing more without a
//!               reason on its disk, the cluster did not come back, a claim does not hold
//!   unknown     a check met a limit, or there was no steady state to begin with
//!   vacuous     a fault never took hold, a claim had nothing to measure, a check had nothing to judge
//! ```
//!
//! **Invariant.** The worst decides, and every reason is given.

use super::{
    measure::{Stretch, has_writes},
    nemeses::Tried,
    probe::Measured,
    run::{Done, Shown},
    spec::Experiment,
};
use crate::{
    check::{self, Options, Report, Verdict},
    history::{History, Record},
    real::{affairs::Endings, node::Downfall},
    workload::Sample,
};
use anyhow::{Context, Result};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// Limits of one check.
const CHECK_MAX: Duration = Duration::from_secs(60);
const CHECK_BYTES_MAX: u64 = 512 << 20;

/// The fault that loses a node that leads.
const TRIAL: &str = "grow-and-drain";

/// Whatever was written to that long before a loss is in use.
const FELT_NS: u64 = 5_000_000_000;

/// One history and what the checks say of it.
pub struct Judged {
    /// The workload, or `hashes`.
    pub name: String,
    /// The history's file.
    pub path: PathBuf,
    /// The history.
    pub history: History,
    /// By check.
    pub reports: Vec<Report>,
}

/// The answer.
pub struct Judgement {
    /// The worst of all.
    pub verdict: Verdict,
    /// Why it is not ok.
    pub reasons: Vec<(Verdict, String)>,
    /// By history.
    pub judged: Vec<Judged>,
    /// Steady state before and after the faults, and the hypothesis.
    pub claims: [Vec<Measured>; 3],
}

/// Judges.
///
/// # Errors
/// A history that cannot be judged: the harness wrote it.
pub fn judge(experiment: &Experiment, shown: &mut Shown) -> Result<Judgement> {
    let mut judged = Vec::new();
    for Done { load, path, records } in &mut shown.done {
        judged.push(by_checks(load.kind.name, path, std::mem::take(records), load.kind.checks)?);
    }
    judged.push(by_checks("hashes", &shown.hashes.0, std::mem::take(&mut shown.hashes.1), &["hashes"])?);
    let mut reasons = Vec::new();
    for Judged { name, reports, .. } in &judged {
        for report in reports.iter().filter(|report| report.verdict != Verdict::Ok) {
            let said = report.reasons.first().map_or("it does not say why", String::as_str);
            reasons.push((report.verdict, format!("{name}, by {}: {said}", report.model)));
        }
    }
    reasons.extend(shown.panics.iter().map(|line| (Verdict::Violation, format!("a node panicked: {line}"))));
    reasons.extend(unexcused(&shown.downfalls));
    reasons.extend(shown.failures.iter().map(|failure| (Verdict::Violation, failure.clone())));
    let [warm_up, attacked, quiet] = &shown.phases;
    let measure = |claims: &[super::probe::Claim], stretch| claims.iter().map(|claim| claim.measure(stretch)).collect();
    let claims: [Vec<Measured>; 3] = [
        measure(&experiment.steady_state, warm_up),
        measure(&experiment.steady_state, quiet),
        measure(&experiment.hypothesis, attacked),
    ];
    weigh_claims(&claims, &mut reasons);
    let names: Vec<String> = experiment.faults.iter().map(|fault| fault.plan.name()).collect();
    reasons.extend(without_hold(&names, &shown.tried));
    reasons.extend(in_vain(&shown.operators));
    reasons.extend(unfelt(&shown.tried, &shown.samples));
    let verdict = reasons.iter().map(|(verdict, _)| *verdict).max().unwrap_or(Verdict::Ok);
    Ok(Judgement { verdict, reasons, judged, claims })
}

/// Nodes that fell although nothing that was done to them lets them.
fn unexcused(downfalls: &[Downfall]) -> impl Iterator<Item = (Verdict, String)> {
    let unexcused = downfalls.iter().filter(|downfall| downfall.excuse.is_none());
    unexcused.map(|downfall| (Verdict::Violation, downfall.sentence()))
}

/// Faults of the experiment, by their names, that never took hold. Each by its place: two may be of one name.
fn without_hold(names: &[String], tried: &[Tried]) -> Vec<(Verdict, String)> {
    let has_hold = |place: usize| tried.iter().any(|tried| tried.fault == place && tried.is_installed());
    let without = names.iter().enumerate().filter(|(place, _)| !has_hold(*place));
    let sentence = |(place, name)| match names.iter().filter(|other| *other == name).count() {
        1 => format!("the fault {name} never took hold"),
        _ => format!("the fault {name}, number {} of the experiment, never took hold", place + 1),
    };
    without.map(|fault| (Verdict::Vacuous, sentence(fault))).collect()
}

/// What people asked for, and were never given.
fn in_vain(operators: &BTreeMap<String, Endings>) -> impl Iterator<Item = (Verdict, String)> {
    let in_vain = operators.iter().filter(|(_, endings)| endings.is_asked_for && endings.done == 0);
    in_vain.map(|(what, endings)| (Verdict::Vacuous, format!("{what}, asked for: {}", endings.sentence())))
}

/// The loss of a node that leads nothing anybody writes to costs nobody anything: what few operations a trial lost then
/// says nothing.
fn unfelt(tried: &[Tried], samples: &[Sample]) -> Vec<(Verdict, String)> {
    let trials = tried.iter().filter(|tried| tried.name.starts_with(TRIAL) && tried.is_installed());
    let is_felt = |tried: &&Tried| {
        let before = Stretch::of(samples, tried.struck_ns.saturating_sub(FELT_NS), tried.struck_ns);
        has_writes(&before.samples, &tried.shards)
    };
    let unfelt = trials.filter(|tried| !is_felt(tried));
    let sentence = |tried: &Tried| {
        let led = tried.shards.len();
        format!("{TRIAL}: the node killed for good led {led} shards, none that clients wrote to: its loss was not felt")
    };
    unfelt.map(|tried| (Verdict::Vacuous, sentence(tried))).collect()
}

fn by_checks(name: &str, path: &Path, records: Vec<Record>, checks: &[&str]) -> Result<Judged> {
    let history = History::from_records(records).with_context(|| path.display().to_string())?;
    let options = Options { memory_bytes_max: CHECK_BYTES_MAX, time_max: Some(CHECK_MAX), ..Options::default() };
    let judge = |check: &&str| {
        let check = check::find(check)?;
        (check.judge)(&history, &options).with_context(|| format!("{} cannot judge {}", check.name, path.display()))
    };
    let reports = checks.iter().map(judge).collect::<Result<_>>()?;
    Ok(Judged { name: name.to_owned(), path: path.to_owned(), history, reports })
}

fn weigh_claims(claims: &[Vec<Measured>; 3], reasons: &mut Vec<(Verdict, String)>) {
    let words = [
        ("no steady state before the faults", Verdict::Unknown),
        ("no steady state after the faults", Verdict::Violation),
        ("the hypothesis does not hold", Verdict::Violation),
    ];
    for (claims, (what, verdict)) in claims.iter().zip(words) {
        for claim in claims {
            match claim.is_kept {
                Some(true) => {}
                Some(false) => reasons.push((verdict, format!("{what}: {}", claim.sentence()))),
                None => reasons.push((Verdict::Vacuous, format!("{}: nothing to measure", claim.claim))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::{Kind, Value},
        real::nemesis::Outcome,
    };

    #[test]
    fn one_entry_of_a_kind_and_target_does_not_stand_for_another() {
        let names = ["kill one", "partition one", "kill one"].map(str::to_owned);
        let tried = |fault: usize, outcome: &Outcome| {
            let (name, outcome) = (names[fault].clone(), outcome.clone());
            let (seen, shards) = (Value::Nil, Vec::new());
            Tried { fault, name, from_ns: 0, struck_ns: 0, until_ns: 0, outcome, seen, shards }
        };
        let (installed, skipped) = (Outcome::Installed(Value::Nil), Outcome::Skipped("no node is up".to_owned()));
        let tries = [tried(0, &installed), tried(1, &installed), tried(2, &skipped)];
        let without: Vec<String> = without_hold(&names, &tries).into_iter().map(|(_, reason)| reason).collect();
        assert_eq!(without, ["the fault kill one, number 3 of the experiment, never took hold"]);
        assert!(without_hold(&names, &[&tries[..], &[tried(2, &installed)]].concat()).is_empty());
    }

    #[test]
    fn a_loss_that_nobody_who_writes_could_feel_shows_nothing() {
        let tried = |shards: &[u64], struck_s: u64| Tried {
            fault: 0,
            name: "grow-and-drain all".to_owned(),
            from_ns: 0,
            struck_ns: struck_s * 1_000_000_000,
            until_ns: 0,
            outcome: Outcome::Installed(Value::Nil),
            seen: Value::Nil,
            shards: shards.to_vec(),
        };
        let write = |ended_ns| Sample { invoked_ns: 0, ended_ns, kind: Kind::Ok, is_write: true, shard: Some(1) };
        let samples = [write(9_000_000_000)];
        let is_felt = |shards, struck_s| unfelt(&[tried(shards, struck_s)], &samples).is_empty();
        assert!(is_felt(&[1, 2], 10));
        assert!(!is_felt(&[2], 10), "nobody writes there");
        assert!(!is_felt(&[], 10), "it led nothing");
        assert!(!is_felt(&[1], 20), "nobody wrote there any more");
        let skipped = Tried { outcome: Outcome::Skipped("it was done already".to_owned()), ..tried(&[], 10) };
        assert!(unfelt(&[skipped], &samples).is_empty());
    }

    #[test]
    fn what_was_asked_for_and_never_given_shows_nothing() {
        let endings = |is_asked_for, done| Endings { is_asked_for, count: 2, done, failed: 1, ..Endings::default() };
        let of = |endings: Endings| in_vain(&BTreeMap::from([("move lead".to_owned(), endings)])).count();
        assert_eq!((of(endings(true, 0)), of(endings(true, 1)), of(endings(false, 0))), (1, 0, 0));
    }

    #[test]
    fn a_node_that_falls_without_an_excuse_is_a_violation() {
        let fell = |excuse: Option<&str>| Downfall {
            node: 2,
            how: "ended by itself (signal: 6): kvd: why".to_owned(),
            excuse: excuse.map(str::to_owned),
        };
        let reasons: Vec<_> = unexcused(&[fell(Some("its syncs failed")), fell(None)]).collect();
        assert_eq!(reasons, [(Verdict::Violation, "n2 ended by itself (signal: 6): kvd: why".to_owned())]);
    }

    #[test]
    fn a_broken_claim_weighs_by_where_it_broke() {
        let claim = |is_kept| vec![Measured { claim: "p99_ms below 5".into(), value: Some(7.0), is_kept }];
        let weigh = |claims| {
            let mut reasons = Vec::new();
            weigh_claims(&claims, &mut reasons);
            reasons.into_iter().map(|(verdict, _)| verdict).collect::<Vec<_>>()
        };
        assert_eq!(weigh([claim(Some(false)), Vec::new(), Vec::new()]), [Verdict::Unknown]);
        assert_eq!(weigh([claim(Some(true)), claim(Some(false)), claim(None)]), [Verdict::Violation, Verdict::Vacuous]);
        assert!(weigh([claim(Some(true)), claim(Some(true)), Vec::new()]).is_empty());
    }
}
