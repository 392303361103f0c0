//! `kvctl cluster upgrade`: which behaviour the cluster applies, and raising it once every node can.

use crate::{
    TIMEOUT_DEFAULT,
    args::{Form, Globals, Upgrade},
    client,
    exit::complain,
    output::Output,
    table::{or_dash, table, text_or_dash},
};
use kvorum_client::upgrade::UpgradeReply;
use serde_json::{Value, json};
use std::{collections::BTreeMap, process::ExitCode};

pub async fn run(globals: &Globals, output: &Output, command: Upgrade) -> anyhow::Result<ExitCode> {
    let admin = client(globals, TIMEOUT_DEFAULT)?.admin();
    let reply = match command {
        Upgrade::Status => admin.upgrade_status().await?,
        Upgrade::Finalize => admin.finalize_upgrade().await?,
    };
    // A shard applies the new behaviour once its own log says so: how far that is, each node says of its replicas.
    let reports = admin.node_status().await;
    let statuses = reports.iter().filter_map(|report| report.status.as_ref().ok());
    let is_behind = |behaviour: u32| behaviour > 0 && behaviour < reply.behaviour;
    let behind: BTreeMap<u64, usize> = statuses
        .map(|status| (status.node, status.replicas.iter().filter(|replica| is_behind(replica.behaviour)).count()))
        .collect();
    show(output, &reply, &behind)?;
    Ok(ExitCode::SUCCESS)
}

fn show(output: &Output, reply: &UpgradeReply, behind: &BTreeMap<u64, usize>) -> anyhow::Result<()> {
    if output.form == Form::Json {
        let nodes: Vec<Value> = reply
            .nodes
            .iter()
            .map(|node| {
                json!({
                    "id": node.id,
                    "build": node.build,
                    "behaviour": node.behaviour,
                    "liveness": node.liveness,
                    "replicas_behind": behind.get(&node.id),
                })
            })
            .collect();
        return output.json(&json!({
            "behaviour": reply.behaviour,
            "newest": reply.newest,
            "can_be_raised": can_be_raised(reply),
            "nodes": nodes,
            "in_the_way": reply.in_the_way,
            "map_revision": reply.map_revision,
        }));
    }
    let rows = reply.nodes.iter().map(|node| {
        [
            node.id.to_string(),
            text_or_dash(&node.build),
            node.behaviour.to_string(),
            reply.behaviour.to_string(),
            or_dash(behind.get(&node.id)),
            text_or_dash(&node.liveness),
        ]
    });
    output.line(&table(["NODE", "BUILD", "CAN APPLY", "CLUSTER APPLIES", "REPLICAS BEHIND", "LIVENESS"], rows))?;
    for why in &reply.in_the_way {
        complain(&format!("in the way: {why}"));
    }
    let (standing, newest) = (reply.behaviour, reply.newest);
    if can_be_raised(reply) {
        output.line(&format!("every node can apply behaviour {newest}: kvctl cluster upgrade finalize"))
    } else if newest <= standing {
        output.line(&format!("the cluster applies behaviour {standing}, the newest that every node can"))
    } else {
        output.line(&format!("behaviour {newest} cannot be applied yet"))
    }
}

fn can_be_raised(reply: &UpgradeReply) -> bool {
    reply.newest > reply.behaviour && reply.in_the_way.is_empty()
}
