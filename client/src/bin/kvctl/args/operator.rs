//! Commands of an operator.

use crate::text;
use clap::{Args, Subcommand};
use kvorum_client::ReadLevel;
use std::{ffi::OsString, time::Duration};

#[derive(Debug, Subcommand)]
pub enum Keyspace {
    /// Create a keyspace and wait until all of it is led
    Create(Create),
    /// Change what a keyspace is asked to be; what is not said stays
    Alter(Alter),
    /// What a keyspace is asked to be, and what its shards are
    Describe(Name),
    /// All keyspaces
    List,
    /// Drop a keyspace and everything in it
    Drop(DropKeyspace),
    /// Which mode offers which feature
    Capabilities,
}

#[derive(Debug, Args)]
pub struct Name {
    #[arg(value_name = "KEYSPACE")]
    pub name: String,
}

/// What both a new and an old keyspace may be asked to be.
#[derive(Debug, Default, Args)]
pub struct Wish {
    /// Of a read that names none: linearizable, session, local, bounded:200ms
    #[arg(long, value_name = "LEVEL", value_parser = text::level)]
    pub read_level: Option<ReadLevel>,
    /// Bytes of the largest value: 64KiB, 1MiB
    #[arg(long, value_name = "SIZE", value_parser = text::size)]
    pub value_bytes_max: Option<u64>,
    /// What the change log keeps: keys, new, new_and_old
    #[arg(long, value_name = "IMAGES")]
    pub changes: Option<String>,
    /// The leader may answer linearizable reads by its lease
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub leases: Option<bool>,
}

#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    pub keyspace: Name,
    /// How its replicas agree
    #[arg(long, default_value = "cp")]
    pub mode: String,
    /// `range`, or `hash:N` for N shards
    #[arg(long, value_name = "range|hash:N")]
    pub shard_by: Option<String>,
    /// Number of shards; of `range` it is one more than there are split points
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub shards: Option<u32>,
    /// A key at which a shard begins; may be given more than once, in ascending order (`range`)
    #[arg(long, value_name = "KEY")]
    pub split_at: Vec<OsString>,
    /// Replicas of each shard, odd [default: 3, or 1 while the cluster has fewer than 3 nodes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub replicas: Option<u32>,
    /// How many replicas must have a write before it is acknowledged: majority
    #[arg(long, value_name = "ACK")]
    pub ack: Option<String>,
    #[command(flatten)]
    pub wish: Wish,
}

#[derive(Debug, Args)]
pub struct Alter {
    #[command(flatten)]
    pub keyspace: Name,
    #[command(flatten)]
    pub wish: Wish,
}

#[derive(Debug, Args)]
pub struct DropKeyspace {
    #[command(flatten)]
    pub keyspace: Name,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum Node {
    /// The nodes of the cluster
    List,
    /// How one node is, or all of them
    Status {
        #[arg(value_name = "NODE", value_parser = text::node)]
        id: Option<u64>,
    },
    /// How one more node joins: prints the command to run on its machine
    Add {
        /// Where the new node will listen: refused if a member does
        #[arg(value_name = "HOST:PORT")]
        address: Option<String>,
    },
    /// Move everything a node holds to the others; it stays a member
    Drain(Drain),
    /// Let a node that was drained hold replicas again
    Recommission {
        #[arg(value_name = "NODE", value_parser = text::node)]
        id: u64,
        /// Say what it would lead to, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Give a node that does not live any more up for good: what it held is made again elsewhere
    Forget(Drain),
}

#[derive(Debug, Args)]
pub struct Drain {
    #[arg(value_name = "NODE", value_parser = text::node)]
    pub id: u64,
    #[command(flatten)]
    pub waiting: Waiting,
    /// Say what would be moved, and change nothing
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
}

/// Whether to wait until what was asked for is done.
#[derive(Clone, Copy, Debug, Args)]
pub struct Waiting {
    /// Wait until it is done, at most TIME if one is given
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "3650d",
        value_parser = text::duration
    )]
    pub wait: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub enum Operator {
    /// What is being done to shards, by whom it was asked for, and what it waits for
    List(OperatorList),
    /// One of them, in full
    Show {
        #[arg(value_name = "OPERATOR", value_parser = text::operator)]
        id: u64,
    },
    /// Have one undone, unless it is too late for that
    Cancel {
        #[arg(value_name = "OPERATOR", value_parser = text::operator)]
        id: u64,
        /// Say whether it could be, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub struct OperatorList {
    /// Also those that have ended
    #[arg(long)]
    pub all: bool,
    /// Only those of this shard
    #[arg(long, value_name = "SHARD", value_parser = text::shard)]
    pub shard: Option<u64>,
    /// Only those that are running, cancelling, done, cancelled or failed
    #[arg(long, value_name = "STATE", value_parser = ["running", "cancelling", "done", "cancelled", "failed"])]
    pub state: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Shard {
    /// The shards, of all keyspaces or of the one that -k names
    List,
    /// One shard: where it lies, and how each of its replicas is
    Describe {
        #[arg(value_name = "SHARD", value_parser = text::shard)]
        id: u64,
    },
    /// Move a replica of a shard from one node to another
    Move(MoveReplica),
    /// Let another replica of a shard lead
    TransferLeader(Transfer),
}

/// A shard, by its number, or by its keyspace and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardName {
    pub keyspace: Option<String>,
    pub id: u64,
}

fn shard_name(text: &str) -> Result<ShardName, String> {
    let (keyspace, id) = match text.rsplit_once('/') {
        Some((keyspace, id)) => (Some(keyspace.to_owned()), id),
        None => (None, text),
    };
    let id =
        id.parse().map_err(|_| "a shard is SHARD or KEYSPACE/SHARD, as `kvctl shard list` shows it: 5, orders/5")?;
    Ok(ShardName { keyspace, id })
}

#[derive(Debug, Args)]
pub struct MoveReplica {
    #[arg(value_name = "KEYSPACE/SHARD", value_parser = shard_name)]
    pub shard: ShardName,
    /// The node that gives its replica away
    #[arg(long, value_name = "NODE", value_parser = text::node)]
    pub from: u64,
    /// The node that gets one
    #[arg(long, value_name = "NODE", value_parser = text::node)]
    pub to: u64,
    #[command(flatten)]
    pub waiting: Waiting,
    /// Say what would be moved, and change nothing
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Transfer {
    #[arg(value_name = "SHARD", value_parser = shard_name)]
    pub shard: ShardName,
    /// The node that should lead [default: whoever is best]
    #[arg(long, value_name = "NODE", value_parser = text::node)]
    pub to: Option<u64>,
    /// Wait until it leads, at most TIME
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_value = "30s",
        default_missing_value = "30s",
        value_parser = text::duration
    )]
    pub wait: Duration,
    /// Do not wait
    #[arg(long)]
    pub no_wait: bool,
    /// Say whether it could be, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Workers {
    /// Only those of this node
    #[arg(long, value_name = "NODE", value_parser = text::node)]
    pub node: Option<u64>,
}
