//! # Answer: rows of values under names, and its forms
//!
//! ```text
//!   Partial ─finish─▶ Answer ─▶ text │ JSON │ CSV │ Arrow IPC
//! ```
//!
//! **Invariant.** One row a group, in the order of the groups' keys; a missing value is empty in text and CSV, null in
//! JSON and Arrow. Lists (`top_k`, `histogram`, `correlation`) are JSON wherever the form has no lists of its own.

mod arrow;

pub use arrow::ArrowError;

use crate::{aggregate::Partial, query::Query, schema::Schema, timestamp, value::Value};
use serde_json::{Map, Value as Json, json};
use std::io::Write;

/// Rows of values under names.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    names: Vec<String>,
    rows: Vec<Vec<Value>>,
}

impl Answer {
    /// What the groups of a query add up to.
    #[must_use]
    pub fn new(query: &Query, schema: &Schema, partial: &Partial) -> Answer {
        let groups = query.groups.iter().map(|column| schema.fields()[*column].name.clone());
        let names = groups.chain(query.aggregates.iter().map(|aggregate| aggregate.name.clone())).collect();
        let rows = partial.groups().iter().map(|group| {
            let finished = group.states.iter().zip(&query.aggregates);
            let finished = finished.map(|(state, aggregate)| state.finish(&aggregate.function));
            group.key.iter().cloned().chain(finished).collect()
        });
        Answer { names, rows: rows.collect() }
    }

    /// Rows that were made elsewhere.
    ///
    /// # Panics
    /// If a row has more or fewer values than there are names.
    #[must_use]
    pub fn of_rows(names: Vec<String>, rows: Vec<Vec<Value>>) -> Answer {
        assert!(rows.iter().all(|row| row.len() == names.len()), "one value a name");
        Answer { names, rows }
    }

    /// The names of the columns.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The rows.
    #[must_use]
    pub fn rows(&self) -> &[Vec<Value>] {
        &self.rows
    }

    /// An array of objects. Numbers that JSON readers would round are text.
    #[must_use]
    pub fn json(&self) -> Json {
        let object = |row: &Vec<Value>| {
            let fields: Map<String, Json> = self.names.iter().cloned().zip(row.iter().map(json_of)).collect();
            Json::Object(fields)
        };
        self.rows.iter().map(object).collect()
    }

    /// Writes CSV with the names in the first line.
    ///
    /// # Errors
    /// If writing fails.
    pub fn write_csv(&self, out: impl Write) -> Result<(), csv::Error> {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_record(&self.names)?;
        for row in &self.rows {
            writer.write_record(row.iter().map(text_of))?;
        }
        writer.flush()?;
        Ok(())
    }
}

/// A value for people, and for CSV.
#[must_use]
pub fn text_of(value: &Value) -> String {
    match value {
        Value::I64(number) => number.to_string(),
        Value::Wide(number) => number.to_string(),
        Value::F64(number) => format_number(*number),
        Value::Bool(flag) => flag.to_string(),
        Value::Timestamp(micros) => timestamp::format(*micros),
        Value::Text(text) => text.to_string(),
        Value::List(_) => json_of(value).to_string(),
        Value::Missing => String::new(),
    }
}

/// The shortest text that reads back as the same number.
fn format_number(number: f64) -> String {
    if number.is_nan() { "NaN".to_owned() } else { format!("{number:?}") }
}

fn json_of(value: &Value) -> Json {
    match value {
        Value::I64(number) => json!(number),
        Value::Wide(number) => json!(number.to_string()),
        // JSON has no NaN and no infinities: they are text, not null, which would mean missing.
        Value::F64(number) if !number.is_finite() => json!(format_number(*number)),
        Value::F64(number) => json!(number),
        Value::Bool(flag) => json!(flag),
        Value::Timestamp(micros) => json!(timestamp::format(*micros)),
        Value::Text(text) => json!(text.as_ref()),
        Value::List(values) => values.iter().map(json_of).collect(),
        Value::Missing => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        let names = ["name", "n", "wide", "x", "list"].map(str::to_owned).to_vec();
        let list = Value::List(vec![Value::Text("a,b".into()), Value::I64(3)]);
        let full = vec![Value::Text("JFK".into()), Value::I64(-1), Value::Wide(1 << 70), Value::F64(0.1), list];
        let gaps = vec![Value::Missing, Value::Missing, Value::Missing, Value::F64(f64::NAN), Value::Missing];
        Answer::of_rows(names, vec![full, gaps])
    }

    #[test]
    fn json_keeps_every_digit() {
        let text = answer().json().to_string();
        assert!(text.contains(r#""wide":"1180591620717411303424""#) && text.contains(r#""x":0.1"#), "{text}");
        assert!(text.contains(r#""list":["a,b",3]"#) && text.contains(r#""x":"NaN""#), "{text}");
        assert!(text.contains(r#""name":null"#), "{text}");
    }

    #[test]
    fn csv_is_read_back() {
        let mut bytes = Vec::new();
        answer().write_csv(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text, "name,n,wide,x,list\nJFK,-1,1180591620717411303424,0.1,\"[\"\"a,b\"\",3]\"\n,,,NaN,\n");
    }
}
