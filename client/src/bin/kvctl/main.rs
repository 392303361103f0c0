//! # kvctl: the cluster from a terminal
//!
//! ```text
//!   args ─▶ check (no flag is ignored) ─▶ command ─▶ library ─▶ stdout: data │ stderr: the rest │ exit code: what happened
//! ```
//!
//! **Invariant.** The exit code tells the truth about writes: 6 only if it provably did not happen, 7 if it may have.
//! `docs/kvctl.md` is the page for people.

mod args;
mod batch;
mod cluster;
mod exit;
mod import;
mod output;
mod scan;
mod single;
mod text;

use args::{Cli, Command, Globals};
use clap::{CommandFactory as _, FromArgMatches as _};
use kvorum_client::{Client, ClientError, Options};
use output::Output;
use std::{process::ExitCode, time::Duration};

/// Total time of one request, unless `--timeout` says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Err(problem) = args::refuse_unused(&cli, &matches) {
        Cli::command().error(clap::error::ErrorKind::ArgumentConflict, problem).exit();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(error.into()),
    };
    exit::code_of(outcome)
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
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
        Command::Cluster(args::Cluster::Status) | Command::Status => cluster::status(&globals, &output).await,
        Command::Completions { shell } => output.completions(shell),
        Command::Version => output.version(),
    }
}

/// A client for the endpoints of the command line; nothing is asked yet.
fn client(globals: &Globals, timeout_default: Duration) -> Result<Client, ClientError> {
    let timeout = globals.timeout.unwrap_or(timeout_default);
    let traceparent = std::env::var("TRACEPARENT").ok().filter(|text| !text.is_empty());
    Client::new(globals.endpoints.iter().cloned(), Options { timeout, traceparent, ..Options::default() })
}
