//! What a node says of itself, as JSON and in words.

use kvorum_api::proto::{NodeStatusReply, PeerStatus, ReplicaStatus, WorkerStatus};
use kvorum_client::{Failure, NodeReport};
use serde_json::{Value, json};

pub fn node_json(report: &NodeReport) -> Value {
    match &report.status {
        Ok(status) => reached_json(&report.address, status),
        Err(failure) => unreachable_json(&report.address, failure),
    }
}

fn unreachable_json(address: &str, failure: &Failure) -> Value {
    json!({ "address": address, "reachable": false, "reason": failure.reason, "message": failure.message })
}

fn reached_json(address: &str, status: &NodeStatusReply) -> Value {
    let peer = |peer: &PeerStatus| {
        json!({
            "node": peer.node,
            "address": peer.address,
            "heard_ms_ago": peer.heard_ms_ago,
            "clock_offset_ms": peer.clock_offset_ms,
            "refused": (!peer.refused.is_empty()).then_some(&peer.refused),
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
        "zone": status.zone,
        "start_count": status.start_count,
        "build": status.build,
        "uptime_ms": status.uptime_ms,
        "ready": status.ready,
        "state": status.state,
        "degraded": status.degraded,
        "clock_offset_ms": status.clock_offset_ms,
        "map_revision": status.map_revision,
        "short": status.short,
        "held_up": status.held_up,
        "replicas": status.replicas.iter().map(replica_json).collect::<Vec<_>>(),
        "peers": status.peers.iter().map(peer).collect::<Vec<_>>(),
        "workers": status.workers.iter().map(worker_json).collect::<Vec<_>>(),
        "journal": journal,
    })
}

pub fn worker_json(worker: &WorkerStatus) -> Value {
    json!({
        "name": worker.name,
        "state": worker.state,
        "runs": worker.runs,
        "last_error": (!worker.last_error.is_empty()).then_some(&worker.last_error),
        "last_error_ms_ago": worker.last_error_ms_ago,
    })
}

pub fn replica_json(replica: &ReplicaStatus) -> Value {
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
        "epoch": replica.epoch,
        "changes": replica.changes,
        "leases": replica.leases,
        "behaviour": replica.behaviour,
        "bytes": replica.bytes,
        "waits_for": (!replica.waits_for.is_empty()).then_some(&replica.waits_for),
    })
}

/// How long ago something was, as roughly as a person asks.
pub fn ago_text(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms ago"),
        10_000..600_000 => format!("{} s ago", ms / 1_000),
        600_000..36_000_000 => format!("{} min ago", ms / 60_000),
        _ => format!("{} h ago", ms / 3_600_000),
    }
}

/// Term and index, as positions are written.
pub fn position_text(replica: &ReplicaStatus) -> String {
    format!("{}.{}", replica.term, replica.applied_index)
}

/// Replicas of a node that lead: by their own word, or by what a closed one remembers.
pub fn leads(status: &NodeStatusReply) -> usize {
    let is_led_here = |replica: &&ReplicaStatus| match replica.role.as_str() {
        "leader" => true,
        "closed" => replica.leader_node == Some(status.node),
        _ => false,
    };
    status.replicas.iter().filter(is_led_here).count()
}

pub fn journal_text(status: &NodeStatusReply) -> String {
    let Some(journal) = &status.journal else { return "-".to_owned() };
    format!("{} MiB, batch {}", journal.bytes >> 20, journal.last_synced_batch)
}

/// Ready, or why not.
pub fn state_text(status: &NodeStatusReply) -> String {
    if !status.degraded.is_empty() {
        return status.degraded.join("; ");
    }
    let installing = status.replicas.iter().filter(|replica| replica.installing).count();
    let how = match (status.ready, installing) {
        (true, 0) => "ready".to_owned(),
        (false, 0) => "not ready".to_owned(),
        (_, count) => format!("installing {count} snapshot{}", if count == 1 { "" } else { "s" }),
    };
    match status.state.as_str() {
        "draining" | "forgetting" => format!("{how}, {}", status.state),
        _ => how,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_to_go_is_seen_to() {
        let with = |ready, state: &str| {
            state_text(&NodeStatusReply { ready, state: state.to_owned(), ..NodeStatusReply::default() })
        };
        assert_eq!(with(true, "active"), "ready");
        assert_eq!(with(true, "draining"), "ready, draining");
        assert_eq!(with(false, "forgetting"), "not ready, forgetting");
    }

    #[test]
    fn ages_are_said_roughly() {
        let said = [0, 9_999, 10_000, 599_999, 600_000, 35_999_999, 36_000_000].map(ago_text);
        let expected = ["0 ms ago", "9999 ms ago", "10 s ago", "599 s ago", "10 min ago", "599 min ago", "10 h ago"];
        assert_eq!(said, expected);
    }
}
