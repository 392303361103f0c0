//! Figures of the server: every name, unit and label value in one place, and the reading of figures that other rooms
//! keep themselves (journal, engine, replicas), taken when somebody asks.
//!
//! **Invariant.** Labels are closed sets: operations, outcomes, keyspaces of the configuration. Never keys, clients,
//! peers.

use crate::rpc::{
    describe,
    status_out::{Facts, role},
};
use kvorum_api::frame::Outcome;
use kvorum_consensus::replicator::ReplicaStatus;
use kvorum_storage::Engine;
use metrics::{Counter, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status};

/// Seconds; from a cached read to a deadline.
const LATENCY_BUCKETS: &[f64] =
    &[0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A gauge that was not set for longer than this is shown no more: what it told of is gone, be it a dropped shard.
/// Every other one is set with each reading, or each second.
const GAUGE_IDLE_MAX: Duration = Duration::from_secs(10);

const REQUESTS: &str = "kv_server_requests_total";
const REQUEST_SECONDS: &str = "kv_server_request_seconds";

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// First words.
    Handshake,
    /// One key.
    Get,
    /// Sets one.
    Put,
    /// Removes one.
    Delete,
    /// Adds to one.
    Increment,
    /// Several, atomically.
    Batch,
    /// A range.
    Scan,
}

impl Op {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Op::Handshake => "handshake",
            Op::Get => "get",
            Op::Put => "put",
            Op::Delete => "delete",
            Op::Increment => "increment",
            Op::Batch => "batch",
            Op::Scan => "scan",
        }
    }
}

/// Makes the recorder this process writes its figures to.
///
/// # Errors
/// There is one already.
pub fn install() -> Result<PrometheusHandle, String> {
    builder(GAUGE_IDLE_MAX).and_then(PrometheusBuilder::install_recorder).map_err(|error| error.to_string())
}

fn builder(gauge_idle_max: Duration) -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .idle_timeout(MetricKindMask::GAUGE, Some(gauge_idle_max))
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), LATENCY_BUCKETS)
}

/// A request was answered.
pub fn request<T>(op: Op, started: Instant, result: &Result<T, Status>) {
    let outcome = result.as_ref().map_or_else(|status| outcome(status.code()), |_| "ok");
    counter!(REQUESTS, "op" => op.as_str(), "outcome" => outcome).increment(1);
    histogram!(REQUEST_SECONDS, "op" => op.as_str()).record(started.elapsed().as_secs_f64());
}

/// Figures of one stream: looked up once, because its calls are many and small.
pub struct StreamFigures {
    ops: [OpFigures; 5],
}

struct OpFigures {
    answered: Counter,
    seconds: Histogram,
}

impl StreamFigures {
    /// Looks them up.
    #[must_use]
    pub fn new() -> Self {
        let figures = |op: Op| OpFigures {
            answered: counter!(REQUESTS, "op" => op.as_str(), "outcome" => "ok"),
            seconds: histogram!(REQUEST_SECONDS, "op" => op.as_str()),
        };
        StreamFigures { ops: [Op::Get, Op::Put, Op::Delete, Op::Increment, Op::Batch].map(figures) }
    }

    /// A call of the stream was answered.
    ///
    /// # Panics
    /// If `op` is none of a stream.
    pub fn answered(&self, op: Op, started: Instant, outcome: &Outcome) {
        let place = match op {
            Op::Get => 0,
            Op::Put => 1,
            Op::Delete => 2,
            Op::Increment => 3,
            Op::Batch => 4,
            Op::Handshake | Op::Scan => unreachable!("a stream carries no {}", op.as_str()),
        };
        let figures = &self.ops[place];
        figures.seconds.record(started.elapsed().as_secs_f64());
        match outcome {
            Outcome::Found { .. } | Outcome::Written { .. } => figures.answered.increment(1),
            Outcome::Failed(failure) => {
                let outcome = self::outcome(Code::from_i32(failure.code.into()));
                counter!(REQUESTS, "op" => op.as_str(), "outcome" => outcome).increment(1);
            }
        }
    }
}

impl Default for StreamFigures {
    fn default() -> Self {
        StreamFigures::new()
    }
}

/// A frame of a stream came in or went out.
pub fn stream_frame(direction: &'static str) {
    counter!("kv_server_stream_frames_total", "direction" => direction).increment(1);
}

/// Rows went out.
pub fn scanned(rows: usize) {
    counter!("kv_server_scanned_rows_total").increment(rows as u64);
}

/// A datagram of gossip was dropped, or never sent: `unsealed`, `unreadable` or `too_large`.
pub fn gossip_dropped(why: &'static str) {
    counter!("kv_server_gossip_dropped_total", "reason" => why).increment(1);
}

/// Bytes arrived that are no message.
pub fn undecodable() {
    counter!("kv_server_undecodable_requests_total").increment(1);
}

/// An envelope of another node arrived.
pub fn peer_received(bytes: usize) {
    counter!("kv_server_peer_envelopes_total", "direction" => "in").increment(1);
    counter!("kv_server_peer_bytes_total", "direction" => "in").increment(bytes as u64);
}

/// An envelope went to another node.
pub fn peer_sent(bytes: usize) {
    counter!("kv_server_peer_envelopes_total", "direction" => "out").increment(1);
    counter!("kv_server_peer_bytes_total", "direction" => "out").increment(bytes as u64);
}

/// A frame of envelopes arrived on a lane.
pub fn peer_frame_received() {
    counter!("kv_server_peer_frames_total", "direction" => "in").increment(1);
}

/// A frame of envelopes left on a lane.
pub fn peer_frame_sent() {
    counter!("kv_server_peer_frames_total", "direction" => "out").increment(1);
}

/// A look at the disk.
pub fn disk(free_bytes: u64, is_full: bool) {
    gauge!("kv_server_disk_free_bytes").set(free_bytes as f64);
    gauge!("kv_server_disk_full_state").set(f64::from(is_full));
}

/// The gRPC code as a label.
fn outcome(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// Takes the figures other rooms keep, so that the next rendering shows them.
pub fn take_readings(facts: &Facts, engine: &dyn Engine) {
    let in_flight = facts.door.admission.in_flight();
    gauge!("kv_server_in_flight_bytes").set(in_flight.bytes as f64);
    gauge!("kv_server_in_flight_requests").set(in_flight.requests as f64);
    gauge!("kv_server_in_flight_scans").set(in_flight.scans as f64);
    gauge!("kv_server_uptime_seconds").set(facts.started.elapsed().as_secs_f64());

    let journal = facts.journal.status();
    gauge!("kv_storage_journal_segments").set(journal.segments as f64);
    gauge!("kv_storage_journal_bytes").set(journal.bytes as f64);
    gauge!("kv_storage_journal_last_synced_batch").set(journal.last_synced.0 as f64);
    counter!("kv_storage_journal_syncs_total").absolute(journal.syncs);
    counter!("kv_storage_journal_records_total").absolute(journal.records);
    gauge!("kv_storage_journal_poisoned_state").set(f64::from(journal.poisoned.is_some()));

    let engine = engine.stats();
    gauge!("kv_storage_engine_memory_bytes").set(engine.memory_bytes as f64);
    gauge!("kv_storage_engine_disk_bytes").set(engine.disk_bytes as f64);
    gauge!("kv_storage_engine_cache_bytes").set(engine.cache_bytes as f64);
    gauge!("kv_storage_engine_stalled_state").set(f64::from(engine.is_stalled));

    take_readings_of_moves(facts);
    take_readings_of_replicas(facts);
}

/// What is done to replicas, by this node's copy of the map.
fn take_readings_of_moves(facts: &Facts) {
    let node = &facts.door.node;
    let map = node.map();
    let open = map.operators.values().filter(|row| row.is_open()).count() as u64;
    gauge!("kv_consensus_operators_open").set(open as f64);
    // Every one that was ever made has a number of its own, and ends once.
    let made = map.counters.next_operator.0.saturating_sub(1);
    counter!("kv_consensus_operators_ended_total").absolute(made.saturating_sub(open));
    counter!("kv_consensus_move_bytes_total").absolute(node.move_bytes());
    gauge!("kv_consensus_shards_short").set(describe::short_count(&facts.door.router.hall(), node) as f64);
}

fn take_readings_of_replicas(facts: &Facts) {
    let status = facts.door.node.status();
    let heard = status.peers.iter().filter(|peer| peer.heard_ago.is_some_and(|ago| ago.as_secs() < 10)).count();
    gauge!("kv_consensus_peers_heard").set(heard as f64);
    gauge!("kv_consensus_peers_refused").set(status.peers.iter().filter(|peer| peer.refused.is_some()).count() as f64);
    gauge!("kv_consensus_degraded_causes").set(status.degraded.len() as f64);
    if let Some(offset) = status.clock_offset_ms {
        gauge!("kv_consensus_clock_offset_seconds").set(offset as f64 / 1_000.0);
    }
    status.replicas.iter().for_each(replica);
}

fn replica(replica: &ReplicaStatus) {
    let shard = replica.shard.to_string();
    let set = |name: &'static str, value: u64| gauge!(name, "shard" => shard.clone()).set(value as f64);
    set("kv_consensus_raft_term", replica.term);
    set("kv_consensus_raft_last_log_index", replica.last_log_index);
    set("kv_consensus_raft_committed_index", replica.committed_index);
    set("kv_consensus_raft_flushed_index", replica.flushed_index);
    set("kv_consensus_raft_purged_index", replica.purged_index);
    set("kv_consensus_raft_applied_index", replica.state.applied.position.map_or(0, |at| at.index));
    for word in ["leader", "follower", "candidate", "learner", "stopped"] {
        let is_it = f64::from(role(replica.role) == word);
        gauge!("kv_consensus_raft_role_state", "shard" => shard.clone(), "role" => word).set(is_it);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::{ReplicaId, ShardId};
    use kvorum_consensus::replicator::Role;
    use kvorum_storage::shard::ShardState;

    fn status(shard: u64) -> ReplicaStatus {
        ReplicaStatus {
            shard: ShardId(shard),
            replica: ReplicaId(1),
            role: Role::Leader,
            term: 1,
            leader: None,
            held_up: None,
            last_log_index: 9,
            committed_index: 8,
            flushed_index: 7,
            purged_index: 6,
            staleness: None,
            state: ShardState::default(),
        }
    }

    #[test]
    fn gauges_of_a_dropped_shard_go_and_counters_stay() {
        let recorder = builder(Duration::ZERO).unwrap().build_recorder();
        let figures = recorder.handle();
        let render = |shards: &[u64]| {
            metrics::with_local_recorder(&recorder, || shards.iter().for_each(|shard| replica(&status(*shard))));
            figures.render()
        };
        metrics::with_local_recorder(&recorder, || scanned(3));
        let both = render(&[1, 2]);
        assert!(both.contains("{shard=\"1\"}") && both.contains("{shard=\"2\"}"), "{both}");
        let one = render(&[1]);
        assert!(one.contains("kv_consensus_raft_committed_index{shard=\"1\"} 8"), "{one}");
        assert!(!one.contains("shard=\"2\""), "{one}");
        assert!(one.contains("kv_server_scanned_rows_total 3"), "{one}");
    }
}
