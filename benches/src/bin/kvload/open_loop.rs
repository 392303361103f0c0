//! Load at a fixed rate, whatever the answers do, told apart by the phase in which a request was meant to be sent.
//!
//! ```text
//!   every 1/rate seconds: a request is meant ─▶ sent ─▶ answered        latency = answered − meant
//! ```
//!
//! **Invariant.** A request that could not be sent in time still counts from when it was meant: a stall is seen by all
//! who would have come during it.

use crate::drivers::word;
use anyhow::{Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use kvorum_benches::payload;
use kvorum_client::{Cp, Keyspace};
use parking_lot::Mutex;
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Requests under way at most; more than that is no load but a pile.
const UNDER_WAY_MAX: usize = 10_000;

/// Keys that are put again and again.
const HOT_KEYS: u64 = 10_000;

/// What one phase saw.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    pub phase: &'static str,
    pub seconds: f64,
    /// All of them, with the time that each took, those that failed as well.
    pub operations: u64,
    pub failed: u64,
    /// By reason.
    pub failures: BTreeMap<String, u64>,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

struct Phase {
    name: &'static str,
    began: Instant,
    latency: Histogram<u64>,
    failures: BTreeMap<String, u64>,
    seconds: f64,
}

impl Phase {
    fn new(name: &'static str) -> Self {
        let latency = Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order");
        Phase { name, began: Instant::now(), latency, failures: BTreeMap::new(), seconds: 0.0 }
    }

    fn seen(&self) -> Seen {
        let failed: u64 = self.failures.values().sum();
        Seen {
            phase: self.name,
            seconds: self.seconds,
            operations: self.latency.len(),
            failed,
            failures: self.failures.clone(),
            p50_us: self.latency.value_at_quantile(0.5),
            p99_us: self.latency.value_at_quantile(0.99),
            p999_us: self.latency.value_at_quantile(0.999),
            max_us: self.latency.max(),
        }
    }
}

/// What is asked, and how often.
#[derive(Clone)]
pub struct Asked {
    pub keyspace: Keyspace<Cp>,
    /// Of a second, half puts of keys of their own, half linearizable gets of what was filled in.
    pub rate: f64,
    /// Keys `key-000000000000` and so on, all of them there.
    pub keys: u64,
    /// Bytes of what is put.
    pub value_bytes: usize,
}

/// Load that goes on until it is ended.
pub struct OpenLoop {
    phases: Arc<Mutex<Vec<Phase>>>,
    sender: JoinSet<Result<()>>,
}

impl OpenLoop {
    /// Begins with the first phase.
    pub fn begin(asked: Asked, phase: &'static str) -> Self {
        let phases = Arc::new(Mutex::new(vec![Phase::new(phase)]));
        let mut sender = JoinSet::new();
        sender.spawn(send(asked, phases.clone()));
        OpenLoop { phases, sender }
    }

    /// What is meant from now on belongs to another phase.
    pub fn enter(&self, phase: &'static str) {
        let mut phases = self.phases.lock();
        end_last(&mut phases);
        phases.push(Phase::new(phase));
    }

    /// Ends it, and waits for what is under way no longer than that.
    pub async fn end(mut self, patience: Duration) -> Result<Vec<Seen>> {
        end_last(&mut self.phases.lock());
        if let Some(ended) = self.sender.try_join_next() {
            ended??;
        }
        tokio::time::sleep(patience).await;
        self.sender.shutdown().await;
        Ok(self.phases.lock().iter().map(Phase::seen).collect())
    }
}

fn end_last(phases: &mut [Phase]) {
    if let Some(last) = phases.last_mut().filter(|last| last.seconds == 0.0) {
        last.seconds = last.began.elapsed().as_secs_f64();
    }
}

async fn send(asked: Asked, phases: Arc<Mutex<Vec<Phase>>>) -> Result<()> {
    let (began, mut under_way) = (Instant::now(), JoinSet::new());
    for number in 0_u64.. {
        let meant = began + Duration::from_secs_f64(number as f64 / asked.rate);
        sleep_until(meant).await;
        while under_way.try_join_next().is_some() {}
        if under_way.len() >= UNDER_WAY_MAX {
            bail!("{UNDER_WAY_MAX} requests were under way at once: lower --rate");
        }
        let Some(phase) = running(&phases.lock()) else { return drain(under_way).await };
        let (asked, phases) = (asked.clone(), phases.clone());
        under_way.spawn(async move {
            let outcome = ask(&asked, number).await;
            let took = meant.elapsed();
            let phase = &mut phases.lock()[phase];
            // One that failed took its time as well: else an outage would make the others look quick.
            phase.latency.saturating_record((took.as_micros() as u64).max(1));
            if let Err(why) = outcome {
                *phase.failures.entry(why).or_default() += 1;
            }
        });
    }
    Ok(())
}

/// The phase that has not ended.
fn running(phases: &[Phase]) -> Option<usize> {
    phases.last().filter(|last| last.seconds == 0.0).map(|_| phases.len() - 1)
}

async fn drain(mut under_way: JoinSet<()>) -> Result<()> {
    while under_way.join_next().await.is_some() {}
    Ok(())
}

async fn ask(asked: &Asked, number: u64) -> Result<(), String> {
    // Fibonacci hashing: spread, and no two runs differ.
    let chosen = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16) % asked.keys;
    let failed = |error: kvorum_client::ClientError| word(&error.to_string());
    if number.is_multiple_of(2) {
        let hot = Bytes::from(format!("hot-{:06}", chosen % HOT_KEYS));
        return asked.keyspace.put(hot, payload(asked.value_bytes, number)).await.map(drop).map_err(failed);
    }
    match asked.keyspace.get(key(chosen)).await.map_err(failed)?.entry {
        Some(_) => Ok(()),
        None => Err("what was written is not there".to_owned()),
    }
}

/// The key of that number.
pub fn key(number: u64) -> Bytes {
    Bytes::from(format!("key-{number:012}"))
}
