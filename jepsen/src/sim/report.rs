//! Report: how one run went, in a few lines.
//!
//! **Invariant.** Whoever reads the lines can tell what the run has shown, and what it has not.

use super::audit::TraceHash;
use crate::history::Record;
use std::{fmt, time::Duration};

/// How one run went.
#[derive(Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The hash of everything that happened.
    pub trace: TraceHash,
    /// What must not be; empty = the run passed.
    pub violations: Vec<String>,
    /// Operations with an outcome that is known.
    pub decided: usize,
    /// Operations whose outcome is unknown for ever.
    pub unknown: usize,
    /// Changes that readers of diaries were handed.
    pub changes: usize,
    /// How often one of them took the whole map.
    pub resyncs: usize,
    /// Losses of power.
    pub crashes: usize,
    /// Groups that were seen to close.
    pub closings: usize,
    /// Closed groups that were seen to open.
    pub openings: usize,
    /// What the seed drew.
    pub drawn: String,
    /// What clients asked and were told, by file.
    pub histories: Vec<(&'static str, Vec<Record>)>,
    /// How long it lasted, simulated.
    pub simulated: Duration,
    /// How long that took.
    pub took: Duration,
    /// The newest events, for whoever must understand a violation.
    pub newest: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.violations.is_empty() { "ok" } else { "VIOLATION" };
        let Report { seed, decided, unknown, crashes, closings, openings, trace, drawn, .. } = self;
        write!(f, "seed {seed}: {decided} decided, {unknown} unknown, {} changes read", self.changes)?;
        write!(f, ", {} resyncs, {crashes} crashes, {closings} groups closed and {openings} opened", self.resyncs)?;
        let (simulated, took) = (self.simulated.as_secs(), self.took.as_millis());
        write!(f, ", {simulated} s in {took} ms, trace {trace}: {verdict}\n  drawn: {drawn}")?;
        if self.decided == 0 {
            write!(f, "\n  vacuous: no operation of a client was decided")?;
        }
        if self.changes == 0 {
            write!(f, "\n  diary: vacuous: no change was read, so nothing is shown of diaries")?;
        }
        self.violations.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::audit::Audit;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_run_that_shows_nothing_says_so() {
        let report = |decided, changes| Report {
            seed: 1,
            trace: Audit::new(false).hash(),
            violations: Vec::new(),
            decided,
            unknown: 0,
            changes,
            resyncs: 0,
            crashes: 0,
            closings: 0,
            openings: 0,
            drawn: "3 nodes".to_owned(),
            histories: Vec::new(),
            simulated: Duration::ZERO,
            took: Duration::ZERO,
            newest: Vec::new(),
        };
        assert!(!report(1, 1).to_string().contains("vacuous"));
        assert!(report(1, 0).to_string().contains("diary: vacuous"));
        assert!(report(0, 1).to_string().contains("no operation of a client"));
    }
}
