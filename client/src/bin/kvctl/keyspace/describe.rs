//! `kvctl keyspace describe`: the wish, and per shard the fact beside it.

use super::find;
use crate::{
    TIMEOUT_DEFAULT,
    args::{Form, Globals},
    client,
    facts::Facts,
    output::{Output, bytes_json, escaped},
    status::{position_text, replica_json},
    table::{or_dash, staleness_text, table},
    text,
};
use kvorum_api::proto::{KeyspaceDescription, KeyspaceWish, ShardDescription, ShardReplica};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Letters of a split point that are shown.
const POINT_LETTERS_MAX: usize = 24;

pub async fn run(globals: &Globals, output: &Output, name: &str) -> anyhow::Result<ExitCode> {
    let admin = client(globals, TIMEOUT_DEFAULT)?.admin();
    let keyspace = find(&admin, name).await?;
    let reports = admin.node_status().await;
    let facts = Facts::of(&reports);
    if output.form == Form::Json {
        output.json(&keyspace_json(&keyspace, Some(&facts)))?;
        return Ok(ExitCode::SUCCESS);
    }
    output.line(&format!(
        "{} (id {}), map revision {}\nwish: {}\n",
        keyspace.name,
        keyspace.id,
        keyspace.map_revision,
        wish_text(&keyspace)
    ))?;
    output.line(&shards_table([&keyspace], &facts))?;
    let differences = keyspace.shards.iter().flat_map(|shard| {
        let differences = facts.differences(&keyspace, shard);
        (!differences.is_empty()).then(|| format!("! shard {}: {}", shard.id, differences.join("; ")))
    });
    let differences: Vec<String> = differences.collect();
    match differences.is_empty() {
        true => output.line("\nfact: as wished")?,
        false => output.line(&format!("\nfact: not all is as wished\n{}", differences.join("\n")))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The level as it is typed.
pub fn level_text(wish: &KeyspaceWish) -> String {
    match wish.staleness_ms_max {
        0 => wish.read_level.clone(),
        bound_ms => format!("{}:{bound_ms}ms", wish.read_level),
    }
}

/// The wish in one line.
pub fn wish_text(keyspace: &KeyspaceDescription) -> String {
    let wish = keyspace.wish.clone().unwrap_or_default();
    let shards = keyspace.shards.len();
    let leases = match wish.leases {
        Some(true) => ", leases",
        Some(false) | None => "",
    };
    format!(
        "mode {}, {shards} shard{} by {}, {} replica{}, reads {}, values up to {} bytes, changes {}{leases}",
        wish.mode,
        if shards == 1 { "" } else { "s" },
        wish.shard_by,
        wish.replicas,
        if wish.replicas == 1 { "" } else { "s" },
        level_text(&wish),
        wish.value_bytes_max,
        wish.changes,
    )
}

/// The part of the keyspace a shard holds, for people: keys by range, hashes in hexadecimal.
pub fn range_text(keyspace: &KeyspaceDescription, shard: &ShardDescription) -> String {
    let is_hash = keyspace.wish.as_ref().is_some_and(|wish| wish.shard_by == "hash");
    let point = |bytes: &[u8]| {
        if is_hash {
            return bytes.iter().take(2).map(|byte| format!("{byte:02x}")).collect::<String>();
        }
        let text = escaped(bytes);
        match text.char_indices().nth(POINT_LETTERS_MAX) {
            Some((cut, _)) => format!("{}…", &text[..cut]),
            None => text,
        }
    };
    format!("{}..{}", point(&shard.start), shard.end.as_deref().map(point).unwrap_or_default())
}

/// One row per shard; what is not as wished is marked.
pub fn shards_table<'a>(keyspaces: impl IntoIterator<Item = &'a KeyspaceDescription>, facts: &Facts<'_>) -> String {
    let mut rows = Vec::new();
    for keyspace in keyspaces {
        rows.extend(keyspace.shards.iter().map(|shard| row(keyspace, shard, facts)));
    }
    table(
        [
            "SHARD",
            "KEYSPACE",
            "RANGE",
            "STATE",
            "LEADER",
            "NODES",
            "BYTES",
            "POSITION",
            "STALENESS",
            "EPOCH",
            "IMAGES",
            "LEASES",
            "",
        ],
        rows,
    )
}

fn row(keyspace: &KeyspaceDescription, shard: &ShardDescription, facts: &Facts<'_>) -> [String; 13] {
    let replicas = facts.of_shard(shard.id);
    let leader = facts.leader(shard.id).or(shard.leader);
    let leads = |node: u64| replicas.iter().find(|fact| fact.node == node).map(|fact| fact.replica);
    let shown = leader.and_then(leads).or_else(|| replicas.first().map(|fact| fact.replica));
    let staleness = replicas.iter().map(|fact| fact.replica.staleness_ms).max().flatten();
    let is_unknown = replicas.iter().any(|fact| fact.replica.staleness_ms.is_none());
    let is_led_as_wished = leader == Some(shard.leader_wish);
    let is_as_wished = facts.differences(keyspace, shard).is_empty();
    [
        shard.id.to_string(),
        keyspace.name.clone(),
        range_text(keyspace, shard),
        shard.state.clone(),
        format!("{}{}", or_dash(leader), if is_led_as_wished { "" } else { "!" }),
        shard.replicas.iter().map(node_text).collect::<Vec<_>>().join(","),
        facts.bytes(shard.id).map_or_else(|| "-".to_owned(), text::bytes),
        shown.map_or_else(|| "-".to_owned(), position_text),
        staleness_text(staleness.filter(|_| !is_unknown)),
        shown.map_or(shard.epoch, |replica| replica.epoch).to_string(),
        shown.map_or_else(|| "-".to_owned(), |replica| replica.changes.clone()),
        shown.map_or("-", |replica| if replica.leases { "yes" } else { "no" }).to_owned(),
        if is_as_wished { String::new() } else { "!".to_owned() },
    ]
}

/// The node of a replica; one that comes or goes is marked.
fn node_text(replica: &ShardReplica) -> String {
    let mark = match replica.standing.as_str() {
        "joining" => "+",
        "leaving" => "-",
        _ => "",
    };
    format!("{mark}{}", replica.node)
}

/// Everything that is known of a keyspace; with `facts` what its replicas are, too.
pub fn keyspace_json(keyspace: &KeyspaceDescription, facts: Option<&Facts<'_>>) -> Value {
    let wish = keyspace.wish.clone().unwrap_or_default();
    let shard = |shard: &ShardDescription| {
        let mut document = shard_json(shard);
        if let Some(facts) = facts {
            let replicas = facts.of_shard(shard.id).iter();
            document["leader"] = json!(facts.leader(shard.id).or(shard.leader));
            document["bytes"] = json!(facts.bytes(shard.id));
            document["fact"] = replicas
                .map(|fact| {
                    let mut replica = replica_json(fact.replica);
                    replica["node"] = json!(fact.node);
                    replica
                })
                .collect();
            document["differences"] = json!(facts.differences(keyspace, shard));
        }
        document
    };
    json!({
        "name": keyspace.name,
        "id": keyspace.id,
        "map_revision": keyspace.map_revision,
        "created_ms": keyspace.created_ms,
        "wish": {
            "mode": wish.mode,
            "shard_by": wish.shard_by,
            "shards": wish.shards,
            "split_at": wish.split_at.iter().map(|point| bytes_json(point)).collect::<Vec<_>>(),
            "replicas": wish.replicas,
            "read_level": level_text(&wish),
            "value_bytes_max": wish.value_bytes_max,
            "changes": wish.changes,
            "leases": wish.leases,
        },
        "shards": keyspace.shards.iter().map(shard).collect::<Vec<_>>(),
    })
}

fn shard_json(shard: &ShardDescription) -> Value {
    json!({
        "id": shard.id,
        "start": bytes_json(&shard.start),
        "end": shard.end.as_deref().map(bytes_json),
        "epoch": shard.epoch,
        "incarnation": shard.incarnation,
        "state": shard.state,
        "leader": shard.leader,
        "leader_wish": shard.leader_wish,
        "nodes": shard.replicas.iter().map(|replica| replica.node).collect::<Vec<_>>(),
        "replicas": shard.replicas.iter().map(replica_of).collect::<Vec<_>>(),
    })
}

fn replica_of(replica: &ShardReplica) -> Value {
    json!({ "id": replica.id, "node": replica.node, "standing": replica.standing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_keys_or_hashes() {
        let keyspace = |shard_by: &str| KeyspaceDescription {
            wish: Some(KeyspaceWish { shard_by: shard_by.to_owned(), ..KeyspaceWish::default() }),
            ..KeyspaceDescription::default()
        };
        let shard = |start: &'static [u8], end: Option<&'static [u8]>| ShardDescription {
            start: start.into(),
            end: end.map(Into::into),
            ..ShardDescription::default()
        };
        assert_eq!(range_text(&keyspace("hash"), &shard(&[0x20, 0], Some(&[0x40, 0]))), "2000..4000");
        assert_eq!(range_text(&keyspace("range"), &shard(b"", Some(b"g\n"))), "..g\\n");
        assert_eq!(range_text(&keyspace("range"), &shard(b"g", None)), "g..");
        let long = range_text(&keyspace("range"), &shard(&[b'k'; 100], None));
        assert_eq!(long, format!("{}…..", "k".repeat(24)));
    }
}
