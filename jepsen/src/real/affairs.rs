//! Affairs: what people have asked of a cluster and are still owed, whom they lost, and how it all ended.
//!
//! **Invariant.** An operator is counted once, and ended as the cluster says at the very end. Where it does not say, it
//! is not counted as ended.

use kvorum_api::proto::OperatorDescription;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// All of it.
#[derive(Default)]
pub struct Affairs {
    /// Whether people changed anything.
    pub is_changed: bool,
    /// What they still want of nodes, and could not have yet: `(2, "forgotten")`.
    pub wanted: Vec<(u64, &'static str)>,
    /// What they were not given although it was due.
    pub complaints: Vec<String>,
    /// Operators they asked for, and what for.
    pub asked: Vec<(&'static str, u64)>,
    /// Nodes that were lost for good since anybody last took note.
    pub losses: Vec<Loss>,
    /// How operators ended, by what they were for.
    pub endings: BTreeMap<String, Endings>,
}

/// A node lost for good.
#[derive(Clone, Debug)]
pub struct Loss {
    /// When.
    pub at: Instant,
    /// What it led until then.
    pub shards: Vec<u64>,
}

/// How operators of one purpose ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endings {
    /// Whether people asked for them; else the cluster did by itself.
    pub is_asked_for: bool,
    /// How many there were.
    pub count: u64,
    /// Those that were carried out.
    pub done: u64,
    /// Those that were given up.
    pub failed: u64,
    /// Those that were called off.
    pub cancelled: u64,
    /// Why the first was given up that was.
    pub why: String,
}

impl Endings {
    /// How many have ended, in whatever way.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.done + self.failed + self.cancelled
    }

    /// `ended 12 of 14: 10 done, 1 failed (why), 1 cancelled`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Endings { count, done, failed, cancelled, why, .. } = self;
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        format!("ended {} of {count}: {done} done, {failed} failed{why}, {cancelled} cancelled", self.ended())
    }
}

/// Counts operators: those people asked for by what for, the others by their origin.
#[must_use]
pub fn endings(asked: &[(&'static str, u64)], listed: &[OperatorDescription]) -> BTreeMap<String, Endings> {
    let mut endings: BTreeMap<String, Endings> = BTreeMap::new();
    let states: BTreeMap<u64, &OperatorDescription> = listed.iter().map(|operator| (operator.id, operator)).collect();
    let ours: BTreeMap<u64, &str> = asked.iter().map(|(what, id)| (*id, *what)).collect();
    for (id, what) in &ours {
        let of = endings.entry((*what).to_owned()).or_default();
        of.is_asked_for = true;
        count(of, states.get(id).copied());
    }
    for operator in listed.iter().filter(|operator| !ours.contains_key(&operator.id)) {
        count(endings.entry(format!("by {}", operator.origin)).or_default(), Some(operator));
    }
    endings
}

fn count(of: &mut Endings, operator: Option<&OperatorDescription>) {
    of.count += 1;
    let Some(operator) = operator else { return };
    match operator.state.as_str() {
        "done" => of.done += 1,
        "cancelled" => of.cancelled += 1,
        "failed" => {
            of.failed += 1;
            if of.why.is_empty() {
                of.why.clone_from(&operator.failure);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_that_is_open_or_not_listed_has_not_ended() {
        let operator = |id, origin: &str, state: &str| OperatorDescription {
            id,
            origin: origin.to_owned(),
            state: state.to_owned(),
            failure: if state == "failed" { "n4 is lost".to_owned() } else { String::new() },
            ..OperatorDescription::default()
        };
        let listed = [
            operator(1, "user", "done"),
            operator(2, "user", "running"),
            operator(3, "user", "failed"),
            operator(5, "repair", "done"),
            operator(6, "user", "cancelled"),
        ];
        let asked =
            [("move replica", 1), ("move replica", 2), ("move replica", 3), ("move replica", 4), ("move lead", 6)];
        let endings = endings(&asked, &listed);
        assert_eq!(endings["move replica"].sentence(), "ended 2 of 4: 1 done, 1 failed (n4 is lost), 0 cancelled");
        assert_eq!(endings["move lead"].sentence(), "ended 1 of 1: 0 done, 0 failed, 1 cancelled");
        assert!(endings["move lead"].is_asked_for && !endings["by repair"].is_asked_for);
        assert_eq!(endings["by repair"].done, 1);
        assert_eq!(endings.len(), 3, "an operator is counted once");
    }
}
