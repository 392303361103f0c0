//! Waiting until every shard of a new keyspace is ready and led.

use crate::{
    exit::{NotYet, complain},
    facts::Facts,
    output::Output,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kvorum_api::proto::KeyspaceDescription;
use kvorum_client::admin::Admin;
use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// How often the cluster is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub async fn wait(
    admin: &Admin,
    created: KeyspaceDescription,
    timeout: Duration,
    output: &Output,
) -> anyhow::Result<KeyspaceDescription> {
    let deadline = Instant::now() + timeout;
    let progress = Progress::start(created.shards.len(), output);
    let mut keyspace = created;
    loop {
        let ready = count_ready(admin, &keyspace).await;
        progress.show(ready, keyspace.shards.len());
        if ready == keyspace.shards.len() && ready > 0 {
            progress.bar.finish_and_clear();
            return Ok(keyspace);
        }
        if Instant::now() >= deadline {
            progress.bar.finish_and_clear();
            let (name, shards) = (&keyspace.name, keyspace.shards.len());
            return Err(NotYet(format!(
                "{name} is created, and after {timeout:?} {ready} of {shards} shards are ready and led: `kvctl keyspace \
                 describe {name}` shows how it goes on"
            ))
            .into());
        }
        sleep(LOOK_EVERY).await;
        match super::find(admin, &keyspace.name).await {
            Ok(found) => keyspace = found,
            // A node may be a moment behind; the deadline decides.
            Err(error) => tracing::debug!(%error, "not described yet"),
        }
    }
}

async fn count_ready(admin: &Admin, keyspace: &KeyspaceDescription) -> usize {
    let ready = || keyspace.shards.iter().filter(|shard| shard.state == "ready");
    if ready().all(|shard| shard.leader.is_some()) {
        return ready().count();
    }
    // The node asked may hold no replica of a shard: then its nodes know who leads.
    let reports = admin.node_status().await;
    let facts = Facts::of(&reports);
    ready().filter(|shard| shard.leader.is_some() || facts.leader(shard.id).is_some()).count()
}

/// A bar on a terminal, lines elsewhere.
struct Progress {
    bar: ProgressBar,
    has_lines: bool,
    shown: std::cell::Cell<Option<usize>>,
}

impl Progress {
    fn start(shards: usize, output: &Output) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let target = if output.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(shards as u64), target);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos} of {len} shards ready") {
            bar.set_style(style);
        }
        Progress { bar, has_lines: !output.quiet && !is_terminal, shown: std::cell::Cell::new(None) }
    }

    fn show(&self, ready: usize, shards: usize) {
        self.bar.set_position(ready as u64);
        if self.has_lines && self.shown.replace(Some(ready)) != Some(ready) {
            complain(&format!("{ready} of {shards} shards ready"));
        }
    }
}
