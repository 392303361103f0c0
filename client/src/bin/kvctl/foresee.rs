//! What a change would lead to (`--dry-run`): what moves, how much that is, and what each shard could still lose.

use crate::{
    args::Form,
    operator::task_words,
    output::Output,
    table::{or_dash, table},
    text,
};
use kvorum_client::operators::{ChangeReply, ForeseenMove};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Prints it. Nothing was changed.
pub fn show(output: &Output, reply: &ChangeReply) -> anyhow::Result<ExitCode> {
    let bytes: u64 = reply.moves.iter().filter_map(|foreseen| foreseen.bytes).sum();
    let unknown = reply.moves.iter().filter(|foreseen| foreseen.bytes.is_none()).count();
    if output.form == Form::Json {
        let moves: Vec<Value> = reply.moves.iter().map(move_json).collect();
        output.json(&json!({
            "dry_run": true,
            "moves": moves,
            "bytes": bytes,
            "bytes_unknown_of": unknown,
            "held_up": reply.held_up,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !reply.moves.is_empty() {
        let rows = reply.moves.iter().map(|foreseen| {
            [
                foreseen.shard.to_string(),
                foreseen.keyspace.clone(),
                task_words(&foreseen.task, foreseen.from_node, foreseen.to_node),
                or_dash(foreseen.bytes.map(text::bytes)),
                foreseen.spare_before.to_string(),
                format!("{}{}", foreseen.spare_meanwhile, if foreseen.spare_meanwhile == 0 { " !" } else { "" }),
            ]
        });
        output.line(&table(["SHARD", "KEYSPACE", "TASK", "BYTES", "CAN LOSE NOW", "MEANWHILE"], rows))?;
        let plural = if reply.moves.len() == 1 { "" } else { "s" };
        let more = if unknown == 0 { String::new() } else { format!(", not counting {unknown} of unknown size") };
        output.line(&format!("{} change{plural}, about {}{more}", reply.moves.len(), text::bytes(bytes)))?;
    }
    for why in &reply.held_up {
        output.line(&format!("! could not be done: {why}"))?;
    }
    output.line("nothing was changed: this was a dry run")?;
    Ok(ExitCode::SUCCESS)
}

fn move_json(foreseen: &ForeseenMove) -> Value {
    json!({
        "shard": foreseen.shard,
        "keyspace": foreseen.keyspace,
        "task": foreseen.task,
        "from": foreseen.from_node,
        "to": foreseen.to_node,
        "bytes": foreseen.bytes,
        "can_lose_now": foreseen.spare_before,
        "can_lose_meanwhile": foreseen.spare_meanwhile,
    })
}
