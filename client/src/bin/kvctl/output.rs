//! What is printed: data on stdout, everything else on stderr.
//!
//! **Invariant.** stdout carries nothing but data, in the asked form. A reader that goes away ends the command quietly.

use crate::{
    args::{Cli, Form},
    exit::complain,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::CommandFactory as _;
use kvorum_client::{Entry, OperationResult, OperationStatus, Receipt, Written};
use serde_json::{Map, Value, json};
use std::{
    fmt::Write as _,
    io::{self, BufWriter, StdoutLock, Write},
    process::ExitCode,
};
use thiserror::Error;

/// stdout was closed by whoever read it.
#[derive(Debug, Error)]
#[error("the reader of stdout is gone")]
pub struct OutputClosed;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub form: Form,
    pub quiet: bool,
}

/// stdout, buffered, that knows a closed pipe from trouble.
pub struct Stdout(BufWriter<StdoutLock<'static>>);

impl Stdout {
    pub fn new() -> Self {
        Stdout(BufWriter::with_capacity(64 << 10, io::stdout().lock()))
    }

    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.0.write_all(bytes).map_err(closed_or_error)
    }

    pub fn line(&mut self, text: &str) -> anyhow::Result<()> {
        self.write(text.as_bytes())?;
        self.write(b"\n")
    }

    pub fn json(&mut self, value: &Value) -> anyhow::Result<()> {
        self.line(&value.to_string())
    }

    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.0.flush().map_err(closed_or_error)
    }
}

fn closed_or_error(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe { OutputClosed.into() } else { error.into() }
}

impl Output {
    pub fn new(form: Form, quiet: bool) -> Self {
        Output { form, quiet }
    }

    /// One JSON document.
    pub fn json(&self, value: &Value) -> anyhow::Result<()> {
        let mut stdout = Stdout::new();
        stdout.json(value)?;
        stdout.flush()
    }

    /// One line for people.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        let mut stdout = Stdout::new();
        stdout.line(text)?;
        stdout.flush()
    }

    /// Bytes as they are.
    pub fn raw(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = Stdout::new();
        stdout.write(bytes)?;
        stdout.flush()
    }

    /// What a reply guaranteed, on stderr, for people.
    pub fn receipt(&self, receipt: &Receipt) {
        if self.form == Form::Table && !self.quiet {
            complain(&receipt_text(receipt));
        }
    }

    pub fn completions(&self, shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "kvctl", &mut script);
        self.raw(&script)?;
        Ok(ExitCode::SUCCESS)
    }

    pub fn version(&self) -> anyhow::Result<ExitCode> {
        let version = env!("CARGO_PKG_VERSION");
        match self.form {
            Form::Json => self.json(&json!({ "name": "kvctl", "version": version }))?,
            Form::Table | Form::Raw => self.line(&format!("kvctl {version}"))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Keys and values as JSON: `{"utf8": …}` where they are text, else `{"b64": …}`.
pub fn bytes_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "utf8": text }),
        Err(_) => json!({ "b64": BASE64_STANDARD.encode(bytes) }),
    }
}

/// Keys and values for people: text as it is, what would disturb a terminal or a line escaped.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                control if control.is_control() => text.extend(control.escape_unicode()),
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    text
}

pub fn entry_json(entry: &Entry) -> Value {
    json!({
        "key": bytes_json(&entry.key),
        "value": bytes_json(&entry.value),
        "version": entry.version.to_string(),
        "expires_ms": entry.expires_ms,
    })
}

/// Every field of a receipt that says something. Stamps exceed what JSON readers keep of a number, so they are text.
pub fn receipt_json(receipt: &Receipt) -> Value {
    let mut fields = Map::new();
    fields.insert("mode".to_owned(), json!(receipt.mode.as_str()));
    if let Some(level) = receipt.level {
        fields.insert("level".to_owned(), json!(level.to_string()));
    }
    if receipt.durable_replicas > 0 {
        fields.insert("ack".to_owned(), json!("majority"));
        fields.insert("durable_replicas".to_owned(), json!(receipt.durable_replicas));
    }
    fields.insert("shard".to_owned(), json!(receipt.shard.0));
    fields.insert("epoch".to_owned(), json!(receipt.epoch));
    fields.insert("node".to_owned(), json!(receipt.node.0));
    if let Some(version) = receipt.version {
        fields.insert("version".to_owned(), json!(version.to_string()));
    }
    let position = json!({ "term": receipt.position.term, "index": receipt.position.index });
    fields.insert("position".to_owned(), position);
    if let Some(staleness) = receipt.staleness {
        fields.insert("staleness_ms".to_owned(), json!(staleness.as_millis() as u64));
    }
    fields.insert("stamp".to_owned(), json!(receipt.stamp.0.to_string()));
    Value::Object(fields)
}

fn receipt_text(receipt: &Receipt) -> String {
    let mut parts = vec![receipt.mode.to_string()];
    if let Some(level) = receipt.level {
        parts.push(level.to_string());
        parts.push(match receipt.staleness {
            Some(staleness) => format!("no older than {} ms", staleness.as_millis()),
            None => "staleness unknown".to_owned(),
        });
    }
    if receipt.durable_replicas > 0 {
        let plural = if receipt.durable_replicas == 1 { "" } else { "s" };
        parts.push(format!("durable on {} replica{plural}", receipt.durable_replicas));
    }
    if let Some(version) = receipt.version {
        parts.push(format!("version {version}"));
    }
    parts.push(format!("node {}", receipt.node));
    parts.push(format!("position {}", receipt.position));
    parts.join(" · ")
}

/// The answer to a write of one operation.
pub fn single_json(applied: bool, written: &Written) -> Value {
    let mut fields = Map::new();
    fields.insert("applied".to_owned(), json!(applied));
    if let (Some(result), [_]) = (written.results.first(), &written.results[..]) {
        fields.extend(result_fields(result));
    }
    fields.extend(write_fields(written));
    Value::Object(fields)
}

/// The answer to a batch.
pub fn batch_json(applied: bool, written: &Written) -> Value {
    let results: Vec<Value> = written.results.iter().map(|result| Value::Object(result_fields(result))).collect();
    let mut fields = Map::new();
    fields.insert("applied".to_owned(), json!(applied));
    fields.insert("results".to_owned(), json!(results));
    fields.extend(write_fields(written));
    Value::Object(fields)
}

fn write_fields(written: &Written) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("repeated".to_owned(), json!(written.repeated));
    fields.insert("request_id".to_owned(), json!(written.request_id.map(|id| id.to_string())));
    fields.insert("receipt".to_owned(), receipt_json(&written.receipt));
    fields
}

fn result_fields(result: &OperationResult) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("status".to_owned(), json!(status_word(result.status)));
    if let Some(version) = result.version {
        fields.insert("version".to_owned(), json!(version.to_string()));
    }
    if let Some(number) = result.number {
        fields.insert("number".to_owned(), json!(number));
    }
    if let Some(previous) = &result.previous {
        fields.insert("previous".to_owned(), entry_json(previous));
    }
    if result.previous_forgotten {
        fields.insert("previous_forgotten".to_owned(), json!(true));
    }
    fields
}

pub fn status_word(status: OperationStatus) -> &'static str {
    match status {
        OperationStatus::Applied => "applied",
        OperationStatus::ConditionFailed => "condition_failed",
        OperationStatus::NotANumber => "not_a_number",
        OperationStatus::Overflow => "overflow",
        OperationStatus::Skipped => "skipped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_text_where_they_can_be() {
        assert_eq!(bytes_json("grüß".as_bytes()), json!({ "utf8": "grüß" }));
        assert_eq!(bytes_json(&[0xff, 0]), json!({ "b64": "/wA=" }));
    }

    #[test]
    fn what_would_disturb_a_terminal_is_escaped() {
        assert_eq!(escaped("a\tb\nc\\ü\u{1b}[2J".as_bytes()), "a\\tb\\nc\\\\ü\\u{1b}[2J");
        assert_eq!(escaped(&[b'a', 0xff, b'b']), "a\\xffb");
    }

    proptest! {
        #[test]
        fn an_escaped_text_is_one_line_without_control_characters(bytes: Vec<u8>) {
            prop_assert!(escaped(&bytes).chars().all(|letter| !letter.is_control()));
        }
    }
}
