//! The ground that the tests stand on: machines with disks and clocks, commands, and waiting.

mod wire;

pub use wire::{Port, Receiver, Wire};

use bytes::Bytes;
use kvorum_api::NodeId;
use kvorum_consensus::{Clock, Env, Node, RequestContext};
use kvorum_storage::{
    Blocking, Condition, Engine, Operation, RequestId, WriteCommand, engine,
    journal::{self, JournalOptions, MemJournal},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Unix milliseconds when a test begins.
pub const BEGIN_MS: u64 = 1_700_000_000_000;

/// In paused time it costs nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What outlives a process.
#[derive(Clone, Default)]
pub struct Machine {
    pub engine: engine::mem::MemDisk,
    pub journal: journal::MemDisk,
    /// Processes that were started here.
    pub starts: u64,
    /// By how much its clock is ahead.
    pub ahead_ms: Arc<AtomicI64>,
}

impl Machine {
    /// A copy of its directory, as a backup would take it, on another machine.
    pub fn image(&self) -> Machine {
        Machine {
            engine: self.engine.duplicate(),
            journal: self.journal.image(),
            starts: self.starts,
            ahead_ms: Arc::default(),
        }
    }

    /// The process dies; everything that is not durable is gone.
    pub fn lose_power(&self) {
        self.engine.lose_power();
        self.journal.lose_power(|_| false);
    }

    /// Stops the node on it in order.
    pub async fn stop(&self, node: Arc<Node>, wire: &Wire, id: u64) {
        node.stop().await;
        wire.disconnect(NodeId(id));
        self.journal.kill();
    }

    /// The node on it dies with it.
    pub async fn crash(&self, node: Arc<Node>, wire: &Wire, id: u64) {
        wire.disconnect(NodeId(id));
        self.lose_power();
        node.stop().await;
    }

    /// What a process on it is given, over an engine on its disk; and its journal.
    pub fn env(
        &self,
        engine: Arc<dyn Engine>,
        port: Port,
        began: Instant,
        options: JournalOptions,
    ) -> (Env, Arc<MemJournal>) {
        let journal = MemJournal::open(self.journal.clone(), options).expect("an honest disk opens");
        let ahead_ms = Arc::clone(&self.ahead_ms);
        let env = Env {
            engine,
            journal: journal.clone(),
            seed: port.from.0,
            transport: Arc::new(port),
            clock: Clock::new(move || {
                let truth_ms = BEGIN_MS + began.elapsed().as_millis() as u64;
                truth_ms.saturating_add_signed(ahead_ms.load(Ordering::SeqCst))
            }),
            blocking: Blocking::inline(),
        };
        (env, journal)
    }
}

/// Every process has its own.
pub fn boot_nonce() -> u64 {
    static NONCES: AtomicU64 = AtomicU64::new(1_000);
    NONCES.fetch_add(1, Ordering::Relaxed)
}

pub fn context(timeout_ms: u64) -> RequestContext {
    RequestContext { timeout: Duration::from_millis(timeout_ms), ..RequestContext::default() }
}

pub fn put(key: &str, value: &str, ttl_ms: Option<u64>) -> WriteCommand {
    let operation = Operation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ttl_ms,
        condition: Condition::Always,
        return_previous: false,
    };
    WriteCommand { request: None, operations: vec![operation] }
}

pub fn increment(key: &str, request: Option<RequestId>) -> WriteCommand {
    let key = Bytes::copy_from_slice(key.as_bytes());
    WriteCommand { request, operations: vec![Operation::Increment { key, delta: 1, return_previous: false }] }
}

/// Waits in paused time: the wait costs nothing, and its end is the failure of the test.
pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}");
        sleep(Duration::from_millis(5)).await;
    }
}
