//! Remains: what the disks of a node hold of shards that it has no business with.
//!
//! **Invariant.** Looks at bytes, not at what the node says of itself.

use kvorum_api::{GroupId, ShardId};
use kvorum_storage::{
    Column, Engine, Journal, StorageError,
    engine::{Direction, KeyRange},
    journal::NODE_GROUP,
};
use std::collections::BTreeSet;

/// Who may have something on the disks of a node.
pub struct Living {
    /// The shards it holds.
    pub shards: BTreeSet<ShardId>,
    /// The rows of these shards.
    pub rows: Vec<KeyRange>,
}

/// What is there of anybody else.
///
/// # Errors
/// The engine's.
pub fn remains(engine: &dyn Engine, journal: &dyn Journal, living: &Living) -> Result<Vec<String>, StorageError> {
    let groups = journal.groups().into_iter();
    let strangers = groups.filter(|group| *group != NODE_GROUP && !living.shards.contains(&ShardId::from(*group)));
    let mut found: Vec<String> = strangers.map(|group| format!("the log of group {group}")).collect();
    let view = engine.view();
    for column in Column::ALL {
        let mut rows = view.cursor(column, KeyRange::all(), Direction::Forward);
        while let Some((key, _)) = rows.next()? {
            let is_known = match column {
                Column::Data | Column::History | Column::Locks => living.rows.iter().any(|range| range.contains(&key)),
                Column::Changes => living.shards.contains(&shard(&key)),
                Column::Meta => living.shards.contains(&shard(&key[1..])),
            };
            if !is_known {
                found.push(format!("{key:?} in {}", column.name()));
            }
        }
    }
    let stages = engine.stages()?.into_iter();
    let strangers = stages.filter(|stage| !living.shards.contains(&shard_of_stage(*stage)));
    found.extend(strangers.map(|stage| format!("stage {stage}")));
    Ok(found)
}

fn shard(key: &[u8]) -> ShardId {
    ShardId(u64::from_be_bytes(key[..8].try_into().expect("eight bytes")))
}

/// Stages are numbered by their group, above a counter of 24 bits.
fn shard_of_stage(stage: u64) -> ShardId {
    GroupId(stage >> 24).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::KeyspaceId;
    use kvorum_storage::{
        engine::{Batch, mem::MemEngine},
        journal::{Completion, JournalOptions, Mark, MemDisk, MemJournal},
        keys,
    };

    #[test]
    fn a_stranger_is_found_in_every_place() {
        let living = Living { shards: [ShardId(1)].into(), rows: vec![keys::keyspace_range(KeyspaceId(1))] };
        let engine = MemEngine::fresh();
        let journal = MemJournal::open(MemDisk::new(), JournalOptions::small()).unwrap();
        let put = |shard: u64, keyspace: u32| {
            let mut batch = Batch::new();
            batch.put(Column::Data, keys::data_key(KeyspaceId(keyspace), b"k"), "");
            batch.put(Column::Changes, keys::change_key(ShardId(shard), 1), "");
            batch.put(Column::Meta, keys::meta_key(keys::MetaKind::State, ShardId(shard)), "");
            engine.write(&batch).unwrap();
            engine.stage(shard << 24 | 3).unwrap().finish().unwrap();
            journal.mark(GroupId(shard), Mark::Vote("v".into()), Completion::None).unwrap();
        };
        put(1, 1);
        journal.mark(NODE_GROUP, Mark::Note("n".into()), Completion::None).unwrap();
        assert_eq!(remains(&*engine, &*journal, &living), Ok(Vec::new()));
        put(2, 2);
        assert_eq!(remains(&*engine, &*journal, &living).unwrap().len(), 5);
    }
}
