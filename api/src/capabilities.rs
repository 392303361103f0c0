//! What each mode offers: one table, which the doors enforce, `kvctl keyspace capabilities` prints and the client's
//! types follow.
//!
//! **Invariant.** What the table says is refused is refused by name, never ignored; what it offers is served.

use crate::level::{Mode, ReadLevel};
use std::time::Duration;

/// What a mode makes of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It does it unless told otherwise.
    Default,
    /// It does it.
    Yes,
    /// It always does it: there is nothing to choose.
    Always,
    /// It never will: the mode cannot keep such a promise.
    Refused,
    /// It belongs to the mode, and this build does not have it.
    NotInThisBuild,
}

/// One row: a feature, and what each mode makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its name, for people and programs.
    pub feature: &'static str,
    /// In a CP keyspace.
    pub cp: Offer,
    /// In an AP keyspace.
    pub ap: Offer,
}

impl Offer {
    /// The words for the wire and for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Offer::Default => "default",
            Offer::Yes => "yes",
            Offer::Always => "always",
            Offer::Refused => "refused",
            Offer::NotInThisBuild => "not in this build",
        }
    }

    /// Whether a request for it is served.
    #[must_use]
    pub const fn is_served(self) -> bool {
        matches!(self, Offer::Default | Offer::Yes | Offer::Always)
    }
}

impl Capability {
    const fn of(feature: &'static str, cp: Offer, ap: Offer) -> Self {
        Capability { feature, cp, ap }
    }

    /// What a mode makes of it.
    #[must_use]
    pub const fn offer(&self, mode: Mode) -> Offer {
        match mode {
            Mode::Cp => self.cp,
            Mode::Ap => self.ap,
        }
    }
}

/// Modes × features.
pub const CAPABILITIES: &[Capability] = {
    use Offer::{Always, Default, NotInThisBuild as Later, Refused, Yes};
    &[
        Capability::of("keyspaces of this mode", Yes, Later),
        Capability::of("read level linearizable", Default, Refused),
        Capability::of("read level session", Yes, Later),
        Capability::of("read level bounded", Yes, Later),
        Capability::of("read level local", Yes, Refused),
        Capability::of("read level one", Refused, Later),
        Capability::of("read level quorum", Refused, Later),
        Capability::of("read level all", Refused, Later),
        Capability::of("write acknowledgement majority", Always, Refused),
        Capability::of("write acknowledgement one", Refused, Later),
        Capability::of("write acknowledgement quorum", Refused, Later),
        Capability::of("write acknowledgement local_quorum", Refused, Later),
        Capability::of("write acknowledgement all", Refused, Later),
        Capability::of("conditions and compare-and-set", Yes, Refused),
        Capability::of("increments", Yes, Refused),
        Capability::of("atomic batches within a shard", Yes, Refused),
        Capability::of("lease reads", Yes, Refused),
        Capability::of("transactions across shards", Later, Refused),
        Capability::of("siblings, counters and sets (CRDT)", Refused, Later),
        Capability::of("time to live", Yes, Later),
        Capability::of("scan", Yes, Later),
        Capability::of("change streams", Later, Later),
        Capability::of("caches", Later, Later),
        Capability::of("aggregates", Later, Later),
        Capability::of("durability synced", Always, Later),
        Capability::of("durability interval (write-behind)", Refused, Later),
    ]
};

/// One level of each kind, in the order of the table; the bound is an example.
pub const LEVELS: &[ReadLevel] = &[
    ReadLevel::Linearizable,
    ReadLevel::Session,
    ReadLevel::Bounded(Duration::from_millis(200)),
    ReadLevel::Local,
    ReadLevel::One,
    ReadLevel::Quorum,
    ReadLevel::All,
];

/// What a mode makes of a feature, by its name.
///
/// # Panics
/// If there is no feature of that name.
#[must_use]
pub fn offer(feature: &str, mode: Mode) -> Offer {
    let row = CAPABILITIES.iter().find(|row| row.feature == feature);
    row.unwrap_or_else(|| panic!("the table has no feature {feature:?}")).offer(mode)
}

/// What a mode makes of a read level.
#[must_use]
pub fn offer_of_level(level: ReadLevel, mode: Mode) -> Offer {
    offer(
        match level {
            ReadLevel::Linearizable => "read level linearizable",
            ReadLevel::Session => "read level session",
            ReadLevel::Bounded(_) => "read level bounded",
            ReadLevel::Local => "read level local",
            ReadLevel::One => "read level one",
            ReadLevel::Quorum => "read level quorum",
            ReadLevel::All => "read level all",
        },
        mode,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_for_people_name_exactly_the_levels_of_a_mode() {
        for mode in [Mode::Cp, Mode::Ap] {
            for level in LEVELS {
                let is_named = mode.levels().contains(level.as_str());
                assert_eq!(is_named, offer_of_level(*level, mode) != Offer::Refused, "{mode} {level}");
            }
        }
    }

    #[test]
    fn every_feature_has_one_row() {
        for (place, row) in CAPABILITIES.iter().enumerate() {
            assert!(CAPABILITIES[place + 1..].iter().all(|other| other.feature != row.feature), "{}", row.feature);
        }
        assert_eq!(offer("increments", Mode::Cp), Offer::Yes);
    }
}
