//! What closed groups cost: many groups on three nodes in one process, over engines and journals in memory.
//!
//! ```text
//!   cargo run -p kvorum-consensus --example idle_groups -- 1000
//! ```
//!
//! Founds the groups in batches, waits until all are closed, and prints resident memory per replica and CPU over ten
//! idle seconds, journals in memory not counted, for they stand for disks; then writes to every group, waits until all
//! are closed again, and prints the same; then times first writes.

#![expect(clippy::print_stdout, reason = "it is asked for figures")]

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest of it")]
mod support;
#[path = "../tests/groups/town.rs"]
#[allow(dead_code, reason = "the tests of groups use the rest of the town")]
mod town;

use kvorum_api::ShardId;
use kvorum_consensus::node::Timing;
use std::{fs, time::Duration};
use tokio::time::{Instant, sleep};
use town::{Town, map_of};

/// The allocator of the real process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: u64 = 50;
const NODES: u64 = 3;

/// Clock ticks of CPU used so far, a hundred to the second.
fn cpu_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    fields[11].parse::<u64>().unwrap_or(0) + fields[12].parse::<u64>().unwrap_or(0)
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS: 0");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

fn open_groups(town: &Town) -> usize {
    town.nodes.values().map(|node| node.groups().open().len()).sum()
}

async fn until_closed(town: &Town) {
    while open_groups(town) > 0 {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Resident without what stands for disks.
fn used_kib(town: &Town) -> u64 {
    let disks: u64 = town.machines.values().map(|machine| machine.journal.used_bytes()).sum();
    resident_kib().saturating_sub(disks / 1_024)
}

async fn report(town: &Town, what: &str, empty_kib: u64, groups: u64) {
    let (before, ticks) = (Instant::now(), cpu_ticks());
    sleep(Duration::from_secs(10)).await;
    let share = (cpu_ticks() - ticks) as f64 / before.elapsed().as_secs_f64();
    let kib = used_kib(town);
    let per_replica = kib.saturating_sub(empty_kib) as f64 / (groups * NODES) as f64;
    println!("{what}: {share:.2} % of a core; {kib} KiB resident, {per_replica:.1} KiB per replica");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let groups: u64 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1_000);
    let timing = Timing { idle_close_after: Duration::from_secs(1), ..Timing::default() };
    let mut town = Town::founded_with(1, timing).await;
    until_closed(&town).await;
    let empty_kib = used_kib(&town);
    report(&town, "one group", empty_kib, 1).await;
    let whole = map_of(groups);
    let began = Instant::now();
    for first in (2..=groups).step_by(BATCH as usize) {
        let batch = first..=(first + BATCH - 1).min(groups);
        town.change(|map| {
            for (id, row) in whole.shards.iter().filter(|(id, _)| batch.contains(&id.0)) {
                map.shards.insert(*id, row.clone());
                map.keyspaces.insert(row.keyspace, whole.keyspaces[&row.keyspace].clone());
            }
        })
        .await;
        while town.map.lock().shards.values().any(|row| row.stage != kvorum_consensus::metadata::ShardStage::Ready) {
            sleep(Duration::from_millis(50)).await;
        }
        town.spread().await;
        until_closed(&town).await;
    }
    println!("founded and closed {groups} groups in {:?}", began.elapsed());
    report(&town, "founded", empty_kib, groups).await;
    let mut times = Vec::new();
    for shard in (1..=groups).map(ShardId) {
        let began = Instant::now();
        let leader = town.last_leader(shard);
        town.put(leader, shard, "k", "v").await.expect("a closed group opens");
        times.push(began.elapsed());
    }
    times.sort();
    println!(
        "first write to a closed group: p50 {:?}, p99 {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
    until_closed(&town).await;
    report(&town, "written", empty_kib, groups).await;
    for id in 1..=NODES {
        town.stop(id).await;
    }
}
