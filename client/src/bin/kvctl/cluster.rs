//! `kvctl cluster status`: every node in its own words, the silent ones included.
//!
//! A row a node, however many shards there are; `--shards` adds a row for every replica.

use crate::{
    TIMEOUT_DEFAULT,
    args::{ClusterStatus, Form, Globals},
    client,
    exit::{UNAVAILABLE, complain},
    facts::Facts,
    output::Output,
    status::{journal_text, leads, node_json, state_text},
    table::{or_dash, staleness_text, table, text_or_dash},
};
use kvorum_api::proto::{NodeStatusReply, ReplicaStatus};
use kvorum_client::NodeReport;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Shards that are named in a warning; the rest is counted.
const NAMED_MAX: usize = 10;

pub async fn status(globals: &Globals, output: &Output, flags: ClusterStatus) -> anyhow::Result<ExitCode> {
    let mut reports = client(globals, TIMEOUT_DEFAULT)?.cluster_status().await;
    reports.sort_by_key(|report| report.status.as_ref().map_or(u64::MAX, |status| status.node));
    let answered = reports.iter().filter(|report| report.status.is_ok()).count();
    // The default endpoints fit a cluster of three: with fewer nodes, nobody misses the rest.
    let strangers: Vec<NodeReport> = reports.extract_if(.., |report| answered > 0 && !report.is_member).collect();
    match output.form {
        Form::Json => {
            let nodes: Vec<Value> = reports.iter().map(node_json).collect();
            output.json(&json!({ "nodes": nodes }))?;
        }
        Form::Table | Form::Raw => {
            output.line(&nodes_table(&reports))?;
            if flags.shards {
                output.line(&format!("\n{}", replicas_table(&reports)))?;
            }
        }
    }
    if answered == 0 {
        complain("error: no node answered: are they started, and are the endpoints right?");
        return Ok(ExitCode::from(UNAVAILABLE));
    }
    warn(output, &reports, &strangers);
    Ok(ExitCode::SUCCESS)
}

fn warn(output: &Output, reports: &[NodeReport], strangers: &[NodeReport]) {
    for report in reports {
        if let Err(failure) = &report.status {
            complain(&format!("warning: {}: {}", report.address, failure.message));
        }
    }
    let diverged = Facts::of(reports).diverged();
    if !diverged.is_empty() {
        let named: Vec<String> = diverged.iter().take(NAMED_MAX).map(u64::to_string).collect();
        let count = diverged.len();
        complain(&format!(
            "warning: replicas of {count} shard(s) hold different things at one position: {}",
            named.join(", ")
        ));
    }
    for short in short(reports) {
        complain(&format!("warning: {short}"));
    }
    if !output.quiet {
        for stranger in strangers {
            complain(&format!("note: {} does not answer, and no node of this cluster names it", stranger.address));
        }
    }
}

/// Shards that have too few replicas, as the nodes see it: each once, by whoever has the newest map.
pub fn short(reports: &[NodeReport]) -> Vec<String> {
    let statuses = reports.iter().filter_map(|report| report.status.as_ref().ok());
    let newest = statuses.max_by_key(|status| (status.map_revision, status.short.len()));
    newest.map_or_else(Vec::new, |status| status.short.clone())
}

/// One row per node.
pub fn nodes_table(reports: &[NodeReport]) -> String {
    const HEADER: [&str; 12] = [
        "NODE", "ADDRESS", "ZONE", "REPLICAS", "LEADS", "OPEN", "STALEST", "MAP", "JOURNAL", "STARTS", "UPTIME",
        "STATE",
    ];
    let rows = reports.iter().map(|report| match &report.status {
        Ok(status) => node_row(&report.address, status),
        Err(_failure) => {
            let mut row = ["-"; HEADER.len()].map(str::to_owned);
            row[1].clone_from(&report.address);
            row[HEADER.len() - 1] = "unreachable".to_owned();
            row
        }
    });
    table(HEADER, rows)
}

fn node_row(address: &str, status: &NodeStatusReply) -> [String; 12] {
    let open = || status.replicas.iter().filter(|replica| replica.role != "closed");
    let is_unknown = open().any(|replica| replica.staleness_ms.is_none());
    let stalest = open().filter_map(|replica| replica.staleness_ms).max();
    [
        status.node.to_string(),
        address.to_owned(),
        text_or_dash(&status.zone),
        status.replicas.len().to_string(),
        leads(status).to_string(),
        open().count().to_string(),
        if open().count() == 0 { "-".to_owned() } else { staleness_text(stalest.filter(|_| !is_unknown)) },
        status.map_revision.to_string(),
        journal_text(status),
        status.start_count.to_string(),
        format!("{} s", status.uptime_ms / 1_000),
        state_text(status),
    ]
}

/// One row per replica.
pub fn replicas_table(reports: &[NodeReport]) -> String {
    let mut replicas: Vec<(u64, &ReplicaStatus)> = Vec::new();
    for status in reports.iter().filter_map(|report| report.status.as_ref().ok()) {
        replicas.extend(status.replicas.iter().map(|replica| (status.node, replica)));
    }
    replicas.sort_by_key(|(node, replica)| (replica.shard, *node));
    let rows = replicas.into_iter().map(|(node, replica)| {
        [
            replica.shard.to_string(),
            replica.keyspace.clone(),
            node.to_string(),
            replica.role.clone(),
            or_dash(replica.leader_node),
            replica.term.to_string(),
            replica.applied_index.to_string(),
            replica.rolling_hash.chars().take(12).collect(),
            staleness_text(replica.staleness_ms),
            replica.epoch.to_string(),
            if replica.installing { "installing" } else { "" }.to_owned(),
        ]
    });
    let header =
        ["SHARD", "KEYSPACE", "NODE", "ROLE", "LEADER", "TERM", "APPLIED", "HASH", "STALENESS", "EPOCH", "NOTE"];
    table(header, rows)
}
