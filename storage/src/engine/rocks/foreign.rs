//! What the safe interface of RocksDB leaves out: to hear of background errors, not to retry after one, not to flush at
//! closing, to give the memory of flushed write buffers back, and to estimate what is not flushed yet. The one file of
//! this crate with foreign calls.
//!
//! ```text
//!   RocksDB thread ──on_background_error(state, reason, status)──▶ Health.fail(status as text)
//! ```
//!
//! **Invariant.** The state handed to RocksDB is one counted reference to a [`Health`], given back by the listener's
//! destructor and by nothing else.
//!
//! **Deliberately absent.** The other callbacks: stalls and sizes are polled, they need not be heard at once.

#![expect(
    unsafe_code,
    reason = "the event listener, two options, estimates and the allocator's settings exist in C only"
)]

use super::failure::{Health, from_message};
use crate::engine::KeyRange;
use librocksdb_sys as ffi;
use rocksdb::{AsColumnFamilyRef, AsRawPtr, DB, Options};
use std::{
    ffi::{CStr, c_char, c_void},
    ptr,
    sync::{Arc, Once},
};

/// Blocks from this size on go back to the system when they are freed.
#[cfg(target_env = "gnu")]
const RETURNED_BLOCK_BYTES: i32 = 128 * 1024;

/// Makes the allocator that RocksDB uses return large blocks when they are freed. By default it raises its own limit
/// with the first large block, and then an idle node keeps the memory of write buffers it flushed long ago.
pub(super) fn return_freed_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(target_env = "gnu")]
        // SAFETY: `mallopt` takes two integers, locks what it changes, and refuses what it does not know. A refusal
        // costs memory only, so its answer is not needed.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, RETURNED_BLOCK_BYTES);
        }
    });
}

/// Makes every database opened with `options` report its background errors to `health`, never retry after one by
/// itself, and never flush at closing: only a flush that was asked for makes anything durable.
pub(super) fn guard(options: &Options, health: Arc<Health>) {
    let state = Arc::into_raw(health).cast_mut().cast::<c_void>();
    // SAFETY: the pointer is that of a live `Options`, used within this call only; the setters copy their argument. The
    // listener takes `state` (one counted reference, released in `release`) and ten functions that live as long as the
    // program; `rocksdb_options_add_eventlistener` takes the listener, so that it is freed with the last of the options
    // and the databases that share it, and the destructor runs once.
    unsafe {
        let options = options.as_raw_ptr();
        ffi::rocksdb_options_set_max_bgerror_resume_count(options, 0);
        ffi::rocksdb_options_set_avoid_flush_during_shutdown(options, 1);
        let listener = ffi::rocksdb_eventlistener_create(
            state,
            Some(release),
            Some(ignore_flush),
            Some(ignore_flush),
            Some(ignore_compaction),
            Some(ignore_compaction),
            Some(ignore_subcompaction),
            Some(ignore_subcompaction),
            Some(ignore_ingestion),
            Some(background_error),
            Some(ignore_stall),
            Some(ignore_memtable),
        );
        ffi::rocksdb_options_add_eventlistener(options, listener);
    }
}

/// About how many bytes lie in each of these ranges of a column, in files and in write buffers. What cannot be
/// estimated counts as nothing.
pub(super) fn estimate(db: &DB, column: &impl AsColumnFamilyRef, ranges: &[KeyRange]) -> Vec<u64> {
    let starts: Vec<_> = ranges.iter().map(|range| range.start.as_ptr().cast::<c_char>()).collect();
    let start_bytes: Vec<usize> = ranges.iter().map(|range| range.start.len()).collect();
    // A range without an end reaches to the end of the column, where no key of ours lies.
    let ends: Vec<&[u8]> = ranges.iter().map(|range| range.end.as_deref().unwrap_or(&[0xff; 16])).collect();
    let end_pointers: Vec<_> = ends.iter().map(|end| end.as_ptr().cast::<c_char>()).collect();
    let end_bytes: Vec<usize> = ends.iter().map(|end| end.len()).collect();
    let mut sizes = vec![0_u64; ranges.len()];
    let flags =
        ffi::rocksdb_size_approximation_flags_include_memtable | ffi::rocksdb_size_approximation_flags_include_files;
    let mut message: *mut c_char = ptr::null_mut();
    // SAFETY: database and column are alive for this call; the five arrays have as many elements as there are ranges,
    // and each pointer is of as many bytes as the array beside it says. A message is a C string that we own and free.
    unsafe {
        ffi::rocksdb_approximate_sizes_cf_with_flags(
            db.as_raw_ptr(),
            column.inner(),
            ranges.len() as i32,
            starts.as_ptr(),
            start_bytes.as_ptr(),
            end_pointers.as_ptr(),
            end_bytes.as_ptr(),
            flags as u8,
            sizes.as_mut_ptr(),
            &raw mut message,
        );
        if !message.is_null() {
            ffi::rocksdb_free(message.cast::<c_void>());
            sizes.fill(0);
        }
    }
    sizes
}

unsafe extern "C" fn release(state: *mut c_void) {
    // SAFETY: `state` came from `Arc::into_raw` in `guard`, and RocksDB destroys a listener once.
    drop(unsafe { Arc::from_raw(state.cast_const().cast::<Health>()) });
}

unsafe extern "C" fn background_error(state: *mut c_void, reason: u32, status: *mut ffi::rocksdb_status_ptr_t) {
    let mut message: *mut c_char = ptr::null_mut();
    // SAFETY: `state` is the reference that `release` gives back, alive while the listener is; `Health` is `Sync`, as
    // RocksDB calls from threads of its own. `status` is valid for this call; its text is a C string that we own and
    // free.
    let (health, text) = unsafe {
        ffi::rocksdb_status_ptr_get_error(status, &raw mut message);
        let text = if message.is_null() {
            format!("unknown background error, reason {reason}")
        } else {
            let text = CStr::from_ptr(message).to_string_lossy().into_owned();
            ffi::rocksdb_free(message.cast::<c_void>());
            text
        };
        (&*state.cast_const().cast::<Health>(), text)
    };
    health.fail(from_message("background work", &text));
}

unsafe extern "C" fn ignore_flush(_: *mut c_void, _: *mut ffi::rocksdb_t, _: *const ffi::rocksdb_flushjobinfo_t) {}

unsafe extern "C" fn ignore_compaction(
    _: *mut c_void,
    _: *mut ffi::rocksdb_t,
    _: *const ffi::rocksdb_compactionjobinfo_t,
) {
}

unsafe extern "C" fn ignore_subcompaction(_: *mut c_void, _: *const ffi::rocksdb_subcompactionjobinfo_t) {}

unsafe extern "C" fn ignore_ingestion(
    _: *mut c_void,
    _: *mut ffi::rocksdb_t,
    _: *const ffi::rocksdb_externalfileingestioninfo_t,
) {
}

unsafe extern "C" fn ignore_stall(_: *mut c_void, _: *const ffi::rocksdb_writestallinfo_t) {}

unsafe extern "C" fn ignore_memtable(_: *mut c_void, _: *const ffi::rocksdb_memtableinfo_t) {}
