//! The command line, in the dialect of etcdctl and kubectl.
//!
//! **Invariant.** A flag that a command would not use is refused, not ignored ([`refuse_unused`]).

use crate::text;
use clap::{ArgMatches, Args, Parser, Subcommand, ValueEnum, parser::ValueSource};
use kvorum_client::{ReadLevel, RequestId, Version};
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// Talks to a Kvorum cluster.
#[derive(Debug, Parser)]
#[command(name = "kvctl", version, about, long_about = None, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 local trouble or rejected rows, 2 usage, 3 not found, 4 condition failed, \
5 conflict, 6 unavailable and not applied, 7 outcome unknown, 8 denied, 9 throttled.";

#[derive(Debug, Args)]
pub struct Globals {
    /// The keyspace
    #[arg(short, long, global = true, value_name = "NAME", env = "KVCTL_KEYSPACE", default_value = "default")]
    pub keyspace: String,
    /// Nodes to ask first, as host:port, separated by commas; the others are found through them
    #[arg(
        long,
        global = true,
        value_name = "LIST",
        env = "KVCTL_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103"
    )]
    pub endpoints: Vec<String>,
    /// How fresh a read must be: linearizable, session, bounded(500ms), local, one, quorum, all [default: the keyspace's]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = text::level)]
    pub level: Option<ReadLevel>,
    /// Total time of one request over all its attempts: 300ms, 5s, 2m [default: 5s; import: 30s]
    #[arg(long, global = true, value_name = "TIME", value_parser = text::duration)]
    pub timeout: Option<Duration>,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t = Form::Table)]
    pub output: Form,
    /// Repeat a write whose outcome is unknown under the id it was sent with: applied at most once
    #[arg(long, global = true, value_name = "ID")]
    pub request_id: Option<RequestId>,
    /// No receipts and no progress on stderr; errors are still told
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people: text on stdout, receipts on stderr
    Table,
    /// For programs: everything, with the receipt
    Json,
    /// Bytes of keys and values, nothing else
    Raw,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read one key
    Get(Get),
    /// Store a value
    Put(Put),
    /// Remove a key; removing what is not there succeeds
    Del(Delete),
    /// Store NEW only if the key holds OLD
    Cas(CompareAndSet),
    /// Add to a number; an absent key counts from 0
    Incr(Increment),
    /// List keys and values in key order
    Scan(Scan),
    /// Apply operations of which all happen or none, from JSON Lines
    Batch(Batch),
    /// Load CSV, TSV or JSON Lines, each row as one JSON value
    Import(Import),
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(Cluster),
    /// Short for `cluster status`
    Status,
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Who leads, who follows, how far each has come
    Status,
}

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
}

#[derive(Debug, Args)]
pub struct Batch {
    /// JSON Lines, one operation a line; `-` reads stdin
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct Import {
    /// CSV, TSV or JSON Lines, also gzipped; `-` reads stdin
    pub file: PathBuf,
    /// How a row's key is made: text with {column} in it; {{ and }} stand for braces
    #[arg(long, value_name = "TEMPLATE")]
    pub key: String,
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

/// Which global flags a command has no use for.
fn unused(command: &Command) -> &'static [&'static str] {
    match command {
        Command::Get(_) | Command::Scan(_) => &["request_id"],
        Command::Put(_) | Command::Del(_) | Command::Cas(_) | Command::Incr(_) | Command::Batch(_) => &["level"],
        Command::Import(_) => &["level", "request_id"],
        Command::Cluster(_) | Command::Status => &["level", "request_id", "keyspace"],
        Command::Completions { .. } => &["level", "request_id", "keyspace", "endpoints", "timeout", "output", "quiet"],
        Command::Version => &["level", "request_id", "keyspace", "endpoints", "timeout", "quiet"],
    }
}

/// Says which flag of the command line the command would ignore. Defaults and the environment are not meant.
pub fn refuse_unused(cli: &Cli, matches: &ArgMatches) -> Result<(), String> {
    let (name, inner) = matches.subcommand().unwrap_or(("", matches));
    // clap notes a global flag where it was written: before the command, after it, or after the command's own verb.
    let places = [Some(matches), Some(inner), inner.subcommand().map(|(_, verb)| verb)];
    let is_given = |flag: &str| {
        places
            .into_iter()
            .flatten()
            .any(|place| place.ids().any(|id| id == flag) && place.value_source(flag) == Some(ValueSource::CommandLine))
    };
    if let Some(flag) = unused(&cli.command).iter().find(|flag| is_given(flag)) {
        return Err(format!("`kvctl {name}` has no use for --{}: leave it out", flag.replace('_', "-")));
    }
    let is_raw = cli.globals.output == Form::Raw;
    let has_no_bytes = |command: &Command| {
        matches!(
            command,
            Command::Batch(_) | Command::Import(_) | Command::Cluster(_) | Command::Status | Command::Version
        )
    };
    if is_raw && has_no_bytes(&cli.command) {
        return Err(format!("`kvctl {name}` has no keys or values to print raw: use -o table or -o json"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, FromArgMatches as _};

    fn parse(line: &str) -> Result<Result<(), String>, clap::Error> {
        let matches = Cli::command().try_get_matches_from(line.split(' '))?;
        let cli = Cli::from_arg_matches(&matches)?;
        Ok(refuse_unused(&cli, &matches))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_that_would_be_ignored_is_refused() {
        let ignored = [
            "kvctl put a b --level local",
            "kvctl --level local put a b",
            "kvctl get a --request-id 00112233445566778899aabbccddeeff.1.5",
            "kvctl cluster status --level local",
            "kvctl cluster status -o raw",
            "kvctl -k orders cluster status",
            "kvctl cluster status -k orders",
            "kvctl import f --key {a} -o raw",
            "kvctl completions bash -k x",
            "kvctl version --endpoints a:1",
        ];
        for line in ignored {
            assert!(parse(line).unwrap().is_err(), "{line}");
        }
    }

    #[test]
    fn what_users_type_is_understood() {
        let lines = [
            "kvctl -k demo get greeting",
            "kvctl get greeting -k demo -o json --level bounded(500ms)",
            "kvctl put a -5 --ttl 30s --if-absent",
            "kvctl cas a old new",
            "kvctl incr a -5",
            "kvctl incr a",
            "kvctl -o raw scan --keys-only --prefix 2013",
            "kvctl cluster status -o json",
            "kvctl status",
            "kvctl import - --key {a}/{b} --null NA --batch 10",
        ];
        for line in lines {
            assert_eq!(parse(line).unwrap(), Ok(()), "{line}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let lines = [
            "kvctl put a b --if-absent --if-present",
            "kvctl scan --prefix a --start b",
            "kvctl scan --keys-only --values-only",
            "kvctl scan --limit 0",
            "kvctl import f",
            "kvctl import f --key {a} --batch 2000",
            "kvctl get a --level fresh",
            "kvctl put a b --ttl 30",
            "kvctl --nonsense get a",
        ];
        for line in lines {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
