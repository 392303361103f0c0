//! `kvctl shard`: where keys lie, who leads them, and who should.

use crate::{
    TIMEOUT_DEFAULT,
    args::{Form, Globals, Shard, Transfer},
    client,
    exit::NotFound,
    facts::Facts,
    keyspace::{find, keyspace_json, range_text, shards_table},
    output::Output,
    status::position_text,
    table::{or_dash, staleness_text, table},
};
use kvorum_api::{NodeId, ShardId, proto::KeyspaceDescription};
use kvorum_client::admin::Admin;
use serde_json::{Value, json};
use std::process::ExitCode;

pub async fn run(
    globals: &Globals,
    output: &Output,
    command: Shard,
    is_keyspace_given: bool,
) -> anyhow::Result<ExitCode> {
    let admin = client(globals, TIMEOUT_DEFAULT)?.admin();
    match command {
        Shard::List => {
            let keyspaces = match is_keyspace_given {
                true => vec![find(&admin, &globals.keyspace).await?],
                false => admin.keyspaces(&[]).await?,
            };
            list(&admin, output, &keyspaces).await
        }
        Shard::Describe { id } => describe(&admin, output, id).await,
        Shard::TransferLeader(transfer) => transfer_leader(&admin, output, transfer).await,
    }
}

async fn list(admin: &Admin, output: &Output, keyspaces: &[KeyspaceDescription]) -> anyhow::Result<ExitCode> {
    let reports = admin.node_status().await;
    let facts = Facts::of(&reports);
    match output.form {
        Form::Json => {
            let shards = keyspaces.iter().flat_map(|keyspace| shards_json(keyspace, &facts));
            output.json(&json!({ "shards": shards.collect::<Vec<_>>() }))?;
        }
        Form::Table | Form::Raw => output.line(&shards_table(keyspaces, &facts))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The shards of a keyspace, each with the keyspace it is of.
fn shards_json(keyspace: &KeyspaceDescription, facts: &Facts<'_>) -> Vec<Value> {
    let mut document = keyspace_json(keyspace, Some(facts));
    let mut shards = document["shards"].as_array_mut().map(std::mem::take).unwrap_or_default();
    for shard in &mut shards {
        shard["keyspace"] = json!(keyspace.name);
    }
    shards
}

async fn describe(admin: &Admin, output: &Output, id: u64) -> anyhow::Result<ExitCode> {
    let mut keyspaces = admin.keyspaces(&[]).await?;
    for keyspace in &mut keyspaces {
        keyspace.shards.retain(|shard| shard.id == id);
    }
    let found = keyspaces.iter().find_map(|keyspace| Some((keyspace, keyspace.shards.first()?)));
    let Some((keyspace, shard)) = found else {
        return Err(NotFound(format!("there is no shard {id}: see `kvctl shard list`")).into());
    };
    let reports = admin.node_status().await;
    let facts = Facts::of(&reports);
    if output.form == Form::Json {
        let described = shards_json(keyspace, &facts).pop().unwrap_or_default();
        output.json(&described)?;
        return Ok(ExitCode::SUCCESS);
    }
    let range = range_text(keyspace, shard);
    let leader = or_dash(facts.leader(id).or(shard.leader));
    output.line(&format!(
        "shard {id} of {}: {range}, {}, epoch {}, led by {leader}, should be led by {}\n",
        keyspace.name, shard.state, shard.epoch, shard.leader_wish
    ))?;
    let rows = facts.of_shard(id).iter().map(|fact| {
        let replica = fact.replica;
        [
            fact.node.to_string(),
            replica.replica.to_string(),
            replica.role.clone(),
            position_text(replica),
            replica.committed_index.to_string(),
            replica.flushed_index.to_string(),
            replica.rolling_hash.chars().take(12).collect(),
            staleness_text(replica.staleness_ms),
            replica.epoch.to_string(),
            replica.changes.clone(),
            if replica.leases { "yes" } else { "no" }.to_owned(),
        ]
    });
    let header = [
        "NODE",
        "REPLICA",
        "ROLE",
        "POSITION",
        "COMMITTED",
        "FLUSHED",
        "HASH",
        "STALENESS",
        "EPOCH",
        "IMAGES",
        "LEASES",
    ];
    output.line(&table(header, rows))?;
    for difference in facts.differences(keyspace, shard) {
        output.line(&format!("! {difference}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn transfer_leader(admin: &Admin, output: &Output, transfer: Transfer) -> anyhow::Result<ExitCode> {
    let leader = admin.transfer_leader(ShardId(transfer.id), transfer.to.map(NodeId)).await?;
    match output.form {
        Form::Json => output.json(&json!({ "shard": transfer.id, "leader": leader.0 }))?,
        Form::Table | Form::Raw => output.line(&format!("shard {} is led by node {leader}", transfer.id))?,
    }
    Ok(ExitCode::SUCCESS)
}
