//! Commands about keys and values.

use crate::text;
use clap::Args;
use kvorum_client::Version;
use std::{ffi::OsString, path::PathBuf, time::Duration};

#[derive(Debug, Args)]
pub struct Get {
    pub key: OsString,
}

/// What must hold; at most one.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct If {
    /// Only if the key is not there
    #[arg(long)]
    pub if_absent: bool,
    /// Only if the key is there
    #[arg(long)]
    pub if_present: bool,
    /// Only if the entry has this version
    #[arg(long, value_name = "VERSION", value_parser = text::version)]
    pub if_version: Option<Version>,
    /// Only if the entry has this value
    #[arg(long, value_name = "VALUE")]
    pub if_value: Option<OsString>,
}

#[derive(Debug, Args)]
pub struct Put {
    pub key: OsString,
    /// The value; `-` reads stdin, `@FILE` a file, `@@text` stands for `@text`
    #[arg(allow_negative_numbers = true)]
    pub value: OsString,
    /// The entry lives at least this long: 500ms, 30s, 5m, 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    pub ttl: Option<Duration>,
    #[command(flatten)]
    pub condition: If,
    /// Print what was there before
    #[arg(long)]
    pub prev: bool,
}

#[derive(Debug, Args)]
pub struct Delete {
    pub key: OsString,
    #[command(flatten)]
    pub condition: If,
    /// Print what was there before
    #[arg(long)]
    pub prev: bool,
}

#[derive(Debug, Args)]
pub struct CompareAndSet {
    pub key: OsString,
    /// The value that must be there; as in `put`, `-` reads stdin and `@FILE` a file
    #[arg(allow_negative_numbers = true)]
    pub old: OsString,
    /// The value to store
    #[arg(allow_negative_numbers = true)]
    pub new: OsString,
    /// NEW lives at least this long
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    pub ttl: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct Increment {
    pub key: OsString,
    /// How much to add; may be negative
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    pub by: i64,
    /// Print what was there before, too
    #[arg(long)]
    pub prev: bool,
}

#[derive(Debug, Args)]
pub struct Scan {
    /// Only keys that begin with this
    #[arg(long, conflicts_with_all = ["start", "end"])]
    pub prefix: Option<OsString>,
    /// Only keys at or above this
    #[arg(long)]
    pub start: Option<OsString>,
    /// Only keys below this
    #[arg(long)]
    pub end: Option<OsString>,
    /// At most this many entries
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// From the last key to the first
    #[arg(long)]
    pub reverse: bool,
    /// Print keys alone; values do not travel
    #[arg(long, conflicts_with = "values_only")]
    pub keys_only: bool,
    /// Print values alone
    #[arg(long)]
    pub values_only: bool,
    /// Read every shard for the bounds, in a keyspace that is sharded by hash
    #[arg(long)]
    pub full_scan: bool,
}

#[derive(Debug, Args)]
pub struct Batch {
    /// JSON Lines, one operation a line; `-` reads stdin
    pub file: PathBuf,
}
