//! Every check by its name. A new one is a row here.
//!
//! **Invariant.** A name nobody knows is answered with the nearest ones that exist.

use super::{
    counter, diary, hashes,
    linearizable::{Method, linearizable, register},
    monotonic, receipts,
    report::{Options, Report, Unfit},
    sessions, set, unique_ids, versions,
};
use crate::{
    history::History,
    model::{CounterModel, KvModel, SetModel},
    spelling::distance,
};

/// One check.
pub struct Check {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it judges, for people.
    pub about: &'static str,
    /// Judges.
    pub judge: fn(&History, &Options) -> Result<Report, Unfit>,
}

/// All of them.
pub const REGISTRY: &[Check] = &[
    Check {
        name: "register",
        about: "linearizable: read, write, delete per key; unique values are decided without a search",
        judge: |history, options| register("register", history, Method::Fastest, options),
    },
    Check {
        name: "cas-register",
        about: "linearizable: read, write, delete and cas [from to] per key",
        judge: |history, options| register("cas-register", history, Method::Fastest, options),
    },
    Check {
        name: "kv",
        about: "linearizable: get, put, append on texts per key",
        judge: |history, options| linearizable("kv", &KvModel, history, options),
    },
    Check {
        name: "linearizable-counter",
        about: "linearizable: increment (told the new number or nothing) and read",
        judge: |history, options| linearizable("linearizable-counter", &CounterModel, history, options),
    },
    Check {
        name: "linearizable-set",
        about: "linearizable: add, remove, and read of all elements",
        judge: |history, options| linearizable("linearizable-set", &SetModel, history, options),
    },
    Check { name: "set", about: "add and read of all elements: nothing lost, stale, unexpected", judge: set::check },
    Check { name: "counter", about: "increment and read, by bounds", judge: counter::check },
    Check { name: "unique-ids", about: "generate: no id twice", judge: unique_ids::check },
    Check { name: "monotonic-reads", about: "no client sees a key go back", judge: monotonic::check },
    Check {
        name: "sessions",
        about: "read your writes, monotonic reads and writes, writes follow reads",
        judge: sessions::check,
    },
    Check { name: "diary", about: "read-changes: no gap, versions grow, readers agree", judge: diary::check },
    Check { name: "hashes", about: "hash: replicas at one position have the same", judge: hashes::check },
    Check { name: "versions", about: "versions in receipts name writes and grow with time", judge: versions::check },
    Check { name: "receipts", about: "replies deliver the level and the staleness they claim", judge: receipts::check },
];

/// A name that no check has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no model {name:?}; nearest: {}; all: {}", .nearest.join(", "), names().join(", "))]
pub struct UnknownModel {
    /// What was asked for.
    pub name: String,
    /// What may have been meant.
    pub nearest: Vec<&'static str>,
}

/// The check of a name.
pub fn find(name: &str) -> Result<&'static Check, UnknownModel> {
    REGISTRY.iter().find(|check| check.name == name).ok_or_else(|| {
        let mut nearest = names();
        nearest.sort_by_key(|known| (!(known.contains(name) || name.contains(known)), distance(known, name)));
        nearest.truncate(3);
        UnknownModel { name: name.to_owned(), nearest }
    })
}

/// The check that fits the operations of a history, if they leave no doubt.
#[must_use]
pub fn fitting(history: &History) -> Option<&'static Check> {
    let has = |name: &str| history.operations.iter().any(|operation| operation.name == name);
    let is_list_read =
        history.operations.iter().any(|operation| operation.result.as_list().is_some() && operation.name == "read");
    let name = match () {
        () if history.operations.is_empty() => "register",
        () if has("append") => "kv",
        () if has("generate") => "unique-ids",
        () if has("read-changes") => "diary",
        () if has("hash") => "hashes",
        () if has("remove") => "linearizable-set",
        () if has("add") && is_list_read => "set",
        () if has("add") || has("increment") => "counter",
        () if has("cas") => "cas-register",
        () if has("read") || has("get") || has("write") || has("put") => "register",
        () => return None,
    };
    find(name).ok()
}

fn names() -> Vec<&'static str> {
    REGISTRY.iter().map(|check| check.name).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::history;
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let refused = find("registr").err().unwrap();
        assert_eq!(refused.nearest[0], "register");
        assert!(refused.to_string().starts_with("there is no model \"registr\"; nearest: register"));
        assert!(find("monotonic").err().unwrap().nearest.contains(&"monotonic-reads"));
        assert_eq!(find("kv").map(|check| check.name), Ok("kv"));
    }

    #[test]
    fn names_are_given_once() {
        let mut names = names();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REGISTRY.len());
    }

    #[test]
    fn the_operations_say_which_check_fits() {
        let fits = |lines| fitting(&history(lines)).map(|check| check.name);
        assert_eq!(fits("1-2 c1 read:x - 1\n1-3 c2 write:x 1 ok"), Some("register"));
        assert_eq!(fits("1-2 c1 cas:x [1,2] ok"), Some("cas-register"));
        assert_eq!(fits("1-2 c1 add 1 ok\n3-4 c1 read - [1]"), Some("set"));
        assert_eq!(fits("1-2 c1 add 1 ok\n3-4 c1 read - 1"), Some("counter"));
        assert_eq!(fits("1-2 c1 txn [] ok"), None);
    }
}
