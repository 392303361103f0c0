//! The names of files: made, moved, removed.
//!
//! **Invariant.** A file that loses its last name below the data directory keeps one in `held` until the directory is
//! synced: its content can come back, and its number is not given to another.

use crate::{
    layout::{Counter, Fault, Unmodelled},
    record::Record,
    state::{State, state},
    system,
};
use libc::{c_char, c_int, c_uint, mode_t};

/// # Safety
/// As `unlinkat`.
pub unsafe fn remove(directory: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller's, here and below.
    let plain = || unsafe { libc::syscall(libc::SYS_unlinkat, directory, path, flags) as c_int };
    let found = state().and_then(|state| unsafe { Some((state, state.place(directory, path)?)) });
    let Some((state, place)) = found else { return plain() };
    let mut inner = state.lock();
    if let Some(found) = system::stat_at(&place.path).filter(|_| state.is_recording()) {
        let (of, file) = (place.directory(), found.st_ino);
        let is_directory = flags & libc::AT_REMOVEDIR != 0;
        if !is_directory {
            state.hold(&mut inner, &place.path, file, of);
        }
        state.record(&mut inner, &Record::Removed { directory: of, name: place.name(), file, is_directory });
        let done = plain();
        if done == 0 && is_directory {
            // The next directory may get its number, and must not let go what was held for this one.
            State::pass_on(&mut inner, file, of);
        }
        return done;
    }
    plain()
}

/// # Safety
/// As `renameat2`.
pub unsafe fn rename(
    from_directory: c_int,
    from: *const c_char,
    to_directory: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    // SAFETY: the caller's, here and below.
    let plain =
        || unsafe { libc::syscall(libc::SYS_renameat2, from_directory, from, to_directory, to, flags) as c_int };
    let found = state()
        .and_then(|state| unsafe { Some((state, state.place(from_directory, from)?, state.place(to_directory, to)?)) });
    let Some((state, old, new)) = found else { return plain() };
    if flags & libc::RENAME_EXCHANGE != 0 {
        state.unmodelled(Unmodelled::Exchange);
        return plain();
    }
    let mut inner = state.lock();
    let existing = system::stat_at(&new.path);
    if existing.is_some() && flags & libc::RENAME_NOREPLACE != 0 {
        return plain();
    }
    if let Some(found) = system::stat_at(&old.path).filter(|_| state.is_recording()) {
        let replaced = existing.map_or(0, |existing| existing.st_ino);
        let is_file = existing.is_some_and(|existing| existing.st_mode & libc::S_IFMT == libc::S_IFREG);
        if is_file {
            state.hold(&mut inner, &new.path, replaced, new.directory());
        }
        let record = Record::Renamed {
            from: (old.directory(), old.name()),
            to: (new.directory(), new.name()),
            file: found.st_ino,
            replaced,
        };
        state.record(&mut inner, &record);
    }
    plain()
}

/// # Safety
/// As `linkat`.
pub unsafe fn link(
    from_directory: c_int,
    from: *const c_char,
    to_directory: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    // SAFETY: the caller's, here and below.
    let plain = || unsafe { libc::syscall(libc::SYS_linkat, from_directory, from, to_directory, to, flags) as c_int };
    let found = state()
        .and_then(|state| unsafe { Some((state, state.place(from_directory, from)?, state.place(to_directory, to)?)) });
    let Some((state, old, new)) = found else { return plain() };
    let mut inner = state.lock();
    let file = system::stat_at(&old.path).map(|found| found.st_ino);
    if let (Some(file), None) = (file, system::stat_at(&new.path)) {
        state.record(&mut inner, &Record::Linked { directory: new.directory(), name: new.name(), file });
    }
    plain()
}

/// # Safety
/// As `mkdirat`.
pub unsafe fn make_directory(directory: c_int, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the caller's, here and below.
    let plain = || unsafe { libc::syscall(libc::SYS_mkdirat, directory, path, mode) as c_int };
    let found = state().and_then(|state| unsafe { Some((state, state.place(directory, path)?)) });
    let Some((state, place)) = found else { return plain() };
    let mut inner = state.lock();
    if system::stat_at(&place.path).is_some() {
        return plain();
    }
    if state.strikes(Fault::DiskFull, place.part).is_some() {
        state.count(Counter::RoomRefused, 1);
        return system::fail(libc::ENOSPC);
    }
    // The data directory itself stands in a directory that nobody here may undo.
    if place.directory() != 0 && !state.is_data(&place) {
        let (directory, name) = (place.directory(), place.name());
        state.record(&mut inner, &Record::Created { directory, name, is_directory: true });
        let done = plain();
        if let Some(made) = system::stat_at(&place.path).filter(|_| done == 0) {
            // From here on its number is this directory's, whatever had it before.
            state.record(&mut inner, &Record::Born { file: made.st_ino });
        }
        return done;
    }
    plain()
}
