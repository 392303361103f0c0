//! Catalogue: every planted bug, and what is wrong with it.
//!
//! **Deliberately absent.** Where each is planted: look for `planted!("bug-…")`.

/// One planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bug {
    /// Its name, which is that of its feature without the prefix.
    pub name: &'static str,
    /// What is wrong.
    pub what: &'static str,
}

/// All of them.
pub const CATALOGUE: &[Bug] = &[
    Bug { name: "ack-before-durable", what: "answers before a sync" },
    Bug { name: "vote-not-kept", what: "a vote is forgotten with the power" },
    Bug { name: "vote-recycled", what: "marks leave with their segment" },
    Bug { name: "open-restores-always", what: "a leader restores itself without an election" },
    Bug { name: "former-instance", what: "a former Raft instance still applies" },
    Bug { name: "engine-ahead", what: "applied before it is synced here" },
    Bug { name: "purge-past-flushed", what: "forgets log that is not flushed" },
    Bug { name: "position-outside-batch", what: "the state is written a batch late" },
    Bug { name: "install-not-atomic", what: "an installation without its begin" },
    Bug { name: "snapshot-one-off", what: "a snapshot says one index less" },
    Bug { name: "rot-is-cut", what: "rot in the middle taken for a torn tail" },
    Bug { name: "reads-unconfirmed", what: "a deposed leader answers" },
    Bug { name: "lease-too-long", what: "a lease trusted for six elections" },
    Bug { name: "session-not-awaited", what: "a session read waits for nothing" },
    Bug { name: "request-ids-ignored", what: "a request id is not looked at" },
    Bug { name: "retry-applied-twice", what: "outcomes forgotten with a life" },
    Bug { name: "stale-swap", what: "a swap on a version that has passed" },
    Bug { name: "replica-id-reused", what: "a newcomer gets the id of an earlier one" },
    Bug { name: "learner-counted", what: "a learner counts for a lease" },
    Bug { name: "joint-left-open", what: "a change is called done while it is joint" },
    Bug { name: "dropped-too-early", what: "what goes is erased before the others are agreed on" },
];

/// The bugs of a build: those of the catalogue whose names are compiled in, in its order.
#[must_use]
pub fn of_build(compiled_in: &[&str]) -> Vec<Bug> {
    CATALOGUE.iter().copied().filter(|bug| compiled_in.contains(&bug.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use toml::{Table, Value};

    fn features(manifest: &str) -> Table {
        let manifest: Table = manifest.parse().unwrap();
        manifest["features"].as_table().unwrap().clone()
    }

    fn bugs(features: &Table) -> BTreeSet<&str> {
        features.keys().filter_map(|name| name.strip_prefix("bug-")).collect()
    }

    /// One list of bugs is in five manifests and files: a bug missing in one of them would quietly not be there.
    #[test]
    fn every_manifest_and_list_knows_every_bug() {
        let known: BTreeSet<&str> = CATALOGUE.iter().map(|bug| bug.name).collect();
        assert_eq!(known.len(), CATALOGUE.len(), "a name stands twice");
        let jepsen = features(include_str!("../../Cargo.toml"));
        let server = features(include_str!("../../../server/Cargo.toml"));
        let storage = features(include_str!("../../../storage/Cargo.toml"));
        let consensus = features(include_str!("../../../consensus/Cargo.toml"));
        for (of, features) in [("jepsen", &jepsen), ("server", &server), ("storage", &storage)] {
            assert_eq!(bugs(features), known, "{of}");
        }
        for (of, features) in [("jepsen", &jepsen), ("server", &server)] {
            let all = features["bugs"].as_array().unwrap().iter().filter_map(Value::as_str);
            assert_eq!(all.filter_map(|name| name.strip_prefix("bug-")).collect::<BTreeSet<_>>(), known, "{of}: bugs");
        }
        for bug in &known {
            let crate_of_site = if bugs(&consensus).contains(bug) { "kvorum-consensus" } else { "kvorum-storage" };
            let turned_on = vec![Value::from(format!("{crate_of_site}/bug-{bug}"))];
            for (of, features) in [("jepsen", &jepsen), ("server", &server)] {
                assert_eq!(features[&format!("bug-{bug}")].as_array(), Some(&turned_on), "{of}");
            }
        }
        for (name, turned_on) in consensus.iter().filter(|(name, _)| name.starts_with("bug-")) {
            let turned_on: Vec<&str> = turned_on.as_array().unwrap().iter().filter_map(Value::as_str).collect();
            assert_eq!(turned_on, [format!("kvorum-storage/{name}")]);
        }
        let list = include_str!("../../../storage/src/planted.rs");
        for bug in &known {
            let entry = format!("#[cfg(feature = \"bug-{bug}\")]\n    \"{bug}\",");
            assert!(list.contains(&entry), "storage/src/planted.rs does not list {bug}");
        }
    }

    #[test]
    fn a_build_without_bugs_has_none() {
        assert_eq!(of_build(&[]), []);
        assert_eq!(of_build(&["stale-swap"]).len(), 1);
    }
}
