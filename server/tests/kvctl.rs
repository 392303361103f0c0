//! The real `kvctl` against real nodes: what a script sees of a cluster, answers and exit codes.
//!
//! `client/tests/kvctl.rs` holds the forms of the output and the rarer failures against a scripted cluster; here the
//! answers come from `kvd`.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod cluster;

use cluster::{
    Cluster,
    program::{at, kvctl, program, told},
    until,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Short elections: an election is not what these tests wait for.
const QUICK: &str = "[raft]\nheartbeat = \"100ms\"\nelection_min = \"400ms\"\nelection_max = \"800ms\"\n";

/// The key of a flight, as `dev up` makes it.
const FLIGHT: &str = "{time_hour}/{carrier}{flight}/{origin}";

async fn three() -> Cluster {
    let cluster = Cluster::start_with(3, |_| QUICK.to_owned()).await;
    cluster.leader().await;
    cluster
}

/// Every key that a scan gives, in its order.
async fn keys(cluster: &Cluster, arguments: &[&str]) -> Vec<String> {
    let run = kvctl(cluster, &[&["scan", "--keys-only", "-o", "raw"], arguments].concat()).await.ok();
    run.out.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn what_is_put_is_got_with_a_receipt_and_what_is_deleted_is_not_found() {
    let cluster = three().await;
    let put = told(&cluster, &["put", "greeting", "hello"]).await;
    assert_eq!((&put["applied"], &put["repeated"]), (&json!(true), &json!(false)));
    let receipt = &put["receipt"];
    assert_eq!((&receipt["mode"], &receipt["ack"]), (&json!("cp"), &json!("majority")), "{put}");
    assert!((2..=3).contains(&receipt["durable_replicas"].as_u64().unwrap()), "{put}");

    let got = told(&cluster, &["get", "greeting"]).await;
    assert_eq!((&got["found"], &got["value"]), (&json!(true), &json!({ "utf8": "hello" })), "{got}");
    assert_eq!(got["version"], put["version"]);
    let receipt = &got["receipt"];
    assert_eq!((&receipt["mode"], &receipt["level"]), (&json!("cp"), &json!("linearizable")), "{got}");
    assert!(receipt["position"]["index"].as_u64() >= put["receipt"]["position"]["index"].as_u64(), "{got}");
    assert!((1..=3).contains(&receipt["node"].as_u64().unwrap()));

    let text = kvctl(&cluster, &["get", "greeting"]).await.ok();
    assert_eq!(text.out, "hello\n");
    kvctl(&cluster, &["del", "greeting"]).await.ok();
    let gone = kvctl(&cluster, &["get", "greeting", "-o", "json"]).await;
    assert_eq!((gone.code, &gone.json()["found"]), (3, &json!(false)));
    assert_eq!(kvctl(&cluster, &["get", "never there"]).await.code, 3);
    // Rule T3: it goes by the log, without anybody asking for it to go.
    kvctl(&cluster, &["put", "fleeting", "v", "--ttl", "500ms"]).await.ok();
    until("the key to be gone", || async {
        let run = kvctl(&cluster, &["get", "fleeting"]).await;
        assert!([0, 3].contains(&run.code), "{run:?}");
        (run.code == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn conditions_numbers_batches_and_scans_do_what_they_say() {
    let cluster = three().await;
    kvctl(&cluster, &["put", "state", "a"]).await.ok();
    kvctl(&cluster, &["cas", "state", "a", "b"]).await.ok();
    let failed = kvctl(&cluster, &["cas", "state", "a", "c"]).await;
    assert_eq!(failed.code, 4, "{failed:?}");
    assert_eq!(kvctl(&cluster, &["put", "state", "c", "--if-absent"]).await.code, 4);
    assert_eq!(kvctl(&cluster, &["get", "state"]).await.ok().out, "b\n");

    assert_eq!(told(&cluster, &["incr", "visits"]).await["number"], json!(1));
    assert_eq!(told(&cluster, &["incr", "visits", "41"]).await["number"], json!(42));
    assert_eq!(told(&cluster, &["incr", "visits", "-50"]).await["number"], json!(-8));
    let not_a_number = kvctl(&cluster, &["incr", "state"]).await;
    assert_eq!(not_a_number.code, 4, "{not_a_number:?}");

    let file = cluster.root().join("batch.jsonl");
    let batch = |condition: &str| {
        format!(
            "{{\"op\":\"put\",\"key\":\"m/2\",\"value\":\"2\"}}\n{{\"op\":\"put\",\"key\":\"m/10\",\"value\":\"10\"}}\n\
             {{\"op\":\"incr\",\"key\":\"visits\",\"by\":1}}\n\
             {{\"op\":\"del\",\"key\":\"state\",\"if_value\":\"{condition}\"}}\n"
        )
    };
    let path = file.to_str().unwrap();
    fs::write(&file, batch("not that")).unwrap();
    assert_eq!(kvctl(&cluster, &["batch", path]).await.code, 4);
    assert_eq!(keys(&cluster, &[]).await, ["state", "visits"], "of a batch all happen or none");
    assert_eq!(kvctl(&cluster, &["get", "visits"]).await.ok().out, "-8\n");
    fs::write(&file, batch("b")).unwrap();
    let applied = told(&cluster, &["batch", path]).await;
    assert_eq!(applied["results"].as_array().unwrap().len(), 4, "{applied}");

    kvctl(&cluster, &["put", "m/1", "1"]).await.ok();
    assert_eq!(keys(&cluster, &[]).await, ["m/1", "m/10", "m/2", "visits"]);
    assert_eq!(keys(&cluster, &["--prefix", "m/", "--reverse", "--limit", "2"]).await, ["m/2", "m/10"]);
    assert_eq!(keys(&cluster, &["--start", "m/10", "--end", "visits"]).await, ["m/10", "m/2"]);
}

#[tokio::test]
async fn status_shows_every_node_one_leader_and_equal_replicas() {
    let cluster = three().await;
    kvctl(&cluster, &["put", "k", "v"]).await.ok();
    // One endpoint suffices: the others are found through it.
    let one = &cluster.endpoints()[..1];
    let nodes = until("the replicas to stand at one index", || async {
        let status = at(one, &["cluster", "status", "-o", "json"]).await.ok().json();
        let nodes = status["nodes"].as_array().unwrap().clone();
        let applied: BTreeSet<u64> =
            nodes.iter().filter_map(|node| node["replicas"][0]["applied_index"].as_u64()).collect();
        let all_answer = nodes.len() == 3 && nodes.iter().all(|node| node["reachable"] == json!(true));
        (all_answer && applied.len() == 1).then_some(nodes)
    })
    .await;
    let ids: BTreeSet<u64> = nodes.iter().filter_map(|node| node["node"].as_u64()).collect();
    assert_eq!(ids, BTreeSet::from([1, 2, 3]));
    let roles: Vec<&str> = nodes.iter().filter_map(|node| node["replicas"][0]["role"].as_str()).collect();
    assert_eq!(roles.iter().filter(|role| **role == "leader").count(), 1, "{roles:?}");
    let hashes: BTreeSet<&str> = nodes.iter().filter_map(|node| node["replicas"][0]["rolling_hash"].as_str()).collect();
    assert_eq!(hashes.len(), 1, "replicas at one index hold the same: {hashes:?}");
    let table = at(one, &["status"]).await.ok();
    assert_eq!(table.out.lines().count(), 4, "a header and three rows: {}", table.out);
    assert!(cluster.endpoints().iter().all(|address| table.out.contains(address)), "{}", table.out);
}

#[tokio::test]
async fn the_sample_is_imported_and_all_of_it_is_read_back() {
    let cluster = three().await;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/flights-sample.csv.gz");
    let import = ["import", sample.to_str().unwrap(), "--key", FLIGHT, "--null", "NA"];
    let summary = told(&cluster, &import).await;
    let rows = summary["rows"].as_u64().unwrap();
    assert!(rows > 5_000 && summary["imported"] == json!(rows) && summary["rejected"] == json!(0), "{summary}");
    let found = keys(&cluster, &[]).await;
    assert_eq!(found.len() as u64, rows);
    assert!(found.is_sorted(), "a scan is in key order");
    let first = told(&cluster, &["get", "2013-01-01T10:00:00Z/UA1545/EWR"]).await;
    let flight: Value = serde_json::from_str(first["value"]["utf8"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&flight["dest"], &flight["dep_time"], &flight["tailnum"]),
        (&json!("IAH"), &json!(517), &json!("N14228"))
    );
    // The same again makes the same keys.
    assert_eq!(told(&cluster, &import).await["imported"], json!(rows));
    assert_eq!(keys(&cluster, &[]).await.len() as u64, rows);
}

#[tokio::test]
async fn rows_that_cannot_be_read_are_named_by_their_line_and_the_rest_is_imported() {
    let cluster = three().await;
    let file = cluster.root().join("rows.jsonl");
    fs::write(&file, "{\"id\":1}\nnonsense\n{\"id\":3}\n{\"name\":\"no id\"}\n{\"id\":5}\n").unwrap();
    let import = kvctl(&cluster, &["import", file.to_str().unwrap(), "--key", "row/{id}"]).await;
    assert_eq!(import.code, 1, "{import:?}");
    let named: Vec<&str> = import.err.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
    assert_eq!(named.iter().filter(|name| name.starts_with("line ")).collect::<Vec<_>>(), [&"line 2", &"line 4"]);
    assert!(import.err.contains("3 imported, 2 rejected"), "{import:?}");
    assert_eq!(keys(&cluster, &[]).await, ["row/1", "row/3", "row/5"]);
}

/// Invariant 12: what cannot be honoured is refused by a sentence that names it.
#[tokio::test]
async fn what_is_wrong_in_itself_ends_with_2_and_says_what() {
    let cluster = three().await;
    kvctl(&cluster, &["-k", "nowhere", "get", "k"]).await.refused(&["unknown keyspace", "nowhere", "default"]);
    kvctl(&cluster, &["get", "k", "--fast"]).await.refused(&["--fast"]);
    kvctl(&cluster, &["get", "k", "--request-id", "1.1.1"]).await.refused(&["request-id"]);
    kvctl(&cluster, &["put", "", "v"]).await.refused(&["key is empty", "4096"]);
    let longest = "k".repeat(4_096);
    kvctl(&cluster, &["put", &longest, "v"]).await.ok();
    let too_long = kvctl(&cluster, &["put", &format!("{longest}k"), "v"]).await;
    too_long.refused(&["key", "4097", "key_bytes_max", "4096"]);
    let file = cluster.root().join("value");
    let value = format!("@{}", file.display());
    fs::write(&file, vec![b'v'; 1 << 20]).unwrap();
    kvctl(&cluster, &["put", "large", &value]).await.ok();
    fs::write(&file, vec![b'v'; (1 << 20) + 1]).unwrap();
    let too_large = kvctl(&cluster, &["put", "too large", &value]).await;
    too_large.refused(&["value", "1048577", "value_bytes_max", "1048576"]);
    let level = kvctl(&cluster, &["get", "k", "--level", "quorum"]).await;
    level.refused(&["level quorum", "linearizable"]);
    assert_eq!(keys(&cluster, &[]).await, [longest, "large".to_owned()], "what was refused is not there");
}

/// Two of three nodes are gone: the exit codes are the truth, `local` answers, and it recovers by itself.
#[tokio::test]
async fn without_a_majority_the_exit_codes_are_true_and_it_recovers() {
    let mut cluster = three().await;
    kvctl(&cluster, &["put", "k", "v"]).await.ok();
    let alive = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != alive) {
        cluster.node(id).kill();
    }
    let put = kvctl(&cluster, &["put", "lonely", "v", "--timeout", "2s"]).await;
    assert!([6, 7].contains(&put.code), "{put:?}");
    assert_eq!(put.code == 7, put.err.contains("--request-id"), "unknown says how it is settled: {put:?}");
    let get = kvctl(&cluster, &["get", "k", "--timeout", "2s"]).await;
    assert_eq!(get.code, 6, "{get:?}");
    let local = told(&cluster, &["get", "k", "--level", "local"]).await;
    assert_eq!(local["value"], json!({ "utf8": "v" }));
    assert_eq!(local["receipt"]["level"], json!("local"), "{local}");
    assert!(local["receipt"]["staleness_ms"].is_u64(), "a leader of a while ago knows how long ago: {local}");
    let status = told(&cluster, &["cluster", "status"]).await;
    let reachable: Vec<bool> =
        status["nodes"].as_array().unwrap().iter().map(|node| node["reachable"] == json!(true)).collect();
    assert_eq!((reachable.len(), reachable.iter().filter(|reachable| **reachable).count()), (3, 1), "{status}");

    for id in (1..=3).filter(|id| *id != alive) {
        cluster.node(id).start();
    }
    until("a put to succeed again", || async {
        (kvctl(&cluster, &["put", "together", "v"]).await.code == 0).then_some(())
    })
    .await;
    assert_eq!(kvctl(&cluster, &["get", "together"]).await.ok().out, "v\n");
}

/// A file under the cluster's root, as an argument.
fn file(cluster: &Cluster, name: &str) -> String {
    cluster.root().join(name).display().to_string()
}

#[tokio::test]
async fn what_is_exported_and_imported_elsewhere_is_exported_the_same() {
    let cluster = three().await;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/flights-sample.csv.gz");
    for name in ["one", "two"] {
        let created = told(&cluster, &["keyspace", "create", name, "--shard-by", "hash:8"]).await;
        let shards = created["shards"].as_array().unwrap();
        assert_eq!(shards.len(), 8, "{created}");
        assert!(shards.iter().all(|shard| shard["state"] == json!("ready")), "{created}");
    }
    let import = ["-k", "one", "import", sample.to_str().unwrap(), "--key", FLIGHT, "--null", "NA"];
    let rows = told(&cluster, &import).await["imported"].as_u64().unwrap();
    let binary = cluster.root().join("binary.jsonl");
    fs::write(&binary, "{\"key_base64\":\"/wA=\",\"value_base64\":\"gA==\"}\n").unwrap();
    kvctl(&cluster, &["-k", "one", "import", binary.to_str().unwrap()]).await.ok();

    let (first, second) = (file(&cluster, "one.jsonl"), file(&cluster, "two.jsonl"));
    assert_eq!(told(&cluster, &["-k", "one", "export", &first]).await["rows"], json!(rows + 1));
    let taken = told(&cluster, &["-k", "two", "import", &first]).await;
    assert_eq!((&taken["imported"], &taken["rejected"]), (&json!(rows + 1), &json!(0)), "{taken}");
    kvctl(&cluster, &["-k", "two", "export", &second]).await.ok();
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "the exports are identical");
    let text = fs::read_to_string(&second).unwrap();
    assert!(text.contains("{\"key_base64\":\"/wA=\",\"value_base64\":\"gA==\"}\n"));
    assert!(!Path::new(&format!("{second}.resume")).exists() && !Path::new(&format!("{first}.two.import")).exists());

    kvctl(&cluster, &["-k", "one", "export", "--prefix", "2013"]).await.refused(&["full_scan"]);
    kvctl(&cluster, &["keyspace", "create", "one"]).await.code_is(5);
    kvctl(&cluster, &["keyspace", "drop", "one"]).await.refused(&["--yes"]);
    kvctl(&cluster, &["keyspace", "drop", "one", "--yes"]).await.ok();
    kvctl(&cluster, &["keyspace", "describe", "one"]).await.code_is(3);
    kvctl(&cluster, &["-k", "one", "get", "k"]).await.refused(&["unknown keyspace"]);
}

/// Killed in the middle, an export goes on behind what is certain: its bytes are those of one at once, gzipped or not,
/// and expiry comes along. What is whole is replaced only by who says so.
#[tokio::test]
async fn an_export_that_was_killed_is_gone_on_with() {
    let cluster = three().await;
    let rows = file(&cluster, "rows.jsonl");
    let filler = "x".repeat(1_000);
    let text: String = (0..9_000).map(|row| format!("{{\"id\":\"{row:05}\",\"f\":\"{filler}\"}}\n")).collect();
    fs::write(&rows, text).unwrap();
    kvctl(&cluster, &["import", &rows, "--key", "{id}"]).await.ok();
    kvctl(&cluster, &["put", "00000-fleeting", "v", "--ttl", "1h"]).await.ok();
    for name in ["export.jsonl", "export.jsonl.gz"] {
        let (once, path) = (file(&cluster, &format!("once-{name}")), file(&cluster, name));
        assert_eq!(told(&cluster, &["export", &once]).await["rows"], json!(9_001));
        interrupt_export(&cluster, &path).await;
        kvctl(&cluster, &["export", &path]).await.refused(&["--resume", "--overwrite"]);
        let resumed = kvctl(&cluster, &["export", &path, "--resume", "-o", "json"]).await.ok();
        let added = resumed.json()["rows"].as_u64().unwrap();
        assert!(added < 9_001 && resumed.err.contains("going on after"), "{resumed:?}");
        assert!(fs::read(&once).unwrap() == fs::read(&path).unwrap(), "{name}: the bytes of an export at once");
        assert!(!Path::new(&format!("{path}.resume")).exists(), "what is whole has no note");
        kvctl(&cluster, &["export", &path]).await.refused(&["--overwrite"]);
        kvctl(&cluster, &["export", &path, "--overwrite", "--prefix", "00000"]).await.ok();
        assert!(fs::read(&path).unwrap().len() < fs::read(&once).unwrap().len());
        kvctl(&cluster, &["export", &path, "--overwrite"]).await.ok();
        assert!(fs::read(&once).unwrap() == fs::read(&path).unwrap());
    }
    let plain = fs::read_to_string(file(&cluster, "export.jsonl")).unwrap();
    let fleeting = plain.lines().find(|line| line.contains("fleeting")).unwrap();
    assert!(fleeting.contains("\"expires_ms\":"), "{fleeting}");
    kvctl(&cluster, &["keyspace", "create", "copy"]).await.ok();
    let taken = told(&cluster, &["-k", "copy", "import", &file(&cluster, "export.jsonl.gz")]).await;
    assert_eq!((&taken["imported"], &taken["rejected"]), (&json!(9_001), &json!(0)), "{taken}");
    let copied = kvctl(&cluster, &["-k", "copy", "export", "--prefix", "00000-"]).await.ok();
    assert!(copied.out.contains("\"expires_ms\":"), "{copied:?}");
}

/// Kills exports into `path` until one dies with some rows certain and others missing.
async fn interrupt_export(cluster: &Cluster, path: &str) {
    let note = PathBuf::from(format!("{path}.resume"));
    let certain = || {
        let note: Value = serde_json::from_slice(&fs::read(&note).ok()?).ok()?;
        note["rows"].as_u64().filter(|rows| *rows > 0)
    };
    until("a kill to hit an export in the middle", || async {
        let mut command = Command::new(program());
        command.env_clear().env("KVCTL_ENDPOINTS", cluster.endpoints().join(","));
        command.args(["export", path, "--overwrite", "-q"]).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        while certain().is_none() && child.try_wait().unwrap().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        // It may have been faster than the kill.
        drop(child.kill());
        child.wait().unwrap();
        certain().map(drop)
    })
    .await;
}

/// Killed in the middle, an import goes on where every outcome is known, and nothing is missing.
#[tokio::test]
async fn an_import_that_was_killed_is_gone_on_with() {
    let cluster = three().await;
    let path = file(&cluster, "rows.csv");
    let rows: String = (0..6_000).map(|row| format!("{row},{}\n", row * 7)).collect();
    fs::write(&path, format!("id,n\n{rows}")).unwrap();
    let import = ["import", path.as_str(), "--key", "{id}", "--batch", "1", "--concurrency", "2"];
    let mut command = Command::new(program());
    command.env_clear().env("KVCTL_ENDPOINTS", cluster.endpoints().join(",")).args(import);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let note = cluster.root().join("rows.csv.default.import");
    until("the import to note how far it is", || async { note.exists().then_some(()) }).await;
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it was in the middle");

    let changed = file(&cluster, "changed");
    fs::rename(&path, &changed).unwrap();
    fs::write(&path, format!("id,n\n{}", rows.replacen("0,0", "0,1", 1))).unwrap();
    kvctl(&cluster, &[&import[..], &["--resume"]].concat()).await.code_is(2);
    fs::rename(&changed, &path).unwrap();

    let resumed = kvctl(&cluster, &["import", &path, "--key", "{id}", "--resume", "-o", "json"]).await.ok();
    let sent = resumed.json()["imported"].as_u64().unwrap();
    assert!(sent > 0 && sent < 6_000 && resumed.err.contains("going on after"), "{resumed:?}");
    assert!(!note.exists(), "what is whole has no note");
    assert_eq!(keys(&cluster, &[]).await.len(), 6_000);
    assert_eq!(kvctl(&cluster, &["get", "5999"]).await.ok().out, "{\"id\":5999,\"n\":41993}\n");
}

#[tokio::test]
async fn an_operator_sees_nodes_shards_and_workers_and_moves_a_leader() {
    let cluster = three().await;
    kvctl(&cluster, &["keyspace", "create", "names", "--split-at", "g", "--split-at", "p"]).await.ok();
    let nodes = told(&cluster, &["node", "list"]).await;
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 3, "{nodes}");
    let starts = nodes["nodes"].as_array().unwrap().iter().map(|node| &node["start_count"]);
    assert!(starts.clone().all(|starts| *starts == json!(1)), "a node tells what it has seen of the others: {nodes}");
    let shards = told(&cluster, &["shard", "list", "-k", "names"]).await;
    let shards = shards["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 3, "{shards:?}");
    assert_eq!((&shards[0]["end"], &shards[1]["start"]), (&json!({ "utf8": "g" }), &json!({ "utf8": "g" })));
    let shard = shards[1]["id"].as_u64().unwrap().to_string();
    let leader = shards[1]["leader"].as_u64().unwrap();
    let other = (1..=3).find(|node| *node != leader).unwrap().to_string();
    let moved = told(&cluster, &["shard", "transfer-leader", &shard, "--to", &other]).await;
    assert_eq!(moved["leader"].to_string(), other, "{moved}");
    let described = told(&cluster, &["shard", "describe", &shard]).await;
    assert_eq!(described["fact"].as_array().unwrap().len(), 3, "{described}");
    assert!(kvctl(&cluster, &["keyspace", "describe", "names"]).await.ok().out.contains("g..p"));
    assert!(kvctl(&cluster, &["workers", "--node", "1"]).await.ok().out.contains("WORKER"));
    assert_eq!(told(&cluster, &["node", "status", "2"]).await["nodes"][0]["node"], json!(2));
    kvctl(&cluster, &["node", "status", "9"]).await.code_is(3);
    kvctl(&cluster, &["shard", "describe", "999"]).await.code_is(3);
    let capabilities = told(&cluster, &["keyspace", "capabilities"]).await;
    assert!(capabilities["capabilities"].as_array().unwrap().len() > 5, "{capabilities}");

    let refused = |flags: &'static [&str]| [&["keyspace", "create", "odd"], flags].concat();
    kvctl(&cluster, &refused(&["--mode", "eventual"])).await.refused(&["--mode cp"]);
    kvctl(&cluster, &refused(&["--ack", "one"])).await.refused(&["--ack majority"]);
    kvctl(&cluster, &refused(&["--replicas", "5"])).await.refused(&["replicas"]);
    kvctl(&cluster, &["keyspace", "create", "No Such Name"]).await.refused(&["name"]);
}

/// A token from one node is honoured on another, and one of a dropped keyspace is refused.
#[tokio::test]
async fn a_session_goes_on_in_another_process_on_another_node() {
    let cluster = three().await;
    let session = file(&cluster, "session");
    let endpoints = cluster.endpoints();
    for round in 0..10 {
        let (one, other) = (&endpoints[round % 3..=round % 3], &endpoints[(round + 1) % 3..=(round + 1) % 3]);
        let value = round.to_string();
        at(one, &["put", "k", &value, "--session", &session]).await.ok();
        let read = at(other, &["get", "k", "--session", &session, "-o", "json"]).await.ok().json();
        assert_eq!(read["value"], json!({ "utf8": value }), "{read}");
        assert_eq!(read["receipt"]["level"], json!("session"), "{read}");
    }
    kvctl(&cluster, &["keyspace", "create", "other"]).await.ok();
    kvctl(&cluster, &["-k", "other", "get", "k", "--session", &session]).await.refused(&["session_token"]);
    let token = fs::read(&session).unwrap();
    let foreign = kvctl(&cluster, &["-k", "other", "put", "k", "v", "--session", &session]).await;
    foreign.refused(&["error: session_token", "number 1", "for other"]);
    assert_eq!(kvctl(&cluster, &["-k", "other", "get", "k"]).await.code, 3, "nothing was written");
    assert_eq!(fs::read(&session).unwrap(), token);
    kvctl(&cluster, &["get", "k", "--level", "session"]).await.refused(&["--session FILE"]);
}

#[test]
fn completions_are_scripts_that_the_shell_reads() {
    let output = Command::new(program()).args(["completions", "bash"]).output().unwrap();
    assert!(output.status.success());
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("kvctl.bash");
    fs::write(&script, output.stdout).unwrap();
    assert!(Command::new("bash").arg("-n").arg(&script).status().unwrap().success());
}
