//! `kvctl operator`: what is being done to shards, why, and what it waits for.
//!
//! **Invariant.** What is shown as waiting is what whoever leads the shard says, not what is guessed.

use crate::{
    TIMEOUT_DEFAULT,
    args::{Form, Globals, Operator, OperatorList},
    client,
    exit::{NotFound, NotYet, Undone},
    foresee,
    output::Output,
    table::{table, text_or_dash},
};
use kvorum_client::{
    OperatorId,
    admin::Admin,
    operators::{ChangeReply, ListOperatorsRequest, OperatorDescription},
};
use serde_json::{Value, json};
use std::{process::ExitCode, time::Duration};

pub async fn run(globals: &Globals, output: &Output, command: Operator) -> anyhow::Result<ExitCode> {
    let admin = client(globals, TIMEOUT_DEFAULT)?.admin();
    match command {
        Operator::List(wanted) => list(&admin, output, wanted).await,
        Operator::Show { id } => show(&admin, output, id).await,
        Operator::Cancel { id, dry_run } => cancel(&admin, output, id, dry_run).await,
    }
}

async fn list(admin: &Admin, output: &Output, wanted: OperatorList) -> anyhow::Result<ExitCode> {
    let OperatorList { all, shard, state } = wanted;
    let request = ListOperatorsRequest { ids: Vec::new(), all, shard, state: state.unwrap_or_default() };
    let operators = admin.operators(request).await?;
    let held_up = held_up(admin).await;
    if output.form == Form::Json {
        let operators: Vec<Value> = operators.iter().map(operator_json).collect();
        output.json(&json!({ "operators": operators, "held_up": held_up }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = operators.iter().map(|operator| {
        [
            operator.id.to_string(),
            operator.shard.to_string(),
            operator.keyspace.clone(),
            task_text(operator),
            operator.origin.clone(),
            operator.state.clone(),
            time_text(operator.age_ms),
            text_or_dash(&operator.cause),
            text_or_dash(if operator.failure.is_empty() { &operator.waits_for } else { &operator.failure }),
        ]
    });
    let header = ["OPERATOR", "SHARD", "KEYSPACE", "TASK", "BY", "STATE", "AGE", "WHY", "WAITS FOR"];
    output.line(&table(header, rows))?;
    for why in &held_up {
        output.line(&format!("! not done yet: {why}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the balancer would do and cannot, by whoever leads the metadata.
pub async fn held_up(admin: &Admin) -> Vec<String> {
    let reports = admin.node_status().await;
    let statuses = reports.into_iter().filter_map(|report| report.status.ok());
    statuses.map(|status| status.held_up).max_by_key(Vec::len).unwrap_or_default()
}

async fn one(admin: &Admin, id: u64) -> anyhow::Result<OperatorDescription> {
    let request = ListOperatorsRequest { ids: vec![id], ..ListOperatorsRequest::default() };
    let found = admin.operators(request).await?.into_iter().next();
    found.ok_or_else(|| NotFound(format!("there is no operator {id}: see `kvctl operator list --all`")).into())
}

async fn show(admin: &Admin, output: &Output, id: u64) -> anyhow::Result<ExitCode> {
    let operator = one(admin, id).await?;
    if output.form == Form::Json {
        output.json(&operator_json(&operator))?;
        return Ok(ExitCode::SUCCESS);
    }
    output.line(&format!("operator {}", operator_line(&operator)))?;
    output.line(&format!("asked for by: {}", operator.origin))?;
    output.line(&format!("why: {}", text_or_dash(&operator.cause)))?;
    let age = time_text(operator.age_ms);
    match operator.ended_ms {
        Some(_) => output.line(&format!("it ended after {age}"))?,
        None => {
            let waits_for = if operator.waits_for.is_empty() { "nothing that is known" } else { &operator.waits_for };
            output.line(&format!("it is {age} old, and waits for: {waits_for}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn cancel(admin: &Admin, output: &Output, id: u64, is_dry_run: bool) -> anyhow::Result<ExitCode> {
    let reply = admin.cancel_operator(OperatorId(id), is_dry_run).await?;
    if is_dry_run {
        return foresee::show(output, &reply);
    }
    made(admin, output, reply, None).await
}

/// Tells which operator was made or changed, after it has ended if it is to be waited for.
pub async fn made(
    admin: &Admin,
    output: &Output,
    reply: ChangeReply,
    wait: Option<Duration>,
) -> anyhow::Result<ExitCode> {
    let operator = match wait {
        Some(patience) => awaited(admin, &reply, Some(patience)).await?,
        None => reply.operator.unwrap_or_default(),
    };
    match output.form {
        Form::Json => output.json(&operator_json(&operator))?,
        Form::Table | Form::Raw => output.line(&format!("operator {}", operator_line(&operator)))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The operator that was made, once it is done.
pub async fn awaited(
    admin: &Admin,
    reply: &ChangeReply,
    patience: Option<Duration>,
) -> anyhow::Result<OperatorDescription> {
    let id = reply.operator.as_ref().map_or(0, |operator| operator.id);
    let operator = admin.operator_ended(OperatorId(id), patience).await?;
    let line = operator_line(&operator);
    match operator.state.as_str() {
        "done" => Ok(operator),
        "failed" | "cancelled" => Err(Undone(format!("operator {line}: everything is as it was")).into()),
        _ => {
            let why = match operator.waits_for.as_str() {
                "" => String::new(),
                waits_for => format!(", and waits for: {waits_for}"),
            };
            Err(NotYet(format!("operator {line}{why}. It goes on by itself: kvctl operator show {id}")).into())
        }
    }
}

/// What it does, to what, and how it stands, in one line.
pub fn operator_line(operator: &OperatorDescription) -> String {
    let OperatorDescription { id, shard, keyspace, state, failure, .. } = operator;
    let failure = if failure.is_empty() { String::new() } else { format!(" ({failure})") };
    format!("{id}: {} of shard {shard} of {keyspace}, {state}{failure}", task_text(operator))
}

/// What it does.
fn task_text(operator: &OperatorDescription) -> String {
    task_words(&operator.task, operator.from_node, operator.to_node)
}

/// The same of anything that has a task.
pub fn task_words(task: &str, from: Option<u64>, to: Option<u64>) -> String {
    let node = |node: Option<u64>| node.map_or_else(|| "?".to_owned(), |node| node.to_string());
    match task {
        "move" => format!("move {} -> {}", node(from), node(to)),
        "add" => format!("replica added on {}", node(to)),
        "remove" => format!("replica removed from {}", node(from)),
        "lead" => format!("leadership -> {}", node(to)),
        other => other.to_owned(),
    }
}

pub fn operator_json(operator: &OperatorDescription) -> Value {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "id": operator.id,
        "shard": operator.shard,
        "keyspace": operator.keyspace,
        "task": operator.task,
        "from": operator.from_node,
        "to": operator.to_node,
        "origin": operator.origin,
        "cause": text(&operator.cause),
        "state": operator.state,
        "failure": text(&operator.failure),
        "created_ms": operator.created_ms,
        "ended_ms": operator.ended_ms,
        "age_ms": operator.age_ms,
        "waits_for": text(&operator.waits_for),
    })
}

/// A time span, as roughly as a person asks.
fn time_text(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..600_000 => format!("{} s", ms / 1_000),
        600_000..36_000_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}
