//! # FileJournal: the journal over real files
//!
//! ```text
//!   callers ──lock──▶ queue ──notify──▶ one OS thread: pwritev, fdatasync, tell everybody
//! ```
//!
//! The thread owns the files and the writing; callers read entries themselves. The directory is locked: a second
//! process is refused.
//!
//! **Invariant.** A caller waits for the disk in two cases only: it reads an entry that is not cached, or its records
//! would outrun the prewritten space while more is being prepared.

use super::medium::{Medium, SegmentFile};
use super::record::Content;
use super::recover;
use super::shared::Shared;
use super::spares::RETRY;
use super::state::{Lack, State};
use super::writer::{Step, Writer};
use super::{BatchNumber, Completion, GroupState, Journal, JournalOptions, JournalStatus, LogRecord, Mark};
use crate::error::StorageError;
use kvorum_api::GroupId;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// The file whose lock says that a process has the directory.
const LOCK: &str = "lock";

/// A journal in a directory. See the module.
pub struct FileJournal {
    signals: Arc<Signals>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What callers and the thread share.
struct Signals {
    shared: Arc<Shared>,
    /// Something was queued, or the journal stops.
    work: Condvar,
    /// Room was made, or could not be.
    room: Condvar,
}

impl FileJournal {
    /// Opens the journal in `dir`, which is made if it is not there, and writes its last segment anew.
    ///
    /// # Errors
    /// Another process has it open; the disk refuses; or its bytes are not what was synced (then the file and the byte
    /// are named).
    pub fn open(dir: &Path, options: JournalOptions) -> Result<Arc<FileJournal>, StorageError> {
        let medium = Directory::open(dir)?;
        let writer = recover::open(Box::new(medium), options)?;
        let shared = writer.shared.clone();
        let signals = Arc::new(Signals { shared, work: Condvar::new(), room: Condvar::new() });
        let driven = signals.clone();
        let thread = thread::Builder::new().name("journal".to_owned()).spawn(move || driven.run(writer));
        let thread = thread.map_err(|why| StorageError::io("start a thread", dir.display().to_string(), &why))?;
        Ok(Arc::new(FileJournal { signals, thread: Mutex::new(Some(thread)) }))
    }

    fn shared(&self) -> &Shared {
        &self.signals.shared
    }

    fn submit(&self, group: GroupId, contents: Vec<Content>, done: Completion) -> Result<(), StorageError> {
        self.shared().submit(group, contents, done, &|state, lack| self.wait_for_room(state, lack))?;
        self.signals.work.notify_one();
        Ok(())
    }

    fn wait_for_room(&self, state: &mut MutexGuard<'_, State>, lack: Lack) -> Result<(), StorageError> {
        let is_writer =
            self.thread.lock().as_ref().is_some_and(|writer| writer.thread().id() == thread::current().id());
        if let Some(why) = &state.room.full {
            return Err(StorageError::DiskFull(why.clone()));
        }
        if is_writer {
            // A completion that appends: the thread that would make room is this one.
            return Err(StorageError::DiskFull("no prewritten segment is ready".to_owned()));
        }
        state.room.spares_wanted = state.room.spares_wanted.max(lack.spares);
        self.signals.work.notify_one();
        if self.signals.room.wait_for(state, RETRY).timed_out() {
            // A disk that stalls must not hold the caller: the queue is full of bytes, which is what the limit is for.
            return Err(StorageError::DiskFull("the disk does not keep up, no prewritten segment is ready".to_owned()));
        }
        Ok(())
    }
}

impl Signals {
    fn run(&self, mut writer: Writer) {
        loop {
            let step = writer.step();
            if step == Step::Idle && self.shared.state.lock().check_open().is_ok() {
                writer.prepare(false);
            }
            let is_short = writer.is_short_of_spares();
            self.room.notify_all();
            let mut state = self.shared.state.lock();
            if state.poisoned.is_some() {
                while !state.is_stopped {
                    self.work.wait(&mut state);
                }
                break;
            }
            if step != Step::Idle || state.is_due() || state.room.spares_wanted > 0 {
                continue;
            }
            if state.is_stopped {
                break;
            }
            match (is_short, &state.room.full) {
                (true, None) => {}
                (true, Some(_)) => {
                    self.work.wait_for(&mut state, RETRY);
                }
                (false, _) => self.work.wait(&mut state),
            }
        }
        writer.finish();
        drop(writer);
        self.shared.release();
        self.room.notify_all();
    }
}

impl Journal for FileJournal {
    fn append(&self, group: GroupId, entries: Vec<LogRecord>, done: Completion) -> Result<(), StorageError> {
        if entries.is_empty() {
            self.shared().submit_nothing(group, done)?;
            self.signals.work.notify_one();
            return Ok(());
        }
        self.submit(group, entries.into_iter().map(Content::Entry).collect(), done)
    }

    fn mark(&self, group: GroupId, mark: Mark, done: Completion) -> Result<(), StorageError> {
        self.submit(group, vec![Content::Mark(mark)], done)
    }

    fn entries(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogRecord>, StorageError> {
        self.shared().entries(group, range, bytes_max)
    }

    fn group(&self, group: GroupId) -> GroupState {
        self.shared().state.lock().index.state(group)
    }

    fn groups(&self) -> Vec<GroupId> {
        self.shared().state.lock().index.groups()
    }

    fn when_durable(
        &self,
        group: GroupId,
        index: u64,
        done: Box<dyn FnOnce(Result<BatchNumber, StorageError>) + Send>,
    ) {
        self.shared().when_durable(group, index, done);
        self.signals.work.notify_one();
    }

    fn last_synced(&self) -> BatchNumber {
        self.shared().last_synced()
    }

    fn oldest_held_by(&self) -> Option<(GroupId, u64)> {
        self.shared().state.lock().oldest_held_by()
    }

    fn status(&self) -> JournalStatus {
        self.shared().state.lock().status()
    }

    fn stop(&self) {
        self.shared().state.lock().is_stopped = true;
        self.signals.work.notify_one();
        let Some(thread) = self.thread.lock().take() else { return };
        // A completion may be the last to hold the journal: the thread then ends by itself.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the journal's thread has panicked");
        }
    }
}

impl Drop for FileJournal {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A directory of the file system, locked.
struct Directory {
    path: PathBuf,
    handle: File,
    /// Closing it gives the lock back.
    _lock: File,
}

impl Directory {
    fn open(path: &Path) -> Result<Directory, StorageError> {
        let io = |operation, why: &io::Error| StorageError::io(operation, path.display().to_string(), why);
        std::fs::create_dir_all(path).map_err(|why| io("create", &why))?;
        let handle = File::open(path).map_err(|why| io("open", &why))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.map_err(|why| io("lock", &why))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let why = "another process has it open".to_owned();
                return Err(StorageError::Io { operation: "lock", path: path.display().to_string(), why });
            }
            Err(TryLockError::Error(why)) => return Err(io("lock", &why)),
        }
        if let Some(parent) = path.canonicalize().ok().as_deref().and_then(Path::parent) {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(|why| io("sync", &why))?;
        }
        Ok(Directory { path: path.to_owned(), handle, _lock: lock })
    }
}

impl Medium for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.path)?;
        names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.path.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn path(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

/// Bytes of zeros written at once.
const ZEROS_BYTES: usize = 1 << 20;

impl SegmentFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < into.len() {
            match FileExt::read_at(self, &mut into[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        Ok(read)
    }

    fn write_at(&self, offset: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        // Only the writer moves the cursor; readers use positions of their own.
        let mut file = self;
        file.seek(SeekFrom::Start(offset))?;
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match file.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut parts, count),
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }

    fn prewrite(&self, from: u64, to: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES.min((to - from) as usize)];
        let mut at = from;
        while at < to {
            let count = zeros.len().min((to - at) as usize);
            self.write_all_at(&zeros[..count], at)?;
            at += count as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
