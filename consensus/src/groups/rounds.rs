//! What is done for groups unasked, a round at a time, called by the node's chores.
//!
//! ```text
//!   100 ms   liveness   who was lost, who came back: elections, and followers that lag
//!   500 ms   closing    what is idle is closed, what waits for a flush gets it
//!   1 s      records    what is due in closed groups; settings that differ from the wish; shards that are ready
//!   2 s      moving     one leader goes where the map wants it
//! ```
//!
//! **Invariant.** The work of a round that comes more often than once a second grows with the groups that are open, not
//! with those that are held.

use super::{
    Groups,
    decide::{How, Opener, opens_for_expiry},
    liveness::{Changes, Life},
    replica::{Replica, stand},
};
use crate::{cp::Group, metadata::ShardStage};
use futures::future::{BoxFuture, join_all};
use kvorum_api::{NodeId, ShardId};
use kvorum_storage::command::Settings;
use std::{sync::Arc, time::Duration};

/// Tells the metadata which shards are founded.
pub type ReadyReport = Arc<dyn Fn(Vec<ShardId>) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Groups that one round begins to close: the rest comes with the next.
const CLOSINGS_PER_ROUND_MAX: usize = 128;

/// Closed groups that one round opens.
const OPENINGS_PER_ROUND_MAX: usize = 64;

/// Between the elections of the followers of a lost leader, by their place among the replicas.
const STAGGER: Duration = Duration::from_millis(50);

/// A node must have answered for that long before leaders move to it.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

impl Groups {
    /// Whom to tell that shards led here are founded.
    pub fn set_ready_report(&self, report: ReadyReport) {
        *self.report.lock() = Some(report);
    }

    /// Acts on who was lost and who came back.
    pub(crate) fn liveness_round(&self) {
        let Changes { lost, returned } = self.shared.liveness.observe(&self.shared.peers.seen());
        for node in &lost {
            tracing::warn!(%node, "lost a node");
            self.stand_for(*node);
        }
        for node in &returned {
            tracing::info!(%node, "a node answers");
            self.open_lagging(*node);
        }
        for replica in self.open() {
            if replica.group().is_some_and(|group| group.is_deaf()) {
                replica.renew_soon();
            }
        }
    }

    /// Open groups that a lost node led: the followers stand as its lease ends, one after the other.
    fn stand_for(&self, lost: NodeId) {
        for replica in self.open() {
            let Some(group) = replica.group() else { continue };
            let led_there = group.known_leader().1.and_then(|leader| replica.node_of(leader)) == Some(lost);
            if !led_there {
                continue;
            }
            let place = replica.place();
            let rank = place.config.replicas.iter().position(|row| row.replica == replica.id()).unwrap_or(0);
            let patience = 2 * self.shared.timing.election_max;
            self.shared.tasks.spawn(async move {
                tokio::time::sleep(STAGGER * rank as u32).await;
                stand(&group, patience).await;
            });
        }
    }

    /// Groups closed without a node that is back now: it may lag (rule G2). Their leader opens them.
    fn open_lagging(&self, returned: NodeId) {
        for replica in self.all() {
            let lags = replica.record().skipped.iter().any(|skipped| replica.node_of(*skipped) == Some(returned));
            if lags
                && replica.group().is_none()
                && let Opener::Here(how) = replica.opener()
            {
                replica.open_soon(how);
            }
        }
    }

    /// Begins to close what nobody has needed for a while.
    pub(crate) async fn closing_round(&self, idle_after: Duration) -> Result<(), String> {
        let flushed = self.shared.flush_if_wanted().await;
        if idle_after.is_zero() || self.shared.health.is_poisoned() {
            return flushed;
        }
        let idle = self.open().into_iter().filter(|replica| {
            let place = replica.place();
            let is_ours = replica.group().is_some_and(|group| group.is_leading());
            let is_idle = replica.idle_for() >= idle_after && replica.may_offer();
            let may_close = !place.is_kept && !place.is_operated && place.stage == ShardStage::Ready;
            is_ours && may_close && is_idle
        });
        for replica in idle.take(CLOSINGS_PER_ROUND_MAX) {
            let shared = self.shared.clone();
            self.shared.tasks.spawn(async move {
                let Ok(_turn) = shared.closings.acquire().await else { return };
                if let Err(why) = replica.try_close().await {
                    tracing::debug!(shard = %replica.shard_id(), why, "stays open");
                }
            });
        }
        flushed
    }

    /// Looks at every record: what is due, and what the map wishes otherwise.
    pub(crate) async fn records_round(&self) -> Result<(), String> {
        let now_ms = self.shared.hlc.physical_ms();
        let closed = self.all().into_iter().filter(|replica| replica.group().is_none() && replica.ended().is_none());
        let mut opened = 0;
        for replica in closed {
            if opened == OPENINGS_PER_ROUND_MAX {
                break;
            }
            if let Some(how) = self.wanted(&replica, now_ms) {
                replica.open_soon(how);
                opened += 1;
            }
        }
        let open = self.open();
        join_all(open.iter().map(|replica| replica.follow_the_wish())).await;
        self.report_ready(&open).await
    }

    /// How a closed group is opened that has something to do, if it is for this node to open it.
    fn wanted(&self, replica: &Replica, now_ms: u64) -> Option<How> {
        let is_due = replica.record.lock().next_expiry_ms.is_some_and(|due_ms| due_ms <= now_ms);
        if is_due {
            let place = replica.place();
            let lives: Vec<(NodeId, Life)> =
                place.config.holders().map(|node| (node, self.shared.liveness.of(node))).collect();
            let is_mine = opens_for_expiry(replica.recorded_leader(), &lives, self.shared.me());
            let opener = replica.opener();
            return match opener {
                Opener::Here(how) if is_mine => Some(how),
                Opener::Here(_) | Opener::Elsewhere(_) => None,
            };
        }
        // A leader alone: others would only learn that they are not.
        if !replica.may_differ_from_wish() || !replica.is_recorded_leader() || !replica.differs_from_wish() {
            return None;
        }
        match replica.opener() {
            Opener::Here(how) => Some(how),
            Opener::Elsewhere(_) => None,
        }
    }

    async fn report_ready(&self, open: &[Arc<Replica>]) -> Result<(), String> {
        let ready = open.iter().filter(|replica| {
            let is_creating = {
                let place = replica.place();
                place.stage == ShardStage::Creating && !place.is_kept
            };
            let is_led_here = replica.group().is_some_and(|group| group.is_leading());
            is_creating && is_led_here && replica.shard().state().settings.is_some()
        });
        let ready: Vec<ShardId> = ready.map(|replica| replica.shard_id()).collect();
        let report = self.report.lock().clone();
        match report {
            Some(report) if !ready.is_empty() => report(ready).await,
            Some(_) | None => Ok(()),
        }
    }

    /// Moves one leader to the node that the map names, if that node is well and up to date.
    pub(crate) async fn moving_round(&self) {
        for replica in self.open() {
            let place = replica.place();
            let (Some(group), Some(wish)) = (replica.group(), place.leader_wish) else { continue };
            let is_settled = match self.shared.liveness.of(wish) {
                Life::Alive { since } => since.elapsed() >= SETTLED_AFTER,
                Life::Lost | Life::Unknown => false,
            };
            if wish == self.shared.me() || !is_settled || !group.is_leading() || place.is_operated {
                continue;
            }
            let heir = place.config.replica_on(wish);
            let Some(_inside) = replica.gate.try_enter() else { continue };
            if let Some(heir) = heir
                && group.hand_over_to(heir).await
            {
                return;
            }
        }
    }
}

impl Replica {
    fn is_recorded_leader(&self) -> bool {
        self.record.lock().leader == Some(self.id)
    }

    fn differs_from_wish(&self) -> bool {
        let place = self.place();
        // An older copy of the map knows of an older behaviour; behaviours are not taken back.
        let is_wished = |settings: &Settings| settings.behaviour <= place.config.settings.behaviour;
        let settings = self.shard.state().settings.filter(is_wished);
        let differs = settings.is_some_and(|settings| settings != place.config.settings);
        self.note_wish(&place, differs);
        differs
    }

    /// Has the leader log the settings that the map wishes (rule C1).
    async fn follow_the_wish(&self) {
        let Some((_inside, group)) = self.gate.try_enter().zip(self.group()) else { return };
        if group.is_leading() && self.differs_from_wish() {
            let wish = self.place().config.settings.clone();
            if let Err(error) = group.configure(wish).await {
                tracing::debug!(shard = %self.shard_id(), %error, "could not log the settings that are wished for");
            }
        }
    }

    /// Does one round of a chore on the group, if it is open and is not being closed.
    pub(crate) async fn chore<T>(&self, work: impl AsyncFnOnce(Arc<Group>) -> T) -> Option<T> {
        let (_inside, group) = self.gate.try_enter().zip(self.group())?;
        Some(work(group).await)
    }
}
