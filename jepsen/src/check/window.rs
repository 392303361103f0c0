//! A finding as text: the operations that show it, as bars over time.
//!
//! ```text
//!   no order explains 3 of the 12 operations on x
//!     before them: nil
//!       #3 client 1  ├──────┤             write 1 on x → ok         leaves 1
//! ```
//!
//! **Invariant.** Every operation is named by its number, its client and the line that invoked it.

use super::report::{Finding, Role, Row};
use crate::history::{History, Operation};
use std::fmt::Write;

/// Columns for the bars.
const COLUMNS: usize = 40;

/// The finding, several lines.
#[must_use]
pub fn window(history: &History, finding: &Finding) -> String {
    let mut text = format!("{}\n", finding.what);
    if !finding.before.is_empty() {
        let _ = writeln!(text, "  before them: {}", finding.before.join(" or "));
    }
    let scale = Scale::of(history, &finding.rows);
    for row in &finding.rows {
        let _ = writeln!(text, "{}", line(&history.operations[row.operation], row, &scale));
    }
    for because in &finding.because {
        let _ = writeln!(text, "  {because}");
    }
    text
}

fn line(operation: &Operation, row: &Row, scale: &Scale) -> String {
    let end_ns = if row.role == Role::Fact { operation.ended_ns } else { None };
    let bar = scale.bar(operation.invoked_ns, end_ns);
    let states = match row.states.as_slice() {
        [] => String::new(),
        states => format!("   leaves {}", states.join(" or ")),
    };
    let doubt = if row.role == Role::Source { "   (whenever it happened, if it did)" } else { "" };
    let (id, process, at) = (operation.id, operation.process, operation.line);
    format!("  {:>6} client {process:<4} line {at:<6} {bar} {operation}{states}{doubt}", format!("#{id}"))
}

/// Events at equal distances: a pause of a minute must not flatten what happened in a microsecond.
struct Scale {
    events_ns: Vec<u64>,
}

impl Scale {
    fn of(history: &History, rows: &[Row]) -> Self {
        let mut events_ns: Vec<u64> = Vec::new();
        for row in rows {
            let operation = &history.operations[row.operation];
            events_ns.push(operation.invoked_ns);
            if row.role == Role::Fact {
                events_ns.extend(operation.ended_ns);
            }
        }
        events_ns.sort_unstable();
        events_ns.dedup();
        Scale { events_ns }
    }

    fn column(&self, time_ns: u64) -> usize {
        let place = self.events_ns.partition_point(|event_ns| *event_ns < time_ns);
        place * (COLUMNS - 1) / self.events_ns.len().saturating_sub(1).max(1)
    }

    fn bar(&self, from_ns: u64, until_ns: Option<u64>) -> String {
        let from = self.column(from_ns);
        let until = until_ns.map_or(COLUMNS - 1, |until_ns| self.column(until_ns));
        let letter = |column: usize| match column {
            _ if column < from || column > until => ' ',
            _ if column == from => '├',
            _ if column == until => {
                if until_ns.is_some() {
                    '┤'
                } else {
                    '…'
                }
            }
            _ => '─',
        };
        (0..COLUMNS).map(letter).collect()
    }
}
