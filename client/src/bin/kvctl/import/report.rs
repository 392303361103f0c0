//! What an import tells: progress while it runs, rejected rows, a summary at the end.

use super::{
    is_json,
    rows::{Bad, Chunk, Row},
    source::Source,
};
use crate::{exit::complain, output::Output};
use anyhow::Context as _;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use serde_json::json;
use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Rejected rows that are shown; the rest is counted.
const SHOWN_MAX: u64 = 10;

/// Everything an import has to tell.
pub struct Report {
    bar: ProgressBar,
    bytes_read: Arc<AtomicU64>,
    started: Instant,
    rows: AtomicU64,
    imported: AtomicU64,
    bytes: AtomicU64,
    expired: AtomicU64,
    rejections: Mutex<Rejections>,
}

struct Rejections {
    count: u64,
    file: Option<BufWriter<File>>,
    file_error: Option<std::io::Error>,
}

/// What it came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub rows: u64,
    pub imported: u64,
    pub rejected: u64,
    /// Rows whose time had passed already: they are not stored.
    pub expired: u64,
    /// Bytes of keys and values stored.
    pub bytes: u64,
    pub elapsed: Duration,
}

impl Report {
    pub fn start(output: &Output, source: &Source, errors: Option<&Path>) -> anyhow::Result<Self> {
        // Hidden where stderr is no terminal.
        let target = if output.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(source.bytes_total, target);
        let template = match source.bytes_total {
            Some(_) => "{msg} {wide_bar} {percent}% {bytes_per_sec} {eta}",
            None => "{msg} {spinner} {bytes} {bytes_per_sec}",
        };
        bar.set_style(ProgressStyle::with_template(template).context("progress bar")?);
        let file = errors.map(|path| File::create(path).with_context(|| format!("cannot write {}", path.display())));
        let file = file.transpose()?.map(BufWriter::new);
        Ok(Report {
            bar,
            bytes_read: source.bytes_read.clone(),
            started: Instant::now(),
            rows: AtomicU64::new(0),
            imported: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            rejections: Mutex::new(Rejections { count: 0, file, file_error: None }),
        })
    }

    /// A chunk was read; its bad rows are told.
    pub fn read(&self, chunk: &Chunk) {
        self.rows.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        self.rejected(chunk.bad.iter().cloned());
        self.bar.set_position(self.bytes_read.load(Ordering::Relaxed));
    }

    /// Rows are durable.
    pub fn stored(&self, rows: &[Row]) {
        let bytes: usize = rows.iter().map(|row| row.key.len() + row.value.len()).sum();
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let imported = self.imported.fetch_add(rows.len() as u64, Ordering::Relaxed) + rows.len() as u64;
        self.bar.set_message(format!("{} rows", HumanCount(imported)));
    }

    /// The time of these rows had passed.
    pub fn expired(&self, rows: &[Row]) {
        self.expired.fetch_add(rows.len() as u64, Ordering::Relaxed);
    }

    /// Rows are not stored.
    pub fn rejected(&self, bad: impl IntoIterator<Item = Bad>) {
        let mut rejections = self.rejections.lock();
        for bad in bad {
            rejections.count += 1;
            if rejections.count <= SHOWN_MAX {
                self.bar.suspend(|| complain(&format!("line {}: {}", bad.line, bad.problem)));
            }
            let line = json!({ "line": bad.line, "problem": bad.problem, "text": bad.text });
            if let Some(file) = &mut rejections.file
                && let Err(error) = writeln!(file, "{line}")
            {
                rejections.file_error = Some(error);
            }
        }
    }

    pub fn finish(&self) -> anyhow::Result<Summary> {
        self.bar.finish_and_clear();
        let mut rejections = self.rejections.lock();
        if rejections.count > SHOWN_MAX {
            let rest = rejections.count - SHOWN_MAX;
            complain(&format!("and {rest} more rejected rows: --errors FILE writes all of them"));
        }
        let flushed = rejections.file.as_mut().map_or(Ok(()), BufWriter::flush);
        if let Some(error) = rejections.file_error.take().or(flushed.err()) {
            complain(&format!("warning: the file of rejected rows is not complete: {error}"));
        }
        Ok(Summary {
            rows: self.rows.load(Ordering::Relaxed),
            imported: self.imported.load(Ordering::Relaxed),
            rejected: rejections.count,
            expired: self.expired.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            elapsed: self.started.elapsed(),
        })
    }
}

impl Summary {
    fn rows_per_second(&self) -> f64 {
        self.imported as f64 / self.elapsed.as_secs_f64().max(0.001)
    }

    /// On stderr for people, on stdout for programs.
    pub fn print(&self, output: &Output) -> anyhow::Result<()> {
        if is_json(output) {
            return output.json(&json!({
                "rows": self.rows,
                "imported": self.imported,
                "rejected": self.rejected,
                "expired": self.expired,
                "bytes": self.bytes,
                "seconds": self.elapsed.as_secs_f64(),
                "rows_per_second": self.rows_per_second(),
            }));
        }
        complain(&format!(
            "{} rows: {} imported, {} rejected{}; {} of keys and values in {:.1} s, {} rows/s",
            HumanCount(self.rows),
            HumanCount(self.imported),
            HumanCount(self.rejected),
            if self.expired > 0 { format!(", {} expired", HumanCount(self.expired)) } else { String::new() },
            HumanBytes(self.bytes),
            self.elapsed.as_secs_f64(),
            HumanCount(self.rows_per_second() as u64),
        ));
        Ok(())
    }
}
