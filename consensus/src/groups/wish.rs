//! What the map wishes for a shard, as the settings its leader logs (rule C1).

use crate::metadata::{Behaviour, KeyspaceRow, ShardRow};
use kvorum_api::limits;
use kvorum_storage::command::Settings;

/// The settings that the map wishes for a shard.
#[must_use]
pub fn settings_of(keyspace: &KeyspaceRow, shard: &ShardRow, behaviour: Behaviour) -> Settings {
    Settings {
        behaviour: behaviour.0,
        images: keyspace.images,
        request_window_ms: limits::REQUEST_ID_AGE_MS_MAX,
        request_outcomes_max: limits::REQUEST_OUTCOMES_MAX,
        range: shard.range.clone(),
        epoch: shard.epoch,
        has_leases: keyspace.has_leases,
    }
}
