//! `kvctl export`: keys and values as JSON Lines, in placement order.
//!
//! ```text
//!   scan, shard after shard ─▶ line ─▶ part of a file ─▶ durable, noted in FILE.resume ─▶ removed at the end
//! ```
//!
//! **Invariant.** `import` takes back what is written here, unchanged. With a file, an interrupted export goes on
//! behind the last row that is certainly in it; the file then holds what one export at once would hold, except that its
//! shards were read at two positions.

pub mod line;
pub mod sidecar;
mod sink;

use crate::{
    TIMEOUT_LONG,
    args::{Export, Form, Globals},
    client,
    exit::{INTERRUPTED, Usage, complain},
    keyspace::target,
    output::{Output, Stdout},
    text,
};
use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget};
use kvorum_client::{Client, ScanStream};
use line::Exported;
use serde_json::json;
use sidecar::Sidecar;
use sink::{Note, Parts, Scope, Sink};
use std::{ffi::OsString, process::ExitCode};
use tokio::time::Instant;

/// Version of the notes.
const FORMAT: u32 = 1;

/// Rows between two looks of the progress bar.
const SHOWN_EVERY: u64 = 1_024;

pub async fn run(globals: &Globals, output: &Output, export: Export) -> anyhow::Result<ExitCode> {
    let is_stdout = export.file.as_os_str() == "-";
    if is_stdout && (export.resume || export.overwrite) {
        return Err(Usage("--resume and --overwrite need a file: kvctl export FILE --resume".to_owned()).into());
    }
    if is_stdout && output.form == Form::Json {
        return Err(Usage("stdout carries the lines already: -o json is for an export to a file".to_owned()).into());
    }
    let client = client(globals, TIMEOUT_LONG)?;
    let (mut sink, after) = open(&client, globals, &export, is_stdout).await?;
    let mut scan = client.keyspace(&globals.keyspace).scan();
    if let Some(level) = globals.level {
        scan = scan.level(level);
    }
    if let Some(prefix) = export.prefix {
        scan = scan.prefix(text::key(prefix));
    }
    if let Some(from) = export.from {
        scan = scan.start(text::key(from));
    }
    if let Some(to) = export.to {
        scan = scan.end(text::key(to));
    }
    if export.full_scan {
        scan = scan.full_scan();
    }
    if let Some(after) = after {
        scan = scan.after(after);
    }
    let started = Instant::now();
    let copied = match scan.await {
        Ok(stream) => copy(stream, &mut sink, output, is_stdout).await,
        Err(error) => Err(error.into()),
    };
    let shown = export.file.display();
    let rows = match copied {
        Ok(Ended::Whole(rows)) => rows,
        Ok(Ended::Interrupted) => {
            let certain = sink.interrupt()?.unwrap_or(0);
            complain(&format!("interrupted: {certain} rows are certain. The same command with --resume goes on there"));
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Err(error) => {
            if let Some(certain) = sink.interrupt()? {
                complain(&format!("{shown} holds {certain} rows for certain: --resume goes on there"));
            }
            return Err(error);
        }
    };
    sink.finish()?;
    let seconds = started.elapsed().as_secs_f64();
    if output.form == Form::Json {
        output.json(&json!({ "rows": rows, "seconds": seconds }))?;
    } else if !output.quiet {
        complain(&format!("{} rows in {seconds:.1} s", HumanCount(rows)));
    }
    Ok(ExitCode::SUCCESS)
}

enum Ended {
    Whole(u64),
    Interrupted,
}

/// Carries the rows over until there are no more, or Ctrl-C.
async fn copy(mut stream: ScanStream, sink: &mut Sink, output: &Output, is_stdout: bool) -> anyhow::Result<Ended> {
    let target = if output.quiet || is_stdout { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(None, target);
    let interrupted = async {
        match is_stdout {
            // Nothing to keep: the signal ends the program as it ends others.
            true => std::future::pending().await,
            false => tokio::signal::ctrl_c().await,
        }
    };
    tokio::pin!(interrupted);
    let mut rows = 0_u64;
    loop {
        let next = tokio::select! {
            // Who wants to stop is heard first, however fast rows come.
            biased;
            signal = &mut interrupted => {
                signal.context("cannot listen for Ctrl-C")?;
                return Ok(Ended::Interrupted);
            }
            next = stream.next() => next?,
        };
        let Some(entry) = next else { break };
        sink.push(&Exported { key: entry.key, value: entry.value, expires_ms: entry.expires_ms })?;
        rows += 1;
        if rows.is_multiple_of(SHOWN_EVERY) {
            bar.set_message(format!("{} rows", HumanCount(rows)));
            bar.tick();
        }
    }
    bar.finish_and_clear();
    Ok(Ended::Whole(rows))
}

/// Where the lines go, and behind which key they go on.
async fn open(
    client: &Client,
    globals: &Globals,
    export: &Export,
    is_stdout: bool,
) -> anyhow::Result<(Sink, Option<Vec<u8>>)> {
    if is_stdout {
        return Ok((Sink::Stdout(Stdout::new()), None));
    }
    let bound = |key: &Option<OsString>| BASE64_STANDARD.encode(key.clone().map(text::key).unwrap_or_default());
    let prefix = export.prefix.as_ref().map(|_| format!("{}*", bound(&export.prefix)));
    let scope = Scope {
        keyspace: globals.keyspace.clone(),
        keyspace_id: target(&client.admin(), &globals.keyspace).await?.id,
        start: prefix.unwrap_or_else(|| bound(&export.from)),
        end: bound(&export.to),
    };
    let sidecar = Sidecar::beside(&export.file, "resume");
    let (shown, beside) = (export.file.display(), sidecar.path().display());
    let left: Option<Note> = if export.overwrite { None } else { sidecar.read()? };
    let note = match left {
        Some(_) if !export.resume => {
            let problem = format!("an export into {shown} was interrupted: --resume goes on, --overwrite begins anew");
            return Err(Usage(problem).into());
        }
        Some(note) if note.format != FORMAT => {
            return Err(Usage(format!("{beside} is of another version of kvctl: --overwrite begins anew")).into());
        }
        Some(note) if note.scope != scope => {
            let problem = if note.scope.keyspace_id == scope.keyspace_id {
                "other bounds".to_owned()
            } else {
                format!(
                    "keyspace {} with id {}, not {}",
                    note.scope.keyspace, note.scope.keyspace_id, scope.keyspace_id
                )
            };
            return Err(Usage(format!("{shown} was begun with {problem}: --overwrite begins anew")).into());
        }
        Some(note) => note,
        None if export.resume && export.file.exists() => {
            return Err(Usage(format!("{shown} is whole, or no export: there is no {beside} to go on with")).into());
        }
        None => Note { format: FORMAT, scope, rows: 0, bytes: 0, last_key: None },
    };
    let after = note.last_key.as_ref().map(|key| BASE64_STANDARD.decode(key));
    let after = after.transpose().with_context(|| format!("{beside} cannot be read: --overwrite begins anew"))?;
    if note.rows > 0 {
        complain(&format!("going on after {} rows", HumanCount(note.rows)));
    }
    Ok((Sink::File(Box::new(Parts::open(&export.file, sidecar, note)?)), after))
}
