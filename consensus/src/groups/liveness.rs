//! # Liveness: which nodes are there, as far as this one has heard
//!
//! ```text
//!   unknown ──hello answered──▶ alive ──silent for too long, poisoned, or a new life──▶ lost
//!                                 ▲                                                      │
//!                                 └────────────────────hello answered────────────────────┘
//! ```
//!
//! A node that says it is poisoned answers hellos and nothing else: to its groups it is lost, until its next life.
//!
//! **Invariant.** A hint, never a proof (invariant 7): whoever acts on it may be wrong, and Raft is right all the same.
//!
//! **Deliberately absent.** Sending the hellos: that is a chore.

use crate::peers::Seen;
use kvorum_api::{NodeId, StartCount};
use parking_lot::Mutex;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// A node that has not answered a hello for longer is lost.
pub const SILENCE_MAX: Duration = Duration::from_secs(2);

/// How a node looks from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It answers.
    Alive {
        /// Since when, without a break.
        since: Instant,
    },
    /// It does not answer, it is poisoned, or it began a new life a moment ago.
    Lost,
    /// This process has not lived long enough to say.
    Unknown,
}

/// What changed since somebody looked last.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Nodes that were lost. One that began a new life was lost once.
    pub lost: Vec<NodeId>,
    /// Nodes that answer, and did not when somebody looked last.
    pub returned: Vec<NodeId>,
}

/// Every other node.
pub struct Liveness {
    me: NodeId,
    born: Instant,
    known: Mutex<BTreeMap<NodeId, Known>>,
}

#[derive(Clone, Copy)]
struct Known {
    start: Option<StartCount>,
    life: Life,
}

impl Liveness {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Liveness { me, born: Instant::now(), known: Mutex::default() }
    }

    /// How a node looks. This one is always alive.
    #[must_use]
    pub fn of(&self, node: NodeId) -> Life {
        if node == self.me {
            return Life::Alive { since: self.born };
        }
        let known = self.known.lock().get(&node).map(|known| known.life);
        known.unwrap_or_else(|| self.life_of_the_unheard())
    }

    /// Whether a node answers.
    #[must_use]
    pub fn is_alive(&self, node: NodeId) -> bool {
        matches!(self.of(node), Life::Alive { .. })
    }

    /// Whether a node is lost.
    #[must_use]
    pub fn is_lost(&self, node: NodeId) -> bool {
        self.of(node) == Life::Lost
    }

    /// Takes in what has been heard.
    pub fn observe(&self, seen: &BTreeMap<NodeId, Seen>) -> Changes {
        let heard = seen.iter().map(|(node, seen)| {
            let answered = seen.hello.as_ref().filter(|(hello, _)| !hello.is_poisoned).map(|(_, answered)| *answered);
            let is_poisoned = seen.hello.as_ref().is_some_and(|(hello, _)| hello.is_poisoned);
            (*node, seen.life.map(|life| life.start), answered, is_poisoned)
        });
        let mut changes = Changes::default();
        let mut known = self.known.lock();
        known.retain(|node, _| seen.contains_key(node));
        for (node, start, answered, is_poisoned) in heard {
            let before = known.get(&node).copied().unwrap_or(Known { start, life: Life::Unknown });
            let is_new_life = before.start.is_some() && before.start != start;
            let is_answering = answered.is_some_and(|answered| answered.elapsed() <= SILENCE_MAX);
            let life = match (is_answering, before.life) {
                (true, Life::Alive { since }) if !is_new_life => Life::Alive { since },
                (true, _) => Life::Alive { since: Instant::now() },
                (false, Life::Unknown) if !is_poisoned => self.life_of_the_unheard(),
                (false, _) => Life::Lost,
            };
            if is_new_life || (life == Life::Lost && before.life != Life::Lost) {
                changes.lost.push(node);
            }
            if is_answering && (is_new_life || !matches!(before.life, Life::Alive { .. })) {
                changes.returned.push(node);
            }
            known.insert(node, Known { start, life });
        }
        changes
    }

    fn life_of_the_unheard(&self) -> Life {
        if self.born.elapsed() > SILENCE_MAX { Life::Lost } else { Life::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hello::Hello, identity::Life as DirectoryLife};
    use kvorum_storage::journal::BatchNumber;

    const NODE: NodeId = NodeId(2);

    fn seen(start: u64, answered: Option<Instant>) -> BTreeMap<NodeId, Seen> {
        let life = DirectoryLife { start: StartCount(start), boot_nonce: start, last_synced: BatchNumber(0) };
        let hello = answered.map(|at| (Hello::default(), at));
        let mut seen = Seen::default();
        (seen.life, seen.hello) = (Some(life), hello);
        BTreeMap::from([(NODE, seen)])
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_lost_when_it_has_been_silent_too_long() {
        let liveness = Liveness::new(NodeId(1));
        assert_eq!(liveness.of(NODE), Life::Unknown);
        let answered = Instant::now();
        let returned = Changes { returned: vec![NODE], ..Changes::default() };
        assert_eq!(liveness.observe(&seen(1, Some(answered))), returned);
        assert_eq!(liveness.of(NODE), Life::Alive { since: answered });
        tokio::time::advance(SILENCE_MAX).await;
        assert_eq!(liveness.observe(&seen(1, Some(answered))), Changes::default());
        tokio::time::advance(Duration::from_millis(1)).await;
        let lost = Changes { lost: vec![NODE], ..Changes::default() };
        assert_eq!(liveness.observe(&seen(1, Some(answered))), lost);
        assert_eq!(liveness.observe(&seen(1, Some(answered))), Changes::default(), "said once");
        assert!(liveness.is_lost(NODE));
        assert_eq!(liveness.observe(&seen(1, Some(Instant::now()))), returned);
    }

    /// A node that was restarted between two looks was lost: its replicas lead nothing any more.
    #[tokio::test(start_paused = true)]
    async fn a_new_life_counts_as_one_loss() {
        let liveness = Liveness::new(NodeId(1));
        liveness.observe(&seen(1, Some(Instant::now())));
        tokio::time::advance(Duration::from_millis(100)).await;
        let both = Changes { lost: vec![NODE], returned: vec![NODE] };
        assert_eq!(liveness.observe(&seen(2, Some(Instant::now()))), both);
        assert_eq!(liveness.of(NODE), Life::Alive { since: Instant::now() });
        assert_eq!(liveness.observe(&seen(2, Some(Instant::now()))), Changes::default());
    }

    /// It says so itself: nobody waits for it to fall silent, and nobody waits for it as long as it lives.
    #[tokio::test(start_paused = true)]
    async fn a_poisoned_node_is_lost_although_it_answers() {
        let poisoned = || {
            let mut seen = seen(1, Some(Instant::now()));
            let hello = Hello { is_poisoned: true, ..Hello::default() };
            seen.get_mut(&NODE).unwrap().hello = Some((hello, Instant::now()));
            seen
        };
        let liveness = Liveness::new(NodeId(1));
        liveness.observe(&seen(1, Some(Instant::now())));
        let lost = Changes { lost: vec![NODE], ..Changes::default() };
        assert_eq!(liveness.observe(&poisoned()), lost);
        assert_eq!(liveness.observe(&poisoned()), Changes::default(), "said once");
        assert!(liveness.is_lost(NODE));
        let returned = liveness.observe(&seen(2, Some(Instant::now()))).returned;
        assert_eq!(returned, [NODE], "its next life");
        let newcomer = Liveness::new(NodeId(1));
        assert_eq!(newcomer.observe(&poisoned()), lost, "also if it was never heard before");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_never_heard_is_lost_after_a_while() {
        let liveness = Liveness::new(NodeId(1));
        assert_eq!(liveness.observe(&seen(1, None)), Changes::default());
        tokio::time::advance(SILENCE_MAX + Duration::from_millis(1)).await;
        assert_eq!(liveness.observe(&seen(1, None)).lost, [NODE]);
        assert!(liveness.is_alive(NodeId(1)), "itself it never loses");
    }
}
