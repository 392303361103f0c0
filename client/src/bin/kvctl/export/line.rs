//! The lines of an export: one JSON object an entry, which `import` takes back.
//!
//! ```text
//!   {"key":"greeting","value":"hello"}
//!   {"key_base64":"/wA=","value":"{\"n\":1}","expires_ms":1700000000000}
//! ```
//!
//! **Invariant.** Bytes come back as they were: text where they are UTF-8, else base64. Equal entries make equal lines.
//!
//! **Deliberately absent.** Versions: an entry that is imported gets a version of its own.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use kvorum_api::limits;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Bytes of the longest line: every byte of the largest key and value as an escape of JSON.
pub const LINE_BYTES_MAX: usize = 6 * (limits::VALUE_BYTES_CEILING + limits::KEY_BYTES_MAX) + 1_024;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub key: Bytes,
    pub value: Bytes,
    /// Unix milliseconds at which the entry goes; `None` = it stays.
    pub expires_ms: Option<u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
}

/// Appends the line of an entry, with its end.
pub fn push(text: &mut Vec<u8>, entry: &Exported) {
    let (key, key_base64) = written(&entry.key);
    let (value, value_base64) = written(&entry.value);
    let line = Line { key, key_base64, value, value_base64, expires_ms: entry.expires_ms };
    serde_json::to_writer(&mut *text, &line).expect("text is always JSON, and a buffer takes all of it");
    text.push(b'\n');
}

/// Reads a line; the error says what is wrong with it.
pub fn parse(line: &[u8]) -> Result<Exported, String> {
    let line: Line<'_> = serde_json::from_slice(line)
        .map_err(|error| format!("no line of an export: {error}; rows of another kind need --key"))?;
    Ok(Exported {
        key: read("key", line.key, line.key_base64)?,
        value: read("value", line.value, line.value_base64)?,
        expires_ms: line.expires_ms,
    })
}

fn written(bytes: &[u8]) -> (Option<Cow<'_, str>>, Option<Cow<'_, str>>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.into()), None),
        Err(_) => (None, Some(BASE64_STANDARD.encode(bytes).into())),
    }
}

fn read(field: &str, text: Option<Cow<'_, str>>, base64: Option<Cow<'_, str>>) -> Result<Bytes, String> {
    match (text, base64) {
        (Some(text), None) => Ok(Bytes::from(text.into_owned())),
        (None, Some(base64)) => BASE64_STANDARD
            .decode(base64.as_bytes())
            .map(Bytes::from)
            .map_err(|error| format!("{field}_base64: {error}")),
        _ => Err(format!("a line of an export has one of {field} and {field}_base64; rows of another kind need --key")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(key: &'static [u8], value: &'static [u8], expires_ms: Option<u64>) -> String {
        let mut text = Vec::new();
        push(&mut text, &Exported { key: key.into(), value: value.into(), expires_ms });
        String::from_utf8(text).unwrap()
    }

    /// Files of this form lie about for years: it never changes.
    #[test]
    fn lines_are_what_they_were() {
        assert_eq!(line(b"greeting", b"hello", None), "{\"key\":\"greeting\",\"value\":\"hello\"}\n");
        let binary = "{\"key_base64\":\"/wA=\",\"value\":\"{\\\"n\\\":1}\",\"expires_ms\":1700000000000}\n";
        assert_eq!(line(&[0xff, 0], b"{\"n\":1}", Some(1_700_000_000_000)), binary);
        assert_eq!(line(b"k", &[0x80], None), "{\"key\":\"k\",\"value_base64\":\"gA==\"}\n");
    }

    #[test]
    fn a_line_that_says_something_else_is_refused() {
        let lines = [
            r#"{"key":"a"}"#,
            r#"{"value":"a"}"#,
            r#"{"key":"a","key_base64":"YQ==","value":"b"}"#,
            r#"{"key":"a","value":"b","ttl":5}"#,
            r#"{"key":1,"value":"b"}"#,
            r#"{"key_base64":"?","value":"b"}"#,
            r#"{"key":"a","value":"b","expires_ms":-1}"#,
            r#"["a","b"]"#,
            "a,b",
        ];
        for line in lines {
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn fuzz_any_line_is_refused_or_reads_back() {
        let sound = r#"{"key_base64":"/wA=","value":"{\"n\":1}","expires_ms":1700000000000}"#;
        bolero::check!().with_iterations(3_000).with_max_len(40).for_each(|input: &[u8]| {
            for line in [input.to_vec(), crate::typed::miswritten(sound, input)] {
                let Ok(entry) = parse(&line) else { continue };
                let mut again = Vec::new();
                push(&mut again, &entry);
                assert_eq!(parse(&again), Ok(entry));
            }
        });
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(
            key in proptest::collection::vec(any::<u8>(), 0..60),
            value in proptest::collection::vec(any::<u8>(), 0..200),
            text in "\\PC*|[\\x00-\\x7f]*",
            expires_ms: Option<u64>,
        ) {
            for value in [Bytes::from(value), Bytes::from(text)] {
                let entry = Exported { key: key.clone().into(), value, expires_ms };
                let mut line = Vec::new();
                push(&mut line, &entry);
                prop_assert!(line.len() <= 6 * (entry.key.len() + entry.value.len()) + 1_024);
                prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line an entry");
                prop_assert_eq!(parse(&line).unwrap(), entry);
            }
        }

        #[test]
        fn no_line_makes_the_parser_panic(line: Vec<u8>) {
            let _ = parse(&line);
        }
    }
}
