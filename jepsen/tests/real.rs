//! Short runs on real nodes: the program `jepsen`, against the program `kvd`.
//!
//! `kvd` belongs to another crate: cargo builds both into one directory when it builds the workspace. Where it is not
//! built, these tests say so and show nothing.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests panic and print as tests do")]

use kvorum_jepsen::real::namespace::Host;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The program to attack, or the sentence that says why there is none.
fn kvd() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_jepsen")).with_file_name("kvd");
    if !path.exists() {
        println!("SKIPPED: {} is missing: build it with `cargo build -p kvorum-server --bin kvd`", path.display());
        return None;
    }
    Some(path)
}

fn jepsen(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    command.current_dir(directory).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Processes whose command line names this directory.
fn left_running(directory: &Path) -> Vec<String> {
    let named = directory.display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| text(&line)).filter(|line| line.contains(&named) && line.contains("kvd")).collect()
}

#[test]
fn a_killed_and_an_isolated_leader_cost_no_acknowledged_write() {
    let Some(_kvd) = kvd() else { return };
    let home = tempfile::tempdir().unwrap();
    let output = jepsen(home.path(), &["run", "smoke", "--seed", "3", "--out", "run"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    let run = home.path().join("run");
    let result = result_of(&run);
    assert_eq!(result["verdict"], "ok");
    assert!(result["operations"]["ok"].as_u64().unwrap() > 200, "{result:#}");
    let faults = result["faults"].as_array().unwrap();
    for name in ["kill leader", "partition leader"] {
        let is_it = |fault: &&Value| fault["fault"] == name && fault["outcome"] == "installed";
        assert!(faults.iter().any(|fault| is_it(&fault)), "{name}: {result:#}");
    }
    assert!(!result["recoveries_ms"].as_array().unwrap().is_empty(), "{result:#}");
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("<svg") && !page.contains("src=\"http") && page.contains("kill leader"));
    let left = left_running(&run.canonicalize().unwrap());
    assert!(left.is_empty(), "still running: {left:?}");
    assert!(!run.join("running").exists() && !run.join("n1/data").exists());
    // What was written down is a history that anybody can judge again.
    let again = jepsen(home.path(), &["check", "run/history.jsonl", "--model", "register"]);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stdout));
}

/// The run's `result.json`.
fn result_of(run: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(run.join("result.json")).unwrap()).unwrap()
}

#[test]
fn a_node_that_is_not_heard_in_a_network_of_packets_stops_nobody() {
    let Some(_kvd) = kvd() else { return };
    if let Err(refused) = Host::here().ip() {
        println!("SKIPPED: {refused:#}");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let experiment = "name: unheard\nabout: x\nseconds: 10\nwarm_up: 2s\nquiet: 2s\nworkloads: [{workload: register}]\n\
                      faults: [{fault: partition, target: one-way, every: 2s, hold: 3s}]\n";
    fs::write(home.path().join("unheard.yaml"), experiment).unwrap();
    let arguments = ["run", "unheard.yaml", "--seed", "11", "--network", "namespaces", "--out", "run"];
    let output = jepsen(home.path(), &arguments);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    let result = result_of(&home.path().join("run"));
    assert_eq!(result["network"]["name"], "network namespaces");
    assert_eq!(result["network"]["weaker_because"], Value::Null);
    let seen = &result["faults"][0]["seen"];
    assert!(seen["dropped_bytes"].as_u64().unwrap() > 0, "{result:#}");
    // What passed the switch in the moment of the cut may still be counted.
    assert!(seen["passed_bytes"].as_u64().unwrap() < 20_000, "{result:#}");
    assert!(left_running(&home.path().canonicalize().unwrap()).is_empty());
}

#[test]
fn packets_cannot_go_astray_between_proxies_and_that_is_said() {
    let Some(_kvd) = kvd() else { return };
    let home = tempfile::tempdir().unwrap();
    let arguments = ["run", "astray", "--seed", "1", "--seconds", "9", "--network", "proxies", "--out", "run"];
    let output = jepsen(home.path(), &arguments);
    assert_eq!(output.status.code(), Some(4), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stderr).contains("weather all skipped: proxies carry connections"), "vacuous, and why");
    let result = result_of(&home.path().join("run"));
    assert!(result["network"]["weaker_because"].is_string());
    assert_eq!(result["network"]["instead_because"], Value::Null, "that is what was asked for");
}

const DARK: &str = "
name: dark
about: Power is lost, a sync fails, a clock is wrong.
seconds: 9
warm_up: 2s
quiet: 1s
workloads: [{workload: register, rate: 60}]
faults:
  - {fault: power-loss, target: all, every: 1s, hold: 200ms}
  - {fault: failing-sync, target: one, times: 1, every: 1s, hold: 500ms}
  - {fault: clock-offset, target: one, offset: 50ms..200ms, every: 1s, hold: 500ms}
hypothesis: [{probe: availability_percent, above: 1}]
";

#[test]
fn what_was_acknowledged_survives_the_loss_of_power() {
    let Some(_kvd) = kvd() else { return };
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("dark.yaml"), DARK).unwrap();
    let output = jepsen(home.path(), &["run", "dark.yaml", "--seed", "2", "--out", "run"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    let result = fs::read_to_string(home.path().join("run/result.json")).unwrap();
    let result: Value = serde_json::from_str(&result).unwrap();
    assert!(result["shim"].as_str().unwrap().contains("in 3 of 3 nodes"), "{result:#}");
    let lost = result["faults"].as_array().unwrap().iter().filter(|fault| fault["fault"] == "power-loss all");
    let lost = lost.filter(|fault| fault["outcome"] == "installed");
    assert!(lost.map(|fault| fault["told"]["unsynced_names"].as_u64().unwrap()).sum::<u64>() > 0, "{result:#}");
}

#[test]
fn without_the_shim_its_faults_are_skipped_and_the_run_shows_nothing() {
    let Some(_kvd) = kvd() else { return };
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("dark.yaml"), DARK).unwrap();
    let output =
        jepsen(home.path(), &["run", "dark.yaml", "--seed", "2", "--shim", "/nowhere/shim.so", "--out", "run"]);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{}\n{err}", text(&output.stdout));
    assert!(err.contains("power-loss all skipped: there is no shim at /nowhere/shim.so: build it with"), "{err}");
}

#[test]
fn what_cannot_be_run_has_no_verdict_and_says_why() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("wrong.yaml"), "name: wrong\nabout: x\nseconds: 5\nworkloads: [{workload: registr}]\n")
        .unwrap();
    for (arguments, why) in [
        (&["run", "smoek"][..], "did you mean smoke"),
        (&["run", "wrong.yaml"], "did you mean register"),
        (&["run", "absent.yaml"], "absent.yaml cannot be read"),
        (&["run", "smoke", "--nodes", "2"], "nodes: 2"),
        (&["run", "smoke", "--kvd", "/nowhere/kvd"], "there is no kvd at /nowhere/kvd"),
        (&["run", "smoke", "--kvd", "/bin/false", "--out", "run"], "makes no cluster key"),
    ] {
        let output = jepsen(home.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(why), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "no verdict");
    }
}

#[test]
fn a_campaign_writes_down_whatever_ran_and_adds_it_up() {
    let home = tempfile::tempdir().unwrap();
    let mut arguments =
        vec!["campaign", "--seeds", "3..5", "--seconds", "4", "--jobs", "1", "--ledger", "ledger.jsonl"];
    if kvd().is_some() {
        arguments.extend(["--runs", "1", "--experiments", "smoke", "--run-seconds", "8", "--first-seed", "5"]);
    }
    let output = jepsen(home.path(), &arguments);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    let totals = text(&jepsen(home.path(), &["ledger", "ledger.jsonl"]).stdout);
    assert!(totals.contains("simulated: 2 seeds") && totals.contains("0 failed"), "{totals}");
    if kvd().is_some() {
        assert!(totals.contains("real nodes: 1 runs, 8 s of faults: 1 ok"), "{totals}");
        assert!(totals.contains("killed leader to next acknowledged write: median"), "{totals}");
    }
    // A harness that cannot run is written down, too, and is no verdict.
    let broken = ["campaign", "--runs", "1", "--experiments", "smoke", "--kvd", "/nowhere", "--ledger", "ledger.jsonl"];
    assert_eq!(jepsen(home.path(), &broken).status.code(), Some(2));
    let totals = text(&jepsen(home.path(), &["ledger", "ledger.jsonl"]).stdout);
    assert!(totals.contains("1 none"), "{totals}");
}

#[test]
fn a_campaign_that_cannot_begin_says_why() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("torn"), "{\"commit\": \"a").unwrap();
    for (arguments, why) in [
        (&["campaign"][..], "nothing to do"),
        (&["campaign", "--runs", "1", "--experiments", "smoke,leader-kiled"], "did you mean leader-killed"),
        (&["campaign", "--seeds", "9..9"], "names no seed"),
        (&["ledger", "absent"], "absent cannot be read"),
        (&["ledger", "torn"], "torn: line 1"),
    ] {
        let output = jepsen(home.path(), arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
}
