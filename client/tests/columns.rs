//! `kvctl aggregate` and `kvctl correlate` as a user runs them: what is printed, and how bad input ends.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn kvctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvctl")).args(arguments).output().expect("kvctl was built for this test")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn sample() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/flights-sample.csv.gz").display().to_string()
}

fn file(directory: &tempfile::TempDir, name: &str, bytes: &[u8]) -> String {
    let path: PathBuf = directory.path().join(name);
    fs::write(&path, bytes).expect("the directory is ours");
    path.display().to_string()
}

/// stdout of a command that must succeed.
fn answer(arguments: &[&str]) -> String {
    let out = kvctl(arguments);
    assert!(out.status.success(), "{arguments:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

#[test]
fn a_question_is_answered_in_every_form_and_by_every_executor() {
    let sample = sample();
    let ask = |more: &[&str]| {
        let question = ["aggregate", "--from", &sample, "count() as n, max(distance)", "--where", "origin = 'JFK'"];
        answer(&[&question[..], &["--group-by", "carrier"], more].concat())
    };
    let table = ask(&[]);
    assert!(table.lines().next().unwrap().contains("carrier"), "{table}");
    let csv = ask(&["--as", "csv"]);
    assert!(csv.starts_with("carrier,n,max(distance)\n9E,"), "{csv}");
    for executor in ["cpu", "scalar"] {
        assert_eq!(ask(&["--as", "csv", "--executor", executor]), csv);
    }
    let json: serde_json::Value = serde_json::from_str(&ask(&["-o", "json"])).unwrap();
    assert_eq!(json.as_array().unwrap().len(), csv.lines().count() - 1);
    let arrow = kvctl(&["aggregate", "--from", &sample, "count()", "--as", "arrow"]);
    assert_eq!(arrow.stdout[..4], [0xFF; 4], "an Arrow IPC stream begins with a continuation mark");
}

#[test]
fn explain_goes_to_stderr_and_kept_columns_are_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("flights.chunks").display().to_string();
    let sample = sample();
    let first = kvctl(&["aggregate", "--from", &sample, "sum(distance)", "--keep", &kept, "--explain"]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let told = text(&first.stderr);
    for word in ["executor", "rows      5027", "bytes", "skipped", "scan"] {
        assert!(told.contains(word), "{word} is not in {told}");
    }
    assert_eq!(answer(&["aggregate", "--from", &kept, "sum(distance)"]), text(&first.stdout));
    let mut bytes = fs::read(&kept).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    let spoiled = file(&directory, "spoiled.chunks", &bytes);
    let refused = kvctl(&["aggregate", "--from", &spoiled, "count()"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("the checksum of chunk 0 does not match"), "{}", text(&refused.stderr));
}

#[test]
fn bad_input_ends_with_2_and_one_line_that_names_the_place() {
    let directory = tempfile::tempdir().unwrap();
    let (sample, ragged) = (sample(), file(&directory, "ragged.csv", b"a,b\n1,2\n3\n"));
    let whole = fs::read(&sample).unwrap();
    let truncated = file(&directory, "truncated.csv.gz", &whole[..whole.len() / 2]);
    let large = file(&directory, "large.csv", b"n\n9223372036854775807\n1\n");
    for (arguments, expected) in [
        (&["--from", &sample, "sum(distanc)"][..], "there is no column `distanc`; did you mean `distance`?"),
        (&["--from", &sample, "sum(origin)"], "`sum` takes numbers, `origin` is text"),
        (&["--from", &sample, "count()", "--where", "month = 'May'"], "they do not compare"),
        (&["--from", &sample, "count()", "--where", "month <="], "where, line 1, column 9"),
        (&["--from", &large, "sum(n + 1)"], "aggregates, line 1, column 5: a result exceeds 64 bits"),
        (&["--from", &ragged, "count()"], "ragged.csv: line 3: 1 cells, where the first line has 2"),
        (&["--from", &truncated, "count()"], "the gzip stream is truncated or damaged"),
        (&["--from", &sample, "count()", "--schema", "origin:i64"], "the schema says that `origin` is i64, but"),
        (&["--from", &sample, "count()", "--schema", "nowhere:i64"], "the schema declares `nowhere`"),
        (&["--from", &sample, "count()", "--as", "csv", "-o", "json"], "two forms at once"),
    ] {
        let out = kvctl(&[&["aggregate"], arguments].concat());
        let told = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(expected), "{arguments:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{arguments:?}: {told}");
    }
    assert_eq!(kvctl(&["aggregate", "--from", "/nowhere.csv", "count()"]).status.code(), Some(1));
}

/// On a machine with a device it is used; on one without, the request is refused.
#[test]
fn an_executor_that_is_not_there_is_refused_in_one_line() {
    let out = kvctl(&["aggregate", "--from", &sample(), "count()", "--executor", "cuda"]);
    if !out.status.success() {
        let told = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{told}");
        assert!(told.starts_with("error: --executor cuda: ") && told.lines().count() == 1, "{told}");
    }
}

#[test]
fn a_matrix_has_ones_on_its_diagonal_and_windows_have_their_date() {
    let directory = tempfile::tempdir().unwrap();
    let row = |day: u32| format!("2020-01-{day:02},{},{},{}\n", day * day, 100 - day, 7 + day % 3);
    let csv: String = std::iter::once("date,up,down,other\n".to_owned()).chain((1..=20).map(row)).collect();
    let prices = file(&directory, "prices.csv", csv.as_bytes());
    let json = answer(&["correlate", "--from", &prices, "--of", "levels", "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((rows[0]["up"].as_f64(), rows[1]["down"].as_f64()), (Some(1.0), Some(1.0)));
    assert!(rows[0]["down"].as_f64().unwrap() < -0.9, "{json}");
    let windows = answer(&["correlate", "--from", &prices, "--columns", "up,down", "--window", "5", "--step", "5"]);
    assert!(windows.contains("2020-01-20T00:00:00Z") && windows.contains("2020-01-15T00:00:00Z"), "{windows}");
    let refused = kvctl(&["correlate", "--from", &prices, "--window", "500"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("a window of 500 rows does not fit into 19"), "{}", text(&refused.stderr));
}
