//! `kvctl cluster rolling-restart`: one node after the other, by a command of whoever runs the cluster.
//!
//! ```text
//!   well? ─▶ command ─▶ a new life of the node ─▶ ready ─▶ well? ─▶ the next one
//!     └ not within --patience: stop, and say which nodes are left
//! ```
//!
//! A node that is asked to stop in order hands its leaderships on by itself; nothing of that is done from here.
//!
//! **Invariant.** No node is touched before every node answers and every replica of every shard has caught up, so one
//! node at most is missing at any time.

use crate::{
    TIMEOUT_DEFAULT,
    args::{Form, Globals, RollingRestart},
    client,
    exit::{NotFound, NotYet, Undone, complain},
    output::Output,
    table::table,
    wellness::{Picture, leads_metadata},
};
use kvorum_client::admin::{Admin, NodeDescription};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use std::{
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Between two looks whether the command has ended.
const COMMAND_LOOK_EVERY: Duration = Duration::from_millis(20);

pub async fn run(globals: &Globals, output: &Output, wanted: RollingRestart) -> anyhow::Result<ExitCode> {
    let admin = client(globals, TIMEOUT_DEFAULT)?.admin();
    let nodes = admin.nodes().await?;
    let order = order(&admin, &nodes, &wanted).await?;
    let filled = order.iter().map(|node| Ok((node.id, filled(&wanted.command, node.id, &node.client)?)));
    let lines: Vec<(u64, String)> = filled.collect::<Result<_, Undone>>()?;
    if wanted.dry_run {
        return foresee(output, &lines);
    }
    for (at, (node, line)) in lines.iter().enumerate() {
        let left: Vec<String> = lines[at..].iter().map(|(node, _)| node.to_string()).collect();
        let go_on = format!("--nodes {}", left.join(","));
        let before = well(&admin, wanted.patience).await.map_err(|why| {
            Undone(format!("node {node} was not touched: {why}. Once that is mended, go on with {go_on}"))
        })?;
        let Some(start) = before.start_of(*node) else {
            return Err(Undone(format!("node {node} was not touched: it does not answer. Go on with {go_on}")).into());
        };
        if !output.quiet {
            complain(&format!("node {node}: {line}"));
        }
        let began = Instant::now();
        execute(line, wanted.patience).await.map_err(|why| {
            NotYet(format!("node {node}: the command {why}. Look after the node, then go on with {go_on}"))
        })?;
        returned(&admin, *node, start, wanted.patience)
            .await
            .map_err(|why| NotYet(format!("node {node}: {why}. Look after the node, then go on with {go_on}")))?;
        if !output.quiet {
            complain(&format!("node {node}: back and well after {:.1} s", began.elapsed().as_secs_f64()));
        }
    }
    let done: Vec<u64> = lines.iter().map(|(node, _)| *node).collect();
    match output.form {
        Form::Json => output.json(&json!({ "restarted": done }))?,
        Form::Table | Form::Raw => output.line(&format!("{} node(s) restarted", done.len()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Which nodes, in which order: whoever leads the metadata comes last, so that it changes hands once.
async fn order(
    admin: &Admin,
    nodes: &[NodeDescription],
    wanted: &RollingRestart,
) -> anyhow::Result<Vec<NodeDescription>> {
    let found = |id: u64| {
        let known: Vec<String> = nodes.iter().map(|node| node.id.to_string()).collect();
        let node = nodes.iter().find(|node| node.id == id).cloned();
        node.ok_or_else(|| NotFound(format!("there is no node {id}: the cluster has {}", known.join(", "))))
    };
    if !wanted.nodes.is_empty() {
        return Ok(wanted.nodes.iter().map(|id| found(*id)).collect::<Result<_, _>>()?);
    }
    let from = wanted.from.map(found).transpose()?.map_or(0, |node| node.id);
    let reports = admin.node_status().await;
    let leader = reports.iter().filter_map(|report| report.status.as_ref().ok()).find(|status| leads_metadata(status));
    let leader = leader.map(|status| status.node);
    let mut order: Vec<NodeDescription> =
        nodes.iter().filter(|node| node.id >= from || Some(node.id) == leader).cloned().collect();
    order.sort_by_key(|node| (Some(node.id) == leader, node.id));
    Ok(order)
}

fn foresee(output: &Output, lines: &[(u64, String)]) -> anyhow::Result<ExitCode> {
    match output.form {
        Form::Json => {
            let steps: Vec<_> = lines.iter().map(|(node, line)| json!({ "node": node, "command": line })).collect();
            output.json(&json!({ "dry_run": true, "steps": steps }))?;
        }
        Form::Table | Form::Raw => {
            let rows = lines.iter().map(|(node, line)| [node.to_string(), line.clone()]);
            output.line(&table(["NODE", "COMMAND"], rows))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The command for one node. What a node says its address is comes into a shell of whoever runs this.
fn filled(command: &str, node: u64, address: &str) -> Result<String, Undone> {
    let is_harmless = |letter: char| letter.is_ascii_alphanumeric() || ".:-_%[]".contains(letter);
    if command.contains("{address}") && !address.chars().all(is_harmless) {
        let why = "it has characters that a shell may take for something else: use {node} instead of {address}";
        return Err(Undone(format!("node {node} says that its address is {address:?}: {why}")));
    }
    Ok(command.replace("{node}", &node.to_string()).replace("{address}", address))
}

async fn execute(line: &str, patience: Duration) -> Result<(), String> {
    let mut shell = Command::new("sh");
    // Its output is for whoever watches, and what is on stdout is for programs.
    shell.arg("-c").arg(line).stdin(Stdio::null()).stdout(std::io::stderr()).process_group(0);
    let unrunnable = |error: std::io::Error| format!("could not be run: {error}");
    let mut running = shell.spawn().map_err(unrunnable)?;
    let deadline = Instant::now() + patience;
    loop {
        match running.try_wait().map_err(unrunnable)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("ended with {status}")),
            None if Instant::now() < deadline => sleep(COMMAND_LOOK_EVERY).await,
            None => {
                // With all that it has started, or that would restart the node when nobody expects it any more. It may
                // end at this very moment.
                let group = Pid::from_child(&running);
                let _ = kill_process_group(group, Signal::KILL);
                let _ = running.wait();
                return Err(format!("did not end within {patience:?}, and may still take effect"));
            }
        }
    }
}

/// Waits until the whole cluster is well.
async fn well(admin: &Admin, patience: Duration) -> Result<Picture, String> {
    let deadline = Instant::now() + patience;
    loop {
        let picture = Picture::taken(admin).await;
        match picture.trouble() {
            None => return Ok(picture),
            Some(why) if Instant::now() >= deadline => return Err(why),
            Some(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// Waits until a node is in a later life than `start`, and the whole cluster well.
async fn returned(admin: &Admin, node: u64, start: u64, patience: Duration) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    loop {
        let picture = Picture::taken(admin).await;
        let why = match picture.start_of(node) {
            None => "it does not answer".to_owned(),
            Some(now) if now <= start => "it was not restarted: it is in the life it was in before".to_owned(),
            Some(_) => match picture.trouble() {
                None => return Ok(()),
                Some(why) => why,
            },
        };
        if Instant::now() >= deadline {
            return Err(format!("not back and well within {patience:?}: {why}"));
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_filled_in() {
        let line = filled("ssh {address} restart kvd@{node} {other}", 3, "10.0.0.3:7101");
        assert_eq!(line.unwrap(), "ssh 10.0.0.3:7101 restart kvd@3 {other}");
        assert_eq!(filled("restart {address}", 1, "[fe80::1%eth0]:7101").unwrap(), "restart [fe80::1%eth0]:7101");
        for evil in ["x;reboot;:7101", "$(reboot):1", "a b:1", "`x`:1", "a\nb:1", "a'b:1"] {
            let Undone(why) = filled("ssh {address}", 3, evil).unwrap_err();
            assert!(why.contains("use {node}"), "{why}");
            assert!(filled("ssh node{node}", 3, evil).is_ok(), "it is not asked for");
        }
    }

    #[tokio::test]
    async fn a_command_that_fails_or_hangs_is_told() {
        let patience = Duration::from_secs(20);
        assert_eq!(execute("exit 0", patience).await, Ok(()));
        assert!(execute("exit 3", patience).await.unwrap_err().contains('3'));
        let mark = std::env::temp_dir().join(format!("kvctl-rolling-{}", std::process::id()));
        let line = format!("(sleep 1; touch {}); true", mark.display());
        assert!(execute(&line, Duration::from_millis(50)).await.unwrap_err().contains("did not end"));
        sleep(Duration::from_millis(1_500)).await;
        assert!(!mark.exists(), "what it had started went on");
    }
}
