//! What a node answers to its peers.
//!
//! ```text
//!   envelope ──▶ peers: who is it? ──▶ hello      what this node holds
//!                                  └─▶ replica    may it take part? ──▶ its group, opened if need be
//! ```
//!
//! **Invariant.** A hello is answered once the asker's life is known durably. A replica that may have been emptied
//! answers nothing.

use crate::{
    envelope::Refusal,
    groups::{Replica, Unanswered},
    heartbeats::{self, Outcome},
    hello::may_take_part,
    metadata::ShardStage,
    node::{HELLO_TIMEOUT, Node},
    peers::{Incoming, MessageKind, Received},
};
use bytes::Bytes;
use std::sync::atomic::Ordering;

impl Node {
    pub(crate) async fn respond(&self, request: Received) -> Bytes {
        if let Some(why) = self.peers.silence(request.kind) {
            return self.peers.refuse(&request, Refusal::NotNow, why);
        }
        match request.kind {
            MessageKind::Hello => self.answer_hello(&request).await,
            MessageKind::MetadataFollow | MessageKind::MetadataCommand => match self.answer_metadata(&request).await {
                Ok(payload) => self.peers.reply(&request, payload),
                Err(why) => self.peers.refuse(&request, Refusal::Replica, why),
            },
            MessageKind::Append
            | MessageKind::Vote
            | MessageKind::PreVote
            | MessageKind::TransferLeader
            | MessageKind::SnapshotBegin
            | MessageKind::SnapshotChunk
            | MessageKind::SnapshotFinish
            | MessageKind::Close
            | MessageKind::Open
            | MessageKind::Mark => match self.ask_replica(&request).await {
                Ok(payload) => self.peers.reply(&request, payload),
                Err((refusal, why)) => self.peers.refuse(&request, refusal, why),
            },
            MessageKind::Heartbeats => self.answer_heartbeats(&request).await,
        }
    }

    /// A hello is answered once the asker's life is known durably: from then on its directory cannot be emptied unseen.
    async fn answer_hello(&self, request: &Received) -> Bytes {
        if !self.is_open.load(Ordering::Acquire) {
            return self.peers.refuse(request, Refusal::NotNow, "this node is starting".to_owned());
        }
        let (_, revision) = self.peers.lives();
        match tokio::time::timeout(HELLO_TIMEOUT, self.note.wait_kept(revision)).await {
            Ok(()) => self.peers.reply(request, self.hello().encode()),
            Err(_) => {
                let why = "this node cannot note durably whom it met".to_owned();
                self.peers.refuse(request, Refusal::NotNow, why)
            }
        }
    }

    /// Every heartbeat of a merged envelope is asked as if it had come alone.
    async fn answer_heartbeats(&self, request: &Received) -> Bytes {
        let ask = |heartbeat| async move {
            match self.ask_replica(&request.part(heartbeat)).await {
                Ok(payload) => Outcome::Answered(payload),
                Err((Refusal::UnknownReplica | Refusal::Replica, why)) => Outcome::Refused(why),
                Err((_, why)) => Outcome::Unreachable(why),
            }
        };
        match heartbeats::answer(request.envelope.payload.clone(), ask).await {
            Ok(payload) => self.peers.reply(request, payload),
            Err(error) => self.peers.refuse(request, Refusal::Malformed, error.to_string()),
        }
    }

    async fn ask_replica(&self, request: &Received) -> Result<Bytes, (Refusal, String)> {
        let envelope = &request.envelope;
        let Some(replica) = self.groups.get(envelope.group) else {
            let why = format!("unknown replica: node {} holds none of group {}", self.config.node, envelope.group);
            return Err((Refusal::UnknownReplica, why));
        };
        let sender = (envelope.from_replica, envelope.from);
        if envelope.to_replica != replica.id() || !replica.knows(sender) {
            let why = format!(
                "unknown replica: group {} has replica {} on node {}, and the message goes from replica {} on node {} \
                 to replica {}",
                envelope.group,
                replica.id(),
                self.config.node,
                envelope.from_replica,
                envelope.from,
                envelope.to_replica,
            );
            return Err((Refusal::UnknownReplica, why));
        }
        self.may_answer(&replica, request).map_err(|why| (Refusal::NotNow, why))?;
        let message = Incoming {
            from: envelope.from,
            from_replica: envelope.from_replica,
            kind: request.kind,
            payload: envelope.payload.clone(),
        };
        replica.handle(message).await.map_err(|unanswered| match unanswered {
            Unanswered::NotNow(why) => (Refusal::NotNow, why),
            Unanswered::Refused(why) => (Refusal::Replica, why),
        })
    }

    fn may_answer(&self, replica: &Replica, request: &Received) -> Result<(), String> {
        if self.health.is_poisoned() {
            return Err("this node is poisoned".to_owned());
        }
        if request.kind == MessageKind::TransferLeader && !self.duties.lock().is_fit {
            return Err("this node does not stand for election now".to_owned());
        }
        let place = replica.place();
        // A group that was founded is protected by the identity of its nodes: no directory comes back emptied.
        if replica.is_settled() || place.stage == ShardStage::Ready {
            return Ok(());
        }
        let is_pristine = replica.is_pristine();
        let (group, me) = (request.envelope.group, self.config.node);
        may_take_part(group, is_pristine, &place.config.founders, me, &self.peers.answers())?;
        if !is_pristine {
            replica.settle();
        }
        Ok(())
    }
}
