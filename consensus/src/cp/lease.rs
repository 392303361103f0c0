//! Leases: a leader answers linearizable reads alone while nobody else can have become leader.
//!
//! ```text
//!   leader     sent t ────────────────▶ trusts until t + election_min / 2
//!   follower        heard, acknowledged ────────────────────────────▶ votes for nobody else until heard + election_max
//! ```
//!
//! A follower that acknowledged what was sent at `t` heard it after `t`. It keeps its promise at its own door for
//! `election_max`; the leader trusts a majority's promises for `election_min / 2`, a third of that or less. Only the
//! *rates* of two monotonic clocks are compared, never their values (rule R3): they would have to differ by a factor of
//! two between leader and follower before a second leader could be elected while the first one still trusts.
//!
//! Five things would break the promise, and are kept from it:
//! * A restart forgets it, and so does the end of a Raft instance. In a group whose settings have leases, or may have,
//!   a replica that ever took part answers votes as if it were not there and does not stand, until `election_max`
//!   after the last moment at which it may have promised something: the beginning of the process, for what earlier
//!   lives promised, or when an earlier opening last heard a leader (rule G5). What may have leases: settings that are
//!   applied, logged or wished here. A leader trusts only acknowledgements of followers whose log reaches to where it
//!   saw the settings itself, so no follower that knows nothing of leases is counted.
//! * A vote seen elsewhere makes openraft forget it. The promise is kept here, at the door, not there.
//! * A leader that hands over asks another one to be elected at once, past all promises. It gives its lease up before,
//!   for the rest of its term: the request may arrive late.
//! * A leader that was voted out goes on leading until somebody else does, and openraft may have it hand over without
//!   us. Without a vote it trusts nothing.
//! * A group that is closed ends its Raft instances. The leader gives its lease up before, and trusts only what was
//!   acknowledged after it took that back.
//!
//! **Assumed, and why leases are off unless asked for.** The monotonic clock runs on while the process or machine is
//! paused. A machine that is suspended with its clock must not have leases.
//!
//! **Invariant.** While a leader trusts its lease, nobody has been elected in a later term.

use super::{
    answered::Answered,
    codec::raft::{decode_entry, decode_proposal},
    core::{Core, Office, moment},
    state_machine::StateMachine,
    store::ReplicaStore,
    types::{Metrics, Payload, Types},
};
use crate::config::Timing;
use kvorum_api::GroupId;
use kvorum_storage::{
    Journal, StorageError,
    command::{Command, Settings},
    planted,
};
use openraft::{Raft, ServerState};
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// Bytes of log looked through at a time.
const LOOK_BYTES: usize = 1 << 20;

/// Both sides of the lease of one replica.
pub(crate) struct Lease {
    /// For how long a leader trusts an acknowledgement after it sent what was acknowledged.
    trusted_for: Duration,
    /// For how long a follower votes for nobody else after it heard its leader.
    promised_for: Duration,
    /// In an earlier life or opening it may have promised something until then.
    guarded_until: Option<Instant>,
    /// When a leader was last heard.
    promised_at: Mutex<Option<Instant>>,
    trust: Mutex<Trust>,
    /// Held while it is decided whether the replica stands for election.
    standing: Mutex<()>,
}

#[derive(Default)]
struct Trust {
    /// The term whose lease was given up to close.
    given_up_in: Option<u64>,
    /// Only what was sent from then on is trusted.
    from: Option<Instant>,
    /// Where this replica stood when it first saw that the group has leases: whoever reaches that far has the settings
    /// too.
    known_at: Option<u64>,
}

impl Lease {
    /// `promised_before`: until when earlier lives and openings of the replica may have promised something a lease
    /// relies on.
    pub(crate) fn new(timing: &Timing, promised_before: Option<Instant>) -> Self {
        Lease {
            trusted_for: if planted!("bug-lease-too-long") { 6 * timing.election_max } else { timing.election_min / 2 },
            promised_for: timing.election_max,
            guarded_until: promised_before.map(|before| before + timing.election_max),
            promised_at: Mutex::default(),
            trust: Mutex::default(),
            standing: Mutex::default(),
        }
    }

    /// Whether a replica with this store, of a group with these settings in its founding list, may have promised
    /// something in an earlier life.
    pub(crate) fn may_have_promised(store: &ReplicaStore, wish: &Settings) -> bool {
        let state = store.journal.group(store.group);
        let took_part = state.vote.is_some() || state.entries.is_some() || store.shard.state().settings.is_some();
        took_part && (wish.has_leases || store.knows_leases)
    }

    /// Until when it answers no votes and does not stand for election, if it is guarded still.
    pub(crate) fn guarded_until(&self) -> Option<Instant> {
        self.guarded_until.filter(|until| Instant::now() < *until)
    }

    /// Notes that a leader was heard: what will be acknowledged is promised.
    pub(crate) fn promise(&self) {
        *self.promised_at.lock() = Some(Instant::now());
    }

    /// When it last promised something in this opening, if it did.
    pub(crate) fn promised_at(&self) -> Option<Instant> {
        *self.promised_at.lock()
    }

    /// Why a vote is not even looked at. `is_authorised`: the leader itself asked for the election.
    pub(crate) fn refuses_vote(&self, is_authorised: bool) -> Result<(), String> {
        if self.guarded_until().is_some() {
            return Err("this replica may have promised a leader earlier to vote for nobody else".to_owned());
        }
        let is_promised = self.promised_at().is_some_and(|at| at.elapsed() < self.promised_for);
        if is_promised && !is_authorised {
            return Err("this replica has heard its leader lately".to_owned());
        }
        Ok(())
    }

    /// The leader trusts its lease no more in this term, until [`Lease::take_back`]: said before closing.
    pub(crate) fn give_up(&self, term: u64) {
        self.trust.lock().given_up_in = Some(term);
    }

    /// The leader goes on after all: what is sent from now on may be trusted.
    pub(crate) fn take_back(&self) {
        let mut trust = self.trust.lock();
        trust.given_up_in = None;
        trust.from = Some(Instant::now());
    }

    /// Whether the leader of `term` may answer alone now.
    pub(crate) fn holds(&self, core: &Core, term: u64) -> bool {
        let state = core.store.shard.state();
        let Some(applied) = state.applied.position else { return false };
        let mut trust = self.trust.lock();
        if !state.settings.is_some_and(|settings| settings.has_leases) {
            trust.known_at = None;
            return false;
        }
        let known_at = *trust.known_at.get_or_insert(applied.index);
        let is_given_up = trust.given_up_in == Some(term) || core.transfer_begun_in(term).is_some();
        if applied.term != term || is_given_up {
            return false;
        }
        let own = (core.replica.0, &core.answered);
        let acknowledged = core.look(|metrics| acknowledged(own, metrics, term, known_at)).flatten();
        acknowledged.is_some_and(|moment| Some(moment) >= trust.from && moment.elapsed() < self.trusted_for)
    }
}

impl Core {
    /// Tells openraft whether to stand for election: if the replica is fit, may, and is not guarded. Several may tell
    /// it at once; what is told last is true.
    pub(super) fn allow_standing(&self, raft: &Raft<Types, StateMachine>) {
        let _turn = self.lease.standing.lock();
        let is_fit = self.is_electable.load(Ordering::Relaxed) && self.may_stand.load(Ordering::Relaxed);
        raft.runtime_config().elect(is_fit && self.lease.guarded_until().is_none());
    }

    /// The term whose lease is trusted now, if this replica leads.
    pub(super) fn trusted_term(&self) -> Option<u64> {
        let Office::Leads { term } = self.office() else { return None };
        self.lease.holds(self, term).then_some(term)
    }

    /// Gives up the lease of the term in which this replica leads, if it does.
    pub(crate) fn give_up_lease(&self) {
        if let Office::Leads { term } = self.office() {
            self.lease.give_up(term);
        }
    }
}

/// Keeps a guarded replica from standing for election until the guard ends.
pub(super) async fn stand_after_guard(core: Arc<Core>, raft: Raft<Types, StateMachine>) {
    let Some(until) = core.lease.guarded_until() else { return };
    tokio::time::sleep_until(until).await;
    core.allow_standing(&raft);
}

/// When what a majority acknowledged last was sent, counting only voters whose log reaches to `known_at`; `None` also
/// if this replica does not lead in `term`, or has not committed an entry of it, or has no vote: openraft has one who
/// was voted out hand over by itself, past all promises.
fn acknowledged((own, answered): (u64, &Answered), metrics: &Metrics, term: u64, known_at: u64) -> Option<Instant> {
    let is_settled = metrics.state == ServerState::Leader
        && metrics.current_term == term
        && metrics.membership_config.voter_ids().any(|voter| voter == own)
        && metrics.cluster_committed.is_some_and(|log_id| log_id.leader_id.term == term);
    if !is_settled {
        return None;
    }
    let (matched, heard) = (metrics.replication.as_ref()?, metrics.heartbeat.as_ref()?);
    let sent = |voter: u64| {
        let knows = matched.get(&voter).copied().flatten().is_some_and(|log_id| log_id.index >= known_at);
        let heard = heard.get(&voter).copied().flatten().and_then(|heard| moment(*heard));
        // Openraft's moment may be later than what was answered: see `answered`.
        heard.filter(|_| knows).min(answered.in_term(term, voter))
    };
    let membership = metrics.membership_config.membership();
    let instead = || membership.learner_ids().filter_map(sent).max().filter(|_| planted!("bug-learner-counted"));
    majority_of_each(membership.get_joint_config(), own, |voter| sent(voter).max(instead()))
}

/// The newest moment that a majority of each of these sets of voters has reached: a joint configuration has two.
pub(super) fn majority_of_each(
    configs: &[BTreeSet<u64>],
    own: u64,
    reached: impl Fn(u64) -> Option<Instant>,
) -> Option<Instant> {
    configs.iter().map(|voters| majority_moment(voters, own, Instant::now(), &reached)).min().flatten()
}

/// The newest moment that a majority of `voters` has reached; `own` is always at `now`.
fn majority_moment(
    voters: &BTreeSet<u64>,
    own: u64,
    now: Instant,
    reached: impl Fn(u64) -> Option<Instant>,
) -> Option<Instant> {
    let mut moments: Vec<Option<Instant>> =
        voters.iter().map(|voter| if *voter == own { Some(now) } else { reached(*voter) }).collect();
    moments.sort_by(|left, right| right.cmp(left));
    moments.get(voters.len() / 2).copied().flatten()
}

/// Whether the log behind `after` says somewhere that the group has leases. It may not be decided yet.
pub(super) fn logs_leases(journal: &dyn Journal, group: GroupId, after: Option<u64>) -> Result<bool, StorageError> {
    let Some((first, last)) = journal.group(group).entries else { return Ok(false) };
    let mut next = first.max(after.map_or(0, |index| index + 1));
    while next <= last {
        let records = journal.entries(group, next..last + 1, LOOK_BYTES)?;
        let Some(end) = records.last().map(|record| record.index) else { return Ok(false) };
        for record in records {
            let entry = decode_entry(record).map_err(super::store::unknown_format)?;
            let Payload::Normal(encoded) = entry.payload else { continue };
            let commands = decode_proposal(&encoded)?.commands;
            if commands.iter().any(|command| matches!(command, Command::Configure(settings) if settings.has_leases)) {
                return Ok(true);
            }
        }
        next = end + 1;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cp::types::{LogId, Membership, StoredMembership};
    use openraft::{alias::InstantOf, async_runtime::Instant as _};

    fn timing() -> Timing {
        Timing::default()
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_may_have_promised_votes_for_nobody_for_one_election() {
        let began = Instant::now();
        let lease = Lease::new(&timing(), Some(began));
        assert!(lease.refuses_vote(false).is_err() && lease.refuses_vote(true).is_err());
        tokio::time::advance(timing().election_max).await;
        assert_eq!(lease.refuses_vote(false), Ok(()));
        let opened_later = Lease::new(&timing(), Some(began));
        assert_eq!(opened_later.refuses_vote(false), Ok(()), "what was promised before is over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_promise_holds_against_all_but_the_leader_itself() {
        let lease = Lease::new(&timing(), None);
        assert_eq!(lease.refuses_vote(false), Ok(()));
        lease.promise();
        tokio::time::advance(timing().election_max - Duration::from_millis(1)).await;
        assert!(lease.refuses_vote(false).is_err());
        assert_eq!(lease.refuses_vote(true), Ok(()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(lease.refuses_vote(false), Ok(()));
    }

    /// Rule G15: whoever was voted out may be succeeded past all promises.
    #[tokio::test(start_paused = true)]
    async fn a_leader_without_a_vote_trusts_no_lease() {
        let sent = Instant::now();
        let answered = Answered::default();
        let log_id = LogId::new_term_index(3, 7);
        let mut metrics = Metrics::new_initial(1);
        (metrics.state, metrics.current_term) = (ServerState::Leader, 3);
        (metrics.last_log_index, metrics.cluster_committed) = (Some(7), Some(log_id));
        for voter in [2, 3, 4] {
            answered.note(voter, 3, sent);
        }
        metrics.replication = Some([2, 3, 4].map(|voter| (voter, Some(log_id))).into());
        metrics.heartbeat = Some([2, 3, 4].map(|voter| (voter, Some(InstantOf::<Types>::now().into()))).into());
        let mut trusts = |configs: &[&[u64]]| {
            let configs = configs.iter().map(|voters| voters.iter().copied().collect()).collect();
            let membership = Membership::new_with_defaults(configs, [1, 2, 3, 4]);
            metrics.membership_config = Arc::new(StoredMembership::new(Some(log_id), membership));
            acknowledged((1, &answered), &metrics, 3, 7)
        };
        assert_eq!(trusts(&[&[1, 2, 3]]), Some(sent));
        assert_eq!(trusts(&[&[1, 2, 3], &[2, 3, 4]]), Some(sent), "it votes until the new voters are alone");
        assert_eq!(trusts(&[&[2, 3, 4]]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_majority_is_as_old_as_its_oldest_member() {
        tokio::time::advance(Duration::from_secs(1)).await;
        let now = Instant::now();
        let ago = |ms: u64| now.checked_sub(Duration::from_millis(ms));
        let three = BTreeSet::from([1, 2, 3]);
        let reached = |voter: u64| match voter {
            2 => ago(300),
            3 => ago(100),
            _ => None,
        };
        assert_eq!(majority_moment(&three, 1, now, reached), ago(100));
        assert_eq!(majority_moment(&BTreeSet::from([1, 2]), 1, now, reached), ago(300));
        assert_eq!(majority_moment(&BTreeSet::from([1, 2, 3, 4, 5]), 1, now, reached), ago(300));
        assert_eq!(majority_moment(&three, 1, now, |voter| ago(9).filter(|_| voter == 9)), None);
        assert_eq!(majority_moment(&BTreeSet::from([1]), 1, now, |_| None), Some(now));
        assert_eq!(majority_moment(&BTreeSet::from([2, 3]), 1, now, reached), ago(300), "a leader that has no vote");
    }
}
