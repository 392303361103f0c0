//! `kvctl node add|drain|recommission|forget`: what becomes of a node.
//!
//! ```text
//!   add ─▶ a command for the new machine         drain ─▶ empty ─▶ stop the process ─▶ forget
//!                                                   └ recommission: it fills up again
//! ```

use crate::{
    args::{Drain, Form},
    exit::{NotYet, Usage, complain},
    foresee,
    node::node_state_text,
    operator::held_up,
    output::Output,
};
use kvorum_api::proto::NodeDescription;
use kvorum_client::{ClientError, NodeFate, NodeId, admin::Admin, operators::ChangeReply};
use serde_json::json;
use std::{process::ExitCode, time::Duration};
use tokio::time::{Instant, sleep};

/// Between two looks at a node that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Nodes that a new one is told of.
const GUIDES_MAX: usize = 3;

pub async fn add(admin: &Admin, output: &Output, address: Option<String>) -> anyhow::Result<ExitCode> {
    let nodes = admin.nodes().await?;
    let member = address.as_ref().and_then(|address| {
        let is_there = |node: &&NodeDescription| node.peer == *address || node.client == *address;
        nodes.iter().find(is_there).map(|node| (node, address))
    });
    if let Some((member, address)) = member {
        let (id, state) = (member.id, &member.liveness);
        return Err(Usage(format!(
            "node {id} is a member, at {address} ({state}): start it with its own data directory and without --join; if it \
             is gone for good, `kvctl node forget {id}` first"
        ))
        .into());
    }
    let mut guides: Vec<&NodeDescription> = nodes.iter().filter(|node| node.state == "active").collect();
    guides.sort_by_key(|node| (node.liveness != "alive", node.id));
    let join: Vec<&str> = guides.iter().take(GUIDES_MAX).map(|node| node.peer.as_str()).collect();
    let command = format!("kvd --config node.toml --join {} --cluster-key cluster.key", join.join(","));
    if output.form == Form::Json {
        output.json(&json!({ "command": command, "join": join }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let peer = address.unwrap_or_else(|| "HOST:7201".to_owned());
    output.line(&format!(
        "A node joins by being started, on an empty data directory, with the cluster's key (the file that \
         cluster.key_file names on the other nodes):\n\n  {command}\n\nnode.toml says where it listens and keeps its \
         data, and neither node.id nor [[cluster.nodes]]:\n\n  [node]\n  data = \"/var/lib/kvorum\"\n  listen_client = \
         \"HOST:7101\"\n  listen_peer = \"{peer}\"\n  listen_admin = \"HOST:7301\"\n\nIt is given its number and fills up \
         by itself: `kvctl node list`, `kvctl operator list`."
    ))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn drain(admin: &Admin, output: &Output, wanted: Drain) -> anyhow::Result<ExitCode> {
    let reply = admin.change_node(NodeId(wanted.id), NodeFate::Draining, wanted.dry_run).await?;
    if wanted.dry_run {
        return foresee::show(output, &reply);
    }
    let Some(patience) = wanted.waiting.wait else { return changed(output, wanted.id, &reply) };
    let is_empty = |node: Option<&NodeDescription>| node.is_none_or(|node| node.replicas == 0 && !node.metadata_voter);
    wait(admin, output, wanted.id, patience, is_empty).await?;
    done(output, wanted.id, "drained", "is empty: it can be stopped, and then forgotten")
}

pub async fn recommission(admin: &Admin, output: &Output, id: u64, is_dry_run: bool) -> anyhow::Result<ExitCode> {
    let reply = admin.change_node(NodeId(id), NodeFate::Active, is_dry_run).await?;
    if is_dry_run { foresee::show(output, &reply) } else { changed(output, id, &reply) }
}

pub async fn forget(admin: &Admin, output: &Output, wanted: Drain) -> anyhow::Result<ExitCode> {
    let reply = admin.change_node(NodeId(wanted.id), NodeFate::Forgotten, wanted.dry_run).await?;
    if wanted.dry_run {
        return foresee::show(output, &reply);
    }
    match wanted.waiting.wait {
        Some(patience) if reply.node.is_some() => {
            wait(admin, output, wanted.id, patience, |node| node.is_none()).await?;
            done(output, wanted.id, "forgotten", "is forgotten")
        }
        Some(_) => done(output, wanted.id, "forgotten", "is forgotten"),
        None => changed(output, wanted.id, &reply),
    }
}

/// What the node is after a change.
fn changed(output: &Output, id: u64, reply: &ChangeReply) -> anyhow::Result<ExitCode> {
    match &reply.node {
        None => done(output, id, "forgotten", "is forgotten"),
        Some(node) => done(output, id, &node.state, &format!("is {}", node_state_text(node))),
    }
}

fn done(output: &Output, id: u64, state: &str, words: &str) -> anyhow::Result<ExitCode> {
    match output.form {
        Form::Json => output.json(&json!({ "node": id, "state": state }))?,
        Form::Table | Form::Raw => output.line(&format!("node {id} {words}"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until the node is as wanted, and tells how far it is.
async fn wait(
    admin: &Admin,
    output: &Output,
    id: u64,
    patience: Duration,
    is_done: impl Fn(Option<&NodeDescription>) -> bool,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut told = String::new();
    loop {
        let looked: Result<_, ClientError> = admin.nodes().await;
        let nodes = looked?;
        let node = nodes.iter().find(|node| node.id == id);
        if is_done(node) {
            return Ok(());
        }
        let state = node.map_or_else(|| "gone".to_owned(), node_state_text);
        if began.elapsed() >= patience {
            let held_up = held_up(admin).await;
            let why = if held_up.is_empty() { String::new() } else { format!(". Held up: {}", held_up.join("; ")) };
            return Err(NotYet(format!("node {id} is {state}, and it goes on by itself{why}")).into());
        }
        if state != told && !output.quiet {
            complain(&format!("node {id}: {state}"));
            told = state;
        }
        sleep(LOOK_EVERY).await;
    }
}
