//! Gathers the heartbeats of all groups to one node.
//!
//! ```text
//!   heartbeat ──▶ nothing under way? leaves at once, alone
//!                 else waits ──▶ the answer comes, or GATE is over ──▶ all that wait leave in one envelope
//! ```
//!
//! Batching without a timer: a quiet node pays no delay, a busy one fewer envelopes. The gate is only for a node that
//! is silent: without it one lost envelope would hold back the heartbeats of every group until it timed out.
//!
//! **Invariant.** A heartbeat waits for at most one gate before it leaves. One that is late is repeated alone.

use super::{CallError, MessageKind, Outgoing, Peers};
use crate::{
    heartbeats::{Heartbeat, Outcome, SLOW_AFTER, decode_outcomes, encode_heartbeats},
    transport::Lane,
};
use bytes::Bytes;
use kvorum_api::{NodeId, ReplicaId};
use kvorum_storage::journal::NODE_GROUP;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

/// How long heartbeats wait for the answer to those before them.
const GATE: Duration = SLOW_AFTER.saturating_mul(2);

/// Heartbeats in one envelope: about a megabyte.
const HEARTBEATS_MAX: usize = 4_096;

/// What became of a heartbeat that travelled with others.
enum Verdict {
    Outcome(Outcome),
    Failed(CallError),
}

struct Waiting {
    message: Outgoing,
    told: oneshot::Sender<Verdict>,
}

/// Heartbeats to one node.
#[derive(Default)]
struct Filling {
    waiting: Vec<Waiting>,
    /// Whether a task sees to it that what waits leaves.
    is_attended: bool,
}

/// Heartbeats that have not left yet, by node.
#[derive(Default)]
pub(super) struct Merger {
    fillings: Mutex<BTreeMap<NodeId, Filling>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Merger {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    /// Adds one. Whoever finds nobody attending must.
    fn add(&self, waiting: Waiting) -> bool {
        let mut fillings = self.fillings.lock();
        let filling = fillings.entry(waiting.message.to).or_default();
        filling.waiting.push(waiting);
        !std::mem::replace(&mut filling.is_attended, true)
    }

    /// What leaves next; with nothing, nobody attends any more.
    fn take(&self, to: NodeId) -> Vec<Waiting> {
        let mut fillings = self.fillings.lock();
        let Some(filling) = fillings.get_mut(&to) else { return Vec::new() };
        // Whoever gave up needs no envelope.
        filling.waiting.retain(|waiting| !waiting.told.is_closed());
        let count = filling.waiting.len().min(HEARTBEATS_MAX);
        let leaving: Vec<_> = filling.waiting.drain(..count).collect();
        if leaving.is_empty() {
            fillings.remove(&to);
        }
        leaving
    }
}

impl Peers {
    /// Sends an append without entries, together with others to the same node.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn heartbeat(self: &Arc<Self>, message: Outgoing) -> Result<Bytes, CallError> {
        let patience = message.timeout;
        let attempt = async {
            let (told, verdict) = oneshot::channel();
            let to = message.to;
            if self.merger.add(Waiting { message: message.clone(), told }) {
                self.merger.spawn(Arc::clone(self).attend(to));
            }
            match verdict.await {
                Ok(Verdict::Outcome(Outcome::Answered(payload))) => Ok(payload),
                Ok(Verdict::Outcome(Outcome::Refused(why))) => Err(CallError::Refused(why)),
                Ok(Verdict::Outcome(Outcome::Unreachable(why))) => Err(CallError::Unreachable(why)),
                Ok(Verdict::Outcome(Outcome::Late)) => self.call(message).await,
                Ok(Verdict::Failed(error)) => Err(error),
                Err(_) => Err(CallError::Unreachable("this node is stopping".to_owned())),
            }
        };
        timeout(patience, attempt).await.unwrap_or(Err(CallError::Timeout(patience)))
    }

    /// Lets heartbeats to one node leave until none waits.
    async fn attend(self: Arc<Self>, to: NodeId) {
        loop {
            let leaving = self.merger.take(to);
            if leaving.is_empty() {
                return;
            }
            let (back, is_back) = oneshot::channel();
            let peers = Arc::clone(&self);
            self.merger.spawn(async move {
                peers.deliver(to, leaving).await;
                // Nobody may be waiting at the gate any more.
                let _ = back.send(());
            });
            // Over or not: what waits leaves now.
            let _ = timeout(GATE, is_back).await;
        }
    }

    async fn deliver(&self, to: NodeId, leaving: Vec<Waiting>) {
        let mut leaving = leaving;
        if leaving.len() == 1 {
            let alone = leaving.remove(0);
            let verdict = match self.call(alone.message).await {
                Ok(payload) => Verdict::Outcome(Outcome::Answered(payload)),
                Err(error) => Verdict::Failed(error),
            };
            let _ = alone.told.send(verdict);
            return;
        }
        match self.exchange_merged(to, &leaving).await {
            Ok(outcomes) => {
                for (waiting, outcome) in leaving.into_iter().zip(outcomes) {
                    let _ = waiting.told.send(Verdict::Outcome(outcome));
                }
            }
            Err(error) => {
                for waiting in leaving {
                    let _ = waiting.told.send(Verdict::Failed(error.clone()));
                }
            }
        }
    }

    async fn exchange_merged(&self, to: NodeId, leaving: &[Waiting]) -> Result<Vec<Outcome>, CallError> {
        let heartbeats: Vec<_> = leaving
            .iter()
            .map(|waiting| Heartbeat {
                group: waiting.message.group,
                from_replica: waiting.message.from_replica,
                to_replica: waiting.message.to_replica,
                payload: waiting.message.payload.clone(),
            })
            .collect();
        let merged = Outgoing {
            to,
            lane: Lane::Control,
            group: NODE_GROUP,
            from_replica: ReplicaId(0),
            to_replica: ReplicaId(0),
            kind: MessageKind::Heartbeats,
            payload: encode_heartbeats(&heartbeats),
            timeout: leaving.iter().map(|waiting| waiting.message.timeout).max().unwrap_or_default(),
        };
        let outcomes =
            decode_outcomes(self.call(merged).await?).map_err(|error| CallError::Unreachable(error.to_string()))?;
        if outcomes.len() != leaving.len() {
            let why = format!("node {to} answered {} heartbeats of {}", outcomes.len(), leaving.len());
            return Err(CallError::Unreachable(why));
        }
        Ok(outcomes)
    }
}
