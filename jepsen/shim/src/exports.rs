//! The names that stand before the C library's.
//!
//! `open` and its kin take a third argument only sometimes; on the machines this is for, one that was not given is a
//! register that nobody looks at.
//!
//! **Invariant.** Every function here has the type of the C library's, and does nothing but call one of ours.

use crate::{clock, files, layout::Unmodelled, names, state::state, system};
use libc::{
    AT_FDCWD, AT_REMOVEDIR, FILE, c_char, c_int, c_uint, c_void, clockid_t, iovec, mode_t, off_t, pthread_cond_t,
    pthread_mutex_t, size_t, ssize_t, time_t, timespec, timeval,
};

/// Names for the C library's callers.
macro_rules! exported {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $kind:ty),* $(,)?) -> $answer:ty $body:block)*) => {$(
        #[unsafe(no_mangle)]
        $(#[$attribute])*
        #[allow(unused_unsafe, reason = "some need nothing of the caller")]
        pub unsafe extern "C" fn $name($($argument: $kind),*) -> $answer {
            // SAFETY: the caller's, as for the C library's function of this name.
            unsafe { $body }
        }
    )*};
}

exported! {
    fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int { files::open(AT_FDCWD, path, flags, mode) }
    fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int { files::open(AT_FDCWD, path, flags, mode) }
    fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        files::open(directory, path, flags, mode)
    }
    fn openat64(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        files::open(directory, path, flags, mode)
    }
    fn creat(path: *const c_char, mode: mode_t) -> c_int {
        files::open(AT_FDCWD, path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode)
    }
    fn creat64(path: *const c_char, mode: mode_t) -> c_int {
        files::open(AT_FDCWD, path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode)
    }

    fn write(file: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
        let part = iovec { iov_base: bytes.cast_mut(), iov_len: count };
        files::write(file, &raw const part, 1, None)
    }
    fn pwrite(file: c_int, bytes: *const c_void, count: size_t, offset: off_t) -> ssize_t {
        let part = iovec { iov_base: bytes.cast_mut(), iov_len: count };
        files::write(file, &raw const part, 1, Some(offset))
    }
    fn pwrite64(file: c_int, bytes: *const c_void, count: size_t, offset: off_t) -> ssize_t {
        let part = iovec { iov_base: bytes.cast_mut(), iov_len: count };
        files::write(file, &raw const part, 1, Some(offset))
    }
    fn writev(file: c_int, parts: *const iovec, count: c_int) -> ssize_t { files::write(file, parts, count, None) }
    fn pwritev(file: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        files::write(file, parts, count, Some(offset))
    }
    fn pwritev64(file: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        files::write(file, parts, count, Some(offset))
    }
    fn pwritev2(file: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
        write_with_flags(file, parts, count, offset, flags)
    }
    fn pwritev64v2(file: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
        write_with_flags(file, parts, count, offset, flags)
    }
    // A caller that is told so copies by reading and writing.
    fn copy_file_range(
        from: c_int, from_offset: *mut off_t, to: c_int, to_offset: *mut off_t, count: size_t, flags: c_uint,
    ) -> ssize_t {
        match is_known(to) {
            true => system::fail(libc::ENOSYS) as ssize_t,
            false => {
                let call = libc::SYS_copy_file_range;
                libc::syscall(call, from, from_offset, to, to_offset, count, flags) as ssize_t
            }
        }
    }
    fn sendfile(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
        match is_known(to) {
            true => system::fail(libc::EINVAL) as ssize_t,
            false => libc::syscall(libc::SYS_sendfile, to, from, offset, count) as ssize_t,
        }
    }
    fn sendfile64(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
        sendfile(to, from, offset, count)
    }

    fn ftruncate(file: c_int, length: off_t) -> c_int { files::set_length(file, length) }
    fn ftruncate64(file: c_int, length: off_t) -> c_int { files::set_length(file, length) }
    fn truncate(path: *const c_char, length: off_t) -> c_int {
        count_if_below(AT_FDCWD, path, Unmodelled::TruncateByName);
        libc::syscall(libc::SYS_truncate, path, length) as c_int
    }
    fn truncate64(path: *const c_char, length: off_t) -> c_int { truncate(path, length) }
    fn fallocate(file: c_int, mode: c_int, offset: off_t, bytes: off_t) -> c_int {
        files::allocate(file, mode, offset, bytes)
    }
    fn fallocate64(file: c_int, mode: c_int, offset: off_t, bytes: off_t) -> c_int {
        files::allocate(file, mode, offset, bytes)
    }
    // These give the reason instead of leaving it.
    fn posix_fallocate(file: c_int, offset: off_t, bytes: off_t) -> c_int {
        if files::allocate(file, 0, offset, bytes) == 0 { 0 } else { system::errno() }
    }
    fn posix_fallocate64(file: c_int, offset: off_t, bytes: off_t) -> c_int { posix_fallocate(file, offset, bytes) }

    fn fsync(file: c_int) -> c_int { files::sync(file, libc::SYS_fsync) }
    fn fdatasync(file: c_int) -> c_int { files::sync(file, libc::SYS_fdatasync) }

    fn rename(from: *const c_char, to: *const c_char) -> c_int { names::rename(AT_FDCWD, from, AT_FDCWD, to, 0) }
    fn renameat(from_directory: c_int, from: *const c_char, to_directory: c_int, to: *const c_char) -> c_int {
        names::rename(from_directory, from, to_directory, to, 0)
    }
    fn renameat2(
        from_directory: c_int, from: *const c_char, to_directory: c_int, to: *const c_char, flags: c_uint,
    ) -> c_int {
        names::rename(from_directory, from, to_directory, to, flags)
    }
    fn unlink(path: *const c_char) -> c_int { names::remove(AT_FDCWD, path, 0) }
    fn unlinkat(directory: c_int, path: *const c_char, flags: c_int) -> c_int { names::remove(directory, path, flags) }
    fn rmdir(path: *const c_char) -> c_int { names::remove(AT_FDCWD, path, AT_REMOVEDIR) }
    fn link(from: *const c_char, to: *const c_char) -> c_int { names::link(AT_FDCWD, from, AT_FDCWD, to, 0) }
    fn linkat(
        from_directory: c_int, from: *const c_char, to_directory: c_int, to: *const c_char, flags: c_int,
    ) -> c_int {
        names::link(from_directory, from, to_directory, to, flags)
    }
    fn symlink(target: *const c_char, path: *const c_char) -> c_int {
        symlinkat(target, AT_FDCWD, path)
    }
    fn symlinkat(target: *const c_char, directory: c_int, path: *const c_char) -> c_int {
        count_if_below(directory, path, Unmodelled::Link);
        libc::syscall(libc::SYS_symlinkat, target, directory, path) as c_int
    }
    fn mkdir(path: *const c_char, mode: mode_t) -> c_int { names::make_directory(AT_FDCWD, path, mode) }
    fn mkdirat(directory: c_int, path: *const c_char, mode: mode_t) -> c_int {
        names::make_directory(directory, path, mode)
    }

    fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE { stream(path, mode, c"fopen") }
    fn fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE { stream(path, mode, c"fopen64") }
    fn fdopen(file: c_int, mode: *const c_char) -> *mut FILE { stream_of(file, mode) }
    fn mmap(
        address: *mut c_void, length: size_t, protection: c_int, flags: c_int, file: c_int, offset: off_t,
    ) -> *mut c_void {
        let is_written = flags & libc::MAP_SHARED != 0 && protection & libc::PROT_WRITE != 0;
        if file >= 0 && is_written && is_known(file) {
            state().inspect(|state| state.unmodelled(Unmodelled::Mapping));
        }
        libc::syscall(libc::SYS_mmap, address, length, protection, flags, file, offset) as *mut c_void
    }
    fn mmap64(
        address: *mut c_void, length: size_t, protection: c_int, flags: c_int, file: c_int, offset: off_t,
    ) -> *mut c_void {
        mmap(address, length, protection, flags, file, offset)
    }

    fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int { clock::get_time(clock, time) }
    fn gettimeofday(time: *mut timeval, zone: *mut c_void) -> c_int { clock::time_of_day(time, zone) }
    fn time(into: *mut time_t) -> time_t { clock::seconds(into) }
    fn pthread_cond_timedwait(
        condition: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, until: *const timespec,
    ) -> c_int {
        clock::timed_wait(condition, mutex, until)
    }
}

fn is_known(file: c_int) -> bool {
    state().is_some_and(|state| state.known(file).is_some())
}

/// # Safety
/// `path` ends with a zero.
unsafe fn count_if_below(directory: c_int, path: *const c_char, kind: Unmodelled) {
    if let Some(state) = state() {
        // SAFETY: the caller's.
        if unsafe { state.place(directory, path) }.is_some() {
            state.unmodelled(kind);
        }
    }
}

/// # Safety
/// As `pwritev2`.
unsafe fn write_with_flags(file: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
    if flags != 0 && is_known(file) {
        state().inspect(|state| state.unmodelled(Unmodelled::SyncedWrites));
    }
    // SAFETY: the caller's. Flags are advice, but for those that were counted.
    unsafe { files::write(file, parts, count, (offset >= 0).then_some(offset)) }
}

/// # Safety
/// As `fopen`; `name` is `fopen` or the same under another name.
unsafe fn stream(path: *const c_char, mode: *const c_char, name: &std::ffi::CStr) -> *mut FILE {
    // SAFETY: the caller's; what is found by that name has that type.
    unsafe {
        if is_written(mode) {
            count_if_below(AT_FDCWD, path, Unmodelled::Stream);
        }
        let found = libc::dlsym(libc::RTLD_NEXT, name.as_ptr());
        if found.is_null() {
            system::fail(libc::ENOSYS);
            return std::ptr::null_mut();
        }
        type Open = unsafe extern "C" fn(*const c_char, *const c_char) -> *mut FILE;
        std::mem::transmute::<*mut c_void, Open>(found)(path, mode)
    }
}

/// What is written to a stream is not seen. RocksDB's own LOG is one; nobody reads that again.
///
/// # Safety
/// As `fdopen`.
unsafe fn stream_of(file: c_int, mode: *const c_char) -> *mut FILE {
    // SAFETY: the caller's; what is found by that name has that type.
    unsafe {
        if is_written(mode) && is_known(file) {
            let is_log = system::directory_path(file).is_some_and(|path| path.ends_with(b"/LOG"));
            state().filter(|_| !is_log).inspect(|state| state.unmodelled(Unmodelled::Stream));
        }
        let found = libc::dlsym(libc::RTLD_NEXT, c"fdopen".as_ptr());
        if found.is_null() {
            system::fail(libc::ENOSYS);
            return std::ptr::null_mut();
        }
        type Open = unsafe extern "C" fn(c_int, *const c_char) -> *mut FILE;
        std::mem::transmute::<*mut c_void, Open>(found)(file, mode)
    }
}

/// # Safety
/// `mode` ends with a zero.
unsafe fn is_written(mode: *const c_char) -> bool {
    // SAFETY: the caller's.
    unsafe { std::ffi::CStr::from_ptr(mode) }.to_bytes().iter().any(|letter| b"wa+".contains(letter))
}
