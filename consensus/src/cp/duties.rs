//! What a replica does unasked: expire, flush, purge, hand over.
//!
//! Called by the node's chores. Decisions are pure functions over figures; the code around them only carries them out.

use super::{
    core::{Core, Office},
    group::Group,
    types::{LogId, Metrics},
};
use bytes::Bytes;
use kvorum_api::WriteError;
use kvorum_storage::{
    Outcome, StorageError,
    command::{Command, Settings},
};
use openraft::async_runtime::{Instant as _, watch::WatchReceiver};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};

/// `expire` commands of one round of the chore; what is left comes with the next.
const EXPIRES_MAX: u32 = 16;

/// How long one of them may take.
const EXPIRE_PATIENCE: Duration = Duration::from_secs(5);

/// A follower that was not heard for longer is not waited for: it gets a snapshot when it comes back.
const FOLLOWER_SILENCE_MAX: Duration = Duration::from_secs(60);

/// Flushed log beyond this is purged although the journal is within its limit.
const PURGE_BYTES: u64 = 32 << 20;

/// A journal over its limit is flushed once this share of the limit is log of this group that is not flushed yet: less
/// would not bring it back under the limit.
const FLUSH_SHARE: u64 = 16;

/// How long a snapshot promise is waited for before the purge is left to the next round.
const PROMISE_PATIENCE: Duration = Duration::from_secs(1);

/// Entries a follower may be behind and still be asked to lead: it catches up while nothing new is accepted.
const HAND_OVER_LAG_MAX: u64 = 1_024;

impl Group {
    /// Turns standing for election on or off (a suspect clock, a full disk), and hands leadership on when off.
    pub async fn set_electable(&self, is_electable: bool) {
        let was_electable = self.core.is_electable.swap(is_electable, Ordering::Relaxed);
        if was_electable != is_electable {
            self.allow_standing();
        }
        if !is_electable && self.leads() {
            self.hand_over(2 * self.core.context.timing.election_max).await;
        }
    }

    /// Hands leadership to the best follower, if this replica leads and one is up to date and alive. openraft's leader
    /// stops serving at once and does not take it back, so nobody is asked who may not answer.
    pub async fn hand_over(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            if !self.leads() {
                return true;
            }
            let Some(heir) = self.core.look(|metrics| best_heir(&self.core, metrics)).flatten() else {
                if Instant::now() >= deadline {
                    return false;
                }
                tokio::time::sleep(self.core.context.timing.heartbeat.min(patience)).await;
                continue;
            };
            tracing::info!(shard = %self.core.shard_id(), heir, "handing leadership over");
            self.core.begin_transfer();
            let asked = self.ask(move |raft| async move { raft.trigger().transfer_leader(heir).await }).await;
            if !matches!(asked, Ok(Ok(()))) {
                return true;
            }
            // The heir's own election ends the attempt; if it fails, another one comes after the lease.
            let attempt = deadline.min(Instant::now() + self.core.context.timing.election_max);
            let _ = timeout_at(attempt, self.until_not_leading()).await;
            if Instant::now() >= deadline {
                return !self.leads();
            }
        }
    }

    /// One round of the expiry chore: a leader logs `expire` when something is due (rule T3). Called every 250 ms.
    pub async fn expire_due(&self) {
        self.guard().await;
        if !self.leads() || !self.core.is_electable.load(Ordering::Relaxed) {
            return;
        }
        if self.shard().state().settings.is_none() {
            self.queue.nudge();
            return;
        }
        let Ok(_turn) = self.expiring.try_lock() else { return };
        for _ in 0..EXPIRES_MAX {
            let now_ms = self.core.context.hlc.physical_ms();
            if self.shard().state().next_expiry_ms.is_none_or(|due_ms| due_ms > now_ms) {
                return;
            }
            match self.propose(Command::Expire { up_to_ms: now_ms }, EXPIRE_PATIENCE, Bytes::new()).await {
                Ok(decided) if matches!(decided.outcome, Outcome::Expired { more: true, .. }) => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(shard = %self.core.shard_id(), %error, "could not log what is due");
                    return;
                }
            }
        }
    }

    /// Logs other settings, once the founding ones are in force (rule C1).
    ///
    /// # Errors
    /// As a write.
    pub(crate) async fn configure(&self, wish: Settings) -> Result<(), WriteError> {
        if self.shard().state().settings.is_none() {
            return Ok(());
        }
        self.propose(Command::Configure(wish), EXPIRE_PATIENCE, Bytes::new()).await.map(|_| ())
    }

    /// One round of the retention chore: flushes, snapshots and purges when the journal is over its limit, trims the
    /// diary. Called every second.
    pub async fn retain(&self) {
        self.receiving.sweep().await;
        let retained = match self.trim_diary().await {
            Ok(()) => self.try_retain().await,
            failed => failed,
        };
        if let Err(error) = retained {
            self.core.store.poison_if_fatal(&error);
            tracing::warn!(shard = %self.core.shard_id(), %error, "retention failed");
        }
    }

    /// One bounded step; what is left comes with the next round.
    async fn trim_diary(&self) -> Result<(), StorageError> {
        let (shard, budget) = (self.shard().clone(), self.core.context.budget);
        let age_ms_max = budget.change_age_max.as_millis() as u64;
        let collected =
            self.core.context.env.blocking.run(move || shard.collect_changes(age_ms_max, budget.change_bytes_max));
        match collected.await {
            Ok(_) | Err(StorageError::Installing) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn try_retain(&self) -> Result<(), StorageError> {
        let store = &self.core.store;
        let budget = self.core.context.budget;
        let is_over = store.journal.status().bytes > budget.journal_bytes_max;
        let applied = self.shard().watch_applied().borrow().as_ref().copied();
        let mut flushed = store.flushed().await?;
        let index = flushed.map(|position| position.index);
        let unflushed = store.with_bounds(|bounds| bounds.bytes.after(index));
        if is_over && flushed < applied && unflushed >= budget.journal_bytes_max / FLUSH_SHARE {
            // One flush serves every shard: whoever comes next finds its own position flushed.
            let engine = store.engine.clone();
            store.blocking.run(move || engine.flush()).await?;
            flushed = store.flushed().await?;
        }
        store.forget(flushed)?;
        let keep_from = self.keep_from();
        let Some(flushed) = flushed else { return Ok(()) };
        let upto = match keep_from.checked_sub(1) {
            Some(last) => flushed.index.min(last),
            // No leader has said who still needs what: only want of room is a reason.
            None if is_over => flushed.index,
            None => return Ok(()),
        };
        let (purged, purgeable) = store.with_bounds(|bounds| {
            let purged = bounds.purged.map(|log_id| log_id.index);
            (purged, bounds.bytes.after(purged).saturating_sub(bounds.bytes.after(Some(upto))))
        });
        let is_worth_it = purgeable > PURGE_BYTES || (is_over && purgeable > 0);
        if is_worth_it && purged.is_none_or(|purged| purged < upto) {
            self.purge(upto).await;
        }
        Ok(())
    }

    /// Has openraft forget the log up to an index that is flushed.
    async fn purge(&self, upto: u64) {
        if !matches!(self.ask(|raft| async move { raft.trigger().snapshot().await }).await, Ok(Ok(()))) {
            return;
        }
        // openraft purges only what it knows to be in a snapshot, and hears of that a moment later.
        if let Some(mut metrics) = self.core.metrics() {
            let promised = async {
                while self.core.look(|metrics| metrics.snapshot.is_none_or(|log_id| log_id.index < upto)) == Some(true)
                {
                    if metrics.changed().await.is_err() {
                        return;
                    }
                }
            };
            let _ = timeout(PROMISE_PATIENCE, promised).await;
        }
        tracing::debug!(shard = %self.core.shard_id(), upto, "purging the log");
        let _ = self.ask(move |raft| async move { raft.trigger().purge_log(upto).await }).await;
    }

    /// Entries from here on are wanted by a follower: decided by the leader, said with its appends, followed by all.
    /// 0 = nobody has said so yet.
    fn keep_from(&self) -> u64 {
        let followers = self.core.look(|metrics| {
            let is_leading = metrics.state == openraft::ServerState::Leader;
            is_leading.then(|| wanted_from(&self.core, metrics))
        });
        if let Some(Some(keep_from)) = followers {
            self.core.keep_from.store(keep_from, Ordering::Relaxed);
        }
        self.core.keep_from.load(Ordering::Relaxed)
    }

    /// Ends the replica of a poisoned node, and hands over when this node's own sync is overdue (rule J6).
    async fn guard(&self) {
        if let Some(why) = self.core.context.health.causes().poisoned {
            if self.core.stopped.get().is_none() {
                if self.leads() {
                    self.hand_over(self.core.context.timing.heartbeat).await;
                }
                self.end(&format!("poisoned: {why}")).await;
            }
            return;
        }
        let overdue = Duration::from_micros(self.core.store.journal.status().sync_pending_us);
        if overdue > self.core.context.timing.election_max && self.leads() {
            tracing::warn!(shard = %self.core.shard_id(), ?overdue, "own sync is overdue");
            self.hand_over(self.core.context.timing.heartbeat).await;
        }
    }

    fn leads(&self) -> bool {
        matches!(self.core.office(), Office::Leads { .. })
    }

    async fn until_not_leading(&self) {
        let Some(mut metrics) = self.core.metrics() else { return };
        while self.leads() {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The follower that would lose least by leading: alive, willing, and almost there.
fn best_heir(core: &Core, metrics: &Metrics) -> Option<u64> {
    let matched = metrics.replication.as_ref()?;
    let candidates = metrics.membership_config.voter_ids().filter(|voter| is_heir(core, metrics, *voter));
    candidates
        .filter_map(|voter| matched.get(&voter).copied().flatten().map(|log_id: LogId| (log_id.index, voter)))
        .max_by_key(|(index, voter)| (*index, std::cmp::Reverse(*voter)))
        .map(|(_, voter)| voter)
}

/// Whether a voter may be asked to lead: another one, alive, willing, and almost there.
pub(super) fn is_heir(core: &Core, metrics: &Metrics, voter: u64) -> bool {
    let is_voter = voter != core.replica.0 && metrics.membership_config.voter_ids().any(|known| known == voter);
    let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(&voter).copied().flatten());
    let is_alive = heard.is_some_and(|moment| moment.elapsed() < core.context.timing.election_min);
    let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&voter).copied().flatten());
    let last = metrics.last_log_index.unwrap_or(0);
    let is_near = matched.is_some_and(|log_id: LogId| log_id.index + HAND_OVER_LAG_MAX >= last);
    is_voter && is_alive && is_near && core.would_stand(voter)
}

/// The first entry a follower worth waiting for still needs.
fn wanted_from(core: &Core, metrics: &Metrics) -> u64 {
    let end = metrics.last_log_index.map_or(0, |last| last + 1);
    let Some(matched) = &metrics.replication else { return end };
    let members = metrics.membership_config.nodes().map(|(replica, _)| *replica);
    let needs = members.filter(|replica| *replica != core.replica.0).filter_map(|replica| {
        let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(&replica).copied().flatten());
        let is_recent = heard.is_some_and(|moment| moment.elapsed() < FOLLOWER_SILENCE_MAX);
        let has = matched.get(&replica).copied().flatten().map(|log_id| log_id.index);
        // Whoever gets a snapshot goes on behind it: were that gone from the log by then, another one would be sent.
        let has = has.max(core.snapshot_to(replica));
        let behind = core.store.with_bounds(|bounds| bounds.bytes.after(has));
        let is_affordable = behind <= core.context.budget.follower_log_bytes_max;
        (is_recent && is_affordable).then(|| has.map_or(0, |has| has + 1))
    });
    // 0 would say "unknown"; entry 0 is the founding membership, which a snapshot carries as well.
    needs.min().unwrap_or(end).min(end).max(1)
}
