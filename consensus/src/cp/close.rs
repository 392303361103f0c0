//! Closing a group: what leader and followers say to each other, and what each looks at before it agrees (rule G2).
//!
//! ```text
//!   leader   hush ──close {term, index}──▶ every voter that lives ──▶ all yes: ends its Raft instance, last of all
//!                                                             └─ any no: speaks again, which opens who had closed
//!   follower   same term and leader; last entry = applied = flushed = index ──▶ yes, then ends its own
//! ```
//!
//! **Invariant.** Nothing here decides when a group is idle, and nothing here is needed for safety: a replica that ends
//! its Raft instance keeps every promise it made, because they are in the journal. Agreement is what keeps the group
//! from electing when it opens again.

use super::{
    codec::{DecodeError, Reader, begin, put_bytes, raft::decode_vote},
    core::Office,
    figures,
    group::Group,
    types::LogId,
};
use crate::{
    groups::decide::{Figures, Voter},
    peers::{MessageKind, Outgoing},
    transport::Lane,
};
use bytes::{BufMut, Bytes};
use futures::future::join_all;
use kvorum_api::{GroupId, LogPosition, NodeId, ReplicaId};
use kvorum_storage::Journal;
use openraft::async_runtime::watch::WatchReceiver as _;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::{Instant, timeout};

/// What a leader proposes to close at: its own term and the last index of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

impl Offer {
    /// Its bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = begin(16);
        out.put_u64(self.term);
        out.put_u64(self.index);
        out.freeze()
    }

    /// The reverse.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::open(bytes, "offer to close")?;
        let offer = Offer { term: reader.u64()?, index: reader.u64()? };
        reader.end()?;
        Ok(offer)
    }
}

/// What a follower answers: agreed, or why not.
pub(crate) fn encode_verdict(verdict: &Result<(), String>) -> Bytes {
    let why = verdict.as_ref().err().map_or("", String::as_str);
    let mut out = begin(5 + why.len());
    out.put_u8(u8::from(verdict.is_ok()));
    put_bytes(&mut out, why.as_bytes());
    out.freeze()
}

/// The reverse of [`encode_verdict`].
pub(crate) fn decode_verdict(bytes: Bytes) -> Result<Result<(), String>, DecodeError> {
    let mut reader = Reader::open(bytes, "answer to an offer to close")?;
    let is_agreed = reader.bool()?;
    let why = reader.bytes()?;
    reader.end()?;
    Ok(if is_agreed { Ok(()) } else { Err(String::from_utf8_lossy(&why).into_owned()) })
}

/// Whom the journal names as the last leader a replica knew: its term, and the replica if a majority had voted for it.
pub(crate) fn last_leader(journal: &dyn Journal, group: GroupId) -> (u64, Option<ReplicaId>) {
    let vote = journal.group(group).vote.and_then(|vote| decode_vote(vote).ok());
    vote.map_or((0, None), |vote| {
        let leader = vote.committed.then_some(ReplicaId(vote.leader_id.voted_for));
        (vote.leader_id.term, leader)
    })
}

impl Group {
    /// What a decision to close is made from. `is_lost` says which nodes do not count.
    pub(crate) fn closing_figures(&self, is_lost: impl Fn(NodeId) -> bool) -> Figures {
        let state = self.shard().state();
        let own = self.core.replica.0;
        let (last, voters, committed_term) = self
            .core
            .look(|metrics| {
                let matched = metrics.replication.as_ref();
                let members = metrics.membership_config.membership();
                let voters = metrics.membership_config.voter_ids().map(|voter| {
                    let matched = matched.and_then(|matched| matched.get(&voter).copied().flatten());
                    let node = members.get_node(&voter).map(|member| member.node);
                    Voter {
                        replica: ReplicaId(voter),
                        matched: if voter == own { metrics.last_log_index } else { matched.map(|id: LogId| id.index) },
                        is_lost: voter != own && node.is_none_or(&is_lost),
                    }
                });
                (
                    metrics.last_log_index,
                    voters.collect(),
                    metrics.cluster_committed.map(|log_id| log_id.leader_id.term),
                )
            })
            .unwrap_or_default();
        let leads_in = match self.core.office() {
            Office::Leads { term } => Some(term),
            Office::Follows { .. } | Office::Stopped { .. } => None,
        };
        Figures {
            leads_in: leads_in.filter(|term| committed_term == Some(*term)),
            is_founded: state.settings.is_some(),
            is_busy: !self.queue.is_idle() || self.receiving.is_busy() || self.core.transferring_since().is_some(),
            last,
            applied: state.applied.position.map(|position| position.index),
            flushed: self.core.store.flushed_seen(),
            voters,
        }
    }

    /// Asks the engine again how far it is flushed.
    pub(crate) async fn look_at_flushed(&self) {
        if let Err(error) = self.core.store.flushed().await {
            self.core.store.poison_if_fatal(&error);
        }
    }

    /// Sends no heartbeats and stands for no election, until [`Group::speak`].
    pub(crate) fn hush(&self) {
        // Followers that close forget what they promised.
        self.core.give_up_lease();
        let runtime = self.raft.runtime_config();
        runtime.heartbeat(false);
        runtime.elect(false);
    }

    /// Takes [`Group::hush`] back. A leader speaks at once: that opens again who had closed.
    pub(crate) async fn speak(&self) {
        self.core.lease.take_back();
        self.raft.runtime_config().heartbeat(true);
        self.allow_standing();
        let _ = self.ask(|raft| async move { raft.trigger().heartbeat().await }).await;
    }

    /// Lets the replica stand for election if it is fit and may.
    pub(crate) fn allow_standing(&self) {
        self.core.allow_standing(&self.raft);
    }

    /// A leader has spoken: from now on this replica may stand when it falls silent (rule G3).
    pub(crate) fn leader_spoke(&self) {
        if !self.core.may_stand.swap(true, Ordering::Relaxed) {
            self.allow_standing();
        }
    }

    /// Offers every voter of `voters` to close, and gives the first refusal.
    pub(crate) async fn offer_close(
        &self,
        offer: Offer,
        voters: &[ReplicaId],
        patience: Duration,
    ) -> Result<(), String> {
        let others = voters.iter().filter(|voter| **voter != self.core.replica);
        let asked = others.map(|voter| async move {
            let Some(to) = self.core.node_of(voter.0) else { return Err(format!("replica {voter} is nowhere")) };
            let call = self.core.context.peers.call(Outgoing {
                to,
                lane: Lane::Control,
                group: self.core.group,
                from_replica: self.core.replica,
                to_replica: *voter,
                kind: MessageKind::Close,
                payload: offer.encode(),
                timeout: patience,
            });
            let answer = call.await.map_err(|error| format!("replica {voter}: {error}"))?;
            let verdict = decode_verdict(answer).map_err(|error| format!("replica {voter}: {error}"))?;
            verdict.map_err(|why| format!("replica {voter}: {why}"))
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Whether this follower agrees to close as its leader `from` offers.
    pub(crate) fn weigh_offer(&self, from: ReplicaId, offer: Offer) -> Result<(), String> {
        let known = self.core.look(|metrics| {
            (metrics.vote.committed, metrics.vote.leader_id.voted_for, metrics.current_term, metrics.last_log_index)
        });
        let Some((is_committed, leader, term, last)) = known else { return Err("it is being made".to_owned()) };
        if !is_committed || leader != from.0 || term != offer.term {
            return Err(format!("it follows replica {leader} in term {term}"));
        }
        let applied = self.position().map(|position| position.index);
        if last != Some(offer.index) || applied != last {
            return Err(format!("its log ends at {last:?}, applied up to {applied:?}"));
        }
        if self.receiving.is_busy() || !self.queue.is_idle() {
            return Err("it is busy".to_owned());
        }
        if self.core.store.flushed_seen() < offer.index {
            return Err(format!("it is flushed up to {} only", self.core.store.flushed_seen()));
        }
        Ok(())
    }

    /// Whether the engine is not flushed up to `index`.
    pub(crate) fn lacks_flush(&self, index: u64) -> bool {
        self.core.store.flushed_seen() < index
    }

    /// Where its shard stands.
    pub(crate) fn position(&self) -> Option<LogPosition> {
        self.shard().state().applied.position
    }

    /// The term and the leader it knows.
    pub(crate) fn known_leader(&self) -> (u64, Option<ReplicaId>) {
        let known = self.core.look(|metrics| (metrics.current_term, metrics.current_leader.map(ReplicaId)));
        known.unwrap_or_default()
    }

    /// Whether it leads now.
    pub(crate) fn is_leading(&self) -> bool {
        matches!(self.core.office(), Office::Leads { .. })
    }

    /// Waits until somebody leads who did not when the group was closed, for at most `patience`.
    pub(crate) async fn until_led(&self, former: (u64, Option<ReplicaId>), patience: Duration) {
        let Some(mut metrics) = self.core.metrics() else { return };
        let led = async {
            loop {
                match self.core.office() {
                    Office::Leads { .. } | Office::Stopped { .. } => return,
                    Office::Follows { leader: Some(_) } if self.known_leader() != former => return,
                    Office::Follows { .. } => {}
                }
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout(patience, led).await;
    }

    /// Stands for election now, if a majority would have it: no term is wasted on asking.
    pub(crate) async fn stand(&self) {
        let is_fit = self.core.is_electable.load(Ordering::Relaxed);
        // openraft would stand although it is told not to (rule G5): its own vote is promised like any other.
        if is_fit && self.core.lease.refuses_vote(false).is_ok() {
            let _ = self.ask(|raft| async move { raft.trigger().elect(true).await }).await;
        }
    }

    /// Hands leadership to one replica, if it leads and that one is up to date, alive and willing.
    pub(crate) async fn hand_over_to(&self, heir: ReplicaId) -> bool {
        let is_ready = self.core.look(|metrics| super::duties::is_heir(&self.core, metrics, heir.0)) == Some(true);
        if !self.is_leading() || !is_ready {
            return false;
        }
        tracing::info!(shard = %self.core.shard_id(), %heir, "handing leadership to whom the map names");
        figures::handed_over();
        self.core.begin_transfer();
        matches!(self.ask(move |raft| async move { raft.trigger().transfer_leader(heir.0).await }).await, Ok(Ok(())))
    }

    /// Whether a transfer that it began came to nothing: it leads still, and openraft lets it neither propose nor send
    /// heartbeats for as long as it does.
    pub(crate) fn is_deaf(&self) -> bool {
        let patience = self.core.context.timing.election_max;
        self.core.transferring_since().is_some_and(|since| since.elapsed() > patience) && !self.receiving.is_busy()
    }

    /// Whether it has begun a transfer in a term: then it must not go on leading in that term (rule G5).
    pub(crate) fn has_begun_transfer(&self, term: u64) -> bool {
        self.core.transfer_begun_in(term).is_some()
    }

    /// When it last promised a leader to vote for nobody else.
    pub(crate) fn promised_at(&self) -> Option<Instant> {
        self.core.lease.promised_at()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::spoil::raw_and_spoiled;
    use proptest::prelude::*;

    #[test]
    fn version_1_is_what_it_was() {
        let offer = Offer { term: 3, index: 9 };
        let bytes = [1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(offer.encode(), bytes.as_slice());
        assert_eq!(Offer::decode(Bytes::copy_from_slice(&bytes)), Ok(offer));
        assert_eq!(encode_verdict(&Ok(())), [1_u8, 1, 0, 0, 0, 0].as_slice());
        assert_eq!(encode_verdict(&Err("no".to_owned())), [1_u8, 0, 0, 0, 0, 2, b'n', b'o'].as_slice());
    }

    proptest! {
        #[test]
        fn any_offer_and_verdict_round_trip(term: u64, index: u64, why: Option<String>) {
            let offer = Offer { term, index };
            prop_assert_eq!(Offer::decode(offer.encode()), Ok(offer));
            let verdict = why.map_or(Ok(()), Err);
            prop_assert_eq!(decode_verdict(encode_verdict(&verdict)), Ok(verdict));
        }
    }

    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_what_they_say() {
        let sound = [Offer { term: 3, index: 9 }.encode(), encode_verdict(&Err("no".to_owned()))];
        bolero::check!().with_iterations(1_000).with_max_len(40).for_each(|input: &[u8]| {
            for bytes in sound.iter().flat_map(|sound| raw_and_spoiled(sound, input)) {
                if let Ok(offer) = Offer::decode(bytes.clone()) {
                    assert_eq!(offer.encode(), bytes);
                }
                if let Ok(verdict) = decode_verdict(bytes) {
                    assert_eq!(decode_verdict(encode_verdict(&verdict)), Ok(verdict));
                }
            }
        });
    }
}
