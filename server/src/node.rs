//! # The process: from its configuration to its end
//!
//! ```text
//!   lock directory ─▶ bind ports ─▶ who am I (perhaps: join) ─▶ house ─▶ doors
//!                                                                 │
//!   first signal:  readiness off ─▶ in flight ─▶ leadership on ─▶ doors shut ─▶ flush, stop
//!   second signal: at once
//! ```
//!
//! **Invariant.** Nothing is served before the start count is durable; nothing is acknowledged after the journal
//! stopped.

use crate::{
    admin::Admin,
    beginning::{self, Fatal, Options},
    config::Config,
    disk::DiskWatch,
    gossip,
    house::House,
    identity::{DataDirectory, Identity},
    listen::{self, Listeners},
};
use kvorum_consensus::Clock;
use metrics_exporter_prometheus::PrometheusHandle;
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// Runs a node until a signal ends it.
///
/// # Errors
/// Why it cannot start, or cannot go on.
pub async fn run(config: Config, options: Options, recorder: PrometheusHandle) -> Result<(), Fatal> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Fatal::of)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Fatal::of)?;
    let directory = DataDirectory::open(&config.node.data).map_err(Fatal::of)?;
    let listeners = Listeners::bind(&config).await.map_err(Fatal::of)?;
    let gossip_port = gossip::bind(config.node.listen_peer).await.map_err(Fatal::of)?;
    let clock = wall_clock(config.fault.clock_offset_ms);
    let disk = disk_watch(&config, &directory);
    // Space that cannot be asked for is said by the first look; nothing is lost by going on.
    if let Err(error) = disk.make_room() {
        tracing::warn!(%error, "nobody knows whether the ballast is needed");
    }
    let beginning = tokio::select! {
        biased;
        () = any(&mut terminate, &mut interrupt) => return Ok(()),
        beginning = beginning::begin(&config, &options, &directory, &clock) => beginning?,
    };
    announce(&config, &beginning.identity);

    let house = House::build(config, &directory, disk, beginning, gossip_port, clock).await?;
    let (health, _) = tonic_health::server::health_reporter();
    let (stop, stopped) = watch::channel(false);
    let mut doors = JoinSet::new();
    let admin = Admin { facts: house.facts(), engine: house.engine(), recorder: recorder.clone() };
    let limits = house.limits();
    doors.spawn(listen::clients(listeners.client, house.facts(), health.clone(), limits, stopped.clone()));
    doors.spawn(listen::peers(listeners.peer, house.facts(), stopped.clone()));
    doors.spawn(listen::admins(listeners.admin, admin, stopped));

    // A signal before a verdict: an order to stop is obeyed even by a node that could not go on.
    let verdict = tokio::select! {
        biased;
        () = any(&mut terminate, &mut interrupt) => None,
        Some(ended) = doors.join_next() => Some(door_ended(ended)),
        why = house.look_after(&health, &recorder) => Some(why),
    };
    if let Some(why) = verdict {
        tracing::error!(%why, "the node cannot go on");
        // The peers decided against this node: it hands nothing over, and what it has stays for whoever looks into it.
        let _ = timeout(limits.drain_timeout, house.stop_at_once()).await;
        return Err(Fatal::of(why));
    }
    tokio::select! {
        biased;
        () = any(&mut terminate, &mut interrupt) => Err(Fatal::of("stopped at once by a second signal")),
        () = house.leave(&health, &stop, doors) => Ok(()),
    }
}

fn disk_watch(config: &Config, directory: &DataDirectory) -> Arc<DiskWatch> {
    let (free_from, storage) = (config.fault.disk_free_from.clone(), &config.storage);
    Arc::new(DiskWatch::new(directory.path(), free_from, storage.low_water, storage.ballast))
}

async fn any(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn door_ended(ended: Result<Result<(), String>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Err(why)) => why,
        Ok(Ok(())) => "a door was shut while the node was open".to_owned(),
        Err(error) => format!("a door failed: {error}"),
    }
}

/// The wall clock of this machine, shifted if a test wants it so.
fn wall_clock(offset_ms: i64) -> Clock {
    Clock::new(move || {
        #[expect(clippy::disallowed_methods, reason = "the one place where the process reads the wall clock")]
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (since.as_millis() as u64).saturating_add_signed(offset_ms)
    })
}

fn announce(config: &Config, identity: &Identity) {
    let node = &config.node;
    tracing::info!(
        build = crate::BUILD, cluster = %identity.cluster, node = %identity.node, start = %identity.start,
        data = %node.data.display(), client = %node.listen_client, peer = %node.listen_peer, admin = %node.listen_admin,
        zone = %node.zone, "node starts"
    );
    tracing::info!(config = %config.to_toml(), "effective configuration");
    for (field, address) in config.open_addresses() {
        tracing::warn!(%address, field, "open to the network without encryption: node.insecure is set");
    }
    if config.fault.clock_offset_ms != 0 || config.fault.disk_free_from.is_some() {
        tracing::warn!("the section [fault] is set: this node is under test");
    }
}
