//! What the parts of one replica share: who it is, what it stands on, and how it is doing.
//!
//! **Invariant.** Nothing here keeps the Raft instance alive: its tasks hold this, so it must not hold them.

use super::{
    answered::Answered,
    codec::message::{AppendNotes, Moment, ReplyNotes},
    group::GroupContext,
    lease::{Lease, majority_of_each},
    staleness::Staleness,
    store::ReplicaStore,
    types::{Metrics, Types},
};
use kvorum_api::{GroupId, NodeId, ReplicaId, ShardId, error::LeaderHint};
use openraft::{ServerState, async_runtime::watch::WatchReceiver};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// openraft's figures, as they change.
pub(crate) type MetricsReceiver = openraft::alias::WatchReceiverOf<Types, Metrics>;

/// One replica, as its parts see it.
pub(crate) struct Core {
    pub(crate) context: GroupContext,
    pub(crate) replica: ReplicaId,
    pub(crate) group: GroupId,
    pub(crate) store: Arc<ReplicaStore>,
    pub(crate) staleness: Staleness,
    /// What this replica promised its leader, and what it may conclude from such promises when it leads.
    pub(crate) lease: Lease,
    /// Whether this replica is fit to stand for election.
    pub(crate) is_electable: AtomicBool,
    /// Whether it may: a follower that was just opened waits until its leader has spoken (rule G3).
    pub(crate) may_stand: AtomicBool,
    /// Entries from here on are still wanted by a follower: the leader says so with every append.
    pub(crate) keep_from: AtomicU64,
    /// Set when the replica was stopped on purpose.
    pub(crate) stopped: OnceLock<String>,
    /// The newest term in which a transfer of leadership was begun here, and when that was first.
    transfer: Mutex<Option<(u64, Instant)>>,
    metrics: OnceLock<MetricsReceiver>,
    /// By replica: the last index of the snapshot that is on its way there, or that it has installed.
    snapshots: Mutex<BTreeMap<u64, u64>>,
    followers: Mutex<BTreeMap<u64, ReplyNotes>>,
    pub(crate) answered: Answered,
}

/// The part this replica plays now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Office {
    /// It leads in this term.
    Leads { term: u64 },
    /// Somebody else does, or nobody.
    Follows { leader: Option<u64> },
    /// It takes no part any more.
    Stopped { why: String },
}

impl Core {
    /// `promised_before`: what earlier openings of the replica have promised, they promised before then.
    pub(crate) fn new(
        context: GroupContext,
        replica: ReplicaId,
        store: Arc<ReplicaStore>,
        promised_before: Instant,
    ) -> Arc<Self> {
        // A stamp is given once over all lives of the node, so it names this life of the replica.
        let life = context.hlc.now().0;
        let may_have_promised = Lease::may_have_promised(&store, &context.config.settings);
        let lease = Lease::new(&context.timing, may_have_promised.then_some(promised_before));
        Arc::new(Core {
            replica,
            group: store.group,
            staleness: Staleness::new(life),
            lease,
            is_electable: AtomicBool::new(true),
            may_stand: AtomicBool::new(true),
            keep_from: AtomicU64::new(0),
            stopped: OnceLock::new(),
            transfer: Mutex::default(),
            metrics: OnceLock::new(),
            snapshots: Mutex::default(),
            followers: Mutex::default(),
            answered: Answered::default(),
            context,
            store,
        })
    }

    pub(crate) fn shard_id(&self) -> ShardId {
        self.context.config.shard
    }

    /// Told once, when the Raft instance is made.
    pub(crate) fn follow(&self, metrics: MetricsReceiver) {
        assert!(self.metrics.set(metrics).is_ok(), "a replica has one Raft instance");
    }

    /// Looks at openraft's figures. The lock behind them must never be held across an await: it blocks openraft.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Metrics) -> T) -> Option<T> {
        self.metrics.get().map(|metrics| look(&metrics.borrow_watched()))
    }

    /// Follows openraft's figures.
    pub(crate) fn metrics(&self) -> Option<MetricsReceiver> {
        self.metrics.get().cloned()
    }

    pub(crate) fn office(&self) -> Office {
        if let Some(why) = self.stopped.get() {
            return Office::Stopped { why: why.clone() };
        }
        let office = self.look(|metrics| match &metrics.running_state {
            Err(fatal) => Office::Stopped { why: fatal.to_string() },
            Ok(()) => match metrics.state {
                ServerState::Leader => Office::Leads { term: metrics.current_term },
                ServerState::Shutdown => Office::Stopped { why: "raft stopped".to_owned() },
                ServerState::Learner | ServerState::Follower | ServerState::Candidate => {
                    Office::Follows { leader: metrics.current_leader.filter(|leader| *leader != self.replica.0) }
                }
            },
        });
        office.unwrap_or(Office::Follows { leader: None })
    }

    /// Notes that this leader is about to ask another replica to lead. For the rest of its term it answers nothing from
    /// its lease, and does not close: the heir may be elected past all promises, however late the request arrives.
    pub(crate) fn begin_transfer(&self) {
        let Office::Leads { term } = self.office() else { return };
        let mut transfer = self.transfer.lock();
        if transfer.is_none_or(|(begun_in, _)| begun_in != term) {
            *transfer = Some((term, Instant::now()));
        }
    }

    /// Since when a transfer is under way in the term in which this replica leads, if one is.
    pub(crate) fn transferring_since(&self) -> Option<Instant> {
        let Office::Leads { term } = self.office() else { return None };
        self.transfer_begun_in(term)
    }

    /// When a transfer was first begun in a term, if one was.
    pub(crate) fn transfer_begun_in(&self, term: u64) -> Option<Instant> {
        self.transfer.lock().filter(|(begun_in, _)| *begun_in == term).map(|(_, since)| since)
    }

    /// The node that holds a replica, by the newest membership or the founding list.
    pub(crate) fn node_of(&self, replica: u64) -> Option<NodeId> {
        let known =
            self.look(|metrics| metrics.membership_config.membership().get_node(&replica).map(|member| member.node));
        known.flatten().or_else(|| self.context.config.node_of(ReplicaId(replica)))
    }

    /// Where a client finds a leader.
    pub(crate) fn hint(&self, leader: Option<u64>) -> Option<LeaderHint> {
        let node = self.node_of(leader?)?;
        let address = self.context.nodes.load().get(&node)?.clone();
        Some(LeaderHint { node, address })
    }

    /// How many replicas a committed entry is durable on, at least.
    pub(crate) fn majority(&self) -> u32 {
        let voters = self.look(|metrics| {
            let configs = metrics.membership_config.membership().get_joint_config();
            configs.iter().map(std::collections::BTreeSet::len).max().unwrap_or(1)
        });
        (voters.unwrap_or(1) / 2 + 1) as u32
    }

    /// On a leader that has committed an entry of its own term: when a majority last acknowledged it, on its own clock.
    pub(crate) fn quorum_moment(&self) -> Option<Instant> {
        self.look(|metrics| {
            let is_settled = metrics.state == ServerState::Leader
                && metrics.cluster_committed.is_some_and(|log_id| log_id.leader_id.term == metrics.current_term);
            if !is_settled {
                return None;
            }
            let is_alone = metrics.membership_config.voter_ids().all(|voter| voter == self.replica.0);
            // Nobody else could have acknowledged anything.
            if is_alone {
                return Some(Instant::now());
            }
            let acked = metrics.last_quorum_acked.and_then(|acked| moment(*acked))?;
            let configs = metrics.membership_config.membership().get_joint_config();
            let answered =
                majority_of_each(configs, self.replica.0, |voter| self.answered.in_term(metrics.current_term, voter));
            answered.map(|answered| answered.min(acked))
        })
        .flatten()
    }

    /// The last index openraft knows decided.
    pub(crate) fn committed_index(&self) -> u64 {
        self.look(|metrics| metrics.cluster_committed.map_or(0, |log_id| log_id.index)).unwrap_or(0)
    }

    /// The moment before which everything acknowledged is applied here, as far as this replica can prove without asking
    /// anybody; `None` = unknown (rule R2). Taken before a lookup, it holds for what is found.
    pub(crate) fn proven_until(&self) -> Option<Instant> {
        let applied = self.store.shard.watch_applied().borrow().as_ref().copied();
        let as_follower = self.staleness.holds_until(applied.map(|position| position.index));
        let leads_in = match self.office() {
            Office::Leads { term } => Some(term),
            Office::Follows { .. } | Office::Stopped { .. } => None,
        };
        // What a leader acknowledges it has applied, and what earlier ones did lies before its own first entry.
        let is_current = leads_in.is_some() && applied.map(|position| position.term) == leads_in;
        let as_leader = if is_current { self.quorum_moment() } else { None };
        as_leader.max(as_follower)
    }

    /// How stale a `local` read may be (rule R2).
    pub(crate) fn local_staleness(&self) -> Option<Duration> {
        self.proven_until().map(|moment| moment.elapsed())
    }

    /// A snapshot up to `last` is on its way to `target`: it will go on from there, if it can.
    pub(crate) fn sends_snapshot(&self, target: u64, last: u64) {
        self.snapshots.lock().insert(target, last);
    }

    /// The snapshot has not arrived.
    pub(crate) fn snapshot_failed(&self, target: u64) {
        self.snapshots.lock().remove(&target);
    }

    /// Up to where the snapshot reaches that `target` gets or has got.
    pub(crate) fn snapshot_to(&self, target: u64) -> Option<u64> {
        self.snapshots.lock().get(&target).copied()
    }

    /// What goes along with an append to `target`.
    pub(crate) fn append_notes(&self, target: u64) -> AppendNotes {
        AppendNotes {
            quorum_age: self.quorum_moment().map(|moment| moment.elapsed()),
            echo: self.followers.lock().get(&target).map(|notes| notes.now).filter(|now| *now != Moment::default()),
            keep_from: self.keep_from.load(Ordering::Relaxed),
        }
    }

    /// What came back from `target`.
    pub(crate) fn heard(&self, target: u64, notes: ReplyNotes) {
        self.followers.lock().insert(target, notes);
    }

    /// Whether `target` last said that it would stand for election.
    pub(crate) fn would_stand(&self, target: u64) -> bool {
        self.followers.lock().get(&target).is_some_and(|notes| notes.is_electable)
    }

    /// What goes along with a reply of this replica.
    pub(crate) fn reply_notes(&self) -> ReplyNotes {
        ReplyNotes { now: self.staleness.moment(), is_electable: self.is_electable.load(Ordering::Relaxed) }
    }
}

/// A moment openraft names, as tokio names it; rather earlier than later.
pub(crate) fn moment(named: impl openraft::async_runtime::Instant) -> Option<Instant> {
    let now = Instant::now();
    now.checked_sub(named.elapsed())
}
