//! Where the lines go: stdout, a file, a gzipped file; a file in parts that are durable one after the other.
//!
//! ```text
//!   lines ─▶ part ─ full ─▶ (gzip member) ─▶ file ─▶ synced ─▶ note: rows, bytes, last key
//! ```
//!
//! **Invariant.** A note names a length of the file that ends with a whole row (and a whole gzip member). Parts end at
//! row numbers, so that an export that was resumed has the bytes of one that was not.

use super::{
    line::{Exported, push},
    sidecar::Sidecar,
};
use crate::output::Stdout;
use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
};

/// Rows of one part.
pub const PART_ROWS: u64 = 4_096;

/// Bytes of text that are handed to the file at once, about.
const BUFFER_BYTES: usize = 256 << 10;

/// What is exported: an export is resumed with the same only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    pub keyspace: String,
    pub keyspace_id: u32,
    /// First and last key, in base64.
    pub start: String,
    pub end: String,
}

/// How far an export has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub format: u32,
    pub scope: Scope,
    pub rows: u64,
    /// Bytes of the file that hold these rows.
    pub bytes: u64,
    /// The last of them, in base64.
    pub last_key: Option<String>,
}

/// Where lines go.
pub enum Sink {
    Stdout(Stdout),
    File(Box<Parts>),
}

/// A file that grows part by part.
pub struct Parts {
    file: File,
    name: String,
    sidecar: Sidecar,
    note: Note,
    is_gzip: bool,
    /// Lines not handed to the file yet.
    text: Vec<u8>,
    /// The gzip member of this part, begun.
    member: Option<GzEncoder<Vec<u8>>>,
    rows: u64,
    bytes: u64,
    last_key: Option<String>,
}

impl Parts {
    /// Opens the file where `note` says that it ends; what is behind was not certain.
    pub fn open(path: &Path, sidecar: Sidecar, note: Note) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let open = || -> std::io::Result<(File, u64)> {
            let mut file = File::options().create(true).read(true).write(true).truncate(false).open(path)?;
            let length = file.metadata()?.len();
            if length >= note.bytes {
                file.set_len(note.bytes)?;
                file.seek(SeekFrom::End(0))?;
            }
            Ok((file, length))
        };
        let (file, length) = open().with_context(|| format!("cannot write {name}"))?;
        if length < note.bytes {
            anyhow::bail!("{name} has {length} bytes, and {} were written: it was changed, begin anew", note.bytes);
        }
        let is_gzip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        sidecar.write(&note)?;
        let (rows, bytes, last_key) = (note.rows, note.bytes, note.last_key.clone());
        Ok(Parts { file, name, sidecar, note, is_gzip, text: Vec::new(), member: None, rows, bytes, last_key })
    }

    fn push(&mut self, entry: &Exported) -> anyhow::Result<()> {
        push(&mut self.text, entry);
        self.rows += 1;
        self.last_key = Some(BASE64_STANDARD.encode(&entry.key));
        if self.rows.is_multiple_of(PART_ROWS) {
            self.end_part()?;
        } else if self.text.len() >= BUFFER_BYTES {
            self.hand_over()?;
        }
        Ok(())
    }

    fn hand_over(&mut self) -> anyhow::Result<()> {
        let name = &self.name;
        let text = std::mem::take(&mut self.text);
        let bytes = if self.is_gzip {
            let member = self.member.get_or_insert_with(|| GzEncoder::new(Vec::new(), Compression::default()));
            member.write_all(&text).with_context(|| format!("cannot write {name}"))?;
            std::mem::take(member.get_mut())
        } else {
            text
        };
        self.file.write_all(&bytes).with_context(|| format!("cannot write {name}"))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes everything so far durable, and notes it.
    fn end_part(&mut self) -> anyhow::Result<()> {
        self.hand_over()?;
        let name = &self.name;
        if let Some(member) = self.member.take() {
            let rest = member.finish().with_context(|| format!("cannot write {name}"))?;
            self.file.write_all(&rest).with_context(|| format!("cannot write {name}"))?;
            self.bytes += rest.len() as u64;
        }
        self.file.sync_data().with_context(|| format!("cannot write {name}"))?;
        self.note = Note { rows: self.rows, bytes: self.bytes, last_key: self.last_key.clone(), ..self.note.clone() };
        self.sidecar.write(&self.note)
    }
}

impl Sink {
    pub fn push(&mut self, entry: &Exported) -> anyhow::Result<()> {
        match self {
            Sink::Stdout(stdout) => {
                let mut text = Vec::new();
                push(&mut text, entry);
                stdout.write(&text)
            }
            Sink::File(parts) => parts.push(entry),
        }
    }

    /// All of it is there.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        match self {
            Sink::Stdout(stdout) => stdout.flush(),
            Sink::File(parts) => {
                parts.end_part()?;
                parts.sidecar.remove()
            }
        }
    }

    /// It goes on another time: hands over what stdout has not had yet, and says how many rows of a file are certain.
    pub fn interrupt(&mut self) -> anyhow::Result<Option<u64>> {
        match self {
            Sink::Stdout(stdout) => stdout.flush().map(|()| None),
            Sink::File(parts) => Ok(Some(parts.note.rows)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::bufread::MultiGzDecoder;
    use std::io::Read as _;
    use tempfile::TempDir;

    fn note() -> Note {
        let scope = Scope { keyspace: "k".to_owned(), keyspace_id: 7, start: String::new(), end: String::new() };
        Note { format: 1, scope, rows: 0, bytes: 0, last_key: None }
    }

    fn entry(number: u64) -> Exported {
        Exported { key: format!("{number:08}").into(), value: "v".repeat(50).into(), expires_ms: None }
    }

    /// Writes rows `from..to`, and ends in order if `is_whole`.
    fn write(path: &Path, note: Note, to: u64, is_whole: bool) {
        let from = note.rows;
        let parts = Parts::open(path, Sidecar::beside(path, "resume"), note).unwrap();
        let mut sink = Sink::File(Box::new(parts));
        (from..to).for_each(|number| sink.push(&entry(number)).unwrap());
        if is_whole {
            sink.finish().unwrap();
        }
    }

    #[test]
    fn a_resumed_file_has_the_bytes_of_one_written_at_once() {
        for name in ["a.jsonl", "a.jsonl.gz"] {
            let folder = TempDir::new().unwrap();
            let (once, twice) = (folder.path().join(format!("once-{name}")), folder.path().join(name));
            write(&once, note(), 3 * PART_ROWS + 5, true);
            // Broken off in the middle of a part, and then in the middle of a row.
            write(&twice, note(), 2 * PART_ROWS + 100, false);
            File::options().append(true).open(&twice).unwrap().write_all(b"{\"key\":\"half a").unwrap();
            let sidecar = Sidecar::beside(&twice, "resume");
            let left: Note = sidecar.read().unwrap().unwrap();
            assert_eq!((left.rows, left.last_key.clone()), (2 * PART_ROWS, Some("MDAwMDgxOTE=".to_owned())));
            write(&twice, left, 3 * PART_ROWS + 5, true);
            assert_eq!(std::fs::read(&twice).unwrap(), std::fs::read(&once).unwrap());
            assert_eq!(sidecar.read::<Note>().unwrap(), None, "what is whole has no note");
            let mut text = String::new();
            let bytes = std::fs::read(&twice).unwrap();
            match name.ends_with("gz") {
                true => MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap(),
                false => (&bytes[..]).read_to_string(&mut text).unwrap(),
            };
            assert_eq!(text.lines().count() as u64, 3 * PART_ROWS + 5);
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_not_gone_on_with() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.jsonl");
        let short = Note { rows: 9, bytes: 900, ..note() };
        let error = Parts::open(&path, Sidecar::beside(&path, "resume"), short).err().unwrap();
        assert!(error.to_string().contains("was changed"), "{error}");
    }
}
