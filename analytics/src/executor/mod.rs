//! # Executor: which kernel answers, and what it cost
//!
//! ```text
//!   Query + chunks ─▶ choose (asked for, or by cost) ─▶ scan ─▶ finish ─▶ Answer + Explain
//!                          └── unable: missing driver, memory, device lost ─▶ the next kernel: counted, logged once
//! ```
//!
//! **Invariant.** A fallback never changes an answer. A kernel that was asked for by name and is not there is an
//! error; one that fails while it works is replaced.
//!
//! **Deliberately absent.** A clock: who asks hands one in.

mod cost;

pub use cost::{Estimate, Rates};

use crate::{
    aggregate::Partial,
    answer::Answer,
    chunk::Chunk,
    kernel::{Cost, Cpu, Kernel, Scalar, ScanError},
    limits::Limits,
    query::{Query, QueryError},
    schema::Schema,
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use thiserror::Error;

/// Which kernel shall answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The cheapest that is there.
    #[default]
    Auto,
    /// The GPU.
    Cuda,
    /// The processor.
    Cpu,
    /// The specification.
    Scalar,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ExecuteError {
    /// The query is at fault.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The kernel that was asked for is not there.
    #[error("--executor {name}: {reason}")]
    NotThere {
        /// Its name.
        name: &'static str,
        /// Why not.
        reason: String,
    },
}

/// How an answer came about.
#[derive(Clone, Debug)]
pub struct Explain {
    /// Which kernel answered.
    pub executor: &'static str,
    /// Why that one.
    pub reason: String,
    /// What it read.
    pub cost: Cost,
    /// What each stage took.
    pub stages: Vec<(&'static str, Duration)>,
    /// Kernels that were asked first and were not able.
    pub fallbacks: Vec<String>,
}

/// Time since some moment.
pub type Clock<'a> = &'a dyn Fn() -> Duration;

/// The kernels there are.
pub struct Executor {
    cpu: Cpu,
    device: Result<Arc<dyn Kernel>, String>,
    rates: Mutex<Rates>,
    fallbacks: AtomicU64,
}

impl Executor {
    /// With a processor and, if there is one, a device.
    #[must_use]
    pub fn new(cpu: Cpu, device: Result<Arc<dyn Kernel>, String>) -> Executor {
        Executor { cpu, device, rates: Mutex::new(Rates::default()), fallbacks: AtomicU64::new(0) }
    }

    /// With all cores, and a GPU if the driver finds one.
    #[must_use]
    pub fn detect() -> Executor {
        Executor::new(Cpu::default(), open_device())
    }

    /// How often a kernel was not able and another one answered.
    #[must_use]
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }

    /// Answers a query.
    ///
    /// # Errors
    /// If the query has no answer over these rows, or the kernel that was asked for is not there.
    pub fn execute(
        &self,
        (schema, chunks): (&Schema, &[Arc<Chunk>]),
        query: &Query,
        choice: Choice,
        limits: &Limits,
        clock: Clock<'_>,
    ) -> Result<(Answer, Explain), ExecuteError> {
        let start = clock();
        let (kernels, reason) = self.choose(query, chunks, choice)?;
        let chosen = clock();
        let mut fallbacks = Vec::new();
        let (partial, cost, executor) = self.scan(&kernels, query, chunks, limits, &mut fallbacks)?;
        let scanned = clock();
        self.observe(executor, cost, scanned.saturating_sub(chosen));
        let answer = Answer::new(query, schema, &partial);
        let finished = clock();
        let stages = vec![
            ("choose", chosen.saturating_sub(start)),
            ("scan", scanned.saturating_sub(chosen)),
            ("finish", finished.saturating_sub(scanned)),
        ];
        Ok((answer, Explain { executor, reason, cost, stages, fallbacks }))
    }

    /// The kernels to be asked, in order, and why the first one is first.
    fn choose(
        &self,
        query: &Query,
        chunks: &[Arc<Chunk>],
        choice: Choice,
    ) -> Result<(Vec<&dyn Kernel>, String), ExecuteError> {
        let cpu: &dyn Kernel = &self.cpu;
        let asked = "it was asked for".to_owned();
        match (choice, &self.device) {
            (Choice::Scalar, _) => Ok((vec![&Scalar], asked)),
            (Choice::Cpu, _) => Ok((vec![cpu, &Scalar], asked)),
            (Choice::Cuda, Ok(device)) => Ok((vec![device.as_ref(), cpu, &Scalar], asked)),
            (Choice::Cuda, Err(reason)) => Err(ExecuteError::NotThere { name: "cuda", reason: reason.clone() }),
            (Choice::Auto, Err(reason)) => Ok((vec![cpu, &Scalar], format!("no GPU: {reason}"))),
            (Choice::Auto, Ok(device)) => {
                let (_, cost) = crate::kernel::pruned(query, chunks);
                let moved = device.bytes_to_move(query, chunks);
                let rates = *self.rates.lock().expect("nobody panics while it is held");
                let estimate = rates.estimate(cost.bytes, moved, self.cpu.threads());
                let order: Vec<&dyn Kernel> =
                    if estimate.is_device_faster() { vec![device.as_ref(), cpu, &Scalar] } else { vec![cpu, &Scalar] };
                Ok((order, estimate.to_string()))
            }
        }
    }

    fn scan(
        &self,
        kernels: &[&dyn Kernel],
        query: &Query,
        chunks: &[Arc<Chunk>],
        limits: &Limits,
        fallbacks: &mut Vec<String>,
    ) -> Result<(Partial, Cost, &'static str), ExecuteError> {
        for kernel in kernels {
            match kernel.scan(query, chunks, limits) {
                Ok((partial, cost)) => return Ok((partial, cost, kernel.name())),
                Err(ScanError::Query(error)) => return Err(error.into()),
                Err(ScanError::Unable(reason)) => {
                    if self.fallbacks.fetch_add(1, Ordering::Relaxed) == 0 {
                        tracing::warn!(kernel = kernel.name(), reason, "kernel was not able, another one answers");
                    }
                    fallbacks.push(format!("{}: {reason}", kernel.name()));
                }
            }
        }
        unreachable!("the scalar kernel is last, and able to answer everything")
    }

    fn observe(&self, executor: &str, cost: Cost, took: Duration) {
        let mut rates = self.rates.lock().expect("nobody panics while it is held");
        rates.observe(executor, cost.bytes, took, self.cpu.threads());
    }
}

/// Looks for a GPU; says why there is none.
///
/// # Errors
/// If this machine has no driver, no compiler for kernels, or no device.
#[cfg(feature = "gpu")]
pub fn open_device() -> Result<Arc<dyn Kernel>, String> {
    crate::kernel::cuda::open().map(|device| Arc::new(device) as Arc<dyn Kernel>)
}

/// Says why there is no GPU.
///
/// # Errors
/// Always: this build has no kernel for one.
#[cfg(not(feature = "gpu"))]
pub fn open_device() -> Result<Arc<dyn Kernel>, String> {
    Err("built without the feature `gpu`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernel::suite, query::Text};

    /// A device that breaks in the middle of every query.
    struct Broken;

    impl Kernel for Broken {
        fn name(&self) -> &'static str {
            "cuda"
        }

        fn scan(&self, _: &Query, _: &[Arc<Chunk>], _: &Limits) -> Result<(Partial, Cost), ScanError> {
            Err(ScanError::Unable("the device was lost".to_owned()))
        }
    }

    fn ask(executor: &Executor, choice: Choice) -> Result<(Answer, Explain), ExecuteError> {
        let (schema, chunks) = suite::chunks(1, &[3_000]);
        let text = Text { aggregates: "count(), sum(byte)", filter: None, groups: Some("name") };
        let query = Query::parse(text, &schema, &Limits::default()).unwrap();
        executor.execute((&schema, &chunks), &query, choice, &Limits::default(), &|| Duration::ZERO)
    }

    #[test]
    fn a_device_that_breaks_is_replaced_counted_and_changes_no_answer() {
        let executor = Executor::new(Cpu::new(1), Ok(Arc::new(Broken)));
        let (answer, explain) = ask(&executor, Choice::Cuda).unwrap();
        assert_eq!((explain.executor, executor.fallbacks()), ("cpu", 1));
        assert_eq!(explain.fallbacks, ["cuda: the device was lost"]);
        let (expected, _) = ask(&executor, Choice::Scalar).unwrap();
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_kernel_that_is_not_there_is_an_error_only_if_it_was_asked_for() {
        let executor = Executor::new(Cpu::new(1), Err("no driver".to_owned()));
        let error = ask(&executor, Choice::Cuda).unwrap_err().to_string();
        assert_eq!(error, "--executor cuda: no driver");
        let (_, explain) = ask(&executor, Choice::Auto).unwrap();
        assert_eq!((explain.executor, explain.reason.as_str()), ("cpu", "no GPU: no driver"));
    }
}
