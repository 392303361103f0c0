//! What many shards cost: while nobody needs them, when somebody does, and when all are busy.
//!
//! ```text
//!   create hash:N ─▶ a put in every shard ─▶ wait until all are closed ─▶ resident bytes, CPU
//!                    first put, first linearizable get, each in a closed shard, one at a time ─▶ latency
//!   64 callers on 1 shard and on 16, in turn ─▶ puts per second
//! ```
//!
//! **Invariant.** A first request counts only if the shard was seen closed on every node just before.

use crate::{
    Transport,
    accounting::Usage,
    cell::{Cell, Operation, Work},
    compare::pin_generator,
    peers::Cluster,
};
use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use kvorum_api::{PlacementRange, Sharding, proto};
use kvorum_benches::payload;
use kvorum_client::{Client, Cp, Keyspace, Options};
use serde::Serialize;
use std::{path::PathBuf, time::Duration};
use tokio::time::{Instant, sleep};

/// The keyspace of many shards, and the one whose shards are all busy.
const MANY: &str = "many";
const BUSY: &str = "busy";

/// The shard of the metadata: never closed.
const METADATA: u64 = 0;

/// How long shards may take to be founded, or to be closed.
const PATIENCE: Duration = Duration::from_secs(180);

/// What is measured.
#[derive(Args)]
pub struct GroupsArguments {
    /// Shards, each on three nodes; 0 = measure only what is busy.
    #[arg(long, default_value_t = 1_000)]
    groups: u32,
    /// Seconds for which idle CPU is measured.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Closed shards that get a first put and, closed again, a first linearizable get.
    #[arg(long, default_value_t = 200)]
    first: usize,
    /// Shards that are busy at once, against one; 0 = leave that out.
    #[arg(long, default_value_t = 16)]
    busy: u32,
    /// Repetitions of the busy cells, of three seconds each.
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// The `kvd` to start; by default the one beside this program.
    #[arg(long)]
    kvd: Option<PathBuf>,
    /// Where data goes; by default the temporary directory.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Do not pin: by default the servers share core 0 and the generator has core 1.
    #[arg(long)]
    unpinned: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Figures {
    one_shard: Option<Busy>,
    busy_shards: Option<Busy>,
    #[serde(flatten)]
    idle: Option<IdleFigures>,
}

/// What 64 callers got: median, lowest, highest.
#[derive(Debug, Serialize)]
struct Busy {
    puts_per_second: [f64; 3],
    /// Of the three servers together; says more than the former where others use the machine, too.
    puts_per_server_cpu_second: [f64; 3],
}

impl Busy {
    fn of(cells: &[Cell]) -> Busy {
        let spread = |figure: fn(&Cell) -> f64| {
            let mut values: Vec<f64> = cells.iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            [values[values.len() / 2], values[0], values[values.len() - 1]]
        };
        Busy {
            puts_per_second: spread(|cell| cell.operations_per_second),
            puts_per_server_cpu_second: spread(|cell| cell.operations_per_server_cpu_second.unwrap_or_default()),
        }
    }
}

/// What shards cost that nobody needs, and at their first request.
#[derive(Debug, Serialize)]
struct IdleFigures {
    groups: u32,
    replicas: u64,
    resident_bytes_before: u64,
    resident_bytes_idle: u64,
    /// Everything included: what the three processes grew by, over the replicas.
    resident_bytes_per_replica: f64,
    /// Of one core, all three processes together; before the shards were made, and with all of them closed.
    idle_cpu_before: f64,
    idle_cpu: f64,
    first_put: Latency,
    first_get: Latency,
}

#[derive(Debug, Serialize)]
struct Latency {
    count: u64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

/// Runs it.
pub async fn run(arguments: GroupsArguments) -> Result<()> {
    if arguments.groups == 0 && arguments.busy == 0 {
        bail!("--groups 0 and --busy 0 leave nothing to measure");
    }
    if arguments.first == 0 || !(1.0..=600.0).contains(&arguments.seconds) {
        bail!("--first is at least 1, --seconds is 1 to 600");
    }
    let root = arguments.directory.clone().unwrap_or_else(std::env::temp_dir);
    let core = if arguments.unpinned { None } else { Some(pin_generator()?) };
    let cluster = Cluster::kvorum(arguments.kvd.clone(), core, &root, 1).await?;
    let client = Client::connect(cluster.endpoints.clone(), Options::default()).await?;
    let pids = cluster.target(Transport::Stream).server_pids;
    let (one_shard, busy_shards) = match arguments.busy {
        0 => (None, None),
        shards => {
            create(&client, BUSY, shards).await?;
            let (one, many) = busy(&cluster, arguments.repetitions.max(1)).await?;
            (Some(one), Some(many))
        }
    };
    let idle = match arguments.groups {
        0 => None,
        _ => Some(rest(&client, &pids, &arguments).await?),
    };
    println!("{}", serde_json::to_string_pretty(&Figures { one_shard, busy_shards, idle })?);
    Ok(())
}

/// What many shards cost while nobody needs them, and when somebody does.
async fn rest(client: &Client, pids: &[u32], arguments: &GroupsArguments) -> Result<IdleFigures> {
    until_closed(client).await?;
    let (resident_bytes_before, idle_cpu_before) = idle(pids, arguments.seconds).await?;
    let keys = create(client, MANY, arguments.groups).await?;
    let keyspace = client.keyspace(MANY);
    let patient = keyspace.clone().with_timeout(PATIENCE);
    // One core founds and opens them all: not everything at once.
    for some in keys.chunks(64) {
        for written in patient.put_many(some.iter().map(|key| (key.clone(), payload(256, 1)))).await {
            written?;
        }
    }
    until_closed(client).await?;
    let (resident_bytes_idle, idle_cpu) = idle(pids, arguments.seconds).await?;
    let first_put = first(client, &keys, arguments.first, async |key| put(&keyspace, key).await).await?;
    let first_get = first(client, &keys, arguments.first, async |key| get(&keyspace, key).await).await?;
    let replicas = 3 * u64::from(arguments.groups);
    let grown = resident_bytes_idle.saturating_sub(resident_bytes_before);
    Ok(IdleFigures {
        groups: arguments.groups,
        replicas,
        resident_bytes_before,
        resident_bytes_idle,
        resident_bytes_per_replica: grown as f64 / replicas as f64,
        idle_cpu_before,
        idle_cpu,
        first_put,
        first_get,
    })
}

async fn put(keyspace: &Keyspace<Cp>, key: Bytes) -> Result<()> {
    Ok(keyspace.put(key, payload(256, 2)).await.map(drop)?)
}

async fn get(keyspace: &Keyspace<Cp>, key: Bytes) -> Result<()> {
    keyspace.get(key).await?.entry.context("what was put is not there").map(drop)
}

/// A keyspace spread over so many shards, and a key in each of them.
async fn create(client: &Client, name: &str, shards: u32) -> Result<Vec<Bytes>> {
    let wish = proto::KeyspaceWish { shard_by: "hash".to_owned(), shards, ..proto::KeyspaceWish::default() };
    let admin = client.admin().with_timeout(PATIENCE);
    admin.create_keyspace(name, wish).await?;
    let until = Instant::now() + PATIENCE;
    let made = loop {
        let made = admin.keyspaces(&[name]).await?.pop().context("it was made just now")?;
        if made.shards.iter().all(|shard| shard.state == "ready") {
            break made;
        }
        if Instant::now() > until {
            bail!("the shards of {name} were not founded within {PATIENCE:?}");
        }
        sleep(Duration::from_millis(200)).await;
    };
    let ranges: Vec<PlacementRange> =
        made.shards.iter().map(|shard| PlacementRange { start: shard.start.clone(), end: shard.end.clone() }).collect();
    let mut keys: Vec<Option<Bytes>> = vec![None; ranges.len()];
    let mut missing = keys.len();
    for number in 0_u64.. {
        if missing == 0 {
            break;
        }
        let key = Bytes::from(format!("key-{number}"));
        let placement = Sharding::Hash.placement_key(&key);
        let place = ranges.iter().position(|range| range.contains(&placement)).context("the shards leave a gap")?;
        if keys[place].is_none() {
            (keys[place], missing) = (Some(key), missing - 1);
        }
    }
    Ok(keys.into_iter().flatten().collect())
}

/// Waits until every shard of data is closed on every node.
async fn until_closed(client: &Client) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut open = 0;
        for report in client.admin().node_status().await {
            let status = report.status.map_err(|failure| anyhow!("{}: {failure}", report.address))?;
            let is_open = |one: &&proto::ReplicaStatus| one.shard != METADATA && one.role != "closed";
            open += status.replicas.iter().filter(is_open).count();
        }
        match open {
            0 => return Ok(()),
            _ if Instant::now() > until => bail!("{open} replicas were still open after {PATIENCE:?}"),
            _ => sleep(Duration::from_millis(500)).await,
        }
    }
}

/// Resident bytes, and CPU of one core, of processes that nobody asks anything.
async fn idle(pids: &[u32], seconds: f64) -> Result<(u64, f64)> {
    let before = Usage::of(pids)?;
    let began = Instant::now();
    sleep(Duration::from_secs_f64(seconds)).await;
    let after = Usage::of(pids)?;
    let cpu = (after.cpu - before.cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    Ok((after.resident_bytes, cpu))
}

/// One request into each of some closed shards.
async fn first(
    client: &Client,
    keys: &[Bytes],
    count: usize,
    ask: impl AsyncFn(Bytes) -> Result<()>,
) -> Result<Latency> {
    until_closed(client).await?;
    let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    // Spread over the whole keyspace, and therefore over the leaders.
    for key in keys.iter().step_by((keys.len() / count).max(1)).take(count) {
        let began = Instant::now();
        ask(key.clone()).await?;
        latency.saturating_record(began.elapsed().as_micros() as u64);
    }
    Ok(Latency {
        count: latency.len(),
        p50_us: latency.value_at_quantile(0.5),
        p99_us: latency.value_at_quantile(0.99),
        max_us: latency.max(),
    })
}

/// Puts of one shard and of many, measured in turn.
async fn busy(cluster: &Cluster, repetitions: usize) -> Result<(Busy, Busy)> {
    let work = Work {
        operation: Operation::Put,
        clients: 64,
        measured: Duration::from_secs(3),
        warm_up: Duration::from_secs(1),
        keys: 10_000,
        value_bytes: 256,
        batch: 1,
    };
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for _ in 0..repetitions {
        for (keyspace, cells) in [("load", &mut one), (BUSY, &mut many)] {
            let mut target = cluster.target(Transport::Unary);
            target.keyspace = keyspace.to_owned();
            let cell = Cell::measure(&target, &work).await?;
            if let Some(why) = cell.void() {
                bail!("a cell is void, and with it the run: {why}");
            }
            cells.push(cell);
        }
    }
    Ok((Busy::of(&one), Busy::of(&many)))
}
