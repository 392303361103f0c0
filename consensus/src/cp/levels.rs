//! What a read level takes here, and what the answer is worth when it is handed out.
//!
//! ```text
//!   linearizable   leader: lease, else a round ─▶ applied ─▶ due keys gone (rule T3) ─▶ look up ─▶ lease still held?
//!   session        applied up to where the session stood ─▶ look up
//!   bounded        proof at hand, else mark or round (rule R1) ─▶ applied ─▶ look up ─▶ still within the bound?
//!   local          look up
//! ```
//!
//! A proof is a moment on this replica's own monotonic clock before which everything acknowledged is in the answer. It
//! is taken before the lookup and becomes a staleness after it, so that whatever a paused replica slept away is in the
//! staleness, and refuses a bound that is not kept any more.
//!
//! **Invariant.** A level this replica cannot prove is refused, never weakened. A staleness is never below the truth.

use super::{
    codec::mark::{decode_mark_request, encode_mark_reply},
    core::Office,
    group::Group,
    read_index::Confirmed,
};
use crate::replicator::RequestContext;
use bytes::Bytes;
use kvorum_api::{LogPosition, Mode, ReadError, ReadLevel, Refused, error::LeaderHint};
use kvorum_storage::{command::Command, planted};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A leader whose logged time is older than this brings it up to date before a read, if something is due (rule T3).
const LOGGED_TIME_AGE_MS_MAX: u64 = 1_000;

/// A replica that is further behind a session than this lets somebody else answer.
const SESSION_WAIT_MAX: Duration = Duration::from_secs(1);

/// How often a read is proven anew when its proof did not outlive the lookup.
const ATTEMPTS_MAX: u32 = 2;

/// What was proven before a lookup.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    /// Everything acknowledged before is in the answer; `None` = unknown.
    since: Option<Instant>,
    needs: Needs,
}

/// What must still hold after it.
#[derive(Clone, Copy, Debug)]
enum Needs {
    Nothing,
    /// The lease of a term.
    Lease {
        term: u64,
    },
    /// That the moment is no longer ago.
    Within(Duration),
}

impl Group {
    /// Proves the level, looks up, and makes sure that the proof held until then. Gives what was found and how stale it
    /// may be; `None` = unknown.
    pub(super) async fn read<T, F: Future<Output = Result<T, ReadError>> + Send>(
        &self,
        level: ReadLevel,
        context: &RequestContext,
        look_up: impl Fn() -> F,
    ) -> Result<(T, Option<Duration>), ReadError> {
        let _ = self.core.context.hlc.observe(context.stamp);
        if let Some((epoch, why)) = self.refuse_older_epoch(context) {
            return Err(ReadError::StaleEpoch { shard: self.core.shard_id(), epoch, why });
        }
        let deadline = Instant::now() + context.timeout;
        for attempt in 0..ATTEMPTS_MAX {
            let proof = self.prove(level, context, deadline, attempt).await?;
            let found = look_up().await?;
            if self.still_holds(&proof) {
                return Ok((found, proof.since.map(|moment| moment.elapsed())));
            }
        }
        match level {
            ReadLevel::Bounded(bound) => Err(self.too_stale(bound, "proof and lookup took longer".to_owned())),
            _ => Err(ReadError::NoQuorum { shard: self.core.shard_id(), why: "the proof ran out".to_owned() }),
        }
    }

    async fn prove(
        &self,
        level: ReadLevel,
        context: &RequestContext,
        deadline: Instant,
        attempt: u32,
    ) -> Result<Proof, ReadError> {
        match level {
            ReadLevel::Local => {
                self.refuse_if_empty()?;
                Ok(self.as_it_is())
            }
            ReadLevel::Session => {
                self.prove_session(context, deadline).await?;
                self.refuse_if_empty()?;
                Ok(self.as_it_is())
            }
            ReadLevel::Bounded(bound) => {
                let since = self.prove_bounded(bound, deadline, attempt).await?;
                Ok(Proof { since: Some(since), needs: Needs::Within(bound) })
            }
            ReadLevel::Linearizable => {
                let proven = timeout_at(deadline, self.prove_linearizable(deadline, attempt)).await;
                let (shard, deadline) = (self.core.shard_id(), context.timeout);
                proven.unwrap_or(Err(ReadError::DeadlineExceeded { shard, deadline }))
            }
            ReadLevel::One | ReadLevel::Quorum | ReadLevel::All => {
                Err(Refused::LevelNotOffered { level, mode: Mode::Cp, offered: Mode::Cp.levels() }.into())
            }
        }
    }

    /// A newcomer that has got nothing yet, not even the founding settings, finds nothing of what may well be there.
    fn refuse_if_empty(&self) -> Result<(), ReadError> {
        match self.shard().state().settings {
            Some(_) => Ok(()),
            None => Err(ReadError::NotLeader { shard: self.core.shard_id(), leader: self.leader_hint() }),
        }
    }

    fn as_it_is(&self) -> Proof {
        Proof { since: self.core.proven_until(), needs: Needs::Nothing }
    }

    fn still_holds(&self, proof: &Proof) -> bool {
        match proof.needs {
            Needs::Nothing => true,
            Needs::Lease { term } => self.core.lease.holds(&self.core, term),
            Needs::Within(bound) => proof.since.is_some_and(|moment| moment.elapsed() <= bound),
        }
    }

    /// Waits until this replica has what the session has seen of the shard. Within an incarnation an index names one
    /// decided entry, so the term says nothing more.
    async fn prove_session(&self, context: &RequestContext, deadline: Instant) -> Result<(), ReadError> {
        let Some(token) = &context.session else { return Ok(()) };
        let config = &self.core.context.config;
        let malformed = |problem: String| Err(Refused::Malformed { field: "session_token", problem }.into());
        if token.keyspace != config.keyspace {
            return malformed(format!(
                "it is of keyspace {}, this one is {}: begin a new session",
                token.keyspace, config.keyspace
            ));
        }
        let Some(seen) = token.shards.get(&config.shard) else { return Ok(()) };
        if seen.incarnation != config.incarnation {
            return malformed(format!(
                "it has seen incarnation {} of shard {}, this is incarnation {}, which was recovered from what a minority \
                 had: begin a new session",
                seen.incarnation, config.shard, config.incarnation
            ));
        }
        if planted!("bug-session-not-awaited") {
            return Ok(());
        }
        let patience = deadline.min(Instant::now() + SESSION_WAIT_MAX);
        match timeout_at(patience, self.until_applied(seen.position.index)).await {
            Ok(applied) => applied,
            Err(_) => Err(ReadError::SessionNotMet {
                shard: config.shard,
                at: self.applied(),
                wanted: seen.position,
                leader: self.leader_hint(),
            }),
        }
    }

    /// Rule R1: a moment at most `bound` ago, from what is known here already or from a round that began after the
    /// request arrived. A second attempt trusts only a round.
    async fn prove_bounded(&self, bound: Duration, deadline: Instant, attempt: u32) -> Result<Instant, ReadError> {
        let at_hand = self.core.proven_until().filter(|moment| attempt == 0 && moment.elapsed() <= bound);
        if let Some(moment) = at_hand {
            return Ok(moment);
        }
        let fresh = async {
            if matches!(self.core.office(), Office::Leads { .. }) {
                let proof = self.prove_linearizable(deadline, attempt).await?;
                return Ok(proof.since);
            }
            let Confirmed { index, since } = self.read_index.mark(&self.core).await?;
            self.until_applied(index).await?;
            Ok(Some(since))
        };
        match timeout_at(deadline, fresh).await {
            Ok(Ok(Some(since))) => Ok(since),
            Ok(Ok(None)) => Err(self.too_stale(bound, "the leader could not say since when".to_owned())),
            Ok(Err(error)) => Err(match error {
                ReadError::NotLeader { .. }
                | ReadError::NoQuorum { .. }
                | ReadError::DeadlineExceeded { .. }
                | ReadError::ClockSuspect { .. } => self.too_stale(bound, error.to_string()),
                other => other,
            }),
            Err(_) => Err(self.too_stale(bound, "no mark came within the deadline".to_owned())),
        }
    }

    /// Everything acknowledged before a moment after the call is applied here. A second attempt trusts no lease.
    async fn prove_linearizable(&self, deadline: Instant, attempt: u32) -> Result<Proof, ReadError> {
        self.refuse_unfit()?;
        let shard = self.core.shard_id();
        let term = match self.core.office() {
            Office::Leads { term } => term,
            Office::Follows { leader } => {
                return Err(ReadError::NotLeader { shard, leader: self.core.hint(leader) });
            }
            Office::Stopped { why } => return Err(ReadError::Stopped { shard, why }),
        };
        let now = Instant::now();
        let proof = if planted!("bug-reads-unconfirmed") {
            Proof { since: Some(now), needs: Needs::Nothing }
        } else if attempt == 0 && self.core.lease.holds(&self.core, term) {
            // A leader has applied whatever it acknowledged; what openraft knows decided besides is waited for.
            self.until_applied(self.core.committed_index()).await?;
            Proof { since: Some(now), needs: Needs::Lease { term } }
        } else {
            let Confirmed { index, since } = self.read_index.confirm(&self.core).await?;
            self.until_applied(index).await?;
            Proof { since: Some(since), needs: Needs::Nothing }
        };
        self.bring_time_up_to_date(deadline).await?;
        Ok(proof)
    }

    fn refuse_unfit(&self) -> Result<(), ReadError> {
        if self.core.context.health.is_clear() {
            return Ok(());
        }
        let causes = self.core.context.health.causes();
        if let Some(why) = causes.poisoned {
            return Err(ReadError::Stopped { shard: self.core.shard_id(), why });
        }
        if let Some(why) = causes.clock_suspect {
            return Err(ReadError::ClockSuspect { why });
        }
        if causes.draining {
            return Err(Refused::Draining.into());
        }
        Ok(())
    }

    async fn until_applied(&self, index: u64) -> Result<(), ReadError> {
        let mut applied = self.shard().watch_applied();
        let reached = applied.wait_for(|applied| applied.is_some_and(|applied| applied.index >= index)).await;
        let closed = |_| ReadError::Stopped { shard: self.core.shard_id(), why: "the shard was closed".to_owned() };
        reached.map(|_| ()).map_err(closed)
    }

    /// Rule T3: what is due by the leader's clock must be gone before the leader's first read, also after a silence.
    async fn bring_time_up_to_date(&self, deadline: Instant) -> Result<(), ReadError> {
        use kvorum_api::WriteError;
        if !self.is_time_overdue() {
            return Ok(());
        }
        let _turn = self.expiring.lock().await;
        if !self.is_time_overdue() {
            return Ok(());
        }
        let up_to_ms = self.core.context.hlc.physical_ms();
        let shard = self.core.shard_id();
        let patience = deadline.saturating_duration_since(Instant::now());
        match self.propose(Command::Expire { up_to_ms }, patience, Bytes::new()).await {
            Ok(_) => Ok(()),
            Err(WriteError::NotLeader { leader, .. }) => Err(ReadError::NotLeader { shard, leader }),
            Err(error) => Err(ReadError::NoQuorum { shard, why: format!("logged time is old: {error}") }),
        }
    }

    fn is_time_overdue(&self) -> bool {
        let state = self.shard().state();
        let now_ms = self.core.context.hlc.physical_ms();
        state.next_expiry_ms.is_some_and(|due_ms| due_ms <= now_ms)
            && now_ms.saturating_sub(state.logged_time_ms) > LOGGED_TIME_AGE_MS_MAX
    }

    /// Answers a follower's question for a mark: the leader proves itself current, then says how far it has applied.
    pub(super) async fn answer_mark(&self, payload: Bytes) -> Result<Bytes, String> {
        decode_mark_request(payload).map_err(|error| error.to_string())?;
        let deadline = Instant::now() + self.core.context.timing.election_min;
        let proven = timeout_at(deadline, self.prove_linearizable(deadline, 0)).await;
        let proof =
            proven.map_err(|_| "no majority answered in time".to_owned())?.map_err(|error| error.to_string())?;
        let index = self.applied().index;
        // A pause in between may have outlived the lease; the follower asks again.
        if self.still_holds(&proof) { Ok(encode_mark_reply(index)) } else { Err("the lease ran out".to_owned()) }
    }

    fn too_stale(&self, bound: Duration, why: String) -> ReadError {
        ReadError::TooStale { shard: self.core.shard_id(), bound, why, leader: self.leader_hint() }
    }

    fn leader_hint(&self) -> Option<LeaderHint> {
        match self.core.office() {
            Office::Leads { .. } => self.core.hint(Some(self.core.replica.0)),
            Office::Follows { leader } => self.core.hint(leader),
            Office::Stopped { .. } => None,
        }
    }

    /// Where this replica stands.
    pub(super) fn applied(&self) -> LogPosition {
        self.shard().watch_applied().borrow().as_ref().copied().unwrap_or_default()
    }

    /// The shard's epoch and what does not fit, if the asker believes in an older one (rule C3). Whoever believes in a
    /// newer one is answered by this replica's own range: what the log has not decided here yet, it cannot know.
    pub(super) fn refuse_older_epoch(&self, context: &RequestContext) -> Option<(u64, String)> {
        let (believed, epoch) = (context.epoch?, self.epoch());
        (believed < epoch).then(|| (epoch, format!("the asker believes in epoch {believed}")))
    }
}
