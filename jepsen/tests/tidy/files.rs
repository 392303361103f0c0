//! The shape of single files: header, length, width, name, and nothing left over.

use crate::{
    Source,
    arrows::{code_only, has_word},
};

/// A file that needs more wants to be two.
const SOURCE_LINES_MAX: usize = 500;

/// Tests, suites and benches tell longer stories.
const TEST_LINES_MAX: usize = 800;

/// rustfmt keeps code within as many columns and leaves remarks alone.
const LINE_COLUMNS_MAX: usize = 120;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "helper", "helpers", "common", "manager", "misc"];

/// Marks of unfinished work. Split, so that this file does not find itself.
const LEFTOVERS: [&str; 8] = [
    concat!("to", "do!"),
    concat!("unimpl", "emented!"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("#[ig", "nore"),
    concat!("not yet impl", "emented"),
];

/// Complaints about header, length, width and name of one file.
pub fn check_shape(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |line: usize, what: String| complaints.push(format!("{}:{line}: {what}", source.path));
    let is_rust = source.path.ends_with(".rs");
    if is_rust && !source.text.starts_with("//!") {
        complain(1, "no `//!` header: say what this file is, its invariant, what is deliberately absent".to_owned());
    }
    let lines_max = lines_max(&source.path);
    let lines = source.text.lines().count();
    if lines_max.is_some_and(|max| lines > max) {
        complain(lines, format!("{lines} lines, the wall is {}", lines_max.unwrap_or_default()));
    }
    if is_rust {
        for (index, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > LINE_COLUMNS_MAX && !is_unbreakable(line) {
                complain(index + 1, format!("{columns} columns, the limit is {LINE_COLUMNS_MAX}"));
            }
        }
        let parts = source.path.trim_end_matches(".rs").split('/');
        if let Some(name) = parts.into_iter().find(|part| EMPTY_NAMES.contains(part)) {
            complain(1, format!("`{name}` names nothing: call it after what it does"));
        }
    }
    complaints
}

/// Complaints about marks of unfinished work and ignored tests.
pub fn check_leftovers(source: &Source) -> Vec<String> {
    let found = source.text.lines().enumerate().filter_map(|(index, line)| {
        let left = LEFTOVERS.iter().find(|left| has_mark(line, left))?;
        Some(format!("{}:{}: left over: {left}", source.path, index + 1))
    });
    found.collect()
}

/// Words are found as words, marks with punctuation as they stand.
fn has_mark(line: &str, mark: &str) -> bool {
    match mark.strip_suffix('!') {
        Some(word) => line.contains(mark) && has_word(line, word),
        None if mark.starts_with('#') => line.contains(mark),
        None => has_word(line, mark),
    }
}

/// The wall for a file; documents have none.
fn lines_max(path: &str) -> Option<usize> {
    if !(path.ends_with(".rs") || path.ends_with(".proto") || ["dev", ".ci/run"].contains(&path)) {
        return None;
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_test_directory = path.starts_with("benches/") || path.contains("/tests/") || path.contains("/suite/");
    let is_test_name = ["tests.rs", "suite.rs"].contains(&name) || name.ends_with("_tests.rs");
    Some(if is_test_directory || is_test_name { TEST_LINES_MAX } else { SOURCE_LINES_MAX })
}

/// rustfmt leaves a long literal or link alone, and breaking one makes it worse to read and to search for: only what
/// stands around it counts.
fn is_unbreakable(line: &str) -> bool {
    let comment = line.trim_start().trim_start_matches(['/', '!']).trim();
    if line.trim_start().starts_with("//") {
        return comment.trim_start_matches('<').starts_with("http") && !comment.contains(' ');
    }
    let around = code_only(line);
    around.split_whitespace().map(|word| word.chars().count() + 1).sum::<usize>() <= LINE_COLUMNS_MAX / 2
}

fn file(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

#[test]
fn a_file_without_a_header_is_found() {
    assert_eq!(check_shape(&file("api/src/ids.rs", "use std::fmt;\n")).len(), 1);
    assert!(check_shape(&file("api/src/ids.rs", "//! Ids.\nuse std::fmt;\n")).is_empty());
}

#[test]
fn a_file_past_its_wall_is_found() {
    let of = |lines: usize| "//! x\n".repeat(lines);
    assert!(check_shape(&file("api/src/ids.rs", &of(500))).is_empty());
    assert_eq!(check_shape(&file("api/src/ids.rs", &of(501))), ["api/src/ids.rs:501: 501 lines, the wall is 500"]);
    for roomy in ["storage/src/engine/suite.rs", "storage/src/shard/tests.rs", "server/tests/door.rs", "benches/x.rs"] {
        assert!(check_shape(&file(roomy, &of(800))).is_empty(), "{roomy}");
        assert_eq!(check_shape(&file(roomy, &of(801))).len(), 1, "{roomy}");
    }
    assert!(check_shape(&file("docs/testing.md", &of(2_000))).is_empty(), "documents have no wall");
}

#[test]
fn a_line_too_wide_is_found() {
    let wide = format!("//! x\nlet a = {};\n", "b + ".repeat(40));
    assert_eq!(check_shape(&file("api/src/ids.rs", &wide)).len(), 1);
    let link = format!("//! x\n//! https://example.org/{}\n", "a".repeat(120));
    assert!(check_shape(&file("api/src/ids.rs", &link)).is_empty());
    let message = format!("//! x\nfield(\"a\", \"{}\"),\n", "long ".repeat(30));
    assert!(check_shape(&file("api/src/ids.rs", &message)).is_empty(), "a long literal cannot be broken");
    let remark = format!("//! x\n// {}\n", "long ".repeat(30));
    assert_eq!(check_shape(&file("api/src/ids.rs", &remark)).len(), 1, "a long remark can");
}

#[test]
fn a_name_that_says_nothing_is_found() {
    assert_eq!(check_shape(&file("storage/src/util.rs", "//! x\n")).len(), 1);
    assert_eq!(check_shape(&file("storage/tests/common/mod.rs", "//! x\n")).len(), 1);
}

#[test]
fn leftovers_are_found() {
    let unfinished = [
        concat!("    to", "do!()"),
        concat!("unimpl", "emented!(\"later\")"),
        concat!("// TO", "DO: write this"),
        concat!("/// FIX", "ME"),
        concat!("// XX", "X why"),
        concat!("#[ig", "nore = \"slow\"]"),
    ];
    for line in unfinished {
        assert_eq!(check_leftovers(&file("api/src/ids.rs", line)).len(), 1, "{line}");
    }
    let inside_a_word = concat!("0xXX", "XX");
    for finished in ["let todos = 3;", "fn todo_list() {}", "// ignores the rest", "method", inside_a_word] {
        assert!(check_leftovers(&file("api/src/ids.rs", finished)).is_empty(), "{finished}");
    }
}
