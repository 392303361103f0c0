//! System calls, made directly: the names that the shim exports are never used from inside.
//!
//! **Invariant.** A call that fails leaves its reason in `errno`, as its caller's caller expects.

use libc::{AT_FDCWD, c_char, c_int, c_long, c_void, iovec, mode_t, off_t, ssize_t, stat};
use std::{ffi::CStr, mem::MaybeUninit};

/// Sets why a call fails; gives what the call gives then.
pub fn fail(errno: c_int) -> c_int {
    // SAFETY: the C library keeps one such place for each thread.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// Why the last call of this thread failed.
pub fn errno() -> c_int {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() }
}

/// # Safety
/// `path` ends with a zero.
pub unsafe fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_openat, directory, path, flags, mode) as c_int }
}

/// Closes what the shim opened.
pub fn close(file: c_int) {
    // SAFETY: closing is harmless whatever the number; nobody else knows this one.
    unsafe { libc::syscall(libc::SYS_close, file) };
}

/// What an open file is.
pub fn stat_of(file: c_int) -> Option<stat> {
    let mut found = MaybeUninit::<stat>::zeroed();
    // SAFETY: the place is large enough, and filled where the call succeeds.
    unsafe { (libc::fstat(file, found.as_mut_ptr()) == 0).then(|| found.assume_init()) }
}

/// What a name means, a link itself included.
pub fn stat_at(path: &CStr) -> Option<stat> {
    let mut found = MaybeUninit::<stat>::zeroed();
    // SAFETY: as above; the path ends with a zero.
    unsafe { (libc::lstat(path.as_ptr(), found.as_mut_ptr()) == 0).then(|| found.assume_init()) }
}

/// Where the next byte is read or written.
pub fn position(file: c_int) -> off_t {
    // SAFETY: no pointer is given.
    unsafe { libc::lseek(file, 0, libc::SEEK_CUR) }
}

/// Whether every write goes to the end.
pub fn appends(file: c_int) -> bool {
    // SAFETY: no pointer is given.
    unsafe { libc::fcntl(file, libc::F_GETFL) & libc::O_APPEND != 0 }
}

/// Reads up to `bytes` bytes from `offset`, also from a file that is open for writing only. `None` = they cannot be
/// read.
pub fn read_at(file: c_int, offset: u64, bytes: usize) -> Option<Vec<u8>> {
    let mut reopened = None;
    let mut read = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        let (into, at) = (read[filled..].as_mut_ptr().cast::<c_void>(), (offset + filled as u64) as off_t);
        // SAFETY: `into` has `bytes - filled` bytes.
        let count = unsafe { libc::syscall(libc::SYS_pread64, reopened.unwrap_or(file), into, bytes - filled, at) };
        match count {
            0 => break,
            -1 if errno() == libc::EINTR => {}
            -1 if reopened.is_none() => reopened = Some(reopen(file)?),
            -1 => {
                reopened.inspect(|file| close(*file));
                return None;
            }
            count => filled += count as usize,
        }
    }
    reopened.inspect(|file| close(*file));
    read.truncate(filled);
    Some(read)
}

/// The same file, for reading.
fn reopen(file: c_int) -> Option<c_int> {
    let path = format!("/proc/self/fd/{file}\0");
    // SAFETY: the path ends with a zero.
    let opened = unsafe { openat(AT_FDCWD, path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC, 0) };
    (opened >= 0).then_some(opened)
}

/// Writes all of it to the end of a file that was opened for that.
pub fn append(file: c_int, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        // SAFETY: the bytes are there.
        let count = unsafe { libc::syscall(libc::SYS_write, file, bytes.as_ptr(), bytes.len()) };
        match count {
            count if count > 0 => bytes = &bytes[count as usize..],
            -1 if errno() == libc::EINTR => {}
            _ => return false,
        }
    }
    true
}

/// What a link below `/proc/self/fd` says, or the current directory.
pub fn directory_path(directory: c_int) -> Option<Vec<u8>> {
    let link = match directory {
        AT_FDCWD => c"/proc/self/cwd".to_owned(),
        directory => std::ffi::CString::new(format!("/proc/self/fd/{directory}")).ok()?,
    };
    let mut path = vec![0_u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is as long as it is said to be.
    let length = unsafe { libc::readlink(link.as_ptr(), path.as_mut_ptr().cast(), path.len()) };
    path.truncate(usize::try_from(length).ok()?);
    Some(path)
}

/// Gives a file one more name. `false` = it could not.
pub fn link(from: &CStr, to: &CStr) -> bool {
    // SAFETY: both paths end with a zero.
    let done = unsafe { libc::syscall(libc::SYS_linkat, AT_FDCWD, from.as_ptr(), AT_FDCWD, to.as_ptr(), 0 as c_int) };
    done == 0
}

/// Takes a name away.
pub fn unlink(path: &CStr) {
    // SAFETY: the path ends with a zero.
    unsafe { libc::syscall(libc::SYS_unlinkat, AT_FDCWD, path.as_ptr(), 0 as c_int) };
}

/// Sleeps; a signal may end it early.
pub fn sleep_ns(nanoseconds: u64) {
    let time = libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanoseconds % 1_000_000_000) as c_long,
    };
    // SAFETY: the time is there; what is left of it is not asked for.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const time, std::ptr::null_mut::<libc::timespec>()) };
}

/// # Safety
/// As `pwritev` and `writev`: `parts` has `count` members that are there. `None` = at the file's own position.
pub unsafe fn write(file: c_int, parts: *const iovec, count: c_int, offset: Option<off_t>) -> ssize_t {
    // SAFETY: the caller's.
    let written = unsafe {
        match offset {
            // The offset's upper half is an argument of its own, and zero on machines of 64 bits.
            Some(offset) => libc::syscall(libc::SYS_pwritev, file, parts, c_long::from(count), offset, 0 as c_long),
            None => libc::syscall(libc::SYS_writev, file, parts, c_long::from(count)),
        }
    };
    written as ssize_t
}
