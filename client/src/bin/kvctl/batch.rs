//! `kvctl batch`: operations of which all happen or none, one JSON object a line.
//!
//! ```text
//!   {"op":"put", "key":"a", "value":"1", "ttl":"30s", "if_absent":true}
//!   {"op":"put", "key":{"b64":"/wA="}, "value":{"utf8":"x"}, "if_value":"old", "prev":true}
//!   {"op":"del", "key":"b", "if_version":"116139213283328000-1-1"}
//!   {"op":"incr", "key":"n", "by":-5}
//! ```

use crate::{
    args::{Batch, Form, Globals},
    exit::{CONDITION_FAILED, Usage, complain},
    output::{Output, batch_json, escaped, status_word},
    session::Access,
    text,
};
use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use kvorum_client::{ClientError, Condition, Delete, Increment, Operation, OperationResult, Put, Written};
use serde::Deserialize;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
    process::ExitCode,
};

/// Bytes of a batch as text: what the largest batch can need, base64 and field names included.
const TEXT_BYTES_MAX: u64 = 32 << 20;

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Put {
        key: Text,
        value: Text,
        ttl: Option<String>,
        #[serde(default)]
        if_absent: bool,
        #[serde(default)]
        if_present: bool,
        if_version: Option<String>,
        if_value: Option<Text>,
        #[serde(default)]
        prev: bool,
    },
    Del {
        key: Text,
        #[serde(default)]
        if_absent: bool,
        #[serde(default)]
        if_present: bool,
        if_version: Option<String>,
        if_value: Option<Text>,
        #[serde(default)]
        prev: bool,
    },
    Incr {
        key: Text,
        #[serde(default = "one")]
        by: i64,
        #[serde(default)]
        prev: bool,
    },
}

fn one() -> i64 {
    1
}

/// Plain text, or bytes as kvctl prints them.
#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Text {
    Plain(String),
    Utf8 { utf8: String },
    Base64 { b64: String },
}

impl Text {
    fn bytes(self) -> Result<Bytes, String> {
        match self {
            Text::Plain(text) | Text::Utf8 { utf8: text } => Ok(text.into()),
            Text::Base64 { b64 } => {
                BASE64_STANDARD.decode(b64).map(Bytes::from).map_err(|error| format!("b64: {error}"))
            }
        }
    }
}

/// The conditions of a line, of which at most one may be given.
struct Conditions {
    if_absent: bool,
    if_present: bool,
    if_version: Option<String>,
    if_value: Option<Text>,
}

impl Conditions {
    fn one(self) -> Result<Option<Condition>, String> {
        let version = self.if_version.map(|version| text::version(&version)).transpose()?;
        let value = self.if_value.map(Text::bytes).transpose()?;
        let given = [
            self.if_absent.then_some(Condition::Absent),
            self.if_present.then_some(Condition::Present),
            version.map(Condition::Version),
            value.map(Condition::Value),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (condition, None) => Ok(condition),
            (_, Some(_)) => Err("give one of if_absent, if_present, if_version, if_value".to_owned()),
        }
    }
}

pub async fn run(globals: &Globals, output: &Output, batch: Batch) -> anyhow::Result<ExitCode> {
    let operations = read(&batch.file)?;
    let access = Access::open(globals)?;
    let mut write = access.batch().operations(operations);
    if let Some(id) = globals.request_id {
        write = write.request_id(id);
    }
    let (applied, written) = match write.await {
        Ok(written) => (true, written),
        Err(ClientError::NotApplied(refused)) => {
            complain(&format!("error: {refused}; nothing of the batch happened"));
            (false, refused.answer)
        }
        Err(error) => return access.keeping(Err(error)),
    };
    access.keep()?;
    output.receipt(&written.receipt);
    match output.form {
        Form::Json => output.json(&batch_json(applied, &written))?,
        Form::Table | Form::Raw => output.line(&results_text(&written))?,
    }
    Ok(if applied { ExitCode::SUCCESS } else { ExitCode::from(CONDITION_FAILED) })
}

fn results_text(written: &Written) -> String {
    let line = |(place, result): (usize, &OperationResult)| {
        let mut text = format!("{}\t{}", place + 1, status_word(result.status));
        if let Some(number) = result.number {
            text.push_str(&format!("\t{number}"));
        }
        if let Some(previous) = &result.previous {
            text.push_str(&format!("\tprevious: {}", escaped(&previous.value)));
        }
        text
    };
    written.results.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

fn read(path: &Path) -> anyhow::Result<Vec<Operation>> {
    let input: Box<dyn io::Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?)
    };
    let mut operations = Vec::new();
    let mut bytes = 0;
    for (number, line) in BufReader::new(input.take(TEXT_BYTES_MAX + 1)).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        bytes += line.len() as u64 + 1;
        if bytes > TEXT_BYTES_MAX {
            return Err(Usage(format!("the batch is longer than {TEXT_BYTES_MAX} bytes: split it")).into());
        }
        if !line.trim().is_empty() {
            let operation = parse(&line).map_err(|problem| Usage(format!("line {}: {problem}", number + 1)))?;
            operations.push(operation);
        }
    }
    Ok(operations)
}

fn parse(line: &str) -> Result<Operation, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    match line {
        Line::Put { key, value, ttl, if_absent, if_present, if_version, if_value, prev } => {
            let mut put = Put::new(key.bytes()?, value.bytes()?);
            if let Some(ttl) = ttl {
                put = put.ttl(text::duration(&ttl)?);
            }
            if let Some(condition) = (Conditions { if_absent, if_present, if_version, if_value }).one()? {
                put = put.condition(condition);
            }
            Ok(if prev { put.return_previous() } else { put }.into())
        }
        Line::Del { key, if_absent, if_present, if_version, if_value, prev } => {
            let mut delete = Delete::new(key.bytes()?);
            if let Some(condition) = (Conditions { if_absent, if_present, if_version, if_value }).one()? {
                delete = delete.condition(condition);
            }
            Ok(if prev { delete.return_previous() } else { delete }.into())
        }
        Line::Incr { key, by, prev } => {
            let increment = Increment::new(key.bytes()?, by);
            Ok(if prev { increment.return_previous() } else { increment }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lines_of_the_manual_are_read() {
        let lines = [
            r#"{"op":"put", "key":"a", "value":"1", "ttl":"30s", "if_absent":true}"#,
            r#"{"op":"put", "key":{"b64":"/wA="}, "value":{"utf8":"x"}, "if_value":"old", "prev":true}"#,
            r#"{"op":"del", "key":"b", "if_version":"116139213283328000-1-1"}"#,
            r#"{"op":"incr", "key":"n", "by":-5}"#,
            r#"{"op":"incr", "key":"n"}"#,
        ];
        for line in lines {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
        }
    }

    #[test]
    fn a_line_that_says_something_else_is_refused() {
        let lines = [
            r#"{"op":"put", "key":"a"}"#,
            r#"{"op":"put", "key":"a", "value":"1", "tttl":"30s"}"#,
            r#"{"op":"put", "key":"a", "value":"1", "ttl":"30"}"#,
            r#"{"op":"del", "key":"a", "if_absent":true, "if_present":true}"#,
            r#"{"op":"put", "key":{"b64":"?"}, "value":"1"}"#,
            r#"{"op":"drop", "key":"a"}"#,
            "put a 1",
        ];
        for line in lines {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    /// What is read names its operation and nothing unknown.
    #[test]
    fn fuzz_any_line_is_refused_or_is_an_operation() {
        let sound = [
            r#"{"op":"put","key":"a","value":"1","ttl":"30s","if_absent":true}"#,
            r#"{"op":"put","key":{"b64":"/wA="},"value":{"utf8":"x"},"if_value":"old","prev":true}"#,
            r#"{"op":"del","key":"b","if_version":"116139213283328000-1-1"}"#,
            r#"{"op":"incr","key":"n","by":-5}"#,
        ];
        bolero::check!().with_iterations(3_000).with_max_len(40).for_each(|input: &[u8]| {
            let place = input.first().map_or(0, |byte| usize::from(*byte) % sound.len());
            let rest = input.get(1..).unwrap_or_default();
            for bytes in [input.to_vec(), crate::typed::miswritten(sound[place], rest)] {
                let line = String::from_utf8_lossy(&bytes);
                if parse(&line).is_ok() {
                    let read: serde_json::Value = serde_json::from_str(&line).unwrap();
                    let op = read["op"].as_str().unwrap();
                    assert!(["put", "del", "incr"].contains(&op) && !read["key"].is_null(), "{line}");
                }
            }
        });
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in ".*") {
            let _ = parse(&line);
        }
    }
}
