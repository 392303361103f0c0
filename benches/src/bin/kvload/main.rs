//! # kvload: load on a whole cluster, and on its peers beside it
//!
//! ```text
//!   run       one cell: a driver, an operation, N clients, some seconds ──▶ one JSON line
//!   compare   starts Kvorum and etcd side by side, servers on one core and the generator on the other,
//!             runs every cell in turn, R times over ──▶ JSON lines, medians with their spread, ratios
//!   groups    starts Kvorum with a thousand shards ──▶ memory, idle CPU, first requests, sixteen busy ones
//!   grow      starts Kvorum, fills it, adds a node, kills one ──▶ time, bytes moved, what callers saw meanwhile
//! ```
//!
//! A *closed loop*: each client sends, waits for the answer, and sends again. Latency is therefore that of a system
//! that is never asked faster than it answers; it says nothing about queues that build up under a given rate. Only
//! `grow` asks at a fixed rate, and counts from when it meant to ask.
//!
//! **Invariant.** A ratio compares cells of one run on one machine, and is not printed when their ranges overlap.
//!
//! **Deliberately absent.** An open loop with intended start times, zipf and hot keys: this is the first form.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod accounting;
mod cell;
mod compare;
mod drivers;
mod groups;
mod grow;
mod open_loop;
mod peers;
mod report;

use anyhow::{Result, bail};
use cell::{Cell, Operation, Work};
use clap::{Args, Parser, Subcommand, ValueEnum};
use drivers::Target;
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// Load generator for Kvorum and its peers.
#[derive(Parser)]
#[command(name = "kvload", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Puts load on a cluster that runs already, and prints one JSON line.
    Run(RunArguments),
    /// Starts Kvorum and etcd side by side and compares them.
    Compare(compare::CompareArguments),
    /// Starts Kvorum and measures what many shards cost: idle, closed, busy.
    Groups(groups::GroupsArguments),
    /// Starts Kvorum, adds a node and loses one, and measures how it fills up and heals.
    Grow(grow::GrowArguments),
}

/// How requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// One gRPC call per operation.
    Unary,
    /// The client library's framed stream, batched naturally.
    Stream,
    /// etcd's own interface.
    Etcd,
}

#[derive(Args)]
struct RunArguments {
    /// Client addresses of the cluster, host:port, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// How requests travel.
    #[arg(long, value_enum, default_value = "unary")]
    transport: Transport,
    /// Keyspace (not for etcd).
    #[arg(long, default_value = "demo")]
    keyspace: String,
    #[command(flatten)]
    work: WorkArguments,
    /// Process ids of the servers, to charge their CPU time.
    #[arg(long, value_delimiter = ',')]
    server_pids: Vec<u32>,
}

/// What a cell does.
#[derive(Args, Clone, Debug)]
struct WorkArguments {
    /// What each client does.
    #[arg(long, value_enum, default_value = "put")]
    operation: Operation,
    /// Clients, each with one request under way.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before them that are not.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Different keys.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Puts of one request: etcd sends them as one transaction, the others as one atomic batch or as many puts at once.
    #[arg(long, default_value_t = 1)]
    batch: usize,
}

impl WorkArguments {
    fn work(&self) -> Result<Work> {
        if !(1..=10_000).contains(&self.clients) {
            bail!("--clients is {}: 1 to 10,000", self.clients);
        }
        if !(0.1..=3_600.0).contains(&self.seconds) || !(0.0..=600.0).contains(&self.warm_up) {
            bail!("--seconds is {} and --warm-up {}: 0.1 to 3,600 and 0 to 600", self.seconds, self.warm_up);
        }
        if self.keys == 0 {
            bail!("--keys is 0: at least 1");
        }
        if self.value_bytes > kvorum_api::limits::VALUE_BYTES_DEFAULT {
            bail!("--value-bytes is {}: at most {}", self.value_bytes, kvorum_api::limits::VALUE_BYTES_DEFAULT);
        }
        if !(1..=128).contains(&self.batch) {
            bail!("--batch is {}: 1 to 128 (etcd takes no more in one transaction)", self.batch);
        }
        if self.batch > 1 && self.operation == Operation::Get {
            bail!("--batch is {} and --operation get: only puts are batched", self.batch);
        }
        Ok(Work {
            operation: self.operation,
            clients: self.clients,
            measured: Duration::from_secs_f64(self.seconds),
            warm_up: Duration::from_secs_f64(self.warm_up),
            keys: self.keys,
            value_bytes: self.value_bytes,
            batch: self.batch,
        })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            match arguments.command {
                Command::Run(run) => run_one(run).await,
                Command::Compare(compare) => compare::run(compare).await,
                Command::Groups(groups) => groups::run(groups).await,
                Command::Grow(grow) => grow::run(grow).await,
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run_one(arguments: RunArguments) -> Result<()> {
    let work = arguments.work.work()?;
    let target = Target {
        transport: arguments.transport,
        endpoints: arguments.endpoints,
        keyspace: arguments.keyspace,
        server_pids: arguments.server_pids,
    };
    let cell = Cell::measure(&target, &work).await?;
    println!("{}", serde_json::to_string(&cell)?);
    if let Some(why) = cell.void() {
        bail!("this run is void: {why}");
    }
    Ok(())
}

/// A program beside this one, or on the path.
fn beside(name: &str) -> PathBuf {
    let here = std::env::current_exe().ok().and_then(|path| path.parent().map(|folder| folder.join(name)));
    here.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(name))
}
