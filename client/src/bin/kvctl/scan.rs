//! `kvctl scan`: as much as there is, one message at a time in memory.

use crate::{
    args::{Form, Globals, Scan},
    exit::complain,
    output::{Output, Stdout, bytes_json, entry_json, escaped, receipt_json},
    session::Access,
    text,
};
use kvorum_client::Entry;
use serde_json::{Value, json};
use std::process::ExitCode;

pub async fn run(globals: &Globals, output: &Output, scan: Scan) -> anyhow::Result<ExitCode> {
    let access = Access::open(globals)?;
    let mut request = access.scan();
    if let Some(level) = globals.level {
        request = request.level(level);
    }
    if let Some(prefix) = scan.prefix {
        request = request.prefix(text::key(prefix));
    }
    if let Some(start) = scan.start {
        request = request.start(text::key(start));
    }
    if let Some(end) = scan.end {
        request = request.end(text::key(end));
    }
    if let Some(limit) = scan.limit {
        request = request.limit(limit);
    }
    if scan.reverse {
        request = request.reverse();
    }
    if scan.full_scan {
        request = request.full_scan();
    }
    let parts = if scan.keys_only {
        Parts::Keys
    } else if scan.values_only {
        Parts::Values
    } else {
        Parts::Both
    };
    if parts == Parts::Keys {
        request = request.keys_only();
    }
    let mut stream = request.await?;
    let mut stdout = Stdout::new();
    let mut entries = 0_u64;
    loop {
        let next = match stream.next().await {
            Ok(next) => next,
            Err(error) => {
                // What came stands: it is printed before the error.
                stdout.flush()?;
                return Err(error.into());
            }
        };
        let Some(entry) = next else { break };
        entries += 1;
        print(&mut stdout, output.form, parts, &entry)?;
        // The first rows are shown at once, for people who wait.
        if entries == 1 {
            stdout.flush()?;
        }
    }
    if output.form == Form::Json {
        let receipts: Vec<Value> = stream.receipts().iter().map(receipt_json).collect();
        stdout.json(&json!({ "entries": entries, "receipts": receipts }))?;
    }
    stdout.flush()?;
    access.keep()?;
    for receipt in stream.receipts() {
        output.receipt(receipt);
    }
    if output.form == Form::Table && !output.quiet {
        complain(&format!("{entries} {}", if entries == 1 { "entry" } else { "entries" }));
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts {
    Keys,
    Values,
    Both,
}

fn print(stdout: &mut Stdout, form: Form, parts: Parts, entry: &Entry) -> anyhow::Result<()> {
    match (form, parts) {
        (Form::Table, Parts::Keys) => stdout.line(&escaped(&entry.key)),
        (Form::Table, Parts::Values) => stdout.line(&escaped(&entry.value)),
        (Form::Table, Parts::Both) => stdout.line(&format!("{}\t{}", escaped(&entry.key), escaped(&entry.value))),
        (Form::Raw, Parts::Keys) => line_of(stdout, &[&entry.key]),
        (Form::Raw, Parts::Values) => line_of(stdout, &[&entry.value]),
        (Form::Raw, Parts::Both) => line_of(stdout, &[&entry.key, b"\t", &entry.value]),
        (Form::Json, Parts::Keys) => {
            stdout.json(&json!({ "key": bytes_json(&entry.key), "version": entry.version.to_string() }))
        }
        (Form::Json, Parts::Values) => {
            stdout.json(&json!({ "value": bytes_json(&entry.value), "version": entry.version.to_string() }))
        }
        (Form::Json, Parts::Both) => stdout.json(&entry_json(entry)),
    }
}

fn line_of(stdout: &mut Stdout, parts: &[&[u8]]) -> anyhow::Result<()> {
    parts.iter().try_for_each(|part| stdout.write(part))?;
    stdout.write(b"\n")
}
