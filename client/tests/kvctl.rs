//! The real kvctl against a scripted cluster: what is printed where, and what the exit code says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod fake;

use fake::{Fake, Fault, Told};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use std::{
    io::{Read as _, Write as _},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;
use tonic::Code;

/// One run of kvctl.
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    fn of(output: &Output) -> Self {
        Run {
            code: output.status.code().expect("kvctl was not killed by a signal"),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

fn command(endpoints: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvctl"));
    command.env_clear().env("KVCTL_ENDPOINTS", endpoints.join(",")).stdin(Stdio::null());
    command
}

fn kvctl(fake: &Fake, args: &[&str]) -> Run {
    Run::of(&command(&fake.endpoints()).args(args).output().unwrap())
}

fn kvctl_with_input(fake: &Fake, args: &[&str], input: &[u8]) -> Run {
    let mut command = command(&fake.endpoints());
    let mut child =
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // kvctl may end before it has read everything.
    let _has_ended = stdin.write_all(input);
    drop(stdin);
    Run::of(&child.wait_with_output().unwrap())
}

fn told(code: Code, effect: &'static str, retry: &'static str) -> Fault {
    Fault::Refuse(Told::new(code, "SCRIPTED", &[("effect", effect), ("retry", retry)]))
}

#[test]
fn data_goes_to_stdout_and_the_receipt_to_stderr() {
    let fake = Fake::start(3);
    let put = kvctl(&fake, &["put", "greeting", "hello"]);
    assert_eq!((put.code, put.out.as_str()), (0, "OK\n"), "{}", put.err);
    assert!(put.err.contains("durable on 2 replicas"), "{}", put.err);
    let get = kvctl(&fake, &["get", "greeting"]);
    assert_eq!((get.code, get.out.as_str()), (0, "hello\n"));
    assert!(get.err.contains("linearizable") && get.err.contains("node 1"), "{}", get.err);
    let quiet = kvctl(&fake, &["-q", "get", "greeting"]);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("hello\n", ""));
}

#[test]
fn json_carries_the_receipt_and_says_what_the_bytes_are() {
    let fake = Fake::start(3);
    kvctl_with_input(&fake, &["put", "bytes", "-"], &[0xff, 0x00]);
    let get = kvctl(&fake, &["-o", "json", "get", "bytes"]).json();
    assert_eq!(get["key"], json!({ "utf8": "bytes" }));
    assert_eq!(get["value"], json!({ "b64": "/wA=" }));
    assert_eq!((&get["receipt"]["mode"], &get["receipt"]["level"]), (&json!("cp"), &json!("linearizable")));
    assert!(get["receipt"].get("staleness_ms").is_none(), "unknown is absent, never 0");
    let local = kvctl(&fake, &["get", "bytes", "-o", "json", "--level", "local"]).json();
    assert_eq!(local["receipt"]["staleness_ms"], json!(40));
    let put = kvctl(&fake, &["put", "k", "new", "--prev", "-o", "json"]).json();
    assert_eq!((&put["applied"], &put["repeated"]), (&json!(true), &json!(false)));
    assert!(put["request_id"].as_str().unwrap().contains(".1."));
    assert_eq!(put["receipt"]["durable_replicas"], json!(2));
    let again = kvctl(&fake, &["put", "k", "newer", "--prev", "-o", "json"]).json();
    assert_eq!(again["previous"]["value"], json!({ "utf8": "new" }));
}

#[test]
fn raw_prints_bytes_only() {
    let fake = Fake::start(1);
    kvctl_with_input(&fake, &["put", "k", "-"], b"a\nb");
    let get = kvctl(&fake, &["-o", "raw", "get", "k"]);
    assert_eq!((get.out.as_str(), get.err.as_str()), ("a\nb", ""));
    assert_eq!(kvctl(&fake, &["-o", "raw", "put", "k", "v"]).out, "");
    assert_eq!(kvctl(&fake, &["-o", "raw", "put", "k", "w", "--prev"]).out, "v");
    assert_eq!(kvctl(&fake, &["-o", "raw", "scan"]).out, "k\tw\n");
}

#[test]
fn values_come_from_the_command_line_stdin_or_a_file() {
    let fake = Fake::start(1);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("value");
    std::fs::write(&path, "from a file").unwrap();
    assert_eq!(kvctl(&fake, &["put", "a", &format!("@{}", path.display())]).code, 0);
    assert_eq!(kvctl_with_input(&fake, &["put", "b", "-"], b"from stdin").code, 0);
    assert_eq!(kvctl(&fake, &["put", "c", "@@literal"]).code, 0);
    assert_eq!(kvctl(&fake, &["put", "d", "-5"]).code, 0);
    let stored = ["a", "b", "c", "d"].map(|key| fake.value(key).unwrap());
    assert_eq!(stored, ["from a file", "from stdin", "@literal", "-5"]);
    let missing = kvctl(&fake, &["put", "e", "@/nowhere"]);
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("cannot read /nowhere"), "{}", missing.err);
}

#[test]
fn exit_codes_tell_what_happened() {
    let fake = Fake::start(1);
    assert_eq!(kvctl(&fake, &["get", "nothing"]).code, 3);
    assert_eq!(kvctl(&fake, &["put", "k", "1", "--if-present"]).code, 4);
    assert_eq!(kvctl(&fake, &["put", "k", "1", "--if-absent"]).code, 0);
    let taken = kvctl(&fake, &["put", "k", "2", "--if-absent"]);
    assert_eq!((taken.code, taken.out.as_str()), (4, "1\n"));
    assert!(taken.err.contains("condition failed: the key holds version"), "{}", taken.err);
    assert_eq!(kvctl(&fake, &["put", "k", "2", "--if-absent", "-o", "json"]).json()["applied"], json!(false));
    assert_eq!(kvctl(&fake, &["-k", "nowhere", "get", "k"]).code, 2);
    assert_eq!(kvctl(&fake, &["put", "", "v"]).code, 2);
    assert_eq!(kvctl(&fake, &["--endpoints", "nonsense", "get", "k"]).code, 2);
    let codes = [
        (told(Code::Aborted, "none", "never"), 5),
        (told(Code::PermissionDenied, "none", "never"), 8),
        (told(Code::InvalidArgument, "none", "never"), 2),
    ];
    for (fault, code) in codes {
        fake.fault(0, fault);
        assert_eq!(kvctl(&fake, &["put", "k", "v"]).code, code);
    }
    for (fault, code) in
        [(told(Code::ResourceExhausted, "none", "later"), 9), (told(Code::Unavailable, "none", "later"), 6)]
    {
        fake.world.lock().faults.clear();
        for _ in 0..100 {
            fake.fault(0, fault.clone());
        }
        assert_eq!(kvctl(&fake, &["put", "k", "v", "--timeout", "300ms"]).code, code);
    }
}

#[test]
fn a_cluster_that_is_down_is_six_and_names_every_endpoint() {
    let mut fake = Fake::start(3);
    fake.stop_all();
    for args in [&["put", "k", "v"][..], &["get", "k"], &["scan"], &["cluster", "status"]] {
        let run = kvctl(&fake, &[args, &["--timeout", "500ms"]].concat());
        assert_eq!(run.code, 6, "{args:?}: {}", run.err);
        let names_all = fake.endpoints().iter().all(|address| run.err.contains(address) || run.out.contains(address));
        assert!(run.err.contains("error: ") && names_all, "{args:?}: {}", run.err);
    }
}

/// I2 by hand: exit 7 prints the id; the same command with the id settles the write, applied once.
#[test]
fn an_unknown_write_prints_its_id_and_is_settled_with_it() {
    let fake = Fake::start(1);
    fake.fault(0, Fault::ApplyThenHang);
    let unknown = kvctl(&fake, &["incr", "n", "5", "--timeout", "300ms"]);
    assert_eq!(unknown.code, 7, "{}", unknown.err);
    let id = unknown.err.split("--request-id ").nth(1).unwrap().split(' ').next().unwrap();
    let settled = kvctl(&fake, &["incr", "n", "5", "--request-id", id, "-o", "json"]).json();
    assert_eq!((&settled["number"], &settled["repeated"]), (&json!(5), &json!(true)));
    assert_eq!(fake.value("n").as_deref(), Some("5"));
    assert_eq!(kvctl(&fake, &["incr", "n", "5", "--request-id", "garbage"]).code, 2);
}

#[test]
fn cas_stores_only_over_the_old_value() {
    let fake = Fake::start(1);
    kvctl(&fake, &["put", "k", "1"]);
    assert_eq!(kvctl(&fake, &["cas", "k", "1", "-2"]).code, 0);
    assert_eq!(kvctl(&fake, &["cas", "k", "1", "3"]).code, 4);
    assert_eq!(kvctl(&fake, &["cas", "k", "-2"]).code, 2);
    assert_eq!(kvctl(&fake, &["cas", "k", "-", "-"]).code, 2);
    assert_eq!(fake.value("k").as_deref(), Some("-2"));
}

#[test]
fn incr_and_del_say_what_was_there() {
    let fake = Fake::start(1);
    assert_eq!(kvctl(&fake, &["incr", "n"]).out, "1\n");
    assert_eq!(kvctl(&fake, &["incr", "n", "-4", "-o", "raw"]).out, "-3\n");
    kvctl(&fake, &["put", "text", "abc"]);
    let wrong = kvctl(&fake, &["incr", "text"]);
    assert_eq!(wrong.code, 4);
    assert!(wrong.err.contains("not a decimal 64-bit signed integer"), "{}", wrong.err);
    assert_eq!(kvctl(&fake, &["del", "n", "--prev"]).out, "OK\nprevious: -3\n");
    assert_eq!(kvctl(&fake, &["del", "n", "--prev"]).out, "OK\nprevious: none\n");
    let version = kvctl(&fake, &["-o", "json", "get", "text"]).json()["version"].as_str().unwrap().to_owned();
    assert_eq!(kvctl(&fake, &["del", "text", "--if-version", "1-1-1"]).code, 4);
    assert_eq!(kvctl(&fake, &["del", "text", "--if-version", &version]).code, 0);
}

#[test]
fn scan_lists_in_the_asked_form() {
    let fake = Fake::start(3);
    for key in ["a", "b1", "b2", "b3", "c"] {
        kvctl(&fake, &["put", key, "v\t1"]);
    }
    assert_eq!(kvctl(&fake, &["scan", "--prefix", "b", "--keys-only"]).out, "b1\nb2\nb3\n");
    assert_eq!(kvctl(&fake, &["scan", "--start", "b3"]).out, "b3\tv\\t1\nc\tv\\t1\n");
    assert_eq!(kvctl(&fake, &["scan", "--end", "b2", "--reverse", "--limit", "1", "--keys-only"]).out, "b1\n");
    assert_eq!(kvctl(&fake, &["scan", "--limit", "1", "--values-only", "-o", "raw"]).out, "v\t1\n");
    let lines = kvctl(&fake, &["scan", "--prefix", "b", "-o", "json"]).out;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0]["key"], json!({ "utf8": "b1" }));
    assert_eq!((&lines[3]["entries"], &lines[3]["receipts"][0]["level"]), (&json!(3), &json!("linearizable")));
}

#[test]
fn a_scan_that_breaks_prints_what_came_and_fails() {
    let fake = Fake::start(1);
    for key in ["a", "b", "c", "d"] {
        kvctl(&fake, &["put", key, "v"]);
    }
    fake.fault(0, Fault::BreakScan);
    let run = kvctl(&fake, &["scan", "--keys-only", "-o", "json"]);
    assert_eq!((run.code, run.out.lines().count()), (6, 2), "{}", run.err);
    assert!(!run.out.contains("receipts"), "a broken scan must not look complete");
}

#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    let fake = Fake::start(1);
    let value = "x".repeat(10_000);
    for key in 0..24 {
        assert_eq!(kvctl(&fake, &["put", &format!("k{key}"), &value]).code, 0);
    }
    let mut child =
        command(&fake.endpoints()).args(["scan"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_batch_happens_wholly_or_not_at_all() {
    let fake = Fake::start(1);
    let lines = concat!(
        r#"{"op":"put","key":"a","value":"1","if_absent":true}"#,
        "\n\n",
        r#"{"op":"incr","key":"n","by":-5}"#,
        "\n",
        r#"{"op":"del","key":{"b64":"/w=="}}"#,
    );
    let first = kvctl_with_input(&fake, &["batch", "-"], lines.as_bytes());
    assert_eq!((first.code, first.out.as_str()), (0, "1\tapplied\n2\tapplied\t-5\n3\tapplied\n"), "{}", first.err);
    let second = kvctl_with_input(&fake, &["batch", "-", "-o", "json"], lines.as_bytes());
    assert_eq!(second.code, 4);
    let document = second.json();
    assert_eq!((&document["applied"], &document["results"][0]["status"]), (&json!(false), &json!("condition_failed")));
    assert_eq!(fake.value("n").as_deref(), Some("-5"), "nothing of the second batch happened");
    let wrong = kvctl_with_input(&fake, &["batch", "-"], b"{\"op\":\"incr\",\"key\":\"n\"}\n{\"op\":\"drop\"}\n");
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("line 2: unknown variant `drop`"), "{}", wrong.err);
}

#[test]
fn cluster_status_shows_every_node() {
    let mut fake = Fake::start(3);
    fake.stop(1);
    let run = kvctl(&fake, &["cluster", "status"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(run.out.lines().count(), 4, "{}", run.out);
    assert!(run.out.contains("LEADS") && run.out.contains("unreachable"), "{}", run.out);
    let rows = kvctl(&fake, &["cluster", "status", "--shards"]).out;
    assert!(rows.contains("leader") && rows.contains("follower"), "{rows}");
    assert!(run.err.contains(&fake.address(1)), "{}", run.err);
    let nodes = kvctl(&fake, &["status", "-o", "json"]).json();
    let reachable: Vec<bool> =
        nodes["nodes"].as_array().unwrap().iter().map(|node| node["reachable"].as_bool().unwrap()).collect();
    assert_eq!(reachable, [true, true, false]);
    // An endpoint that belongs to nobody is no node that is down.
    let endpoints = format!("{},127.0.0.1:1", fake.address(0));
    let run = kvctl(&fake, &["cluster", "status", "--endpoints", &endpoints]);
    assert!(run.code == 0 && !run.out.contains("127.0.0.1:1 "), "{}", run.out);
    assert!(run.err.contains("note: 127.0.0.1:1 does not answer"), "{}", run.err);
}

#[test]
fn how_often_a_node_was_started_is_told_only_where_it_is_known() {
    let fake = Fake::start(3);
    let listed = kvctl(&fake, &["node", "list", "-o", "json"]).json();
    let starts: Vec<&Value> = listed["nodes"].as_array().unwrap().iter().map(|node| &node["start_count"]).collect();
    assert_eq!(starts, [&json!(4), &Value::Null, &Value::Null]);
    let table = kvctl(&fake, &["node", "list"]).out;
    // "METADATA VOTER" is one column of two words.
    let column = table.replace("METADATA VOTER", "METADATA-VOTER");
    let column = column.lines().next().unwrap().split_whitespace().position(|name| name == "STARTS").unwrap();
    let starts = |node: usize| table.lines().nth(node).unwrap().split_whitespace().nth(column).unwrap();
    assert_eq!((starts(1), starts(2)), ("4", "-"), "{table}");
}

#[test]
fn the_last_error_of_a_chore_comes_with_its_age() {
    let fake = Fake::start(1);
    let told = kvctl(&fake, &["workers", "-o", "json"]).json();
    let workers = &told["nodes"][0]["workers"];
    assert_eq!((&workers[0]["last_error"], &workers[0]["last_error_ms_ago"]), (&Value::Null, &Value::Null));
    assert_eq!(workers[1]["last_error"], json!("node 2 has not answered"));
    assert_eq!(workers[1]["last_error_ms_ago"], json!(3_600_000));
    let table = kvctl(&fake, &["workers"]).out;
    assert!(table.contains("node 2 has not answered") && table.contains("60 min ago"), "{table}");
}

#[test]
fn help_completions_and_version_need_no_cluster() {
    let mut fake = Fake::start(1);
    fake.stop_all();
    for shell in ["bash", "zsh", "fish"] {
        assert!(kvctl(&fake, &["completions", shell]).out.contains("kvctl"), "{shell}");
    }
    assert!(kvctl(&fake, &["version"]).out.starts_with("kvctl "));
    assert_eq!(kvctl(&fake, &["version", "-o", "json"]).json()["name"], json!("kvctl"));
    let help = kvctl(&fake, &["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.out.contains("7 outcome unknown"), "{}", help.out);
    let unused = kvctl(&fake, &["put", "a", "b", "--level", "local"]);
    assert_eq!(unused.code, 2);
    assert!(unused.err.contains("has no use for --level"), "{}", unused.err);
}

const FLIGHTS: &str = "carrier,flight,origin,tail,delay,hour\n\
    UA,1545,EWR,N14228,2,2013-01-01T10\n\
    UA,1714,LGA,NA,-4,2013-01-01T10\n\
    broken\n\
    AA,1141,JFK,N619AA,,2013-01-01T10\n";

#[test]
fn import_stores_rows_as_json_and_tells_what_it_left_out() {
    let fake = Fake::start(3);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("flights.csv.gz");
    let mut gzip = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::fast());
    gzip.write_all(FLIGHTS.as_bytes()).unwrap();
    gzip.finish().unwrap();
    let errors = folder.path().join("errors.jsonl");
    let path = path.to_str().unwrap();
    let args = ["import", path, "--key", "{hour}/{carrier}{flight}/{origin}", "--null", "NA"];
    let run = kvctl(&fake, &[&args[..], &["--errors", errors.to_str().unwrap()]].concat());
    assert_eq!((run.code, run.out.as_str()), (1, ""), "{}", run.err);
    assert!(run.err.contains("line 4: 1 fields, the header has 6"), "{}", run.err);
    assert!(run.err.contains("4 rows: 3 imported, 1 rejected"), "{}", run.err);
    let stored = fake.value("2013-01-01T10/UA1714/LGA").unwrap();
    assert_eq!(
        stored,
        r#"{"carrier":"UA","flight":1714,"origin":"LGA","tail":null,"delay":-4,"hour":"2013-01-01T10"}"#
    );
    let written = std::fs::read_to_string(&errors).unwrap();
    let error: Value = serde_json::from_str(written.trim()).unwrap();
    assert_eq!((&error["line"], &error["text"]), (&json!(4), &json!("broken")));
    let lenient = kvctl(&fake, &[&args[..], &["--lenient", "-o", "json"]].concat());
    assert_eq!(lenient.code, 0);
    let summary = lenient.json();
    assert_eq!((&summary["rows"], &summary["imported"], &summary["rejected"]), (&json!(4), &json!(3), &json!(1)));
    assert!(summary["seconds"].as_f64().unwrap() > 0.0 && summary["bytes"].as_u64().unwrap() > 200);
}

#[test]
fn import_reads_json_lines_from_stdin() {
    let fake = Fake::start(1);
    let rows = b"{\"id\": 1, \"name\": \"a\"}\n{\"id\": 2}\n";
    let run = kvctl_with_input(&fake, &["import", "-", "--key", "row/{id}"], rows);
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(fake.value("row/1").unwrap(), "{\"id\": 1, \"name\": \"a\"}");
    let wrong = kvctl_with_input(&fake, &["import", "-", "--key", "row/{name}"], rows);
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("line 2: no field \"name\": the row has id"), "{}", wrong.err);
    assert_eq!(kvctl_with_input(&fake, &["import", "-", "--key", "{id}", "--null", "x"], rows).code, 2);
}

#[test]
fn import_refuses_a_template_with_an_unknown_column() {
    let fake = Fake::start(1);
    let run = kvctl_with_input(&fake, &["import", "-", "--key", "{carrier}/{day}"], FLIGHTS.as_bytes());
    assert_eq!(run.code, 2);
    let said = "unknown column \"day\": stdin has carrier, flight, origin, tail, delay, hour";
    assert!(run.err.contains(said), "{}", run.err);
    assert!(fake.seen("batch").is_empty());
}

/// The last row of a key wins, whatever runs at once and whatever is repeated on the way.
#[test]
fn the_last_row_of_a_key_wins_also_with_concurrency_and_lost_answers() {
    let fake = Fake::start(1);
    let mut rows = String::from("key,n\n");
    for number in 0..3_000 {
        rows.push_str(&format!("k{},{number}\n", number % 7));
    }
    for _ in 0..15 {
        fake.fault(0, Fault::ApplyThenLose);
        fake.fault(0, Fault::Lose);
    }
    let args = ["import", "-", "--key", "{key}", "--batch", "3", "--concurrency", "16"];
    let run = kvctl_with_input(&fake, &args, rows.as_bytes());
    assert_eq!(run.code, 0, "{}", run.err);
    for key in 0..7 {
        let last = (0..3_000).rev().find(|number| number % 7 == key).unwrap();
        let value: Value = serde_json::from_str(&fake.value(&format!("k{key}")).unwrap()).unwrap();
        assert_eq!(value["n"], json!(last));
    }
}

#[test]
fn a_row_over_the_limit_is_rejected_and_its_neighbours_are_stored() {
    let fake = Fake::start(1);
    let rows = format!("key,n\na,1\n{},2\nc,3\nd,4\n", "k".repeat(5_000));
    let run = kvctl_with_input(&fake, &["import", "-", "--key", "{key}"], rows.as_bytes());
    assert_eq!(run.code, 1);
    assert!(run.err.contains("line 3: key has 5000, the limit key_bytes_max is 4096"), "{}", run.err);
    assert!(fake.value("a").is_some() && fake.value("c").is_some() && fake.value("d").is_some());
    // The server's own limit is met by whoever is sent when it says so; a batch is then taken apart.
    let told =
        Told::new(Code::InvalidArgument, "OVER_LIMIT", &[("effect", "none"), ("retry", "never"), ("limit", "x")]);
    for _ in 0..3 {
        fake.fault(0, Fault::Refuse(told.clone()));
    }
    let args = ["import", "-", "--key", "{key}", "--concurrency", "1", "-o", "json"];
    let run = kvctl_with_input(&fake, &args, b"key,n\na,5\nb,6\nc,7\nd,8\n");
    assert_eq!((run.code, &run.json()["rejected"]), (1, &json!(1)), "{}", run.err);
    assert!(run.err.contains("line 2: told by the script"), "{}", run.err);
}

#[test]
fn an_import_that_cannot_go_on_says_why_and_how_far_it_came() {
    let mut fake = Fake::start(1);
    let run = kvctl_with_input(&fake, &["-k", "nowhere", "import", "-", "--key", "{carrier}"], FLIGHTS.as_bytes());
    assert_eq!(run.code, 2);
    assert!(run.err.contains("unknown keyspace") && run.err.contains("0 imported"), "{}", run.err);
    fake.fault(0, Fault::Hang);
    let args = ["import", "-", "--key", "{carrier}{flight}", "--timeout", "300ms", "--concurrency", "1"];
    let run = kvctl_with_input(&fake, &args, FLIGHTS.as_bytes());
    assert_eq!(run.code, 7, "{}", run.err);
    fake.stop_all();
    assert_eq!(kvctl_with_input(&fake, &args, FLIGHTS.as_bytes()).code, 6);
    assert_eq!(kvctl(&fake, &["import", "/nowhere.csv", "--key", "{a}"]).code, 1);
}

/// Keys and values of any bytes, through a file, a gzipped file and a pipe.
#[test]
fn what_is_exported_is_imported_unchanged() {
    let (from, to) = (Fake::start(1), Fake::start(1));
    kvctl_with_input(&from, &["put", "text", "-"], "a\n\"b\"\u{0}ü".as_bytes());
    kvctl_with_input(&from, &["put", "bytes", "-"], &[0xff, 0x00, b'\n']);
    let binary = b"{\"key_base64\":\"/wA=\",\"value\":\"\"}\n";
    assert_eq!(kvctl_with_input(&from, &["import", "-"], binary).code, 0);
    kvctl(&from, &["put", "fleeting", "v", "--ttl", "1h"]);
    let exported = kvctl(&from, &["export"]);
    assert_eq!((exported.code, exported.out.lines().count()), (0, 4), "{}", exported.err);
    let folder = TempDir::new().unwrap();
    for name in ["plain.jsonl", "packed.jsonl.gz"] {
        let path = folder.path().join(name);
        let path = path.to_str().unwrap();
        assert_eq!(kvctl(&from, &["export", path, "-o", "json"]).json()["rows"], json!(4));
        let taken = kvctl(&to, &["import", path]);
        assert_eq!(taken.code, 0, "{}", taken.err);
        assert_eq!(kvctl(&to, &["export", "--prefix", "b"]).out, kvctl(&from, &["export", "--prefix", "b"]).out);
    }
    let kept = |line: &&str| !line.contains("fleeting");
    let again = kvctl(&to, &["export"]).out;
    assert!(again.lines().filter(kept).eq(exported.out.lines().filter(kept)), "{again}");
    assert!(again.contains("\"fleeting\",\"value\":\"v\",\"expires_ms\":17"), "{again}");
    // What is over does not come back.
    let over = b"{\"key\":\"over\",\"value\":\"v\",\"expires_ms\":5}\n";
    let run = kvctl_with_input(&to, &["import", "-", "-o", "json"], over).json();
    assert_eq!((&run["expired"], &run["imported"], to.value("over")), (&json!(1), &json!(0), None));
}

/// A scan that breaks in the middle leaves a note, with which the export goes on.
#[test]
fn an_export_that_broke_off_is_gone_on_with() {
    let fake = Fake::start(1);
    for key in ["a", "b", "c", "d"] {
        kvctl(&fake, &["put", key, "v"]);
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.jsonl");
    let export = ["export", path.to_str().unwrap()];
    fake.fault(0, Fault::BreakScan);
    let broken = kvctl(&fake, &export);
    assert_eq!(broken.code, 6, "{}", broken.err);
    assert!(broken.err.contains("--resume"), "{}", broken.err);
    let again = kvctl(&fake, &export);
    assert!(again.code == 2 && again.err.contains("--overwrite"), "{}", again.err);
    let other = kvctl(&fake, &["export", export[1], "--resume", "--from", "b"]);
    assert!(other.code == 2 && other.err.contains("other bounds"), "{}", other.err);
    assert_eq!(kvctl(&fake, &["export", export[1], "--resume"]).code, 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), kvctl(&fake, &["export"]).out);
    let whole = kvctl(&fake, &["export", export[1], "--resume"]);
    assert!(whole.code == 2 && whole.err.contains("is whole"), "{}", whole.err);
    assert_eq!(kvctl(&fake, &["export", "--resume"]).code, 2);
}

/// An import that stops goes on behind what is certain; a file that was changed is refused.
#[test]
fn an_import_that_stopped_is_gone_on_with() {
    let fake = Fake::start(1);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rows.csv");
    let rows = |first: u64| (first..3_000).map(|row| format!("{row},{row}\n")).collect::<String>();
    std::fs::write(&path, format!("id,n\n{}", rows(0))).unwrap();
    let import = ["import", path.to_str().unwrap(), "--key", "{id}", "--concurrency", "1", "--timeout", "2s"];
    // The first requests of the import go through, then one is refused for good.
    fake.world.lock().refuses_batches_after = Some(6);
    let stopped = kvctl(&fake, &import);
    assert_eq!(stopped.code, 8, "{}", stopped.err);
    assert!(stopped.err.contains("1,536 rows have their outcome"), "{}", stopped.err);
    fake.world.lock().refuses_batches_after = None;

    let resume = [&import[..], &["--resume", "-o", "json"]].concat();
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, format!("id,n\n9,9\n{}", rows(1).replacen("1,1", "1,0", 1))).unwrap();
    let changed = kvctl(&fake, &resume);
    assert!(changed.code == 2 && changed.err.contains("is not what it was"), "{}", changed.err);
    std::fs::write(&path, [&text[..], b"3000,1\n"].concat()).unwrap();
    let longer = kvctl(&fake, &resume);
    assert!(longer.code == 2 && longer.err.contains("another length"), "{}", longer.err);
    std::fs::write(&path, text).unwrap();
    let resumed = kvctl(&fake, &resume);
    assert_eq!((resumed.code, &resumed.json()["imported"]), (0, &json!(3_000 - 1_536)), "{}", resumed.err);
    assert!((0..3_000).all(|row| fake.value(&row.to_string()).is_some()));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "what is whole has no note");
}

#[test]
fn a_session_file_carries_the_token_from_command_to_command() {
    let fake = Fake::start(3);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("session");
    let session = ["--session", file.to_str().unwrap()];
    assert_eq!(kvctl(&fake, &[&["put", "k", "v"][..], &session].concat()).code, 0);
    assert_eq!(kvctl(&fake, &[&["get", "k", "--transport", "unary"][..], &session].concat()).code, 0);
    let seen = fake.seen("get").pop().unwrap();
    assert!(!seen.token.is_empty() && seen.level.starts_with("Session"), "{seen:?}");
    assert!(fake.seen("put").pop().unwrap().token.is_empty(), "a write needs no token");
    std::fs::write(&file, "nonsense").unwrap();
    let wrong = kvctl(&fake, &[&["get", "k"][..], &session].concat());
    assert!(wrong.code == 1 && wrong.err.contains("holds no session token"), "{}", wrong.err);
    let nowhere = kvctl(&fake, &["put", "never", "v", "--session", "/nowhere/at/all"]);
    assert_eq!((nowhere.code, fake.value("never")), (1, None), "nothing is sent whose token could not be kept");
}

/// A token of another keyspace stops a write before it is sent, and the file keeps what it holds.
#[test]
fn a_session_of_another_keyspace_is_refused_before_anything_is_written() {
    let fake = Fake::start(1);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("session");
    let session = ["--session", file.to_str().unwrap()];
    assert_eq!(kvctl(&fake, &[&["put", "k", "v"][..], &session].concat()).code, 0);
    let token = std::fs::read(&file).unwrap();
    fake.world.lock().keyspace = 2;
    for transport in ["stream", "unary"] {
        let put = kvctl(&fake, &[&["put", "k", "w", "--transport", transport][..], &session].concat());
        assert_eq!((put.code, fake.value("k").as_deref()), (2, Some("v")), "{}", put.err);
        assert!(put.err.starts_with("error: session_token") && put.err.contains("(number 2)"), "{}", put.err);
    }
    assert_eq!(kvctl(&fake, &[&["get", "k"][..], &session].concat()).code, 2);
    assert_eq!(std::fs::read(&file).unwrap(), token);
}

#[test]
fn a_whole_file_is_not_touched_by_an_export_that_cannot_begin() {
    let fake = Fake::sharded(1, kvorum_api::Sharding::Hash, kvorum_api::PlacementRange::of_hashes(2));
    kvctl(&fake, &["put", "a", "1"]);
    let folder = TempDir::new().unwrap();
    for name in ["a.jsonl", "a.jsonl.gz"] {
        let path = folder.path().join(name);
        let shown = path.to_str().unwrap();
        assert_eq!(kvctl(&fake, &["export", shown]).code, 0);
        let whole = std::fs::read(&path).unwrap();
        let again = kvctl(&fake, &["export", shown]);
        assert!(again.code == 2 && again.err.contains("--overwrite"), "{}", again.err);
        let bounds = kvctl(&fake, &["export", shown, "--prefix", "a", "--overwrite"]);
        assert!(bounds.code == 2 && bounds.err.contains("full_scan"), "{}", bounds.err);
        fake.fault(0, told(Code::PermissionDenied, "none", "never"));
        assert_eq!(kvctl(&fake, &["export", shown, "--overwrite"]).code, 8);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        kvctl(&fake, &["put", "b", "2"]);
        assert_eq!(kvctl(&fake, &["export", shown, "--overwrite"]).code, 0);
        assert!(std::fs::read(&path).unwrap() != whole);
        kvctl(&fake, &["del", "b"]);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "and no note is left");
}
