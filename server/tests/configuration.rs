//! `kvd` and what it is told: every mistake is one sentence and exit code 2, before anything is touched.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod cluster;

use cluster::kvd;
use std::{fs, os::unix::fs::PermissionsExt as _, process::Output};

/// Runs `kvd --print-config` over a configuration.
fn print_config(text: &str, environment: &[(&str, &str)]) -> Output {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("node.toml");
    fs::write(&file, text).unwrap();
    let mut command = kvd();
    command.arg("--config").arg(file).arg("--print-config").envs(environment.iter().copied());
    command.output().unwrap()
}

/// The sentence a refused configuration is answered with.
fn refusal(text: &str, environment: &[(&str, &str)]) -> String {
    let output = print_config(text, environment);
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(output.stdout.is_empty());
    assert!(words.starts_with("kvd: ") && words.matches('\n').count() == 1, "not one sentence: {words:?}");
    words
}

#[test]
fn an_unknown_field_is_refused_with_the_nearest_known_one() {
    let words = refusal("[node]\nlisten_clinet = \"127.0.0.1:1\"\n", &[]);
    assert!(words.contains("unknown field node.listen_clinet: did you mean node.listen_client?"), "{words}");
}

#[test]
fn a_bad_unit_is_refused_with_the_field_and_the_fix() {
    let words = refusal("[storage]\nlow_water = \"5 megs\"\n", &[]);
    assert!(words.contains("storage.low_water \"5 megs\" has the unknown unit \"megs\""), "{words}");
    assert!(words.contains("write \"64MiB\""), "{words}");
}

#[test]
fn an_unknown_override_is_refused_with_the_nearest_known_one() {
    let words = refusal("", &[("KV__RAFT__HEARTBEET", "1s")]);
    assert!(words.contains("KV__RAFT__HEARTBEET names no field: did you mean KV__RAFT__HEARTBEAT?"), "{words}");
}

#[test]
fn an_address_on_the_network_is_refused_without_insecure() {
    let words = refusal("[node]\nlisten_peer = \"0.0.0.0:7201\"\n", &[]);
    assert!(words.contains("node.listen_peer 0.0.0.0:7201 is not a loopback address"), "{words}");
    assert!(print_config("[node]\nlisten_peer = \"0.0.0.0:7201\"\ninsecure = true\n", &[]).status.success());
}

#[test]
fn mode_ap_is_refused_plainly() {
    let words = refusal("[[keyspaces]]\nname = \"carts\"\nmode = \"ap\"\n", &[]);
    assert!(words.contains("which this build does not offer"), "{words}");
}

#[test]
fn a_file_that_is_not_there_and_a_flag_nobody_knows_are_refused() {
    let output = kvd().args(["--config", "/nowhere/node.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("cannot read the configuration file /nowhere/node.toml"), "{words}");
    assert_eq!(kvd().arg("--confg").output().unwrap().status.code(), Some(2));
}

#[test]
fn the_effective_configuration_is_printed_with_every_default_and_override() {
    let output = print_config("[raft]\nelection_min = \"900ms\"\n", &[("KV__RAFT__HEARTBEAT", "123ms")]);
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in
        ["heartbeat = \"123ms\"", "election_min = \"900ms\"", "election_max = \"1500ms\"", "low_water = \"256MiB\""]
    {
        assert!(printed.contains(line), "{line} is missing in:\n{printed}");
    }
    assert!(print_config(&printed, &[]).status.success(), "what is printed can be read");
}

/// What is told on the command line and cannot be meant is refused before anything is touched.
#[test]
fn flags_that_cannot_be_meant_are_refused() {
    for (arguments, words) in [
        (&["--join", "here"][..], "write host:port"),
        (&["--join", "127.0.0.1:0"], "write host:port"),
        (&["--new-cluster-key", "key", "--join", "a:1"], "cannot be used with"),
        (&["--cluster-kye", "key"], "unexpected argument"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let output = kvd().current_dir(root.path()).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "{arguments:?} left something");
    }
}

/// A cluster key is made once, for its owner alone, and never overwritten or shown.
#[test]
fn a_cluster_key_is_made_once() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("key");
    let make = || kvd().arg("--new-cluster-key").arg(&file).output().unwrap();
    assert!(make().status.success());
    let key = fs::read_to_string(&file).unwrap();
    assert_eq!(key.trim_end().len(), 64);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = make();
    assert_eq!(again.status.code(), Some(1));
    assert!(!String::from_utf8(again.stderr).unwrap().contains(key.trim_end()));
    assert_eq!(fs::read_to_string(&file).unwrap(), key);
}
