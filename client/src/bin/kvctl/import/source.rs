//! Where the bytes come from: a file or stdin, gunzipped if they begin like gzip.

use super::name_of;
use anyhow::Context as _;
use flate2::bufread::MultiGzDecoder;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The first two bytes of every gzip member.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Bytes of text read ahead.
const BUFFER_BYTES: usize = 128 << 10;

/// An open input.
pub struct Source {
    /// For people.
    pub name: String,
    /// Bytes of the file on disk, if it is one.
    pub bytes_total: Option<u64>,
    /// Bytes consumed so far, before gunzipping.
    pub bytes_read: Arc<AtomicU64>,
    /// The text.
    pub text: Box<dyn BufRead + Send>,
}

impl Source {
    /// Opens a path, or stdin for `-`.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = name_of(path);
        if path.as_os_str() == "-" {
            return Self::of(name, None, io::stdin());
        }
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let meta = file.metadata().with_context(|| format!("cannot open {name}"))?;
        if meta.is_dir() {
            anyhow::bail!("cannot read {name}: it is a directory");
        }
        let bytes_total = meta.is_file().then_some(meta.len());
        Self::of(name, bytes_total, file)
    }

    fn of(name: String, bytes_total: Option<u64>, input: impl Read + Send + 'static) -> anyhow::Result<Self> {
        let bytes_read = Arc::new(AtomicU64::new(0));
        let mut counted = Counted { inner: input, bytes_read: bytes_read.clone() };
        // A pipe may give the two bytes one by one.
        let mut head = Vec::new();
        (&mut counted).take(2).read_to_end(&mut head).with_context(|| format!("cannot read {name}"))?;
        let is_gzip = head == GZIP_MAGIC;
        let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(head).chain(counted));
        let text: Box<dyn BufRead + Send> = if is_gzip {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(whole)))
        } else {
            Box::new(whole)
        };
        Ok(Source { name, bytes_total, bytes_read, text })
    }
}

struct Counted<R> {
    inner: R,
    bytes_read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write as _;

    fn text_of(bytes: Vec<u8>) -> io::Result<String> {
        let mut text = String::new();
        Source::of("test".to_owned(), None, Cursor::new(bytes)).unwrap().text.read_to_string(&mut text)?;
        Ok(text)
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_is_known_by_its_first_bytes_and_not_by_a_name() {
        assert_eq!(text_of(b"a,b\n1,2\n".to_vec()).unwrap(), "a,b\n1,2\n");
        assert_eq!(text_of([gzip("one "), gzip("two")].concat()).unwrap(), "one two");
        for short in ["", "x"] {
            assert_eq!(text_of(short.into()).unwrap(), short);
        }
    }

    #[test]
    fn a_gzip_that_was_cut_is_an_error_and_not_the_end() {
        let whole = gzip(&"row\n".repeat(1_000));
        assert!(text_of(whole[..whole.len() - 9].to_vec()).is_err());
    }
}
