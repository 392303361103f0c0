//! What a loss of power leaves of a directory in use.
//!
//! **Invariant.** An image is of one moment: a file that was named in it is in it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// What a loss of power leaves of a directory in use: one moment of it. A copy during which a compaction added or
/// removed files is of no moment at all, and is taken again.
pub fn image(from: &Path, to: &Path) {
    loop {
        let before = listing(from);
        copy(from, to);
        if listing(from) == before {
            return;
        }
        fs::remove_dir_all(to).unwrap();
    }
}

/// Every file and its size, but for RocksDB's own text log: it grows at any time and nobody reads it.
fn listing(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let is_text_log = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("LOG"));
        if is_text_log {
            continue;
        }
        if path.is_dir() {
            files.extend(listing(&path));
        } else if let Ok(about) = fs::metadata(&path) {
            files.insert(path, about.len());
        }
    }
    files
}

/// Copies a directory. A file that goes away meanwhile is missed by the listing afterwards.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if let Err(why) = fs::copy(entry.path(), target) {
            assert_eq!(why.kind(), io::ErrorKind::NotFound, "{why}");
        }
    }
}
