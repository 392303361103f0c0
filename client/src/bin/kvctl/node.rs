//! `kvctl node` and `kvctl workers`: the nodes of the cluster, and what they do in the background.

use crate::{
    TIMEOUT_DEFAULT,
    args::{Form, Globals, Node, Workers},
    client,
    cluster::{nodes_table, replicas_table, short},
    exit::{NotFound, UNAVAILABLE, complain},
    fate,
    output::Output,
    status::{ago_text, leads, node_json, worker_json},
    table::{or_dash, table, text_or_dash},
};
use kvorum_api::proto::{NodeDescription, NodeStatusReply};
use kvorum_client::{NodeReport, admin::Admin};
use serde_json::{Value, json};
use std::process::ExitCode;

pub async fn run(globals: &Globals, output: &Output, command: Node) -> anyhow::Result<ExitCode> {
    let admin = client(globals, TIMEOUT_DEFAULT)?.admin();
    match command {
        Node::List => list(&admin, output).await,
        Node::Status { id } => status(&admin, output, id).await,
        Node::Add { address } => fate::add(&admin, output, address).await,
        Node::Drain(drain) => fate::drain(&admin, output, drain).await,
        Node::Recommission { id, dry_run } => fate::recommission(&admin, output, id, dry_run).await,
        Node::Forget(drain) => fate::forget(&admin, output, drain).await,
    }
}

async fn list(admin: &Admin, output: &Output) -> anyhow::Result<ExitCode> {
    let (nodes, reports) = (admin.nodes().await?, admin.node_status().await);
    let statuses: Vec<&NodeStatusReply> = reports.iter().filter_map(|report| report.status.as_ref().ok()).collect();
    let leaders = |node: &NodeDescription| statuses.iter().find(|status| status.node == node.id).map(|it| leads(it));
    if output.form == Form::Json {
        let nodes: Vec<Value> = nodes
            .iter()
            .map(|node| {
                json!({
                    "id": node.id,
                    "client": node.client,
                    "peer": node.peer,
                    "zone": node.zone,
                    "metadata_voter": node.metadata_voter,
                    "liveness": node.liveness,
                    "heard_ms_ago": node.heard_ms_ago,
                    "replicas": node.replicas,
                    "leaders": leaders(node),
                    "start_count": node.start_count,
                    "state": node.state,
                    "behaviour": node.behaviour,
                    "build": node.build,
                })
            })
            .collect();
        output.json(&json!({ "nodes": nodes }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = nodes.iter().map(|node| {
        [
            node.id.to_string(),
            node.client.clone(),
            text_or_dash(&node.peer),
            text_or_dash(&node.zone),
            text_or_dash(&node.liveness),
            or_dash(node.heard_ms_ago.map(ago_text)),
            node.replicas.to_string(),
            or_dash(leaders(node)),
            if node.metadata_voter { "yes" } else { "no" }.to_owned(),
            or_dash(node.start_count),
            node_state_text(node),
            node.behaviour.to_string(),
            text_or_dash(&node.build),
        ]
    });
    let header = [
        "NODE",
        "CLIENT",
        "PEER",
        "ZONE",
        "LIVENESS",
        "HEARD",
        "REPLICAS",
        "LEADERS",
        "METADATA VOTER",
        "STARTS",
        "STATE",
        "BEHAVIOUR",
        "BUILD",
    ];
    output.line(&table(header, rows))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether its replicas go elsewhere.
fn is_to_go(node: &NodeDescription) -> bool {
    matches!(node.state.as_str(), "draining" | "forgetting")
}

/// What is to become of a node, and how far that is.
pub fn node_state_text(node: &NodeDescription) -> String {
    let left = node.replicas + u64::from(node.metadata_voter);
    match (node.state.as_str(), left) {
        ("active" | "", _) => "active".to_owned(),
        (state, 0) if node.liveness == "alive" && state == "forgetting" => "forgetting, empty, still alive".to_owned(),
        (state, 0) => format!("{state}, empty"),
        (state, 1) => format!("{state}, 1 replica left"),
        (state, left) => format!("{state}, {left} replicas left"),
    }
}

/// What the nodes say of themselves: all, or the one of this id.
async fn reports(admin: &Admin, id: Option<u64>) -> anyhow::Result<Vec<NodeReport>> {
    let mut reports = admin.node_status().await;
    if let Some(id) = id {
        // One that is silent is known by the address the others give it.
        let is_silent = !reports.iter().any(|report| report.status.as_ref().is_ok_and(|status| status.node == id));
        let nodes = if is_silent { admin.nodes().await? } else { Vec::new() };
        let address = nodes.iter().find(|node| node.id == id).map(|node| node.client.clone());
        reports.retain(|report| match &report.status {
            Ok(status) => status.node == id,
            Err(_failure) => address.as_ref() == Some(&report.address),
        });
        if reports.is_empty() {
            return Err(NotFound(format!("there is no node {id}: see `kvctl node list`")).into());
        }
    }
    let has_answer = reports.iter().any(|report| report.status.is_ok());
    reports.retain(|report| report.is_member || !has_answer);
    reports.sort_by_key(|report| report.status.as_ref().map_or(u64::MAX, |status| status.node));
    Ok(reports)
}

async fn status(admin: &Admin, output: &Output, id: Option<u64>) -> anyhow::Result<ExitCode> {
    let reports = reports(admin, id).await?;
    // What is to become of a node is the map's to say, not its own; a cluster that cannot be asked says nothing.
    let nodes = admin.nodes().await.unwrap_or_default();
    let of_report = |report: &NodeReport| {
        let status = report.status.as_ref().ok();
        nodes.iter().find(|node| status.map_or(node.client == report.address, |status| status.node == node.id))
    };
    match output.form {
        Form::Json => {
            let documents = reports.iter().map(|report| {
                let mut document = node_json(report);
                document["state"] = json!(of_report(report).map(|node| &node.state));
                document
            });
            output.json(&json!({ "nodes": documents.collect::<Vec<_>>() }))?;
        }
        Form::Table | Form::Raw => {
            output.line(&nodes_table(&reports))?;
            for node in reports.iter().filter_map(of_report).filter(|node| is_to_go(node)) {
                output.line(&format!("! node {} is {}", node.id, node_state_text(node)))?;
            }
            if id.is_some() {
                output.line(&format!("\n{}", replicas_table(&reports)))?;
            }
        }
    }
    for short in short(&reports) {
        complain(&format!("warning: {short}"));
    }
    Ok(told(&reports))
}

pub async fn workers(globals: &Globals, output: &Output, workers: Workers) -> anyhow::Result<ExitCode> {
    let reports = reports(&client(globals, TIMEOUT_DEFAULT)?.admin(), workers.node).await?;
    let statuses = || reports.iter().filter_map(|report| report.status.as_ref().ok());
    if output.form == Form::Json {
        let nodes: Vec<Value> = statuses()
            .map(|status| {
                let workers: Vec<Value> = status.workers.iter().map(worker_json).collect();
                json!({ "node": status.node, "workers": workers })
            })
            .collect();
        output.json(&json!({ "nodes": nodes }))?;
        return Ok(told(&reports));
    }
    let rows = statuses().flat_map(|status| {
        status.workers.iter().map(|worker| {
            [
                status.node.to_string(),
                worker.name.clone(),
                worker.state.clone(),
                worker.runs.to_string(),
                text_or_dash(&worker.last_error),
                or_dash(worker.last_error_ms_ago.map(ago_text)),
            ]
        })
    });
    output.line(&table(["NODE", "WORKER", "STATE", "RUNS", "LAST ERROR", "FAILED"], rows))?;
    Ok(told(&reports))
}

/// Names who is silent; without any answer the code says so.
fn told(reports: &[NodeReport]) -> ExitCode {
    for report in reports {
        if let Err(failure) = &report.status {
            complain(&format!("warning: {}: {}", report.address, failure.message));
        }
    }
    let is_answered = reports.iter().any(|report| report.status.is_ok());
    if is_answered { ExitCode::SUCCESS } else { ExitCode::from(UNAVAILABLE) }
}
