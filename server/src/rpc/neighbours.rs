//! How other nodes look from here, in words.

use kvorum_api::NodeId;
use kvorum_consensus::{Node, groups::Life};

/// The word for how a node is doing.
#[must_use]
pub fn liveness(node: &Node, other: NodeId) -> &'static str {
    match node.liveness().of(other) {
        Life::Alive { .. } => "alive",
        Life::Lost => "lost",
        Life::Unknown => "unknown",
    }
}
