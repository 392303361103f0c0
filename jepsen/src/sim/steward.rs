//! # Steward: makes keyspaces and drops them, and remembers what it was told
//!
//! ```text
//!   create ─▶ done | refused with proof | unknown ─▶ ledger ─▶ compared with the map when the world is whole again
//! ```
//!
//! **Invariant.** Every name is asked for once: that there is one already is a lie.

use super::{chance::Chance, draw, network::Life, workload::Desk};
use kvorum_api::{AdminError, Effect, KeyspaceId, NodeId};
use kvorum_consensus::{
    Node, Replicator,
    metadata::{ClusterMap, KeyspaceWish, MetadataCommand},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// How long one change may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// Keyspaces of the steward that are there at the same time.
const KEYSPACES_MAX: usize = 3;

/// What became of a change, as far as the steward was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was made.
    Done,
    /// It was not, with proof.
    Denied,
    /// Nobody knows.
    Unknown,
}

/// What the steward was told.
#[derive(Default)]
pub struct Ledger {
    /// Whether keyspaces were made.
    pub created: BTreeMap<String, Outcome>,
    /// Whether keyspaces were dropped.
    pub dropped: BTreeMap<String, Outcome>,
    /// Keyspaces that are dropped, or may be.
    pub leaving: BTreeSet<KeyspaceId>,
    /// Handles to replicas of what was dropped, as some request under way may have them.
    pub graves: Vec<Grave>,
}

/// A handle to a replica that should be gone.
pub struct Grave {
    /// On which node.
    pub node: NodeId,
    /// In which of its lives.
    pub life: Life,
    /// Of which keyspace.
    pub keyspace: KeyspaceId,
    /// The handle.
    pub replica: Arc<dyn Replicator>,
}

impl Ledger {
    /// What cannot be true of the newest map and of all maps that ever were.
    #[must_use]
    pub fn violations(&self, newest: &ClusterMap, ever: &BTreeSet<String>) -> Vec<String> {
        let mut found = Vec::new();
        for (name, created) in &self.created {
            let dropped = self.dropped.get(name);
            let is_there = newest.keyspace(name).is_some();
            match created {
                Outcome::Done if !is_there && dropped.is_none_or(|dropped| *dropped == Outcome::Denied) => {
                    found.push(format!("keyspace {name} was created, and is gone"));
                }
                Outcome::Denied if ever.contains(name) => {
                    found.push(format!("keyspace {name} was refused with proof, and was there"));
                }
                Outcome::Done | Outcome::Denied | Outcome::Unknown => {}
            }
            if is_there && dropped == Some(&Outcome::Done) {
                found.push(format!("keyspace {name} was dropped, and is there"));
            }
        }
        found
    }
}

/// Changes the metadata.
pub struct Steward {
    desk: Desk,
    chance: Chance,
    count: u64,
}

impl Steward {
    /// One who has made nothing yet.
    pub fn new(seed: u64, desk: Desk) -> Self {
        Steward { desk, chance: Chance::new(seed, "steward"), count: 0 }
    }

    /// Works until the desk closes.
    pub async fn run(mut self) {
        while Instant::now() < self.desk.until {
            tokio::select! {
                biased;
                () = self.desk.hurry.notified() => {}
                () = sleep(self.chance.millis(500..4_000)) => {}
            }
            let node = *self.chance.pick(&self.desk.nodes());
            let Some((node, life)) = self.desk.network.node(node) else { continue };
            let map = node.map();
            let mine: Vec<String> = {
                let ledger = self.desk.ledger.lock();
                let names = map.keyspaces.values().map(|row| &row.name);
                names.filter(|name| ledger.created.contains_key(*name)).cloned().collect()
            };
            match self.chance.within(0..10) {
                0..=5 if mine.len() < KEYSPACES_MAX => self.create(&node, &life).await,
                0..=7 if !mine.is_empty() => {
                    let name = self.chance.pick(&mine).clone();
                    self.drop_keyspace(&node, &life, &map, name).await;
                }
                _ => self.alter(&node, &life, &map).await,
            }
        }
    }

    async fn create(&mut self, node: &Arc<Node>, life: &Life) {
        self.count += 1;
        let name = format!("made-{}", self.count);
        let wish = if self.chance.hits(500) { draw::hashed(&mut self.chance) } else { draw::whole(&mut self.chance) };
        // Where a machine is lost, nobody keeps anything on one alone.
        let may_be_alone = self.desk.drawn.moving.as_ref().is_none_or(|moving| moving.loss.is_none());
        let replicas = if self.chance.hits(200) && may_be_alone { Some(1) } else { None };
        // More than three where there are more nodes.
        let is_large = self.desk.nodes().len() >= 5 && replicas.is_none() && self.chance.hits(500);
        let replicas = if is_large { Some(5) } else { replicas };
        let command = MetadataCommand::CreateKeyspace { name: name.clone(), wish: KeyspaceWish { replicas, ..wish } };
        let (outcome, error) = self.change(node, life, command).await;
        if matches!(error, Some(AdminError::Exists { .. })) {
            self.desk.complain(format!("keyspace {name}, which was asked for once, is said to be there already"));
        }
        self.desk.ledger.lock().created.insert(name, outcome);
    }

    async fn drop_keyspace(&mut self, node: &Arc<Node>, life: &Life, map: &ClusterMap, name: String) {
        let Some(keyspace) = map.keyspace(&name).map(|row| row.id) else { return };
        self.dig(map, keyspace);
        let command = MetadataCommand::DropKeyspace { name: name.clone() };
        let (outcome, error) = self.change(node, life, command).await;
        let mut ledger = self.desk.ledger.lock();
        let before = ledger.dropped.get(&name).copied();
        // An earlier attempt may have done it: then there is nothing to drop, and that is no proof against it.
        let outcome = match (before, outcome, &error) {
            (Some(Outcome::Unknown), Outcome::Denied, Some(AdminError::NotFound { .. })) => Outcome::Done,
            (Some(Outcome::Unknown), Outcome::Denied, _) => Outcome::Unknown,
            (Some(Outcome::Done), _, _) => Outcome::Done,
            (_, outcome, _) => outcome,
        };
        ledger.dropped.insert(name, outcome);
    }

    /// Takes handles to the replicas of a keyspace that is about to go.
    fn dig(&self, map: &ClusterMap, keyspace: KeyspaceId) {
        let mut ledger = self.desk.ledger.lock();
        ledger.leaving.insert(keyspace);
        for id in self.desk.nodes() {
            let Some((node, life)) = self.desk.network.node(id) else { continue };
            for row in map.shards_of(keyspace) {
                if let Some(replica) = node.replicator(row.shard) {
                    ledger.graves.push(Grave { node: id, life: life.clone(), keyspace, replica });
                }
            }
        }
    }

    async fn alter(&mut self, node: &Arc<Node>, life: &Life, map: &ClusterMap) {
        let names: Vec<String> = map.keyspaces.values().map(|row| row.name.clone()).collect();
        if names.is_empty() {
            return;
        }
        let name = self.chance.pick(&names).clone();
        let wish = KeyspaceWish { has_leases: Some(self.chance.hits(500)), ..KeyspaceWish::default() };
        self.change(node, life, MetadataCommand::AlterKeyspace { name, wish }).await;
    }

    async fn change(
        &mut self,
        node: &Arc<Node>,
        life: &Life,
        command: MetadataCommand,
    ) -> (Outcome, Option<AdminError>) {
        self.desk.audit.event(format_args!("the steward asks for {command:?}"));
        let told = tokio::select! {
            biased;
            () = life.ended() => None,
            told = node.metadata(command, PATIENCE) => Some(told),
        };
        self.desk.audit.event(format_args!("the steward is told {told:?}"));
        match told {
            None => (Outcome::Unknown, None),
            Some(Ok(_)) => (Outcome::Done, None),
            Some(Err(error)) => match error.effect() {
                Effect::None => (Outcome::Denied, Some(error)),
                Effect::Unknown => (Outcome::Unknown, Some(error)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(created: Outcome, dropped: Option<Outcome>) -> Ledger {
        let name = || "made-1".to_owned();
        Ledger {
            created: BTreeMap::from([(name(), created)]),
            dropped: dropped.map(|dropped| (name(), dropped)).into_iter().collect(),
            ..Ledger::default()
        }
    }

    #[test]
    fn what_was_answered_must_be_what_is() {
        let (nothing, never) = (ClusterMap::default(), BTreeSet::new());
        let judge = |created, dropped| ledger(created, dropped).violations(&nothing, &never).join("\n");
        assert!(judge(Outcome::Done, None).contains("is gone"));
        assert!(judge(Outcome::Done, Some(Outcome::Denied)).contains("is gone"));
        assert_eq!(judge(Outcome::Done, Some(Outcome::Done)), "");
        assert_eq!(judge(Outcome::Done, Some(Outcome::Unknown)), "");
        assert_eq!(judge(Outcome::Unknown, None), "");
        let ever = BTreeSet::from(["made-1".to_owned()]);
        assert!(ledger(Outcome::Denied, None).violations(&nothing, &ever).join("\n").contains("with proof"));
    }
}
