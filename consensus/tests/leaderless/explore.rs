//! Every order of steps, breadth first, so that what goes wrong is shown by a shortest trace.

use super::{
    rules::{Limits, Rules},
    state::World,
    steps::Step,
};
use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// What came of it.
pub enum Outcome {
    /// Nothing went wrong in any of so many states, and there are no more.
    Fine(usize),
    /// What went wrong, and how.
    Wrong(String),
    /// There are more states than that.
    TooMany,
}

/// Explores all of it.
pub fn explore(rules: &Rules, limits: &Limits, states_max: usize) -> Outcome {
    let fingerprint = |world: &World| {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        hasher.finish()
    };
    #[expect(clippy::disallowed_types, reason = "only asked whether something is in it: its order is never seen")]
    let mut seen = std::collections::HashSet::from([fingerprint(&World::new())]);
    let mut trace: Vec<(usize, Option<Step>)> = vec![(0, None)];
    let mut queue = VecDeque::from([(0, World::new())]);
    while let Some((number, world)) = queue.pop_front() {
        for (step, next) in world.next(rules, limits) {
            if !seen.insert(fingerprint(&next)) {
                continue;
            }
            trace.push((number, Some(step)));
            if let Some(wrong) = next.wrong(rules) {
                return Outcome::Wrong(format!("{wrong}\n{}\n{next:#?}", told(&trace)));
            }
            if seen.len() > states_max {
                return Outcome::TooMany;
            }
            queue.push_back((trace.len() - 1, next));
        }
    }
    Outcome::Fine(seen.len())
}

/// The steps that led to the last state.
fn told(trace: &[(usize, Option<Step>)]) -> String {
    let (mut at, mut steps) = (trace.len() - 1, Vec::new());
    while let (before, Some(step)) = trace[at] {
        steps.push(format!("{step:?}"));
        at = before;
    }
    steps.reverse();
    steps.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Limits = Limits {
        writes: 2,
        crashes: 0,
        power_cuts: 0,
        wipes: 0,
        replays: 0,
        hand_overs: 0,
        walks: 0,
        losses: 0,
        has_floor: false,
        has_move: false,
        script: None,
        wipeable: 0b1111,
    };

    /// A disk is lost by node 2 while the floor is raised.
    const WIPED: Limits = Limits { wipes: 1, walks: 2, has_floor: true, wipeable: 0b0100, ..NONE };

    const STATES_MAX: usize = 1_500_000;

    /// A rule, and how it is left out.
    type Broken = (&'static str, fn(&mut Rules));

    /// A world: its name, how much may happen in it, and the rules that it needs.
    type Small = (&'static str, Limits, Vec<Broken>);

    /// Small worlds, each with a part of everything.
    fn worlds() -> Vec<Small> {
        [worlds_with_debts(), worlds_with_a_floor(), worlds_that_move()].concat()
    }

    fn worlds_with_debts() -> Vec<Small> {
        vec![
            (
                "owed",
                Limits { crashes: 1, replays: 1, hand_overs: 1, ..NONE },
                vec![
                    ("ties_are_broken", |rules| rules.ties_are_broken = false),
                    ("owed_survives_crashes", |rules| rules.owed_survives_crashes = false),
                    ("replay_merges", |rules| rules.replay_merges = false),
                    ("owed_is_compared", |rules| rules.owed_is_compared = false),
                    ("hands_over_own", |rules| rules.hands_over_own = false),
                ],
            ),
            (
                "wiped",
                Limits { writes: 1, wipes: 1, walks: 2, hand_overs: 1, losses: 1, ..NONE },
                vec![
                    ("hands_over_recorded", |rules| rules.hands_over_recorded = false),
                    ("is_life_compared", |rules| rules.is_life_compared = false),
                    ("rebuilt_from_all", |rules| rules.rebuilt_from_all = false),
                    ("rebuilding_counts_not", |rules| rules.rebuilding_counts_not = false),
                ],
            ),
            (
                "wiped while it replays",
                Limits {
                    wipes: 1,
                    walks: 2,
                    replays: 1,
                    hand_overs: 1,
                    script: Some(&[(0, false), (0, false)]),
                    wipeable: 0b0001,
                    ..NONE
                },
                vec![("answers_are_for_a_life", |rules| rules.answers_are_for_a_life = false)],
            ),
        ]
    }

    fn worlds_with_a_floor() -> Vec<Small> {
        vec![
            (
                "floor and crashes",
                Limits { crashes: 1, has_floor: true, ..NONE },
                vec![
                    ("names_ended", |rules| rules.names_ended = false),
                    ("all_confirm", |rules| rules.all_confirm = false),
                ],
            ),
            (
                "floor and replays",
                Limits { replays: 1, has_floor: true, ..NONE },
                vec![("absent_is_older", |rules| rules.absent_is_older = false)],
            ),
            (
                "floor and power cuts",
                Limits { power_cuts: 1, has_floor: true, ..NONE },
                vec![("promise_holds_for_others", |rules| rules.promise_holds_for_others = false)],
            ),
            ("floor and walks", Limits { walks: 1, has_floor: true, ..NONE }, vec![]),
            ("floor and hand-overs", Limits { hand_overs: 1, has_floor: true, ..NONE }, vec![]),
            (
                "floor, and one is wiped",
                Limits { script: Some(&[(0, false), (0, true)]), ..WIPED },
                vec![("stores_are_for_a_life", |rules| rules.stores_are_for_a_life = false)],
            ),
            (
                "floor, and one that wrote is wiped",
                Limits { script: Some(&[(0, false), (2, true)]), ..WIPED },
                vec![("rebuilt_name_anew", |rules| rules.rebuilt_name_anew = false)],
            ),
        ]
    }

    fn worlds_that_move() -> Vec<Small> {
        vec![
            (
                "moved",
                Limits { writes: 1, walks: 3, has_move: true, ..NONE },
                vec![
                    ("epochs_are_compared", |rules| rules.epochs_are_compared = false),
                    ("newcomer_covers_leaver", |rules| rules.newcomer_covers_leaver = false),
                    ("members_walk", |rules| rules.members_walk = false),
                ],
            ),
            (
                "moved and handed over",
                Limits { writes: 1, walks: 3, hand_overs: 1, has_move: true, script: Some(&[(0, false)]), ..NONE },
                vec![],
            ),
        ]
    }

    #[test]
    fn with_all_rules_nothing_goes_wrong_in_any_order() {
        for (name, limits, _) in worlds() {
            match explore(&Rules::ALL, &limits, STATES_MAX) {
                Outcome::Fine(states) => assert!(states > 10_000, "{name}: only {states} states"),
                Outcome::Wrong(why) => panic!("{name}: {why}"),
                Outcome::TooMany => panic!("{name}: more than {STATES_MAX} states"),
            }
        }
    }

    #[test]
    fn without_any_one_of_the_rules_something_goes_wrong() {
        for (name, limits, broken) in worlds() {
            for (rule, leave_out) in broken {
                let mut rules = Rules::ALL;
                leave_out(&mut rules);
                let outcome = explore(&rules, &limits, STATES_MAX);
                assert!(matches!(outcome, Outcome::Wrong(_)), "{name}: nothing goes wrong without {rule}");
            }
        }
    }
}
