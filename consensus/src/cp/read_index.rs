//! Read-index rounds: one at a time for everybody.
//!
//! ```text
//!   arrivals    a b    c d e      f
//!   rounds          ├── a b ──┤├── c d e ──┤├── f ──┤
//! ```
//!
//! **Invariant.** An arrival joins a round that starts after it arrived, never one already under way: only then is
//! everything acknowledged before it covered.

use super::{core::Core, figures, state_machine::StateMachine, types::Types};
use kvorum_api::{ReadError, Refused};
use openraft::{
    Raft, ReadPolicy,
    errors::{LinearizableReadError, RaftError},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{mpsc, oneshot};

/// Readers that wait for the next round.
const WAITING_MAX: usize = 16_384;

type Waiter = oneshot::Sender<Result<u64, ReadError>>;

/// Where readers queue.
pub(crate) struct ReadIndex {
    waiters: mpsc::Sender<Waiter>,
    rounds: Arc<AtomicU64>,
}

/// Runs the rounds.
pub(crate) struct Rounds {
    core: Arc<Core>,
    raft: Raft<Types, StateMachine>,
    waiters: mpsc::Receiver<Waiter>,
    rounds: Arc<AtomicU64>,
}

/// The two ends of it.
pub(crate) fn read_index(core: Arc<Core>, raft: Raft<Types, StateMachine>) -> (ReadIndex, Rounds) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let rounds = Arc::new(AtomicU64::new(0));
    (ReadIndex { waiters: sender, rounds: rounds.clone() }, Rounds { core, raft, waiters: receiver, rounds })
}

impl ReadIndex {
    /// The index that must be applied before a read that arrives now is linearizable.
    pub(crate) async fn confirm(&self, core: &Core) -> Result<u64, ReadError> {
        let (answer, told) = oneshot::channel();
        let stopped = || ReadError::Stopped { shard: core.shard_id(), why: "the replica stopped".to_owned() };
        match self.waiters.try_send(answer) {
            Ok(()) => told.await.unwrap_or_else(|_| Err(stopped())),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(Refused::Overloaded { limit: "reads_waiting_max", max: WAITING_MAX as u64 }.into())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(stopped()),
        }
    }

    /// Rounds run so far.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

impl Rounds {
    /// Works until it is aborted.
    pub(crate) async fn run(mut self) {
        let mut joined = Vec::new();
        while self.waiters.recv_many(&mut joined, WAITING_MAX).await > 0 {
            // Nobody left to tell, nothing to ask.
            joined.retain(|waiter: &Waiter| !waiter.is_closed());
            if joined.is_empty() {
                continue;
            }
            self.rounds.fetch_add(1, Ordering::Relaxed);
            figures::read_round(joined.len());
            let answer = self.round().await;
            for waiter in joined.drain(..) {
                let _ = waiter.send(answer.clone());
            }
        }
    }

    async fn round(&self) -> Result<u64, ReadError> {
        let shard = self.core.shard_id();
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ReadError::NotLeader { shard, leader: self.core.hint(forward.leader_id) })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(missing))) => {
                Err(ReadError::NoQuorum { shard, why: missing.to_string() })
            }
            Err(RaftError::Fatal(fatal)) => Err(ReadError::Stopped { shard, why: fatal.to_string() }),
        }
    }
}
