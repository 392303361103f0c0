//! # Chores: what a node does without being asked (invariant 11)
//!
//! ```text
//!   note         250 ms   the clock's bound, and the lives of the peers, are kept durable
//!   hello        250 ms   meets peers until a majority is met, then once a second: liveness and clocks
//!   founding     250 ms   the first founder makes the founding membership (rule G8)
//!   watch        100 ms   poison, a suspect clock, an overdue sync: is this node fit to lead?
//!   fitness      100 ms   replicas stand for election, or hand leadership on, as the watch found
//!   expiry       250 ms   leaders log what is due (rule T3)
//!   retention    1 s      flushes, purges, trims the diary
//! ```
//!
//! **Invariant.** A chore decides nothing by itself: decisions are pure functions (`hello`, `suspect`), chores carry them
//! out. Groups are served beside each other, so that one without a majority holds up nobody.

use crate::{
    hello::{Founding, founding},
    node::{HELLO_TIMEOUT, Node},
    suspect::{self, Judgement},
    worker::{Step, Workers},
};
use futures::future::{BoxFuture, join_all};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Clocks heard longer ago than this do not count (rule T4).
const CLOCK_AGE_MAX: Duration = Duration::from_secs(10);

/// Between two hellos to one peer, once a majority is met.
const HELLO_PACE: Duration = Duration::from_secs(1);

impl Node {
    /// Starts every chore. They end with the node, or when `workers` stop.
    pub(crate) fn start_chores(self: &Arc<Self>, workers: &Workers) {
        let quarter = Duration::from_millis(250);
        let start = |name, pace, wake: Arc<Notify>, step: fn(Arc<Node>) -> BoxFuture<'static, Step>| {
            let node: Weak<Node> = Arc::downgrade(self);
            workers.start(name, pace, wake, move || node.upgrade().map(step));
        };
        start("note", quarter, self.note.wake(), |node| Box::pin(node.keep_note()));
        start("watch", Duration::from_millis(100), Arc::default(), |node| Box::pin(node.watch()));
        start("fitness", Duration::from_millis(100), Arc::default(), |node| Box::pin(node.act_on_fitness()));
        start("hello", quarter, Arc::default(), |node| Box::pin(node.say_hello()));
        start("founding", quarter, Arc::default(), |node| Box::pin(node.found()));
        start("expiry", quarter, Arc::default(), |node| Box::pin(node.expire()));
        start("retention", Duration::from_secs(1), Arc::default(), |node| Box::pin(node.retain()));
    }

    async fn keep_note(self: Arc<Self>) -> Step {
        self.note.keep(&self.hlc, &self.peers).await.map_err(|error| error.to_string())
    }

    /// Says hello to every peer whose answer is missing or has aged.
    async fn say_hello(self: Arc<Self>) -> Step {
        if self.peers.refused().is_some() {
            return Ok(());
        }
        let now = Instant::now();
        let mine = self.hello();
        let seen = self.peers.seen();
        let due = seen.iter().filter(|(_, seen)| {
            seen.hello.is_none() || seen.clock.is_none_or(|(_, at)| now.duration_since(at) >= HELLO_PACE)
        });
        let calls = due.map(|(node, _)| {
            let (this, mine) = (&self, &mine);
            async move {
                this.peers.hello(*node, mine, HELLO_TIMEOUT).await.map_err(|error| format!("node {node}: {error}"))?;
                // At once: a peer that does not answer must not hold up those who do.
                this.admit_if_known();
                Ok(())
            }
        });
        let answers: Vec<Result<(), String>> = join_all(calls).await;
        let failures: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }

    /// Founds the groups whose first founder is here, once every founder has said that it is pristine (rule G8).
    async fn found(self: Arc<Self>) -> Step {
        let answers = self.peers.answers();
        let mut waiting = Vec::new();
        for (group, held) in self.held() {
            let is_pristine = held.group.is_pristine();
            match founding(*group, is_pristine, &held.config.founders, self.config.node, &answers) {
                Founding::Over => {}
                Founding::Wait(why) => waiting.push(format!("group {group}: {why}")),
                Founding::Initialize => {
                    tracing::info!(%group, "founds the group");
                    held.group.initialize().await.map_err(|error| error.to_string())?;
                }
            }
        }
        if waiting.is_empty() { Ok(()) } else { Err(waiting.join("; ")) }
    }

    /// Whether this node is fit to lead, and what keeps it from it.
    async fn watch(self: Arc<Self>) -> Step {
        let journal = self.env.journal.status();
        if let Some(why) = journal.poisoned {
            self.health.poison(format!("journal: {why}"));
        }
        if let Some(error) = self.env.engine.background_error() {
            self.health.poison(format!("engine: {error}"));
        }
        let timing = self.config.timing;
        let offset_max_ms = timing.clock_offset_max.as_millis() as u64;
        let clock = suspect::judge(self.config.nodes.len(), &self.clock_offsets_ms(CLOCK_AGE_MAX), offset_max_ms);
        self.health.set_clock_suspect(match clock {
            Judgement::Suspect(ahead_ms) => Some(suspect::sentence(ahead_ms, offset_max_ms)),
            Judgement::TooFewHeard | Judgement::Trusted(_) => None,
        });
        // Rule J6: whoever cannot sync for a whole lease cannot lead.
        let pending = Duration::from_micros(journal.sync_pending_us);
        let sync_overdue =
            (pending > timing.election_max).then(|| format!("the journal has been syncing for {pending:?}"));

        let causes = self.health.causes();
        let full_since = {
            let mut duties = self.duties.lock();
            let since = causes.disk_full.as_ref().map(|_| duties.full_since.unwrap_or_else(Instant::now));
            duties.full_since = since;
            since
        };
        let is_fit = causes.poisoned.is_none()
            && causes.clock_suspect.is_none()
            && !causes.draining
            && sync_overdue.is_none()
            && full_since.is_none_or(|since| !self.has_roomier_peer(since));
        let mut duties = self.duties.lock();
        duties.clock = clock;
        duties.sync_overdue = sync_overdue;
        duties.is_fit = is_fit;
        Ok(())
    }

    /// Has the groups act on what the watch found. A chore of its own: handing leadership over takes its time, and the
    /// watch must not.
    async fn act_on_fitness(self: Arc<Self>) -> Step {
        let (is_fit, was_electable) = {
            let mut duties = self.duties.lock();
            let is_fit = duties.is_fit;
            (is_fit, std::mem::replace(&mut duties.is_electable, is_fit))
        };
        if is_fit && was_electable {
            return Ok(());
        }
        if is_fit != was_electable {
            tracing::warn!(is_fit, causes = ?self.health.causes(), "fitness to lead changed");
        }
        // Repeated for as long as it lasts: a follower that lags now may be able to lead later.
        join_all(self.held().values().map(|held| held.group.set_electable(is_fit))).await;
        Ok(())
    }

    /// Whether leadership can go where writes are possible. When every disk is full, somebody must still lead, or nobody
    /// could delete anything (rule S5); disks that fill up together must not pass leadership around, so a peer counts only
    /// if it has said that it has room well after this node ran out of it.
    fn has_roomier_peer(&self, full_since: Instant) -> bool {
        let seen = self.peers.seen();
        seen.values()
            .filter_map(|seen| seen.hello.as_ref())
            .any(|(hello, at)| !hello.is_disk_full && at.elapsed() <= CLOCK_AGE_MAX && *at >= full_since + HELLO_PACE)
    }

    async fn expire(self: Arc<Self>) -> Step {
        join_all(self.held().values().map(|held| held.group.expire_due())).await;
        Ok(())
    }

    async fn retain(self: Arc<Self>) -> Step {
        join_all(self.held().values().map(|held| held.group.retain())).await;
        Ok(())
    }
}
