//! One key at a time: get, put, del, cas, incr.

use crate::{
    args::{CompareAndSet, Delete, Form, Get, Globals, If, Increment, Put},
    exit::{CONDITION_FAILED, NOT_FOUND, Usage, complain},
    output::{Output, bytes_json, entry_json, escaped, receipt_json, single_json},
    session::Access,
    text,
};
use bytes::Bytes;
use kvorum_client::{ClientError, Condition, OperationStatus, Write, Written};
use serde_json::json;
use std::{future::IntoFuture, os::unix::ffi::OsStringExt as _, process::ExitCode};

pub async fn get(globals: &Globals, output: &Output, get: Get) -> anyhow::Result<ExitCode> {
    let key = text::key(get.key);
    let access = Access::open(globals)?;
    let mut request = access.get(&key);
    if let Some(level) = globals.level {
        request = request.level(level);
    }
    let reply = access.keeping(request.await)?;
    output.receipt(&reply.receipt);
    match (&reply.entry, output.form) {
        (Some(entry), Form::Table) => output.line(&escaped(&entry.value))?,
        (Some(entry), Form::Raw) => output.raw(&entry.value)?,
        (Some(entry), Form::Json) => {
            let mut document = entry_json(entry);
            document["found"] = json!(true);
            document["receipt"] = receipt_json(&reply.receipt);
            output.json(&document)?;
        }
        (None, Form::Json) => {
            output.json(&json!({ "key": bytes_json(&key), "found": false, "receipt": receipt_json(&reply.receipt) }))?
        }
        (None, Form::Table | Form::Raw) => complain(&format!("not found: {}", escaped(&key))),
    }
    Ok(if reply.entry.is_some() { ExitCode::SUCCESS } else { ExitCode::from(NOT_FOUND) })
}

pub async fn put(globals: &Globals, output: &Output, put: Put) -> anyhow::Result<ExitCode> {
    let access = Access::open(globals)?;
    let mut write = access.put(text::key(put.key), text::value(&put.value)?);
    if let Some(ttl) = put.ttl {
        write = write.ttl(ttl);
    }
    if let Some(condition) = condition(put.condition) {
        write = write.condition(condition);
    }
    if put.prev {
        write = write.return_previous();
    }
    answer(output, put.prev, &access, identified(globals, write).await)
}

pub async fn delete(globals: &Globals, output: &Output, delete: Delete) -> anyhow::Result<ExitCode> {
    let access = Access::open(globals)?;
    let mut write = access.delete(text::key(delete.key));
    if let Some(condition) = condition(delete.condition) {
        write = write.condition(condition);
    }
    if delete.prev {
        write = write.return_previous();
    }
    answer(output, delete.prev, &access, identified(globals, write).await)
}

pub async fn compare_and_set(globals: &Globals, output: &Output, cas: CompareAndSet) -> anyhow::Result<ExitCode> {
    if cas.old == "-" && cas.new == "-" {
        return Err(Usage("only one of OLD and NEW can come from stdin".to_owned()).into());
    }
    let access = Access::open(globals)?;
    let mut write = access.compare_and_set(text::key(cas.key), text::value(&cas.old)?, text::value(&cas.new)?);
    if let Some(ttl) = cas.ttl {
        write = write.ttl(ttl);
    }
    answer(output, false, &access, identified(globals, write).await)
}

pub async fn increment(globals: &Globals, output: &Output, increment: Increment) -> anyhow::Result<ExitCode> {
    let access = Access::open(globals)?;
    let mut write = access.increment(text::key(increment.key), increment.by);
    if increment.prev {
        write = write.return_previous();
    }
    let incremented = match identified(globals, write).await {
        Ok(incremented) => incremented,
        Err(error) => return answer(output, false, &access, Err(error)),
    };
    access.keep()?;
    let written = &incremented.written;
    output.receipt(&written.receipt);
    match output.form {
        Form::Table => {
            output.line(&incremented.number.to_string())?;
            if increment.prev {
                complain(&previous_text(written));
            }
        }
        Form::Raw => output.raw(format!("{}\n", incremented.number).as_bytes())?,
        Form::Json => output.json(&single_json(true, written))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn identified<O, T>(globals: &Globals, write: Write<O>) -> Result<T, ClientError>
where
    Write<O>: IntoFuture<Output = Result<T, ClientError>>,
{
    match globals.request_id {
        Some(id) => write.request_id(id).await,
        None => write.await,
    }
}

fn condition(condition: If) -> Option<Condition> {
    if condition.if_absent {
        return Some(Condition::Absent);
    }
    if condition.if_present {
        return Some(Condition::Present);
    }
    let value = condition.if_value.map(|value| Condition::Value(Bytes::from(value.into_vec())));
    condition.if_version.map(Condition::Version).or(value)
}

/// Prints the answer to a put or a delete, also when a condition did not hold: what is there is data, too.
fn answer(
    output: &Output,
    wants_previous: bool,
    access: &Access,
    outcome: Result<Written, ClientError>,
) -> anyhow::Result<ExitCode> {
    let (applied, written) = match outcome {
        Ok(written) => {
            access.keep()?;
            (true, written)
        }
        Err(ClientError::NotApplied(refused)) => {
            access.keep()?;
            if output.form != Form::Json {
                complain(&format!("error: {refused}"));
            }
            (false, refused.answer)
        }
        Err(error) => return access.keeping(Err(error)),
    };
    output.receipt(&written.receipt);
    match output.form {
        Form::Json => output.json(&single_json(applied, &written))?,
        Form::Table if applied => {
            output.line(if written.repeated { "OK (applied before, under this id)" } else { "OK" })?;
            if wants_previous {
                output.line(&previous_text(&written))?;
            }
        }
        Form::Table => {
            if let Some(previous) = written.previous() {
                output.line(&escaped(&previous.value))?;
            }
        }
        Form::Raw if applied && !wants_previous => {}
        Form::Raw => {
            if let Some(previous) = written.previous() {
                output.raw(&previous.value)?;
            }
        }
    }
    Ok(if applied { ExitCode::SUCCESS } else { ExitCode::from(CONDITION_FAILED) })
}

fn previous_text(written: &Written) -> String {
    match written.results.first() {
        Some(result) if result.previous_forgotten => {
            "previous: too large to remember for a repeated request".to_owned()
        }
        Some(result) if result.status == OperationStatus::Applied => match &result.previous {
            Some(entry) => format!("previous: {}", escaped(&entry.value)),
            None => "previous: none".to_owned(),
        },
        Some(_) | None => "previous: none".to_owned(),
    }
}
