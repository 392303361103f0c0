//! `kvctl shard`: where keys lie, who leads them, and who should.

use crate::{
    TIMEOUT_DEFAULT,
    args::{Form, Globals, MoveReplica, Shard, ShardName, Transfer},
    client,
    exit::NotFound,
    facts::Facts,
    foresee,
    keyspace::{find, keyspace_json, range_text, shards_table},
    operator::{self, operator_json, operator_line},
    output::Output,
    status::position_text,
    table::{or_dash, staleness_text, table},
    text,
};
use kvorum_api::{
    NodeId, ShardId,
    proto::{KeyspaceDescription, ShardDescription},
};
use kvorum_client::{admin::Admin, operators::ListOperatorsRequest};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Shards that a message names.
const SHARDS_NAMED_MAX: usize = 16;

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
        Shard::Move(wanted) => move_replica(&admin, output, wanted).await,
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
    let wanted = ListOperatorsRequest { shard: Some(id), ..ListOperatorsRequest::default() };
    let operators = admin.operators(wanted).await?;
    if output.form == Form::Json {
        let mut described = shards_json(keyspace, &facts).pop().unwrap_or_default();
        described["operators"] = json!(operators.iter().map(operator_json).collect::<Vec<_>>());
        output.json(&described)?;
        return Ok(ExitCode::SUCCESS);
    }
    let range = range_text(keyspace, shard);
    let leader = or_dash(facts.leader(id).or(shard.leader));
    let bytes = facts.bytes(id).map(|bytes| format!("about {}", text::bytes(bytes)));
    let bytes = bytes.unwrap_or_else(|| "of unknown size".to_owned());
    output.line(&format!(
        "shard {id} of {}: {range}, {bytes}, {}, epoch {}, led by {leader}, should be led by {}\n",
        keyspace.name, shard.state, shard.epoch, shard.leader_wish
    ))?;
    output.line(&replicas(shard, &facts))?;
    for operator in &operators {
        output.line(&format!("operator {}", operator_line(operator)))?;
    }
    for difference in facts.differences(keyspace, shard) {
        output.line(&format!("! {difference}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One row per replica, as its node tells it.
fn replicas(shard: &ShardDescription, facts: &Facts<'_>) -> String {
    let rows = facts.of_shard(shard.id).iter().map(|fact| {
        let replica = fact.replica;
        let placed = shard.replicas.iter().find(|placed| placed.id == replica.replica);
        [
            fact.node.to_string(),
            replica.replica.to_string(),
            placed.map_or_else(|| "gone".to_owned(), |placed| placed.standing.clone()),
            replica.role.clone(),
            replica.bytes.map_or_else(|| "-".to_owned(), text::bytes),
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
        "STANDING",
        "ROLE",
        "BYTES",
        "POSITION",
        "COMMITTED",
        "FLUSHED",
        "HASH",
        "STALENESS",
        "EPOCH",
        "IMAGES",
        "LEASES",
    ];
    table(header, rows)
}

/// The shard of that name; a keyspace that is named must be its own.
async fn named(admin: &Admin, name: &ShardName) -> anyhow::Result<ShardId> {
    if let Some(keyspace) = &name.keyspace {
        let found = find(admin, keyspace).await?;
        if !found.shards.iter().any(|shard| shard.id == name.id) {
            let named = found.shards.iter().take(SHARDS_NAMED_MAX);
            let of: Vec<String> = named.map(|shard| shard.id.to_string()).collect();
            let more = if found.shards.len() > of.len() { ", …" } else { "" };
            let (id, of) = (name.id, of.join(", "));
            return Err(NotFound(format!("there is no shard {id} of {keyspace}: it has {of}{more}")).into());
        }
    }
    Ok(ShardId(name.id))
}

async fn move_replica(admin: &Admin, output: &Output, wanted: MoveReplica) -> anyhow::Result<ExitCode> {
    let shard = named(admin, &wanted.shard).await?;
    let seats = (NodeId(wanted.from), NodeId(wanted.to));
    let reply = admin.move_replica(shard, seats, wanted.dry_run).await?;
    if wanted.dry_run {
        return foresee::show(output, &reply);
    }
    operator::made(admin, output, reply, wanted.waiting.wait).await
}

async fn transfer_leader(admin: &Admin, output: &Output, transfer: Transfer) -> anyhow::Result<ExitCode> {
    let shard = named(admin, &transfer.shard).await?;
    let reply = admin.transfer_leader(shard, transfer.to.map(NodeId), transfer.dry_run).await?;
    if transfer.dry_run {
        return foresee::show(output, &reply);
    }
    if transfer.no_wait {
        return operator::made(admin, output, reply, None).await;
    }
    let ended = operator::awaited(admin, &reply, Some(transfer.wait)).await?;
    let leader = ended.to_node.unwrap_or_default();
    match output.form {
        Form::Json => output.json(&json!({ "shard": shard.0, "leader": leader, "operator": ended.id }))?,
        Form::Table | Form::Raw => output.line(&format!("shard {shard} is led by node {leader}"))?,
    }
    Ok(ExitCode::SUCCESS)
}
