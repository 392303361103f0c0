//! A finding as a page of its own: lanes per client, faults shaded, and under the pointer what each operation said.
//!
//! ```text
//!   client 1   ▐ write 1 ▌      ▐ read → 1 ▌          red: shows the violation
//!   client 2        ▐ write 2 ▌                       orange: a write that may have happened at any time since
//!   partition  ░░░░░░░░░░░░                           grey: around it on the same key
//! ```
//!
//! **Invariant.** One file, no scripts, nothing loaded from elsewhere; every text of the history is escaped.

use super::report::{Finding, Report, Role, Row};
use crate::history::{Fault, History, Operation};
use std::{collections::BTreeMap, fmt::Write};

const LANE_HEIGHT: usize = 34;
const LEFT: usize = 110;
const WIDTH: usize = 1180;

/// Operations drawn around a finding.
const AROUND_MAX: usize = 300;

/// Findings drawn; the page says how many there are.
const FINDINGS_MAX: usize = 20;

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2rem;max-width:1320px;color:#1c1c1c}\
 svg{border:1px solid #ddd;background:#fff}pre{background:#f6f6f6;padding:1rem;overflow:auto}\
 .fact{fill:#e5484d}.source{fill:#f5a623}.ok{fill:#c9d3dc}.unknown{fill:#e3d9c0}.fail{fill:#eee}\
 .fault{fill:#7c3aed;opacity:.13}.lane{stroke:#eee}rect:hover{stroke:#000;stroke-width:1.5}\
 text{font-size:11px;pointer-events:none}.ok-verdict{color:#1a7f37}.violation-verdict{color:#cf222e}";

/// The page.
#[must_use]
pub fn timeline(title: &str, history: &History, reports: &[Report]) -> String {
    let mut page = String::new();
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style></head>\
         <body>\n<h1>{0}</h1>\n<p>{1} operations of {2} clients, {3} faults.</p>\n",
        escape(title),
        history.operations.len(),
        clients(history.operations.iter()).len(),
        history.faults.len(),
    );
    for report in reports {
        let (model, verdict) = (escape(&report.model), report.verdict);
        let _ = writeln!(page, "<h2>{model}: <span class=\"{verdict}-verdict\">{verdict}</span></h2>");
        for reason in report.reasons.iter().filter(|_| report.findings.is_empty()) {
            let _ = writeln!(page, "<p>{}</p>", escape(reason));
        }
        for finding in report.findings.iter().take(FINDINGS_MAX) {
            draw(&mut page, history, finding);
        }
        if report.findings.len() > FINDINGS_MAX {
            let _ = writeln!(page, "<p>{} more findings.</p>", report.findings.len() - FINDINGS_MAX);
        }
    }
    page.push_str("</body></html>\n");
    page
}

fn draw(page: &mut String, history: &History, finding: &Finding) {
    let rows: BTreeMap<usize, &Row> = finding.rows.iter().map(|row| (row.operation, row)).collect();
    let shown = around(history, finding, &rows);
    let axis = Axis::of(history, &shown, &rows);
    let lanes = clients(shown.iter().copied());
    let height = LANE_HEIGHT * (lanes.len() + 1);
    let _ = writeln!(page, "<h3>{}</h3>", escape(&finding.what));
    let _ = writeln!(page, "<svg width=\"{}\" height=\"{height}\" role=\"img\">", LEFT + WIDTH + 10);
    for fault in &history.faults {
        draw_fault(page, fault, history.end_ns, &axis, height);
    }
    for (lane, client) in lanes.iter().enumerate() {
        let y = LANE_HEIGHT * (lane + 1);
        let _ = writeln!(page, "<line class=\"lane\" x1=\"0\" x2=\"{0}\" y1=\"{y}\" y2=\"{y}\"/>", LEFT + WIDTH);
        let _ = writeln!(page, "<text x=\"4\" y=\"{}\">client {client}</text>", y - 12);
    }
    for operation in shown {
        let lane = lanes.binary_search(&operation.process).unwrap_or_default();
        draw_operation(page, operation, rows.get(&operation.id).copied(), lane, &axis);
    }
    page.push_str("</svg>\n");
    let _ = writeln!(page, "<pre>{}</pre>", escape(&super::window::window(history, finding)));
}

/// The operations of the finding, and what else touched the key meanwhile.
fn around<'a>(history: &'a History, finding: &Finding, rows: &BTreeMap<usize, &Row>) -> Vec<&'a Operation> {
    let facts = || rows.values().map(|row| &history.operations[row.operation]);
    let from_ns = facts().map(|operation| operation.invoked_ns).min().unwrap_or_default();
    let until_ns = facts().filter_map(|operation| operation.ended_ns).max().unwrap_or(history.end_ns);
    let is_near = |operation: &&Operation| {
        operation.key == finding.key
            && operation.invoked_ns <= until_ns
            && operation.ended_ns.is_none_or(|ended_ns| ended_ns >= from_ns)
            && !rows.contains_key(&operation.id)
    };
    let mut shown: Vec<&Operation> = history.operations.iter().filter(is_near).take(AROUND_MAX).collect();
    shown.extend(facts());
    shown.sort_by_key(|operation| operation.id);
    shown
}

fn clients<'a>(operations: impl Iterator<Item = &'a Operation>) -> Vec<u64> {
    let mut clients: Vec<u64> = operations.map(|operation| operation.process).collect();
    clients.sort_unstable();
    clients.dedup();
    clients
}

/// Events at equal distances, so that neither a long pause nor a burst hides anything.
struct Axis {
    events_ns: Vec<u64>,
}

impl Axis {
    fn of(history: &History, shown: &[&Operation], rows: &BTreeMap<usize, &Row>) -> Self {
        let mut events_ns: Vec<u64> = shown.iter().map(|operation| operation.invoked_ns).collect();
        events_ns.extend(shown.iter().filter_map(|operation| operation.ended_ns));
        let (from_ns, until_ns) =
            (events_ns.iter().min().copied().unwrap_or(0), events_ns.iter().max().copied().unwrap_or(history.end_ns));
        let edges = history.faults.iter().flat_map(|fault| [Some(fault.from_ns), fault.until_ns]).flatten();
        events_ns.extend(edges.filter(|edge_ns| !rows.is_empty() && (from_ns..=until_ns).contains(edge_ns)));
        events_ns.sort_unstable();
        events_ns.dedup();
        Axis { events_ns }
    }

    fn x(&self, time_ns: u64) -> usize {
        let place = self.events_ns.partition_point(|event_ns| *event_ns < time_ns);
        LEFT + place.min(self.events_ns.len()) * WIDTH / self.events_ns.len().max(1)
    }
}

fn draw_fault(page: &mut String, fault: &Fault, end_ns: u64, axis: &Axis, height: usize) {
    let (from, until) = (axis.x(fault.from_ns), axis.x(fault.until_ns.unwrap_or(end_ns)));
    if until <= LEFT || from >= LEFT + WIDTH {
        return;
    }
    let (name, value) = (escape(&fault.name), escape(&fault.value.to_string()));
    let width = (until - from).max(3);
    let _ = writeln!(
        page,
        "<rect class=\"fault\" x=\"{from}\" y=\"0\" width=\"{width}\" height=\"{height}\"><title>{name} {value}\n{} to {}\
         </title></rect><text x=\"{}\" y=\"{}\">{name}</text>",
        milliseconds(fault.from_ns),
        fault.until_ns.map_or("the end".to_owned(), milliseconds),
        from + 2,
        height - 4,
    );
}

fn draw_operation(page: &mut String, operation: &Operation, row: Option<&Row>, lane: usize, axis: &Axis) {
    let class = match (row.map(|row| row.role), operation.outcome) {
        (Some(Role::Fact), _) => "fact",
        (Some(Role::Source), _) => "source",
        (None, crate::history::Outcome::Ok) => "ok",
        (None, crate::history::Outcome::Unknown) => "unknown",
        (None, crate::history::Outcome::Fail) => "fail",
    };
    let from = axis.x(operation.invoked_ns);
    let until = operation.completed_ns().map_or(LEFT + WIDTH, |completed_ns| axis.x(completed_ns));
    let y = LANE_HEIGHT * lane + 8;
    let text = escape(&operation.to_string());
    let states = match row.map(|row| row.states.join(" or ")).filter(|states| !states.is_empty()) {
        Some(states) => format!("\npossible states after it: {}", escape(&states)),
        None => String::new(),
    };
    let ended = operation.ended_ns.map_or("no answer".to_owned(), milliseconds);
    let receipt =
        operation.receipt.as_ref().map_or(String::new(), |receipt| format!("\n{}", escape(&format!("{receipt:?}"))));
    let width = until.saturating_sub(from).max(4);
    let _ = writeln!(
        page,
        "<rect class=\"{class}\" x=\"{from}\" y=\"{y}\" width=\"{width}\" height=\"20\" rx=\"3\"><title>#{} line {}: {text}\n\
         {} to {ended}{states}{receipt}</title></rect><text x=\"{}\" y=\"{}\">{}</text>",
        operation.id,
        operation.line,
        milliseconds(operation.invoked_ns),
        from + 3,
        y + 14,
        if row.is_some() { text.as_str() } else { "" },
    );
}

fn milliseconds(time_ns: u64) -> String {
    format!("{}.{:06} ms", time_ns / 1_000_000, time_ns % 1_000_000)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::{REGISTRY, report::Options, testing::records};
    use super::*;
    use crate::history::{Kind, Process, Record, Value};

    #[test]
    fn a_violation_is_drawn_with_its_faults_and_texts_are_escaped() {
        let mut records = records("1-2 c1 write:x \"<b>\" ok\n4-5 c1 write:x \"b\" ok\n7-8 c2 read:x - \"<b>\"");
        let phase = |word: &str| Value::Map(BTreeMap::from([("phase".to_owned(), Value::from(word))]));
        let nemesis =
            |time_ns, word| Record::new(time_ns, Process::Nemesis, Kind::Info, "partition").with_value(phase(word));
        records.extend([nemesis(3, "start"), nemesis(6, "stop")]);
        records.sort_by_key(|record| record.time_ns);
        let history = History::from_records(records).unwrap();
        let report = (REGISTRY[0].judge)(&history, &Options::default()).unwrap();
        let page = timeline("x & y", &history, &[report]);
        assert_eq!(page.matches("class=\"fact\"").count(), 3, "{page}");
        assert_eq!(page.matches("class=\"fault\"").count(), 1);
        assert!(page.contains("x &amp; y") && !page.contains("<b>") && page.contains("&lt;b&gt;"));
        assert!(page.contains("possible states after it"));
        assert!(!page.contains("http"), "nothing is loaded from elsewhere");
    }
}
