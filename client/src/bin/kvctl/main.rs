//! # kvctl: the cluster from a terminal
//!
//! ```text
//!   args ─▶ check (no flag is ignored) ─▶ command ─▶ library ─▶ stdout: data │ stderr: the rest │ exit code
//! ```
//!
//! **Invariant.** The exit code tells the truth about writes: 6 only if it provably did not happen, 7 if it may have.
//! `docs/kvctl.md` is the page for people.

mod args;
mod batch;
mod cluster;
mod columns;
mod exit;
mod export;
mod facts;
mod fate;
mod foresee;
mod import;
mod keyspace;
mod node;
mod operator;
mod output;
mod rolling;
mod scan;
mod session;
mod shard;
mod single;
mod status;
mod table;
mod text;
#[cfg(test)]
mod typed;
mod upgrade;
mod wellness;

use args::{Cli, Command, Globals, Way};
use clap::{CommandFactory as _, FromArgMatches as _};
use kvorum_client::{Client, ClientError, Options, Transport};
use output::Output;
use std::{process::ExitCode, time::Duration};

/// Total time of one request, unless `--timeout` says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// The same for one request of a long work, and for all of a keyspace to come up: a busy cluster is slow, not broken.
const TIMEOUT_LONG: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Err(problem) = args::refuse_unused(&cli, &matches) {
        Cli::command().error(clap::error::ErrorKind::ArgumentConflict, problem).exit();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(cli, args::is_given(&matches, "keyspace"))),
        Err(error) => Err(error.into()),
    };
    exit::code_of(outcome)
}

async fn run(cli: Cli, is_keyspace_given: bool) -> anyhow::Result<ExitCode> {
    let Cli { globals, command } = cli;
    let output = Output::new(globals.output, globals.quiet);
    match command {
        Command::Get(get) => single::get(&globals, &output, get).await,
        Command::Put(put) => single::put(&globals, &output, put).await,
        Command::Del(delete) => single::delete(&globals, &output, delete).await,
        Command::Cas(cas) => single::compare_and_set(&globals, &output, cas).await,
        Command::Incr(increment) => single::increment(&globals, &output, increment).await,
        Command::Scan(scan) => scan::run(&globals, &output, scan).await,
        Command::Batch(batch) => batch::run(&globals, &output, batch).await,
        Command::Import(import) => import::run(&globals, &output, import).await,
        Command::Export(export) => export::run(&globals, &output, export).await,
        Command::Aggregate(aggregate) => columns::aggregate(&globals, &output, &aggregate),
        Command::Correlate(correlate) => columns::correlate(&globals, &output, &correlate),
        Command::Keyspace(keyspace) => keyspace::run(&globals, &output, keyspace).await,
        Command::Node(node) => node::run(&globals, &output, node).await,
        Command::Shard(shard) => shard::run(&globals, &output, shard, is_keyspace_given).await,
        Command::Operator(operator) => operator::run(&globals, &output, operator).await,
        Command::Workers(workers) => node::workers(&globals, &output, workers).await,
        Command::Cluster(args::Cluster::Status(status)) | Command::Status(status) => {
            cluster::status(&globals, &output, status).await
        }
        Command::Cluster(args::Cluster::Upgrade(command)) => upgrade::run(&globals, &output, command).await,
        Command::Cluster(args::Cluster::RollingRestart(restart)) => rolling::run(&globals, &output, restart).await,
        Command::Completions { shell } => output.completions(shell),
        Command::Version => output.version(),
    }
}

/// A client for the endpoints of the command line; nothing is asked yet.
fn client(globals: &Globals, timeout_default: Duration) -> Result<Client, ClientError> {
    let timeout = globals.timeout.unwrap_or(timeout_default);
    let traceparent = std::env::var("TRACEPARENT").ok().filter(|text| !text.is_empty());
    let transport = match globals.transport {
        Some(Way::Unary) => Transport::Unary,
        Some(Way::Stream) => Transport::Stream,
        None => Transport::default(),
    };
    Client::new(globals.endpoints.iter().cloned(), Options { timeout, traceparent, transport, ..Options::default() })
}
