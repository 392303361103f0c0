//! What the shim knows while its process runs.
//!
//! **Invariant.** The lock is held from before a record is written until what it describes is done. Nothing that is no
//! regular file below the data directory ever waits for it: signal handlers write to pipes.

use crate::{
    layout::{
        Counter, DATA_VARIABLE, FOR_EVER, Fault, HELD, HOME_VARIABLE, LOG, MAGIC, PAGE_BYTES, PARAMETER, PARTS, Part,
        REMAINING, Unmodelled, Word,
    },
    record::{Inode, Record, VERSION},
    system,
};
use libc::{AT_FDCWD, c_char, c_int};
use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

static STATE: OnceLock<State> = OnceLock::new();

/// The state, if the process was started to have one.
pub fn state() -> Option<&'static State> {
    STATE.get()
}

/// Runs when the library is loaded, before the program's first line.
extern "C" fn load() {
    if let Some(state) = State::open() {
        state.word(Word::Process as u64).store(u64::from(std::process::id()), Ordering::Release);
        state.word(Word::Starts as u64).fetch_add(1, Ordering::Relaxed);
        // It is set once: nobody else does.
        let _ = STATE.set(state);
    }
    crate::clock::load();
}

// SAFETY: the section holds functions without arguments that are called once, which this is.
#[unsafe(link_section = ".init_array")]
#[used]
static LOAD: extern "C" fn() = load;

pub struct State {
    page: &'static [AtomicU64],
    data: Vec<u8>,
    held: Vec<u8>,
    log: c_int,
    is_recording: bool,
    inner: Mutex<Inner>,
    syncs: AtomicU64,
}

/// Behind the lock.
#[derive(Default)]
pub struct Inner {
    /// Files and directories below the data directory that were opened, by number.
    known: BTreeMap<Inode, Part>,
    /// Held files, with the directory whose sync lets them go.
    held: Vec<(Inode, Inode)>,
}

/// A name below the data directory.
pub struct Place {
    /// The whole path.
    pub path: CString,
    /// Which part it belongs to.
    pub part: Part,
}

impl Place {
    /// The last name in it.
    pub fn name(&self) -> Vec<u8> {
        let path = self.path.to_bytes();
        path.iter().rposition(|byte| *byte == b'/').map_or(path, |slash| &path[slash + 1..]).to_vec()
    }

    /// The number of the directory it stands in; 0 = there is none.
    pub fn directory(&self) -> Inode {
        let path = self.path.to_bytes();
        let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        CString::new(&path[..end]).ok().and_then(|path| system::stat_at(&path)).map_or(0, |found| found.st_ino)
    }
}

fn variable(name: &str) -> Option<Vec<u8>> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero, and so does what is found; nobody changes the environment this early.
    unsafe {
        let found = libc::getenv(name.as_ptr());
        (!found.is_null()).then(|| CStr::from_ptr(found).to_bytes().to_vec())
    }
}

fn below(directory: &[u8], name: &str) -> CString {
    // A path from the environment has no zero inside.
    CString::new([directory, b"/", name.as_bytes()].concat()).unwrap_or_default()
}

fn map(path: &CStr) -> Option<&'static [AtomicU64]> {
    // SAFETY: the path ends with a zero; the mapping is shared, as long as the page, and never taken away; words in it
    // are only used as atomics, by this process and (through its file) by the harness.
    unsafe {
        let file = system::openat(AT_FDCWD, path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC, 0);
        if file < 0 {
            return None;
        }
        let (bytes, protection) = (PAGE_BYTES as usize, libc::PROT_READ | libc::PROT_WRITE);
        let none = std::ptr::null_mut::<libc::c_void>();
        let page = libc::syscall(libc::SYS_mmap, none, bytes, protection, libc::MAP_SHARED, file, 0 as libc::off_t);
        system::close(file);
        let page = (page > 0).then_some(page as *const AtomicU64)?;
        Some(std::slice::from_raw_parts(page, bytes / 8))
    }
}

impl State {
    fn open() -> Option<State> {
        let (home, data) = (variable(HOME_VARIABLE)?, variable(DATA_VARIABLE)?);
        let page = map(&below(&home, crate::layout::CONTROL))?;
        if page[Word::Magic as usize].load(Ordering::Acquire) != MAGIC {
            return None;
        }
        let is_recording = page[Word::Recording as usize].load(Ordering::Acquire) == 1;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
        // SAFETY: the path ends with a zero.
        let log = unsafe { system::openat(AT_FDCWD, below(&home, LOG).as_ptr(), flags, 0o600) };
        let state = State {
            page,
            data,
            held: below(&home, HELD).into_bytes(),
            log,
            is_recording,
            inner: Mutex::default(),
            syncs: AtomicU64::new(u64::from(std::process::id()) << 32),
        };
        if is_recording && system::stat_of(log).is_some_and(|found| found.st_size == 0) {
            state.append(&[VERSION]);
        }
        Some(state)
    }

    fn word(&self, word: u64) -> &AtomicU64 {
        &self.page[word as usize]
    }

    /// A word that is a signed number.
    pub fn signed(&self, word: Word) -> i64 {
        self.word(word as u64).load(Ordering::Relaxed) as i64
    }

    /// Adds to a counter.
    pub fn count(&self, counter: Counter, more: u64) {
        self.word(counter as u64).fetch_add(more, Ordering::Relaxed);
    }

    /// Adds one to that of three counters which belongs to the part.
    pub fn count_of(&self, first: Counter, part: Part) {
        self.word(Counter::word_of(first, part)).fetch_add(1, Ordering::Relaxed);
    }

    /// Notes a call that nobody could undo.
    pub fn unmodelled(&self, kind: Unmodelled) {
        self.count(Counter::Unmodelled, 1);
        let first = self.word(Counter::UnmodelledKind as u64);
        let _ = first.compare_exchange(0, kind as u64, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether a fault is set for this part, used up or not.
    pub fn is_armed(&self, fault: Fault, part: Part) -> bool {
        let first = fault as u64;
        self.word(first).load(Ordering::Acquire) == 1
            && self.word(first + PARTS).load(Ordering::Relaxed) & part as u64 != 0
    }

    /// Whether a fault strikes now, and its parameter.
    pub fn strikes(&self, fault: Fault, part: Part) -> Option<u64> {
        if !self.is_armed(fault, part) {
            return None;
        }
        let first = fault as u64;
        let parameter = self.word(first + PARAMETER).load(Ordering::Relaxed);
        let one_less = |left: u64| match left {
            0 => None,
            FOR_EVER => Some(FOR_EVER),
            left => Some(left - 1),
        };
        let counted = self.word(first + REMAINING).fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        counted.is_ok().then_some(parameter)
    }

    /// What a path means, if it lies below the data directory or is it.
    ///
    /// # Safety
    /// `path` is null or ends with a zero.
    pub unsafe fn place(&self, directory: c_int, path: *const c_char) -> Option<Place> {
        if path.is_null() {
            return None;
        }
        // SAFETY: the caller's.
        let path = unsafe { CStr::from_ptr(path) }.to_bytes();
        let whole = match path.first() {
            Some(b'/') => path.to_vec(),
            _ => [&system::directory_path(directory)?, b"/".as_slice(), path].concat(),
        };
        let whole: Vec<u8> = whole.strip_suffix(b"/").unwrap_or(&whole).to_vec();
        let rest = whole.strip_prefix(self.data.as_slice())?;
        if !rest.is_empty() && rest[0] != b'/' {
            return None;
        }
        if rest.split(|byte| *byte == b'/').any(|name| name == b"..") {
            self.unmodelled(Unmodelled::Path);
        }
        let part = Part::of(rest);
        Some(Place { path: CString::new(whole).ok()?, part })
    }

    /// Whether a place is the data directory itself.
    pub fn is_data(&self, place: &Place) -> bool {
        place.path.to_bytes() == self.data.as_slice()
    }

    /// A file below the data directory, by its open number.
    pub fn known(&self, file: c_int) -> Option<(Inode, Part)> {
        let found = system::stat_of(file)?;
        let kind = found.st_mode & libc::S_IFMT;
        if kind != libc::S_IFREG && kind != libc::S_IFDIR {
            return None;
        }
        let part = *self.lock().known.get(&found.st_ino)?;
        Some((found.st_ino, part))
    }

    /// Waits for whoever does something to files.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is not synced is written down.
    pub fn is_recording(&self) -> bool {
        self.is_recording
    }

    /// Writes a record. Under the lock, before what it says is done.
    pub fn record(&self, _inner: &mut Inner, record: &Record) {
        if self.is_recording {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            self.append(&bytes);
        }
    }

    fn append(&self, bytes: &[u8]) {
        match system::append(self.log, bytes) {
            true => self.count(Counter::Records, 1),
            false => self.count(Counter::RecordFailures, 1),
        }
    }

    /// Keeps a file that is about to lose its name, until that directory is synced.
    pub fn hold(&self, inner: &mut Inner, path: &CStr, file: Inode, directory: Inode) {
        if !self.is_recording {
            return;
        }
        if !system::link(path, &below(&self.held, &file.to_string())) && system::errno() != libc::EEXIST {
            self.count(Counter::RecordFailures, 1);
        }
        inner.held.push((file, directory));
    }

    /// The files that this directory's sync, which begins now, will let go.
    pub fn held_for(inner: &Inner, directory: Inode) -> Vec<Inode> {
        inner.held.iter().filter(|(_, of)| *of == directory).map(|(file, _)| *file).collect()
    }

    /// A directory is gone: what was held for it is held until the sync of the one it stood in.
    pub fn pass_on(inner: &mut Inner, from: Inode, to: Inode) {
        inner.held.iter_mut().filter(|(_, of)| *of == from).for_each(|(_, of)| *of = to);
    }

    /// The directory is synced: these are gone for good.
    pub fn let_go(&self, inner: &mut Inner, files: &[Inode]) {
        for file in files {
            system::unlink(&below(&self.held, &file.to_string()));
        }
        inner.held.retain(|(file, _)| !files.contains(file));
    }

    /// The number of the next sync; no other process that wrote to this log has had it.
    pub fn next_sync(&self) -> u64 {
        self.syncs.fetch_add(1, Ordering::Relaxed)
    }
}

impl Inner {
    /// Remembers what an open file is.
    pub fn learn(&mut self, file: c_int, part: Part) -> Option<Inode> {
        let file = system::stat_of(file)?.st_ino;
        self.known.insert(file, part);
        Some(file)
    }
}
