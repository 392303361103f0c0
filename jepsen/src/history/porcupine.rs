//! Logs of etcd recorded with Jepsen, as Porcupine's test data keeps them.
//!
//! ```text
//!   INFO  jepsen.util - 3    :invoke  :cas    [1 2]
//!   INFO  jepsen.util - 3    :fail    :cas    [1 2]         the comparison failed: an answer, not an error
//!   INFO  jepsen.util - 4    :fail    :read   :timed-out    says nothing
//!   INFO  jepsen.util - 5    :info    :write  :timed-out    may happen at any later time
//! ```
//!
//! Its key-value logs are EDN already: [`read_edn`](super::read_edn) reads them.
//!
//! **Invariant.** A failed comparison is kept as an answer: it says what the register did not hold.

use super::{
    error::Malformed,
    record::{Kind, Process, Record},
    value::Value,
};

/// Every record of a log; the order of the lines is the time.
pub fn read_etcd_log(text: &str) -> Result<Vec<(usize, Record)>, Malformed> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(at, line)| Ok((at + 1, parse_line(at + 1, line)?))).collect()
}

fn parse_line(line: usize, text: &str) -> Result<Record, Malformed> {
    let refuse = |field: &str, reason: String| Malformed::new(line, field, reason);
    let Some((_, rest)) = text.split_once("jepsen.util - ") else {
        return Err(refuse("record", "not a line of the log: \"jepsen.util - \" is missing".to_owned()));
    };
    let mut words = rest.split_whitespace();
    let mut word = |field: &str| words.next().ok_or_else(|| refuse(field, "truncated: missing".to_owned()));
    let process = match word("process")? {
        name if name.starts_with(':') => Process::Nemesis,
        number => match number.parse() {
            Ok(number) => Process::Client(number),
            Err(_) => return Err(refuse("process", format!("{number:?} is not a number"))),
        },
    };
    let kind = word("type")?;
    let operation = word("f")?.trim_start_matches(':').to_owned();
    let value = words.collect::<Vec<_>>().join(" ");
    let Some(kind) = Kind::parse(kind.trim_start_matches(':')) else {
        return Err(refuse("type", format!("{kind} is none of :invoke, :ok, :fail, :info")));
    };
    let mut record = Record::new(line as u64, process, kind, &operation);
    if value == ":timed-out" {
        record.error = Some("timed-out".to_owned());
        record.kind = if kind == Kind::Fail { Kind::Info } else { kind };
        return Ok(record);
    }
    record.value = parse_value(&value).ok_or_else(|| refuse("value", format!("{value:?} is no value")))?;
    if kind == Kind::Fail && operation == "cas" {
        record.kind = Kind::Ok;
        record.value = Value::Bool(false);
    }
    Ok(record)
}

/// `nil`, `3`, `[1 2]`; of the nemesis anything.
fn parse_value(text: &str) -> Option<Value> {
    if text == "nil" {
        return Some(Value::Nil);
    }
    if text.starts_with(':') {
        return Some(Value::from(text));
    }
    let Some(inside) = text.strip_prefix('[') else { return Some(Value::Int(text.parse().ok()?)) };
    let members = inside.strip_suffix(']')?.split_whitespace().map(|word| Some(Value::Int(word.parse().ok()?)));
    Some(Value::List(members.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_log_is_read() {
        let log = "INFO  jepsen.util - 3\t:invoke\t:cas\t[1 2]\nINFO  jepsen.util - 3\t:fail\t:cas\t[1 2]\n\
                   INFO  jepsen.util - 4\t:fail\t:read\t:timed-out\nINFO  jepsen.util - :nemesis\t:info\t:start\tnil\n\
                   INFO  jepsen.util - 5\t:ok\t:read\tnil\n";
        let records = read_etcd_log(log).unwrap();
        assert_eq!(records[0].1.value, Value::List(vec![Value::Int(1), Value::Int(2)]));
        assert_eq!((records[1].1.kind, &records[1].1.value), (Kind::Ok, &Value::Bool(false)));
        assert_eq!(records[2].1.kind, Kind::Info);
        assert_eq!(records[3].1.process, Process::Nemesis);
        assert_eq!((records[4].0, &records[4].1.value), (5, &Value::Nil));
    }

    #[test]
    fn what_is_malformed_is_refused_with_line_and_field() {
        let refusal = |text: &str| read_etcd_log(text).unwrap_err().to_string();
        assert!(refusal("hello").starts_with("line 1: record: not a line of the log"));
        assert_eq!(refusal("INFO jepsen.util - 3 :invoke"), "line 1: f: truncated: missing");
        assert_eq!(refusal("INFO jepsen.util - x :invoke :read nil"), "line 1: process: \"x\" is not a number");
        assert_eq!(refusal("INFO jepsen.util - 1 :ok :read [1"), "line 1: value: \"[1\" is no value");
    }
}
