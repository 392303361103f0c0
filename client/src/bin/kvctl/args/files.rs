//! Commands that carry much: import and export.

use clap::{Args, ValueEnum};
use std::{ffi::OsString, path::PathBuf};

#[derive(Debug, Args)]
pub struct Export {
    /// Where the lines go, gzipped if the name ends in `.gz`; `-` is stdout
    #[arg(default_value = "-")]
    pub file: PathBuf,
    /// Only keys that begin with this
    #[arg(long, conflicts_with_all = ["from", "to"])]
    pub prefix: Option<OsString>,
    /// Only keys at or above this
    #[arg(long, value_name = "KEY")]
    pub from: Option<OsString>,
    /// Only keys below this
    #[arg(long, value_name = "KEY")]
    pub to: Option<OsString>,
    /// Read every shard for the bounds, in a keyspace that is sharded by hash
    #[arg(long)]
    pub full_scan: bool,
    /// Go on where an export into this file was interrupted
    #[arg(long)]
    pub resume: bool,
    /// Begin anew, although the file is not empty or an export into it was interrupted
    #[arg(long, conflicts_with = "resume")]
    pub overwrite: bool,
}

#[derive(Debug, Args)]
pub struct Import {
    /// CSV, TSV or JSON Lines, also gzipped; `-` reads stdin
    pub file: PathBuf,
    /// How a row's key is made: text with {column} in it; {{ and }} stand for braces. Lines of `export` bring their own
    #[arg(long, value_name = "TEMPLATE")]
    pub key: Option<String>,
    /// Go on where an import of this file into this keyspace was interrupted
    #[arg(long)]
    pub resume: bool,
    /// Format of the rows [default: from the file's name, else from its first byte]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<Rows>,
    /// A cell of this text is null, like an empty one; may be given more than once (CSV and TSV)
    #[arg(long, value_name = "TEXT")]
    pub null: Vec<String>,
    /// Rows in one request
    #[arg(long, value_name = "ROWS", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub batch: u16,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Exit 0 although rows were rejected
    #[arg(long)]
    pub lenient: bool,
    /// Write every rejected row there, as JSON Lines
    #[arg(long, value_name = "FILE")]
    pub errors: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rows {
    Csv,
    Tsv,
    Jsonl,
}
