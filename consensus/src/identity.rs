//! # Identity: is a node who it says it is?
//!
//! ```text
//!                      start count    boot nonce    last synced batch
//!   lower start        emptied, restored or cloned directory       ─▶ refused
//!   same start         same nonce: the same process                ─▶ known
//!                      other nonce: two processes with one id      ─▶ refused
//!   higher start       no history shown: judged once it says hello ─▶ unproven
//!                      the life last seen is in the history,
//!                        with a batch at least the highest seen   ─▶ remembered, durably
//!                        with a batch below it: an older copy      ─▶ refused
//!                      it is not: emptied, restored or cloned      ─▶ refused
//! ```
//!
//! A node that forgot what it promised (a vote, an acknowledged entry) can cost the cluster an acknowledged write. Its
//! peers remember for it. Start count and batch alone would not do: both grow without any peer's consent, so an emptied
//! directory that starts often enough would pass. The history does: no directory gets the boot nonce of a life that it
//! did not live, and what a start recovered of a life is fixed from that start on (rule J7).
//!
//! **Invariant.** Pure: values in, a verdict out. What was seen only grows.
//!
//! **Deliberately absent.** More than [`PAST_LIVES_MAX`] lives: a node that lived that many while a peer met none of
//! them is refused by this peer, for nobody can tell any more.

use kvorum_api::{ClusterId, NodeId, StartCount};
use kvorum_storage::journal::BatchNumber;

/// Who this process is, for as long as it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// Which life of its data directory this is.
    pub start: StartCount,
    /// Random per process.
    pub boot_nonce: u64,
}

/// What a message says about the life of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Which life of the data directory.
    pub start: StartCount,
    /// Random per process.
    pub boot_nonce: u64,
    /// The last batch of its journal known durable when it spoke.
    pub last_synced: BatchNumber,
}

/// How many past lives a directory remembers.
pub const PAST_LIVES_MAX: usize = 128;

/// The boot nonce of the past lives of a directory whose last build did not note them: only the batch speaks for them.
pub const UNNOTED: u64 = 0;

/// A life that this directory has lived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastLife {
    /// Which one.
    pub start: StartCount,
    /// Random per process.
    pub boot_nonce: u64,
    /// The last batch of it that the next start found.
    pub found: BatchNumber,
}

/// The lives of a directory: they are part of it, so a copy has those of its original, and an emptied one has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// Start count and boot nonce of the newest one; `None` in an empty directory.
    pub current: Option<(StartCount, u64)>,
    /// Those before it, oldest first, the newest [`PAST_LIVES_MAX`].
    pub past: Vec<PastLife>,
}

impl Lives {
    /// A new life begins, in a directory where the journal found `found`.
    #[must_use]
    pub fn begin(mut self, start: StartCount, boot_nonce: u64, found: BatchNumber) -> Self {
        if let Some((last, nonce)) = self.current {
            let last = if nonce == UNNOTED { StartCount(start.0.saturating_sub(1)) } else { last };
            self.past.push(PastLife { start: last, boot_nonce: nonce, found });
        }
        let surplus = self.past.len().saturating_sub(PAST_LIVES_MAX);
        self.past.drain(..surplus);
        Lives { current: Some((start, boot_nonce)), past: self.past }
    }
}

/// The verdict on one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The life that is known, or the first one ever heard of: remember `life`, when convenient.
    Known(Life),
    /// A life not seen before: remember `life` durably.
    NewLife(Life),
    /// A life not seen before that has shown no history: neither answer it nor remember it; the sentence asks for it.
    Unproven(String),
    /// Not who it says it is; the sentence names the node.
    Refused(String),
}

/// Judges what `node` says of itself against the highest that was seen of it. A hello shows `past` lives, another
/// message none.
#[must_use]
pub fn judge(node: NodeId, seen: Option<Life>, said: Life, past: Option<&[PastLife]>) -> Verdict {
    let Some(seen) = seen else {
        return Verdict::NewLife(said);
    };
    let last_synced = seen.last_synced.max(said.last_synced);
    if said.start < seen.start {
        return Verdict::Refused(format!(
            "node {node} shows start count {}, but {} was seen before: its data directory was emptied, restored or \
             cloned; the other nodes still have its replicas' data, but this build cannot replace a node",
            said.start, seen.start
        ));
    }
    if said.start > seen.start {
        return judge_new_life(node, seen, said, past);
    }
    if said.boot_nonce != seen.boot_nonce {
        return Verdict::Refused(format!(
            "node {node} was started twice with start count {}: two processes run with one id, or its data directory \
             was emptied or cloned",
            said.start
        ));
    }
    Verdict::Known(Life { last_synced, ..said })
}

fn judge_new_life(node: NodeId, seen: Life, said: Life, past: Option<&[PastLife]>) -> Verdict {
    let Some(past) = past else {
        return Verdict::Unproven(format!("node {node} has begun a new life, {}: say hello first", said.start));
    };
    let is_seen = |life: &&PastLife| match life.boot_nonce {
        UNNOTED => life.start >= seen.start,
        nonce => (life.start, nonce) == (seen.start, seen.boot_nonce),
    };
    let Some(life) = past.iter().find(is_seen) else {
        if past.len() >= PAST_LIVES_MAX && past.iter().all(|life| life.start > seen.start) {
            return Verdict::Refused(format!(
                "node {node} has lived more than {PAST_LIVES_MAX} lives since its life {} was seen, and remembers no \
                 more: nobody can tell its data directory from one that was emptied, restored or cloned; \
                 the other nodes still have its replicas' data, but this build cannot replace a node",
                seen.start
            ));
        }
        return Verdict::Refused(format!(
            "node {node} does not remember its life {} that was seen before: its data directory was emptied, restored \
             or cloned; the other nodes still have its replicas' data, but this build cannot replace a node",
            seen.start
        ));
    };
    let found = life.found.min(said.last_synced);
    if found < seen.last_synced {
        return Verdict::Refused(format!(
            "node {node} shows journal batch {} of its life {}, but {} of it was seen durable: its data directory is an \
             older copy; the other nodes still have its replicas' data, but this build cannot replace a node",
            found.0, seen.start, seen.last_synced.0
        ));
    }
    Verdict::NewLife(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    fn life(start: u64, boot_nonce: u64, batch: u64) -> Life {
        Life { start: StartCount(start), boot_nonce, last_synced: BatchNumber(batch) }
    }

    fn past(start: u64, boot_nonce: u64, found: u64) -> PastLife {
        PastLife { start: StartCount(start), boot_nonce, found: BatchNumber(found) }
    }

    fn refusal(seen: Life, said: Life, past: &[PastLife]) -> String {
        match judge(NODE, Some(seen), said, Some(past)) {
            Verdict::Refused(why) => why,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn an_emptied_directory_is_refused() {
        assert!(refusal(life(4, 7, 900), life(1, 8, 2), &[]).contains("emptied, restored or cloned"));
    }

    #[test]
    fn an_emptied_directory_started_as_often_is_refused() {
        assert!(refusal(life(1, 7, 900), life(1, 8, 2), &[]).contains("started twice with start count 1"));
    }

    #[test]
    fn two_processes_with_one_id_are_refused() {
        assert!(refusal(life(5, 7, 10), life(5, 8, 10), &[]).contains("two processes"));
    }

    /// Rule J7: however far its batches have grown since.
    #[test]
    fn an_older_copy_is_refused_also_when_it_was_taken_while_the_node_ran() {
        assert!(refusal(life(5, 7, 500), life(6, 8, 100), &[past(5, 7, 99)]).contains("older copy"));
        assert!(
            refusal(life(5, 7, 500), life(9, 8, 9_000), &[past(5, 7, 499), past(8, 1, 999)]).contains("older copy")
        );
    }

    /// Rule J7: neither starts nor batches make up for a life that was not lived.
    #[test]
    fn a_directory_that_does_not_remember_the_life_that_was_seen_is_refused() {
        let said = life(90, 8, 9_000);
        assert!(refusal(life(5, 7, 500), said, &[]).contains("emptied, restored or cloned"));
        assert!(refusal(life(5, 7, 500), said, &[past(5, 6, 800)]).contains("emptied, restored or cloned"));
        assert!(refusal(life(5, 7, 500), said, &[past(4, UNNOTED, 800)]).contains("emptied, restored or cloned"));
    }

    #[test]
    fn an_honest_restart_is_a_new_life_once_it_has_shown_its_history() {
        let (seen, said) = (life(5, 7, 500), life(7, 9, 503));
        let history = [past(5, 7, 500), past(6, 8, 501)];
        assert_eq!(judge(NODE, Some(seen), said, Some(&history)), Verdict::NewLife(said));
        assert!(matches!(judge(NODE, Some(seen), said, None), Verdict::Unproven(_)));
        assert_eq!(judge(NODE, None, said, None), Verdict::NewLife(said));
        assert_eq!(judge(NODE, Some(seen), said, Some(&[past(6, UNNOTED, 501)])), Verdict::NewLife(said));
    }

    #[test]
    fn the_newest_lives_are_remembered_and_more_are_refused_by_whom_they_miss() {
        let mut lives = Lives::default();
        for start in 1..=PAST_LIVES_MAX as u64 + 1 {
            lives = lives.begin(StartCount(start), start + 100, BatchNumber(start * 10));
        }
        assert_eq!(lives.past.len(), PAST_LIVES_MAX);
        let said = life(200, 300, 9_000);
        assert_eq!(judge(NODE, Some(life(1, 101, 20)), said, Some(&lives.past)), Verdict::NewLife(said));
        let lives = lives.begin(StartCount(200), 300, BatchNumber(9_000));
        assert_eq!(lives.past.len(), PAST_LIVES_MAX);
        assert!(refusal(life(1, 101, 20), said, &lives.past).contains("more than 128 lives"));
    }

    #[test]
    fn messages_of_one_life_may_overtake_each_other() {
        assert_eq!(judge(NODE, Some(life(5, 7, 500)), life(5, 7, 480), None), Verdict::Known(life(5, 7, 500)));
        assert_eq!(judge(NODE, Some(life(5, 7, 500)), life(5, 7, 501), None), Verdict::Known(life(5, 7, 501)));
    }
}
