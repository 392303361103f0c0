//! `jepsen check` as a user runs it.

use crate::histories;
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn check(file: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_jepsen")).arg("check").arg(file).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn check_text(text: &str, arguments: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history");
    fs::write(&file, text).unwrap();
    check(&file, arguments)
}

#[test]
fn six_operations_are_convicted_with_a_window_that_says_why() {
    let (code, text, _) = check(&histories().join("stale-read.jsonl"), &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("VIOLATION by register (6 operations on 1 keys"), "{text}");
    let rows: Vec<&str> = text.lines().filter(|line| line.trim_start().starts_with('#')).collect();
    assert_eq!(rows.len(), 4, "the write of 1, the write and the read of 2, and the read of 1: {text}");
    assert!(rows[0].contains("write 1 on x → ok"), "{text}");
    assert!(rows[3].contains("client 2    line 9 ") && rows[3].contains("read on x → 1"), "{text}");
    assert!(text.contains("must have happened, and there is only"), "{text}");
    for forgotten in ["write 3", "line 3  "] {
        assert!(!text.contains(forgotten), "{forgotten} has nothing to do with it: {text}");
    }
}

#[test]
fn each_verdict_has_its_exit_code() {
    let code = |file: &str, arguments: &[&str]| check(&histories().join(file), arguments).0;
    assert_eq!(code("late-write.jsonl", &[]), 0);
    assert_eq!(code("stale-read.jsonl", &["--model", "register,versions"]), 1, "the worst of both");
    assert_eq!(code("nothing-read.jsonl", &[]), 4);
    assert_eq!(code("register.edn", &["--model", "cas-register", "--format", "edn", "--memory", "1B"]), 3);
    assert_eq!(code("register.edn", &["--format", "jsonl"]), 2);
    assert_eq!(code("no-such-file", &[]), 2);
    assert_eq!(code("stale-read.jsonl", &["--nonsense"]), 2);
}

#[test]
fn an_unknown_model_is_answered_with_the_nearest() {
    let (code, text, error) = check(&histories().join("register.edn"), &["--model", "cas-registr"]);
    assert_eq!((code, text.as_str()), (2, ""));
    assert!(error.contains("there is no model \"cas-registr\"; nearest: cas-register"), "{error}");
}

#[test]
fn what_is_malformed_or_truncated_is_refused_with_its_line() {
    let whole = fs::read_to_string(histories().join("stale-read.jsonl")).unwrap();
    let refused = |text: &str, expected: &str| {
        let (code, text, error) = check_text(text, &["--model", "register"]);
        assert_eq!((code, text.as_str()), (2, ""), "{error}");
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    };
    refused(&whole[..whole.len() - 40], "line 12: record: truncated in the middle of a record");
    refused(&whole.replace("\"process\":3", "\"process\":2"), "line 4: process: 2 has read of line 3 under way");
    refused(&whole.replace("2500000", "1500000"), "line 3: time_ns: 1500000 is before 2000000");
    refused(&whole.replace("\"kind\":\"info\"", "\"kind\":\"maybe\""), "line 12: kind: \"maybe\" is none of");
    refused(
        &whole.replace("\"operation\":\"write\"", "\"operation\":\"push\""),
        "line 1: operation: \"push\" is none of",
    );
    refused("{:process 0, :type :invoke, :f :read", "line 1: record: truncated");
    refused("hello", "name the format with --format");
}

#[test]
fn json_says_the_same() {
    let (code, text, _) = check(&histories().join("stale-read.jsonl"), &["-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 1);
    assert_eq!((json["verdict"].as_str(), json["operations"].as_u64()), (Some("violation"), Some(6)));
    let finding = &json["checks"][0]["findings"][0];
    assert_eq!(finding["key"], "x");
    assert!(finding["lines"].as_array().unwrap().contains(&9.into()), "{finding}");
    assert_eq!(json["checks"][0]["coverage"]["operations"]["write"]["unknown"], 1);
}

#[test]
fn the_page_stands_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("timeline.html");
    let (code, ..) = check(&histories().join("stale-read.jsonl"), &["--html", page.to_str().unwrap()]);
    assert_eq!(code, 1);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</body></html>\n"));
    assert!(page.contains("client 3") && page.contains("possible states after it"));
    let (code, _, error) = check(&histories().join("stale-read.jsonl"), &["--html", "/no/such/folder/page.html"]);
    assert_eq!(code, 2, "a page that cannot be written is no verdict");
    assert!(error.contains("the timeline cannot be written"), "{error}");
}
