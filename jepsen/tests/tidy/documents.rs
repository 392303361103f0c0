//! What the documents promise: every invariant and every protocol rule names a test that exists, or says with which
//! capability it will stand; every link leads somewhere, every file named is there.

use crate::Source;

/// A list of promises in a document.
pub struct Promises {
    /// The heading under which they stand; empty = the whole page.
    heading: &'static str,
    /// Whether a line begins a promise; the promise is the line and what follows it, to the next one.
    begins: fn(&str) -> bool,
    /// How many there must be at least.
    count_min: usize,
    /// The words of a promise that is honestly not kept yet.
    not_yet: &'static str,
}

/// Thirteen, numbered.
pub const INVARIANTS: Promises = Promises {
    heading: "## Invariants",
    begins: |line| line.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok()),
    count_min: 13,
    not_yet: "Stands with",
};

/// `- **J1** …`
pub const PROTOCOLS: Promises = Promises {
    heading: "",
    begins: |line| {
        line.strip_prefix("- **").and_then(|rest| rest.split_once("**")).is_some_and(|(name, _)| {
            name.starts_with(|letter: char| letter.is_ascii_uppercase()) && name.ends_with(|c: char| c.is_ascii_digit())
        })
    },
    count_min: 25,
    not_yet: "Stands with",
};

/// A document by its path.
pub fn page<'a>(sources: &'a [Source], path: &str) -> &'a Source {
    sources.iter().find(|source| source.path == path).unwrap_or_else(|| panic!("{path} is missing"))
}

/// Complaints about promises that name no test, or one that does not exist.
pub fn check_promises(page: &Source, promises: &Promises, sources: &[Source]) -> Vec<String> {
    let found = split(page, promises);
    let mut complaints = Vec::new();
    if found.len() < promises.count_min {
        complaints.push(format!("{}:1: {} promises, at least {} are due", page.path, found.len(), promises.count_min));
    }
    for (line, text) in found {
        let named = named_tests(&text);
        if named.is_empty() && !text.contains(promises.not_yet) {
            complaints.push(format!(
                "{}:{line}: names no test (`path.rs::name`) and does not say \"{}\": {}",
                page.path,
                promises.not_yet,
                text.lines().next().unwrap_or_default()
            ));
        }
        for (path, name) in named {
            let exists = sources.iter().any(|source| source.path == path && has_function(&source.text, name));
            if !exists {
                complaints.push(format!("{}:{line}: no test {name} in {path}", page.path));
            }
        }
    }
    complaints
}

/// Line number and text of each promise.
fn split(page: &Source, promises: &Promises) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut is_inside = promises.heading.is_empty();
    let mut is_open = false;
    for (index, line) in page.text.lines().enumerate() {
        if line.starts_with('#') {
            is_inside = promises.heading.is_empty() || line.starts_with(promises.heading);
            is_open = false;
        } else if is_inside && (promises.begins)(line) {
            found.push((index + 1, line.to_owned()));
            is_open = true;
        } else if is_open && let Some((_, text)) = found.last_mut() {
            text.push('\n');
            text.push_str(line);
        }
    }
    found
}

/// Every `` `path.rs::name` `` in a text.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(|quote| quote.split_once("::")).filter(|(path, _)| path.ends_with(".rs")).collect()
}

fn has_function(text: &str, name: &str) -> bool {
    let wanted = format!("fn {name}");
    text.match_indices(&wanted)
        .any(|(start, _)| text[start + wanted.len()..].chars().next().is_some_and(|next| next == '(' || next == '<'))
}

/// Complaints about relative links that lead nowhere. `exists` is asked about paths from the root.
pub fn check_links(page: &Source, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let directory = page.path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut complaints = Vec::new();
    for (index, line) in page.text.lines().enumerate() {
        for rest in line.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = resolve(directory, target);
            if !exists(&path) {
                complaints.push(format!("{}:{}: the link to {target} leads nowhere", page.path, index + 1));
            }
        }
    }
    complaints
}

/// Complaints about files that a document names between backticks and that are not there.
pub fn check_paths(page: &Source, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for (index, line) in page.text.lines().enumerate() {
        for quote in line.split('`').skip(1).step_by(2) {
            let path = quote.split_once("::").map_or(quote, |(path, _)| path);
            let is_file = path.contains('/') && [".rs", ".proto"].iter().any(|end| path.ends_with(end));
            if is_file && !path.contains([' ', '*', '{', '<']) && !exists(path) {
                complaints.push(format!("{}:{}: there is no {path}", page.path, index + 1));
            }
        }
    }
    complaints
}

fn resolve(directory: &str, target: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn file(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

const TWO: Promises = Promises { count_min: 2, ..INVARIANTS };

fn promised(text: &str) -> Vec<String> {
    let tests = [file("api/src/error.rs", "#[test]\nfn effects_are_honest() {}\n")];
    check_promises(&file("A.md", text), &TWO, &tests)
}

#[test]
fn a_promise_without_a_test_is_found() {
    let good = "## Invariants\n1. One.\n   `api/src/error.rs::effects_are_honest`\n2. Two. Stands with leases.\n";
    assert!(promised(good).is_empty());
    let silent = "## Invariants\n1. One.\n2. Two. Stands with leases.\n";
    assert_eq!(promised(silent).len(), 1);
    let invented = good.replace("effects_are_honest", "effects_are");
    assert_eq!(promised(&invented), ["A.md:2: no test effects_are in api/src/error.rs"]);
    let elsewhere = good.replace("error.rs", "ids.rs");
    assert_eq!(promised(&elsewhere).len(), 1);
}

#[test]
fn a_missing_promise_is_found() {
    let one = "## Invariants\n1. One. Stands with leases.\n## More\n2. Not one of them.\n";
    assert_eq!(promised(one), ["A.md:1: 1 promises, at least 2 are due"]);
}

#[test]
fn protocol_rules_are_recognised() {
    let text = "## J\n- **J1** Torn tails.\n  `a.rs::b`\n- **Bold** words.\n- **J2** More.\n";
    let found = split(&file("docs/protocols.md", text), &PROTOCOLS);
    assert_eq!(found.len(), 2);
    assert_eq!(named_tests(&found[0].1), [("a.rs", "b")]);
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let page = file("docs/testing.md", "[a](../README.md#top) [b](gone.md) [c](https://x.org) [d](#here)\n");
    let found = check_links(&page, |path| path == "README.md");
    assert_eq!(found, ["docs/testing.md:1: the link to gone.md leads nowhere"]);
}

#[test]
fn a_file_that_is_not_there_is_found() {
    let page = file("A.md", "`api/src/ids.rs` `api/src/gone.rs::name` `gone.rs` `server/src/*.rs` `a b/c.rs`\n");
    assert_eq!(check_paths(&page, |path| path == "api/src/ids.rs"), ["A.md:1: there is no api/src/gone.rs"]);
}
