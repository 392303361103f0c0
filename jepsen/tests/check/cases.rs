//! The histories in `jepsen/tests/histories`: every verdict of `verdicts.tsv`, also after a journey through each
//! format.

use crate::histories;
use kvorum_jepsen::{
    check::{Options, find},
    history::{Format, Record, load, parse, read_edn, read_etcd_log, write_edn, write_jsonl},
};
use std::fs;

#[test]
fn every_verdict_is_right_in_every_format() {
    let verdicts = fs::read_to_string(histories().join("verdicts.tsv")).unwrap();
    let mut judged = 0;
    for line in verdicts.lines().skip(1) {
        let [file, model, expected, why] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let path = histories().join(file);
        let records = records(&fs::read_to_string(&path).unwrap(), file);
        let (mut jsonl, mut edn) = (Vec::new(), Vec::new());
        write_jsonl(&mut jsonl, &records).unwrap();
        write_edn(&mut edn, &records).unwrap();
        let copies = [
            load(&path, Format::Auto).unwrap(),
            parse(std::str::from_utf8(&jsonl).unwrap(), Format::Auto).unwrap(),
            parse(std::str::from_utf8(&edn).unwrap(), Format::Auto).unwrap(),
        ];
        for history in copies {
            let report = (find(model).unwrap().judge)(&history, &Options::default()).unwrap();
            assert_eq!(report.verdict.as_str(), expected, "{file}: {why}: {:?}", report.reasons);
            assert_eq!(report.findings.is_empty(), expected != "violation", "{file}");
        }
        judged += 1;
    }
    assert_eq!(judged, 14);
}

fn records(text: &str, file: &str) -> Vec<Record> {
    let records = match file.rsplit('.').next() {
        Some("edn") => read_edn(text).unwrap(),
        Some("log") => read_etcd_log(text).unwrap(),
        _ => return text.lines().map(one).collect(),
    };
    records.into_iter().map(|(_, record)| record).collect()
}

fn one(line: &str) -> Record {
    kvorum_jepsen::history::JsonLines::new(line.as_bytes()).next().unwrap().unwrap().1
}
