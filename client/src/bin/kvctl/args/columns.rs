//! Commands that compute over columns: aggregate and correlate.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Aggregate {
    /// What to compute: 'count(), avg(dep_delay), quantile(dep_delay, 0.9) as late'
    pub aggregates: String,
    #[command(flatten)]
    pub source: Source,
    /// Which rows count, in SQL expression syntax: "origin = 'JFK' and month <= 6"
    #[arg(long = "where", value_name = "EXPRESSION")]
    pub filter: Option<String>,
    /// One answer for each combination of these columns
    #[arg(long, value_name = "COLUMNS")]
    pub group_by: Option<String>,
    /// Which kernel answers
    #[arg(long, value_enum, value_name = "KERNEL", default_value_t = Kernel::Auto)]
    pub executor: Kernel,
    /// Threads of the processor [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Say on stderr what it took: executor, rows, bytes, chunks skipped, time of each stage
    #[arg(long)]
    pub explain: bool,
    /// Write the columns to this file, which --from reads back faster
    #[arg(long, value_name = "FILE")]
    pub keep: Option<PathBuf>,
    /// Print the answer as CSV, or as an Arrow IPC stream, instead of a table
    #[arg(long = "as", value_enum, value_name = "FORM")]
    pub form: Option<AnswerForm>,
}

/// Where rows come from.
#[derive(Debug, Args)]
pub struct Source {
    /// CSV, TSV or JSON Lines, also gzipped, or columns that --keep wrote
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// Columns and kinds, instead of looking at the data: "origin:text,distance:i64"; the kinds are i64, f64, bool,
    /// timestamp, text
    #[arg(long, value_name = "COLUMNS")]
    pub schema: Option<String>,
    /// A cell of this text is missing, like an empty one; may be given more than once (CSV and TSV) [default: NA]
    #[arg(long, value_name = "TEXT")]
    pub null: Vec<String>,
    /// Format of the file [default: from its name and first bytes]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<ColumnsFormat>,
}

#[derive(Debug, Args)]
pub struct Correlate {
    #[command(flatten)]
    pub source: Source,
    /// The series, as column names separated by commas [default: every column of numbers]
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Rows of a window [default: all rows]
    #[arg(long, value_name = "ROWS")]
    pub window: Option<usize>,
    /// A matrix for every window, this many rows apart, instead of the last one alone
    #[arg(long, value_name = "ROWS", requires = "window", value_parser = clap::value_parser!(u32).range(1..))]
    pub step: Option<u32>,
    /// Correlate changes from row to row, or the values themselves
    #[arg(long, value_enum, value_name = "MEASURE", default_value_t = Measure::Returns)]
    pub of: Measure,
    /// Which kernel computes
    #[arg(long, value_enum, value_name = "KERNEL", default_value_t = Kernel::Auto)]
    pub executor: Kernel,
    /// Threads of the processor [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// The cheapest that is there
    Auto,
    /// An NVIDIA GPU
    Cuda,
    /// The processor, all cores
    Cpu,
    /// One row after the other: the specification
    Scalar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AnswerForm {
    Csv,
    Arrow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColumnsFormat {
    Csv,
    Tsv,
    Jsonl,
    Chunks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    Returns,
    Levels,
}
