//! `kvctl import`: a file of rows becomes keys with JSON values, or what `export` wrote becomes the keys it was.
//!
//! ```text
//!   file ─▶ gunzip ─▶ rows ─▶ key + value ─▶ lane of the key ─▶ rows of one shard ─▶ put, put, put … in one request
//!   └── one blocking task, which notes ──┘   └ N lanes, each one load at a time ┘
//!       how far all outcomes are known
//! ```
//!
//! **Invariant.** Rows of one key stay in file order: a key always takes the same lane, and a lane waits for the
//! outcome of what it sent before it sends the next. So the last row of a key wins, whatever was repeated on the way.
//! What is in memory is bounded by lanes × batches, never by the file.

mod cells;
mod clock;
mod journal;
mod lanes;
mod places;
mod report;
mod rows;
mod source;
mod template;

use crate::{
    TIMEOUT_LONG,
    args::{Form, Globals, Import},
    client,
    exit::{INTERRUPTED, LOCAL, Usage, complain},
    export::sidecar::Sidecar,
    output::Output,
};
use anyhow::Context as _;
use clock::Clock;
use indicatif::HumanCount;
use journal::{Checksum, Journal, Mark, Scope};
use kvorum_api::proto::KeyspaceDescription;
use kvorum_client::Client;
use lanes::{Lanes, Work};
use places::Places;
use report::Report;
use rows::{Chunk, Rows};
use source::Source;
use std::{path::Path, process::ExitCode, sync::Arc};
use template::Template;
use tokio::{signal::ctrl_c, sync::mpsc};

/// Parsed chunks waiting for lanes.
const CHUNKS_WAITING_MAX: usize = 2;

pub async fn run(globals: &Globals, output: &Output, import: Import) -> anyhow::Result<ExitCode> {
    let template = import.key.as_deref().map(Template::parse).transpose().map_err(Usage)?;
    let source = Source::open(&import.file)?;
    if import.resume && source.bytes_total.is_none() {
        return Err(Usage("--resume needs a file, which can be read from its beginning".to_owned()).into());
    }
    let file_bytes = source.bytes_total;
    let report = Arc::new(Report::start(output, &source, import.errors.as_deref())?);
    let rows = Rows::new(source, &import, template)?;
    let client = client(globals, TIMEOUT_LONG)?;
    let described = describe(&client, &globals.keyspace).await;
    let (journal, from) = open_journal(globals, &import, file_bytes, described.as_ref())?;
    let work = Arc::new(Work {
        keyspace: client.keyspace(&globals.keyspace),
        places: Places::of(described.as_ref()),
        report: report.clone(),
        journal: journal.clone(),
        clock: Clock::default(),
        batch_rows: usize::from(import.batch),
    });

    let (chunks, parsed) = mpsc::channel::<Chunk>(CHUNKS_WAITING_MAX);
    let reader = {
        let (journal, name) = (journal.clone(), name_of(&import.file));
        tokio::task::spawn_blocking(move || read(rows, from, &journal, &chunks, &name))
    };
    let mut lanes = Lanes::start(&work, import.concurrency);
    let is_interrupted = feed(parsed, &mut lanes, &report).await?;
    let sent = match is_interrupted {
        true => stop(lanes).await?,
        false => lanes.finish().await,
    };
    let read = reader.await?;
    let summary = report.finish()?;
    summary.print(output)?;
    if is_interrupted || sent.is_err() || read.is_err() {
        journal.note();
        let certain = HumanCount(journal.certain().rows);
        if journal.can_resume() && journal.certain().rows > 0 {
            complain(&format!("{certain} rows have their outcome: the same command with --resume goes on there"));
        } else if is_interrupted {
            complain("interrupted: importing the file again is safe");
        }
    }
    sent?;
    read?;
    if is_interrupted {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    journal.remove()?;
    let is_clean = journal.certain().rejected == 0 || import.lenient;
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(LOCAL) })
}

/// What the cluster says of the keyspace. Without it the import goes on and meets the trouble itself.
async fn describe(client: &Client, name: &str) -> Option<KeyspaceDescription> {
    let found = client.admin().keyspaces(&[name]).await;
    found.ok()?.into_iter().find(|keyspace| keyspace.name == name)
}

/// Where the import begins, and where it notes how far it is.
fn open_journal(
    globals: &Globals,
    import: &Import,
    file_bytes: Option<u64>,
    described: Option<&KeyspaceDescription>,
) -> anyhow::Result<(Arc<Journal>, Mark)> {
    let (Some(file_bytes), Some(described)) = (file_bytes, described) else {
        if import.resume {
            let name = &globals.keyspace;
            return Err(Usage(format!("--resume: no node could say what keyspace {name} is")).into());
        }
        return Ok((Arc::new(Journal::begin(None, Mark::default())), Mark::default()));
    };
    let sidecar = Sidecar::beside(&import.file, &format!("{}.import", globals.keyspace));
    let scope = Scope { keyspace: globals.keyspace.clone(), keyspace_id: described.id, file_bytes };
    let mut from = Mark::default();
    if import.resume {
        from = Journal::left(&sidecar, &scope)?.unwrap_or_default();
        match from.rows {
            0 => complain("there is nothing to go on with: beginning with the first row"),
            rows => complain(&format!("going on after {} rows", HumanCount(rows))),
        }
    } else {
        // What an earlier import left is not about this one.
        sidecar.remove()?;
    }
    Ok((Arc::new(Journal::begin(Some((sidecar, scope)), from)), from))
}

/// Hands the rows to the lanes until there are no more, a lane ends, or Ctrl-C (`true`).
async fn feed(mut parsed: mpsc::Receiver<Chunk>, lanes: &mut Lanes, report: &Report) -> anyhow::Result<bool> {
    let interrupted = ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let taken = async {
            let Some(chunk) = parsed.recv().await else { return false };
            report.read(&chunk);
            lanes.take(chunk.rows).await
        };
        tokio::select! {
            // Who wants to stop is heard first, however fast rows come.
            biased;
            signal = &mut interrupted => {
                signal.context("cannot listen for Ctrl-C")?;
                return Ok(true);
            }
            goes_on = taken => {
                if !goes_on {
                    // A reader that waits to hand over its next chunk learns by this end that nobody takes it.
                    return Ok(false);
                }
            }
        }
    }
}

/// Waits for what is under way, unless Ctrl-C comes once more.
async fn stop(lanes: Lanes) -> anyhow::Result<Result<(), kvorum_client::ClientError>> {
    complain("interrupted: waiting for the outcome of what is under way; Ctrl-C again does not wait");
    tokio::select! {
        biased;
        signal = ctrl_c() => {
            signal.context("cannot listen for Ctrl-C")?;
            Ok(Ok(()))
        }
        outcome = lanes.stop() => Ok(outcome),
    }
}

/// Parses until the end, an error, or until nobody takes the rows any more. Rows before `from` are read and left out.
fn read(mut rows: Rows, from: Mark, journal: &Journal, chunks: &mpsc::Sender<Chunk>, name: &str) -> anyhow::Result<()> {
    let changed = || {
        let problem =
            format!("{name} is not what it was: its first {} rows are others. Import it without --resume", from.rows);
        anyhow::Error::from(Usage(problem))
    };
    let mut checksum = Checksum::default();
    let mut count = 0;
    while let Some(mut chunk) = rows.next_chunk()? {
        checksum.add(&chunk);
        count += chunk.len() as u64;
        if count <= from.rows {
            if count == from.rows && checksum.sum() != from.checksum {
                return Err(changed());
            }
            continue;
        }
        // Chunks are cut as they were the last time, so a mark lies between two of them.
        if count - (chunk.len() as u64) < from.rows {
            return Err(changed());
        }
        journal.read(&mut chunk, count, checksum.sum());
        if chunks.blocking_send(chunk).is_err() {
            return Ok(());
        }
        journal.note_now_and_then();
    }
    if count < from.rows { Err(changed()) } else { Ok(()) }
}

/// The name of the file, for people.
fn name_of(path: &Path) -> String {
    if path.as_os_str() == "-" { "stdin".to_owned() } else { path.display().to_string() }
}

/// Whether the summary is data (JSON) or a line for people.
fn is_json(output: &Output) -> bool {
    output.form == Form::Json
}
