//! The report: one HTML file that needs nothing else.
//!
//! ```text
//!   verdict and reasons · claims · throughput, latency, unanswered over time, faults shaded · faults · checks
//! ```

use super::{
    judge::Judgement,
    measure::Stretch,
    nemeses::{Tried, word},
    probe::Measured,
    result::replay,
    run::{Request, Shown},
    svg::{Series, Shade, escape, plot},
};
use crate::{check, history::Kind, real::nemesis::Outcome};
use std::fmt::Write as _;

const STYLE: &str = "body{font:15px system-ui,sans-serif;max-width:1040px;margin:2em auto;color:#222}\
    svg{width:100%}svg text{font-size:11px;fill:#555}.grid{stroke:#ddd}.fault{fill:#d33;opacity:.15}\
    table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25em .6em;border-bottom:1px solid #ddd;\
    vertical-align:top;overflow-wrap:anywhere}.verdict{display:inline-block;padding:.2em .8em;border-radius:.3em;\
    color:#fff;background:#777}.ok{background:#2a7d2a}.violation{background:#b22}.unknown,.vacuous{background:#b70}\
    pre{background:#f6f6f6;padding:.6em;overflow:auto}";

/// Writes it.
#[must_use]
pub fn page(request: &Request, shown: &Shown, judgement: &Judgement) -> String {
    let experiment = &request.experiment;
    let verdict = judgement.verdict.as_str();
    let mut page = format!(
        "<!doctype html><meta charset=utf-8><title>{name}: {verdict}</title><style>{STYLE}</style>\
         <h1>{name} <span class=\"verdict {verdict}\">{verdict}</span></h1><p>{about}</p>",
        name = escape(&experiment.name),
        about = escape(&experiment.about),
    );
    let _ = write!(
        page,
        "<p>{} nodes, seed {}, {} s of faults. Network: {}. Again: <code>{}</code></p>",
        experiment.nodes,
        request.seed,
        experiment.length.as_secs(),
        escape(&shown.network.sentence()),
        escape(&replay(request)),
    );
    if let Some(shim) = &shown.shim {
        let _ = write!(page, "<p>Disks and clocks, through a shim between kvd and the C library: {}</p>", escape(shim));
    }
    if !judgement.reasons.is_empty() {
        page.push_str("<h2>Why</h2><ul>");
        for (verdict, reason) in &judgement.reasons {
            let _ = write!(page, "<li><b>{verdict}</b>: {}</li>", escape(reason));
        }
        page.push_str("</ul>");
    }
    claims(&mut page, judgement);
    plots(&mut page, shown);
    faults(&mut page, &shown.tried, shown);
    checks(&mut page, judgement);
    page
}

fn claims(page: &mut String, judgement: &Judgement) {
    let [before, after, hypothesis] = &judgement.claims;
    page.push_str("<h2>Claims</h2><table><tr><th>when<th>claim<th>measured<th>kept</tr>");
    let groups =
        [("steady state, before", before), ("hypothesis, during faults", hypothesis), ("steady state, after", after)];
    for (when, claims) in groups {
        for Measured { claim, value, is_kept } in claims {
            let value = value.map_or("nothing".to_owned(), |value| format!("{value:.1}"));
            let kept = is_kept.map_or("?", |is_kept| if is_kept { "yes" } else { "NO" });
            let _ = write!(page, "<tr><td>{when}<td>{}<td>{value}<td>{kept}</tr>", escape(claim));
        }
    }
    page.push_str("</table>");
}

fn plots(page: &mut String, shown: &Shown) {
    let end_ns = shown.samples.last().map_or(0, |sample| sample.ended_ns);
    let seconds = (end_ns / 1_000_000_000 + 1) as usize;
    let bins: Vec<Stretch> = (0..seconds as u64)
        .map(|second| Stretch::of(&shown.samples, second * 1_000_000_000, (second + 1) * 1_000_000_000))
        .collect();
    let over = |value: &dyn Fn(&Stretch) -> Option<f64>| bins.iter().map(value).collect::<Vec<_>>();
    let shades: Vec<Shade> = shown
        .tried
        .iter()
        .filter(|tried| tried.is_installed())
        .map(|tried| Shade {
            from_s: tried.from_ns as f64 / 1e9,
            until_s: tried.until_ns as f64 / 1e9,
            text: tried.name.clone(),
        })
        .collect();
    let counted = |kind| over(&|stretch: &Stretch| Some(stretch.count(kind) as f64));
    let answered = Series { name: "answered", colour: "green", values: counted(Kind::Ok) };
    let failed = Series { name: "failed", colour: "orange", values: counted(Kind::Fail) };
    let unknown = Series { name: "unknown", colour: "red", values: counted(Kind::Info) };
    let half = Series { name: "median", colour: "steelblue", values: over(&|bin| bin.latency_ms(50, |_| true)) };
    let high = Series { name: "p99", colour: "navy", values: over(&|bin| bin.latency_ms(99, |_| true)) };
    page.push_str("<h2>Over time</h2>");
    let length = seconds as f64;
    page.push_str(&plot("Throughput", "/s", length, &[answered], &shades));
    page.push_str(&plot("Not answered", "/s", length, &[failed, unknown], &shades));
    page.push_str(&plot("Latency of what was answered", "ms", length, &[half, high], &shades));
}

fn faults(page: &mut String, tried: &[Tried], shown: &Shown) {
    let attacked = &shown.phases[1];
    let availability = attacked.availability_percent().map_or("?".to_owned(), |percent| format!("{percent:.0} %"));
    let recoveries: Vec<String> = attacked.recoveries_ms.iter().map(|ms| format!("{ms:.0}")).collect();
    let _ = write!(
        page,
        "<h2>Faults</h2><p>Seconds with an acknowledged write while faults happened: {availability}. From a leader's \
         fault to the next acknowledged write on one of its shards, ms: {}. From healing to the end of a while \
         in which every write was acknowledged: {} ms.</p>",
        if recoveries.is_empty() { "no leader was hit".to_owned() } else { recoveries.join(", ") },
        shown.calm_after_ms,
    );
    page.push_str("<table><tr><th>from<th>until<th>fault<th>outcome<th>seen</tr>");
    for tried in tried {
        let told = match &tried.outcome {
            Outcome::Installed(seen) => seen.to_string(),
            Outcome::Skipped(reason) | Outcome::Indeterminate(reason) => reason.clone(),
        };
        let _ = write!(
            page,
            "<tr><td>{:.1} s<td>{:.1} s<td>{}<td>{}<td>{}<br>{}</tr>",
            tried.from_ns as f64 / 1e9,
            tried.until_ns as f64 / 1e9,
            escape(&tried.name),
            word(&tried.outcome),
            escape(&told),
            escape(&tried.seen.to_string()),
        );
    }
    page.push_str("</table>");
    if !shown.operators.is_empty() {
        page.push_str("<p>Operators, by what they were for:</p><ul>");
        for (what, endings) in &shown.operators {
            let _ = write!(page, "<li>{}: {}</li>", escape(what), escape(&endings.sentence()));
        }
        page.push_str("</ul>");
    }
    if !shown.downfalls.is_empty() {
        page.push_str("<p>Nodes that ended although nobody ended them, or promised nothing more:</p><ul>");
        for downfall in &shown.downfalls {
            let _ = write!(page, "<li>{}</li>", escape(&downfall.sentence()));
        }
        page.push_str("</ul>");
    }
}

fn checks(page: &mut String, judgement: &Judgement) {
    page.push_str("<h2>Checks</h2><table><tr><th>history<th>operations<th>check<th>verdict<th>answers judged</tr>");
    for judged in &judgement.judged {
        let file = judged.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for report in &judged.reports {
            let verdict = report.verdict.as_str();
            let _ = write!(
                page,
                "<tr><td><a href=\"{file}\">{file}</a><td>{}<td>{}<td><span class=\"verdict {verdict}\">{verdict}</span>\
                 <td>{}</tr>",
                judged.history.operations.len(),
                escape(&report.model),
                report.coverage.judged,
            );
        }
    }
    page.push_str("</table>");
    for judged in &judgement.judged {
        for finding in judged.reports.iter().flat_map(|report| report.findings.iter().take(3)) {
            let _ = write!(page, "<pre>{}</pre>", escape(&check::window(&judged.history, finding)));
        }
    }
}
