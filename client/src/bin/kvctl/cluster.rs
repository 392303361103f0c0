//! `kvctl cluster status`: every node in its own words, the silent ones included.

use crate::{
    TIMEOUT_DEFAULT,
    args::{Form, Globals},
    client,
    exit::{UNAVAILABLE, complain},
    output::Output,
};
use comfy_table::{Table, presets};
use kvorum_api::proto::{NodeStatusReply, ReplicaStatus};
use kvorum_client::{Failure, NodeReport};
use serde_json::{Value, json};
use std::process::ExitCode;

const HEADER: [&str; 11] =
    ["NODE", "ADDRESS", "KEYSPACE", "SHARD", "ROLE", "TERM", "APPLIED", "HASH", "STALENESS", "JOURNAL", "STATE"];

pub async fn status(globals: &Globals, output: &Output) -> anyhow::Result<ExitCode> {
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
        Form::Table | Form::Raw => output.line(&table(&reports))?,
    }
    if answered == 0 {
        complain("error: no node answered: are they started, and are the endpoints right?");
        return Ok(ExitCode::from(UNAVAILABLE));
    }
    for report in &reports {
        if let Err(failure) = &report.status {
            complain(&format!("warning: {}: {}", report.address, failure.message));
        }
    }
    if !output.quiet {
        for stranger in &strangers {
            complain(&format!("note: {} does not answer, and no node of this cluster names it", stranger.address));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(reports: &[NodeReport]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(HEADER);
    for report in reports {
        match &report.status {
            Ok(status) => {
                table.add_rows(rows(&report.address, status));
            }
            Err(_failure) => {
                let mut row = ["-"; HEADER.len()].map(str::to_owned);
                row[1].clone_from(&report.address);
                row[HEADER.len() - 1] = "unreachable".to_owned();
                table.add_row(row);
            }
        }
    }
    table.trim_fmt()
}

/// One row per replica; a node without replicas still has its row.
fn rows(address: &str, status: &NodeStatusReply) -> Vec<[String; HEADER.len()]> {
    let nobody = ReplicaStatus { role: "-".to_owned(), ..ReplicaStatus::default() };
    let replicas = if status.replicas.is_empty() { std::slice::from_ref(&nobody) } else { &status.replicas[..] };
    let row = |replica: &ReplicaStatus| {
        [
            status.node.to_string(),
            address.to_owned(),
            replica.keyspace.clone(),
            replica.shard.to_string(),
            replica.role.clone(),
            replica.term.to_string(),
            replica.applied_index.to_string(),
            replica.rolling_hash.chars().take(12).collect(),
            replica.staleness_ms.map_or("unknown".to_owned(), |staleness| format!("{staleness} ms")),
            journal_text(status),
            state_text(status, replica),
        ]
    };
    replicas.iter().map(row).collect()
}

fn journal_text(status: &NodeStatusReply) -> String {
    let Some(journal) = &status.journal else { return "-".to_owned() };
    format!("{} MiB, batch {}", journal.bytes >> 20, journal.last_synced_batch)
}

fn state_text(status: &NodeStatusReply, replica: &ReplicaStatus) -> String {
    if !status.degraded.is_empty() {
        return status.degraded.join("; ");
    }
    match (status.ready, replica.installing) {
        (_, true) => "installing a snapshot",
        (true, false) => "ready",
        (false, false) => "not ready",
    }
    .to_owned()
}

fn node_json(report: &NodeReport) -> Value {
    match &report.status {
        Ok(status) => reached_json(&report.address, status),
        Err(failure) => unreachable_json(&report.address, failure),
    }
}

fn unreachable_json(address: &str, failure: &Failure) -> Value {
    json!({ "address": address, "reachable": false, "reason": failure.reason, "message": failure.message })
}

fn reached_json(address: &str, status: &NodeStatusReply) -> Value {
    let peer = |peer: &kvorum_api::proto::PeerStatus| {
        json!({
            "node": peer.node,
            "address": peer.address,
            "heard_ms_ago": peer.heard_ms_ago,
            "clock_offset_ms": peer.clock_offset_ms,
            "refused": (!peer.refused.is_empty()).then_some(&peer.refused),
        })
    };
    let worker = |worker: &kvorum_api::proto::WorkerStatus| {
        json!({
            "name": worker.name,
            "state": worker.state,
            "runs": worker.runs,
            "last_error": (!worker.last_error.is_empty()).then_some(&worker.last_error),
        })
    };
    let journal = status.journal.as_ref().map(|journal| {
        json!({
            "segments": journal.segments,
            "bytes": journal.bytes,
            "last_synced_batch": journal.last_synced_batch,
            "syncs": journal.syncs,
            "poisoned": (!journal.poisoned.is_empty()).then_some(&journal.poisoned),
        })
    });
    json!({
        "address": address,
        "reachable": true,
        "cluster": status.cluster,
        "node": status.node,
        "start_count": status.start_count,
        "build": status.build,
        "uptime_ms": status.uptime_ms,
        "ready": status.ready,
        "degraded": status.degraded,
        "clock_offset_ms": status.clock_offset_ms,
        "replicas": status.replicas.iter().map(replica_json).collect::<Vec<_>>(),
        "peers": status.peers.iter().map(peer).collect::<Vec<_>>(),
        "workers": status.workers.iter().map(worker).collect::<Vec<_>>(),
        "journal": journal,
    })
}

fn replica_json(replica: &ReplicaStatus) -> Value {
    json!({
        "keyspace": replica.keyspace,
        "shard": replica.shard,
        "replica": replica.replica,
        "role": replica.role,
        "term": replica.term,
        "leader_node": replica.leader_node,
        "last_log_index": replica.last_log_index,
        "committed_index": replica.committed_index,
        "applied_index": replica.applied_index,
        "flushed_index": replica.flushed_index,
        "purged_index": replica.purged_index,
        "rolling_hash": replica.rolling_hash,
        "logged_time_ms": replica.logged_time_ms,
        "staleness_ms": replica.staleness_ms,
        "change_oldest_seq": replica.change_oldest_seq,
        "change_next_seq": replica.change_next_seq,
        "installing": replica.installing,
    })
}
