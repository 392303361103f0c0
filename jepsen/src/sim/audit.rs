//! # Audit: every event of a run, hashed and told
//!
//! **Invariant.** Two runs of one seed hash the same events in the same order, or the simulation is not deterministic.
//! What is hashed is exactly what is told, so that two listings can be compared line by line.

use parking_lot::Mutex;
use std::{collections::VecDeque, fmt, sync::Arc};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// Events kept for the report of a failure.
const EVENTS_KEPT: usize = 400;

/// Where events go. Clones share one trace.
#[derive(Clone)]
pub struct Audit {
    trace: Arc<Mutex<Trace>>,
    began: Instant,
    prints: bool,
}

struct Trace {
    hash: Xxh3,
    events: u64,
    newest: VecDeque<String>,
}

/// What a whole run hashed to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceHash {
    /// How many events there were.
    pub events: u64,
    /// The hash of all of them, in order.
    pub hash: u128,
}

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x} over {} events", self.hash, self.events)
    }
}

impl fmt::Debug for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Audit {
    /// An empty trace that begins now; `prints` tells every event on stderr as it happens.
    pub fn new(prints: bool) -> Self {
        let trace = Trace { hash: Xxh3::new(), events: 0, newest: VecDeque::new() };
        Audit { trace: Arc::new(Mutex::new(trace)), began: Instant::now(), prints }
    }

    /// Something happened.
    pub fn event(&self, what: impl fmt::Display) {
        let at = self.began.elapsed();
        let line = format!("{:>7}.{:03} {what}", at.as_secs(), at.subsec_millis());
        if self.prints {
            tell(&line);
        }
        let mut trace = self.trace.lock();
        trace.hash.update(line.as_bytes());
        trace.hash.update(b"\n");
        trace.events += 1;
        if trace.newest.len() == EVENTS_KEPT {
            trace.newest.pop_front();
        }
        trace.newest.push_back(line);
    }

    /// The hash so far.
    pub fn hash(&self) -> TraceHash {
        let trace = self.trace.lock();
        TraceHash { events: trace.events, hash: trace.hash.digest128() }
    }

    /// The newest events, oldest first.
    pub fn newest(&self) -> Vec<String> {
        self.trace.lock().newest.iter().cloned().collect()
    }
}

#[expect(clippy::print_stderr, reason = "the trace of a simulation is told while it happens")]
fn tell(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_hash_tells_order_and_content_apart() {
        let hash = |events: &[&str]| {
            let audit = Audit::new(false);
            events.iter().for_each(|event| audit.event(event));
            audit.hash()
        };
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
        assert_ne!(hash(&["a", "b"]), hash(&["b", "a"]));
        assert_ne!(hash(&["ab"]), hash(&["a", "b"]));
    }
}
