//! # The hall: key → shard → replicator
//!
//! ```text
//!   keyspace name ──▶ Keyspace { mode, limits, levels } ──▶ key ──▶ ShardRoute { first key, replicator }
//! ```
//!
//! **Invariant.** Every key of a keyspace lies in exactly one of its shards: the first one starts at the empty key, and each
//! reaches to the start of the next.
//!
//! **Deliberately absent.** Consistency. The hall shows the way; what a level or an acknowledgement means is decided in
//! the council room.

use crate::config;
use bytes::Bytes;
use kvorum_api::{KeyspaceId, Limits, Mode, NodeId, ReadLevel, Refused, ReplicaId, ShardId};
use kvorum_consensus::Replicator;
use std::{collections::BTreeMap, sync::Arc};

/// Where a replica of a shard is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaRoute {
    /// Which copy.
    pub replica: ReplicaId,
    /// On which node.
    pub node: NodeId,
    /// The node's client address.
    pub address: String,
}

/// The way to one shard.
#[derive(Clone)]
pub struct ShardRoute {
    /// Its first placement key; the empty key for the first shard.
    pub start: Bytes,
    /// Its id.
    pub shard: ShardId,
    /// Its epoch.
    pub epoch: u64,
    /// Where its replicas are.
    pub replicas: Vec<ReplicaRoute>,
    /// The replica on this node.
    pub replicator: Arc<dyn Replicator>,
}

/// One keyspace, as requests meet it.
#[derive(Clone)]
pub struct Keyspace {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: KeyspaceId,
    /// Its promise.
    pub mode: Mode,
    /// What requests are checked against.
    pub limits: Limits,
    /// Level of a read that names none.
    pub read_level: ReadLevel,
    shards: Vec<ShardRoute>,
}

/// Every keyspace of this node.
#[derive(Clone, Default)]
pub struct Router {
    keyspaces: BTreeMap<String, Arc<Keyspace>>,
}

impl Keyspace {
    /// A keyspace over shards in placement order.
    #[must_use]
    pub fn new(config: &config::Keyspace, shards: Vec<ShardRoute>) -> Self {
        assert!(shards.first().is_some_and(|first| first.start.is_empty()), "the first shard starts at the first key");
        assert!(shards.is_sorted_by(|left, right| left.start < right.start), "shards are in placement order");
        Keyspace {
            name: config.name.clone(),
            id: config.id,
            mode: config.mode,
            limits: config.limits,
            read_level: config.read_level,
            shards,
        }
    }

    /// Every shard, in placement order.
    #[must_use]
    pub fn shards(&self) -> &[ShardRoute] {
        &self.shards
    }

    /// The shard of a key.
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> &ShardRoute {
        let after = self.shards.partition_point(|shard| shard.start.as_ref() <= key);
        &self.shards[after.checked_sub(1).expect("the first shard starts at the empty key")]
    }

    /// The one shard of several keys: a batch is atomic within a shard, and refused across.
    ///
    /// # Errors
    /// The keys lie in different shards.
    pub fn shard_of_all<'a>(&self, keys: impl IntoIterator<Item = &'a Bytes>) -> Result<&ShardRoute, Refused> {
        let mut keys = keys.into_iter();
        let first = keys.next().map_or(&self.shards[0], |key| self.shard_of(key));
        match keys.all(|key| self.shard_of(key).shard == first.shard) {
            true => Ok(first),
            false => Err(Refused::Malformed {
                field: "operations",
                problem: "keys lie in different shards: a batch is atomic within one, send one batch per shard".into(),
            }),
        }
    }
}

impl Router {
    /// A hall with these keyspaces.
    #[must_use]
    pub fn new(keyspaces: Vec<Keyspace>) -> Self {
        Router { keyspaces: keyspaces.into_iter().map(|one| (one.name.clone(), Arc::new(one))).collect() }
    }

    /// The keyspace of that name.
    ///
    /// # Errors
    /// There is none; the refusal names those there are.
    pub fn keyspace(&self, name: &str) -> Result<&Arc<Keyspace>, Refused> {
        self.keyspaces.get(name).ok_or_else(|| Refused::UnknownKeyspace {
            name: name.chars().take(config::KEYSPACE_NAME_BYTES_MAX).collect(),
            known: self.keyspaces.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// Every keyspace, by name.
    pub fn keyspaces(&self) -> impl Iterator<Item = &Arc<Keyspace>> {
        self.keyspaces.values()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use futures::future::BoxFuture;
    use kvorum_api::{ReadError, WriteError};
    use kvorum_consensus::{
        RequestContext, Written,
        replicator::{Found, ReplicaStatus, Rows},
    };
    use kvorum_storage::{WriteCommand, shard::ScanRange};

    struct Nobody;

    impl Replicator for Nobody {
        fn write_many(
            &self,
            _: Vec<WriteCommand>,
            _: RequestContext,
        ) -> BoxFuture<'_, Vec<Result<Written, WriteError>>> {
            unreachable!("the hall calls nobody")
        }

        fn get(&self, _: Bytes, _: ReadLevel, _: RequestContext) -> BoxFuture<'_, Result<Found, ReadError>> {
            unreachable!("the hall calls nobody")
        }

        fn scan(
            &self,
            _: ScanRange,
            _: ReadLevel,
            _: RequestContext,
        ) -> BoxFuture<'_, Result<Box<dyn Rows>, ReadError>> {
            unreachable!("the hall calls nobody")
        }

        fn status(&self) -> ReplicaStatus {
            unreachable!("the hall calls nobody")
        }
    }

    fn shard(shard: u64, start: &'static str) -> ShardRoute {
        ShardRoute {
            start: Bytes::from_static(start.as_bytes()),
            shard: ShardId(shard),
            epoch: 1,
            replicas: Vec::new(),
            replicator: Arc::new(Nobody),
        }
    }

    /// A keyspace of one shard that nobody serves.
    pub(crate) fn keyspace_of(config: &config::Keyspace) -> Keyspace {
        Keyspace::new(config, vec![shard(1, "")])
    }

    /// Three shards: up to `g`, up to `p`, and the rest.
    pub(crate) fn keyspace() -> Keyspace {
        let config = config::Config::parse(None, []).unwrap();
        Keyspace::new(&config.keyspaces[0], vec![shard(1, ""), shard(2, "g"), shard(3, "p")])
    }

    #[test]
    fn every_key_has_one_shard() {
        let keyspace = keyspace();
        for (key, shard) in [("a", 1), ("g", 2), ("gg", 2), ("ozz", 2), ("p", 3), ("zz", 3)] {
            assert_eq!(keyspace.shard_of(key.as_bytes()).shard, ShardId(shard), "{key}");
        }
    }

    #[test]
    fn a_batch_across_shards_is_refused() {
        let keyspace = keyspace();
        let keys =
            |keys: &[&'static str]| keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect::<Vec<_>>();
        assert_eq!(keyspace.shard_of_all(&keys(&["h", "i"])).unwrap().shard, ShardId(2));
        assert!(matches!(
            keyspace.shard_of_all(&keys(&["a", "z"])),
            Err(Refused::Malformed { field: "operations", .. })
        ));
    }

    #[test]
    fn an_unknown_keyspace_is_refused_with_those_there_are() {
        let router = Router::new(vec![keyspace()]);
        assert!(router.keyspace("default").is_ok());
        let refused = router.keyspace("defualt").err().unwrap().to_string();
        assert_eq!(refused, "unknown keyspace \"defualt\": this cluster has default");
    }
}
