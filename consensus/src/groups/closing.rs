//! Closing a group in agreement (rule G2), and what a closed one does with messages of its other replicas (rule G3).
//!
//! ```text
//!   leader:    shut the gate ─▶ hush ─▶ offer ─▶ all yes, nobody waits ─▶ end ─▶ record ─▶ open the gate
//!                                          └──── no, or somebody waits ─▶ speak ─────────▶ open the gate
//! ```
//!
//! **Invariant.** A request that finds the gate shut is served by whatever comes of it. A replica never ends its Raft
//! instance while a snapshot is being installed.

use super::{
    decide::{Figures, How, OnVote, Opener, Voter, Why, grant_vote_when_closed, may_close},
    replica::Replica,
};
use crate::{
    cp::{
        Group,
        close::{Offer, encode_verdict},
    },
    peers::{Incoming, MessageKind},
};
use bytes::Bytes;
use kvorum_api::ReplicaId;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Why a message is not answered.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Not now: as if the replica were not there.
    NotNow(String),
    /// The replica refuses it.
    Refused(String),
}

impl Replica {
    /// Closes the group if nobody needs it and every living replica agrees.
    ///
    /// # Errors
    /// What is in the way.
    pub(crate) async fn try_close(&self) -> Result<(), String> {
        let Some(_shut) = self.gate.try_shut() else { return Err(Why::Busy.to_string()) };
        let Some(group) = self.group() else { return Ok(()) };
        if group.is_changing() || self.place().is_operated {
            return Err(Why::Busy.to_string());
        }
        let figures = self.figures(&group).await;
        if let Err(why) = may_close(&figures) {
            if why == Why::NotFlushed {
                self.shared.flushing.want();
            }
            return Err(why.to_string());
        }
        let (Some(term), Some(index)) = (figures.leads_in, figures.last) else {
            return Err(Why::NotLeading.to_string());
        };
        let (skipped, asked): (Vec<Voter>, Vec<Voter>) = figures.voters.iter().partition(|voter| voter.is_lost);
        let asked: Vec<ReplicaId> = asked.into_iter().map(|voter| voter.replica).collect();
        let skipped = skipped.into_iter().map(|voter| voter.replica).collect();
        group.hush();
        let patience = self.shared.timing.election_min;
        let agreed = tokio::select! {
            biased;
            agreed = group.offer_close(Offer { term, index }, &asked, patience) => agreed,
            // Whoever arrives is not made to wait for those who do not answer.
            () = self.gate.until_wanted() => Err(Why::Wanted.to_string()),
        };
        match agreed.and_then(|()| self.is_still_so(&group, &figures)) {
            Ok(()) => {
                self.close_down(&group, skipped).await;
                self.open_if_skipped_returned();
                Ok(())
            }
            Err(why) => {
                self.note_refused_offer();
                group.speak().await;
                Err(why)
            }
        }
    }

    async fn figures(&self, group: &Group) -> Figures {
        let look = || group.closing_figures(|node| self.shared.liveness.is_lost(node));
        let figures = look();
        if may_close(&figures) != Err(Why::NotFlushed) {
            return figures;
        }
        group.look_at_flushed().await;
        look()
    }

    /// What was offered must still hold once everybody has agreed to it.
    fn is_still_so(&self, group: &Group, offered: &Figures) -> Result<(), String> {
        if self.gate.is_wanted() {
            return Err(Why::Wanted.to_string());
        }
        let now = group.closing_figures(|node| self.shared.liveness.is_lost(node));
        if now.leads_in != offered.leads_in {
            return Err(Why::NotLeading.to_string());
        }
        if now.last != offered.last || now.is_busy { Err(Why::Busy.to_string()) } else { Ok(()) }
    }

    /// Answers one message of another replica of this group, opening it if the message calls for that.
    pub(crate) async fn handle(self: &Arc<Self>, message: Incoming) -> Result<Bytes, Unanswered> {
        if let Some(why) = self.ended() {
            return Err(Unanswered::Refused(why));
        }
        if message.kind == MessageKind::Close {
            return self.answer_close(message).await;
        }
        let _inside = self.gate.enter().await;
        let group = match self.group() {
            Some(group) => group,
            None => self.open_by(&message).await?,
        };
        if message.kind == MessageKind::Open {
            return Ok(Bytes::new());
        }
        group.handle(message).await.map_err(Unanswered::Refused)
    }

    async fn open_by(&self, message: &Incoming) -> Result<Arc<Group>, Unanswered> {
        let how = match message.kind {
            MessageKind::Vote | MessageKind::PreVote => self.weigh_candidate(message.from_replica)?,
            // They need a leader, and take this replica for it.
            MessageKind::Open | MessageKind::Mark => match self.opener() {
                Opener::Here(how) => how,
                Opener::Elsewhere(node) => return Err(Unanswered::Refused(format!("node {node} led it last"))),
            },
            // The leader has spoken. A heartbeat is an append too.
            MessageKind::Append
            | MessageKind::TransferLeader
            | MessageKind::SnapshotBegin
            | MessageKind::SnapshotChunk
            | MessageKind::SnapshotFinish
            | MessageKind::Heartbeats => How::Follow,
            MessageKind::Hello | MessageKind::MetadataFollow | MessageKind::MetadataCommand | MessageKind::Close => {
                return Err(Unanswered::Refused(format!("{:?} is not for a replica", message.kind)));
            }
        };
        self.opened(how).await.map_err(Unanswered::Refused)
    }

    fn weigh_candidate(&self, candidate: ReplicaId) -> Result<How, Unanswered> {
        match grant_vote_when_closed(&self.record(), self.recorded_leader(), candidate, self.shared.me()) {
            OnVote::Open => Ok(How::Follow),
            // Whoever leads would have opened it by now: the node lives, and its replica does not.
            OnVote::Refuse if self.sends_away_in_vain() => Ok(How::Follow),
            OnVote::Refuse => Err(Unanswered::NotNow("the group is closed, and its leader lives".to_owned())),
            OnVote::Wake => {
                if let Opener::Here(how) = self.opener() {
                    self.open_soon(how);
                }
                Err(Unanswered::NotNow("this replica led last, and opens the group".to_owned()))
            }
        }
    }

    /// Answers the leader's offer to close, and closes behind the answer if this replica agrees.
    async fn answer_close(self: &Arc<Self>, message: Incoming) -> Result<Bytes, Unanswered> {
        let offer = Offer::decode(message.payload).map_err(|error| Unanswered::Refused(error.to_string()))?;
        let (from, me) = (message.from_replica, self.clone());
        let (tell, told) = oneshot::channel();
        // Not the caller's to give up: what was agreed to is done.
        self.shared.tasks.spawn(async move {
            let Some(_shut) = me.gate.try_shut() else {
                let _ = tell.send(Err("requests are under way".to_owned()));
                return;
            };
            let Some(group) = me.group() else {
                let _ = tell.send(me.is_closed_at(from, offer));
                return;
            };
            group.look_at_flushed().await;
            let verdict = group.weigh_offer(from, offer);
            if group.lacks_flush(offer.index) {
                me.shared.flushing.want();
            }
            let is_agreed = verdict.is_ok();
            let _ = tell.send(verdict);
            if is_agreed {
                me.close_down(&group, Vec::new()).await;
            }
        });
        let verdict = told.await.map_err(|_| Unanswered::NotNow("the node is stopping".to_owned()))?;
        Ok(encode_verdict(&verdict))
    }

    /// An answer may have been lost: the leader asks again, and this replica has closed already.
    fn is_closed_at(&self, from: ReplicaId, offer: Offer) -> Result<(), String> {
        let record = self.record();
        let is_same = record.was_closed_in_order
            && record.leader == Some(from)
            && record.term == offer.term
            && record.position.map(|position| position.index) == Some(offer.index);
        if is_same { Ok(()) } else { Err(format!("it is closed, at {:?} in term {}", record.position, record.term)) }
    }
}
