//! # Suspect: is this node's clock to be trusted? (rule T4)
//!
//! ```text
//!   offsets heard in the last 10 s, against this clock, and 0 for this clock itself
//!   sorted:   -10,000   -9,998   0        lower median = -9,998  ─▶  this clock is 9,998 ms ahead: suspect
//! ```
//!
//! Offsets are a guard and nothing else: they are never used to prove how old something is (rule R3).
//!
//! **Invariant.** Pure: values in, a judgement out. Fewer than a majority heard is no judgement: a node that is alone
//! stays free.

use crate::hello::majority;

/// What the clocks of the others say about this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Too few nodes were heard to tell.
    TooFewHeard,
    /// Off by this much (positive: ahead), milliseconds, which is within the limit.
    Trusted(i64),
    /// Off by this much, which is too much.
    Suspect(i64),
}

impl Judgement {
    /// How far this clock is ahead, if that could be told.
    #[must_use]
    pub fn ahead_ms(self) -> Option<i64> {
        match self {
            Judgement::TooFewHeard => None,
            Judgement::Trusted(ahead_ms) | Judgement::Suspect(ahead_ms) => Some(ahead_ms),
        }
    }
}

/// Judges a clock in a cluster of `nodes`, itself included, by the offsets of the others against it.
#[must_use]
pub fn judge(nodes: usize, offsets_ms: &[i64], offset_max_ms: u64) -> Judgement {
    let mut clocks: Vec<i64> = offsets_ms.iter().copied().chain([0]).collect();
    if clocks.len() < majority(nodes) {
        return Judgement::TooFewHeard;
    }
    clocks.sort_unstable();
    let ahead_ms = clocks[(clocks.len() - 1) / 2].saturating_neg();
    if ahead_ms.unsigned_abs() > offset_max_ms { Judgement::Suspect(ahead_ms) } else { Judgement::Trusted(ahead_ms) }
}

/// The sentence for people.
#[must_use]
pub fn sentence(ahead_ms: i64, offset_max_ms: u64) -> String {
    let direction = if ahead_ms > 0 { "ahead of" } else { "behind" };
    format!(
        "clock is {} ms {direction} the other nodes, the limit max_clock_offset is {offset_max_ms} ms: \
         set this machine's clock",
        ahead_ms.unsigned_abs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rule T4.
    #[test]
    fn ten_seconds_ahead_of_two_others_is_suspect() {
        assert_eq!(judge(3, &[-10_000, -9_998], 500), Judgement::Suspect(9_998));
    }

    /// Rule T4.
    #[test]
    fn one_bad_clock_does_not_make_the_good_ones_suspect() {
        assert_eq!(judge(3, &[2, 10_000], 500), Judgement::Trusted(-2));
        assert_eq!(judge(3, &[2, -10_000], 500), Judgement::Trusted(0));
    }

    /// Rule T4.
    #[test]
    fn a_clock_ahead_is_found_by_one_other_when_the_third_is_down() {
        assert_eq!(judge(3, &[-10_000], 500), Judgement::Suspect(10_000));
        assert_eq!(judge(3, &[10_000], 500), Judgement::Trusted(0));
    }

    /// Rule T4.
    #[test]
    fn fewer_than_a_majority_is_no_judgement() {
        assert_eq!(judge(3, &[], 500), Judgement::TooFewHeard);
        assert_eq!(judge(5, &[-10_000], 500), Judgement::TooFewHeard);
        assert_eq!(judge(1, &[], 500), Judgement::Trusted(0));
    }

    #[test]
    fn the_limit_itself_is_trusted() {
        assert_eq!(judge(3, &[-500, -500], 500), Judgement::Trusted(500));
        assert_eq!(judge(3, &[-501, -501], 500), Judgement::Suspect(501));
    }

    proptest! {
        #[test]
        fn no_offsets_make_it_panic(offsets in proptest::collection::vec(any::<i64>(), 0..9)) {
            let _ = judge(5, &offsets, 500);
        }

        #[test]
        fn a_minority_of_bad_clocks_never_moves_a_good_one_out(bad in any::<i64>(), good in -100_i64..100) {
            prop_assert!(matches!(judge(3, &[bad, good], 500), Judgement::Trusted(_)));
        }
    }
}
