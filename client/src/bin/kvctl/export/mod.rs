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
use std::{ffi::OsString, fs, process::ExitCode};
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
    let note = if is_stdout { None } else { Some(note_of(&client, globals, &export).await?) };
    let mut scan = client.keyspace(&globals.keyspace).scan();
    if let Some(level) = globals.level {
        scan = scan.level(level);
    }
    if let Some(prefix) = export.prefix.clone() {
        scan = scan.prefix(text::key(prefix));
    }
    if let Some(from) = export.from.clone() {
        scan = scan.start(text::key(from));
    }
    if let Some(to) = export.to.clone() {
        scan = scan.end(text::key(to));
    }
    if export.full_scan {
        scan = scan.full_scan();
    }
    if let Some(last_key) = note.as_ref().and_then(|note| note.last_key.as_ref()) {
        let unreadable =
            || format!("the note beside {} cannot be read: --overwrite begins anew", export.file.display());
        scan = scan.after(BASE64_STANDARD.decode(last_key).with_context(unreadable)?);
    }
    let started = Instant::now();
    // The file is not touched before the cluster has begun to answer.
    let stream = scan.await?;
    let mut sink = match note {
        None => Sink::Stdout(Stdout::new()),
        Some(note) => Sink::File(Box::new(Parts::open(&export.file, sidecar_of(&export), note)?)),
    };
    let copied = copy(stream, &mut sink, output, is_stdout).await;
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

fn sidecar_of(export: &Export) -> Sidecar {
    Sidecar::beside(&export.file, "resume")
}

/// How far an export into this file has come: not at all, if it is a new one. Nothing is changed.
async fn note_of(client: &Client, globals: &Globals, export: &Export) -> anyhow::Result<Note> {
    let bound = |key: &Option<OsString>| BASE64_STANDARD.encode(key.clone().map(text::key).unwrap_or_default());
    let prefix = export.prefix.as_ref().map(|_| format!("{}*", bound(&export.prefix)));
    let scope = Scope {
        keyspace: globals.keyspace.clone(),
        keyspace_id: target(&client.admin(), &globals.keyspace).await?.id,
        start: prefix.unwrap_or_else(|| bound(&export.from)),
        end: bound(&export.to),
    };
    let sidecar = sidecar_of(export);
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
        None if !export.overwrite && fs::metadata(&export.file).is_ok_and(|file| file.len() > 0) => {
            return Err(Usage(format!("{shown} is there already and not empty: --overwrite replaces it")).into());
        }
        None => Note { format: FORMAT, scope, rows: 0, bytes: 0, last_key: None },
    };
    if note.rows > 0 {
        complain(&format!("going on after {} rows", HumanCount(note.rows)));
    }
    Ok(note)
}
