//! Figures of the council room: names and units in one place.
//!
//! Labels are closed sets: none here.

use metrics::counter;

/// An entry of the log was proposed with that many commands.
pub(super) fn proposed(commands: usize) {
    counter!("kv_consensus_proposals_total").increment(1);
    counter!("kv_consensus_commands_total").increment(commands as u64);
}

/// A read-index round began for that many readers.
pub(super) fn read_round(readers: usize) {
    counter!("kv_consensus_read_rounds_total").increment(1);
    counter!("kv_consensus_round_reads_total").increment(readers as u64);
}

/// Entries were applied as one batch.
pub(super) fn applied(entries: usize) {
    counter!("kv_consensus_apply_batches_total").increment(1);
    counter!("kv_consensus_applied_entries_total").increment(entries as u64);
}

/// A snapshot was sent to a follower and installed there.
pub(super) fn snapshot_sent() {
    counter!("kv_consensus_snapshots_sent_total").increment(1);
}

/// A snapshot was installed here.
pub(super) fn snapshot_installed() {
    counter!("kv_consensus_snapshots_installed_total").increment(1);
}

/// Leadership was handed to whom the map names.
pub(super) fn handed_over() {
    counter!("kv_consensus_leaders_moved_total").increment(1);
}

/// Leadership was taken up here.
pub(super) fn took_office() {
    counter!("kv_consensus_elections_won_total").increment(1);
}
