//! One cell: N clients in a closed loop against one target.
//!
//! ```text
//!   connect ─▶ fill (gets need something to find) ─▶ warm-up ─▶ ┤ measured ├ ─▶ stop
//!                                                              CPU of the servers, before and after
//! ```
//!
//! **Invariant.** What is counted began and ended inside the measured time. An operation that failed counts as an
//! error, never as an operation.

use crate::{
    accounting::Usage,
    drivers::{Caller, Target},
};
use anyhow::{Result, bail};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// What each client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// A durable put.
    Put,
    /// A linearizable get.
    Get,
}

/// What a cell does.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// What each client does.
    pub operation: Operation,
    /// How many of them.
    pub clients: usize,
    /// How long it is measured.
    pub measured: Duration,
    /// How long it runs before.
    pub warm_up: Duration,
    /// Different keys.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Puts of one request.
    pub batch: usize,
}

/// What came of it. One JSON line.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Driver: `unary`, `stream` or `etcd`.
    pub driver: &'static str,
    /// What each client did.
    pub operation: Operation,
    /// Clients.
    pub clients: usize,
    /// Puts of one request.
    pub batch: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Seconds measured.
    pub seconds: f64,
    /// Operations acknowledged (a batch counts as many as it holds).
    pub operations: u64,
    /// By reason.
    pub errors: BTreeMap<String, u64>,
    /// Per second.
    pub operations_per_second: f64,
    /// Of one request, microseconds.
    pub p50_us: u64,
    /// Of one request, microseconds.
    pub p99_us: u64,
    /// Of one request, microseconds.
    pub max_us: u64,
    /// CPU seconds of all servers; absent if none were named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_seconds: Option<f64>,
    /// Operations per CPU second of the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations_per_server_cpu_second: Option<f64>,
    /// Resident bytes of all servers at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_resident_bytes: Option<u64>,
    /// Bytes the servers sent to the block layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_written_bytes: Option<u64>,
    /// CPU of the generator itself, share of one core: near 1 it was the bottleneck.
    pub generator_busy: f64,
}

const WARMING_UP: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// Errors above this share void a run.
const ERROR_SHARE_MAX: f64 = 0.01;

struct Tally {
    latency: Histogram<u64>,
    operations: u64,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order");
        Tally { latency, operations: 0, errors: BTreeMap::new() }
    }

    fn add(&mut self, other: &Tally) {
        self.latency.add(&other.latency).expect("both have the same bounds");
        self.operations += other.operations;
        for (reason, count) in &other.errors {
            *self.errors.entry(reason.clone()).or_default() += count;
        }
    }
}

impl Cell {
    /// Runs one.
    pub async fn measure(target: &Target, work: &Work) -> Result<Cell> {
        let callers = target.callers(work).await?;
        if work.operation == Operation::Get {
            fill(target, work).await?;
        }
        let phase = Arc::new(AtomicU8::new(WARMING_UP));
        let mut clients = JoinSet::new();
        for (number, caller) in callers.into_iter().enumerate() {
            clients.spawn(client(number as u64, caller, *work, phase.clone()));
        }
        sleep(work.warm_up).await;
        let mine = [std::process::id()];
        let before = (Usage::of(&target.server_pids)?, Usage::of(&mine)?);
        let began = Instant::now();
        phase.store(MEASURING, Ordering::Release);
        sleep(work.measured).await;
        phase.store(OVER, Ordering::Release);
        let seconds = began.elapsed().as_secs_f64();
        let after = (Usage::of(&target.server_pids)?, Usage::of(&mine)?);
        let mut sum = Tally::new();
        while let Some(tally) = clients.join_next().await {
            sum.add(&tally?);
        }
        let cpu = (after.0.cpu - before.0.cpu).as_secs_f64();
        let is_charged = !target.server_pids.is_empty();
        Ok(Cell {
            driver: target.name(),
            operation: work.operation,
            clients: work.clients,
            batch: work.batch,
            value_bytes: work.value_bytes,
            seconds,
            operations: sum.operations,
            operations_per_second: sum.operations as f64 / seconds,
            p50_us: sum.latency.value_at_quantile(0.5),
            p99_us: sum.latency.value_at_quantile(0.99),
            max_us: sum.latency.max(),
            errors: sum.errors,
            server_cpu_seconds: is_charged.then_some(cpu),
            operations_per_server_cpu_second: is_charged.then(|| sum.operations as f64 / cpu.max(1e-9)),
            server_resident_bytes: is_charged.then_some(after.0.resident_bytes),
            server_written_bytes: is_charged.then(|| after.0.written_bytes.saturating_sub(before.0.written_bytes)),
            generator_busy: (after.1.cpu - before.1.cpu).as_secs_f64() / seconds,
        })
    }

    /// Why its figures mean nothing, if they do.
    pub fn void(&self) -> Option<String> {
        let errors: u64 = self.errors.values().sum();
        if self.operations == 0 {
            return Some(format!("nothing was acknowledged: {:?}", self.errors));
        }
        let share = errors as f64 / (errors + self.operations) as f64;
        (share > ERROR_SHARE_MAX).then(|| format!("{:.1} % errors: {:?}", 100.0 * share, self.errors))
    }
}

async fn client(number: u64, mut caller: Caller, work: Work, phase: Arc<AtomicU8>) -> Tally {
    let mut tally = Tally::new();
    let mut chance = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    loop {
        let began_in = phase.load(Ordering::Acquire);
        if began_in == OVER {
            return tally;
        }
        let keys: Vec<u64> = (0..work.batch).map(|_| next(&mut chance) % work.keys).collect();
        let began = Instant::now();
        let outcome = match work.operation {
            Operation::Put => caller.put(&keys).await,
            Operation::Get => caller.get(keys[0]).await,
        };
        let took = began.elapsed();
        if began_in != MEASURING || phase.load(Ordering::Acquire) != MEASURING {
            continue;
        }
        match outcome {
            Ok(()) => {
                tally.operations += work.batch as u64;
                tally.latency.saturating_record((took.as_micros() as u64).max(1));
            }
            Err(reason) => *tally.errors.entry(reason).or_default() += 1,
        }
    }
}

/// Every key once, so that gets find something.
async fn fill(target: &Target, work: &Work) -> Result<()> {
    let writers = 64.min(work.keys) as usize;
    let filling = Work { operation: Operation::Put, clients: writers, batch: 1, ..*work };
    let mut clients = JoinSet::new();
    for (number, mut caller) in target.callers(&filling).await?.into_iter().enumerate() {
        let keys = work.keys;
        clients.spawn(async move {
            for key in (number as u64..keys).step_by(writers) {
                let mut attempts = 0;
                while let Err(reason) = caller.put(&[key]).await {
                    attempts += 1;
                    if attempts == 50 {
                        bail!("key {key} could not be written before the gets: {reason}");
                    }
                    sleep(Duration::from_millis(50)).await;
                }
            }
            Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(())
}

/// xorshift64*: cheap, and every client has its own.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(operations: u64, errors: u64) -> Cell {
        Cell {
            driver: "unary",
            operation: Operation::Put,
            clients: 1,
            batch: 1,
            value_bytes: 1,
            seconds: 1.0,
            operations,
            errors: BTreeMap::from([("X".to_owned(), errors)]),
            operations_per_second: 0.0,
            p50_us: 0,
            p99_us: 0,
            max_us: 0,
            server_cpu_seconds: None,
            operations_per_server_cpu_second: None,
            server_resident_bytes: None,
            server_written_bytes: None,
            generator_busy: 0.0,
        }
    }

    #[test]
    fn a_run_full_of_errors_is_void() {
        assert_eq!(cell(1_000, 1).void(), None);
        assert!(cell(1_000, 100).void().unwrap().contains("errors"));
        assert!(cell(0, 0).void().unwrap().contains("nothing"));
    }
}
