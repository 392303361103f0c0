//! `kvd`: one node of a Kvorum cluster.
//!
//! Exit codes: 0 stopped in order; 1 cannot start or cannot go on; 2 usage or configuration. Every failure is one sentence
//! on stderr.

use clap::Parser;
use kvorum_server::{config::Config, metrics, node, telemetry};
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

    /// Print the effective configuration and exit.
    #[arg(long)]
    print_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
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
    let recorder = match metrics::install() {
        Ok(recorder) => recorder,
        Err(error) => return fail(1, &error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().thread_name("kvd").enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    match runtime.block_on(node::run(config, recorder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(io::stderr(), "kvd: {error}");
    ExitCode::from(code)
}
