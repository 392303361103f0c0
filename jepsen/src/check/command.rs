//! `jepsen check`: any history file, from the command line.
//!
//! ```text
//!   0 ok    1 violation    2 the file or the options are wrong    3 unknown    4 vacuous
//! ```
//!
//! **Invariant.** What cannot be read is never given a verdict.

use super::{
    registry::{Check, REGISTRY, find, fitting},
    report::{Options, Report, Verdict},
    timeline::timeline,
    window::window,
};
use crate::history::{Format, History, load};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Findings written out; the rest is counted.
const FINDINGS_MAX: usize = 5;

/// What to check, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The history.
    pub file: PathBuf,
    /// By which checks; none = the one that fits.
    pub models: Vec<String>,
    /// How the file is written.
    pub format: Format,
    /// Where the timeline goes.
    pub html: Option<PathBuf>,
    /// For what searches remember.
    pub memory_bytes_max: u64,
    /// For each check.
    pub time_max: Option<Duration>,
    /// Whether the answer is JSON.
    pub is_json: bool,
}

/// What to print, and what to end with.
#[derive(Debug)]
pub struct Answer {
    /// Several lines.
    pub text: String,
    /// The worst of all checks.
    pub verdict: Verdict,
}

/// Reads, judges, draws.
pub fn run(request: &Request) -> Result<Answer> {
    let checks = named(&request.models)?;
    let name = request.file.display().to_string();
    let history = load(&request.file, request.format).with_context(|| name.clone())?;
    let checks = match checks.as_slice() {
        [] => vec![fitting(&history).with_context(|| no_fit(&name, &history))?],
        _ => checks,
    };
    let options =
        Options { memory_bytes_max: request.memory_bytes_max, time_max: request.time_max, ..Options::default() };
    let begun = now();
    let mut reports = Vec::new();
    for check in checks {
        let report = (check.judge)(&history, &options);
        reports.push(report.with_context(|| format!("{name}: not a history for the model {}", check.name))?);
    }
    let took = now().duration_since(begun);
    if let Some(html) = &request.html {
        write_page(html, &name, &history, &reports)?;
    }
    let verdict = reports.iter().map(|report| report.verdict).max().unwrap_or(Verdict::Vacuous);
    let text = if request.is_json {
        to_json(&name, &history, &reports, verdict, took).to_string()
    } else {
        to_text(&name, &history, &reports, took)
    };
    Ok(Answer { text, verdict })
}

#[expect(clippy::disallowed_methods, reason = "how long a check takes is told, never judged")]
fn now() -> Instant {
    Instant::now()
}

fn named(models: &[String]) -> Result<Vec<&'static Check>> {
    models.iter().map(|name| Ok(find(name)?)).collect()
}

fn no_fit(name: &str, history: &History) -> String {
    let mut operations: Vec<&str> = history.operations.iter().map(|operation| operation.name.as_str()).collect();
    operations.sort_unstable();
    operations.dedup();
    let models: Vec<&str> = REGISTRY.iter().map(|check| check.name).collect();
    let operations = operations.join(", ");
    format!("{name}: no model fits the operations {operations}: name one with --model ({})", models.join(", "))
}

fn write_page(html: &Path, name: &str, history: &History, reports: &[Report]) -> Result<()> {
    std::fs::write(html, timeline(name, history, reports))
        .with_context(|| format!("the timeline cannot be written to {}", html.display()))
}

fn to_text(name: &str, history: &History, reports: &[Report], took: Duration) -> String {
    let mut text = String::new();
    for report in reports {
        let coverage = &report.coverage;
        text.push_str(&format!(
            "{}: {} by {} ({} operations on {} keys, {} with overlaps, {} answers judged, {} faults, {} ms)\n",
            name,
            report.verdict.as_str().to_uppercase(),
            report.model,
            history.operations.len(),
            coverage.keys,
            coverage.keys_with_overlap,
            coverage.judged,
            coverage.faults,
            took.as_millis(),
        ));
        for finding in report.findings.iter().take(FINDINGS_MAX) {
            text.push_str(&window(history, finding));
        }
        if report.findings.len() > FINDINGS_MAX {
            text.push_str(&format!("{} more findings\n", report.findings.len() - FINDINGS_MAX));
        }
        for reason in report.reasons.iter().filter(|_| report.findings.is_empty()) {
            text.push_str(&format!("  {reason}\n"));
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn to_json(name: &str, history: &History, reports: &[Report], verdict: Verdict, took: Duration) -> serde_json::Value {
    let checks: Vec<serde_json::Value> = reports.iter().map(|report| report_to_json(history, report)).collect();
    json!({
        "file": name,
        "verdict": verdict.as_str(),
        "operations": history.operations.len(),
        "faults": history.faults.len(),
        "milliseconds": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "checks": checks,
    })
}

fn report_to_json(history: &History, report: &Report) -> serde_json::Value {
    let coverage = &report.coverage;
    let ended: serde_json::Map<String, serde_json::Value> = coverage
        .ended
        .iter()
        .map(|(name, ended)| (name.clone(), json!({"ok": ended.ok, "fail": ended.fail, "unknown": ended.unknown})))
        .collect();
    let findings: Vec<serde_json::Value> = report
        .findings
        .iter()
        .map(|finding| {
            let lines: Vec<usize> = finding.rows.iter().map(|row| history.operations[row.operation].line).collect();
            json!({
                "what": finding.what,
                "key": finding.key,
                "lines": lines,
                "because": finding.because,
                "window": window(history, finding),
            })
        })
        .collect();
    json!({
        "model": report.model,
        "verdict": report.verdict.as_str(),
        "reasons": report.reasons,
        "findings": findings,
        "coverage": {
            "operations": ended,
            "keys": coverage.keys,
            "keys_with_overlap": coverage.keys_with_overlap,
            "answers_judged": coverage.judged,
        },
    })
}

/// `1GiB`, `512MiB`, `64KiB`, or bytes.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
    let (number, unit) =
        units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).unwrap_or((text, 1));
    let bytes = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match bytes {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => bail!("{text:?} is no amount of memory, such as 1GiB, 512MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_in_units() {
        assert_eq!(parse_bytes("1GiB").unwrap(), 1 << 30);
        assert_eq!(parse_bytes("3 KiB").unwrap(), 3072);
        assert_eq!(parse_bytes("77").unwrap(), 77);
        for wrong in ["", "GiB", "-1", "0", "1TB", "99999999999GiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
