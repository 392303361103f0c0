//! # kernel-bench: how fast the kernels are, on a machine one can carry it to
//!
//! ```text
//!   kernel-bench serve DIR [--threads N]      columns from DIR/*.bin; a case a line on stdin, an answer and its time a
//!                                             line on stdout: `analytics/bench/compare.py` asks others between
//!   kernel-bench load FILE                    how long a file takes to become chunks, and how large they are
//!   kernel-bench correlate FILE [--threads N] the matrix of FILE's columns, against a plain loop
//! ```
//!
//! Links nothing but this crate: no RocksDB, no network.
//!
//! **Invariant.** Times are of whole scans through the seam, from chunks in memory to a finished answer; nothing is
//! subtracted.

mod columns;

use columns::Columns;
use kvorum_analytics::{
    correlate::{Measure, Series, matrix_by_loop},
    kernel::{Cpu, Kernel as _},
    limits::Limits,
    load::{Options, load},
    query::{Query, Text},
    value::{Kind, Value},
};
use std::{
    io::{BufRead as _, Write as _, stdin, stdout},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let threads = arguments.iter().position(|word| word == "--threads").and_then(|at| arguments.get(at + 1));
    let outcome = match (threads.map(|text| text.parse::<usize>()), &arguments[..]) {
        (Some(Err(_)), _) => Err("--threads takes a number".into()),
        (threads, [verb, path, ..]) => {
            let threads = threads.and_then(Result::ok).unwrap_or(1);
            match verb.as_str() {
                "serve" => serve(Path::new(path), threads),
                "correlate" => correlate(Path::new(path), threads),
                "load" => measure_load(Path::new(path)),
                other => Err(format!("`{other}` is none of serve, correlate and load").into()),
            }
        }
        _ => Err("kernel-bench serve DIR | correlate FILE | load FILE [--threads N]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_listens = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(2)
        }
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures time; nothing is simulated here")]
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// The questions, by name: aggregates, filter, groups.
fn question(name: &str) -> Option<(&'static str, Option<&'static str>, Option<&'static str>)> {
    Some(match name {
        "sum" => ("sum(v)", None, None),
        "min_max" => ("min(v), max(v)", None, None),
        "filter_10" => ("sum(v)", Some("k < 214748364"), None),
        "filter_50" => ("sum(v)", Some("k < 1073741824"), None),
        "raw_filter_50" => ("sum(raw)", Some("key < 0"), None),
        "packed_4" => ("sum(b4)", Some("a4 < 8"), None),
        "packed_8" => ("sum(b8)", Some("a8 < 128"), None),
        "packed_16" => ("sum(b16)", Some("a16 < 32768"), None),
        "group_16" => ("sum(v)", None, Some("g16")),
        "group_10000" => ("sum(v)", None, Some("g10000")),
        "group_sparse" => ("sum(v)", None, Some("sparse")),
        _ => return None,
    })
}

fn serve(directory: &Path, threads: usize) -> Result<(), Failure> {
    let columns = Columns::read(directory)?;
    let (cpu, limits) = (Cpu::new(threads), Limits::default());
    writeln!(stdout(), "ready")?;
    for line in stdin().lock().lines() {
        let name = line?;
        let (seconds, answer) = match name.as_str() {
            "bandwidth" => {
                let (sum, took) = timed(|| columns.read_all(threads));
                (took, sum.to_string())
            }
            "loop_filter_50" => {
                let (sum, took) = timed(|| columns.plain_loop(1_073_741_824));
                (took, sum.to_string())
            }
            name => {
                let (aggregates, filter, groups) = question(name).ok_or_else(|| format!("no case `{name}`"))?;
                let query = Query::parse(Text { aggregates, filter, groups }, columns.schema(), &limits)?;
                let (result, took) = timed(|| cpu.scan(&query, columns.chunks(), &limits));
                let (partial, _) = result?;
                // One number that every engine can give: the sum over the groups, and how many there are.
                let total: f64 = partial
                    .groups()
                    .iter()
                    .map(|group| match group.states[0].finish(&query.aggregates[0].function) {
                        Value::F64(number) => number,
                        Value::I64(number) => number as f64,
                        Value::Wide(number) => number as f64,
                        _ => 0.0,
                    })
                    .sum();
                (took, format!("[{total:?},{}]", partial.groups().len()))
            }
        };
        writeln!(stdout(), "{{\"seconds\":{},\"answer\":{answer}}}", seconds.as_secs_f64())?;
        stdout().flush()?;
    }
    Ok(())
}

fn measure_load(path: &Path) -> Result<(), Failure> {
    for _ in 0..5 {
        let (loaded, took) = timed(|| load(path, &Options::default()));
        let (store, _) = loaded?;
        writeln!(stdout(), "{} rows in {took:?}, {} bytes of columns", store.rows(), store.bytes())?;
    }
    // Where the system tells how much memory the process had at most.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: not known");
    Ok(writeln!(stdout(), "{peak}")?)
}

fn correlate(path: &Path, threads: usize) -> Result<(), Failure> {
    let (store, _) = load(path, &Options::default())?;
    let fields = store.schema().fields().iter().enumerate();
    let columns: Vec<(usize, &str)> = fields
        .filter(|(_, field)| matches!(field.kind, Kind::I64 | Kind::F64))
        .map(|(index, field)| (index, field.name.as_str()))
        .collect();
    let series = Series::of_chunks(&store.chunks(), &columns)?.measured(Measure::Returns);
    let wide: Vec<Vec<f64>> =
        (0..200).map(|place| series.column(place % series.len())[place..place + 252].to_vec()).collect();
    for (name, series) in [("as loaded", series), ("200 × 252", Series::new(wide)?)] {
        let rows = series.rows();
        let (mut fast, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..9 {
            let (matrix, took) = timed(|| series.matrix(0, rows, threads));
            fast.push(took);
            let (expected, took) = timed(|| matrix_by_loop(&series, 0, rows));
            plain.push(took);
            let pairs = matrix.coefficients().iter().zip(expected.coefficients());
            if pairs.into_iter().any(|(one, other)| (one - other).abs() > 1e-9) {
                return Err("the two ways disagree".into());
            }
        }
        fast.sort();
        plain.sort();
        let ratio = plain[4].as_secs_f64() / fast[4].as_secs_f64();
        let (series, fast, plain) = (series.len(), fast[4], plain[4]);
        writeln!(stdout(), "{name}: {series} series, {rows} rows: {fast:?}, plain loop {plain:?}: {ratio:.1}×")?;
    }
    Ok(())
}
