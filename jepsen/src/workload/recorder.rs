//! Writes histories down as they happen.
//!
//! **Invariant.** One monotonic clock for all: the time of a record is taken while the history is held, so times never
//! go back, and an operation is invoked before it is sent.

use crate::history::{Kind, Process, Record, to_json};
use anyhow::{Context, Result};
use parking_lot::Mutex;
use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};
use tokio::time::Instant;

/// How one operation went, for plots and probes.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it was invoked.
    pub invoked_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// How it ended.
    pub kind: Kind,
    /// Whether it writes.
    pub is_write: bool,
    /// Which shard acknowledged it.
    pub shard: Option<u64>,
}

struct Written {
    file: BufWriter<File>,
    records: Vec<Record>,
    samples: Vec<Sample>,
    failure: Option<std::io::Error>,
}

/// One history.
pub struct Recorder {
    begun: Instant,
    path: PathBuf,
    written: Mutex<Written>,
}

impl Recorder {
    /// Into a file; times count from `begun`.
    pub fn create(path: &Path, begun: Instant) -> Result<Self> {
        let file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
        let written = Written { file, records: Vec::new(), samples: Vec::new(), failure: None };
        Ok(Recorder { begun, path: path.to_owned(), written: Mutex::new(written) })
    }

    /// Where it is written.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a record at this moment, and says which that is.
    pub fn write(&self, record: Record) -> u64 {
        self.put(record, |_| None)
    }

    /// Writes how an operation ended.
    pub fn end(&self, record: Record, invoked_ns: u64, is_write: bool, shard: Option<u64>) {
        let kind = record.kind;
        self.put(record, |ended_ns| Some(Sample { invoked_ns, ended_ns, kind, is_write, shard }));
    }

    fn put(&self, record: Record, sample: impl FnOnce(u64) -> Option<Sample>) -> u64 {
        let mut written = self.written.lock();
        let time_ns = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let record = Record { time_ns, ..record };
        if let Err(error) = writeln!(written.file, "{}", to_json(&record)) {
            written.failure.get_or_insert(error);
        }
        written.records.push(record);
        written.samples.extend(sample(time_ns));
        time_ns
    }

    /// Notes something the nemesis did.
    pub fn note_fault(&self, name: &str, value: crate::history::Value) -> u64 {
        self.write(Record::new(0, Process::Nemesis, Kind::Info, name).with_value(value))
    }

    /// How operations went since the `known`-th.
    #[must_use]
    pub fn samples_from(&self, known: usize) -> Vec<Sample> {
        self.written.lock().samples.get(known..).unwrap_or_default().to_vec()
    }

    /// Everything, once nobody writes any more.
    ///
    /// # Errors
    /// The file could not be written: what is in it is not the history.
    pub fn finish(&self) -> Result<Vec<Record>> {
        let mut written = self.written.lock();
        let flushed = written.file.flush();
        match written.failure.take().map_or(flushed, Err) {
            Ok(()) => Ok(std::mem::take(&mut written.records)),
            Err(error) => Err(error).with_context(|| format!("{} cannot be written", self.path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Format, History, load};

    #[tokio::test]
    async fn what_is_recorded_is_a_history() {
        let directory = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(&directory.path().join("history.jsonl"), Instant::now()).unwrap();
        let record = |kind| Record::new(0, Process::Client(1), kind, "read").with_key("x");
        let invoked_ns = recorder.write(record(Kind::Invoke));
        recorder.note_fault("kill", crate::history::Value::Nil);
        recorder.end(record(Kind::Ok), invoked_ns, false, Some(1));
        assert_eq!(recorder.samples_from(0).len(), 1);
        let records = recorder.finish().unwrap();
        assert_eq!(History::from_records(records).unwrap().operations.len(), 1);
        assert_eq!(load(recorder.path(), Format::Auto).unwrap().operations.len(), 1);
    }
}
