//! Everything a node cannot compute for itself. `server` fills it from the real world, `jepsen/sim` from a seed;
//! nothing else differs.

use crate::transport::Transport;
use kvorum_storage::{Blocking, Engine, Journal};
use std::{fmt, sync::Arc};

/// The world as an argument.
#[derive(Clone)]
pub struct Env {
    /// Ordered bytes.
    pub engine: Arc<dyn Engine>,
    /// The log.
    pub journal: Arc<dyn Journal>,
    /// Other nodes.
    pub transport: Arc<dyn Transport>,
    /// The wall clock. Monotonic time is `tokio::time`, which simulation pauses.
    pub clock: Clock,
    /// Where disk-bound work runs.
    pub blocking: Blocking,
    /// Chance.
    pub seed: u64,
}

/// The wall clock of this node: Unix milliseconds.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock that asks `now_ms`.
    pub fn new(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Clock(Arc::new(now_ms))
    }

    /// Unix milliseconds, as this machine believes.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({} ms)", self.now_ms())
    }
}
