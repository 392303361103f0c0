//! Planted bugs: what the harness must convict, or it shows nothing.
//!
//! ```text
//!   features bug-* ─▶ which are compiled in ─▶ KVORUM_PLANTED=a,b: which of them act ─▶ planted!("bug-a") at its site
//! ```
//!
//! A build with one bug acts on it. A build with many (feature `bugs` of `jepsen` and `server`) is told which one, so
//! that one build shows them all. Unset, the variable means all that are compiled in; empty, none of them.
//!
//! **Invariant.** A build without these features has nothing of them: the condition at each site is the constant
//! `false`. A name that is not compiled in is refused.
//!
//! **Deliberately absent.** What each bug is: that is said where the harness lists them, in `jepsen`.

use std::sync::LazyLock;
use thiserror::Error;

/// The environment variable that chooses among the bugs that are compiled in.
pub const VARIABLE: &str = "KVORUM_PLANTED";

/// The bugs of this build, by name, without the prefix of their features.
pub const COMPILED_IN: &[&str] = &[
    #[cfg(feature = "bug-ack-before-durable")]
    "ack-before-durable",
    #[cfg(feature = "bug-vote-not-kept")]
    "vote-not-kept",
    #[cfg(feature = "bug-vote-recycled")]
    "vote-recycled",
    #[cfg(feature = "bug-open-restores-always")]
    "open-restores-always",
    #[cfg(feature = "bug-former-instance")]
    "former-instance",
    #[cfg(feature = "bug-engine-ahead")]
    "engine-ahead",
    #[cfg(feature = "bug-purge-past-flushed")]
    "purge-past-flushed",
    #[cfg(feature = "bug-position-outside-batch")]
    "position-outside-batch",
    #[cfg(feature = "bug-install-not-atomic")]
    "install-not-atomic",
    #[cfg(feature = "bug-snapshot-one-off")]
    "snapshot-one-off",
    #[cfg(feature = "bug-rot-is-cut")]
    "rot-is-cut",
    #[cfg(feature = "bug-reads-unconfirmed")]
    "reads-unconfirmed",
    #[cfg(feature = "bug-lease-too-long")]
    "lease-too-long",
    #[cfg(feature = "bug-session-not-awaited")]
    "session-not-awaited",
    #[cfg(feature = "bug-request-ids-ignored")]
    "request-ids-ignored",
    #[cfg(feature = "bug-retry-applied-twice")]
    "retry-applied-twice",
    #[cfg(feature = "bug-stale-swap")]
    "stale-swap",
    #[cfg(feature = "bug-replica-id-reused")]
    "replica-id-reused",
    #[cfg(feature = "bug-learner-counted")]
    "learner-counted",
    #[cfg(feature = "bug-joint-left-open")]
    "joint-left-open",
    #[cfg(feature = "bug-dropped-too-early")]
    "dropped-too-early",
];

/// What the variable says, read once.
static ACTING: LazyLock<Result<Vec<&'static str>, UnknownBug>> = LazyLock::new(|| {
    let named = std::env::var_os(VARIABLE);
    choose(named.map(|named| named.to_string_lossy().into_owned()).as_deref(), COMPILED_IN)
});

/// A bug was asked for that this build does not have.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{VARIABLE} names {name:?}, which is not compiled in; {}", there(.compiled_in))]
pub struct UnknownBug {
    /// As it was asked for.
    pub name: String,
    /// What might have been asked for.
    pub compiled_in: Vec<&'static str>,
}

/// Whether a planted bug acts here: a constant `false` unless its feature is on in the crate of the site.
#[macro_export]
macro_rules! planted {
    ($bug:literal) => {
        cfg!(feature = $bug) && $crate::planted::is_chosen($bug)
    };
}

/// The bugs that act in this process. Programs ask before they begin, so that a wrong name is refused.
///
/// # Errors
/// One is named that is not compiled in.
pub fn acting() -> Result<&'static [&'static str], UnknownBug> {
    ACTING.as_ref().map(Vec::as_slice).map_err(UnknownBug::clone)
}

/// Whether the bug of this feature acts.
///
/// # Panics
/// If the variable names a bug that is not compiled in: a bug that quietly does nothing would be taken for one that
/// nobody can find.
#[must_use]
pub fn is_chosen(feature: &str) -> bool {
    match acting() {
        Ok(acting) => acting.contains(&without_prefix(feature)),
        Err(unknown) => panic!("{unknown}"),
    }
}

/// Which bugs act. `named`: what the variable says, separated by commas; `compiled_in`: what there is.
///
/// # Errors
/// One is named that is not compiled in.
pub fn choose(named: Option<&str>, compiled_in: &[&'static str]) -> Result<Vec<&'static str>, UnknownBug> {
    let Some(named) = named else { return Ok(compiled_in.to_vec()) };
    let names = named.split(',').map(str::trim).filter(|name| !name.is_empty());
    let find = |name: &str| {
        let found = compiled_in.iter().copied().find(|there| *there == without_prefix(name));
        found.ok_or_else(|| UnknownBug { name: name.to_owned(), compiled_in: compiled_in.to_vec() })
    };
    names.map(find).collect()
}

/// The name of a bug, from that of its feature or its own.
fn without_prefix(name: &str) -> &str {
    name.strip_prefix("bug-").unwrap_or(name)
}

fn there(compiled_in: &[&str]) -> String {
    match compiled_in {
        [] => "no bug is: build with the feature `bugs`".to_owned(),
        bugs => format!("there are: {}", bugs.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: &[&str] = &["stale-swap", "rot-is-cut"];

    #[test]
    fn unset_means_all_and_empty_means_none() {
        assert_eq!(choose(None, THERE).unwrap(), THERE);
        assert_eq!(choose(Some(""), THERE).unwrap(), [""; 0]);
    }

    #[test]
    fn bugs_are_named_with_or_without_the_prefix_of_their_feature() {
        assert_eq!(choose(Some("rot-is-cut"), THERE).unwrap(), ["rot-is-cut"]);
        assert_eq!(choose(Some("bug-rot-is-cut, stale-swap"), THERE).unwrap(), ["rot-is-cut", "stale-swap"]);
    }

    #[test]
    fn a_bug_that_is_not_compiled_in_is_refused_with_those_that_are() {
        let refused = choose(Some("stale-swap,worse"), THERE).unwrap_err().to_string();
        assert!(refused.contains("\"worse\"") && refused.contains("there are: stale-swap, rot-is-cut"), "{refused}");
        let refused = choose(Some("stale-swap"), &[]).unwrap_err().to_string();
        assert!(refused.contains("build with the feature `bugs`"), "{refused}");
    }
}
