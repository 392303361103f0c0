//! Questions about the flights, as a user would ask them: every answer equals DuckDB's.
//!
//! `expected.json` holds what DuckDB 2.0.0 said about the project's own sample, made with
//! `python3 ask.py ../../../data/flights-sample.csv.gz > expected.json` in this directory. Where Python has DuckDB,
//! it is asked anew, about all flights if `KVORUM_FLIGHTS` names the file (336,776 rows), else about the sample.
//!
//! Numbers are compared to twelve digits, coefficients to nine (both sides round there), quantiles to their bound of
//! 2^-9.

use kvorum_analytics::{
    executor::{Choice, Executor},
    kernel::Cpu,
    limits::Limits,
    load::{Options, load},
    query::{Query, Text},
    store::Store,
    value::Value,
};
use serde_json::Value as Json;
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flights")
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/flights-sample.csv.gz")
}

fn json(path: &Path) -> Json {
    serde_json::from_str(&std::fs::read_to_string(path).expect("it lies beside this file")).expect("it is JSON")
}

fn is_same(value: &Value, expected: &Json, relative: f64) -> bool {
    match value {
        Value::Missing => expected.is_null(),
        Value::Text(text) => expected.as_str() == Some(text),
        Value::I64(number) => expected.as_i64() == Some(*number),
        Value::Wide(number) => expected.as_str() == Some(&number.to_string()),
        Value::Bool(flag) => expected.as_bool() == Some(*flag),
        Value::Timestamp(micros) => expected.as_i64() == Some(*micros),
        Value::F64(number) => {
            expected.as_f64().is_some_and(|other| (number - other).abs() <= relative * other.abs().max(1e-9))
        }
        Value::List(_) => false,
    }
}

fn list(json: &Json) -> &[Json] {
    json.as_array().expect("a list")
}

fn check(store: &Store, expected: &Json, choices: &[Choice]) {
    let questions = json(&here().join("questions.json"));
    let executor = Executor::new(Cpu::new(2), Err("not asked for".to_owned()));
    for (question, expected) in list(&questions).iter().zip(list(expected)) {
        let part = |name: &str| question[name].as_str();
        let text = Text {
            aggregates: part("aggregates").expect("every question has some"),
            filter: part("where"),
            groups: part("group_by"),
        };
        let query = Query::parse(text, store.schema(), &Limits::default()).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        let relative = match text.aggregates {
            text if text.contains("quantile") => 1.0 / 512.0,
            text if text.contains("corr") => 1e-9,
            _ => 1e-12,
        };
        for choice in choices {
            let (chunks, clock) = (store.chunks(), || Duration::ZERO);
            let (answer, _) = executor
                .execute((store.schema(), &chunks), &query, *choice, &Limits::default(), &clock)
                .unwrap_or_else(|error| panic!("{text:?}: {error}"));
            let rows = list(expected);
            assert_eq!(answer.rows().len(), rows.len(), "{choice:?}, {text:?}: other groups");
            for (row, expected) in answer.rows().iter().zip(rows) {
                for (value, expected) in row.iter().zip(list(expected)) {
                    let is_same = is_same(value, expected, relative);
                    assert!(is_same, "{choice:?}, {text:?}: {value:?}, DuckDB says {expected}, in {row:?}");
                }
            }
        }
    }
}

#[test]
fn every_answer_about_the_sample_is_what_duckdb_said() {
    let (store, report) = load(&sample(), &Options::default()).unwrap();
    assert_eq!(report.malformed(), 0);
    check(&store, &json(&here().join("expected.json")), &[Choice::Scalar, Choice::Cpu, Choice::Auto]);
}

#[test]
fn every_answer_is_what_duckdb_says_where_it_can_be_asked() {
    let python = std::env::var("KVORUM_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_duckdb = Command::new(&python).args(["-c", "import duckdb"]).output().is_ok_and(|out| out.status.success());
    if !has_duckdb {
        println!("skipped: `{python}` has no module duckdb (pip install duckdb; KVORUM_PYTHON names another python)");
        return;
    }
    let file = std::env::var("KVORUM_FLIGHTS").map_or_else(|_| sample(), PathBuf::from);
    let out = Command::new(&python).arg(here().join("ask.py")).arg(&file).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let (store, _) = load(&file, &Options::default()).unwrap();
    check(&store, &serde_json::from_slice(&out.stdout).unwrap(), &[Choice::Scalar, Choice::Cpu]);
}
