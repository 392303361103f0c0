//! # tidy: the house keeps its own rules
//!
//! ```text
//!   arrows     who may import whom, and which words stay in which room
//!   files      headers, lengths, widths, leftovers, names
//!   documents  promises in the documents name tests that exist, links lead somewhere
//! ```
//!
//! Every check is a function from text to complaints and is itself tested against text that must be complained of.
//! A complaint reads `path:line: what is wrong`; the lists at the top of each file are the rules, and changing one is
//! an architecture review.
//!
//! **Deliberately absent.** What the compiler, rustfmt and clippy already say (function length, forbidden methods).

mod arrows;
mod documents;
mod files;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A text file of the project, by its path from the root, with forward slashes.
pub struct Source {
    pub path: String,
    pub text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

/// Every text file the project is written in, in path order; what is built, generated or hidden is left out.
fn sources() -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found.sort_by(|left, right| left.path.cmp(&right.path));
    assert!(found.len() > 30, "tidy found only {} files below {}", found.len(), root.display());
    found
}

fn walk(root: &Path, directory: &Path, found: &mut Vec<Source>) {
    for item in fs::read_dir(directory).expect("the project can be read") {
        let path = item.expect("the project can be read").path();
        let relative = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
        if path.is_dir() {
            if is_walked(&relative) {
                walk(root, &path, found);
            }
        } else if is_read(&relative) {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{relative}: {error}"));
            found.push(Source { path: relative, text });
        }
    }
}

fn is_walked(directory: &str) -> bool {
    let name = directory.rsplit('/').next().unwrap_or(directory);
    let is_output = ["target", "bin", "kvorum-data"].contains(&directory);
    !is_output && (!name.starts_with('.') || [".ci", ".cargo"].contains(&name))
}

fn is_read(path: &str) -> bool {
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    ["rs", "proto", "md", "toml", "yaml"].contains(&extension) || ["dev", ".ci/run"].contains(&path)
}

fn assert_tidy(complaints: &[String]) {
    assert!(complaints.is_empty(), "{} complaints:\n  {}", complaints.len(), complaints.join("\n  "));
}

#[test]
fn crates_import_only_downwards() {
    let complaints: Vec<String> = arrows::ROOMS
        .iter()
        .flat_map(|room| {
            let path = root().join(room.name).join("Cargo.toml");
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            arrows::check_manifest(room, &text.parse().expect("cargo reads it too"))
        })
        .collect();
    assert_tidy(&complaints);
}

#[test]
fn every_member_of_the_workspace_is_a_room() {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("the project can be read");
    let manifest: toml::Table = text.parse().expect("cargo reads it too");
    let members = manifest["workspace"]["members"].as_array().expect("members is a list");
    let mut members: Vec<&str> = members.iter().filter_map(toml::Value::as_str).collect();
    let mut rooms: Vec<&str> = arrows::ROOMS.iter().map(|room| room.name).collect();
    members.sort_unstable();
    rooms.sort_unstable();
    assert_eq!(members, rooms, "a crate without a row in tidy's table could import anything");
}

#[test]
fn words_stay_in_their_rooms() {
    assert_tidy(&sources().iter().flat_map(arrows::check_words).collect::<Vec<_>>());
}

#[test]
fn files_are_headed_and_within_their_walls() {
    assert_tidy(&sources().iter().flat_map(files::check_shape).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_over() {
    assert_tidy(&sources().iter().flat_map(files::check_leftovers).collect::<Vec<_>>());
}

#[test]
fn architecture_names_a_test_for_each_invariant() {
    let sources = sources();
    let page = documents::page(&sources, "ARCHITECTURE.md");
    assert_tidy(&documents::check_promises(page, &documents::INVARIANTS, &sources));
}

#[test]
fn protocols_name_a_test_for_each_rule() {
    let sources = sources();
    let page = documents::page(&sources, "docs/protocols.md");
    assert_tidy(&documents::check_promises(page, &documents::PROTOCOLS, &sources));
}

#[test]
fn links_and_paths_in_the_documents_lead_somewhere() {
    let root = root();
    let exists = |path: &str| root.join(path).exists();
    let sources = sources();
    let pages = sources.iter().filter(|source| source.path.ends_with(".md"));
    let check = |page| [documents::check_links(page, exists), documents::check_paths(page, exists)].concat();
    assert_tidy(&pages.flat_map(check).collect::<Vec<_>>());
}
