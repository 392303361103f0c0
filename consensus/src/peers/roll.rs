//! The roll: every other node of the cluster, and how it looks from here.
//!
//! **Invariant.** A life that was once seen of a node is never forgotten, also while the node is none of the cluster:
//! node ids are not reused, so whoever comes back under one is judged by what it showed before (rule J7).

use super::MessageKind;
use crate::{
    envelope::{Envelope, Form, Refusal},
    health::Health,
    hello::{Hello, majority},
    identity::{Life, PastLife, Verdict, judge},
    message::CallError,
};
use kvorum_api::NodeId;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// How one other node looks from here.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The highest life seen of it.
    pub life: Option<Life>,
    /// When it was last heard.
    pub heard: Option<Instant>,
    /// Its clock against ours, milliseconds, and when that was measured.
    pub clock: Option<(i64, Instant)>,
    /// Why we do not talk to it.
    pub refused: Option<String>,
    /// Its answer to our last hello, in this life of ours, and when it came.
    pub hello: Option<(Hello, Instant)>,
    /// Since when it says that this node is none of its cluster.
    pub(super) calls_us_foreign: Option<Instant>,
}

/// A cluster that a node has just joined learns of it one node after the other: only who says for longer than this that
/// it does not know this node counts against it.
const ACQUAINTANCE_PATIENCE: Duration = Duration::from_secs(10);

/// Every other node of the cluster.
pub(super) struct Roll {
    pub(super) seen: BTreeMap<NodeId, Seen>,
    /// The nodes that hold something; empty = nobody knows yet, and everybody counts.
    pub(super) holders: BTreeSet<NodeId>,
    /// Ids below this one were given: a node that is none of the cluster and has one was forgotten.
    pub(super) next_node: NodeId,
    /// What was seen of nodes that are none of the cluster now.
    departed: BTreeMap<NodeId, Life>,
    /// Grows with every new life seen.
    pub(super) lives_revision: u64,
    /// Why this node was refused for good.
    pub(super) refused: Option<String>,
}

/// Why a message of a node is not taken.
pub(super) enum Unfit {
    /// Its sender is none of the cluster.
    Unknown(String),
    /// Its sender was of the cluster, and will never be again.
    Forgotten(String),
    /// It may be taken once its sender has said hello.
    Unproven(String),
    /// Never.
    Refused(String),
}

/// The past lives that a hello shows, asked or answered.
fn shown_lives(envelope: &Envelope) -> Option<Vec<PastLife>> {
    let is_hello = MessageKind::from_number(envelope.kind) == Some(MessageKind::Hello);
    let hello = (is_hello && envelope.form != Form::Refusal).then(|| Hello::decode(&envelope.payload).ok())?;
    hello.map(|hello| hello.past)
}

impl Roll {
    /// Knows `others`, and remembers the lives that an earlier life of this node has seen of anybody.
    pub(super) fn new(others: &BTreeSet<NodeId>, remembered: &BTreeMap<NodeId, Life>) -> Self {
        let mut roll = Roll {
            seen: BTreeMap::new(),
            holders: BTreeSet::new(),
            next_node: NodeId(0),
            departed: remembered.clone(),
            lives_revision: 0,
            refused: None,
        };
        roll.set(others);
        roll
    }

    /// The other nodes of whom a majority is asked.
    pub(super) fn voices(&self) -> BTreeSet<NodeId> {
        let counts = |node: &NodeId| self.holders.is_empty() || self.holders.contains(node);
        self.seen.keys().copied().filter(counts).collect()
    }

    /// From now on these are the other nodes. Who is new is known by what was seen of it before; of who goes the life
    /// is kept.
    pub(super) fn set(&mut self, others: &BTreeSet<NodeId>) {
        let gone: Vec<_> = self.seen.keys().filter(|node| !others.contains(node)).copied().collect();
        for node in gone {
            let life = self.seen.remove(&node).and_then(|seen| seen.life);
            self.departed.extend(life.map(|life| (node, life)));
        }
        for node in others {
            let departed = &mut self.departed;
            self.seen.entry(*node).or_insert_with(|| Seen { life: departed.remove(node), ..Seen::default() });
        }
    }

    /// The highest life seen of every node, be it of the cluster or not.
    pub(super) fn lives(&self) -> BTreeMap<NodeId, Life> {
        let present = self.seen.iter().filter_map(|(node, seen)| Some((*node, seen.life?)));
        self.departed.iter().map(|(node, life)| (*node, *life)).chain(present).collect()
    }

    /// Judges the life that a message of a node of this cluster shows, and remembers it.
    pub(super) fn judge(&mut self, envelope: &Envelope) -> Result<(), Unfit> {
        let mut is_new = false;
        let past = shown_lives(envelope);
        let (from, next) = (envelope.from, self.next_node);
        let seen = self.seen.get_mut(&from).ok_or_else(|| match from < next {
            true => Unfit::Forgotten(forgotten(from)),
            false => Unfit::Unknown(stranger(from)),
        })?;
        match judge(envelope.from, seen.life, envelope.life, past.as_deref()) {
            Verdict::Known(life) => seen.life = Some(life),
            // A node refuses others also before its life is durable: it may never remember to have lived it.
            Verdict::NewLife(_) if envelope.form == Form::Refusal => {}
            Verdict::Unproven(why) => {
                // Asks it for another hello, which proves it; the one at hand is of a former life.
                seen.hello = None;
                return Err(Unfit::Unproven(why));
            }
            Verdict::NewLife(life) => {
                seen.life = Some(life);
                // What it held and promised in its former life says nothing about this one.
                seen.hello = None;
                is_new = true;
            }
            Verdict::Refused(why) => {
                seen.refused = Some(why.clone());
                return Err(Unfit::Refused(why));
            }
        }
        seen.heard = Some(Instant::now());
        seen.refused = None;
        self.lives_revision += u64::from(is_new);
        Ok(())
    }

    /// A peer and this node are not of one cluster. One of them is wrong: the one that stands alone. That a peer does
    /// not know this node may also mean that it has not heard yet.
    pub(super) fn foreign(&mut self, to: NodeId, refusal: Refusal, why: String, health: &Health) -> CallError {
        let now = Instant::now();
        // Ids only grow and are never given twice: who knows of a later one than ours, and not of us, knows for good.
        if refusal == Refusal::Forgotten {
            self.refused_for_good(health, why.clone());
            return CallError::Unreachable(why);
        }
        if let Some(seen) = self.seen.get_mut(&to) {
            seen.refused = Some(why.clone());
            seen.calls_us_foreign.get_or_insert(now);
        }
        let patience = if refusal == Refusal::UnknownNode { ACQUAINTANCE_PATIENCE } else { Duration::ZERO };
        let says_so = |seen: &&Seen| seen.calls_us_foreign.is_some_and(|since| now.duration_since(since) >= patience);
        if self.seen.values().filter(says_so).count() >= majority(self.seen.len() + 1) {
            self.refused_for_good(health, why.clone());
        }
        CallError::Unreachable(why)
    }

    pub(super) fn refused_for_good(&mut self, health: &Health, why: String) {
        tracing::error!(why, "this node was refused by its peers");
        health.poison(format!("refused by its peers: {why}"));
        self.refused.get_or_insert(why);
    }
}

/// What is said about a node that is not on the roll.
pub(super) fn stranger(node: NodeId) -> String {
    format!("node {node} is not in this cluster")
}

/// What is said to a node that was forgotten.
fn forgotten(node: NodeId) -> String {
    format!(
        "node {node} was forgotten by its cluster, and its number is never given again: to come back as a new node, start \
         it on an empty data directory with --join HOST:PORT --cluster-key FILE"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use kvorum_api::{ClusterId, GroupId, ReplicaId, Stamp, StartCount};
    use kvorum_storage::journal::BatchNumber;
    use tokio::time::advance;

    fn life(start: u64) -> Life {
        Life { start: StartCount(start), boot_nonce: start * 10, last_synced: BatchNumber(start) }
    }

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn append_of(node: u64, start: u64) -> Envelope {
        Envelope {
            form: Form::Request,
            cluster: ClusterId([7; 16]),
            from: NodeId(node),
            to: NodeId(1),
            life: life(start),
            stamp: Stamp(0),
            physical_ms: 0,
            group: GroupId(1),
            from_replica: ReplicaId(1),
            to_replica: ReplicaId(2),
            kind: MessageKind::Append as u8,
            trace: Bytes::new(),
            payload: Bytes::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_node_is_known_and_one_that_went_is_not() {
        let mut roll = Roll::new(&nodes(&[2]), &BTreeMap::new());
        assert!(matches!(roll.judge(&append_of(3, 1)), Err(Unfit::Unknown(_))));
        roll.set(&nodes(&[2, 3]));
        assert!(roll.judge(&append_of(3, 1)).is_ok());
        roll.set(&nodes(&[2]));
        assert!(matches!(roll.judge(&append_of(3, 1)), Err(Unfit::Unknown(_))));
    }

    /// Rule J7: ids are never given twice, so whoever was forgotten is told so, and one that is told believes it.
    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_forgotten_is_told_so_at_once() {
        let mut roll = Roll::new(&nodes(&[2]), &BTreeMap::new());
        roll.next_node = NodeId(4);
        assert!(
            matches!(roll.judge(&append_of(3, 1)), Err(Unfit::Forgotten(why)) if why.contains("node 3 was forgotten"))
        );
        assert!(matches!(roll.judge(&append_of(4, 1)), Err(Unfit::Unknown(_))), "it may be about to come");
        let health = Health::default();
        roll.foreign(NodeId(2), Refusal::Forgotten, "forgotten".to_owned(), &health);
        assert_eq!(roll.refused.as_deref(), Some("forgotten"));
    }

    /// Rule J7: leaving and coming back is no way to be forgotten, in this life or a later one.
    #[tokio::test(start_paused = true)]
    async fn the_life_of_a_node_that_went_stays_remembered() {
        let mut roll = Roll::new(&nodes(&[2, 3]), &BTreeMap::new());
        assert!(roll.judge(&append_of(3, 5)).is_ok());
        roll.set(&nodes(&[2]));
        assert_eq!(roll.lives(), BTreeMap::from([(NodeId(3), life(5))]));
        let mut later = Roll::new(&nodes(&[2]), &roll.lives());
        assert_eq!(later.lives(), roll.lives());
        for roll in [&mut roll, &mut later] {
            roll.set(&nodes(&[2, 3]));
            assert!(matches!(roll.judge(&append_of(3, 4)), Err(Unfit::Refused(_))), "an emptied directory");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_the_others_have_not_heard_of_yet_is_not_refused_for_good() {
        let health = Health::default();
        let mut roll = Roll::new(&nodes(&[1, 2]), &BTreeMap::new());
        let mut hear = |refusal| {
            for node in [1, 2] {
                roll.foreign(NodeId(node), refusal, "unknown".to_owned(), &health);
            }
            roll.refused.is_some()
        };
        assert!(!hear(Refusal::UnknownNode));
        advance(ACQUAINTANCE_PATIENCE / 2).await;
        assert!(!hear(Refusal::UnknownNode));
        advance(ACQUAINTANCE_PATIENCE).await;
        assert!(hear(Refusal::UnknownNode), "they still do not know it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_majority_of_another_cluster_refuses_at_once() {
        let health = Health::default();
        let mut roll = Roll::new(&nodes(&[1, 2]), &BTreeMap::new());
        roll.foreign(NodeId(1), Refusal::WrongCluster, "another".to_owned(), &health);
        assert_eq!(roll.refused, None, "one of three");
        roll.foreign(NodeId(2), Refusal::WrongCluster, "another".to_owned(), &health);
        assert!(roll.refused.is_some());
    }
}
