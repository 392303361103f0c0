//! The command line, in the dialect of etcdctl and kubectl.
//!
//! **Invariant.** A flag that a command would not use is refused, not ignored ([`refuse_unused`]).

mod cluster;
mod columns;
mod data;
mod files;
mod operator;

use crate::text;
use clap::{ArgMatches, Args, Parser, Subcommand, ValueEnum, parser::ValueSource};
pub use cluster::{Cluster, ClusterStatus, RollingRestart, Upgrade};
pub use columns::{Aggregate, AnswerForm, ColumnsFormat, Correlate, Kernel, Measure, Source};
pub use data::{Batch, CompareAndSet, Delete, Get, If, Increment, Put, Scan};
pub use files::{Export, Import, Rows};
use kvorum_client::{ReadLevel, RequestId};
pub use operator::{
    Alter, Create, Drain, DropKeyspace, Keyspace, MoveReplica, Node, Operator, OperatorList, Shard, ShardName,
    Transfer, Wish, Workers,
};
use std::{path::PathBuf, time::Duration};

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
5 conflict, 6 unavailable and not applied, 7 outcome unknown, 8 denied, 9 throttled, 130 interrupted.";

#[derive(Debug, Args)]
pub struct Globals {
    /// The keyspace
    #[arg(short, long, global = true, value_name = "NAME", env = "KVCTL_KEYSPACE", default_value = "default")]
    pub keyspace: String,
    /// Nodes to ask first, as host:port, separated by commas; the others are found through them
    #[arg(
        short,
        long,
        global = true,
        value_name = "LIST",
        env = "KVCTL_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103"
    )]
    pub endpoints: Vec<String>,
    /// How fresh a read must be: linearizable, session, bounded(500ms), local, one, quorum, all [default: the
    /// keyspace's]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = text::level)]
    pub level: Option<ReadLevel>,
    /// Total time of one request over all its attempts: 300ms, 5s, 2m [default: 5s; import, export
    /// and keyspace create: 30s]
    #[arg(long, global = true, value_name = "TIME", value_parser = text::duration)]
    pub timeout: Option<Duration>,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t = Form::Table)]
    pub output: Form,
    /// Repeat a write whose outcome is unknown under the id it was sent with: applied at most once
    #[arg(long, global = true, value_name = "ID")]
    pub request_id: Option<RequestId>,
    /// Go on with the session kept in this file, and keep it there: what was read or written is read again, on any node
    #[arg(long, global = true, value_name = "FILE")]
    pub session: Option<PathBuf>,
    /// How requests travel [default: stream]
    #[arg(long, global = true, value_enum, value_name = "WAY")]
    pub transport: Option<Way>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// One gRPC call per request
    Unary,
    /// Frames of many requests
    Stream,
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
    /// Load CSV, TSV or JSON Lines, each row as one JSON value, or what `export` wrote
    Import(Import),
    /// Write keys and values as JSON Lines, which `import` takes back
    Export(Export),
    /// Answer a question about a file of rows: counts, sums, averages, quantiles, by groups
    Aggregate(Aggregate),
    /// How the columns of a file move together: a correlation matrix
    Correlate(Correlate),
    /// Create, describe, alter, drop keyspaces
    #[command(subcommand)]
    Keyspace(Keyspace),
    /// The nodes of the cluster
    #[command(subcommand)]
    Node(Node),
    /// The shards of the keyspaces
    #[command(subcommand)]
    Shard(Shard),
    /// What is being done to shards: moves of replicas and leaders
    #[command(subcommand)]
    Operator(Operator),
    /// Background chores: their pace, their last error
    Workers(Workers),
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(Cluster),
    /// Short for `cluster status`
    Status(ClusterStatus),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the version
    Version,
}

/// Which global flags a command has no use for.
fn unused(command: &Command) -> &'static [&'static str] {
    match command {
        Command::Get(_) => &["request_id"],
        // A scan has a stream of its own, whatever carries the other requests.
        Command::Scan(_) => &["request_id", "transport"],
        Command::Put(_) | Command::Del(_) | Command::Cas(_) | Command::Incr(_) | Command::Batch(_) => &["level"],
        Command::Import(_) => &["level", "request_id", "session"],
        Command::Export(_) => &["request_id", "session", "transport"],
        Command::Shard(Shard::List) => &["level", "request_id", "session", "transport"],
        Command::Cluster(_)
        | Command::Status(_)
        | Command::Keyspace(_)
        | Command::Node(_)
        | Command::Operator(_)
        | Command::Shard(Shard::Describe { .. } | Shard::Move(_) | Shard::TransferLeader(_))
        | Command::Workers(_) => &["level", "request_id", "keyspace", "session", "transport"],
        Command::Aggregate(_) | Command::Correlate(_) => {
            &["level", "request_id", "keyspace", "endpoints", "timeout", "session", "transport"]
        }
        Command::Completions { .. } => {
            &["level", "request_id", "keyspace", "endpoints", "timeout", "output", "quiet", "session", "transport"]
        }
        Command::Version => {
            &["level", "request_id", "keyspace", "endpoints", "timeout", "quiet", "session", "transport"]
        }
    }
}

/// Whether a global flag is on the command line, wherever it was written. Defaults and the environment are not meant.
pub fn is_given(matches: &ArgMatches, flag: &str) -> bool {
    let inner = matches.subcommand().map(|(_, inner)| inner);
    // clap notes a global flag where it was written: before the command, after it, or after the command's own verb.
    let places = [Some(matches), inner, inner.and_then(|inner| inner.subcommand()).map(|(_, verb)| verb)];
    places
        .into_iter()
        .flatten()
        .any(|place| place.ids().any(|id| id == flag) && place.value_source(flag) == Some(ValueSource::CommandLine))
}

/// Says which flag of the command line the command would ignore.
pub fn refuse_unused(cli: &Cli, matches: &ArgMatches) -> Result<(), String> {
    let name = matches.subcommand_name().unwrap_or_default();
    if let Some(flag) = unused(&cli.command).iter().find(|flag| is_given(matches, flag)) {
        return Err(format!("`kvctl {name}` has no use for --{}: leave it out", flag.replace('_', "-")));
    }
    if cli.globals.level == Some(ReadLevel::Session) && cli.globals.session.is_none() {
        return Err(
            "--level session needs --session FILE: without one nothing was seen that could be seen again".to_owned()
        );
    }
    let is_raw = cli.globals.output == Form::Raw;
    let has_no_bytes = |command: &Command| {
        matches!(
            command,
            Command::Batch(_)
                | Command::Import(_)
                | Command::Export(_)
                | Command::Aggregate(_)
                | Command::Correlate(_)
                | Command::Cluster(_)
                | Command::Status(_)
                | Command::Keyspace(_)
                | Command::Node(_)
                | Command::Shard(_)
                | Command::Operator(_)
                | Command::Workers(_)
                | Command::Version
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
            "kvctl export -o raw",
            "kvctl export --session f",
            "kvctl scan --transport unary",
            "kvctl keyspace list -k x",
            "kvctl shard describe 5 -k x",
            "kvctl workers --level local",
            "kvctl operator list -k x",
            "kvctl operator list -o raw",
            "kvctl get a --level session",
            "kvctl export --level session",
            "kvctl aggregate --from f count() -k demo",
            "kvctl aggregate --from f count() -o raw",
            "kvctl correlate --from f --endpoints a:1",
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
            "kvctl import f.jsonl --resume",
            "kvctl export",
            "kvctl export --from a --to b f.jsonl.gz --resume",
            "kvctl -e a:1,b:2 get k --session f --transport unary",
            "kvctl keyspace create orders --mode cp --shard-by hash:8 --replicas 3 --leases --changes new",
            "kvctl keyspace create orders --split-at g --split-at p --read-level bounded:200ms",
            "kvctl keyspace alter orders --leases=false --value-bytes-max 2MiB",
            "kvctl keyspace drop orders --yes",
            "kvctl node status",
            "kvctl node status 2",
            "kvctl shard list -k orders",
            "kvctl shard list --keyspace orders",
            "kvctl shard transfer-leader 5 --to 2",
            "kvctl shard transfer-leader orders/5 --no-wait",
            "kvctl shard move orders/5 --from 2 --to 4 --wait",
            "kvctl shard move 5 --from 2 --to 4 --wait=5m",
            "kvctl shard move 5 --from 2 --to 4 --dry-run",
            "kvctl operator list --all --state failed",
            "kvctl operator list --shard 5 -o json",
            "kvctl operator cancel 17 --dry-run",
            "kvctl node add 10.0.0.4:7201",
            "kvctl node drain 2 --wait",
            "kvctl node recommission 2",
            "kvctl node forget 2 --dry-run",
            "kvctl workers --node 1",
            "kvctl cluster status --shards",
            "kvctl cluster upgrade status",
            "kvctl cluster upgrade finalize -o json",
            "kvctl cluster rolling-restart --command true --from 2 --patience 10m --dry-run",
            "kvctl cluster rolling-restart --command true --nodes 3,1",
            "kvctl get a --level session --session f",
            "kvctl aggregate --from f.csv.gz count(),avg(x) --where x<5 --group-by y --executor cpu --explain -o json",
            "kvctl correlate --from f.csv --window 252 --step 21 --of levels",
        ];
        for line in lines {
            assert_eq!(parse(line).unwrap(), Ok(()), "{line}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let lines = [
            "kvctl put a b --if-absent --if-present",
            "kvctl keyspace alter orders --replicas 3",
            "kvctl scan --prefix a --start b",
            "kvctl scan --keys-only --values-only",
            "kvctl scan --limit 0",
            "kvctl export --prefix a --from b",
            "kvctl export f --resume --overwrite",
            "kvctl keyspace create",
            "kvctl keyspace create a --replicas 0",
            "kvctl keyspace create a --read-level fresh",
            "kvctl keyspace create a --value-bytes-max 5XB",
            "kvctl cluster rolling-restart",
            "kvctl cluster rolling-restart --command true --nodes 3 --from 2",
            "kvctl shard describe x",
            "kvctl shard move orders --from 1 --to 2",
            "kvctl shard move 5 --to 2",
            "kvctl operator list --state odd",
            "kvctl node drain 2 --wait --dry-run",
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
