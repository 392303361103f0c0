//! The routing cache: one map per keyspace, refreshed only on mismatch.
//!
//! ```text
//!   not_leader, with a hint    the leader of one shard          an answer of the leader: likewise
//!   stale_epoch, with an entry that shard                       without one, or one that does not fit: a new greeting
//!   unknown keyspace           forgotten, a new greeting
//!   an answer of a keyspace of a higher number: the name was given anew: likewise
//! ```
//!
//! **Invariant.** A write is routed and its ticket placed in one step, and a changed map first unplaces the tickets of
//! its keyspace: so no shard hears a floor above a write that the new map sends to it (I2). Numbers of keyspaces grow:
//! a map never gives way to one of a lower number, which a node that lags behind still has.

use crate::{
    map::{Address, KeyspaceMap, Target},
    unanswered::{NoRoom, Ticket, Unanswered},
};
use kvorum_api::{KeyspaceId, ReadLevel, ShardId, Sharding, proto};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// Where one call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Aim {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) shard: ShardId,
    pub(crate) epoch: u64,
    pub(crate) leader: Option<Address>,
    pub(crate) replicas: Arc<[Address]>,
}

/// What is known of all keyspaces.
#[derive(Debug)]
pub(crate) struct Maps {
    known: Mutex<BTreeMap<String, KeyspaceMap>>,
    unanswered: Arc<Unanswered>,
}

impl Maps {
    pub(crate) fn new(unanswered: Arc<Unanswered>) -> Self {
        Maps { known: Mutex::default(), unanswered }
    }

    /// Takes in what a handshake said. `asked` are the keyspaces it was asked about, none = all: of those it does not
    /// list, the maps are dropped.
    pub(crate) fn learn(&self, keyspaces: &[proto::Keyspace], revision: u64, asked: Option<&str>) {
        let mut known = self.known.lock();
        for keyspace in keyspaces {
            let before = known.get(&keyspace.name);
            if before.is_some_and(|before| before.id > KeyspaceId(keyspace.id)) {
                continue;
            }
            let after = KeyspaceMap::learn(keyspace, revision, before);
            if before.is_some_and(|before| !before.routes_as(&after)) {
                self.unanswered.unplace(&keyspace.name);
            }
            known.insert(keyspace.name.clone(), after);
        }
        if let Some(asked) = asked
            && !keyspaces.iter().any(|keyspace| keyspace.name == asked)
            && known.remove(asked).is_some()
        {
            self.unanswered.unplace(asked);
        }
    }

    /// Whether calls to this keyspace can be routed.
    pub(crate) fn knows(&self, keyspace: &str) -> bool {
        self.known.lock().get(keyspace).is_some_and(KeyspaceMap::has_shards)
    }

    /// Where a call about `target` goes.
    pub(crate) fn aim(&self, keyspace: &str, target: &Target) -> Option<Aim> {
        aim(&self.known.lock(), keyspace, target)
    }

    /// The ticket of a write that is about to be sent for the first time.
    ///
    /// # Errors
    /// Too many writes lie between the oldest unanswered one of its shard and this one.
    pub(crate) fn open_write(&self, keyspace: &Arc<str>, target: &Target) -> Result<Ticket, NoRoom> {
        let known = self.known.lock();
        match aim(&known, keyspace, target) {
            Some(aim) => self.unanswered.open_in(keyspace, aim.shard),
            None => Ok(self.unanswered.open_somewhere()),
        }
    }

    /// As [`Maps::aim`], of a write that is about to be sent there.
    pub(crate) fn aim_write(&self, keyspace: &Arc<str>, target: &Target, ticket: &Ticket) -> Option<Aim> {
        let known = self.known.lock();
        let aim = aim(&known, keyspace, target);
        aim.iter().for_each(|aim| ticket.place(keyspace, aim.shard));
        aim
    }

    /// An answer came from the keyspace of this number. `false`: the map was of one that was dropped, and is forgotten.
    pub(crate) fn confirm(&self, keyspace: &str, id: KeyspaceId) -> bool {
        let mut known = self.known.lock();
        let is_older = known.get(keyspace).is_some_and(|map| map.id < id);
        if is_older {
            known.remove(keyspace);
            self.unanswered.unplace(keyspace);
        }
        !is_older
    }

    /// The node at `address` leads the shard, or is said to.
    pub(crate) fn learn_leader(&self, keyspace: &str, target: &Target, address: &str) {
        let mut known = self.known.lock();
        let Some(map) = known.get_mut(keyspace) else { return };
        let placement = target.placement(map.sharding);
        let Some(entry) = map.shard_of_mut(&placement) else { return };
        if entry.leader.as_deref() != Some(address) {
            entry.leader = Some(address.into());
        }
    }

    /// A server sent the entry of one shard. `false`: it does not fit, so the map is out of date.
    pub(crate) fn replace(&self, keyspace: &str, shard: &proto::Shard) -> bool {
        self.known.lock().get_mut(keyspace).is_some_and(|map| map.replace(shard))
    }

    /// Forgets a keyspace a node did not know.
    pub(crate) fn forget(&self, keyspace: &str) {
        let mut known = self.known.lock();
        if known.remove(keyspace).is_some() {
            self.unanswered.unplace(keyspace);
        }
    }

    /// Level of a read that names none.
    pub(crate) fn default_level(&self, keyspace: &str) -> Option<ReadLevel> {
        self.known.lock().get(keyspace).and_then(|map| map.read_level)
    }

    /// Bytes of a value the keyspace takes.
    pub(crate) fn value_bytes_max(&self, keyspace: &str) -> Option<u64> {
        self.known.lock().get(keyspace).map(|map| map.value_bytes_max).filter(|max| *max > 0)
    }

    /// Number and sharding of a keyspace.
    pub(crate) fn kind(&self, keyspace: &str) -> Option<(KeyspaceId, Sharding)> {
        self.known.lock().get(keyspace).map(|map| (map.id, map.sharding))
    }

    /// Reads the map of one keyspace, if there is one with shards.
    pub(crate) fn read<T>(&self, keyspace: &str, read: impl FnOnce(&KeyspaceMap) -> T) -> Option<T> {
        self.known.lock().get(keyspace).filter(|map| map.has_shards()).map(read)
    }

    /// Every address that holds something.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.known.lock().values().flat_map(KeyspaceMap::addresses).cloned().collect()
    }
}

fn aim(known: &BTreeMap<String, KeyspaceMap>, keyspace: &str, target: &Target) -> Option<Aim> {
    let map = known.get(keyspace)?;
    let entry = map.shard_of(&target.placement(map.sharding))?;
    Some(Aim {
        keyspace: map.id,
        shard: entry.id,
        epoch: entry.epoch,
        leader: entry.leader.clone(),
        replicas: entry.replicas.clone(),
    })
}
