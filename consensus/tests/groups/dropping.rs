//! Shards come and go with the map (rule G8).

use crate::{
    groups::town::{SHARD, Town, context, keyspace_of, map_of},
    support::{put, wait_until},
};
use kvorum_api::{Effect, GroupId, ReadLevel, ShardId, WriteError};
use kvorum_consensus::Replicator as _;
use kvorum_storage::{Journal as _, Shard, shard::ShardSpec};
use std::time::Duration;
use tokio::time::sleep;

/// A dropped shard leaves nothing, and whoever still asks gets the truth.
#[tokio::test(start_paused = true)]
async fn a_shard_that_is_dropped_leaves_nothing() {
    let town = Town::founded(3).await;
    let (open, closed) = (ShardId(2), SHARD);
    town.put_anywhere(closed, "k", "v").await;
    town.wait_closed(closed).await;
    town.put_anywhere(open, "k", "v").await;
    let held: Vec<_> = [open, closed].iter().map(|shard| town.replica(1, *shard)).collect();
    town.change(|map| map.shards.retain(|shard, _| *shard == ShardId(3))).await;
    for (id, node) in &town.nodes {
        for shard in [open, closed] {
            assert!(node.replica(shard).is_none());
            assert!(!town.journals[id].groups().contains(&GroupId::from(shard)), "node {id} remembers {shard}");
            let spec = ShardSpec { shard, keyspace: keyspace_of(shard) };
            let state = Shard::open(town.engines[id].clone(), spec).unwrap().state();
            assert_eq!((state.applied.position, state.settings), (None, None));
        }
        assert!(node.status().replicas.iter().all(|replica| replica.shard == ShardId(3)));
    }
    for replica in held {
        let error = replica.write(put("k", "w", None), context()).await.unwrap_err();
        assert!(matches!(error, WriteError::Stopped { .. }), "{error:?}");
        assert_eq!(error.effect(), Effect::None);
        assert!(replica.get("k".into(), ReadLevel::Local, context()).await.is_err());
    }
    town.put_anywhere(ShardId(3), "k", "v").await;
}

/// Rule G8: a shard that is made while the nodes run is founded by its first founder.
#[tokio::test(start_paused = true)]
async fn a_shard_that_is_made_while_the_nodes_run_is_founded() {
    let town = Town::founded(1).await;
    town.wait_closed(SHARD).await;
    let new = ShardId(2);
    town.change(|map| {
        let mut both = map_of(2);
        map.shards.extend(both.shards.remove_entry(&new));
        map.keyspaces.extend(both.keyspaces.remove_entry(&keyspace_of(new)));
    })
    .await;
    wait_until("it is founded", || (1..=3).all(|id| town.status(id, new).state.settings.is_some())).await;
    town.put_anywhere(new, "k", "v").await;
    assert!(town.is_closed(SHARD));
}

/// The map only grows: an older one changes nothing.
#[tokio::test(start_paused = true)]
async fn an_older_map_changes_nothing() {
    let town = Town::founded(1).await;
    let mut older = map_of(1);
    older.shards.clear();
    older.revision = 0;
    town.nodes[&1].reconcile(&older).await.unwrap();
    assert!(town.nodes[&1].replica(SHARD).is_some());
    sleep(Duration::from_secs(1)).await;
    town.put_anywhere(SHARD, "k", "v").await;
}

/// A group dropped while the node was down is forgotten when it learns of it.
#[tokio::test(start_paused = true)]
async fn what_was_dropped_while_the_node_was_down_is_forgotten() {
    let mut town = Town::founded(2).await;
    town.put_anywhere(SHARD, "k", "v").await;
    town.stop(3).await;
    town.change(|map| map.shards.retain(|shard, _| *shard != SHARD)).await;
    town.start(3).await;
    assert!(town.nodes[&3].replica(SHARD).is_none());
    assert!(!town.journals[&3].groups().contains(&GroupId::from(SHARD)));
}
