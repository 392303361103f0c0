//! `kvctl keyspace`: what keyspaces there are, and what they are asked to be.

mod describe;
mod ready;
mod wish;

use crate::{
    TIMEOUT_DEFAULT, TIMEOUT_LONG,
    args::{Alter, Create, DropKeyspace, Form, Globals, Keyspace},
    client,
    exit::{NotFound, Usage, complain},
    output::Output,
    table::table,
};
pub use describe::{keyspace_json, range_text, shards_table};
use kvorum_api::proto::KeyspaceDescription;
use kvorum_client::{ClientError, admin::Admin};
use serde_json::{Value, json};
use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

pub async fn run(globals: &Globals, output: &Output, command: Keyspace) -> anyhow::Result<ExitCode> {
    match command {
        Keyspace::Create(create) => self::create(globals, output, create).await,
        Keyspace::Alter(alter) => self::alter(globals, output, alter).await,
        Keyspace::Describe(name) => describe::run(globals, output, &name.name).await,
        Keyspace::List => list(globals, output).await,
        Keyspace::Drop(drop) => drop_keyspace(globals, output, drop).await,
        Keyspace::Capabilities => capabilities(globals, output).await,
    }
}

/// The keyspace of that name.
pub async fn find(admin: &Admin, name: &str) -> anyhow::Result<KeyspaceDescription> {
    let mut found = admin.keyspaces(&[name]).await?;
    found.retain(|keyspace| keyspace.name == name);
    found.pop().ok_or_else(|| NotFound(format!("there is no keyspace {name}: see `kvctl keyspace list`")).into())
}

/// The keyspace that -k names, for a command about its keys: there, a wrong name is a wrong request.
pub async fn target(admin: &Admin, name: &str) -> anyhow::Result<KeyspaceDescription> {
    find(admin, name).await.map_err(|error| {
        let client = error.downcast_ref::<ClientError>();
        let is_unknown = client.and_then(ClientError::failure).is_some_and(|failure| failure.reason == "NOT_FOUND");
        match is_unknown || error.is::<NotFound>() {
            true => Usage(format!("unknown keyspace {name}: choose one with -k NAME, of `kvctl keyspace list`")).into(),
            false => error,
        }
    })
}

async fn create(globals: &Globals, output: &Output, create: Create) -> anyhow::Result<ExitCode> {
    let name = create.keyspace.name.clone();
    let wish = wish::of_create(create).map_err(Usage)?;
    let timeout = globals.timeout.unwrap_or(TIMEOUT_LONG);
    let admin = client(globals, TIMEOUT_LONG)?.admin();
    let created = admin.create_keyspace(&name, wish).await?;
    let ready = ready::wait(&admin, created, timeout, output).await?;
    match output.form {
        Form::Json => output.json(&keyspace_json(&ready, None))?,
        Form::Table | Form::Raw => {
            let shards = ready.shards.len();
            let plural = if shards == 1 { "" } else { "s" };
            output.line(&format!("created {name} (id {}): {shards} shard{plural}, ready and led", ready.id))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn alter(globals: &Globals, output: &Output, alter: Alter) -> anyhow::Result<ExitCode> {
    let wish = wish::of_alter(alter.wish).map_err(Usage)?;
    let admin = client(globals, TIMEOUT_DEFAULT)?.admin();
    let altered = admin.alter_keyspace(&alter.keyspace.name, wish).await?;
    match output.form {
        Form::Json => output.json(&keyspace_json(&altered, None))?,
        Form::Table | Form::Raw => {
            output.line(&format!("altered {} (id {}): {}", altered.name, altered.id, describe::wish_text(&altered)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(globals: &Globals, output: &Output) -> anyhow::Result<ExitCode> {
    let keyspaces = client(globals, TIMEOUT_DEFAULT)?.admin().keyspaces(&[]).await?;
    if output.form == Form::Json {
        let keyspaces: Vec<Value> = keyspaces.iter().map(|keyspace| keyspace_json(keyspace, None)).collect();
        output.json(&json!({ "keyspaces": keyspaces }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = keyspaces.iter().map(|keyspace| {
        let wish = keyspace.wish.clone().unwrap_or_default();
        let ready = keyspace.shards.iter().filter(|shard| shard.state == "ready").count();
        [
            keyspace.name.clone(),
            keyspace.id.to_string(),
            wish.mode.clone(),
            wish.shard_by.clone(),
            keyspace.shards.len().to_string(),
            ready.to_string(),
            wish.replicas.to_string(),
            describe::level_text(&wish),
        ]
    });
    output.line(&table(["KEYSPACE", "ID", "MODE", "SHARD BY", "SHARDS", "READY", "REPLICAS", "READ LEVEL"], rows))?;
    Ok(ExitCode::SUCCESS)
}

async fn drop_keyspace(globals: &Globals, output: &Output, drop: DropKeyspace) -> anyhow::Result<ExitCode> {
    let name = &drop.keyspace.name;
    if !drop.yes {
        confirm(name)?;
    }
    let id = client(globals, TIMEOUT_DEFAULT)?.admin().drop_keyspace(name).await?;
    match output.form {
        Form::Json => output.json(&json!({ "name": name, "id": id, "dropped": true }))?,
        Form::Table | Form::Raw => output.line(&format!("dropped {name} (id {id})"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whoever sits at a terminal types the name; nobody else is asked.
fn confirm(name: &str) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Usage(format!("dropping {name} drops everything in it: say --yes")).into());
    }
    complain(&format!("dropping {name} drops everything in it. Type its name to go on:"));
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    if line.trim_end_matches(['\r', '\n']) == name {
        return Ok(());
    }
    Err(Usage(format!("that is not {name}: nothing was dropped")).into())
}

async fn capabilities(globals: &Globals, output: &Output) -> anyhow::Result<ExitCode> {
    let rows = client(globals, TIMEOUT_DEFAULT)?.admin().capabilities().await?;
    if output.form == Form::Json {
        let rows: Vec<Value> =
            rows.iter().map(|row| json!({ "feature": row.feature, "cp": row.cp, "ap": row.ap })).collect();
        output.json(&json!({ "capabilities": rows }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = rows.into_iter().map(|row| [row.feature, row.cp, row.ap]);
    output.line(&table(["FEATURE", "CP", "AP"], rows))?;
    Ok(ExitCode::SUCCESS)
}
