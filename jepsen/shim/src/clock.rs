//! The time of day, as this process is told it.
//!
//! ```text
//!   told = true time + offset + (every other period: height)
//! ```
//!
//! **Invariant.** Only clocks that an operator or NTP can set are shifted. A wait until a time of day ends when it
//! would on a machine whose clock is set like that.
//!
//! **Deliberately absent.** The monotonic clock: no machine sets it.

use crate::{
    layout::{Counter, Word},
    state::{State, state},
};
use libc::{c_int, c_void, clockid_t, pthread_cond_t, pthread_mutex_t, time_t, timespec, timeval};
use std::{
    mem::transmute,
    ptr::null_mut,
    sync::atomic::{AtomicPtr, Ordering},
};

const SECOND_NS: i128 = 1_000_000_000;

/// Seconds that no monotonic clock shows before its machine has been up for thirty years.
const TIME_OF_DAY_SECONDS_MIN: time_t = 1_000_000_000;

type GetTime = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;
type TimedWait = unsafe extern "C" fn(*mut pthread_cond_t, *mut pthread_mutex_t, *const timespec) -> c_int;

static GET_TIME: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static TIMED_WAIT: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// Finds the functions behind the names that are exported.
pub fn load() {
    // SAFETY: the names end with a zero; the handle means whoever comes after this library.
    unsafe {
        GET_TIME.store(libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()), Ordering::Release);
        // Old machines have two of these, and the one without a version is the wrong one.
        let newer = libc::dlvsym(libc::RTLD_NEXT, c"pthread_cond_timedwait".as_ptr(), c"GLIBC_2.3.2".as_ptr());
        let found = match newer.is_null() {
            true => libc::dlsym(libc::RTLD_NEXT, c"pthread_cond_timedwait".as_ptr()),
            false => newer,
        };
        TIMED_WAIT.store(found, Ordering::Release);
    }
}

/// # Safety
/// As `clock_gettime`.
unsafe fn true_time(clock: clockid_t, time: *mut timespec) -> c_int {
    let found = GET_TIME.load(Ordering::Acquire);
    // SAFETY: the pointer is the function of that name, which need not ask the kernel; the rest is the caller's.
    unsafe {
        match found.is_null() {
            true => libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int,
            false => transmute::<*mut c_void, GetTime>(found)(clock, time),
        }
    }
}

/// What is added to the time of day now, nanoseconds.
fn shift_ns(state: &State) -> i128 {
    let (period, height) = (state.signed(Word::StrobePeriod), state.signed(Word::StrobeHeight));
    let mut shift = i128::from(state.signed(Word::ClockOffset));
    if period > 0 {
        let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the place is there.
        unsafe { true_time(libc::CLOCK_MONOTONIC, &raw mut now) };
        let now = i128::from(now.tv_sec) * SECOND_NS + i128::from(now.tv_nsec);
        if (now / i128::from(period)) & 1 == 1 {
            shift += i128::from(height);
        }
    }
    shift
}

fn shifted(time: timespec, shift_ns: i128) -> timespec {
    let told = (i128::from(time.tv_sec) * SECOND_NS + i128::from(time.tv_nsec) + shift_ns).max(0);
    timespec { tv_sec: (told / SECOND_NS) as time_t, tv_nsec: (told % SECOND_NS) as libc::c_long }
}

/// # Safety
/// As `clock_gettime`.
pub unsafe fn get_time(clock: clockid_t, time: *mut timespec) -> c_int {
    // SAFETY: the caller's.
    let answer = unsafe { true_time(clock, time) };
    let can_be_set = [libc::CLOCK_REALTIME, libc::CLOCK_REALTIME_COARSE, libc::CLOCK_TAI].contains(&clock);
    if answer == 0
        && can_be_set
        && let Some(state) = state()
    {
        let shift = shift_ns(state);
        if shift != 0 {
            state.count(Counter::ClockReads, 1);
            // SAFETY: the call has just written there.
            unsafe { *time = shifted(*time, shift) };
        }
    }
    answer
}

/// The time of day as told.
fn now() -> timespec {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place is there.
    unsafe { get_time(libc::CLOCK_REALTIME, &raw mut now) };
    now
}

/// # Safety
/// As `gettimeofday`.
pub unsafe fn time_of_day(time: *mut timeval, zone: *mut c_void) -> c_int {
    let now = now();
    // SAFETY: the caller's; nobody is told a time zone.
    unsafe {
        if !time.is_null() {
            *time = timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1_000 };
        }
        if !zone.is_null() {
            zone.cast::<[c_int; 2]>().write_unaligned([0, 0]);
        }
    }
    0
}

/// # Safety
/// As `time`.
pub unsafe fn seconds(into: *mut time_t) -> time_t {
    let now = now().tv_sec;
    if !into.is_null() {
        // SAFETY: the caller's.
        unsafe { *into = now };
    }
    now
}

/// # Safety
/// As `pthread_cond_timedwait`.
pub unsafe fn timed_wait(condition: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, until: *const timespec) -> c_int {
    let found = TIMED_WAIT.load(Ordering::Acquire);
    if found.is_null() {
        return libc::EINVAL;
    }
    // SAFETY: the pointer is the function of that name; the rest is the caller's.
    unsafe {
        let wait = transmute::<*mut c_void, TimedWait>(found);
        let shift = state().map_or(0, shift_ns);
        if shift == 0 || until.is_null() || (*until).tv_sec < TIME_OF_DAY_SECONDS_MIN {
            return wait(condition, mutex, until);
        }
        let truly = shifted(*until, -shift);
        wait(condition, mutex, &raw const truly)
    }
}
