//! The content of files: opened, written, cut, synced.
//!
//! **Invariant.** Between the record and the call, and between finding out how long a file is and changing that, nobody
//! else changes files.

use crate::{
    layout::{Counter, Fault, Part, Unmodelled},
    record::{Inode, Record},
    state::{Place, State, state},
    system,
};
use libc::{c_char, c_int, iovec, mode_t, off_t, ssize_t};

/// # Safety
/// As `openat`.
pub unsafe fn open(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's, here and below.
    let plain = || unsafe { system::openat(directory, path, flags, mode) };
    let found = state().and_then(|state| unsafe { Some((state, state.place(directory, path)?)) });
    let Some((state, place)) = found else { return plain() };
    let is_written = flags & libc::O_ACCMODE != libc::O_RDONLY;
    if flags & libc::O_TMPFILE == libc::O_TMPFILE {
        state.unmodelled(Unmodelled::Nameless);
        return plain();
    }
    if is_written && flags & (libc::O_SYNC | libc::O_DSYNC) != 0 {
        state.unmodelled(Unmodelled::SyncedWrites);
    }
    let mut inner = state.lock();
    let existing = system::stat_at(&place.path);
    let is_made = existing.is_none() && flags & libc::O_CREAT != 0;
    if is_made {
        if state.strikes(Fault::DiskFull, place.part).is_some() {
            state.count(Counter::RoomRefused, 1);
            return system::fail(libc::ENOSPC);
        }
        let (directory, name) = (place.directory(), place.name());
        state.record(&mut inner, &Record::Created { directory, name, is_directory: false });
    }
    if let Some(existing) = existing.filter(|_| is_written && flags & libc::O_TRUNC != 0) {
        cut_at_opening(state, &mut inner, &place, existing.st_ino, existing.st_size as u64);
    }
    let file = plain();
    if file >= 0 {
        let learned = inner.learn(file, place.part);
        if let Some(file) = learned.filter(|_| is_made) {
            state.record(&mut inner, &Record::Born { file });
        }
    }
    file
}

fn cut_at_opening(state: &State, inner: &mut crate::state::Inner, place: &Place, file: Inode, old_length: u64) {
    if !state.is_recording() || old_length == 0 {
        return;
    }
    // SAFETY: the path ends with a zero.
    let reader = unsafe { system::openat(libc::AT_FDCWD, place.path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC, 0) };
    let before = system::read_at(reader, 0, old_length as usize);
    system::close(reader);
    keep(state, inner, before, |before| Record::Length { file, old_length, new_length: 0, before });
}

/// Records what stood there, or that it could not be read.
fn keep(
    state: &State,
    inner: &mut crate::state::Inner,
    before: Option<Vec<u8>>,
    record: impl FnOnce(Vec<u8>) -> Record,
) {
    let Some(mut before) = before else {
        state.count(Counter::RecordFailures, 1);
        return;
    };
    // Prewritten space is zeros: most of what is overwritten there need not be written down.
    before.truncate(before.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    state.record(inner, &record(before));
}

/// # Safety
/// As `pwritev` (with an offset) and `writev` (without).
pub unsafe fn write(file: c_int, parts: *const iovec, count: c_int, offset: Option<off_t>) -> ssize_t {
    // SAFETY: the caller's, here and below.
    let plain = || unsafe { system::write(file, parts, count, offset) };
    let Some((state, (inode, part))) = state().and_then(|state| Some((state, state.known(file)?))) else {
        return plain();
    };
    let parts = match usize::try_from(count) {
        Ok(count) if count > 0 => unsafe { std::slice::from_raw_parts(parts, count) },
        _ => return plain(),
    };
    let bytes: u64 = parts.iter().map(|part| part.iov_len as u64).sum();
    state.count_of(Counter::WritesJournal, part);
    state.count(Counter::WrittenBytes, bytes);
    if state.strikes(Fault::FailWrite, part).is_some() {
        state.count(Counter::WritesRefused, 1);
        return system::fail(libc::EIO) as ssize_t;
    }
    if bytes == 0 || !(state.is_recording() || state.is_armed(Fault::DiskFull, part)) {
        return plain();
    }
    let mut inner = state.lock();
    let old_length = system::stat_of(file).map_or(0, |found| found.st_size as u64);
    let at = match offset {
        Some(offset) => offset as u64,
        None if system::appends(file) => old_length,
        None => system::position(file) as u64,
    };
    if at + bytes > old_length && state.strikes(Fault::DiskFull, part).is_some() {
        state.count(Counter::RoomRefused, 1);
        return system::fail(libc::ENOSPC) as ssize_t;
    }
    if state.is_recording() {
        let overwritten = (at + bytes).min(old_length).saturating_sub(at) as usize;
        let before = if overwritten == 0 { Some(Vec::new()) } else { system::read_at(file, at, overwritten) };
        let record = |before| Record::Write { file: inode, offset: at, bytes, old_length, before };
        keep(state, &mut inner, before, record);
    }
    plain()
}

/// `ftruncate`.
pub fn set_length(file: c_int, length: off_t) -> c_int {
    // SAFETY: no pointer is given.
    let plain = || unsafe { libc::syscall(libc::SYS_ftruncate, file, length) as c_int };
    let Some((state, (inode, part))) = state().and_then(|state| Some((state, state.known(file)?))) else {
        return plain();
    };
    let (Ok(new_length), Some(found)) = (u64::try_from(length), system::stat_of(file)) else { return plain() };
    let old_length = found.st_size as u64;
    if new_length > old_length && refuses_room(state, part) {
        return system::fail(libc::ENOSPC);
    }
    let mut inner = state.lock();
    if state.is_recording() && new_length != old_length {
        let cut = old_length.saturating_sub(new_length) as usize;
        let before = if cut == 0 { Some(Vec::new()) } else { system::read_at(file, new_length, cut) };
        keep(state, &mut inner, before, |before| Record::Length { file: inode, old_length, new_length, before });
    }
    plain()
}

/// `fallocate`, and `posix_fallocate` with mode 0. Gives -1 and `errno`.
pub fn allocate(file: c_int, mode: c_int, offset: off_t, bytes: off_t) -> c_int {
    // SAFETY: no pointer is given.
    let plain = || unsafe { libc::syscall(libc::SYS_fallocate, file, mode, offset, bytes) as c_int };
    let Some((state, (inode, part))) = state().and_then(|state| Some((state, state.known(file)?))) else {
        return plain();
    };
    if refuses_room(state, part) {
        return system::fail(libc::ENOSPC);
    }
    let mut inner = state.lock();
    match (mode, system::stat_of(file)) {
        // Blocks without a length: nothing of it can be seen.
        (libc::FALLOC_FL_KEEP_SIZE, _) => {}
        (0, Some(found)) => {
            let (old_length, new_length) = (found.st_size as u64, (offset + bytes) as u64);
            if new_length > old_length {
                let record = Record::Length { file: inode, old_length, new_length, before: Vec::new() };
                state.record(&mut inner, &record);
            }
        }
        _ => state.unmodelled(Unmodelled::Holes),
    }
    plain()
}

fn refuses_room(state: &State, part: Part) -> bool {
    let is_full = state.strikes(Fault::DiskFull, part).is_some();
    if is_full {
        state.count(Counter::RoomRefused, 1);
    }
    is_full
}

/// `fsync` and `fdatasync`: the call to make is given.
pub fn sync(file: c_int, call: libc::c_long) -> c_int {
    // SAFETY: no pointer is given.
    let plain = || unsafe { libc::syscall(call, file) as c_int };
    let Some((state, (inode, part))) = state().and_then(|state| Some((state, state.known(file)?))) else {
        return plain();
    };
    state.count_of(Counter::SyncsJournal, part);
    let number = state.next_sync();
    // What is written from here on is not covered.
    let held = {
        let mut inner = state.lock();
        state.record(&mut inner, &Record::SyncBegun { file: inode, number });
        State::held_for(&inner, inode)
    };
    if let Some(nanoseconds) = state.strikes(Fault::SlowSync, part) {
        state.count(Counter::SyncsDelayed, 1);
        system::sleep_ns(nanoseconds);
    }
    let fails = state.strikes(Fault::FailSync, part).is_some();
    let done = if fails { system::fail(libc::EIO) } else { plain() };
    let errno = system::errno();
    if fails {
        state.count(Counter::SyncsFailed, 1);
    }
    let mut inner = state.lock();
    state.record(&mut inner, &Record::SyncEnded { file: inode, number, is_ok: done == 0 });
    if done == 0 {
        state.let_go(&mut inner, &held);
    } else {
        system::fail(errno);
    }
    done
}
