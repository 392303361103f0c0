//! What the replicas of one node share: the world, the other nodes, and the limits they keep together.

use super::{liveness::Liveness, replica::Replica};
use crate::{
    config::{Budget, ShardConfig, Timing},
    cp::{Addresses, GroupContext, Pace},
    env::Env,
    health::Health,
    hlc::Hlc,
    peers::Peers,
};
use kvorum_api::{Actor, GroupId, NodeId, error::LeaderHint};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

/// Groups that are opened at the same time.
const OPENINGS_MAX: usize = 16;

/// Groups that are closed at the same time.
const CLOSINGS_MAX: usize = 16;

/// Between two engine flushes that closing asks for: each serves all that wait.
const FLUSH_PACE: Duration = Duration::from_secs(5);

/// What replicas share.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) actor: Actor,
    pub(crate) addresses: Addresses,
    pub(crate) timing: Timing,
    pub(crate) budget: Budget,
    pub(crate) hlc: Arc<Hlc>,
    pub(crate) health: Arc<Health>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) openings: Semaphore,
    pub(crate) closings: Semaphore,
    pub(crate) tasks: Tasks,
    pub(crate) flushing: Flushing,
    /// Whether the replicas of this node may stand for election.
    pub(crate) is_electable: AtomicBool,
    /// Those that are open: chores look at no others more often than once a second.
    pub(crate) open: Mutex<BTreeMap<GroupId, Arc<Replica>>>,
}

impl Shared {
    pub(crate) fn limits() -> (Semaphore, Semaphore) {
        (Semaphore::new(OPENINGS_MAX), Semaphore::new(CLOSINGS_MAX))
    }

    pub(crate) fn me(&self) -> NodeId {
        self.actor.node
    }

    /// What a group needs from its node.
    pub(crate) fn context(&self, config: ShardConfig) -> GroupContext {
        GroupContext {
            env: self.env.clone(),
            config,
            actor: self.actor,
            nodes: self.addresses.clone(),
            timing: self.timing,
            budget: self.budget,
            hlc: self.hlc.clone(),
            health: self.health.clone(),
            peers: self.peers.clone(),
            pace: self.pace.clone(),
        }
    }

    /// Where a client finds a node.
    pub(crate) fn hint(&self, node: NodeId) -> Option<LeaderHint> {
        let address = self.addresses.load().get(&node)?.clone();
        Some(LeaderHint { node, address })
    }

    /// Flushes the engine if a group that wants to close waits for it, and the last time is long enough ago.
    pub(crate) async fn flush_if_wanted(&self) -> Result<(), String> {
        if !self.flushing.is_due() {
            return Ok(());
        }
        let engine = self.env.engine.clone();
        let flushed = self.env.blocking.run(move || engine.flush()).await;
        self.flushing.done();
        flushed.map_err(|error| {
            self.health.poison(format!("engine: {error}"));
            error.to_string()
        })
    }
}

/// Tasks that belong to the node: what was begun is finished although its caller has gone away.
#[derive(Default)]
pub(crate) struct Tasks {
    running: Mutex<JoinSet<()>>,
    is_ended: AtomicBool,
}

impl Tasks {
    /// Runs `work` until it is done or the node stops.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.running.lock();
        while running.try_join_next().is_some() {}
        if !self.is_ended.load(Ordering::Acquire) {
            running.spawn(work);
        }
    }

    /// Ends everything that runs, and begins nothing any more.
    pub(crate) async fn end(&self) {
        let mut running = {
            let mut running = self.running.lock();
            self.is_ended.store(true, Ordering::Release);
            std::mem::take(&mut *running)
        };
        running.shutdown().await;
    }
}

/// When the engine is flushed for groups that want to close.
#[derive(Default)]
pub(crate) struct Flushing {
    is_wanted: AtomicBool,
    last: Mutex<Option<Instant>>,
}

impl Flushing {
    pub(crate) fn want(&self) {
        self.is_wanted.store(true, Ordering::Release);
    }

    fn is_due(&self) -> bool {
        self.is_wanted.load(Ordering::Acquire) && self.last.lock().is_none_or(|last| last.elapsed() >= FLUSH_PACE)
    }

    fn done(&self) {
        self.is_wanted.store(false, Ordering::Release);
        *self.last.lock() = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule G2: one flush serves all that wait for it.
    #[tokio::test(start_paused = true)]
    async fn a_flush_is_paced() {
        let flushing = Flushing::default();
        assert!(!flushing.is_due());
        flushing.want();
        assert!(flushing.is_due());
        flushing.done();
        flushing.want();
        assert!(!flushing.is_due(), "too soon");
        tokio::time::advance(FLUSH_PACE).await;
        assert!(flushing.is_due());
    }
}
