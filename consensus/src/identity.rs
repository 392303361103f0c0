//! # Identity: is a node who it says it is?
//!
//! ```text
//!                      start count    boot nonce    last synced batch
//!   lower start        emptied, restored or cloned directory       ─▶ refused
//!   same start         same nonce: the same process                ─▶ known
//!                      other nonce: two processes with one id      ─▶ refused
//!   higher start       batch at least the highest seen: a new life ─▶ remembered, durably
//!                      batch below it: an older copy (rule J7)     ─▶ refused
//! ```
//!
//! A node that forgot what it promised (a vote, an acknowledged entry) can cost the cluster an acknowledged write. Its
//! peers remember for it.
//!
//! **Invariant.** Pure: values in, a verdict out. What was seen only grows.

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

/// The verdict on one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The life that is known, or the first one ever heard of: remember `life`, when convenient.
    Known(Life),
    /// A life not seen before: remember `life` durably.
    NewLife(Life),
    /// Not who it says it is; the sentence names the node.
    Refused(String),
}

/// Judges what `node` says of itself against the highest that was seen of it.
#[must_use]
pub fn judge(node: NodeId, seen: Option<Life>, said: Life) -> Verdict {
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
        if said.last_synced < seen.last_synced {
            return Verdict::Refused(format!(
                "node {node} shows journal batch {}, but {} of it was seen durable: its data directory is an older \
                 copy; the other nodes still have its replicas' data, but this build cannot replace a node",
                said.last_synced.0, seen.last_synced.0
            ));
        }
        return Verdict::NewLife(said);
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

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    fn life(start: u64, boot_nonce: u64, batch: u64) -> Life {
        Life { start: StartCount(start), boot_nonce, last_synced: BatchNumber(batch) }
    }

    fn refusal(seen: Life, said: Life) -> String {
        match judge(NODE, Some(seen), said) {
            Verdict::Refused(why) => why,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn an_emptied_directory_is_refused() {
        assert!(refusal(life(4, 7, 900), life(1, 8, 2)).contains("emptied, restored or cloned"));
    }

    #[test]
    fn an_emptied_directory_started_as_often_is_refused() {
        assert!(refusal(life(1, 7, 900), life(1, 8, 2)).contains("started twice with start count 1"));
    }

    #[test]
    fn two_processes_with_one_id_are_refused() {
        assert!(refusal(life(5, 7, 10), life(5, 8, 10)).contains("two processes"));
    }

    /// Rule J7.
    #[test]
    fn an_older_copy_is_refused_also_when_it_was_taken_while_the_node_ran() {
        assert!(refusal(life(5, 7, 500), life(6, 8, 100)).contains("older copy"));
    }

    #[test]
    fn an_honest_restart_is_a_new_life() {
        assert_eq!(judge(NODE, Some(life(5, 7, 500)), life(6, 8, 500)), Verdict::NewLife(life(6, 8, 500)));
        assert_eq!(judge(NODE, None, life(6, 8, 500)), Verdict::NewLife(life(6, 8, 500)));
    }

    #[test]
    fn messages_of_one_life_may_overtake_each_other() {
        assert_eq!(judge(NODE, Some(life(5, 7, 500)), life(5, 7, 480)), Verdict::Known(life(5, 7, 500)));
        assert_eq!(judge(NODE, Some(life(5, 7, 500)), life(5, 7, 501)), Verdict::Known(life(5, 7, 501)));
    }
}
