//! Histories that others recorded, with the verdicts they published. They lie outside the repository, in
//! `../shared/histories` or where `KVORUM_HISTORIES` says; without them these tests say so and check nothing.

use kvorum_jepsen::{
    check::{Options, Verdict, find},
    history::{Format, Kind, Process, Record, Value, load, read_edn, write_edn},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/histories");
    let folder = std::env::var_os("KVORUM_HISTORIES").map_or(beside, PathBuf::from);
    if !folder.is_dir() {
        println!("SKIPPED: {} is not there; name the folder in KVORUM_HISTORIES", folder.display());
        return None;
    }
    Some(folder)
}

#[test]
fn every_verdict_of_porcupine_is_right() {
    let Some(folder) = folder() else { return };
    let folder = folder.join("porcupine");
    let verdicts = fs::read_to_string(folder.join("verdicts.tsv")).unwrap();
    let mut judged = 0;
    for line in verdicts.lines().skip(1) {
        let [file, expected, model] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (format, check) = match model {
            "etcd_cas_register" => (Format::PorcupineEtcd, "cas-register"),
            _ => (Format::PorcupineKv, "kv"),
        };
        for format in [format, Format::Auto] {
            let history = load(&folder.join(file), format).unwrap();
            let report = (find(check).unwrap().judge)(&history, &Options::default()).unwrap();
            let expected = if expected == "ok" { Verdict::Ok } else { Verdict::Violation };
            assert_eq!(report.verdict, expected, "{file}: {:?}", report.reasons);
        }
        judged += 1;
    }
    assert!(judged > 50, "only {judged} histories");
    println!("{judged} verdicts of Porcupine's are right");
}

/// Elle's own judge comes with the checker of transactions; here its histories are read and written.
#[test]
fn every_case_of_elle_comes_back() {
    let Some(folder) = folder() else { return };
    let cases = fs::read_to_string(folder.join("elle/cases.jsonl")).unwrap();
    let mut read = 0;
    for line in cases.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let records: Vec<Record> = case["history"].as_array().unwrap().iter().map(record).collect();
        let mut written = Vec::new();
        write_edn(&mut written, &records).unwrap();
        let text = String::from_utf8(written).unwrap();
        let back: Vec<Record> = read_edn(&text).unwrap().into_iter().map(|(_, record)| record).collect();
        assert_eq!(back, records, "{}", case["name"]);
        assert!(text.contains("[:append :") || text.contains("[:w :") || text.contains("[:r :"), "{text}");
        read += 1;
    }
    assert!(read >= 19, "only {read} cases");
}

fn record(json: &serde_json::Value) -> Record {
    let kind = Kind::parse(json["type"].as_str().unwrap()).unwrap();
    let process = Process::Client(json["process"].as_u64().unwrap());
    let value = Value::from_json(json["value"].clone()).unwrap();
    Record::new(json["index"].as_u64().unwrap(), process, kind, "txn").with_value(value)
}
