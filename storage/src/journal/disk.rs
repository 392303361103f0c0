//! # MemDisk: a directory that can lose power
//!
//! ```text
//!   write ──▶ sectors of 512 bytes, each with the bytes it had at the last sync ──sync──▶ for good
//!                        └──── lose_power: each one keeps the new bytes or falls back to the old ────┘
//! ```
//!
//! A cheap handle; it survives the journal that was opened on it, so a simulated node starts again on the same disk.
//!
//! **Invariant.** Synced sectors survive everything but the damage a test asks for by name. Names change in order: a
//! lost rename takes all later ones with it, as on a journalling file system.

use super::medium::{Medium, SegmentFile};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Bytes that survive or fall back together.
pub const SECTOR_BYTES: u64 = 512;

/// A simulated disk with one directory.
#[derive(Clone, Default)]
pub struct MemDisk {
    disk: Arc<Mutex<Disk>>,
}

/// A sector that was written and not synced when the power failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// This sector of this file.
    Sector {
        /// Its name.
        file: String,
        /// Which sector, counted from 0.
        sector: u64,
    },
    /// A creation, renaming or removal, counted from 0; when one is lost, all later ones are.
    Name {
        /// Which change.
        change: usize,
    },
}

type FileId = u64;

#[derive(Clone, Default)]
struct Disk {
    files: BTreeMap<FileId, Content>,
    names: BTreeMap<String, FileId>,
    names_synced: BTreeMap<String, FileId>,
    /// The names after each change since the last sync of the directory.
    names_unsynced: Vec<BTreeMap<String, FileId>>,
    next_file: FileId,
    /// Who may write: handles of an earlier life are dead.
    life: u64,
    is_open: bool,
    is_stalled: bool,
    capacity_bytes: Option<u64>,
    failing_syncs: u32,
    failing_writes: u32,
    /// Writing operations until the power fails.
    operations_left: Option<u64>,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    /// What unsynced sectors held at the last sync.
    synced: BTreeMap<u64, Vec<u8>>,
}

impl Content {
    /// Remembers what the sectors of this range held, unless that is known already.
    fn touch(&mut self, from: u64, to: u64) {
        for sector in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            let start = (sector * SECTOR_BYTES) as usize;
            let end = (start + SECTOR_BYTES as usize).min(self.bytes.len());
            self.synced.entry(sector).or_insert_with(|| self.bytes[start..end].to_vec());
        }
    }

    fn restore(&mut self, sector: u64, old: &[u8]) {
        let start = (sector * SECTOR_BYTES) as usize;
        self.bytes[start..start + old.len()].copy_from_slice(old);
    }
}

impl Disk {
    fn check_write(&mut self, life: u64) -> io::Result<()> {
        self.check(life)?;
        match &mut self.operations_left {
            Some(0) => Err(io::Error::other("the power has failed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn check(&self, life: u64) -> io::Result<()> {
        let is_alive = life == self.life && self.operations_left != Some(0);
        if is_alive { Ok(()) } else { Err(io::Error::other("the power has failed")) }
    }

    fn note_names(&mut self) {
        self.names_unsynced.push(self.names.clone());
    }

    fn end_life(&mut self) {
        self.life += 1;
        self.is_open = false;
        self.is_stalled = false;
        self.failing_syncs = 0;
        self.failing_writes = 0;
        self.operations_left = None;
        let names = &self.names;
        self.files.retain(|id, _| names.values().any(|named| named == id));
    }

    fn lose_power(&mut self, survives: &mut dyn FnMut(&Unsynced) -> bool) {
        let mut names = std::mem::take(&mut self.names_synced);
        for (change, after) in std::mem::take(&mut self.names_unsynced).into_iter().enumerate() {
            if !survives(&Unsynced::Name { change }) {
                break;
            }
            names = after;
        }
        self.names = names.clone();
        self.names_synced = names;
        let named: BTreeMap<FileId, String> = self.names.iter().map(|(name, id)| (*id, name.clone())).collect();
        for (id, content) in &mut self.files {
            let file = named.get(id).cloned().unwrap_or_default();
            for (sector, old) in std::mem::take(&mut content.synced) {
                if !survives(&Unsynced::Sector { file: file.clone(), sector }) {
                    content.restore(sector, &old);
                }
            }
        }
        self.end_life();
    }
}

impl MemDisk {
    /// An empty disk without limits.
    #[must_use]
    pub fn new() -> Self {
        MemDisk::default()
    }

    /// The power fails: of what is not synced, `survives` decides. Whoever had the disk open has lost it.
    pub fn lose_power(&self, mut survives: impl FnMut(&Unsynced) -> bool) {
        self.disk.lock().lose_power(&mut survives);
    }

    /// The process dies and the machine does not: everything written stays, whoever had the disk open has lost it.
    pub fn kill(&self) {
        self.disk.lock().end_life();
    }

    /// After this many writing operations all fail, until [`MemDisk::lose_power`].
    pub fn fail_after_operations(&self, operations: u64) {
        self.disk.lock().operations_left = Some(operations);
    }

    /// Whether the power has failed by [`MemDisk::fail_after_operations`], and is not back.
    #[must_use]
    pub fn is_out_of_power(&self) -> bool {
        self.disk.lock().operations_left == Some(0)
    }

    /// The power does not fail after all.
    pub fn keep_power(&self) {
        self.disk.lock().operations_left = None;
    }

    /// The next sync fails; what it should have synced stays unsynced.
    pub fn fail_next_sync(&self) {
        self.disk.lock().failing_syncs += 1;
    }

    /// The next write fails.
    pub fn fail_next_write(&self) {
        self.disk.lock().failing_writes += 1;
    }

    /// While stalled, a journal on this disk writes and does not sync.
    pub fn stall(&self, is_stalled: bool) {
        self.disk.lock().is_stalled = is_stalled;
    }

    /// Whether syncs are stalled.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.disk.lock().is_stalled
    }

    /// Prewriting beyond this many bytes fails as on a full disk. `None`: no limit.
    pub fn set_capacity_bytes(&self, capacity_bytes: Option<u64>) {
        self.disk.lock().capacity_bytes = capacity_bytes;
    }

    /// Bytes that files take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.disk.lock().files.values().map(|content| content.bytes.len() as u64).sum()
    }

    /// An independent copy of what a reader sees now, as a backup taken while the node runs.
    #[must_use]
    pub fn image(&self) -> MemDisk {
        let mut disk = self.disk.lock().clone();
        disk.lose_power(&mut |_| true);
        MemDisk { disk: Arc::new(Mutex::new(disk)) }
    }

    /// Names of all files.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.disk.lock().names.keys().cloned().collect()
    }

    /// The bytes of a file.
    #[must_use]
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk.lock();
        disk.files.get(disk.names.get(name)?).map(|content| content.bytes.clone())
    }

    /// Damage: changes the bytes of a file behind everybody's back.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk.lock();
        let id = *disk.names.get(name).expect("only what is there can be damaged");
        let content = disk.files.get_mut(&id).expect("a name belongs to a file");
        change(&mut content.bytes);
        let length = content.bytes.len() as u64;
        content.synced.retain(|sector, old| sector * SECTOR_BYTES + old.len() as u64 <= length);
    }

    /// Takes the disk for one journal; `None` if another has it.
    pub(super) fn take(&self) -> Option<MemMedium> {
        let mut disk = self.disk.lock();
        let is_free = !std::mem::replace(&mut disk.is_open, true);
        is_free.then(|| MemMedium { disk: self.disk.clone(), life: disk.life })
    }
}

/// The disk in the hands of one journal.
pub(super) struct MemMedium {
    disk: Arc<Mutex<Disk>>,
    life: u64,
}

impl Drop for MemMedium {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        if disk.life == self.life {
            disk.is_open = false;
        }
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{name} is not there"))
}

impl MemMedium {
    fn handle(&self, id: FileId) -> Arc<dyn SegmentFile> {
        Arc::new(MemFile { disk: self.disk.clone(), id, life: self.life })
    }
}

impl Medium for MemMedium {
    fn names(&self) -> io::Result<Vec<String>> {
        let disk = self.disk.lock();
        disk.check(self.life)?;
        Ok(disk.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let disk = self.disk.lock();
        disk.check(self.life)?;
        let id = *disk.names.get(name).ok_or_else(|| missing(name))?;
        Ok(self.handle(id))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let mut disk = self.disk.lock();
        disk.check_write(self.life)?;
        disk.next_file += 1;
        let id = disk.next_file;
        disk.files.insert(id, Content::default());
        disk.names.insert(name.to_owned(), id);
        disk.note_names();
        Ok(self.handle(id))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check_write(self.life)?;
        let id = disk.names.remove(from).ok_or_else(|| missing(from))?;
        let old = disk.names.insert(to.to_owned(), id);
        assert!(old.is_none(), "{to} must not exist");
        disk.note_names();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check_write(self.life)?;
        disk.names.remove(name).ok_or_else(|| missing(name))?;
        disk.note_names();
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check_write(self.life)?;
        disk.names_unsynced.clear();
        disk.names_synced = disk.names.clone();
        let Disk { files, names, .. } = &mut *disk;
        files.retain(|id, _| names.values().any(|named| named == id));
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        format!("memory/{name}")
    }
}

/// A file of a [`MemMedium`].
struct MemFile {
    disk: Arc<Mutex<Disk>>,
    id: FileId,
    life: u64,
}

impl SegmentFile for MemFile {
    fn length(&self) -> io::Result<u64> {
        let disk = self.disk.lock();
        disk.check(self.life)?;
        Ok(disk.files.get(&self.id).ok_or_else(|| missing("the file"))?.bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let disk = self.disk.lock();
        disk.check(self.life)?;
        let bytes = &disk.files.get(&self.id).ok_or_else(|| missing("the file"))?.bytes;
        let from = bytes.len().min(offset as usize);
        let count = into.len().min(bytes.len() - from);
        into[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check_write(self.life)?;
        if disk.failing_writes > 0 {
            disk.failing_writes -= 1;
            return Err(io::Error::other("the write was told to fail"));
        }
        let content = disk.files.get_mut(&self.id).ok_or_else(|| missing("the file"))?;
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        assert!(offset + bytes <= content.bytes.len() as u64, "a journal writes into prewritten space only");
        content.touch(offset, offset + bytes);
        let mut at = offset as usize;
        for part in parts {
            content.bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Ok(())
    }

    fn prewrite(&self, from: u64, to: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check_write(self.life)?;
        let used: u64 = disk.files.values().map(|content| content.bytes.len() as u64).sum();
        if disk.capacity_bytes.is_some_and(|capacity| used + (to - from) > capacity) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is full"));
        }
        let content = disk.files.get_mut(&self.id).ok_or_else(|| missing("the file"))?;
        assert_eq!(content.bytes.len() as u64, from, "prewriting goes on where it ended");
        content.bytes.resize(to as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check_write(self.life)?;
        if disk.failing_syncs > 0 {
            disk.failing_syncs -= 1;
            return Err(io::Error::other("the sync was told to fail"));
        }
        disk.files.get_mut(&self.id).ok_or_else(|| missing("the file"))?.synced.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &MemDisk) -> MemMedium {
        let medium = disk.take().unwrap();
        let file = medium.create("a").unwrap();
        file.prewrite(0, 2048).unwrap();
        file.sync().unwrap();
        medium.sync_directory().unwrap();
        file.write_at(500, &mut [IoSlice::new(&[1; 20]), IoSlice::new(&[2; 20])]).unwrap();
        medium
    }

    #[test]
    fn each_unsynced_sector_keeps_the_new_bytes_or_the_old() {
        for kept in 0..2 {
            let disk = MemDisk::new();
            let medium = written(&disk);
            let mut asked = Vec::new();
            disk.lose_power(|unsynced| {
                asked.push(unsynced.clone());
                *unsynced == Unsynced::Sector { file: "a".into(), sector: kept }
            });
            assert_eq!(asked.len(), 2);
            let bytes = disk.read("a").unwrap();
            assert_eq!((bytes[500] == 1, bytes[530] == 2), (kept == 0, kept == 1));
            assert!(medium.names().is_err(), "who had the disk has lost it");
        }
    }

    #[test]
    fn a_killed_process_leaves_everything_it_wrote_still_unsynced() {
        let disk = MemDisk::new();
        let _medium = written(&disk);
        disk.kill();
        assert_eq!(disk.read("a").unwrap()[530], 2);
        disk.lose_power(|_| false);
        assert_eq!(disk.read("a").unwrap()[530], 0);
    }

    #[test]
    fn a_lost_name_takes_all_later_ones_with_it() {
        let disk = MemDisk::new();
        let medium = written(&disk);
        medium.rename("a", "b").unwrap();
        medium.rename("b", "c").unwrap();
        disk.lose_power(|unsynced| *unsynced == Unsynced::Name { change: 1 });
        assert_eq!(disk.files(), ["a"]);
    }

    #[test]
    fn only_one_journal_has_the_disk() {
        let disk = MemDisk::new();
        let medium = disk.take().unwrap();
        assert!(disk.take().is_none());
        drop(medium);
        assert!(disk.take().is_some());
    }
}
