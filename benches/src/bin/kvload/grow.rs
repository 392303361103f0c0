//! A cluster that grows by a node and then loses one, under load that goes on.
//!
//! ```text
//!   three nodes, S shards, N bytes ─▶ load at a fixed rate: "before"
//!     a fourth joins               ─▶ "growing"   until all hold about as many replicas, and no operator is open
//!                                  ─▶ "after"
//!     a founder is killed          ─▶ "healing"   until every shard has all its replicas again
//! ```
//!
//! **Invariant.** Bytes moved are what the newcomer received from its peers, everything included: snapshots, log, the
//! load that goes on. The least is what it holds in the end, as its engine reckons the size of rows. Both are asked of
//! it.

use crate::{
    compare::pin_generator,
    open_loop::{Asked, OpenLoop, Seen, key},
    peers::{Cluster, Newcomer},
};
use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kvorum_api::proto;
use kvorum_benches::payload;
use kvorum_client::{Admin, Client, Cp, Keyspace, Options, operators::ListOperatorsRequest};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep},
};

/// Bytes of a value that the cluster is filled with.
const VALUE_BYTES: u64 = 4 << 10;

/// Puts under way while it is filled.
const FILLERS: usize = 64;

/// Between two looks at the cluster.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Between filling and measuring.
const SETTLING: Duration = Duration::from_secs(20);

/// How many looks in a row must show nothing left to do.
const QUIET_LOOKS: u32 = 6;

/// What is measured.
#[derive(Args)]
pub struct GrowArguments {
    /// What the cluster holds, counted once, before it grows.
    #[arg(long, default_value_t = 1_024)]
    mib: u64,
    /// Shards it is spread over.
    #[arg(long, default_value_t = 64)]
    shards: u32,
    /// Operations a second meanwhile, half puts of 256 bytes, half linearizable gets of 4 KiB.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// MiB a second of snapshots that a node sends, all of its groups together: balance.move_bytes_per_second; 0 = no
    /// limit.
    #[arg(long, default_value_t = 64)]
    pace_mib: u64,
    /// Moves at once, per node: balance.moves_per_node.
    #[arg(long, default_value_t = 2)]
    moves_per_node: u32,
    /// Seconds of the phases before and after.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Seconds after which a silent node is replaced; 0 = none is killed.
    #[arg(long, default_value_t = 10)]
    replace_after: u32,
    /// How long growing and healing may take, each, in seconds.
    #[arg(long, default_value_t = 1_200)]
    patience: u64,
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
#[derive(Serialize)]
struct Figures {
    mib: u64,
    shards: u32,
    pace_mib: u64,
    moves_per_node: u32,
    rate: f64,
    fill_seconds: f64,
    grown: Grown,
    /// Of the p99 before.
    growing_p99_ratio: f64,
    healed: Option<Healed>,
    phases: Vec<Seen>,
}

#[derive(Serialize)]
struct Grown {
    /// From the start of the process until nothing was left to do.
    seconds: f64,
    moves: usize,
    /// The least that makes the nodes hold about as many.
    moves_least: usize,
    bytes_received: u64,
    bytes_held: u64,
    bytes_ratio: f64,
    replicas: BTreeMap<u64, usize>,
}

#[derive(Serialize)]
struct Healed {
    replace_after: u32,
    /// From the kill until every shard has all its replicas again and nothing is left to do; `replace_after` is in it.
    seconds: f64,
    replicas_made: usize,
    replicas: BTreeMap<u64, usize>,
}

impl GrowArguments {
    fn check(&self) -> Result<()> {
        if !(1..=1 << 16).contains(&self.mib) {
            bail!("--mib is {}: 1 to 65,536", self.mib);
        }
        if !(1..=4_096).contains(&self.shards) {
            bail!("--shards is {}: 1 to 4,096", self.shards);
        }
        if !(1.0..=100_000.0).contains(&self.rate) || !(1.0..=600.0).contains(&self.seconds) {
            bail!("--rate is {} and --seconds {}: 1 to 100,000 and 1 to 600", self.rate, self.seconds);
        }
        if self.replace_after == 1 {
            bail!("--replace-after is 1: 0 (nobody is killed), or 2 and more: a node that restarts is not lost");
        }
        Ok(())
    }

    fn newcomer<'a>(&self, core: Option<usize>, more: &'a str) -> Newcomer<'a> {
        Newcomer { program: self.kvd.clone(), core, more }
    }
}

/// Runs it.
pub async fn run(arguments: GrowArguments) -> Result<()> {
    arguments.check()?;
    let root = arguments.directory.clone().unwrap_or_else(std::env::temp_dir);
    let core = if arguments.unpinned { None } else { Some(pin_generator()?) };
    let replace_after = if arguments.replace_after == 0 { 600 } else { arguments.replace_after };
    let more = format!(
        "[balance]\nmove_bytes_per_second = \"{}MiB\"\nmoves_per_node = {}\nreplace_after = \"{replace_after}s\"\n",
        arguments.pace_mib, arguments.moves_per_node,
    );
    let mut cluster = Cluster::kvorum_with(arguments.newcomer(core, &more), &root, arguments.shards).await?;
    let client = Client::connect(cluster.endpoints.clone(), Options::default()).await?;
    let (admin, keyspace) = (client.admin(), client.keyspace("load"));
    let keys = (arguments.mib << 20) / VALUE_BYTES;
    say(&format!("fills {} MiB into {} shards", arguments.mib, arguments.shards));
    let began = Instant::now();
    fill(&keyspace, keys).await?;
    let fill_seconds = began.elapsed().as_secs_f64();

    // What the engine still has to do with what was filled in is not what callers see every day.
    sleep(SETTLING).await;
    let pause = Duration::from_secs_f64(arguments.seconds);
    let asked = Asked { keyspace: keyspace.with_timeout(PATIENT), rate: arguments.rate, keys, value_bytes: 256 };
    let load = OpenLoop::begin(asked, "before");
    sleep(pause).await;
    say("a fourth node joins");
    load.enter("growing");
    let patience = Duration::from_secs(arguments.patience);
    let grown = grow(&mut cluster, &admin, arguments.newcomer(core, &more), patience).await?;
    say(&format!("grown after {:.1} s", grown.seconds));
    load.enter("after");
    sleep(pause).await;
    let healed = match arguments.replace_after {
        0 => None,
        replace_after => {
            say("a founder is killed");
            load.enter("healing");
            let healed = heal(&mut cluster, &admin, replace_after, patience).await?;
            say(&format!("healed after {:.1} s", healed.seconds));
            Some(healed)
        }
    };
    let phases = load.end(PATIENT).await?;
    let p99 = |name: &str| phases.iter().find(|seen| seen.phase == name).map_or(0, |seen| seen.p99_us) as f64;
    let growing_p99_ratio = p99("growing") / p99("before").max(1.0);
    let GrowArguments { mib, shards, pace_mib, moves_per_node, rate, .. } = arguments;
    let figures =
        Figures { mib, shards, pace_mib, moves_per_node, rate, fill_seconds, grown, growing_p99_ratio, healed, phases };
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

/// How long a request of the load may take before it counts as failed.
const PATIENT: Duration = Duration::from_secs(10);

fn say(what: &str) {
    eprintln!("{what}");
}

async fn fill(keyspace: &Keyspace<Cp>, keys: u64) -> Result<()> {
    let patient = keyspace.clone().with_timeout(Duration::from_secs(60));
    let put = |number: u64| {
        let (patient, value) = (&patient, payload(VALUE_BYTES as usize, number));
        async move { patient.put(key(number), value).await.map(drop) }
    };
    stream::iter(0..keys).map(put).buffer_unordered(FILLERS).try_collect::<()>().await?;
    Ok(())
}

async fn grow(cluster: &mut Cluster, admin: &Admin, newcomer: Newcomer<'_>, patience: Duration) -> Result<Grown> {
    let began = Instant::now();
    let before = last_operator(admin).await?;
    cluster.join(newcomer)?;
    let joined = |statuses: &[proto::NodeStatusReply]| statuses.len() == 4 && is_even(&replicas(statuses));
    let Settled { statuses, seconds, moves } = settled(admin, (began, before), patience, joined).await?;
    let newcomer = statuses.iter().map(|status| status.node).max().context("there are four")?;
    let held = statuses.iter().filter(|status| status.node == newcomer).flat_map(|status| &status.replicas);
    let held: Vec<u64> = held.filter(|replica| replica.shard != 0).filter_map(|replica| replica.bytes).collect();
    let address = cluster.metrics.last().context("it was started just now")?;
    let bytes_received = metric(address, "kv_server_peer_bytes_total{direction=\"in\"}").await?;
    let all: usize = replicas(&statuses).values().sum();
    let bytes_held = held.iter().sum::<u64>();
    Ok(Grown {
        seconds,
        moves,
        moves_least: all / statuses.len(),
        bytes_received,
        bytes_held,
        bytes_ratio: bytes_received as f64 / bytes_held.max(1) as f64,
        replicas: replicas(&statuses),
    })
}

async fn heal(cluster: &mut Cluster, admin: &Admin, replace_after: u32, patience: Duration) -> Result<Healed> {
    let before = last_operator(admin).await?;
    let began = Instant::now();
    cluster.kill(0)?;
    let all: usize = {
        let reports = admin.keyspaces(&["load"]).await?;
        reports.iter().map(|keyspace| 3 * keyspace.shards.len()).sum()
    };
    let healed = |statuses: &[proto::NodeStatusReply]| {
        statuses.len() == 3
            && statuses.iter().all(|status| status.short.is_empty())
            && replicas(statuses).values().sum::<usize>() == all
    };
    let Settled { statuses, seconds, moves } = settled(admin, (began, before), patience, healed).await?;
    Ok(Healed { replace_after, seconds, replicas_made: moves, replicas: replicas(&statuses) })
}

/// A cluster that has nothing left to do.
struct Settled {
    statuses: Vec<proto::NodeStatusReply>,
    /// Until the first of the quiet looks.
    seconds: f64,
    /// Replicas of data that were made meanwhile.
    moves: usize,
}

/// Waits until the living nodes are as wanted and no operator is open, several looks in a row; `before` is the last
/// operator there was when it `began`.
async fn settled(
    admin: &Admin,
    (began, before): (Instant, u64),
    patience: Duration,
    is_as_wanted: impl Fn(&[proto::NodeStatusReply]) -> bool,
) -> Result<Settled> {
    let (mut quiet, mut first, mut moved) = (0, 0.0, BTreeSet::new());
    loop {
        // Only the last few hundred that have ended are kept, so all are noted as they end.
        if let Ok(all) = all_operators(admin).await {
            moved.extend(all.iter().filter(|operator| operator.id > before && is_move(operator)).map(|one| one.id));
        }
        let reports = admin.node_status().await;
        let statuses: Vec<proto::NodeStatusReply> =
            reports.into_iter().filter_map(|report| report.status.ok()).collect();
        let open = admin.operators(ListOperatorsRequest::default()).await;
        let is_quiet = is_as_wanted(&statuses) && open.as_ref().is_ok_and(Vec::is_empty);
        if !is_quiet {
            quiet = 0;
        } else if quiet == 0 {
            (quiet, first) = (1, began.elapsed().as_secs_f64());
        } else {
            quiet += 1;
        }
        if quiet == QUIET_LOOKS {
            return Ok(Settled { statuses, seconds: first, moves: moved.len() });
        }
        if began.elapsed() > patience {
            let held_up: Vec<&String> = statuses.iter().flat_map(|status| &status.held_up).collect();
            let waits = open.map(|open| open.into_iter().map(|one| (one.cause, one.waits_for)).collect::<Vec<_>>());
            bail!("not settled within {patience:?}: {:?}, {held_up:?}, {waits:?}", replicas(&statuses));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Replicas of data on each node.
fn replicas(statuses: &[proto::NodeStatusReply]) -> BTreeMap<u64, usize> {
    let of = |status: &proto::NodeStatusReply| status.replicas.iter().filter(|replica| replica.shard != 0).count();
    statuses.iter().map(|status| (status.node, of(status))).collect()
}

fn is_even(replicas: &BTreeMap<u64, usize>) -> bool {
    let (least, most) = (replicas.values().min(), replicas.values().max());
    least.zip(most).is_some_and(|(least, most)| most - least <= 1)
}

async fn all_operators(admin: &Admin) -> Result<Vec<proto::OperatorDescription>> {
    Ok(admin.operators(ListOperatorsRequest { all: true, ..ListOperatorsRequest::default() }).await?)
}

async fn last_operator(admin: &Admin) -> Result<u64> {
    Ok(all_operators(admin).await?.iter().map(|operator| operator.id).max().unwrap_or(0))
}

/// Whether a replica of data was made on another node by it.
fn is_move(operator: &proto::OperatorDescription) -> bool {
    operator.shard != 0 && operator.state == "done" && operator.task != "lead" && operator.to_node.is_some()
}

/// One figure of a node, as `/metrics` has it.
async fn metric(address: &str, name: &str) -> Result<u64> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("{address} does not answer"))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page).await?;
    let page = String::from_utf8_lossy(&page);
    let figure = page.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    let figure: f64 = figure.trim().parse().map_err(|error| anyhow!("{name} is {figure}: {error}"))?;
    Ok(figure as u64)
}
