//! Tables for people: columns that line up, no frame.

use comfy_table::{Table, presets};

/// The rows below their header.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table.add_rows(rows);
    table.trim_fmt()
}

/// What is not known, or not there.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The same for text that is empty when there is none.
pub fn text_or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// A duration in milliseconds; `unknown` is not 0.
pub fn staleness_text(staleness_ms: Option<u64>) -> String {
    staleness_ms.map_or_else(|| "unknown".to_owned(), |staleness| format!("{staleness} ms"))
}
