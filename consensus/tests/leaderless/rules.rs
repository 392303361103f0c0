//! The rules of leaderless replication, each of which can be left out: then something must go wrong.

use super::state::Set;

/// What the replicas keep to. [`Rules::ALL`] is the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Of two writes with one stamp the actor decides.
    pub ties_are_broken: bool,
    /// What is owed is as durable as the write itself.
    pub owed_survives_crashes: bool,
    /// Replay merges: what is newer stays.
    pub replay_merges: bool,
    /// A key is owed no more only if it was not written again meanwhile.
    pub owed_is_compared: bool,
    /// Having drained what it owes, a replica hands over the dots of its own actors, and no others: of what others
    /// coordinated it owes nobody anything, and knows nothing.
    pub hands_over_own: bool,
    /// ... and only of those actors of which it has the whole record of what they owe: not of those before it was
    /// wiped.
    pub hands_over_recorded: bool,
    /// Hand-overs and walks are for the life of the node that they were sent to.
    pub is_life_compared: bool,
    /// Stores and replays, too.
    pub stores_are_for_a_life: bool,
    /// Answers to replays are for the life of the node that sent them.
    pub answers_are_for_a_life: bool,
    /// From its promise on a replica takes nothing from a coordinator that is at or below it (F3).
    pub promise_holds_for_others: bool,
    /// Whoever promises also names what it has of actors that have ended (F1).
    pub names_ended: bool,
    /// Whoever has lost what it had names anew: a promise that comes with a walk names nothing.
    pub rebuilt_name_anew: bool,
    /// The floor is raised once all have confirmed.
    pub all_confirm: bool,
    /// An entry at or below the floor of a key that is not there is not taken.
    pub absent_is_older: bool,
    /// Whoever was wiped exchanges with every other replica before it counts (F2, W1), not with one.
    pub rebuilt_from_all: bool,
    /// Whoever is being rebuilt counts for nothing.
    pub rebuilding_counts_not: bool,
    /// A replica counts for its own epoch only.
    pub epochs_are_compared: bool,
    /// A change of the replicas is finished once the newcomer covers what the one that goes had when it stopped (M1).
    pub newcomer_covers_leaver: bool,
    /// ... and a newcomer is told what a replica has only once that one knows of it: the one that goes coordinates
    /// nothing from then on, and the others owe the newcomer what they write.
    pub members_walk: bool,
}

impl Rules {
    pub const ALL: Rules = Rules {
        ties_are_broken: true,
        owed_survives_crashes: true,
        replay_merges: true,
        owed_is_compared: true,
        hands_over_own: true,
        hands_over_recorded: true,
        is_life_compared: true,
        stores_are_for_a_life: true,
        answers_are_for_a_life: true,
        promise_holds_for_others: true,
        names_ended: true,
        rebuilt_name_anew: true,
        all_confirm: true,
        absent_is_older: true,
        rebuilt_from_all: true,
        rebuilding_counts_not: true,
        epochs_are_compared: true,
        newcomer_covers_leaver: true,
        members_walk: true,
    };
}

/// How much may happen in a world: what makes the exploration end.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub writes: usize,
    pub crashes: u8,
    pub power_cuts: u8,
    pub wipes: u8,
    pub replays: u8,
    pub hand_overs: u8,
    pub walks: u8,
    pub losses: u8,
    pub has_floor: bool,
    pub has_move: bool,
    /// Who coordinates the writes, one after the other, and whether each is a tombstone; none = anybody, either.
    pub script: Option<&'static [(usize, bool)]>,
    /// Who may lose its disk.
    pub wipeable: Set,
}
