//! Cost: what a scan is expected to take, from rates that were measured.
//!
//! ```text
//!   processor   bytes / (rate of a thread × threads)
//!   device      launch + bytes to be moved / transfer rate + bytes / device rate
//! ```
//!
//! **Invariant.** The rates begin with what `kernel-bench` measured where this was written, and follow what is
//! observed; small scans teach nothing, because they measure the launch.

use std::{fmt, time::Duration};

/// Scans below this say nothing about a rate.
const OBSERVED_BYTES_MIN: u64 = 1 << 20;

/// Bytes a second, and the time before the first one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// One thread of the processor.
    pub thread: f64,
    /// The device, from its own memory.
    pub device: f64,
    /// From here to the device.
    pub transfer: f64,
    /// Before the device begins, and to wait for it.
    pub launch: Duration,
}

impl Default for Rates {
    fn default() -> Self {
        Rates { thread: 4e9, device: 1e12, transfer: 10e9, launch: Duration::from_micros(60) }
    }
}

/// What a scan is expected to take, here and there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// On the processor.
    pub cpu: Duration,
    /// On the device.
    pub device: Duration,
}

impl Rates {
    /// What reading `bytes` takes, of which the device misses `moved`.
    #[must_use]
    pub fn estimate(&self, bytes: u64, moved: u64, threads: usize) -> Estimate {
        let seconds = |bytes: u64, rate: f64| Duration::from_secs_f64(bytes as f64 / rate);
        Estimate {
            cpu: seconds(bytes, self.thread * threads as f64),
            device: self.launch + seconds(moved, self.transfer) + seconds(bytes, self.device),
        }
    }

    /// Learns from a scan: a quarter of the way to what it showed.
    pub fn observe(&mut self, executor: &str, bytes: u64, took: Duration, threads: usize) {
        if bytes < OBSERVED_BYTES_MIN || took.is_zero() {
            return;
        }
        let seen = bytes as f64 / took.as_secs_f64();
        match executor {
            "cpu" => self.thread += (seen / threads as f64 - self.thread) / 4.0,
            "cuda" => self.device += (seen - self.device) / 4.0,
            _ => {}
        }
    }
}

impl Estimate {
    /// Whether the device is expected to be done first.
    #[must_use]
    pub fn is_device_faster(&self) -> bool {
        self.device < self.cpu
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "expected: cpu {:?}, cuda {:?}", self.cpu, self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_cold_scans_stay_on_the_processor() {
        let rates = Rates::default();
        assert!(!rates.estimate(100_000, 0, 2).is_device_faster(), "the launch alone takes longer");
        assert!(rates.estimate(1 << 30, 0, 2).is_device_faster(), "resident");
        assert!(!rates.estimate(1 << 30, 1 << 30, 16).is_device_faster(), "it would have to be moved first");
    }

    #[test]
    fn rates_follow_what_is_observed() {
        let mut rates = Rates::default();
        (0..40).for_each(|_| rates.observe("cpu", 1 << 30, Duration::from_secs(1), 2));
        assert!((rates.thread / f64::from(1 << 29) - 1.0).abs() < 0.01, "{rates:?}");
        let before = rates;
        rates.observe("cpu", 10, Duration::from_secs(1), 2);
        assert_eq!(rates, before);
    }
}
