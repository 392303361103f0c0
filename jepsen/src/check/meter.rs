//! What searches may use: memory, time, and whether anybody still wants the answer. Shared by all threads of a check.
//!
//! **Invariant.** A search that met a limit has no answer; it never turns into one.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// Why a search gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// It would remember more than it may.
    Memory,
    /// It took longer than it may.
    Time,
    /// It tried more than its caller wanted.
    Tries,
    /// Another key was convicted: nobody waits for this one.
    Unwanted,
}

/// What is left.
pub struct Meter {
    used_bytes: AtomicU64,
    memory_bytes_max: u64,
    deadline: Option<Instant>,
    is_unwanted: AtomicBool,
    tried: AtomicU64,
}

impl Meter {
    /// Starts the clock.
    pub fn new(memory_bytes_max: u64, time_max: Option<Duration>) -> Self {
        Meter {
            used_bytes: AtomicU64::new(0),
            memory_bytes_max,
            deadline: time_max.map(|time_max| Instant::now() + time_max),
            is_unwanted: AtomicBool::new(false),
            tried: AtomicU64::new(0),
        }
    }

    /// Asks every search to end.
    pub fn stop(&self) {
        self.is_unwanted.store(true, Ordering::Relaxed);
    }

    /// Situations tried by searches that ended.
    pub fn tried(&self) -> u64 {
        self.tried.load(Ordering::Relaxed)
    }

    /// Nothing borrowed so far.
    pub fn loan(&self) -> Loan<'_> {
        Loan { meter: self, bytes: 0, tried: 0 }
    }
}

/// What one search has borrowed; given back when it ends.
pub struct Loan<'a> {
    meter: &'a Meter,
    bytes: u64,
    /// Situations tried; the search counts them.
    pub tried: u64,
}

impl Loan<'_> {
    /// Borrows memory, and looks at the clock.
    pub fn charge(&mut self, bytes: u64) -> Result<(), Limit> {
        let meter = self.meter;
        self.bytes += bytes;
        if meter.used_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > meter.memory_bytes_max {
            return Err(Limit::Memory);
        }
        if meter.is_unwanted.load(Ordering::Relaxed) {
            return Err(Limit::Unwanted);
        }
        match meter.deadline {
            Some(deadline) if Instant::now() > deadline => Err(Limit::Time),
            _ => Ok(()),
        }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.meter.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.meter.tried.fetch_add(self.tried, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shared_and_given_back() {
        let meter = Meter::new(100, None);
        let mut first = meter.loan();
        assert_eq!(first.charge(60), Ok(()));
        assert_eq!(meter.loan().charge(60), Err(Limit::Memory));
        drop(first);
        assert_eq!(meter.loan().charge(60), Ok(()));
    }

    #[test]
    fn a_search_nobody_wants_ends() {
        let meter = Meter::new(100, Some(Duration::from_secs(3600)));
        assert_eq!(meter.loan().charge(1), Ok(()));
        meter.stop();
        assert_eq!(meter.loan().charge(1), Err(Limit::Unwanted));
    }

    #[test]
    fn time_runs_out() {
        let meter = Meter::new(100, Some(Duration::ZERO));
        let begun = Instant::now();
        while Instant::now() == begun {}
        assert_eq!(meter.loan().charge(1), Err(Limit::Time));
    }
}
