//! # Replica: one copy of one shard on this node, whether its group is open or closed
//!
//! ```text
//!             somebody needs it                        idle, and all agree
//!   closed ───────────────────▶ opening ──▶ open ──────────────────────────▶ closing ──▶ closed
//!   the shard and a record                  a Raft instance         gate shut: arrivals wait
//! ```
//!
//! The shard stays open all the time: it is cheap, and answers reads that need no leader. What costs is the Raft
//! instance with its tasks and timers.
//!
//! **Invariant.** At most one Raft instance of a replica runs; it is made and ended in turn, never by a caller that
//! might go away in between. A former one changes nothing (rule G3).

use super::{
    decide::{How, Opener, Record, who_opens},
    gate::Gate,
    liveness::Life,
    shared::Shared,
};
use crate::{
    config::ShardConfig,
    cp::{
        Group,
        close::last_leader,
        door::Door,
        group::{Opening, open_shard},
        membership::applied_names,
        removal::erase,
    },
    metadata::ShardStage,
    node::StartError,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use kvorum_api::{GroupId, NodeId, ReplicaId, ShardId};
use kvorum_storage::{Shard, StorageError, planted};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

/// Between two offers to close, after one that somebody refused or did not answer: each opens again whoever has closed.
const OFFER_PACE: Duration = Duration::from_secs(5);

/// Who comes after a longer break says nothing about who came before it.
const SENT_AWAY_MEMORY: Duration = Duration::from_secs(10);

/// Between two attempts to be elected, of a replica whose leader is lost.
const STAND_PACE: Duration = Duration::from_millis(100);

/// What the map says of a replica.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    /// The shard, its replicas, and the settings that are wished for.
    pub(crate) config: ShardConfig,
    /// How far the making of the shard has come.
    pub(crate) stage: ShardStage,
    /// The node that should lead.
    pub(crate) leader_wish: Option<NodeId>,
    /// Never closed: the metadata.
    pub(crate) is_kept: bool,
    /// Its replicas or its leader are being changed: it is not closed meanwhile.
    pub(crate) is_operated: bool,
}

/// One copy of one shard on this node.
pub struct Replica {
    pub(super) shared: Arc<Shared>,
    pub(super) id: ReplicaId,
    pub(super) shard: Arc<Shard>,
    pub(super) gate: Gate,
    pub(super) record: Mutex<Record>,
    me: Weak<Replica>,
    door: Arc<Door>,
    /// Held while the Raft instance is made or ended.
    turn: tokio::sync::Mutex<()>,
    place: ArcSwap<Place>,
    /// Whether the wish may not be in force: looked at again only after the place has changed.
    may_differ: AtomicBool,
    open: ArcSwapOption<Group>,
    /// When a client last needed it.
    used: Mutex<Instant>,
    /// Whether it was opened to be led from here, and nobody is known to lead yet.
    pub(super) is_awaiting_leader: AtomicBool,
    /// Since when it has sent those who need the leader elsewhere, or refused them a vote, without having been opened;
    /// and when it did so last.
    sent_away: Mutex<Option<(Instant, Instant)>>,
    /// When an offer to close was last refused.
    refused_offer: Mutex<Option<Instant>>,
    /// What its ended Raft instances, or earlier lives of the node, have promised a leader, they promised before then.
    promised_before: Mutex<Instant>,
    /// Whether somebody is opening it unasked.
    is_opening: AtomicBool,
    /// Whether it may take part for the rest of this life: it is not pristine any more.
    is_settled: AtomicBool,
    /// Why it is gone.
    ended: OnceLock<String>,
    /// One step of a change at a time; what the last one waits for.
    pub(super) step: tokio::sync::Mutex<()>,
    pub(super) waits_for: Mutex<Option<String>>,
}

impl Replica {
    /// A replica that is closed. Its record is what the journal and the shard say.
    pub(crate) async fn new(shared: Arc<Shared>, place: Place) -> Result<Arc<Self>, StartError> {
        let (shard_id, me) = (place.config.shard, shared.me());
        let Some(id) = place.config.replica_on(me) else {
            return Err(StartError::Group { shard: shard_id, why: format!("node {me} holds none of its replicas") });
        };
        let shard = open_shard(&shared.env, &place.config).await?;
        let state = shard.state();
        let (term, leader) = last_leader(&*shared.env.journal, GroupId::from(shard_id));
        let record = Record {
            term,
            leader,
            position: state.applied.position,
            next_expiry_ms: state.next_expiry_ms,
            ..Record::default()
        };
        Ok(Arc::new_cyclic(|me| Replica {
            shared,
            id,
            shard,
            gate: Gate::default(),
            record: Mutex::new(record),
            me: me.clone(),
            door: Arc::default(),
            turn: tokio::sync::Mutex::new(()),
            place: ArcSwap::from_pointee(place),
            may_differ: AtomicBool::new(true),
            open: ArcSwapOption::empty(),
            used: Mutex::new(Instant::now()),
            is_awaiting_leader: AtomicBool::new(false),
            sent_away: Mutex::default(),
            refused_offer: Mutex::default(),
            promised_before: Mutex::new(Instant::now()),
            is_opening: AtomicBool::new(false),
            is_settled: AtomicBool::new(false),
            ended: OnceLock::new(),
            step: tokio::sync::Mutex::new(()),
            waits_for: Mutex::default(),
        }))
    }

    /// The shard's number.
    pub fn shard_id(&self) -> ShardId {
        self.shard.spec().shard
    }

    /// The shard behind it.
    pub fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// This copy's number.
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// The group, while it is open.
    pub fn group(&self) -> Option<Arc<Group>> {
        self.open.load_full()
    }

    pub(crate) fn group_id(&self) -> GroupId {
        GroupId::from(self.shard_id())
    }

    pub(crate) fn place(&self) -> Arc<Place> {
        self.place.load_full()
    }

    /// Takes in what the map says now.
    pub(crate) fn set_place(&self, place: Place) {
        if **self.place.load() != place {
            self.place.store(Arc::new(place));
            self.may_differ.store(true, Ordering::Release);
        }
    }

    /// Whether the settings may differ from what the map wishes: the cheap question.
    pub(super) fn may_differ_from_wish(&self) -> bool {
        self.may_differ.load(Ordering::Acquire)
    }

    /// Remembers what a comparison with the wish of `place` has found.
    pub(super) fn note_wish(&self, place: &Arc<Place>, differs: bool) {
        if !differs && self.shard.state().settings.is_some() {
            self.may_differ.store(false, Ordering::Release);
            // The map may have changed meanwhile.
            if !Arc::ptr_eq(place, &self.place()) {
                self.may_differ.store(true, Ordering::Release);
            }
        }
    }

    /// The term whose lease this replica trusts now, if it leads and does: for observers.
    #[must_use]
    pub fn trusted_term(&self) -> Option<u64> {
        self.group()?.trusted_term()
    }

    /// What it knows of its group while it is closed.
    pub(crate) fn record(&self) -> Record {
        self.record.lock().clone()
    }

    /// Whether this replica has ever voted, logged or applied anything.
    pub(crate) fn is_pristine(&self) -> bool {
        let state = self.shared.env.journal.group(self.group_id());
        let is_unlogged =
            state.vote.is_none() && state.purged.is_none() && state.entries.is_none() && state.installing.is_none();
        is_unlogged && self.shard.state().applied.position.is_none()
    }

    /// Whether it was found to be no newcomer: then it takes part for the rest of this life.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }

    pub(crate) fn settle(&self) {
        self.is_settled.store(true, Ordering::Release);
    }

    /// The node of the leader that the record names, and how it looks; `None` also if that replica has gone since: its
    /// node lives, perhaps, and can open nothing.
    pub(crate) fn recorded_leader(&self) -> Option<(NodeId, Life)> {
        let leader = self.record.lock().leader?;
        let node = self.place.load().config.holder_of(leader)?;
        Some((node, self.shared.liveness.of(node)))
    }

    pub(crate) fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.place.load().config.node_of(replica)
    }

    /// Whether that replica, on that node, is one of the group's: by the map, or by Raft's own membership, of which
    /// either may be behind.
    pub(crate) fn knows(&self, sender: (ReplicaId, NodeId)) -> bool {
        let is_placed = self.place.load().config.replicas.iter().any(|row| row.seat() == sender);
        is_placed || self.group().is_some_and(|group| group.has_member(sender)) || applied_names(&self.shard, sender)
    }

    /// Who should open it now.
    pub(crate) fn opener(&self) -> Opener {
        who_opens(&self.record(), self.recorded_leader(), self.shared.me())
    }

    /// Whether those who need the leader have been sent elsewhere for longer than it takes to hear of a leader. A
    /// leader that opens the group speaks to this replica, which opens it: so the node that the record names does not
    /// lead, and may even name this one.
    pub(super) fn sends_away_in_vain(&self) -> bool {
        let now = Instant::now();
        let mut sent_away = self.sent_away.lock();
        let since = sent_away.filter(|(_, last)| last.elapsed() < SENT_AWAY_MEMORY).map_or(now, |(since, _)| since);
        *sent_away = Some((since, now));
        since.elapsed() > self.shared.timing.election_max
    }

    pub(super) fn note_refused_offer(&self) {
        *self.refused_offer.lock() = Some(Instant::now());
    }

    /// Whether the others have not refused to close a moment ago.
    pub(super) fn may_offer(&self) -> bool {
        self.refused_offer.lock().is_none_or(|refused| refused.elapsed() >= OFFER_PACE)
    }

    /// A client needs it.
    pub(crate) fn touch(&self) {
        *self.used.lock() = Instant::now();
    }

    /// How long no client has needed it.
    pub(crate) fn idle_for(&self) -> Duration {
        self.used.lock().elapsed()
    }

    /// Why it is gone, if it is.
    pub(crate) fn ended(&self) -> Option<String> {
        self.ended.get().cloned()
    }

    /// Its group, opened like this if it is closed.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub(crate) async fn opened(&self, how: How) -> Result<Arc<Group>, String> {
        if let Some(group) = self.group() {
            return Ok(group);
        }
        let Some(me) = self.me.upgrade() else { return Err("the replica is gone".to_owned()) };
        let (tell, told) = oneshot::channel();
        // Not the caller's to give up: a Raft instance half made would be nobody's.
        self.shared.tasks.spawn(async move {
            let opened = me.clone().open_in_turn(how).await;
            let _ = tell.send(opened);
        });
        told.await.unwrap_or_else(|_| Err("the node is stopping".to_owned()))
    }

    /// Opens it unasked, unless somebody does already: on a disk that stalls, rounds must not pile up.
    pub(crate) fn open_soon(&self, how: How) {
        let Some(me) = self.me.upgrade().filter(|me| me.group().is_none()) else { return };
        if me.is_opening.swap(true, Ordering::AcqRel) {
            return;
        }
        self.shared.tasks.spawn(async move {
            if let Err(why) = me.clone().open_in_turn(how).await {
                tracing::warn!(shard = %me.shard_id(), why, "could not open the group");
            }
            me.is_opening.store(false, Ordering::Release);
        });
    }

    /// Opens it again if a node without which it was closed is there: it came back while the group was closing.
    pub(super) fn open_if_skipped_returned(&self) {
        let skipped = self.record().skipped;
        let has_returned = skipped
            .iter()
            .any(|skipped| self.node_of(*skipped).is_some_and(|node| self.shared.liveness.is_alive(node)));
        if has_returned && let Opener::Here(how) = self.opener() {
            self.open_soon(how);
        }
    }

    /// Ends a Raft instance that is deaf after a transfer of leadership that came to nothing, and stands for election
    /// with another one. Whoever waits for the old one learns that it ended; whoever arrives meanwhile waits.
    pub(super) fn renew_soon(&self) {
        let Some(me) = self.me.upgrade() else { return };
        if me.is_opening.swap(true, Ordering::AcqRel) {
            return;
        }
        self.shared.tasks.spawn(async move {
            let _shut = me.gate.try_shut();
            if let Some(group) = me.group().filter(|group| group.is_deaf()) {
                let why = "a transfer of leadership came to nothing";
                tracing::warn!(shard = %me.shard_id(), why, "stands for election");
                me.end_instance(&group, why, Vec::new()).await;
                if let Err(why) = me.clone().open_in_turn(How::Stand).await {
                    tracing::warn!(shard = %me.shard_id(), why, "could not open the group");
                }
            }
            me.is_opening.store(false, Ordering::Release);
        });
    }

    async fn open_in_turn(self: Arc<Self>, how: How) -> Result<Arc<Group>, String> {
        let _turn = self.turn.lock().await;
        if let Some(group) = self.group() {
            return Ok(group);
        }
        if let Some(why) = self.ended() {
            return Err(why);
        }
        let shared = &self.shared;
        let _opening = shared.openings.acquire().await.map_err(|error| error.to_string())?;
        let was_closed_in_order = std::mem::take(&mut self.record.lock().was_closed_in_order);
        let how = if how == How::Lead && !was_closed_in_order { How::Stand } else { how };
        let may_restore = how == How::Lead || planted!("bug-open-restores-always");
        let promised_before = *self.promised_before.lock();
        let opening = Opening { pass: self.door.open(), may_restore, may_stand: how != How::Follow, promised_before };
        let context = shared.context(self.place().config.clone());
        let group = Group::open_on(context, self.shard.clone(), opening).await.map_err(|error| error.to_string())?;
        tracing::debug!(shard = %self.shard_id(), ?how, "opened");
        self.touch();
        *self.sent_away.lock() = None;
        self.is_awaiting_leader.store(matches!(how, How::Lead | How::Stand), Ordering::Release);
        self.open.store(Some(group.clone()));
        shared.open.lock().insert(self.group_id(), self.clone());
        if !shared.is_electable.load(Ordering::Acquire) {
            group.begin_unfit();
        }
        if how == How::Stand {
            let standing = group.clone();
            let patience = 2 * shared.timing.election_max;
            shared.tasks.spawn(async move { stand(&standing, patience).await });
        }
        Ok(group)
    }

    /// Closes it, as was agreed. The gate is shut.
    pub(super) async fn close_down(&self, group: &Arc<Group>, skipped: Vec<ReplicaId>) {
        self.end_instance(group, "closed", skipped).await;
        self.shard.rest();
    }

    /// Ends the Raft instance and notes what is known.
    async fn end_instance(&self, group: &Arc<Group>, why: &str, skipped: Vec<ReplicaId>) {
        let _turn = self.turn.lock().await;
        let agreed = group.known_leader();
        group.stop_because(why).await;
        if let Some(promised_at) = group.promised_at() {
            *self.promised_before.lock() = promised_at;
        }
        // Until its very end it may have been elected or have heard of another leader. Named is whom the journal names:
        // a record that is behind could name somebody whose own, newer record names this replica.
        let (term, leader) = last_leader(&*self.shared.env.journal, self.group_id());
        let state = self.shard.state();
        *self.record.lock() = Record {
            term,
            leader,
            position: state.applied.position,
            next_expiry_ms: state.next_expiry_ms,
            was_closed_in_order: (term, leader) == agreed && !group.has_begun_transfer(term),
            skipped,
        };
        self.open.store(None);
        self.shared.open.lock().remove(&self.group_id());
        tracing::debug!(shard = %self.shard_id(), term, ?leader, why, "closed");
    }

    /// Ends it for good: the map names it no more. What waits for it is told; its data is gone from the engine, durably
    /// with the next flush.
    pub(crate) async fn remove(&self, why: &str) -> Result<(), StorageError> {
        let _ = self.ended.set(why.to_owned());
        let _turn = self.turn.lock().await;
        if let Some(group) = self.group() {
            group.stop_because(why).await;
        }
        // Nothing of a former opening is applied from here on.
        drop(self.door.open());
        self.open.store(None);
        self.shared.open.lock().remove(&self.group_id());
        erase(&self.shared.env, self.shard.clone()).await
    }

    /// Ends the Raft instance because the node stops.
    pub(crate) async fn stop(&self) {
        let _ = self.ended.set("the node is stopping".to_owned());
        let _turn = self.turn.lock().await;
        if let Some(group) = self.group() {
            group.stop().await;
        }
    }
}

/// Stands for election until somebody leads: the others may find out a moment later that the leader is lost.
pub(super) async fn stand(group: &Group, patience: Duration) {
    let deadline = Instant::now() + patience;
    let (term, former) = group.known_leader();
    while Instant::now() < deadline {
        let (now, leader) = group.known_leader();
        if group.is_leading() || (leader.is_some() && (now, leader) != (term, former)) || group.is_stopped() {
            return;
        }
        group.stand().await;
        tokio::time::sleep(STAND_PACE).await;
    }
}
