//! Plots over time, as SVG without anything from elsewhere.
//!
//! **Invariant.** Every plot of a report has the same width and the same time axis, so that faults line up.

use std::fmt::Write as _;

const WIDTH: f64 = 1_000.0;
const HEIGHT: f64 = 140.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 10.0;

/// A stretch of time that is shaded, and what it says.
pub struct Shade {
    /// From which second.
    pub from_s: f64,
    /// Until which.
    pub until_s: f64,
    /// When pointed at.
    pub text: String,
}

/// One line of a plot.
pub struct Series {
    /// Its name.
    pub name: &'static str,
    /// Its colour.
    pub colour: &'static str,
    /// A value a second; `None` = a gap.
    pub values: Vec<Option<f64>>,
}

/// A plot of so many seconds.
#[must_use]
pub fn plot(title: &str, unit: &str, seconds: f64, series: &[Series], shades: &[Shade]) -> String {
    let values = series.iter().flat_map(|series| series.values.iter().flatten());
    let most = values.copied().fold(1.0, f64::max);
    let x = |second: f64| LEFT + (WIDTH - LEFT - RIGHT) * second / seconds.max(1.0);
    let y = |value: f64| HEIGHT - 20.0 - (HEIGHT - 40.0) * value / most;
    let mut svg = format!("<h3>{}</h3><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\">", escape(title));
    for shade in shades {
        let (from, until) = (x(shade.from_s), x(shade.until_s));
        let _ = write!(
            svg,
            "<rect class=fault x={from:.1} y=10 width={:.1} height={:.1}><title>{}</title></rect>",
            (until - from).max(2.0),
            HEIGHT - 30.0,
            escape(&shade.text)
        );
    }
    for (value, text) in [(0.0, "0".to_owned()), (most, format!("{most:.0}"))] {
        let at = y(value);
        let _ = write!(svg, "<line class=grid x1={LEFT} x2={} y1={at:.1} y2={at:.1} />", WIDTH - RIGHT);
        let _ = write!(svg, "<text x=2 y={:.1}>{text} {}</text>", at + 4.0, escape(unit));
    }
    let every = (seconds / 10.0).ceil().max(1.0);
    let mut second = 0.0;
    while second <= seconds {
        let _ = write!(svg, "<text x={:.1} y={HEIGHT}>{second} s</text>", x(second));
        second += every;
    }
    for (place, series) in series.iter().enumerate() {
        let _ = write!(svg, "<path fill=none stroke={} d=\"{}\" />", series.colour, path(&series.values, x, y));
        let left = WIDTH - 220.0 + 110.0 * place as f64;
        let _ = write!(svg, "<text x={left} y=8 style=\"fill:{}\">{}</text>", series.colour, series.name);
    }
    svg.push_str("</svg>");
    svg
}

/// A line with gaps; a value that stands alone is a short dash.
fn path(values: &[Option<f64>], x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    let mut is_drawing = false;
    for (second, value) in values.iter().enumerate() {
        let Some(value) = value else {
            is_drawing = false;
            continue;
        };
        let second = second as f64;
        let step = if is_drawing { 'L' } else { 'M' };
        let _ = write!(path, "{step}{:.1} {:.1}", x(second + 0.1), y(*value));
        let _ = write!(path, "L{:.1} {:.1}", x(second + 0.9), y(*value));
        is_drawing = true;
    }
    path
}

/// Text that is only text.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_not_drawn_over_and_texts_are_only_text() {
        let same = |value: f64| value;
        assert_eq!(path(&[Some(1.0), None, Some(2.0)], same, same).matches('M').count(), 2);
        let shade = Shade { from_s: 0.0, until_s: 1.0, text: "<b>".to_owned() };
        let series = Series { name: "ok", colour: "green", values: vec![Some(3.0)] };
        let plot = plot("t", "ms", 2.0, &[series], &[shade]);
        assert!(plot.contains("&lt;b&gt;") && !plot.contains("<b>"));
    }
}
