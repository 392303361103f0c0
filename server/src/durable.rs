//! Small files that are there whole or not at all, whatever happens in between.
//!
//! ```text
//!   name.new ── written, synced ── renamed over name ── directory synced
//! ```
//!
//! **Invariant.** A reader finds the old bytes or the new ones, never a mixture, and the new ones once this has
//! returned.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Readable by whoever may read the directory.
const MODE_OPEN: u32 = 0o644;
/// Readable by the owner alone.
const MODE_SECRET: u32 = 0o600;

/// Replaces a file of a directory, or makes it.
///
/// # Errors
/// The system's.
pub(crate) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    write(directory, name, bytes, MODE_OPEN)
}

/// The same for a file that only its owner may read.
///
/// # Errors
/// The system's.
pub(crate) fn replace_secret(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    write(directory, name, bytes, MODE_SECRET)
}

/// Renames a file within a directory, durably once the next [`replace`] in it has returned.
///
/// # Errors
/// The system's.
pub(crate) fn rename(directory: &Path, from: &str, to: &str) -> io::Result<()> {
    fs::rename(directory.join(from), directory.join(to))
}

fn write(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = directory.join(format!("{name}.new"));
    // What an interrupted attempt left may have another mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    File::open(directory)?.sync_all()
}
