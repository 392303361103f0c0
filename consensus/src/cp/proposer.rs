//! The proposer of one group: drains its queue into entries of the log.
//!
//! ```text
//!   queue ──▶ one entry, encoded once ──▶ openraft ──▶ majority ──▶ apply ──▶ one outcome per command
//!              while up to `proposals_in_flight_max` earlier ones are on their way; no timer
//! ```
//!
//! While an entry is on its way the next one leaves only if it carries at least as much (Nagle's rule): callers that
//! wait for each other's answers would otherwise stay split into small groups for ever, each paying for an entry. An
//! entry that does not end within an election timeout holds nobody up: what comes after it may have to be refused.
//!
//! **Invariant.** What is refused here before it is handed over, or by openraft before it appends, has
//! `Effect::None` (rule G6); everything else that is not decided has `Effect::Unknown`. Nothing is proposed before the
//! group's founding settings are in force (rule C1).

use super::{
    codec::raft::encode_proposal,
    core::{Core, Office},
    figures,
    queue::{Decided, Pending, Queue, Verdict},
    state_machine::StateMachine,
    types::{Answer, Encoded, LogId, Types, position},
};
use crate::gather::Gather;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use kvorum_api::{Effect, Refused, WriteError};
use kvorum_storage::{
    Operation,
    command::{Command, Proposal},
};
use openraft::{
    Raft, ReadPolicy,
    errors::{ClientWriteError, ForwardReason, LinearizableReadError, RaftError},
    impls::ProgressResponder,
};
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

/// Proposes what a group's clients want.
#[derive(Clone)]
pub(crate) struct Proposer {
    core: Arc<Core>,
    raft: Raft<Types, StateMachine>,
    queue: Arc<Queue>,
}

/// How one attempt at an entry ended.
enum Attempt {
    Applied(LogId, Answer),
    /// Openraft had no fresh word of a majority and appended nothing.
    LeaseExpired,
    Failed(WriteError),
}

impl Proposer {
    pub(crate) fn new(core: Arc<Core>, raft: Raft<Types, StateMachine>, queue: Arc<Queue>) -> Self {
        Proposer { core, raft, queue }
    }

    /// Works until it is aborted; whoever waits then learns that the replica stopped.
    pub(crate) async fn run(self) {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, usize>> = FuturesUnordered::new();
        let (mut commands_in_flight, mut gather) = (0, Gather::default());
        let (mut moved, patience) = (Instant::now(), self.core.context.timing.election_min);
        let budget = self.core.context.budget;
        let mut is_founded = false;
        loop {
            let has_room = in_flight.len() < budget.proposals_in_flight_max.max(1);
            let is_stuck = moved.elapsed() >= patience;
            let commands_min =
                if is_stuck { 1 } else { commands_in_flight.clamp(1, budget.proposal_commands_max.max(1)) };
            tokio::select! {
                // Answers first: they free the room that new proposals need.
                biased;
                Some(commands) = in_flight.next() => {
                    commands_in_flight -= commands;
                    moved = Instant::now();
                    self.queue.set_in_work(in_flight.len());
                }
                () = sleep_until(moved + patience), if has_room && commands_min > 1 => {}
                () = self.queue.wait(commands_min), if has_room => {
                    self.queue.set_in_work(in_flight.len() + 1);
                    if !is_founded {
                        is_founded = self.found().await.is_ok();
                    }
                    self.queue.gather(&mut gather).await;
                    let batch = self.queue.take(budget.proposal_bytes_max, budget.proposal_commands_max);
                    gather.went(batch.len());
                    let batch = self.admit(batch, is_founded);
                    if !batch.is_empty() {
                        let commands = batch.len();
                        commands_in_flight += commands;
                        moved = Instant::now();
                        in_flight.push(Box::pin(self.clone().decide(batch).map(move |()| commands)));
                    }
                    self.queue.set_in_work(in_flight.len());
                }
            }
        }
    }

    /// Makes the founding settings the group's first command (rule C1). Called with nothing else in flight: nothing is
    /// admitted before it has succeeded.
    async fn found(&self) -> Result<(), WriteError> {
        let shard = &self.core.store.shard;
        if shard.state().settings.is_some() {
            return Ok(());
        }
        let Office::Leads { term } = self.core.office() else { return Err(self.not_leader(None)) };
        // Once this term's first entry is applied, whatever an earlier leader decided is applied too.
        let mut applied = shard.watch_applied();
        let is_current = applied.wait_for(|applied| applied.is_some_and(|applied| applied.term >= term));
        let patience = self.core.context.timing.election_max;
        if tokio::time::timeout(patience, is_current).await.is_err() {
            return Err(self.no_quorum("the first entry of this term is not committed"));
        }
        if shard.state().settings.is_some() {
            return Ok(());
        }
        tracing::info!(shard = %self.core.shard_id(), "proposing the founding settings");
        let founding = Command::Configure(self.core.context.config.settings.clone());
        self.settle(vec![founding], Bytes::new()).await.map(|_| ())
    }

    /// Refuses what must not be proposed; gives back the rest.
    fn admit(&self, batch: Vec<Pending>, is_founded: bool) -> Vec<Pending> {
        let mut admitted = Vec::with_capacity(batch.len());
        for pending in batch {
            let refusal = self
                .refusal(&pending.command)
                .or_else(|| (!is_founded).then(|| self.no_quorum("the founding settings are not decided yet")));
            match refusal {
                Some(error) => pending.seat.tell(Err(error)),
                None => admitted.push(pending),
            }
        }
        admitted
    }

    /// Why a command must not be proposed here and now.
    fn refusal(&self, command: &Command) -> Option<WriteError> {
        let shard = self.core.shard_id();
        if !self.core.context.health.is_clear() {
            let causes = self.core.context.health.causes();
            if let Some(why) = causes.poisoned {
                return Some(WriteError::Poisoned { why, effect: Effect::None });
            }
            if let Some(why) = causes.clock_suspect {
                return Some(WriteError::ClockSuspect { why });
            }
            if let (Some(why), true) = (causes.disk_full, takes_room(command)) {
                return Some(WriteError::DiskFull { why });
            }
            if causes.draining && matches!(command, Command::Write(_)) {
                return Some(Refused::Draining.into());
            }
        }
        match self.core.office() {
            Office::Leads { .. } => None,
            Office::Follows { leader } => Some(self.not_leader(leader)),
            Office::Stopped { why } => Some(WriteError::Stopped { shard, why, effect: Effect::None }),
        }
    }

    /// Proposes a batch and tells everybody how it ended.
    async fn decide(self, batch: Vec<Pending>) {
        let trace = batch.iter().map(|pending| &pending.trace).find(|trace| !trace.is_empty()).cloned();
        let (commands, seats): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|pending| (pending.command, pending.seat)).unzip();
        let verdicts: Vec<Verdict> = match self.settle(commands, trace.unwrap_or_default()).await {
            Ok(decided) => decided.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); seats.len()],
        };
        assert_eq!(verdicts.len(), seats.len(), "a shard answers every command it applies");
        for (seat, verdict) in seats.into_iter().zip(verdicts) {
            seat.tell(verdict);
        }
    }

    /// Proposes commands as one entry, a second time if openraft first wanted to hear from a majority (rule G6).
    async fn settle(&self, commands: Vec<Command>, trace: Bytes) -> Result<Vec<Decided>, WriteError> {
        figures::proposed(commands.len());
        let hlc = &self.core.context.hlc;
        let proposal =
            Proposal { time_ms: hlc.physical_ms(), stamp: hlc.now(), actor: self.core.context.actor, commands };
        let encoded = Encoded { trace, ..encode_proposal(&proposal) };
        drop(proposal);
        let (log_id, answer) = match self.attempt(encoded.clone()).await {
            Attempt::Applied(log_id, answer) => (log_id, answer),
            Attempt::Failed(error) => return Err(error),
            Attempt::LeaseExpired => {
                self.confirm().await?;
                match self.attempt(encoded).await {
                    Attempt::Applied(log_id, answer) => (log_id, answer),
                    Attempt::Failed(error) => return Err(error),
                    Attempt::LeaseExpired => return Err(self.no_quorum("no majority has answered lately")),
                }
            }
        };
        // Applied, but a poisoned node acknowledges nothing (invariant 5).
        if let Some(why) = self.poisoned() {
            return Err(WriteError::Poisoned { why, effect: Effect::Unknown });
        }
        let position = position(&log_id);
        Ok(answer.outcomes.into_iter().map(|outcome| Decided { outcome, position }).collect())
    }

    async fn attempt(&self, encoded: Encoded) -> Attempt {
        let shard = self.core.shard_id();
        let term = match self.core.office() {
            Office::Leads { term } => term,
            Office::Follows { leader } => return Attempt::Failed(self.not_leader(leader)),
            Office::Stopped { why } => {
                return Attempt::Failed(WriteError::Stopped { shard, why, effect: Effect::None });
            }
        };
        let (responder, decided) = ProgressResponder::complete_only();
        if let Err(fatal) = self.raft.write(encoded).with_leader(term).responder(responder).await {
            return Attempt::Failed(self.stopped(fatal.to_string()));
        }
        match decided.await {
            Ok(Ok(response)) => Attempt::Applied(response.log_id, response.data),
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => match forward.reason {
                ForwardReason::LeaseExpired => Attempt::LeaseExpired,
                ForwardReason::LeadershipTransfer => Attempt::Failed(self.not_leader(forward.leader_id)),
                ForwardReason::NotLeader => Attempt::Failed(self.lost(forward.to_string())),
            },
            Ok(Err(error)) => Attempt::Failed(self.lost(error.to_string())),
            Err(_) => Attempt::Failed(self.stopped("the replica stopped".to_owned())),
        }
    }

    /// Hears from a majority. Nothing has been appended yet, so a failure has no effect.
    async fn confirm(&self) -> Result<(), WriteError> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(self.not_leader(forward.leader_id))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(missing))) => {
                Err(self.no_quorum(&missing.to_string()))
            }
            Err(RaftError::Fatal(fatal)) => {
                Err(WriteError::Stopped { shard: self.core.shard_id(), why: fatal.to_string(), effect: Effect::None })
            }
        }
    }

    fn poisoned(&self) -> Option<String> {
        let health = &self.core.context.health;
        if health.is_clear() { None } else { health.causes().poisoned }
    }

    fn not_leader(&self, leader: Option<u64>) -> WriteError {
        WriteError::NotLeader { shard: self.core.shard_id(), leader: self.core.hint(leader) }
    }

    fn no_quorum(&self, why: &str) -> WriteError {
        WriteError::NoQuorum { shard: self.core.shard_id(), why: why.to_owned() }
    }

    fn lost(&self, why: String) -> WriteError {
        WriteError::LeadershipLost { shard: self.core.shard_id(), why }
    }

    /// Handed over, and the replica ended.
    fn stopped(&self, why: String) -> WriteError {
        match self.poisoned() {
            Some(why) => WriteError::Poisoned { why, effect: Effect::Unknown },
            None => WriteError::Stopped { shard: self.core.shard_id(), why, effect: Effect::Unknown },
        }
    }
}

/// Whether a command may need more space than it frees (rule S5).
fn takes_room(command: &Command) -> bool {
    match command {
        Command::Write(write) => {
            write.operations.iter().any(|operation| !matches!(operation, Operation::Delete { .. }))
        }
        Command::Expire { .. } => false,
        Command::Configure(_) => true,
    }
}
