//! `result.json`: the verdict and everything it rests on, for programs.

use super::{
    judge::{Judged, Judgement},
    measure::{Stretch, recovery_ms},
    nemeses::{Tried, word},
    probe::Measured,
    run::{Request, Shown},
};
use crate::{
    check::Report,
    history::Kind,
    real::{affairs::Endings, fabric::Choice, nemesis::Outcome, node::Downfall, schedule::Event},
};
use serde_json::{Value as Json, json};

/// All of it.
#[must_use]
pub fn to_json(request: &Request, shown: &Shown, judgement: &Judgement) -> Json {
    let experiment = &request.experiment;
    let reasons: Vec<Json> = judgement
        .reasons
        .iter()
        .map(|(verdict, reason)| json!({"verdict": verdict.as_str(), "reason": reason}))
        .collect();
    let [before, after, hypothesis] = &judgement.claims;
    json!({
        "experiment": experiment.name,
        "seed": request.seed,
        "replay": replay(request),
        "verdict": judgement.verdict.as_str(),
        "reasons": reasons,
        "nodes": experiment.nodes,
        "seconds": experiment.length.as_secs(),
        "kvd": request.kvd.display().to_string(),
        "network": {
            "name": shown.network.name,
            "weaker_because": shown.network.weaker_because,
            "instead_because": shown.network.instead_because,
        },
        "shim": shown.shim,
        "steady_state": {"before": claims(before), "after": claims(after)},
        "hypothesis": claims(hypothesis),
        "histories": judgement.judged.iter().map(history).collect::<Vec<_>>(),
        "schedule": shown.events.iter().map(|event| scheduled(request, event)).collect::<Vec<_>>(),
        "downfalls": shown.downfalls.iter().map(downfall).collect::<Vec<_>>(),
        "faults": shown.tried.iter().map(|tried| fault(shown, tried)).collect::<Vec<_>>(),
        "operations": {
            "ok": count(shown, Kind::Ok),
            "fail": count(shown, Kind::Fail),
            "unknown": count(shown, Kind::Info),
        },
        "operators": operators(shown),
        "recoveries_ms": shown.phases[1].recoveries_ms,
        "calm_after_ms": shown.calm_after_ms,
        "availability_percent": shown.phases[1].availability_percent(),
    })
}

/// The command that runs it again.
#[must_use]
pub fn replay(request: &Request) -> String {
    let experiment = &request.experiment;
    let network = match request.network {
        Choice::Auto => "",
        Choice::Namespaces => " --network namespaces",
        Choice::Proxies => " --network proxies",
    };
    format!(
        "jepsen run {} --seed {} --seconds {} --nodes {}{network}",
        experiment.name,
        request.seed,
        experiment.length.as_secs(),
        experiment.nodes
    )
}

fn count(shown: &Shown, kind: Kind) -> usize {
    shown.samples.iter().filter(|sample| sample.kind == kind).count()
}

fn operators(shown: &Shown) -> Json {
    let ended = shown.operators.iter().map(|(what, endings)| {
        let Endings { is_asked_for, count, done, failed, cancelled, why } = endings;
        json!({
            "what": what,
            "asked_for": is_asked_for,
            "count": count,
            "done": done,
            "failed": failed,
            "cancelled": cancelled,
            "why_failed": why,
        })
    });
    ended.collect()
}

fn claims(measured: &[Measured]) -> Json {
    let claim =
        |measured: &Measured| json!({"claim": measured.claim, "value": measured.value, "kept": measured.is_kept});
    measured.iter().map(claim).collect()
}

fn history(judged: &Judged) -> Json {
    let check = |report: &Report| {
        let coverage = &report.coverage;
        json!({
            "check": report.model,
            "verdict": report.verdict.as_str(),
            "reasons": report.reasons,
            "answers_judged": coverage.judged,
            "keys": coverage.keys,
            "keys_with_overlap": coverage.keys_with_overlap,
        })
    };
    json!({
        "workload": judged.name,
        "file": judged.path.file_name().map(|name| name.to_string_lossy()),
        "operations": judged.history.operations.len(),
        "checks": judged.reports.iter().map(check).collect::<Vec<_>>(),
    })
}

fn scheduled(request: &Request, event: &Event) -> Json {
    json!({
        "fault": request.experiment.faults[event.fault].plan.name(),
        "begin_ms": event.begin.as_millis(),
        "hold_ms": event.hold.as_millis(),
    })
}

fn downfall(downfall: &Downfall) -> Json {
    json!({"node": format!("n{}", downfall.node), "how": downfall.how, "excuse": downfall.excuse})
}

fn fault(shown: &Shown, tried: &Tried) -> Json {
    let recovery_ms = recovery_ms(&shown.samples, tried.struck_ns, &tried.shards).map(|ms| ms.round() as u64);
    let meanwhile = Stretch::of(&shown.samples, tried.from_ns, tried.until_ns);
    let told = match &tried.outcome {
        Outcome::Installed(seen) => seen.to_json(),
        Outcome::Skipped(reason) | Outcome::Indeterminate(reason) => json!(reason),
    };
    json!({
        "fault": tried.name,
        "from_ms": tried.from_ns / 1_000_000,
        "struck_ms": tried.struck_ns / 1_000_000,
        "until_ms": tried.until_ns / 1_000_000,
        "outcome": word(&tried.outcome),
        "told": told,
        "seen": tried.seen.to_json(),
        "leader_of_shards": tried.shards,
        "recovery_ms": recovery_ms,
        "operations": meanwhile.samples.len(),
        "not_answered": meanwhile.samples.len() - meanwhile.count(Kind::Ok),
    })
}
