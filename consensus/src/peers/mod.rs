//! # Peers: who talks to us, and whether it is who it says
//!
//! ```text
//!   call ──▶ wrap ──▶ transport ──▶ peer: receive ──▶ replica
//!                                                        │
//!   payload ◀── check ◀── transport ◀── reply / refuse ◀─┘
//! ```
//!
//! Wraps every message into an envelope (cluster, node, life, last synced batch, clocks, trace) and checks every
//! request and every answer, refusing whom it must (invariant 9, rules J7, T1, T4).
//!
//! **Invariant.** Nothing is refused for an epoch: replicas are addressed by ids that are never reused. A node that its
//! peers refuse for good falls silent at once, whatever its replicas try. A refusal is believed only from a peer that
//! is itself who it says it is; that the *cluster* is another one, only from a majority. A new life of a node is known
//! only from a hello that proves it (rule J7): until then nothing else of it is answered, believed or remembered.

mod merger;
mod roll;

use crate::{
    env::{Clock, Env},
    envelope::{Envelope, Form, Refusal},
    health::Health,
    heartbeats::Heartbeat,
    hello::Hello,
    hlc::Hlc,
    identity::{Identity, Life},
    transport::{Lane, Transport, TransportError},
};
use bytes::Bytes;
use kvorum_api::{NodeId, ReplicaId};
use kvorum_storage::{Journal, journal::NODE_GROUP};
use merger::Merger;
use parking_lot::Mutex;
use roll::{Roll, Unfit, stranger};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

pub use roll::Seen;

pub use crate::message::{CallError, Incoming, MessageKind, Outgoing};

tokio::task_local! {
    /// The W3C trace context of the request under way: it travels with every message sent within its scope.
    pub static TRACE: Bytes;
}

/// A request that passed every check of its sender.
#[derive(Clone, Debug)]
pub struct Received {
    /// As it came.
    pub envelope: Envelope,
    /// What it is.
    pub kind: MessageKind,
}

impl Received {
    /// One heartbeat of a merged envelope, as if it had come alone.
    #[must_use]
    pub fn part(&self, heartbeat: Heartbeat) -> Received {
        let Heartbeat { group, from_replica, to_replica, payload } = heartbeat;
        let kind = MessageKind::Append;
        let envelope = Envelope { group, from_replica, to_replica, payload, kind: kind as u8, ..self.envelope.clone() };
        Received { envelope, kind }
    }
}

/// Every other node, as this one knows it.
pub struct Peers {
    me: Identity,
    transport: Arc<dyn Transport>,
    journal: Arc<dyn Journal>,
    hlc: Arc<Hlc>,
    /// The clock on the wall: what peers are shown, so that they can tell how wrong it is (rule T4).
    wall: Clock,
    health: Arc<Health>,
    is_admitted: AtomicBool,
    roll: Mutex<Roll>,
    merger: Merger,
}

impl Peers {
    /// Knows `nodes` (itself may be among them), and remembers the lives that an earlier life of this node has seen.
    /// Replicas stay silent until [`Peers::admit`].
    pub fn new(
        me: Identity,
        nodes: &BTreeSet<NodeId>,
        remembered: &BTreeMap<NodeId, Life>,
        env: &Env,
        hlc: Arc<Hlc>,
        health: Arc<Health>,
    ) -> Arc<Peers> {
        let others = nodes.iter().copied().filter(|node| *node != me.node).collect();
        Arc::new(Peers {
            me,
            transport: Arc::clone(&env.transport),
            journal: Arc::clone(&env.journal),
            hlc,
            wall: env.clock.clone(),
            health,
            is_admitted: AtomicBool::new(false),
            roll: Mutex::new(Roll::new(&others, remembered)),
            merger: Merger::default(),
        })
    }

    /// From now on these are the nodes of the cluster (this one may be among them). A node that is new is known at
    /// once; one that goes is refused as unknown, and its life stays remembered.
    /// Only `holders` count where a majority is asked: a node that joined, holds nothing and never came back must not
    /// keep the others from serving.
    pub fn set_nodes(&self, nodes: &BTreeSet<NodeId>, holders: BTreeSet<NodeId>) {
        let others = nodes.iter().copied().filter(|node| *node != self.me.node).collect();
        let mut roll = self.roll.lock();
        roll.set(&others);
        roll.holders = holders;
    }

    /// Ids below this one were given to nodes: whoever has such an id and is none of the cluster was forgotten.
    pub fn note_given(&self, next_node: NodeId) {
        let mut roll = self.roll.lock();
        roll.next_node = roll.next_node.max(next_node);
    }

    /// The other nodes of whom a majority is asked.
    pub fn voices(&self) -> BTreeSet<NodeId> {
        self.roll.lock().voices()
    }

    /// Lets replicas speak: enough peers have confirmed in this life who this node is.
    pub fn admit(&self) {
        self.is_admitted.store(true, Ordering::Release);
    }

    /// Sends one message and gives the payload of its answer.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, message: Outgoing) -> Result<Bytes, CallError> {
        self.exchange(message).await.map(|answer| answer.payload)
    }

    /// Says hello to a node, measures its clock, and remembers its answer.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn hello(&self, to: NodeId, mine: &Hello, timeout: Duration) -> Result<(), CallError> {
        let sent = (Instant::now(), self.wall.now_ms());
        let answer = self
            .exchange(Outgoing {
                to,
                lane: Lane::Control,
                group: NODE_GROUP,
                from_replica: ReplicaId(0),
                to_replica: ReplicaId(0),
                kind: MessageKind::Hello,
                payload: mine.encode(),
                timeout,
            })
            .await?;
        let hello = Hello::decode(&answer.payload).map_err(CallError::Refused)?;
        let round_trip = sent.0.elapsed();
        let middle_ms = sent.1 + (round_trip.as_millis() / 2) as u64;
        let mut roll = self.roll.lock();
        // It may have left the cluster while it answered.
        let seen = roll.seen.get_mut(&to).ok_or_else(|| CallError::Unreachable(stranger(to)))?;
        seen.hello = Some((hello, Instant::now()));
        // The error is at most half a round trip: a slow answer says nothing about the clock.
        if round_trip <= Duration::from_millis(kvorum_api::limits::CLOCK_OFFSET_MS_MAX) {
            let offset_ms = i128::from(answer.physical_ms) - i128::from(middle_ms);
            let offset_ms = offset_ms.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
            seen.clock = Some((offset_ms, Instant::now()));
        }
        Ok(())
    }

    /// Checks a request.
    ///
    /// # Errors
    /// The refusal that answers it.
    pub fn receive(&self, bytes: &Bytes) -> Result<Received, Bytes> {
        let envelope = Envelope::decode(bytes).map_err(|error| {
            tracing::warn!(%error, "bytes of a peer are no envelope");
            self.answer(None, Form::Refusal, Refusal::Malformed as u8, error.to_string().into())
        })?;
        match self.check_request(&envelope) {
            Ok(kind) => Ok(Received { envelope, kind }),
            Err((refusal, why)) => {
                tracing::warn!(from = %envelope.from, ?refusal, why, "refused a peer");
                Err(self.answer(Some(&envelope), Form::Refusal, refusal as u8, why.into()))
            }
        }
    }

    /// The reply to a request.
    pub fn reply(&self, request: &Received, payload: Bytes) -> Bytes {
        self.answer(Some(&request.envelope), Form::Reply, request.envelope.kind, payload)
    }

    /// The refusal of a request.
    pub fn refuse(&self, request: &Received, refusal: Refusal, why: String) -> Bytes {
        self.answer(Some(&request.envelope), Form::Refusal, refusal as u8, why.into())
    }

    /// Why a replica of this node must not send `kind`, or answer it.
    pub fn silence(&self, kind: MessageKind) -> Option<String> {
        if let Some(why) = &self.roll.lock().refused {
            return Some(format!("this node was refused by its peers: {why}"));
        }
        if kind == MessageKind::Hello {
            return None;
        }
        // Asking another replica to lead promises nothing: it is how a poisoned leader gives up.
        if self.health.is_poisoned() && kind != MessageKind::TransferLeader {
            return Some("this node is poisoned".to_owned());
        }
        // Asking for the map, or handing it on, promises nothing either, and it may say whose majority is to be met.
        if !self.is_admitted.load(Ordering::Acquire) && kind != MessageKind::MetadataFollow {
            return Some("this node has not met a majority of its cluster since it started".to_owned());
        }
        None
    }

    /// Every other node.
    pub fn seen(&self) -> BTreeMap<NodeId, Seen> {
        self.roll.lock().seen.clone()
    }

    /// The answers to this life's hellos.
    pub fn answers(&self) -> BTreeMap<NodeId, Hello> {
        let roll = self.roll.lock();
        roll.seen.iter().filter_map(|(node, seen)| Some((*node, seen.hello.as_ref()?.0.clone()))).collect()
    }

    /// The highest life ever seen of every peer, for the node's note; the revision grows when one is new.
    pub fn lives(&self) -> (BTreeMap<NodeId, Life>, u64) {
        let roll = self.roll.lock();
        (roll.lives(), roll.lives_revision)
    }

    /// Set when peers refused this node for good: the process must end with this sentence.
    pub fn refused(&self) -> Option<String> {
        self.roll.lock().refused.clone()
    }

    async fn exchange(&self, message: Outgoing) -> Result<Envelope, CallError> {
        if let Some(why) = self.silence(message.kind) {
            return Err(CallError::Unreachable(why));
        }
        if !self.roll.lock().seen.contains_key(&message.to) {
            return Err(CallError::Unreachable(stranger(message.to)));
        }
        let request = self.wrap(Form::Request, message.to, message.kind as u8, message.payload);
        let request = Envelope {
            group: message.group,
            from_replica: message.from_replica,
            to_replica: message.to_replica,
            trace: TRACE.try_with(Bytes::clone).unwrap_or_default(),
            ..request
        };
        let answer = self.transport.call(message.to, message.lane, request.encode(), message.timeout).await;
        let answer = answer.map_err(|error| match error {
            TransportError::Unreachable { .. } => CallError::Unreachable(error.to_string()),
            TransportError::Timeout { after, .. } => CallError::Timeout(after),
        })?;
        let answer = Envelope::decode(&answer).map_err(|error| CallError::Unreachable(error.to_string()))?;
        self.check_answer(message.to, &answer)?;
        Ok(answer)
    }

    fn check_request(&self, envelope: &Envelope) -> Result<MessageKind, (Refusal, String)> {
        let me = self.me;
        if envelope.cluster != me.cluster {
            let why = format!("node {} belongs to cluster {}, not to {}", me.node, me.cluster, envelope.cluster);
            return Err((Refusal::WrongCluster, why));
        }
        if envelope.to != me.node {
            let why = format!("this is node {}, the message is for node {}", me.node, envelope.to);
            return Err((Refusal::WrongAddressee, why));
        }
        if envelope.from == me.node {
            let why = format!("node {} is this process already: give the other one its own id and directory", me.node);
            return Err((Refusal::Identity, why));
        }
        let mut roll = self.roll.lock();
        if let Some(why) = &roll.refused {
            return Err((Refusal::NotNow, format!("node {} was refused by its peers: {why}", me.node)));
        }
        roll.judge(envelope).map_err(|unfit| match unfit {
            Unfit::Unknown(why) => (Refusal::UnknownNode, format!("{why}, as node {} knows it", me.node)),
            Unfit::Forgotten(why) => (Refusal::Forgotten, why),
            Unfit::Unproven(why) => (Refusal::NotNow, why),
            Unfit::Refused(why) => (Refusal::Identity, why),
        })?;
        drop(roll);
        self.observe(envelope);
        match (envelope.form, MessageKind::from_number(envelope.kind)) {
            (Form::Request, Some(kind)) => Ok(kind),
            (form, _) => {
                Err((Refusal::Malformed, format!("{form:?} of kind {} is not known to this build", envelope.kind)))
            }
        }
    }

    fn check_answer(&self, to: NodeId, answer: &Envelope) -> Result<(), CallError> {
        let me = self.me;
        let mut roll = self.roll.lock();
        if answer.cluster != me.cluster {
            let why = format!("node {to} belongs to cluster {}, this one to {}", answer.cluster, me.cluster);
            return Err(roll.foreign(to, Refusal::WrongCluster, why, &self.health));
        }
        if answer.from != to {
            let why = format!("node {} answers at the address of node {to}", answer.from);
            if let Some(seen) = roll.seen.get_mut(&to) {
                seen.refused = Some(why.clone());
            }
            return Err(CallError::Unreachable(why));
        }
        let sentence = || String::from_utf8_lossy(&answer.payload).into_owned();
        let refusal = Refusal::from_number(answer.kind);
        match roll.judge(answer) {
            Ok(()) => {}
            // Whoever takes this one for a stranger never says hello to it; it counts only with a majority.
            Err(Unfit::Unproven(_)) if is_foreign(answer) => {
                return Err(roll.foreign(to, refusal, sentence(), &self.health));
            }
            Err(Unfit::Unknown(why) | Unfit::Forgotten(why) | Unfit::Unproven(why)) => {
                return Err(CallError::Unreachable(why));
            }
            Err(Unfit::Refused(why)) => {
                tracing::warn!(node = %to, why, "refused the answer of a peer");
                return Err(CallError::Unreachable(why));
            }
        }
        let verdict = match (answer.form, refusal) {
            (Form::Reply, _) => Ok(()),
            (Form::Refusal, Refusal::UnknownReplica | Refusal::Replica) => Err(CallError::Refused(sentence())),
            (Form::Refusal, Refusal::NotNow | Refusal::WrongAddressee | Refusal::Malformed) => {
                Err(CallError::Unreachable(sentence()))
            }
            (Form::Refusal, Refusal::WrongCluster | Refusal::UnknownNode | Refusal::Forgotten) => {
                Err(roll.foreign(to, refusal, sentence(), &self.health))
            }
            (Form::Refusal, Refusal::Identity) => {
                roll.refused_for_good(&self.health, sentence());
                Err(CallError::Unreachable(sentence()))
            }
            (Form::Request, _) => Err(CallError::Unreachable(format!("node {to} answered with a request"))),
        };
        if !is_foreign(answer)
            && let Some(seen) = roll.seen.get_mut(&to)
        {
            seen.calls_us_foreign = None;
        }
        drop(roll);
        self.observe(answer);
        verdict
    }

    /// The highest stamp of the other side is adopted unless it is too far ahead, which costs the message nothing.
    fn observe(&self, envelope: &Envelope) {
        if let Err(ahead_ms) = self.hlc.observe(envelope.stamp) {
            tracing::debug!(from = %envelope.from, ahead_ms, "stamp of a peer is too far ahead to be adopted");
        }
    }

    fn wrap(&self, form: Form, to: NodeId, kind: u8, payload: Bytes) -> Envelope {
        Envelope {
            form,
            cluster: self.me.cluster,
            from: self.me.node,
            to,
            life: Life {
                start: self.me.start,
                boot_nonce: self.me.boot_nonce,
                last_synced: self.journal.last_synced(),
            },
            stamp: self.hlc.told(),
            physical_ms: self.wall.now_ms(),
            group: NODE_GROUP,
            from_replica: ReplicaId(0),
            to_replica: ReplicaId(0),
            kind,
            trace: Bytes::new(),
            payload,
        }
    }

    fn answer(&self, request: Option<&Envelope>, form: Form, kind: u8, payload: Bytes) -> Bytes {
        let mut answer = self.wrap(form, request.map_or(NodeId(0), |request| request.from), kind, payload);
        if let Some(request) = request {
            answer.group = request.group;
            answer.from_replica = request.to_replica;
            answer.to_replica = request.from_replica;
        }
        answer.encode()
    }
}

fn is_foreign(answer: &Envelope) -> bool {
    let refusal = Refusal::from_number(answer.kind);
    answer.form == Form::Refusal && matches!(refusal, Refusal::WrongCluster | Refusal::UnknownNode | Refusal::Forgotten)
}
