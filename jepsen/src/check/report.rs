//! What a check says.
//!
//! **Invariant.** A violation outweighs everything; what a limit left open is unknown, never ok; ok needs evidence.

use super::coverage::Coverage;
use std::{fmt, time::Duration};

/// The answer to "was the promise kept?".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Every answer is explained.
    Ok,
    /// Nothing was asked that could have been answered wrongly.
    Vacuous,
    /// A limit was reached before there was an answer.
    Unknown,
    /// Proven broken.
    Violation,
}

impl Verdict {
    /// One word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Violation => "violation",
            Verdict::Unknown => "unknown",
            Verdict::Vacuous => "vacuous",
        }
    }

    /// What a program ends with; 2 is kept for histories and options that cannot be read.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Verdict::Ok => 0,
            Verdict::Violation => 1,
            Verdict::Unknown => 3,
            Verdict::Vacuous => 4,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Limits of a check. Beyond one the verdict is unknown.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For what searches remember, all together.
    pub memory_bytes_max: u64,
    /// For the whole check; `None` = as long as it takes.
    pub time_max: Option<Duration>,
    /// How many keys are searched at once.
    pub threads: usize,
    /// Situations to try for making a violation short, after it was found. Fewer say the same at greater length.
    pub explaining_tries_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Options { memory_bytes_max: 1 << 30, time_max: None, threads: threads.min(8), explaining_tries_max: 500_000 }
    }
}

/// The part an operation plays in a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It ended as told, and this cannot be.
    Fact,
    /// It began, and even if it ended at any later time or never, this cannot be.
    Source,
}

/// One operation of a finding.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its place among the operations of the history.
    pub operation: usize,
    /// Its part.
    pub role: Role,
    /// What the object may hold right after it.
    pub states: Vec<String>,
}

/// One broken promise.
#[derive(Clone, Debug, Default)]
pub struct Finding {
    /// On which key, if on one.
    pub key: Option<String>,
    /// What is wrong, in one sentence.
    pub what: String,
    /// What the object held before the rows, if a search says so.
    pub before: Vec<String>,
    /// The operations that show it, no more than needed, by invocation.
    pub rows: Vec<Row>,
    /// Why there is no way out.
    pub because: Vec<String>,
}

impl Finding {
    /// A finding that single operations prove.
    #[must_use]
    pub fn new(key: Option<&str>, what: String, operations: &[usize]) -> Self {
        let row = |operation: &usize| Row { operation: *operation, role: Role::Fact, states: Vec::new() };
        let mut rows: Vec<Row> = operations.iter().map(row).collect();
        rows.sort_by_key(|row| row.operation);
        rows.dedup_by_key(|row| row.operation);
        Finding { key: key.map(str::to_owned), what, rows, ..Finding::default() }
    }
}

/// Why a history cannot be judged by a model: an operation it does not have, or a value it cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

impl From<String> for Unfit {
    fn from(reason: String) -> Self {
        Unfit(reason)
    }
}

/// What a check says.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which check.
    pub model: String,
    /// The answer.
    pub verdict: Verdict,
    /// Why it is not ok, one sentence each.
    pub reasons: Vec<String>,
    /// What was there to judge.
    pub coverage: Coverage,
    /// Every broken promise that was found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Weighs findings, limits and evidence.
    #[must_use]
    pub fn weigh(model: &str, coverage: Coverage, findings: Vec<Finding>, limits: Vec<String>) -> Self {
        let vacuous = coverage.vacuous();
        let (verdict, reasons) = if !findings.is_empty() {
            (Verdict::Violation, findings.iter().map(|finding| finding.what.clone()).collect())
        } else if !limits.is_empty() {
            (Verdict::Unknown, limits)
        } else if !vacuous.is_empty() {
            (Verdict::Vacuous, vacuous)
        } else {
            (Verdict::Ok, Vec::new())
        };
        Report { model: model.to_owned(), verdict, reasons, coverage, findings }
    }
}
