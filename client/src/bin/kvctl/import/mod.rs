//! `kvctl import`: a file of rows becomes keys with JSON values.
//!
//! ```text
//!   file ─▶ gunzip ─▶ rows ─▶ key + value ─▶ lane of the key ─▶ batch ─▶ put, put, put … under one request id
//!   └── one blocking task ───────────────┘   └ N lanes, each one request at a time ┘
//! ```
//!
//! **Invariant.** Rows of one key stay in file order: a key always takes the same lane, and a lane waits for the outcome
//! of one request before it sends the next. So the last row of a key wins, whatever was repeated on the way. What is in
//! memory is bounded by lanes × batches, never by the file.

mod cells;
mod lanes;
mod report;
mod rows;
mod source;
mod template;

use crate::{
    args::{Form, Globals, Import},
    client,
    exit::{LOCAL, Usage},
    output::Output,
};
use lanes::Lanes;
use report::Report;
use rows::{Chunk, Rows};
use source::Source;
use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};
use template::Template;
use tokio::sync::mpsc;

/// Total time of one request of an import: a busy cluster is slow, not broken.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Parsed chunks waiting for lanes.
const CHUNKS_WAITING_MAX: usize = 2;

pub async fn run(globals: &Globals, output: &Output, import: Import) -> anyhow::Result<ExitCode> {
    let template = Template::parse(&import.key).map_err(Usage)?;
    let source = Source::open(&import.file)?;
    let report = Arc::new(Report::start(output, &source, import.errors.as_deref())?);
    let rows = Rows::new(source, &import, template)?;
    let keyspace = client(globals, TIMEOUT_DEFAULT)?.keyspace(&globals.keyspace);

    let (chunks, mut parsed) = mpsc::channel::<Chunk>(CHUNKS_WAITING_MAX);
    let reader = tokio::task::spawn_blocking(move || read(rows, &chunks));
    let mut lanes = Lanes::start(&keyspace, &report, import.concurrency, import.batch);
    while let Some(chunk) = parsed.recv().await {
        report.read(&chunk);
        if !lanes.take(chunk.rows).await {
            break;
        }
    }
    // A reader that waits to hand over its next chunk learns here that nobody takes it.
    drop(parsed);
    let sent = lanes.finish().await;
    let read = reader.await?;
    let summary = report.finish()?;
    summary.print(output)?;
    sent?;
    read?;
    let is_clean = summary.rejected == 0 || import.lenient;
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(LOCAL) })
}

/// Parses until the end, an error, or until nobody takes the rows any more.
fn read(mut rows: Rows, chunks: &mpsc::Sender<Chunk>) -> anyhow::Result<()> {
    while let Some(chunk) = rows.next_chunk()? {
        if chunks.blocking_send(chunk).is_err() {
            break;
        }
    }
    Ok(())
}

/// The name of the file, for people.
fn name_of(path: &Path) -> String {
    if path.as_os_str() == "-" { "stdin".to_owned() } else { path.display().to_string() }
}

/// Whether the summary is data (JSON) or a line for people.
fn is_json(output: &Output) -> bool {
    output.form == Form::Json
}
