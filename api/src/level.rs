//! Modes and levels: what a keyspace promises, and what a read asks for.

use std::{fmt, time::Duration};

/// The promise of a keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// One Raft group per shard: linearizable, stops rather than lies.
    Cp,
    /// Leaderless quorum: answers whatever happens, converges.
    Ap,
}

impl Mode {
    /// The word used on the wire, in configuration and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Cp => "cp",
            Mode::Ap => "ap",
        }
    }

    /// The read levels a keyspace of this mode offers, for people.
    #[must_use]
    pub const fn levels(self) -> &'static str {
        match self {
            Mode::Cp => "linearizable, session, bounded or local",
            Mode::Ap => "session, bounded, one, quorum or all",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadLevel {
    /// The newest acknowledged write, at some moment within the call (CP).
    Linearizable,
    /// Nothing older than what this session has seen (both modes).
    Session,
    /// The newest state at some moment at most this long before the request was sent (both modes).
    Bounded(Duration),
    /// Whatever this replica has, with its staleness (CP).
    Local,
    /// Whatever one replica has (AP).
    One,
    /// A majority of replicas (AP).
    Quorum,
    /// Every replica (AP).
    All,
}

impl ReadLevel {
    /// The word used on the wire and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ReadLevel::Linearizable => "linearizable",
            ReadLevel::Session => "session",
            ReadLevel::Bounded(_) => "bounded",
            ReadLevel::Local => "local",
            ReadLevel::One => "one",
            ReadLevel::Quorum => "quorum",
            ReadLevel::All => "all",
        }
    }
}

impl fmt::Display for ReadLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadLevel::Bounded(bound) => write!(f, "bounded({}ms)", bound.as_millis()),
            other => f.write_str(other.as_str()),
        }
    }
}
