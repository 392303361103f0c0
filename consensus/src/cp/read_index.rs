//! Rounds that say what must be applied before a read: one at a time for everybody.
//!
//! ```text
//!   arrivals    a b    c d e      f
//!   rounds          ├── a b ──┤├── c d e ──┤├── f ──┤
//! ```
//!
//! Two kinds, each with its own desk: a leader hears from a majority (read-index), a follower asks its leader for a
//! mark (rule R1), who hears from a majority or has a lease.
//!
//! **Invariant.** An arrival joins a round that starts after it arrived, never one already under way: only then is
//! everything acknowledged before it covered.

use super::{
    codec::mark::{decode_mark_reply, encode_mark_request},
    core::{Core, Office},
    figures,
    state_machine::StateMachine,
    types::Types,
};
use crate::{
    peers::{MessageKind, Outgoing},
    transport::Lane,
};
use kvorum_api::{ReadError, Refused, ReplicaId};
use openraft::{
    Raft, ReadPolicy,
    errors::{LinearizableReadError, RaftError},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Readers that wait for the next round of a kind.
const WAITING_MAX: usize = 16_384;

/// What a round found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confirmed {
    /// Once this is applied ...
    pub(crate) index: u64,
    /// ... everything acknowledged before then is.
    pub(crate) since: Instant,
}

type Waiter = oneshot::Sender<Result<Confirmed, ReadError>>;

/// Where readers queue.
pub(crate) struct ReadIndex {
    majority: Desk,
    leader: Desk,
}

/// Runs the rounds.
pub(crate) struct Rounds {
    majority: Queue,
    leader: Queue,
    asking: Asking,
}

struct Desk {
    waiters: mpsc::Sender<Waiter>,
    rounds: Arc<AtomicU64>,
}

struct Queue {
    waiters: mpsc::Receiver<Waiter>,
    rounds: Arc<AtomicU64>,
}

struct Asking {
    core: Arc<Core>,
    raft: Raft<Types, StateMachine>,
}

/// The two ends of it.
pub(crate) fn read_index(core: Arc<Core>, raft: Raft<Types, StateMachine>) -> (ReadIndex, Rounds) {
    let ((majority, majority_queue), (leader, leader_queue)) = (desk(), desk());
    let rounds = Rounds { majority: majority_queue, leader: leader_queue, asking: Asking { core, raft } };
    (ReadIndex { majority, leader }, rounds)
}

fn desk() -> (Desk, Queue) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let rounds = Arc::new(AtomicU64::new(0));
    (Desk { waiters: sender, rounds: rounds.clone() }, Queue { waiters: receiver, rounds })
}

impl ReadIndex {
    /// What must be applied on this leader before a read that arrives now is linearizable.
    pub(crate) async fn confirm(&self, core: &Core) -> Result<Confirmed, ReadError> {
        self.majority.join(core).await
    }

    /// What must be applied on this follower to be as fresh as its leader is now.
    pub(crate) async fn mark(&self, core: &Core) -> Result<Confirmed, ReadError> {
        self.leader.join(core).await
    }

    /// Rounds of a leader run so far.
    pub(crate) fn rounds(&self) -> u64 {
        self.majority.rounds.load(Ordering::Relaxed)
    }

    /// Marks asked for so far.
    pub(crate) fn marks(&self) -> u64 {
        self.leader.rounds.load(Ordering::Relaxed)
    }
}

impl Desk {
    async fn join(&self, core: &Core) -> Result<Confirmed, ReadError> {
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
}

impl Rounds {
    /// Works until it is aborted.
    pub(crate) async fn run(self) {
        let Rounds { majority, leader, asking } = self;
        tokio::join!(majority.run(|| asking.majority()), leader.run(|| asking.leader()));
    }
}

impl Queue {
    async fn run<F: Future<Output = Result<u64, ReadError>>>(mut self, ask: impl Fn() -> F) {
        let mut joined = Vec::new();
        while self.waiters.recv_many(&mut joined, WAITING_MAX).await > 0 {
            // Nobody left to tell, nothing to ask.
            joined.retain(|waiter: &Waiter| !waiter.is_closed());
            if joined.is_empty() {
                continue;
            }
            self.rounds.fetch_add(1, Ordering::Relaxed);
            figures::read_round(joined.len());
            let since = Instant::now();
            let answer = ask().await.map(|index| Confirmed { index, since });
            for waiter in joined.drain(..) {
                let _ = waiter.send(answer.clone());
            }
        }
    }
}

impl Asking {
    async fn majority(&self) -> Result<u64, ReadError> {
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

    async fn leader(&self) -> Result<u64, ReadError> {
        let shard = self.core.shard_id();
        let no_quorum = |why: String| ReadError::NoQuorum { shard, why };
        let leader = match self.core.office() {
            Office::Leads { .. } => return self.majority().await,
            Office::Follows { leader } => leader,
            Office::Stopped { why } => return Err(ReadError::Stopped { shard, why }),
        };
        let Some((leader, to)) = leader.and_then(|leader| Some((leader, self.core.node_of(leader)?))) else {
            return Err(no_quorum("this replica knows no leader to ask".to_owned()));
        };
        let call = self.core.context.peers.call(Outgoing {
            to,
            lane: Lane::Control,
            group: self.core.group,
            from_replica: self.core.replica,
            to_replica: ReplicaId(leader),
            kind: MessageKind::Mark,
            payload: encode_mark_request(),
            // Nobody else's mark can be asked for meanwhile, so a silent leader is not waited for longer.
            timeout: self.core.context.timing.election_min,
        });
        let answer = call.await.map_err(|error| no_quorum(format!("its leader gave no mark: {error}")))?;
        decode_mark_reply(answer).map_err(|error| no_quorum(error.to_string()))
    }
}
