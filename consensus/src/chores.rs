//! # Chores: what a node does without being asked (invariant 11)
//!
//! ```text
//!   note         250 ms   the clock's bound, and the lives of the peers, are kept durable
//!   hello        250 ms   meets peers until all are met, then each every 500 ms: liveness and clocks
//!   liveness     100 ms   who was lost, who came back
//!   founding     250 ms   the first founder makes the founding membership (rule G8)
//!   watch        100 ms   poison, a suspect clock, an overdue sync: is this node fit to lead?
//!   fitness      100 ms   replicas stand for election, or hand leadership on, as the watch found
//!   expiry       250 ms   leaders log what is due (rule T3)
//!   retention    1 s      flushes, purges, trims the diary
//!   closing      500 ms   closes what nobody needs
//!   records      1 s      opens what has something due; logs wishes; tells which new shards are founded
//!   moving       2 s      a leader goes where the map wants it
//!   map, reconcile, metadata: see `metadata/chores`
//! ```
//!
//! **Invariant.** A chore decides nothing by itself: decisions are pure functions (`hello`, `suspect`), chores carry
//! them out. Groups are served beside each other, so that one without a majority holds up nobody.

use crate::{
    hello::{Founding, founding},
    metadata::ShardStage,
    node::{HELLO_TIMEOUT, Node},
    suspect::{self, Judgement},
    worker::{Step, Workers},
};
use futures::future::{BoxFuture, join_all};
use kvorum_api::NodeId;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Clocks heard longer ago than this do not count (rule T4).
const CLOCK_AGE_MAX: Duration = Duration::from_secs(10);

/// Between two hellos to one peer, once a majority is met.
const HELLO_PACE: Duration = Duration::from_millis(500);

/// Hellos under way, and how the last one to each peer ended.
#[derive(Default)]
pub(crate) struct Hellos {
    state: Mutex<BTreeMap<NodeId, (bool, Option<String>)>>,
}

impl Hellos {
    /// Whether none is under way to `node`; from now on one is.
    fn begin(&self, node: NodeId) -> bool {
        let mut state = self.state.lock();
        let (is_under_way, _) = state.entry(node).or_default();
        !std::mem::replace(is_under_way, true)
    }

    fn end(&self, node: NodeId, failure: Option<String>) {
        self.state.lock().insert(node, (false, failure));
    }

    /// What went wrong last.
    fn verdict(&self) -> Step {
        let failures: Vec<String> = self.state.lock().values().filter_map(|(_, failure)| failure.clone()).collect();
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }
}

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
        start("liveness", Duration::from_millis(100), Arc::default(), |node| Box::pin(node.look_around()));
        start("closing", Duration::from_millis(500), Arc::default(), |node| Box::pin(node.close_idle()));
        start("records", Duration::from_secs(1), Arc::default(), |node| Box::pin(node.read_records()));
        start("moving", Duration::from_secs(2), Arc::default(), |node| Box::pin(node.move_leaders()));
        self.start_metadata_chores(workers);
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
        let is_founding = mine.groups.values().any(|held| held.is_pristine);
        for (node, seen) in self.peers.seen() {
            let is_due = is_founding
                || seen.hello.is_none()
                || seen.clock.is_none_or(|(_, at)| now.duration_since(at) >= HELLO_PACE);
            // At once and beside each other: a peer that does not answer must not hold up those who do.
            if is_due && self.hellos.begin(node) {
                let (this, mine) = (self.clone(), mine.clone());
                self.groups.shared.tasks.spawn(async move {
                    let answered = this.peers.hello(node, &mine, HELLO_TIMEOUT).await;
                    this.hellos.end(node, answered.err().map(|error| format!("node {node}: {error}")));
                    this.admit_if_known();
                });
            }
        }
        self.hellos.verdict()
    }

    /// Founds the groups whose first founder is here, once every founder has said that it is pristine (rule G8).
    async fn found(self: Arc<Self>) -> Step {
        let answers = self.peers.answers();
        let mut unfounded = Vec::new();
        for replica in self.groups.open() {
            let (place, group) = (replica.place(), replica.group_id());
            if place.stage != ShardStage::Creating || replica.is_settled() {
                continue;
            }
            match founding(group, replica.is_pristine(), &place.config.founders, self.config.node, &answers) {
                Founding::Over => {}
                Founding::Wait(why) => unfounded.push(format!("group {group}: {why}")),
                Founding::Initialize => {
                    tracing::info!(%group, "founds the group");
                    let founded = replica.chore(async |group| group.initialize().await).await;
                    // One that fails holds up none behind it.
                    unfounded.extend(founded.and_then(Result::err).map(|error| error.to_string()));
                }
            }
        }
        if unfounded.is_empty() { Ok(()) } else { Err(unfounded.join("; ")) }
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
        let judge =
            |after| suspect::judge(self.node_count(), &self.clock_offsets_ms(CLOCK_AGE_MAX, after), offset_max_ms);
        let clock = judge(None);
        // Rule T5: whoever was heard before the leap says nothing about it.
        if let Some(leapt) = self.steady.leapt()
            && matches!(judge(Some(leapt)), Judgement::Trusted(_))
        {
            self.steady.follow();
        }
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
        self.groups.set_electable(is_fit).await;
        Ok(())
    }

    /// Whether leadership can go where writes are possible. When every disk is full, somebody must still lead, or
    /// nobody could delete anything (rule S5); disks that fill up together must not pass leadership around, so a peer
    /// counts only if it has said that it has room well after this node ran out of it.
    fn has_roomier_peer(&self, full_since: Instant) -> bool {
        let seen = self.peers.seen();
        seen.values()
            .filter_map(|seen| seen.hello.as_ref())
            .filter(|(hello, _)| !hello.is_disk_full && !hello.is_poisoned)
            .any(|(_, at)| at.elapsed() <= CLOCK_AGE_MAX && *at >= full_since + HELLO_PACE)
    }

    async fn expire(self: Arc<Self>) -> Step {
        let open = self.groups.open();
        join_all(open.iter().map(|replica| replica.chore(async |group| group.expire_due().await))).await;
        Ok(())
    }

    async fn retain(self: Arc<Self>) -> Step {
        let open = self.groups.open();
        join_all(open.iter().map(|replica| replica.chore(async |group| group.retain().await))).await;
        Ok(())
    }

    async fn look_around(self: Arc<Self>) -> Step {
        self.groups.liveness_round();
        Ok(())
    }

    async fn close_idle(self: Arc<Self>) -> Step {
        self.groups.closing_round(self.config.timing.idle_close_after).await
    }

    async fn read_records(self: Arc<Self>) -> Step {
        self.groups.records_round().await
    }

    async fn move_leaders(self: Arc<Self>) -> Step {
        if self.duties.lock().is_fit {
            self.groups.moving_round().await;
        }
        Ok(())
    }
}
