//! Commands about the cluster as a whole.

use crate::text;
use clap::{Args, Subcommand};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// How each node is: what it holds, what it leads, how far it has come
    Status(ClusterStatus),
    /// Which behaviour the cluster applies, and whether a newer one can be
    #[command(subcommand)]
    Upgrade(Upgrade),
    /// Restart one node after the other by a command of yours, waiting for health in between
    RollingRestart(RollingRestart),
}

#[derive(Debug, Default, Args)]
pub struct ClusterStatus {
    /// A row for every replica, below the nodes
    #[arg(long)]
    pub shards: bool,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Upgrade {
    /// The build of each node, what it can apply, what the cluster applies, and what is in the way of more
    Status,
    /// Have the cluster apply the newest behaviour that every node can; it is not taken back
    Finalize,
}

#[derive(Debug, Args)]
pub struct RollingRestart {
    /// What restarts a node, by the shell, with {node} and {address} filled in: 'ssh {node} systemctl restart kvd'
    #[arg(long, value_name = "COMMAND")]
    pub command: String,
    /// The nodes to restart, in this order [default: all, whoever leads the metadata last]
    #[arg(long, value_name = "NODES", value_delimiter = ',', value_parser = text::node)]
    pub nodes: Vec<u64>,
    /// Leave out the nodes before this one
    #[arg(long, value_name = "NODE", conflicts_with = "nodes", value_parser = text::node)]
    pub from: Option<u64>,
    /// How long to wait for one node to be back and well, and for the cluster to be well before it
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = text::duration)]
    pub patience: Duration,
    /// Say what would be run, in which order, and run nothing
    #[arg(long)]
    pub dry_run: bool,
}
