//! Power loss: what a node's files are after it, decided when its process is gone.
//!
//! ```text
//!   log of the shim ─┬▶ names     changes undone, the newest first ─┐
//!                    └▶ content   sectors and lengths               ├─▶ data directory as a disk would show it
//!   held/ ───────────────────────────────────────────────────────▶──┘   log and held/ empty: all of it is synced now
//! ```
//!
//! **Invariant.** What a completed sync covered is there afterwards; of everything else some of it, as drawn.
//!
//! **Deliberately absent.** Bits that flip by themselves: those are [`super::nemesis`]'s `flip-journal` and
//! `flip-engine`.

pub mod content;
pub mod names;

use super::shim::{
    layout::{HELD, LOG},
    record::{Inode, Record, VERSION},
};
use anyhow::{Context, Result, bail};
use content::{SECTOR_BYTES, Story, Survives};
use rand::rngs::SmallRng;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, OpenOptions},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

/// What was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Sectors whose content was not synced.
    pub unsynced_sectors: u64,
    /// Sectors that fell back.
    pub sectors: u64,
    /// Files that became shorter or longer.
    pub lengths: u64,
    /// Changes of names that were not synced.
    pub unsynced_names: u64,
    /// Changes of names that were undone.
    pub names: u64,
}

impl Lost {
    /// Adds another node's.
    pub fn add(&mut self, other: &Lost) {
        self.unsynced_sectors += other.unsynced_sectors;
        self.sectors += other.sectors;
        self.lengths += other.lengths;
        self.unsynced_names += other.unsynced_names;
        self.names += other.names;
    }
}

/// Loses what is not synced below `data`: all of it, or what is drawn. The log lies in `home`.
pub fn lose(data: &Path, home: &Path, loses_all: bool, chance: &mut SmallRng) -> Result<Lost> {
    let records = read_log(&home.join(LOG))?;
    let of_names = names::told_apart(&records);
    let (undone, unsynced) = names::lose(&of_names, loses_all, chance);
    let mut tree = Tree { data: data.to_owned(), held: home.join(HELD), paths: BTreeMap::new() };
    for at in &undone {
        tree.undo(&of_names[*at]).with_context(|| format!("{:?} cannot be undone", records[*at]))?;
    }
    let mut lost = Lost { unsynced_names: unsynced as u64, names: undone.len() as u64, ..Lost::default() };
    tree.walk()?;
    for (file, story) in content::stories(&records) {
        let Some(path) = tree.paths.get(&file).filter(|path| path.is_file()) else { continue };
        let survives = if loses_all { Survives::Nothing } else { Survives::draw(chance) };
        let of_file = lose_content(path, &story, survives, chance);
        lost.add(&of_file.with_context(|| path.display().to_string())?);
    }
    fs::write(home.join(LOG), [VERSION])?;
    fs::remove_dir_all(home.join(HELD)).and_then(|()| fs::create_dir(home.join(HELD)))?;
    Ok(lost)
}

/// Cuts off the record that a killed process did not finish: the next one appends behind it, and nobody could tell any
/// more where records begin. Not for a log that somebody still writes to.
pub fn mend_log(home: &Path) -> Result<()> {
    let path = home.join(LOG);
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.with_context(|| path.display().to_string())?,
    };
    let length = file.metadata()?.len();
    let mut whole = length.min(1);
    loop {
        let mut record_bytes = [0; 4];
        if whole == 0 || length - whole < 4 {
            break;
        }
        file.read_exact_at(&mut record_bytes, whole)?;
        let next = whole + 4 + u64::from(u32::from_be_bytes(record_bytes));
        if next > length {
            break;
        }
        whole = next;
    }
    if whole < length {
        file.set_len(whole)?;
    }
    Ok(())
}

/// What stands in a log; an incomplete record at its end describes nothing.
fn read_log(path: &Path) -> Result<Vec<Record>> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let Some((version, mut rest)) = bytes.split_first() else { return Ok(Vec::new()) };
    if *version != VERSION {
        bail!("{} is of version {version}: the shim is not of this build", path.display());
    }
    let mut records = Vec::new();
    while let Some(record) = Record::decode(&mut rest).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))? {
        records.push(record);
    }
    Ok(records)
}

fn lose_content(path: &Path, story: &Story, survives: Survives, chance: &mut SmallRng) -> io::Result<Lost> {
    let now = fs::read(path)?;
    let left = story.lose(&now, survives, chance);
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(left.length)?;
    for (sector, bytes) in &left.sectors {
        let start = sector * SECTOR_BYTES;
        let reaches = left.length.saturating_sub(start).min(SECTOR_BYTES) as usize;
        file.write_all_at(&bytes[..reaches], start)?;
    }
    Ok(Lost {
        unsynced_sectors: left.unsynced_sectors,
        sectors: left.sectors.len() as u64,
        lengths: u64::from(left.length != now.len() as u64),
        ..Lost::default()
    })
}

/// Files and directories by number, as they lie now.
struct Tree {
    data: PathBuf,
    held: PathBuf,
    paths: BTreeMap<Inode, PathBuf>,
}

impl Tree {
    fn walk(&mut self) -> io::Result<()> {
        // A directory that was removed and made again has a new number; what was noted by the old one stays true. If
        // that happens to be the number of one whose making was undone: nothing older was done in that.
        self.paths.retain(|_, path| path.is_dir());
        let mut to_visit = vec![self.data.clone()];
        while let Some(path) = to_visit.pop() {
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            if found.is_dir() {
                to_visit.extend(fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?);
            }
            self.paths.insert(found.ino(), path);
        }
        Ok(())
    }

    /// Where a name stands now; `None` = its directory is gone for good.
    fn place(&mut self, directory: Inode, name: &[u8]) -> io::Result<Option<PathBuf>> {
        let is_there = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        if !self.paths.get(&directory).is_some_and(is_there) {
            self.walk()?;
        }
        Ok(self.paths.get(&directory).filter(|path| is_there(path)).map(|path| path.join(OsStr::from_bytes(name))))
    }

    fn undo(&mut self, record: &Record) -> io::Result<()> {
        match record {
            Record::Created { directory, name, is_directory } => match self.place(*directory, name)? {
                Some(path) if *is_directory => absent_is_fine(fs::remove_dir_all(path)),
                Some(path) => absent_is_fine(fs::remove_file(path)),
                None => Ok(()),
            },
            Record::Linked { directory, name, .. } => match self.place(*directory, name)? {
                Some(path) => absent_is_fine(fs::remove_file(path)),
                None => Ok(()),
            },
            Record::Removed { directory, name, file, is_directory } => match self.place(*directory, name)? {
                Some(path) if path.exists() => Ok(()),
                Some(path) if *is_directory => {
                    fs::create_dir(&path)?;
                    self.paths.insert(*file, path);
                    Ok(())
                }
                Some(path) => self.bring_back(*file, &path),
                None => Ok(()),
            },
            Record::Renamed { from, to, file, replaced } => {
                let (Some(old), Some(new)) = (self.place(from.0, &from.1)?, self.place(to.0, &to.1)?) else {
                    return Ok(());
                };
                // It was about to be done, and was not.
                let is_done = fs::symlink_metadata(&new).is_ok_and(|found| found.ino() == *file || found.is_dir());
                if !is_done || old.exists() {
                    return Ok(());
                }
                fs::rename(&new, &old)?;
                if old.is_dir() {
                    self.paths.clear();
                }
                if *replaced == 0 { Ok(()) } else { self.bring_back(*replaced, &new) }
            }
            Record::Write { .. }
            | Record::Length { .. }
            | Record::SyncBegun { .. }
            | Record::SyncEnded { .. }
            | Record::Born { .. } => Ok(()),
        }
    }

    /// Gives a held file a name again.
    fn bring_back(&self, file: Inode, path: &Path) -> io::Result<()> {
        fs::hard_link(self.held.join(file.to_string()), path)
    }
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
