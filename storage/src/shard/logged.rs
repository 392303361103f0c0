//! One entry of the log, ready to be applied.

use crate::{command::Proposal, journal::BatchNumber};
use bytes::Bytes;
use kvorum_api::LogPosition;

/// One entry of the log, ready to be applied.
#[derive(Clone, Debug)]
pub struct LoggedEntry {
    /// Where it stands in the log.
    pub position: LogPosition,
    /// The journal batch that holds it on this node.
    pub batch: BatchNumber,
    /// What it does.
    pub step: Step,
}

/// What an entry of the log does to the shard.
#[derive(Clone, Debug)]
pub enum Step {
    /// Nothing but move the position (a new leader's first entry).
    Blank,
    /// The group has new members; the bytes are the consensus crate's and are kept with the position.
    Membership(Bytes),
    /// Commands.
    Commands(Proposal),
}
