//! Columns: what `aggregate` and `correlate` share: a file becomes a store, and trouble becomes an exit code.
//!
//! **Invariant.** What is wrong with the request or its data ends with 2 and one line that names the place; a file that
//! cannot be opened or written is trouble on this side and ends with 1.

mod aggregate;
mod correlate;

pub use aggregate::run as aggregate;
pub use correlate::run as correlate;

use crate::{
    args::{ColumnsFormat, Source},
    exit::{Usage, complain},
    output::Output,
};
use kvorum_analytics::{
    load::{Format, LoadError, Options, Report, load},
    schema::Schema,
    store::Store,
};

/// Wrong in itself: exit code 2.
fn usage(error: impl ToString) -> anyhow::Error {
    Usage(error.to_string()).into()
}

fn read(source: &Source, output: &Output) -> anyhow::Result<Store> {
    let schema =
        source.schema.as_deref().map(Schema::parse).transpose().map_err(|e| usage(format!("--schema: {e}")))?;
    let format = source.format.map(|format| match format {
        ColumnsFormat::Csv => Format::Delimited(b','),
        ColumnsFormat::Tsv => Format::Delimited(b'\t'),
        ColumnsFormat::Jsonl => Format::JsonLines,
        ColumnsFormat::Chunks => Format::Chunks,
    });
    let options = Options { schema, format, missing: source.null.clone() };
    let (store, report) = load(&source.from, &options).map_err(|error| match error {
        LoadError::File { .. } => anyhow::Error::from(error),
        // The errors of rows do not know their file.
        LoadError::Gzip { .. } | LoadError::Chunks { .. } | LoadError::Empty(_) => usage(error),
        error => usage(format!("{}: {error}", source.from.display())),
    })?;
    if !output.quiet {
        tell_malformed(&store, &report);
    }
    Ok(store)
}

/// What did not read as its column's kind counts as missing: the user should know.
fn tell_malformed(store: &Store, report: &Report) {
    for (field, column) in store.schema().fields().iter().zip(&report.columns) {
        if let Some((line, text)) = &column.first_malformed {
            let (name, kind, count) = (&field.name, field.kind, column.malformed);
            complain(&format!(
                "`{name}`: {count} cells are no {kind} and count as missing, first `{text}` in line {line}"
            ));
        }
    }
}
