//! Hunt: one bug, one range of seeds, one process a seed.
//!
//! ```text
//!   seed with the bug ─▶ ok: the next seed
//!                     └▶ violation, or died ─▶ the same seed without any bug ─▶ ok: found
//!                                                                            └▶ fails, too: no proof, the next seed
//! ```
//!
//! **Invariant.** A process that ends without a verdict and did not die is a failure of the harness, never a find.

use super::{catalogue::Bug, table::Hunted};
use crate::sim::command::{self as simulation, Limits, Request};
use anyhow::{Context, Result, bail};
use kvorum_storage::planted::VARIABLE;
use std::{
    ops::RangeInclusive,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{ExitStatus, Output},
};
use tokio::time::Instant;

/// Processor seconds of one run: one that does not end by then has been convicted. Others take a few.
pub const CPU_SECONDS_MAX: u64 = 60;

/// What a process ends with when a thread of it panicked.
const EXIT_PANIC: i32 = 101;

/// What one seed said.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// By what it was convicted.
    Violation(String),
}

/// Looks for the first seed of a range that finds a bug.
///
/// # Errors
/// A process cannot be started, or ends with neither a verdict nor a death.
pub fn hunt(program: &Path, bug: Bug, range: RangeInclusive<u64>, request: &Request) -> Result<Hunted> {
    let began = Instant::now();
    let mut hunted = Hunted { range: range.clone(), found: None, took: began.elapsed(), failing_without: Vec::new() };
    for seed in range {
        let Verdict::Violation(by) = run(program, bug.name, seed, request)? else { continue };
        match run(program, "", seed, request)? {
            Verdict::Ok => {
                hunted.found = Some((seed, by));
                break;
            }
            Verdict::Violation(_) => hunted.failing_without.push(seed),
        }
    }
    Ok(Hunted { took: began.elapsed(), ..hunted })
}

/// Runs one seed while the bug of this name acts; without a name, none.
fn run(program: &Path, bug: &str, seed: u64, request: &Request) -> Result<Verdict> {
    let mut child = simulation::child(program, seed, request, Limits { cpu_s_max: CPU_SECONDS_MAX });
    let output = child.env(VARIABLE, bug).output().context("a process for a seed cannot be started")?;
    judge(&output).with_context(|| format!("seed {seed} with {VARIABLE}={bug}"))
}

fn judge(output: &Output) -> Result<Verdict> {
    let printed = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(Verdict::Ok);
    }
    if printed.contains("VIOLATION") {
        let first = printed.lines().nth(2).unwrap_or("a violation without words");
        return Ok(Verdict::Violation(anywhere(first.trim())));
    }
    let words = String::from_utf8_lossy(&output.stderr);
    match death(output.status) {
        Some(how) => Ok(Verdict::Violation(anywhere(&format!("{how}{}", last_word(&words))))),
        None => bail!("it ended with neither a verdict nor a death ({}): {}", output.status, words.trim_end()),
    }
}

/// How a process died, if it did.
fn death(status: ExitStatus) -> Option<String> {
    use rustix::process::Signal;
    match (status.signal(), status.code()) {
        (Some(signal), _) if signal == Signal::XCPU.as_raw() => {
            Some(format!("a run without end: more than {CPU_SECONDS_MAX} s of processor time"))
        }
        // Somebody else did that.
        (Some(signal), _) if [Signal::KILL, Signal::TERM, Signal::INT].map(Signal::as_raw).contains(&signal) => None,
        (Some(_), _) => Some(format!("its process died ({status})")),
        (None, Some(EXIT_PANIC)) => Some("its process panicked".to_owned()),
        (None, _) => None,
    }
}

/// The same words on any machine: a crate from the registry lies elsewhere on each.
fn anywhere(words: &str) -> String {
    const REGISTRY: &str = "/registry/src/";
    let Some(at) = words.find(REGISTRY) else { return words.to_owned() };
    let begin = words[..at].rfind(char::is_whitespace).map_or(0, |blank| blank + 1);
    let rest = &words[at + REGISTRY.len()..];
    format!("{}{}", &words[..begin], rest.split_once('/').map_or(rest, |(_, path)| path))
}

/// What it said in the end, which mostly says why.
fn last_word(words: &str) -> String {
    let said = words.lines().rev().find(|line| !line.trim().is_empty() && !line.starts_with("note:"));
    said.map_or_else(String::new, |said| format!(": {}", said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(status: i32, stdout: &str, stderr: &str) -> Output {
        Output { status: ExitStatus::from_raw(status), stdout: stdout.into(), stderr: stderr.into() }
    }

    fn judged(status: i32, stdout: &str, stderr: &str) -> Verdict {
        judge(&output(status, stdout, stderr)).unwrap()
    }

    #[test]
    fn a_verdict_is_the_first_violation() {
        assert_eq!(judged(0, "seed 7: ok\n  drawn: x", "noise"), Verdict::Ok);
        let told = "seed 7: VIOLATION\n  drawn: x\n  two leaders\n  three leaders\n";
        assert_eq!(judged(1 << 8, told, ""), Verdict::Violation("two leaders".to_owned()));
    }

    #[test]
    fn who_dies_is_convicted_and_why_is_told() {
        let Verdict::Violation(by) = judged(6, "", "memory allocation of 99 bytes failed\n") else { panic!() };
        assert!(by.contains("died") && by.ends_with("99 bytes failed"), "{by}");
        let Verdict::Violation(by) = judged(24, "", "") else { panic!() };
        assert!(by.contains("without end"), "{by}");
        let Verdict::Violation(by) = judged(101 << 8, "", "panicked\nnote: a backtrace\n") else { panic!() };
        assert!(by.ends_with("panicked: panicked"), "{by}");
    }

    #[test]
    fn a_verdict_reads_the_same_on_every_machine() {
        let told =
            "seed 7: VIOLATION\n  drawn: x\n  panic at /home/me/.cargo/registry/src/index-1/raft-1/src/a.rs:4: no\n";
        assert_eq!(judged(1 << 8, told, ""), Verdict::Violation("panic at raft-1/src/a.rs:4: no".to_owned()));
    }

    #[test]
    fn a_failure_of_the_harness_is_no_find() {
        let refused = judge(&output(2 << 8, "", "error: KVORUM_PLANTED names \"x\"\n")).unwrap_err().to_string();
        assert!(refused.contains("neither a verdict nor a death") && refused.contains("KVORUM_PLANTED"), "{refused}");
        assert!(judge(&output(1 << 8, "", "Error: memory cannot be limited\n")).is_err());
        assert!(judge(&output(9, "", "")).is_err(), "killed by somebody");
    }
}
