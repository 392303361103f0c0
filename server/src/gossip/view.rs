//! What gossip says of the nodes: values, and how many lives of a node become one.
//!
//! **Invariant.** Pure. Of several lives of a node the newest speaks, alive or not.

use kvorum_api::{NodeId, StartCount};
use std::collections::BTreeMap;

/// Bytes of one text of a summary.
const TEXT_BYTES_MAX: usize = 128;

/// What a node says of itself: at most a few hundred bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Revision of its copy of the map.
    pub map_revision: u64,
    /// What it runs.
    pub build: String,
    /// Replicas it holds.
    pub replicas: u64,
    /// Where it stands.
    pub zone: String,
}

/// One node, as gossip knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipPeer {
    /// Whether its heartbeats come.
    pub is_alive: bool,
    /// Which of its lives this is about.
    pub start: StartCount,
    /// What it says of itself.
    pub summary: Summary,
}

/// Every node of the map that was heard, this one included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GossipView {
    /// By id.
    pub peers: BTreeMap<NodeId, GossipPeer>,
}

impl Summary {
    /// Says it, name by name.
    pub fn write(&self, mut say: impl FnMut(&str, String)) {
        say("map", self.map_revision.to_string());
        say("build", cut(&self.build));
        say("replicas", self.replicas.to_string());
        say("zone", cut(&self.zone));
    }

    /// Hears it; what was not said, or not so that it can be understood, is empty.
    #[must_use]
    pub fn read(hear: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name| hear(name).and_then(|text| text.parse().ok()).unwrap_or_default();
        let text = |name| hear(name).map(|text| cut(&text)).unwrap_or_default();
        Summary { map_revision: number("map"), build: text("build"), replicas: number("replicas"), zone: text("zone") }
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

impl GossipView {
    /// Of what was said of lives (node, life, what), only of nodes of the map.
    #[must_use]
    pub fn of(
        said: impl IntoIterator<Item = (NodeId, u64, GossipPeer)>,
        nodes: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let mut newest: BTreeMap<NodeId, (u64, GossipPeer)> = BTreeMap::new();
        for (node, life, peer) in said {
            if newest.get(&node).is_none_or(|(before, _)| *before < life) {
                newest.insert(node, (life, peer));
            }
        }
        let of_the_map = nodes.into_iter().filter_map(|node| Some((node, newest.remove(&node)?.1)));
        GossipView { peers: of_the_map.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer(is_alive: bool, start: u64) -> GossipPeer {
        GossipPeer { is_alive, start: StartCount(start), summary: Summary::default() }
    }

    #[test]
    fn an_old_life_is_not_believed_even_if_it_seems_alive() {
        let said = [(NodeId(1), 7, peer(true, 7)), (NodeId(1), 9, peer(false, 9)), (NodeId(1), 8, peer(true, 8))];
        let view = GossipView::of(said, [NodeId(1)]);
        assert_eq!(view.peers[&NodeId(1)], peer(false, 9));
    }

    #[test]
    fn a_node_that_is_not_of_the_map_is_not_seen() {
        let said = [(NodeId(1), 1, peer(true, 1)), (NodeId(9), 1, peer(true, 1))];
        let view = GossipView::of(said, [NodeId(1), NodeId(2)]);
        assert_eq!(view.peers.keys().copied().collect::<Vec<_>>(), [NodeId(1)]);
    }

    proptest! {
        #[test]
        fn a_summary_is_heard_as_it_was_said_and_stays_small(
            map_revision: u64, replicas: u64, build in ".{0,30}", zone in ".{0,16}", longer in ".{0,2000}",
        ) {
            let mut said = BTreeMap::new();
            let summary = Summary { map_revision, build, replicas, zone };
            summary.write(|name, value| drop(said.insert(name.to_owned(), value)));
            prop_assert_eq!(Summary::read(|name| said.get(name).cloned()), summary.clone());
            let mut bytes = 0;
            let wide = Summary { zone: longer.clone(), build: longer, ..summary };
            wide.write(|name, value| bytes += name.len() + value.len());
            prop_assert!(bytes <= 1_024);
        }
    }
}
