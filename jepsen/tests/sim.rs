//! A few seeds of the simulation, as a test of every day.

use kvorum_jepsen::sim::{
    replay::{self, LENGTH, Options},
    report::Report,
};
use std::time::Duration;

/// Whether this build has a planted bug: then the one thing asked of the simulation is that it finds it.
const HAS_BUG: bool = !kvorum_storage::planted::COMPILED_IN.is_empty();

/// A planted bug must be found within this many seeds.
const SEEDS_MAX: u64 = 200;

const OPTIONS: Options = Options { length: LENGTH, prints: false };

/// Each seed runs twice: it must pass, and leave the same trace.
#[test]
fn seeds_pass_and_repeat_to_the_last_event() {
    if HAS_BUG {
        return;
    }
    // What these once found is told in docs/testing.md.
    for seed in (1..=8).chain([73, 142]) {
        let report = replay::run_twice(seed, OPTIONS);
        assert!(report.violations.is_empty(), "{:#?}\nreplay: {}", report.violations, replay::command(seed, OPTIONS));
        assert!(report.decided > 30, "seed {seed} decided {} operations: it shows nothing", report.decided);
    }
}

/// A trace is worth comparing only if it tells two runs apart.
#[test]
fn different_seeds_leave_different_traces() {
    let options = Options { length: Duration::from_secs(3), prints: false };
    assert_ne!(replay::run(1, options).trace, replay::run(2, options).trace);
}

/// Crashes are not left out by accident.
#[test]
fn seeds_crash_nodes() {
    let options = Options { length: Duration::from_secs(10), prints: false };
    let crashes: usize = (1..=6).map(|seed| replay::run(seed, options).crashes).sum();
    assert!(crashes > 5, "{crashes} crashes in six seeds");
}

/// Groups fall asleep and wake up while things go wrong, not only in quiet worlds.
#[test]
fn seeds_close_and_open_groups() {
    let reports: Vec<_> = (1..=6).map(|seed| replay::run(seed, OPTIONS)).collect();
    let (closings, openings) =
        reports.iter().fold((0, 0), |sum, report| (sum.0 + report.closings, sum.1 + report.openings));
    assert!(closings > 20 && openings > 20, "{closings} closings and {openings} openings in six seeds");
}

/// Readers of diaries are handed changes, and fall off, not only in worlds in which nothing is trimmed.
#[test]
fn seeds_read_diaries_and_fall_off_them() {
    let reports: Vec<_> = (1..=6).map(|seed| replay::run(seed, OPTIONS)).collect();
    let (changes, resyncs) =
        reports.iter().fold((0, 0), |sum, report| (sum.0 + report.changes, sum.1 + report.resyncs));
    assert!(changes > 100 && resyncs > 10, "{changes} changes and {resyncs} resyncs in six seeds");
    let has_files = |report: &Report| report.histories.iter().any(|(name, _)| *name == "diary.jsonl");
    assert!(reports.iter().all(has_files));
}

/// A test of a build with bugs; `jepsen/planted.sh` tells for each by which seed it is found.
#[test]
fn a_planted_bug_is_found() {
    let found = (1..=if HAS_BUG { SEEDS_MAX } else { 2 }).find_map(|seed| {
        let report = replay::run(seed, OPTIONS);
        report.violations.first().map(|violation| format!("found by seed {seed}: {violation}"))
    });
    println!("{}", found.as_deref().unwrap_or("nothing found"));
    assert_eq!(found.is_some(), HAS_BUG, "within {SEEDS_MAX} seeds: {found:?}");
}
