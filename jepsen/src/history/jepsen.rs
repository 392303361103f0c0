//! Histories of Jepsen's, in EDN: read what others recorded, and let other checkers read ours.
//!
//! ```text
//!   {:process 0, :type :invoke, :f :cas, :value [1 2], :time 10}        ours in the same words:
//!   {:process 0, :type :ok,     :f :cas, :value [1 2], :time 15}        process, kind, operation, value, time_ns
//! ```
//!
//! Without `:time` the order of the lines is the time. A value tagged as independent (`#jepsen.independent/tuple [key
//! value]`) is a value on that key. Without `:f` an operation is a transaction, as in Elle's tests.
//!
//! **Invariant.** Records that were read from EDN and written as EDN are read as the same records.

use super::{
    edn::{Edn, read_forms},
    error::Malformed,
    jsonl::effect_word,
    record::{Kind, Process, Rank, Receipt, Record, parse_level},
    value::Value,
};
use kvorum_api::{Effect, ReadLevel};
use std::{collections::BTreeMap, io::Write};

const TRANSACTION: &str = "txn";

/// Every record of a text, with its line.
pub fn read_edn(text: &str) -> Result<Vec<(usize, Record)>, Malformed> {
    let forms = read_forms(text)?;
    let has_time = forms.iter().all(|(_, form)| matches!(form.field("time"), Some(Edn::Int(_))));
    let mut records = Vec::with_capacity(forms.len());
    for (at, (line, form)) in forms.into_iter().enumerate() {
        let time_ns = if has_time { None } else { Some(at as u64) };
        records.push((line, Form { line, form: &form }.record(time_ns)?));
    }
    Ok(records)
}

struct Form<'a> {
    line: usize,
    form: &'a Edn,
}

impl Form<'_> {
    fn record(&self, time_ns: Option<u64>) -> Result<Record, Malformed> {
        let unwrapped = if let Edn::Tagged(_, inside) = self.form { inside } else { self.form };
        if !matches!(unwrapped, Edn::Map(_)) {
            return Err(self.refuse("record", format!("{unwrapped} is not a map")));
        }
        let (key, value) = self.key_and_value();
        let kind = self.word("type")?.ok_or_else(|| self.refuse("type", "missing"))?;
        Ok(Record {
            time_ns: match time_ns {
                Some(time_ns) => time_ns,
                None => self.number("time")?.ok_or_else(|| self.refuse("time", "missing"))?,
            },
            process: self.process()?,
            kind: Kind::parse(&kind)
                .ok_or_else(|| self.refuse("type", format!(":{kind} is none of :invoke, :ok, :fail, :info")))?,
            operation: self.word("f")?.unwrap_or_else(|| TRANSACTION.to_owned()),
            key,
            value,
            level: self.level("level")?,
            error: self.form.field("error").filter(|form| **form != Edn::Nil).map(plain_text),
            effect: match self.word("effect")?.as_deref() {
                None => None,
                Some("none") => Some(Effect::None),
                Some("unknown") => Some(Effect::Unknown),
                Some(word) => return Err(self.refuse("effect", format!(":{word} is neither :none nor :unknown"))),
            },
            receipt: self.receipt()?,
            session: self.word("session")?,
        })
    }

    fn process(&self) -> Result<Process, Malformed> {
        match self.form.field("process") {
            Some(Edn::Int(number)) => match u64::try_from(*number) {
                Ok(number) => Ok(Process::Client(number)),
                Err(_) => Err(self.refuse("process", format!("{number} is below 0"))),
            },
            Some(Edn::Keyword(_)) => Ok(Process::Nemesis),
            Some(other) => Err(self.refuse("process", format!("{other} is neither a number nor a keyword"))),
            None => Err(self.refuse("process", "missing")),
        }
    }

    fn key_and_value(&self) -> (Option<String>, Value) {
        let key = self.form.field("key").filter(|form| **form != Edn::Nil).map(plain_text);
        match self.form.field("value") {
            Some(Edn::Tagged(tag, inside)) if tag.starts_with("jepsen.independent") => match &**inside {
                Edn::List(pair) if pair.len() == 2 => (Some(plain_text(&pair[0])), value_of(&pair[1])),
                other => (key, value_of(other)),
            },
            Some(form) => (key, value_of(form)),
            None => (key, Value::Nil),
        }
    }

    fn receipt(&self) -> Result<Option<Receipt>, Malformed> {
        let Some(form @ Edn::Map(_)) = self.form.field("receipt") else { return Ok(None) };
        let inside = Form { line: self.line, form };
        Ok(Some(Receipt {
            level: inside.level("level")?,
            within_ms: inside.number("within-ms")?,
            version: inside.rank("version")?,
            shard: inside.word("shard")?,
            position: inside.rank("position")?,
            node: inside.word("node")?,
        }))
    }

    fn level(&self, name: &str) -> Result<Option<ReadLevel>, Malformed> {
        let Some(word) = self.word(name)? else { return Ok(None) };
        parse_level(&word).map(Some).ok_or_else(|| self.refuse(name, format!("{word:?} is no level")))
    }

    fn rank(&self, name: &str) -> Result<Option<Rank>, Malformed> {
        let numbers = match self.form.field(name) {
            None | Some(Edn::Nil) => return Ok(None),
            Some(Edn::List(numbers)) => numbers.as_slice(),
            Some(number) => std::slice::from_ref(number),
        };
        let number = |form: &Edn| if let Edn::Int(number) = form { u64::try_from(*number).ok() } else { None };
        let numbers: Option<Vec<u64>> = numbers.iter().map(number).collect();
        numbers
            .map(|numbers| Some(Rank(numbers)))
            .ok_or_else(|| self.refuse(name, "neither a number nor a list of them"))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Malformed> {
        match self.form.field(name) {
            None | Some(Edn::Nil) => Ok(None),
            Some(Edn::Int(number)) => {
                u64::try_from(*number).map(Some).map_err(|_| self.refuse(name, format!("{number} is below 0")))
            }
            Some(other) => Err(self.refuse(name, format!("{other} is not a whole number"))),
        }
    }

    fn word(&self, name: &str) -> Result<Option<String>, Malformed> {
        match self.form.field(name) {
            None | Some(Edn::Nil) => Ok(None),
            Some(Edn::Keyword(word) | Edn::Symbol(word) | Edn::Text(word)) => Ok(Some(word.clone())),
            Some(other) => Err(self.refuse(name, format!("{other} is not a word"))),
        }
    }

    fn refuse(&self, field: &str, reason: impl Into<String>) -> Malformed {
        Malformed::new(self.line, field, reason)
    }
}

/// A form as text: what is text already without its quotes.
fn plain_text(form: &Edn) -> String {
    match form {
        Edn::Text(word) | Edn::Keyword(word) | Edn::Symbol(word) => word.clone(),
        Edn::Nil | Edn::Bool(_) | Edn::Int(_) | Edn::List(_) | Edn::Map(_) | Edn::Tagged(..) => form.to_string(),
    }
}

fn value_of(form: &Edn) -> Value {
    match form {
        Edn::Nil => Value::Nil,
        Edn::Bool(yes) => Value::Bool(*yes),
        Edn::Int(number) => Value::Int(*number),
        Edn::Text(word) | Edn::Keyword(word) | Edn::Symbol(word) => Value::Text(word.clone()),
        Edn::List(members) => Value::List(members.iter().map(value_of).collect()),
        Edn::Map(members) => Value::Map(
            members.iter().map(|(key, member)| (plain_text(key), value_of(member))).collect::<BTreeMap<_, _>>(),
        ),
        Edn::Tagged(_, inside) => value_of(inside),
    }
}

/// Writes records as Jepsen does, one map a line.
pub fn write_edn<'a>(writer: &mut impl Write, records: impl IntoIterator<Item = &'a Record>) -> std::io::Result<()> {
    for (index, record) in records.into_iter().enumerate() {
        writeln!(writer, "{}", form_of(index, record))?;
    }
    Ok(())
}

fn form_of(index: usize, record: &Record) -> Edn {
    let is_transaction = record.operation == TRANSACTION;
    let mut members = vec![
        ("index", Edn::Int(index as i64)),
        ("time", Edn::Int(i64::try_from(record.time_ns).unwrap_or(i64::MAX))),
        ("process", process_form(record.process)),
        ("type", Edn::Keyword(record.kind.as_str().to_owned())),
        ("f", word_form(&record.operation)),
    ];
    members.extend(record.key.as_deref().map(|key| ("key", Edn::Text(key.to_owned()))));
    let value = if is_transaction { transaction_form(&record.value) } else { form_of_value(&record.value) };
    members.push(("value", value));
    members.extend(record.level.map(|level| ("level", Edn::Text(level.to_string()))));
    members.extend(record.error.as_deref().map(|error| ("error", Edn::Text(error.to_owned()))));
    members.extend(record.effect.map(|effect| ("effect", Edn::Keyword(effect_word(effect).to_owned()))));
    members.extend(record.receipt.as_ref().map(|receipt| ("receipt", receipt_form(receipt))));
    members.extend(record.session.as_deref().map(|session| ("session", Edn::Text(session.to_owned()))));
    map_form(members)
}

fn map_form(members: Vec<(&str, Edn)>) -> Edn {
    Edn::Map(members.into_iter().map(|(name, member)| (Edn::Keyword(name.to_owned()), member)).collect())
}

fn process_form(process: Process) -> Edn {
    match process {
        Process::Client(number) => Edn::Int(i64::try_from(number).unwrap_or(i64::MAX)),
        Process::Nemesis => Edn::Keyword("nemesis".to_owned()),
    }
}

fn receipt_form(receipt: &Receipt) -> Edn {
    let rank =
        |rank: &Rank| Edn::List(rank.0.iter().map(|n| Edn::Int(i64::try_from(*n).unwrap_or(i64::MAX))).collect());
    let mut members = Vec::new();
    members.extend(receipt.level.map(|level| ("level", Edn::Text(level.to_string()))));
    members.extend(receipt.within_ms.map(|ms| ("within-ms", Edn::Int(i64::try_from(ms).unwrap_or(i64::MAX)))));
    members.extend(receipt.version.as_ref().map(|version| ("version", rank(version))));
    members.extend(receipt.shard.as_deref().map(|shard| ("shard", Edn::Text(shard.to_owned()))));
    members.extend(receipt.position.as_ref().map(|position| ("position", rank(position))));
    members.extend(receipt.node.as_deref().map(|node| ("node", Edn::Text(node.to_owned()))));
    map_form(members)
}

/// A word that can be a keyword is one, as other checkers expect of names.
fn word_form(word: &str) -> Edn {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.?!*+".contains(letter);
    let is_keyword = word.starts_with(|letter: char| letter.is_ascii_alphabetic()) && word.chars().all(is_plain);
    if is_keyword { Edn::Keyword(word.to_owned()) } else { Edn::Text(word.to_owned()) }
}

/// `[[:append :x 1] [:r :x nil]]`: names of steps and keys as keywords, which is how Elle knows them.
fn transaction_form(value: &Value) -> Edn {
    let step = |member: &Value| match member {
        Value::List(parts) => Edn::List(
            parts
                .iter()
                .enumerate()
                .map(|(at, part)| match part {
                    Value::Text(word) if at < 2 => word_form(word),
                    other => form_of_value(other),
                })
                .collect(),
        ),
        other => form_of_value(other),
    };
    match value {
        Value::List(steps) => Edn::List(steps.iter().map(step).collect()),
        other => form_of_value(other),
    }
}

fn form_of_value(value: &Value) -> Edn {
    match value {
        Value::Nil => Edn::Nil,
        Value::Bool(yes) => Edn::Bool(*yes),
        Value::Int(number) => Edn::Int(*number),
        Value::Text(text) => Edn::Text(text.clone()),
        Value::List(members) => Edn::List(members.iter().map(form_of_value).collect()),
        Value::Map(members) => {
            Edn::Map(members.iter().map(|(name, member)| (word_form(name), form_of_value(member))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str) -> Vec<Record> {
        read_edn(text).unwrap().into_iter().map(|(_, record)| record).collect()
    }

    fn rewritten(records: &[Record]) -> String {
        let mut written = Vec::new();
        write_edn(&mut written, records).unwrap();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn a_fixture_is_read_and_comes_back() {
        let text = r#"[{:process 0, :type :invoke, :f :cas, :value [1 2], :time 10, :index 0}
            #jepsen.history.Op{:process 0, :type :info, :f :cas, :value [1 2], :time 12, :error [:timeout "x"]}
            {:process :nemesis, :type :info, :f :start-partition, :value {:n1 ["n2"]}, :time 13}
            {:process 1, :type :invoke, :f :read, :value #jepsen.independent/tuple [7 nil], :time 14, :level "session"}
            {:process 1, :type :ok, :f :read, :key "7", :value 3, :time 15
             :receipt {:level "bounded(9ms)", :version [4 5], :within-ms 9, :shard "s", :position 3, :node "n1"}}]"#;
        let read = records(text);
        assert_eq!(read[0].value, Value::List(vec![Value::Int(1), Value::Int(2)]));
        assert_eq!((read[1].kind, read[1].error.as_deref()), (Kind::Info, Some("[:timeout \"x\"]")));
        assert_eq!(read[2].process, Process::Nemesis);
        assert_eq!((read[3].key.as_deref(), &read[3].value), (Some("7"), &Value::Nil));
        assert_eq!(read[4].receipt.as_ref().unwrap().position, Some(Rank(vec![3])));
        assert_eq!(records(&rewritten(&read)), read);
    }

    #[test]
    fn transactions_come_back_as_elle_knows_them() {
        let text = "{:process 0, :type :ok, :value [[:append :x 1] [:r :y nil] [:r :z [1 2]]]}\n";
        let read = records(text);
        assert_eq!(read[0].operation, "txn");
        assert!(rewritten(&read).contains(":f :txn, :value [[:append :x 1] [:r :y nil] [:r :z [1 2]]]}"));
        assert_eq!(records(&rewritten(&read)), read);
    }

    #[test]
    fn what_is_malformed_is_refused_with_line_and_field() {
        let refusal = |text: &str| read_edn(text).unwrap_err().to_string();
        assert_eq!(refusal("{:process 0, :f :read}"), "line 1: type: missing");
        assert_eq!(
            refusal("{:process 0, :type :done, :f :read}"),
            "line 1: type: :done is none of :invoke, :ok, :fail, :info"
        );
        assert_eq!(refusal("{:type :ok, :f :read}"), "line 1: process: missing");
        assert_eq!(refusal("{:process -1, :type :ok}"), "line 1: process: -1 is below 0");
        assert_eq!(refusal("{:process 0, :type :ok}\n7"), "line 2: record: 7 is not a map");
    }
}
