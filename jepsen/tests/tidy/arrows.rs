//! Who may import whom, and which words stay in which room.
//!
//! ```text
//!              api                    an arrow points down the page: whoever stands lower may import
//!               │                     what stands above it, never the other way
//!      ┌────────┼─────────┐
//!   storage     │       client ◀── kvctl also uses analytics, without `mirror`
//!      ├────────┼──────┐
//!   consensus   │   analytics ◀── storage only behind `mirror`
//!      └─────── server ┘
//!                 │
//!          jepsen, benches
//! ```

use crate::Source;
use toml::{Table, Value};

/// One crate: which of ours it may import, which also in its tests, and which outside crates must stay unknown to it.
pub struct Room {
    pub name: &'static str,
    pub may_import: &'static [&'static str],
    pub may_import_in_tests: &'static [&'static str],
    pub must_never_know: &'static [&'static str],
}

const NETWORK: [&str; 4] = ["tonic", "prost", "chitchat", "axum"];

pub const ROOMS: &[Room] = &[
    Room {
        name: "api",
        may_import: &[],
        may_import_in_tests: &[],
        must_never_know: &["tokio", "rocksdb", "librocksdb-sys", "openraft"],
    },
    Room {
        name: "storage",
        may_import: &["api"],
        may_import_in_tests: &[],
        must_never_know: &["tonic", "prost", "chitchat", "axum", "openraft"],
    },
    Room {
        name: "consensus",
        may_import: &["api", "storage"],
        may_import_in_tests: &[],
        must_never_know: &["tonic", "prost", "chitchat", "axum", "rocksdb", "librocksdb-sys"],
    },
    Room {
        name: "analytics",
        may_import: &["api", "storage"],
        may_import_in_tests: &[],
        must_never_know: &["tonic", "prost", "chitchat", "axum", "openraft", "rocksdb", "librocksdb-sys"],
    },
    Room {
        name: "server",
        may_import: &["api", "storage", "consensus", "analytics"],
        may_import_in_tests: &["client"],
        must_never_know: &["rocksdb", "librocksdb-sys"],
    },
    Room {
        name: "client",
        may_import: &["api", "analytics"],
        may_import_in_tests: &[],
        must_never_know: &["openraft", "rocksdb", "librocksdb-sys", "chitchat"],
    },
    Room {
        name: "jepsen",
        may_import: &["api", "storage", "consensus", "analytics", "server", "client", "jepsen-shim"],
        may_import_in_tests: &[],
        must_never_know: &["rocksdb", "librocksdb-sys"],
    },
    Room {
        name: "jepsen/shim",
        may_import: &[],
        may_import_in_tests: &[],
        must_never_know: &["tokio", "rocksdb", "librocksdb-sys", "openraft", "tonic"],
    },
    Room {
        name: "benches",
        may_import: &["api", "storage", "consensus", "analytics", "server", "client", "jepsen"],
        may_import_in_tests: &[],
        must_never_know: &[],
    },
];

/// One arrow, as a manifest draws it.
struct Dependency<'a> {
    /// `dependencies`, `dev-dependencies` or `build-dependencies`.
    section: &'a str,
    /// The crate's own name, also where the manifest renames it.
    package: &'a str,
    value: &'a Value,
}

impl Dependency<'_> {
    fn is_optional(&self) -> bool {
        self.value.get("optional").and_then(Value::as_bool).unwrap_or(false)
    }

    fn features(&self) -> Vec<&str> {
        let listed = self.value.get("features").and_then(Value::as_array);
        listed.map_or_else(Vec::new, |features| features.iter().filter_map(Value::as_str).collect())
    }
}

/// Complaints about one crate's `Cargo.toml`.
pub fn check_manifest(room: &Room, manifest: &Table) -> Vec<String> {
    let mut complaints = Vec::new();
    for dependency in dependencies(manifest) {
        let complaint = match dependency.package.strip_prefix("kvorum-") {
            Some(other) => check_arrow(room, other, &dependency, manifest),
            None if room.must_never_know.contains(&dependency.package) => Some("must never know it".to_owned()),
            None => None,
        };
        if let Some(why) = complaint {
            complaints.push(format!("{}/Cargo.toml: {}.{}: {why}", room.name, dependency.section, dependency.package));
        }
    }
    complaints
}

fn check_arrow(room: &Room, other: &str, dependency: &Dependency<'_>, manifest: &Table) -> Option<String> {
    let is_test = dependency.section == "dev-dependencies";
    let in_tests: &[&str] = if is_test { room.may_import_in_tests } else { &[] };
    if !room.may_import.iter().chain(in_tests).any(|allowed| *allowed == other) {
        return Some(format!("{} must not import {other}", room.name));
    }
    let features = dependency.features();
    if !is_test && features.contains(&"suite") {
        return Some("a conformance suite belongs to tests: use dev-dependencies".to_owned());
    }
    if features.contains(&"rocks") {
        return Some("RocksDB is switched on by a feature of its own, so that it can be left out".to_owned());
    }
    if room.name == "analytics" && other == "storage" && !dependency.is_optional() {
        return Some("only the feature `mirror` may bring storage in".to_owned());
    }
    if room.name == "client" && (features.contains(&"mirror") || turns_on(manifest, "kvorum-analytics/mirror")) {
        return Some("the client uses analytics without `mirror`".to_owned());
    }
    if turns_on(manifest, "kvorum-storage/rocks") && !["server", "benches"].contains(&room.name) {
        return Some("only server and benches may turn RocksDB on".to_owned());
    }
    None
}

/// Whether any feature of the crate turns `feature` of another crate on.
fn turns_on(manifest: &Table, feature: &str) -> bool {
    let Some(features) = manifest.get("features").and_then(Value::as_table) else { return false };
    features.values().filter_map(Value::as_array).flatten().any(|turned_on| turned_on.as_str() == Some(feature))
}

/// Every dependency of a manifest, those of single targets included.
fn dependencies(manifest: &Table) -> Vec<Dependency<'_>> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let targets = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    let mut found = Vec::new();
    for table in std::iter::once(manifest).chain(targets) {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in table.get(section).and_then(Value::as_table).into_iter().flatten() {
                let package = value.get("package").and_then(Value::as_str).unwrap_or(name);
                found.push(Dependency { section, package, value });
            }
        }
    }
    found
}

/// A word of code that stays in its room.
struct Confined {
    word: &'static str,
    /// Where this rule looks; empty = everywhere.
    looks_in: &'static [&'static str],
    /// Where the word is at home nevertheless.
    at_home: &'static [&'static str],
    why: &'static str,
}

const CONFINED: &[Confined] = &[
    Confined {
        word: "openraft",
        looks_in: &[],
        at_home: &["consensus/src/cp/", "consensus/tests/"],
        why: "one directory knows the consensus library",
    },
    Confined {
        word: "rocksdb",
        looks_in: &[],
        at_home: &["storage/src/engine/", "benches/"],
        why: "one engine knows RocksDB",
    },
    Confined {
        word: "tonic",
        looks_in: &["storage/", "consensus/", "analytics/"],
        at_home: &[],
        why: "gRPC stops at the doors",
    },
    Confined {
        word: "prost",
        looks_in: &["storage/", "consensus/", "analytics/"],
        at_home: &[],
        why: "protobuf stops at the doors",
    },
    Confined {
        word: "kvorum_api::proto",
        looks_in: &["storage/", "consensus/", "analytics/"],
        at_home: &[],
        why: "generated types stop at the doors",
    },
    Confined {
        word: "chitchat",
        looks_in: &["api/", "storage/", "consensus/", "analytics/", "client/"],
        at_home: &[],
        why: "gossip is a hint that the server hands in",
    },
    Confined {
        word: "std::net",
        looks_in: &["api/", "storage/", "consensus/", "analytics/"],
        at_home: &[],
        why: "below the server nothing opens a socket",
    },
    Confined {
        word: "tokio::net",
        looks_in: &["api/", "storage/", "consensus/", "analytics/"],
        at_home: &[],
        why: "below the server nothing opens a socket",
    },
    Confined {
        word: "std::fs",
        looks_in: &["consensus/src/", "api/src/"],
        at_home: &[],
        why: "consensus waits for nodes and opens no file",
    },
    Confined {
        word: "tokio::fs",
        looks_in: &["consensus/", "api/", "storage/"],
        at_home: &[],
        why: "files belong to the journal and the engine",
    },
];

/// Complaints about words outside their rooms, in Rust code: comments and literals may say what they like.
pub fn check_words(source: &Source) -> Vec<String> {
    if !source.path.ends_with(".rs") {
        return Vec::new();
    }
    let starts = |list: &[&str]| list.iter().any(|prefix| source.path.starts_with(prefix));
    let code = code_only(&source.text);
    let mut complaints = Vec::new();
    for rule in CONFINED {
        if starts(rule.at_home) || !(rule.looks_in.is_empty() || starts(rule.looks_in)) {
            continue;
        }
        for (index, line) in code.lines().enumerate() {
            if has_word(line, rule.word) {
                complaints.push(format!("{}:{}: `{}` here: {}", source.path, index + 1, rule.word, rule.why));
            }
        }
    }
    complaints
}

/// Whether `word` stands in `line` with no letter, digit or underscore beside it.
pub fn has_word(line: &str, word: &str) -> bool {
    let is_part = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    line.match_indices(word).any(|(start, _)| {
        !is_part(line[..start].chars().next_back()) && !is_part(line[start + word.len()..].chars().next())
    })
}

/// The same text with comments and the insides of literals blanked, line for line.
pub fn code_only(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut kept = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let end = end_of_silence(&letters, at);
        if end == at {
            kept.push(letters[at]);
            at += 1;
        } else {
            kept.extend(letters[at..end].iter().map(|letter| if *letter == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    kept
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn end_of_silence(letters: &[char], at: usize) -> usize {
    let is_at =
        |index: usize, wanted: &str| wanted.chars().enumerate().all(|(i, c)| letters.get(index + i) == Some(&c));
    let until = |from: usize, closing: &str| {
        (from..letters.len()).find(|index| is_at(*index, closing)).map_or(letters.len(), |index| index + closing.len())
    };
    let follows_a_name = at > 0 && (letters[at - 1].is_alphanumeric() || letters[at - 1] == '_');
    if is_at(at, "//") {
        return (at..letters.len()).find(|index| letters[*index] == '\n').unwrap_or(letters.len());
    }
    if is_at(at, "/*") {
        return until(at + 2, "*/");
    }
    if !follows_a_name && letters[at] == 'r' {
        let hashes = letters[at + 1..].iter().take_while(|letter| **letter == '#').count();
        if letters.get(at + 1 + hashes) == Some(&'"') {
            return until(at + 2 + hashes, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    if letters[at] == '"' {
        let mut index = at + 1;
        while index < letters.len() && letters[index] != '"' {
            index += if letters[index] == '\\' { 2 } else { 1 };
        }
        return (index + 1).min(letters.len());
    }
    // A quote begins a character only if one closes it; else it begins a lifetime.
    if letters[at] == '\'' && letters.get(at + 1) == Some(&'\\') {
        return until(at + 3, "'");
    }
    if letters[at] == '\'' && letters.get(at + 2) == Some(&'\'') {
        return at + 3;
    }
    at
}

fn room(name: &str) -> &'static Room {
    ROOMS.iter().find(|room| room.name == name).expect("every crate is in the table")
}

fn complaints_about(name: &str, manifest: &str) -> Vec<String> {
    check_manifest(room(name), &manifest.parse().expect("a manifest"))
}

fn rust(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

#[test]
fn an_arrow_in_the_wrong_direction_is_found() {
    let upwards = complaints_about("storage", "[dependencies]\nkvorum-consensus.workspace = true");
    assert_eq!(upwards, ["storage/Cargo.toml: dependencies.kvorum-consensus: storage must not import consensus"]);
    let sideways = "[target.'cfg(unix)'.dependencies]\nx = { package = \"kvorum-server\", path = \"../server\" }";
    assert_eq!(complaints_about("client", sideways).len(), 1, "a renamed dependency of one target is an arrow too");
    assert_eq!(complaints_about("server", "[dependencies]\nkvorum-client.workspace = true").len(), 1);
    assert!(complaints_about("server", "[dev-dependencies]\nkvorum-client.workspace = true").is_empty());
    assert_eq!(complaints_about("jepsen", "[build-dependencies]\nkvorum-benches.workspace = true").len(), 1);
}

#[test]
fn an_outside_crate_in_the_wrong_room_is_found() {
    for network in NETWORK {
        assert_eq!(complaints_about("consensus", &format!("[dependencies]\n{network} = \"1\"")).len(), 1, "{network}");
    }
    assert_eq!(complaints_about("api", "[dev-dependencies]\ntokio = \"1\"").len(), 1);
    assert!(complaints_about("server", "[dependencies]\ntonic = \"1\"").is_empty());
}

#[test]
fn a_feature_that_smuggles_is_found() {
    let optional = "[features]\nmirror = [\"dep:kvorum-storage\"]\n[dependencies]\nkvorum-storage = { path = \"\", optional = true }";
    assert!(complaints_about("analytics", optional).is_empty());
    assert_eq!(complaints_about("analytics", "[dependencies]\nkvorum-storage.workspace = true").len(), 1);
    let suite = "{ workspace = true, features = [\"suite\"] }";
    assert_eq!(complaints_about("consensus", &format!("[dependencies]\nkvorum-storage = {suite}")).len(), 1);
    assert!(complaints_about("consensus", &format!("[dev-dependencies]\nkvorum-storage = {suite}")).is_empty());
    let rocks = "[features]\ndefault = [\"kvorum-storage/rocks\"]\n[dependencies]\nkvorum-storage.workspace = true";
    assert_eq!(complaints_about("jepsen", rocks).len(), 1);
    assert!(complaints_about("server", rocks).is_empty());
    let mirror = "[dependencies]\nkvorum-analytics = { workspace = true, features = [\"mirror\"] }";
    assert_eq!(complaints_about("client", mirror).len(), 1);
}

#[test]
fn a_word_outside_its_room_is_found() {
    let found = check_words(&rust("consensus/src/node.rs", "//! x\nuse openraft::Raft;\n"));
    assert_eq!(found, ["consensus/src/node.rs:2: `openraft` here: one directory knows the consensus library"]);
    assert!(check_words(&rust("consensus/src/cp/group.rs", "use openraft::Raft;\n")).is_empty());
    assert_eq!(check_words(&rust("storage/src/shard.rs", "fn f() -> tonic::Status {}\n")).len(), 1);
    assert_eq!(check_words(&rust("consensus/src/node.rs", "use std::fs::File;\n")).len(), 1);
}

#[test]
fn comments_and_literals_may_say_what_they_like() {
    let quiet =
        "// openraft\n/* rocksdb\n rocksdb */\nlet a = \"tonic \\\" tonic\";\nlet b = r#\"openraft \" openraft\"#;\n";
    assert!(check_words(&rust("storage/src/shard.rs", quiet)).is_empty());
    let loud = "fn f<'a>(x: &'a str) { let q = '\"'; openraft::x(); let r = '\\''; tonic::y() }\n";
    assert_eq!(check_words(&rust("storage/src/shard.rs", loud)).len(), 2, "a quote character opens no string");
    assert_eq!(code_only(quiet).lines().count(), quiet.lines().count());
    assert!(!has_word("my_openraft_thing", "openraft"));
}
