//! Gather: how long something that could go waits for company. Counted in turns of the scheduler, not in time.
//!
//! ```text
//!   1 waits ─▶ a turn for everybody else ─▶ 3 wait ─▶ a turn ─▶ 3 wait ─▶ … ─▶ they go together
//! ```
//!
//! A turn lets everything that is ready to run do so. On an idle node it costs about a microsecond, on a busy one as
//! long as the others have work: whatever shares a message, a log entry or a system call is worth more the busier a
//! node is, and the wait grows by itself.
//!
//! **Invariant.** Who has been alone for a while waits one turn. Nobody waits for more than [`TURNS_MAX`].

/// Turns without company after which those who may expect some go.
const QUIET_TURNS: usize = 8;

/// How many go alone before nobody is expected any more.
const ALONE_MAX: usize = 8;

/// Turns after which it goes in any case.
pub const TURNS_MAX: usize = 16;

/// One place where things gather.
#[derive(Debug, Default)]
pub struct Gather {
    seen: usize,
    turns: usize,
    quiet_turns: usize,
    /// How many may still go alone before nobody is expected.
    expecting: usize,
}

impl Gather {
    /// Whether to give everybody else a turn, with `ready` things that could go.
    pub fn waits(&mut self, ready: usize) -> bool {
        if ready == 0 {
            return false;
        }
        let has_grown = ready > self.seen;
        self.quiet_turns = if has_grown { 0 } else { self.quiet_turns + 1 };
        self.seen = self.seen.max(ready);
        self.turns += 1;
        let quiet_max = if self.expecting > 0 || self.seen > 1 { QUIET_TURNS } else { 0 };
        self.turns <= TURNS_MAX && (has_grown || self.quiet_turns <= quiet_max)
    }

    /// They went, `gone` at once.
    pub fn went(&mut self, gone: usize) {
        let expecting = if gone > 1 { ALONE_MAX } else { self.expecting.saturating_sub(1) };
        *self = Gather { expecting, ..Gather::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns given until it goes, if so many are ready at the first, second, … look, and then no more.
    fn turns(gather: &mut Gather, ready: &[usize]) -> usize {
        let last = *ready.last().unwrap();
        let turns =
            ready.iter().copied().chain(std::iter::repeat(last)).take_while(|ready| gather.waits(*ready)).count();
        gather.went(last);
        turns
    }

    #[test]
    fn who_is_alone_waits_one_turn() {
        let mut gather = Gather::default();
        for _ in 0..3 {
            assert_eq!(turns(&mut gather, &[1]), 1);
        }
    }

    #[test]
    fn company_is_waited_for_while_it_comes_and_a_little_longer() {
        let mut gather = Gather::default();
        assert_eq!(turns(&mut gather, &[1, 2, 3]), 3 + QUIET_TURNS);
        for _ in 0..ALONE_MAX {
            assert_eq!(turns(&mut gather, &[1]), 1 + QUIET_TURNS, "there were several a while ago");
        }
        assert_eq!(turns(&mut gather, &[1]), 1, "there is only one");
    }

    #[test]
    fn a_crowd_that_never_ends_goes_all_the_same() {
        let mut gather = Gather::default();
        let mut ready = 0;
        let turns = std::iter::repeat_with(|| (ready += 1, ready).1).take_while(|ready| gather.waits(*ready)).count();
        assert_eq!(turns, TURNS_MAX);
    }

    #[test]
    fn nothing_waits_for_nothing() {
        assert!(!Gather::default().waits(0));
    }
}
