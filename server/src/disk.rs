//! Disk space: a low-water mark, and a ballast that is thrown overboard when it gets serious (rule S5).
//!
//! ```text
//!   free ──── low_water ────────── ballast_low ───────── 0
//!    all is well  │  new data refused  │  ballast given up: room for votes, deletes, compaction
//! ```
//!
//! **Invariant.** Refusing is undone by the next look that finds enough space: nobody has to restart anything.

use kvorum_storage::StorageError;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

const BALLAST: &str = "ballast";

/// Looks after the disk of one data directory.
#[derive(Debug)]
pub struct DiskWatch {
    directory: PathBuf,
    free_from: Option<PathBuf>,
    low_water: u64,
    ballast: u64,
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskReport {
    /// Bytes free for this process.
    pub free: u64,
    /// Why new data is refused; `None` = it is not.
    pub full: Option<String>,
}

/// What to do about the ballast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BallastStep {
    Keep,
    Release,
    TakeIn,
}

impl DiskWatch {
    /// Watches `directory`. `free_from` is a file that holds the number of free bytes, for tests.
    #[must_use]
    pub fn new(directory: &Path, free_from: Option<PathBuf>, low_water: u64, ballast: u64) -> Self {
        DiskWatch { directory: directory.to_owned(), free_from, low_water, ballast }
    }

    /// Gives the ballast up if it is time, and takes nothing in. For a start, before anything is opened: identity,
    /// engine and journal all need some room to begin with, and that is what the ballast is for.
    ///
    /// # Errors
    /// The system's.
    pub fn make_room(&self) -> io::Result<()> {
        let path = self.directory.join(BALLAST);
        match ballast_step(self.free()?, self.low_water, self.ballast, path.exists()) {
            BallastStep::Keep | BallastStep::TakeIn => Ok(()),
            BallastStep::Release => {
                tracing::warn!(bytes = self.ballast, "the disk is nearly full, the ballast is given up");
                fs::remove_file(&path)
            }
        }
    }

    /// A failure for want of room, with what there is and the way out.
    #[must_use]
    pub fn explain(&self, failure: &StorageError) -> String {
        let free = self.free().map_or_else(|error| error.to_string(), |free| format!("{free} bytes are free there"));
        match failure {
            StorageError::DiskFull(_) => format!(
                "{failure}; {free}, the ballast is given up already: make room on the file system of {} and start again",
                self.directory.display()
            ),
            _ => failure.to_string(),
        }
    }

    /// Looks once, and moves the ballast if it is time. May wait for the disk.
    ///
    /// # Errors
    /// The system's, with what was tried.
    pub fn look(&self) -> io::Result<DiskReport> {
        let free = self.free()?;
        let path = self.directory.join(BALLAST);
        match ballast_step(free, self.low_water, self.ballast, path.exists()) {
            BallastStep::Keep => {}
            BallastStep::Release => fs::remove_file(&path)?,
            BallastStep::TakeIn => self.take_in(&path)?,
        }
        let full = (free < self.low_water).then(|| {
            format!("{} of {} free, low_water is {}", mib(free), self.directory.display(), mib(self.low_water))
        });
        Ok(DiskReport { free, full })
    }

    fn take_in(&self, path: &Path) -> io::Result<()> {
        let taken = File::create(path).and_then(|file| {
            fallocate(&file, FallocateFlags::empty(), 0, self.ballast).map_err(io::Error::from)?;
            file.sync_all()
        });
        // A file system that cannot reserve space gets no ballast rather than a file that only looks like one.
        taken.or_else(|error| match error.kind() {
            io::ErrorKind::Unsupported | io::ErrorKind::StorageFull => fs::remove_file(path),
            _ => Err(error),
        })
    }

    fn free(&self) -> io::Result<u64> {
        if let Some(file) = &self.free_from {
            let text = fs::read_to_string(file)?;
            return text.trim().parse().map_err(|_| io::Error::other(format!("{} holds no number", file.display())));
        }
        let space = statvfs(&self.directory).map_err(io::Error::from)?;
        Ok(space.f_bavail * space.f_frsize)
    }
}

/// Between giving up and taking in lies a wide gap, so that the ballast itself never makes the disk look full again.
fn ballast_step(free: u64, low_water: u64, ballast: u64, is_there: bool) -> BallastStep {
    match is_there {
        _ if ballast == 0 && !is_there => BallastStep::Keep,
        true if ballast == 0 || free < low_water.min(ballast) => BallastStep::Release,
        false if free > low_water + 2 * ballast => BallastStep::TakeIn,
        true | false => BallastStep::Keep,
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_ballast_goes_when_it_gets_serious_and_comes_back_when_there_is_room() {
        assert_eq!(ballast_step(1_000 * MIB, 256 * MIB, 64 * MIB, false), BallastStep::TakeIn);
        assert_eq!(ballast_step(300 * MIB, 256 * MIB, 64 * MIB, false), BallastStep::Keep);
        assert_eq!(ballast_step(100 * MIB, 256 * MIB, 64 * MIB, true), BallastStep::Keep);
        assert_eq!(ballast_step(63 * MIB, 256 * MIB, 64 * MIB, true), BallastStep::Release);
        assert_eq!(ballast_step(127 * MIB, 256 * MIB, 64 * MIB, false), BallastStep::Keep);
        assert_eq!(ballast_step(1_000 * MIB, 256 * MIB, 0, true), BallastStep::Release);
        assert_eq!(ballast_step(1_000 * MIB, 256 * MIB, 0, false), BallastStep::Keep);
    }

    /// Rule S5: a full disk is noticed, named, and forgotten by itself once there is space.
    #[test]
    fn a_full_disk_is_noticed_and_forgotten_by_itself() {
        let root = tempfile::tempdir().unwrap();
        let free = root.path().join("free");
        let watch = DiskWatch::new(root.path(), Some(free.clone()), 256 * MIB, MIB);
        fs::write(&free, "1073741824").unwrap();
        assert_eq!(watch.look().unwrap().full, None);
        assert_eq!(fs::metadata(root.path().join(BALLAST)).unwrap().len(), MIB);
        fs::write(&free, "1000").unwrap();
        let full = watch.look().unwrap().full.expect("full");
        assert!(full.contains("low_water is 256 MiB"), "{full}");
        assert!(!root.path().join(BALLAST).exists());
        fs::write(&free, "1073741824").unwrap();
        assert_eq!(watch.look().unwrap().full, None);
    }

    #[test]
    fn the_file_system_itself_is_asked() {
        let root = tempfile::tempdir().unwrap();
        let watch = DiskWatch::new(root.path(), None, 0, 0);
        assert!(watch.look().unwrap().free > 0);
    }
}
