//! Kvorum and etcd side by side: every cell in turn, and all of it again, so that what disturbs the machine disturbs
//! both.

use crate::{
    Transport,
    cell::{Cell, Operation, Work},
    peers::Cluster,
    report,
};
use anyhow::{Result, bail};
use clap::Args;
use std::{path::PathBuf, time::Duration};

/// What is compared.
#[derive(Args)]
pub struct CompareArguments {
    /// Clients of each cell.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    clients: Vec<usize>,
    /// Operations.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "put,get")]
    operations: Vec<Operation>,
    /// Puts of one request, for one more row of puts at 64 clients; 1 = no such row.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Shards of Kvorum's keyspace.
    #[arg(long, default_value_t = 1)]
    shards: u32,
    /// Seconds of each cell.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds of warm-up of each cell.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// How often everything is repeated.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Different keys.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// The `kvd` to start; by default the one beside this program.
    #[arg(long)]
    kvd: Option<PathBuf>,
    /// The `etcd` to start; by default the one on the path.
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Leave etcd out.
    #[arg(long)]
    without_etcd: bool,
    /// Where data goes; by default the temporary directory.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Do not pin: by default the servers share core 0 and the generator has core 1.
    #[arg(long)]
    unpinned: bool,
    /// Write every cell to this file, one JSON line each.
    #[arg(long)]
    output: Option<PathBuf>,
}

/// Runs the comparison.
pub async fn run(arguments: CompareArguments) -> Result<()> {
    if arguments.repetitions == 0 || arguments.clients.is_empty() {
        bail!("--repetitions and --clients: at least one");
    }
    let root = arguments.directory.clone().unwrap_or_else(std::env::temp_dir);
    let core = if arguments.unpinned { None } else { Some(pin_generator()?) };
    let kvorum = Cluster::kvorum(arguments.kvd.clone(), core, &root, arguments.shards).await?;
    let etcd = match arguments.without_etcd {
        true => None,
        false => Some(Cluster::etcd(arguments.etcd.clone(), core, &root).await?),
    };
    let mut cells = Vec::new();
    for repetition in 0..arguments.repetitions {
        for work in works(&arguments) {
            for transport in [Transport::Unary, Transport::Stream, Transport::Etcd] {
                let cluster = match transport {
                    Transport::Unary | Transport::Stream => Some(&kvorum),
                    Transport::Etcd => etcd.as_ref(),
                };
                let Some(cluster) = cluster else { continue };
                let cell = Cell::measure(&cluster.target(transport), &work).await?;
                let line = serde_json::to_string(&cell)?;
                eprintln!("{}/{}: {line}", repetition + 1, arguments.repetitions);
                if let Some(why) = cell.void() {
                    bail!("a cell is void, and with it the run: {why}");
                }
                cells.push(cell);
            }
        }
    }
    if let Some(output) = &arguments.output {
        let lines: Result<Vec<String>, _> = cells.iter().map(serde_json::to_string).collect();
        std::fs::write(output, lines?.join("\n") + "\n")?;
    }
    println!("{}", report::table(&cells));
    Ok(())
}

fn works(arguments: &CompareArguments) -> Vec<Work> {
    let work = |operation, clients, batch| Work {
        operation,
        clients,
        measured: Duration::from_secs_f64(arguments.seconds),
        warm_up: Duration::from_secs_f64(arguments.warm_up),
        keys: arguments.keys,
        value_bytes: arguments.value_bytes,
        batch,
    };
    let mut works = Vec::new();
    for operation in &arguments.operations {
        works.extend(arguments.clients.iter().map(|clients| work(*operation, *clients, 1)));
    }
    // A batch is atomic within a shard: with several of them it could not be sent as one.
    if arguments.batch > 1 && arguments.shards == 1 && arguments.operations.contains(&Operation::Put) {
        works.push(work(Operation::Put, 64, arguments.batch));
    }
    works
}

/// Puts this process on core 1; gives the core of the servers.
pub fn pin_generator() -> Result<usize> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(1);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cores) {
        bail!("core 1 cannot be had ({error}): use --unpinned on a machine with one core");
    }
    Ok(0)
}
