//! Table: a row for each planted bug.
//!
//! **Invariant.** A range in which a bug was not found counts as more runs than it has seeds.

use super::catalogue::Bug;
use std::{fmt, ops::RangeInclusive, time::Duration};

/// Letters of a verdict that are shown in a row.
const VERDICT_LETTERS_MAX: usize = 110;

/// One bug in one range of seeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hunted {
    /// Which seeds were to be run.
    pub range: RangeInclusive<u64>,
    /// The first one that found it, and the line that says by what.
    pub found: Option<(u64, String)>,
    /// How long all runs took together.
    pub took: Duration,
    /// Seeds that fail although no bug acts.
    pub failing_without: Vec<u64>,
}

impl Hunted {
    /// Runs until it was found, that one included.
    #[must_use]
    pub fn runs(&self) -> Option<u64> {
        self.found.as_ref().map(|(seed, _)| seed - self.range.start() + 1)
    }
}

/// One bug in all ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The bug.
    pub bug: Bug,
    /// What came of it, range by range.
    pub hunted: Vec<Hunted>,
}

impl Row {
    /// Found in more than half of the ranges.
    #[must_use]
    pub fn is_found(&self) -> bool {
        let found = self.hunted.iter().filter(|hunted| hunted.found.is_some()).count();
        2 * found > self.hunted.len()
    }

    /// The median of the runs it took; `None` = it was mostly not found. Of an even number of ranges the greater of
    /// the two in the middle.
    #[must_use]
    pub fn median_runs(&self) -> Option<u64> {
        let mut runs: Vec<u64> = self.hunted.iter().map(|hunted| hunted.runs().unwrap_or(u64::MAX)).collect();
        runs.sort_unstable();
        runs.get(runs.len() / 2).copied().filter(|median| *median != u64::MAX)
    }

    /// By what it was found in the range whose runs are the median, or in the first range where it was.
    fn by_what(&self) -> &str {
        let is_median = |hunted: &&Hunted| hunted.runs().is_some() && hunted.runs() == self.median_runs();
        let found = self.hunted.iter().find(is_median).or_else(|| self.hunted.iter().find(|one| one.found.is_some()));
        found.and_then(|hunted| hunted.found.as_ref()).map_or("", |(_, by)| by)
    }
}

/// The head of the table; each [`Row`] shows itself as a line of it.
pub const HEAD: &str = "\
| bug | what is wrong | found by seeds | runs, median | seconds | by what |
|---|---|---|---|---|---|";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seeds = self.hunted.iter().map(|hunted| match &hunted.found {
            Some((seed, _)) => seed.to_string(),
            None => format!("none of {} to {}", hunted.range.start(), hunted.range.end()),
        });
        let seeds: Vec<String> = seeds.collect();
        let median = self.median_runs().map_or("not found".to_owned(), |median| median.to_string());
        let took: Duration = self.hunted.iter().map(|hunted| hunted.took).sum();
        let Bug { name, what } = self.bug;
        let by = shortened(self.by_what());
        write!(f, "| `{name}` | {what} | {} | {median} | {} | {by} |", seeds.join(", "), took.as_secs())
    }
}

/// On one line, and in one cell of a table.
#[must_use]
pub fn shortened(verdict: &str) -> String {
    let kept: String = verdict.chars().take(VERDICT_LETTERS_MAX).collect();
    let cut = if kept.len() < verdict.len() { "…" } else { "" };
    format!("{}{cut}", kept.replace('|', "¦"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hunted(first: u64, found: Option<u64>) -> Hunted {
        let found = found.map(|seed| (seed, format!("two leaders | of seed {seed}")));
        Hunted { range: first..=first + 199, found, took: Duration::from_secs(2), failing_without: Vec::new() }
    }

    fn row(found: [Option<u64>; 3]) -> Row {
        let bug = Bug { name: "worse", what: "everything" };
        let hunted = [1, 1001, 2001].into_iter().zip(found).map(|(first, found)| hunted(first, found));
        Row { bug, hunted: hunted.collect() }
    }

    #[test]
    fn a_bug_is_found_if_most_ranges_find_it() {
        assert!(row([Some(1), Some(1001), Some(2001)]).is_found());
        assert!(row([Some(1), None, Some(2001)]).is_found());
        assert!(!row([Some(1), None, None]).is_found());
        let one = Row { hunted: vec![hunted(1, None)], ..row([None; 3]) };
        assert!(!one.is_found());
    }

    #[test]
    fn the_median_counts_runs_and_a_range_without_counts_as_more() {
        assert_eq!(row([Some(9), Some(1004), Some(2012)]).median_runs(), Some(9));
        assert_eq!(row([Some(9), None, Some(2012)]).median_runs(), Some(12));
        assert_eq!(row([Some(9), None, None]).median_runs(), None);
    }

    #[test]
    fn a_row_is_a_line_of_the_table() {
        let text = row([Some(9), None, Some(2012)]).to_string();
        let expected = "| `worse` | everything | 9, none of 1001 to 1200, 2012 | 12 | 6 | two leaders ¦ of seed 2012 |";
        assert_eq!(text, expected);
        assert_eq!(row([None; 3]).to_string().matches('|').count(), 7);
    }
}
