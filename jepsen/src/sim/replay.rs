//! # Replay: one seed, one run, one hash
//!
//! **Invariant.** A failure prints the one command that shows it again.

use super::{panics, report::Report, world::World};
use std::time::Duration;
use tokio::{
    runtime::{Builder, RngSeed},
    time::Instant,
};

/// How runs are made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the clients work while things go wrong, simulated.
    pub length: Duration,
    /// Whether every event is told on stderr.
    pub prints: bool,
}

/// The length of a run, unless somebody wants another.
pub const LENGTH: Duration = Duration::from_secs(20);

/// Runs one seed in a runtime of its own: one thread, paused time, seeded chance.
///
/// # Panics
/// If the runtime cannot be made.
#[must_use]
pub fn run(seed: u64, options: Options) -> Report {
    panics::watch();
    let _ = panics::take();
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_be_bytes()))
        .build()
        .expect("a runtime without sockets needs nothing that could be missing");
    let began = Instant::now();
    let mut report = runtime.block_on(async move { World::new(seed, options.prints).run(options.length).await });
    report.violations.extend(panics::take());
    report.took = began.elapsed();
    report
}

/// Runs one seed twice and complains if the two runs differ.
#[must_use]
pub fn run_twice(seed: u64, options: Options) -> Report {
    let mut first = run(seed, options);
    let again = run(seed, Options { prints: false, ..options });
    if first.trace != again.trace {
        let differing = first.newest.iter().zip(&again.newest).find(|(left, right)| left != right);
        first.violations.push(format!(
            "seed {seed} is not deterministic: {} and then {}; among the newest events differ {differing:?}",
            first.trace, again.trace
        ));
    }
    first
}

/// The command that shows a run again.
#[must_use]
pub fn command(seed: u64, options: Options) -> String {
    let seconds = options.length.as_secs();
    format!("cargo run -q -p kvorum-jepsen --bin jepsen -- sim --seed {seed} --seconds {seconds} --trace")
}
