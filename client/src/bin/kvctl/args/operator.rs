//! Commands of an operator.

use crate::text;
use clap::{Args, Subcommand};
use kvorum_client::ReadLevel;
use std::ffi::OsString;

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// How each node is: what it holds, what it leads, how far it has come
    Status(ClusterStatus),
}

#[derive(Debug, Default, Args)]
pub struct ClusterStatus {
    /// A row for every replica, below the nodes
    #[arg(long)]
    pub shards: bool,
}

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
        #[arg(value_name = "NODE")]
        id: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Shard {
    /// The shards, of all keyspaces or of the one that -k names
    List,
    /// One shard: where it lies, and how each of its replicas is
    Describe {
        #[arg(value_name = "SHARD")]
        id: u64,
    },
    /// Ask whoever leads a shard to hand it over
    TransferLeader(Transfer),
}

#[derive(Debug, Args)]
pub struct Transfer {
    #[arg(value_name = "SHARD")]
    pub id: u64,
    /// The node that should lead [default: whoever is best]
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u64).range(1..))]
    pub to: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Workers {
    /// Only those of this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<u64>,
}
