//! `kvd`: one node of a Kvorum cluster.
//!
//! Exit codes: 0 stopped in order; 1 cannot start or cannot go on; 2 usage or configuration. Every failure is one
//! sentence on stderr.

use clap::Parser;
use kvorum_server::{
    beginning::{self, Options},
    config::{self, Config},
    metrics, node, telemetry,
};
use kvorum_storage::planted;
use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Usage or configuration.
const EXIT_USAGE: u8 = 2;

/// One node of a Kvorum cluster. Without arguments: one node by itself, data in ./kvorum-data, on loopback.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file (TOML); every field can be overridden by KV__SECTION__FIELD.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Join the cluster of these nodes: their peer addresses. Needs the cluster's key. Not needed again once let in.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = peer_address)]
    join: Vec<String>,

    /// The file with the cluster's key (instead of cluster.key_file).
    #[arg(long, value_name = "FILE")]
    cluster_key: Option<PathBuf>,

    /// Make a cluster key, write it to a file that is not there yet, and exit.
    #[arg(long, value_name = "FILE", exclusive = true)]
    new_cluster_key: Option<PathBuf>,

    /// Print the effective configuration and exit.
    #[arg(long)]
    print_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let bugs = match planted::acting() {
        Ok(bugs) => bugs,
        Err(unknown) => return fail(EXIT_USAGE, &unknown),
    };
    if let Some(file) = arguments.new_cluster_key {
        return match beginning::new_key().map(|key| key.write_new(&file)) {
            Ok(Ok(())) => ExitCode::SUCCESS,
            Ok(Err(error)) => fail(1, &error),
            Err(error) => fail(1, &error),
        };
    }
    let config = match Config::load(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    if arguments.print_config {
        return match io::stdout().write_all(config.to_toml().as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error),
        };
    }
    if let Err(error) = telemetry::start(&config.log) {
        return fail(EXIT_USAGE, &error);
    }
    if !bugs.is_empty() {
        tracing::warn!(?bugs, "planted bugs act: this is no node to keep anything in");
    }
    let recorder = match metrics::install() {
        Ok(recorder) => recorder,
        Err(error) => return fail(1, &error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().thread_name("kvd").enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let options = Options { join: arguments.join, cluster_key: arguments.cluster_key };
    match runtime.block_on(node::run(config, options, recorder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

fn peer_address(text: &str) -> Result<String, String> {
    match config::is_host_and_port(text) {
        true => Ok(text.to_owned()),
        false => Err("write host:port, the peer address of a node that is in".to_owned()),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(io::stderr(), "kvd: {error}");
    ExitCode::from(code)
}
