//! Command: `jepsen sim`.
//!
//! ```text
//!   --seed N        one run (or two, to compare the traces) in this process
//!   --seeds A..B    one process per seed, several at a time ─▶ a line each, then what failed and how to replay it
//! ```
//!
//! **Invariant.** Whatever ends the process of a seed (a panic, a signal, too much memory, no end) is that seed's
//! failure, and the others go on.

use super::{
    replay::{self, Options},
    report::Report,
};
use crate::history::write_jsonl;
use anyhow::{Context, Result};
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::{
    fs::File,
    io::{BufWriter, Write as _},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};
use tokio::time::Instant;

/// Memory of the process of one seed.
const MEMORY_BYTES_MAX: u64 = 4 << 30;

/// Processor seconds of the process of one seed, and more for each second it simulates.
const CPU_SECONDS_MAX: u64 = 240;

/// Wall seconds of the process of one seed for each of its processor seconds: one that waits for ever ends, too.
const WALL_PER_CPU_MAX: u64 = 20;

/// Lines of its complaints that are repeated when a process died.
const LAST_LINES: usize = 12;

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// How runs are made.
    pub options: Options,
    /// Whether each seed runs once, instead of twice to compare the traces.
    pub is_once: bool,
    /// Where histories go.
    pub out: Option<PathBuf>,
}

/// What the process of one seed may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Processor seconds.
    pub cpu_s_max: u64,
}

impl Limits {
    /// Those of one of many.
    fn of(request: &Request) -> Self {
        let runs = if request.is_once { 1 } else { 2 };
        Limits { cpu_s_max: CPU_SECONDS_MAX + runs * request.options.length.as_secs() }
    }
}

/// Runs one seed in this process, within limits if it is one of many. Says whether it passed.
///
/// # Errors
/// The history cannot be written, or the limits cannot be set.
pub fn one(seed: u64, request: &Request, limits: Option<Limits>, say: &dyn Fn(&str)) -> Result<bool> {
    if let Some(Limits { cpu_s_max }) = limits {
        let limit = |most| Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(Resource::As, limit(MEMORY_BYTES_MAX)).context("memory cannot be limited")?;
        // Below the last limit the signal says which limit it was.
        let cpu = Rlimit { current: Some(cpu_s_max), maximum: Some(cpu_s_max + 1) };
        setrlimit(Resource::Cpu, cpu).context("processor time cannot be limited")?;
        end_after(Duration::from_secs(cpu_s_max * WALL_PER_CPU_MAX));
    }
    let run = if request.is_once { replay::run } else { replay::run_twice };
    let report = run(seed, request.options);
    if let Some(directory) = &request.out {
        write(directory, &report)?;
    }
    say(&report.to_string());
    Ok(report.violations.is_empty())
}

/// Ends this process if it is still there then.
#[expect(clippy::disallowed_methods, reason = "what it watches is stuck: only a thread of its own still runs")]
fn end_after(patience: Duration) {
    thread::spawn(move || {
        thread::sleep(patience);
        std::process::abort();
    });
}

fn write(directory: &Path, report: &Report) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    for (name, history) in &report.histories {
        let path = directory.join(name);
        let mut file = BufWriter::new(File::create(&path).with_context(|| path.display().to_string())?);
        let written = write_jsonl(&mut file, history).and_then(|()| file.flush());
        written.with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// What came of many seeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Those that failed, ascending.
    pub failed: Vec<u64>,
    /// Wall time of all.
    pub took: Duration,
}

/// Runs many seeds, each in a process of its own, `jobs` at a time.
///
/// # Errors
/// This program cannot be started again.
pub fn many(seeds: RangeInclusive<u64>, request: &Request, jobs: usize, say: &(dyn Fn(&str) + Sync)) -> Result<Swept> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let (began, count) = (Instant::now(), seeds.end() - seeds.start() + 1);
    let next = AtomicU64::new(*seeds.start());
    let (failed, broken) = (Mutex::new(Vec::new()), Mutex::new(None));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if !seeds.contains(&seed) || broken.lock().is_some() {
                return;
            }
            match child(&program, seed, request, Limits::of(request)).output() {
                Err(error) => *broken.lock() = Some(error),
                Ok(output) => {
                    if !output.status.success() {
                        failed.lock().push(seed);
                    }
                    say(&what_came(seed, &output));
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    if let Some(error) = broken.into_inner() {
        return Err(error).context("a process for a seed cannot be started");
    }
    let mut failed = failed.into_inner();
    failed.sort_unstable();
    for seed in &failed {
        say(&format!("replay: {}", replay::command(*seed, request.options)));
    }
    let runs = if request.is_once { count } else { 2 * count };
    let (simulated, took) = (request.options.length * runs as u32, began.elapsed());
    say(&format!(
        "{count} seeds, {} failed; {} s of work simulated in {} s, {} at a time: {:.0} s a second",
        failed.len(),
        simulated.as_secs(),
        took.as_secs(),
        jobs.max(1),
        simulated.as_secs_f64() / took.as_secs_f64().max(0.001),
    ));
    Ok(Swept { failed, took })
}

/// The process of one seed.
pub(crate) fn child(program: &Path, seed: u64, request: &Request, limits: Limits) -> Command {
    let mut command = Command::new(program);
    command.args(["sim", "--seed", &seed.to_string(), "--cpu-seconds-max", &limits.cpu_s_max.to_string()]);
    command.args(["--seconds", &request.options.length.as_secs().to_string()]);
    if request.is_once {
        command.arg("--once");
    }
    if let Some(directory) = &request.out {
        command.arg("--out").arg(directory.join(format!("seed-{seed}")));
    }
    command.stdin(Stdio::null());
    command
}

/// What a process printed; of one that died without a verdict, how, and its last words.
fn what_came(seed: u64, output: &Output) -> String {
    let printed = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    if output.status.success() || printed.contains("VIOLATION") {
        return printed;
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = words.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n  ");
    format!("seed {seed}: VIOLATION: its process died ({})\n{printed}\n  {last}", output.status)
}

/// How many seeds run at once unless somebody says otherwise.
#[must_use]
pub fn jobs() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn a_process_that_dies_is_a_failure_of_its_seed() {
        let output = |status, stdout: &str, stderr: &str| Output {
            status: std::process::ExitStatus::from_raw(status),
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        let died = what_came(7, &output(6, "", "memory allocation of 99 bytes failed\n"));
        assert!(died.starts_with("seed 7: VIOLATION: its process died") && died.contains("allocation"), "{died}");
        assert_eq!(what_came(7, &output(0, "seed 7: ok\n", "noise")), "seed 7: ok");
        assert_eq!(what_came(7, &output(1 << 8, "seed 7: VIOLATION\n", "noise")), "seed 7: VIOLATION");
    }

    #[test]
    fn a_history_is_written_and_can_be_checked() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { length: Duration::from_secs(5), prints: false };
        let request = Request { options, is_once: true, out: Some(directory.path().to_owned()) };
        assert!(one(3, &request, None, &|_| {}).unwrap());
        let history = crate::history::load(&directory.path().join("history.jsonl"), crate::history::Format::Jsonl);
        assert!(history.unwrap().operations.len() > 10);
    }
}
