//! What processes cost, as the kernel counts it.
//!
//! **Invariant.** A process that has gone is an error, never a zero.

use anyhow::{Context as _, Result};
use std::{fs, time::Duration};

/// What some processes have used together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time, all threads.
    pub cpu: Duration,
    /// Resident bytes.
    pub resident_bytes: u64,
    /// Bytes sent to the block layer.
    pub written_bytes: u64,
}

impl Usage {
    /// Of these processes, now.
    pub fn of(pids: &[u32]) -> Result<Self> {
        let mut sum = Usage::default();
        for pid in pids {
            let one =
                Usage::of_one(*pid).with_context(|| format!("process {pid} cannot be charged: is it running?"))?;
            sum.cpu += one.cpu;
            sum.resident_bytes += one.resident_bytes;
            sum.written_bytes += one.written_bytes;
        }
        Ok(sum)
    }

    fn of_one(pid: u32) -> Result<Self> {
        let mut cpu_ns = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread that ended meanwhile took its share with it: pools of these servers keep their threads.
            let Ok(line) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            cpu_ns += line.split(' ').next().context("schedstat is empty")?.parse::<u64>()?;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let resident_kib: u64 = resident.trim().trim_end_matches("kB").trim().parse()?;
        // Readable for one's own processes only; elsewhere it counts as nothing written.
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Ok(Usage {
            cpu: Duration::from_nanos(cpu_ns),
            resident_bytes: resident_kib << 10,
            written_bytes: written.and_then(|text| text.parse().ok()).unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something_and_a_gone_one_is_an_error() {
        let mine = Usage::of(&[std::process::id()]).unwrap();
        assert!(mine.cpu > Duration::ZERO && mine.resident_bytes > 1 << 20);
        let error = Usage::of(&[u32::MAX - 7]).unwrap_err().to_string();
        assert!(error.contains("cannot be charged"), "{error}");
    }
}
