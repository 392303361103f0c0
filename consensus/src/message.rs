//! # Message: what replicas say to each other, before it is wrapped and after it is let in
//!
//! **Deliberately absent.** Who may say it: that is `peers`.

use crate::transport::Lane;
use bytes::Bytes;
use kvorum_api::{GroupId, NodeId, ReplicaId};
use std::time::Duration;
use thiserror::Error;

/// What a message between two replicas of one group is about. Numbers are on the wire: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageKind {
    /// Node to node: who are you, and what do you hold?
    Hello = 1,
    /// Raft AppendEntries, heartbeats included.
    Append = 2,
    /// Raft RequestVote.
    Vote = 3,
    /// Would you vote for me?
    PreVote = 4,
    /// Stand for election now.
    TransferLeader = 5,
    /// A snapshot begins: vote, metadata.
    SnapshotBegin = 6,
    /// A chunk of it.
    SnapshotChunk = 7,
    /// It is complete: install it.
    SnapshotFinish = 8,
    /// Node to a metadata replica: what changed in the map since this revision?
    MetadataFollow = 9,
    /// Node to a metadata replica: please change the map.
    MetadataCommand = 10,
    /// Leader to follower: let us close the group (rule G2).
    Close = 11,
    /// To the leader a group's record names: please open it (rule G3).
    Open = 12,
    /// Follower to leader: up to which index must I have applied to be as fresh as you are now (rule R1)?
    Mark = 13,
    /// Node to node: heartbeats of many groups in one envelope.
    Heartbeats = 14,
}

impl MessageKind {
    /// The kind of a number on the wire.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => MessageKind::Hello,
            2 => MessageKind::Append,
            3 => MessageKind::Vote,
            4 => MessageKind::PreVote,
            5 => MessageKind::TransferLeader,
            6 => MessageKind::SnapshotBegin,
            7 => MessageKind::SnapshotChunk,
            8 => MessageKind::SnapshotFinish,
            9 => MessageKind::MetadataFollow,
            10 => MessageKind::MetadataCommand,
            11 => MessageKind::Close,
            12 => MessageKind::Open,
            13 => MessageKind::Mark,
            14 => MessageKind::Heartbeats,
            _ => return None,
        })
    }
}

/// A message to one replica on another node.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The node that holds the replica.
    pub to: NodeId,
    /// How urgent.
    pub lane: Lane,
    /// The group.
    pub group: GroupId,
    /// The sending replica.
    pub from_replica: ReplicaId,
    /// The replica addressed: a mismatch is answered `unknown replica`.
    pub to_replica: ReplicaId,
    /// What it is.
    pub kind: MessageKind,
    /// Its content, in the codec of `cp`.
    pub payload: Bytes,
    /// How long to wait.
    pub timeout: Duration,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// No connection, or we or they were refused, or this node must not speak: as if the other were not there.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The other node answered, and refused the message itself.
    #[error("refused: {0}")]
    Refused(String),
}

/// A message that arrived and was let in.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The sending node.
    pub from: NodeId,
    /// The sending replica.
    pub from_replica: ReplicaId,
    /// What it is.
    pub kind: MessageKind,
    /// Its content.
    pub payload: Bytes,
}
