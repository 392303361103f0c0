//! # Load: rows of text into columns
//!
//! ```text
//!   file ─ gunzip? ─▶ CSV, TSV │ JSON Lines │ chunks ─▶ sample ─▶ schema (declared, or inferred) ─▶ cells ─▶ store
//!                                                                        keyspace rows ─▶ cells (`keyed`)
//! ```
//!
//! Rows are read once and go straight into the open chunk: what is held is the sealed chunks, one open one, and at the
//! beginning a sample of [`SAMPLE_ROWS`] rows.
//!
//! **Invariant.** A cell that does not read as its column's kind is missing, and counted; a row of the wrong width, a
//! file that ends in the middle, and a schema that most of a column contradicts are errors with their place.

mod cells;
mod csv;
mod infer;
mod json;
pub mod keyed;

pub use cells::Report;

use crate::{
    chunk::{DecodeError, read_chunks},
    schema::Schema,
    store::Store,
    value::Kind,
};
use flate2::read::MultiGzDecoder;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Rows that are looked at before kinds are settled.
pub const SAMPLE_ROWS: usize = 10_000;

/// Why a file was not loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It cannot be opened or read.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is compressed and ends in the middle, or is damaged.
    #[error("{path}: the gzip stream is truncated or damaged: {error}")]
    Gzip {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A row is not one.
    #[error("line {line}: {message}")]
    Row {
        /// Where.
        line: u64,
        /// What is wrong.
        message: String,
    },
    /// There is nothing in it.
    #[error("{0} has no rows: nothing says what its columns are")]
    Empty(PathBuf),
    /// A declared column is not there.
    #[error("the schema declares `{column}`, which the file does not have: it has {there}")]
    NoColumn {
        /// Which.
        column: String,
        /// What there is.
        there: String,
    },
    /// Most of a column is not what the schema says.
    #[error(
        "the schema says that `{column}` is {kind}, but {malformed} of {values} values are not: `{text}` in line {line}"
    )]
    Contradiction {
        /// Which.
        column: String,
        /// What the schema says.
        kind: Kind,
        /// How many values are something else.
        malformed: u64,
        /// Of how many.
        values: u64,
        /// The first that is.
        text: String,
        /// Where it is.
        line: u64,
    },
    /// A chunk file that is none.
    #[error("{path}: {error}")]
    Chunks {
        /// Which.
        path: PathBuf,
        /// Why.
        error: DecodeError,
    },
    /// Column names that make no schema.
    #[error(transparent)]
    Schema(#[from] crate::schema::SchemaError),
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Cells with a delimiter between them, names in the first line.
    Delimited(u8),
    /// One JSON object a line.
    JsonLines,
    /// What `write_chunks` wrote.
    Chunks,
}

/// How to read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The columns; `None` = look at the data.
    pub schema: Option<Schema>,
    /// What the file holds; `None` = its name and first bytes say.
    pub format: Option<Format>,
    /// Texts that stand for a missing value, beside the empty one.
    pub missing: Vec<String>,
}

/// Reads a file into columns.
///
/// # Errors
/// If it cannot be read, or makes no sense.
pub fn load(path: &Path, options: &Options) -> Result<(Store, Report), LoadError> {
    let file = |error| LoadError::File { path: path.to_owned(), error };
    let mut raw = BufReader::with_capacity(1 << 18, File::open(path).map_err(file)?);
    let is_gzip = raw.fill_buf().map_err(file)?.starts_with(&[0x1F, 0x8B]);
    let inner: Box<dyn Read> = if is_gzip { Box::new(MultiGzDecoder::new(raw)) } else { Box::new(raw) };
    let mut input = BufReader::with_capacity(1 << 18, inner);
    let refuse = |error: io::Error| match is_gzip {
        true => LoadError::Gzip { path: path.to_owned(), error },
        false => LoadError::File { path: path.to_owned(), error },
    };
    let start = input.fill_buf().map_err(refuse)?;
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let format = options.format.unwrap_or_else(|| guess(&name, start));
    let outcome = match format {
        Format::Delimited(delimiter) => csv::load(input, delimiter, options),
        Format::JsonLines => json::load(input, options),
        Format::Chunks => {
            let (schema, chunks) =
                read_chunks(input).map_err(|error| LoadError::Chunks { path: path.to_owned(), error })?;
            Ok((Store::of_chunks(schema, chunks), Report::default()))
        }
    };
    match outcome {
        Err(Trouble::Input(error)) => Err(refuse(error)),
        Err(Trouble::Load(error)) => Err(error),
        Err(Trouble::Empty) => Err(LoadError::Empty(path.to_owned())),
        Ok(loaded) => Ok(loaded),
    }
}

/// What a reader of rows may run into; [`load`] knows the file's name.
enum Trouble {
    Input(io::Error),
    Load(LoadError),
    Empty,
}

impl From<LoadError> for Trouble {
    fn from(error: LoadError) -> Self {
        Trouble::Load(error)
    }
}

fn guess(name: &str, start: &[u8]) -> Format {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    if start.starts_with(b"KVCHUNKS") || name.ends_with(".chunks") {
        return Format::Chunks;
    }
    let is_json = name.ends_with(".jsonl") || name.ends_with(".ndjson") || name.ends_with(".json");
    let is_named = name.ends_with(".csv") || name.ends_with(".tsv");
    if is_json || (!is_named && start.trim_ascii_start().starts_with(b"{")) {
        return Format::JsonLines;
    }
    Format::Delimited(if name.ends_with(".tsv") { b'\t' } else { b',' })
}

#[cfg(test)]
mod tests;
