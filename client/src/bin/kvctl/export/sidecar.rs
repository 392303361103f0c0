//! Notes beside a file: how far an interrupted work has come.
//!
//! **Invariant.** A note never claims more than what is certain when it is written, and replaces the one before as a
//! whole.

use anyhow::Context as _;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

/// A note, and where it lies.
#[derive(Clone, Debug)]
pub struct Sidecar {
    path: PathBuf,
}

impl Sidecar {
    /// The note `file.suffix`.
    pub fn beside(file: &Path, suffix: &str) -> Self {
        let mut path = file.as_os_str().to_owned();
        path.push(".");
        path.push(suffix);
        Sidecar { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says; `None` = there is none.
    pub fn read<T: DeserializeOwned>(&self) -> anyhow::Result<Option<T>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        };
        let unreadable = || format!("{} cannot be read: remove it to begin anew", self.path.display());
        serde_json::from_str(&text).map(Some).with_context(unreadable)
    }

    /// Replaces what it says, durably.
    pub fn write<T: Serialize>(&self, note: &T) -> anyhow::Result<()> {
        let mut beside = self.path.clone().into_os_string();
        beside.push(".new");
        let text = serde_json::to_vec(note)?;
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(&text)?;
            file.sync_data()?;
            fs::rename(&beside, &self.path)
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// The work is done: there is nothing to go on with.
    pub fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_note_says_what_was_written_last() {
        let folder = TempDir::new().unwrap();
        let sidecar = Sidecar::beside(&folder.path().join("rows.jsonl.gz"), "resume");
        assert!(sidecar.path().ends_with("rows.jsonl.gz.resume"));
        assert_eq!(sidecar.read::<Vec<u64>>().unwrap(), None);
        sidecar.write(&[1, 2]).unwrap();
        sidecar.write(&[3]).unwrap();
        assert_eq!(sidecar.read::<Vec<u64>>().unwrap(), Some(vec![3]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
        fs::write(sidecar.path(), "nonsense").unwrap();
        assert!(sidecar.read::<Vec<u64>>().unwrap_err().to_string().contains("remove it"));
        sidecar.remove().unwrap();
        sidecar.remove().unwrap();
        assert_eq!(sidecar.read::<Vec<u64>>().unwrap(), None);
    }
}
