//! What loading promises: kinds are found, what is missing or malformed is counted, what makes no sense is refused by
//! its place.

use super::*;
use crate::{chunk::write_chunks, value::Value};
use flate2::{Compression, write::GzEncoder};
use std::{fs, io::Write};

fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    (directory, path)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn loaded(name: &str, bytes: &[u8], options: &Options) -> Result<(Store, Report), LoadError> {
    let (_directory, path) = file(name, bytes);
    load(&path, options)
}

fn rows(store: &Store) -> Vec<Vec<Value>> {
    let chunk = &store.chunks()[0];
    (0..chunk.rows()).map(|row| chunk.columns().iter().map(|column| column.get(row)).collect()).collect()
}

const CSV: &[u8] = b"n,x,flag,at,name\n1,0.5,true,2013-01-01T10:00:00Z,\"a, b\"\nNA,2,FALSE,2013-01-02,\n-3,,NA,NA,c\n";

fn expected() -> Vec<Vec<Value>> {
    let at = |text| Value::Timestamp(crate::timestamp::parse(text).unwrap());
    vec![
        vec![Value::I64(1), Value::F64(0.5), Value::Bool(true), at("2013-01-01T10:00:00Z"), Value::Text("a, b".into())],
        vec![Value::Missing, Value::F64(2.0), Value::Bool(false), at("2013-01-02"), Value::Missing],
        vec![Value::I64(-3), Value::Missing, Value::Missing, Value::Missing, Value::Text("c".into())],
    ]
}

#[test]
fn kinds_are_found_in_csv_also_compressed() {
    for (name, bytes) in [("f.csv", CSV.to_vec()), ("f.csv.gz", gzip(CSV)), ("f", CSV.to_vec())] {
        let (store, report) = loaded(name, &bytes, &Options::default()).unwrap();
        let kinds: Vec<Kind> = store.schema().fields().iter().map(|field| field.kind).collect();
        assert_eq!(kinds, [Kind::I64, Kind::F64, Kind::Bool, Kind::Timestamp, Kind::Text]);
        assert_eq!(rows(&store), expected(), "{name}");
        assert_eq!((report.rows, report.malformed(), report.columns[0].missing), (3, 0, 1));
    }
}

#[test]
fn kinds_are_found_in_json_lines() {
    let lines = br#"{"n": 1, "x": 0.5, "flag": true, "at": "2013-01-01T10:00:00Z", "name": "a, b"}
{"x": 2, "flag": false, "at": "2013-01-02", "name": null}

{"n": -3, "name": "c"}
"#;
    let (store, report) = loaded("f.jsonl", lines, &Options::default()).unwrap();
    let names: Vec<&str> = store.schema().fields().iter().map(|field| field.name.as_str()).collect();
    let place = |name: &str| names.iter().position(|other| *other == name).unwrap();
    let wanted = ["n", "x", "flag", "at", "name"].map(place);
    let got: Vec<Vec<Value>> =
        rows(&store).iter().map(|row| wanted.iter().map(|at| row[*at].clone()).collect()).collect();
    assert_eq!(got, expected());
    assert_eq!(report.rows, 3);
}

#[test]
fn what_is_malformed_is_missing_and_counted() {
    let options = Options { schema: Some(Schema::parse("n:i64,name:text").unwrap()), ..Options::default() };
    let (store, report) = loaded("f.csv", b"name,n\na,1\nb,two\nc,3\nd,99999999999999999999\ne,5\n", &options).unwrap();
    assert_eq!(store.chunks()[0].columns()[0].zone().missing, 2);
    assert_eq!(report.columns[0].malformed, 2);
    assert_eq!(report.columns[0].first_malformed, Some((3, "two".to_owned())));
    let options = Options { missing: vec!["-".to_owned()], ..Options::default() };
    let (store, _) = loaded("f.csv", b"n\n1\n-\n", &options).unwrap();
    assert_eq!(store.chunks()[0].columns()[0].zone().missing, 1);
}

#[test]
fn what_makes_no_sense_is_refused_by_its_place() {
    let declared = |schema: &str| Options { schema: Some(Schema::parse(schema).unwrap()), ..Options::default() };
    let compressed = gzip(&b"a,b\n1,2\n".repeat(10_000));
    for (name, bytes, options, expected) in [
        ("f.csv", &b"a,b\n1,2\n3\n"[..], Options::default(), "line 3: 1 cells, where the first line has 2"),
        ("f.csv", b"", Options::default(), "has no rows"),
        ("f.jsonl", b"", Options::default(), "has no rows"),
        ("f.jsonl", b"{\"a\":1}\n[1]\n", Options::default(), "line 2: not a JSON object"),
        ("f.jsonl", b"{\"a\":1}\n{\"a\":", Options::default(), "line 2: not JSON"),
        (
            "f.csv",
            b"a,b\n1,2\n",
            declared("c:i64"),
            "the schema declares `c`, which the file does not have: it has a, b",
        ),
        ("f.csv", b"a\nx\ny\n1\n", declared("a:i64"), "`a` is i64, but 2 of 3 values are not: `x` in line 2"),
        ("f.csv", b"a,a\n1,2\n", Options::default(), "the column `a` is declared twice"),
        (
            "f.csv.gz",
            &compressed[..compressed.len() / 2],
            Options::default(),
            "the gzip stream is truncated or damaged",
        ),
        ("f.chunks", b"KVCHUNKSx", Options::default(), "not a chunk file"),
    ] {
        let error = loaded(name, bytes, &options).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    assert!(load(Path::new("/nowhere/f.csv"), &Options::default()).unwrap_err().to_string().contains("/nowhere/f.csv"));
}

#[test]
fn a_chunk_file_is_loaded_and_a_flipped_byte_is_refused_by_name() {
    let (store, _) = loaded("f.csv", CSV, &Options::default()).unwrap();
    let mut bytes = Vec::new();
    write_chunks(&mut bytes, store.schema(), &store.chunks()).unwrap();
    let (again, _) = loaded("f.chunks", &bytes, &Options::default()).unwrap();
    assert_eq!(rows(&again), expected());
    let middle = bytes.len() - 40;
    bytes[middle] ^= 0x10;
    let error = loaded("flights.chunks", &bytes, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("flights.chunks: the checksum of chunk 0 does not match"), "{error}");
}
