//! What the shim writes down of files, so that everything that is not synced can be undone.
//!
//! ```text
//!   length of the rest (4 bytes) · kind (1) · numbers (8 each) · names and bytes (length in 4 bytes, then themselves)
//! ```
//!
//! All numbers big-endian, kinds append-only. The log begins with [`VERSION`]. This file is compiled into both sides.
//!
//! **Invariant.** A record is written before what it describes is done. So an incomplete one at the end describes
//! nothing, and the last complete one may describe what did not happen any more.

/// The first byte of a log.
pub const VERSION: u8 = 1;

/// Longer ones are never written.
pub const RECORD_BYTES_MAX: usize = 1 << 30;

/// A file or directory, by its number in the file system. Numbers are used again: see [`Record::Born`].
pub type Inode = u64;

/// One thing that is about to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Bytes are written.
    Write {
        /// To which file.
        file: Inode,
        /// From which byte.
        offset: u64,
        /// How many.
        bytes: u64,
        /// How long the file was.
        old_length: u64,
        /// What stood there, as far as the file reached; zeros at the end are left out.
        before: Vec<u8>,
    },
    /// A file is cut or made longer.
    Length {
        /// Which.
        file: Inode,
        /// How long it was.
        old_length: u64,
        /// How long it becomes.
        new_length: u64,
        /// What is cut off; zeros at the end are left out.
        before: Vec<u8>,
    },
    /// A sync begins: of a file's content, or of a directory's names.
    SyncBegun {
        /// Which.
        file: Inode,
        /// Which sync.
        number: u64,
    },
    /// It ended.
    SyncEnded {
        /// Which file.
        file: Inode,
        /// Which sync.
        number: u64,
        /// Whether it promised anything.
        is_ok: bool,
    },
    /// A name that is not there comes into being.
    Created {
        /// Where.
        directory: Inode,
        /// What it is called.
        name: Vec<u8>,
        /// Whether it is a directory.
        is_directory: bool,
    },
    /// The file or directory that was just made has this number; whatever had it before is gone for good.
    Born {
        /// Which.
        file: Inode,
    },
    /// A name goes.
    Removed {
        /// Where.
        directory: Inode,
        /// What it is called.
        name: Vec<u8>,
        /// What it names.
        file: Inode,
        /// Whether it is a directory.
        is_directory: bool,
    },
    /// A name moves.
    Renamed {
        /// Where from.
        from: (Inode, Vec<u8>),
        /// Where to.
        to: (Inode, Vec<u8>),
        /// What it names.
        file: Inode,
        /// What the new name named before; 0 = nothing.
        replaced: Inode,
    },
    /// A file gets one more name.
    Linked {
        /// Where.
        directory: Inode,
        /// What it is called.
        name: Vec<u8>,
        /// What it names.
        file: Inode,
    },
}

impl Record {
    /// Appends it to a log.
    pub fn encode(&self, log: &mut Vec<u8>) {
        let start = log.len();
        log.extend([0; 4]);
        match self {
            Record::Write { file, offset, bytes, old_length, before } => {
                log.push(1);
                put_numbers(log, &[*file, *offset, *bytes, *old_length]);
                put_bytes(log, before);
            }
            Record::Length { file, old_length, new_length, before } => {
                log.push(2);
                put_numbers(log, &[*file, *old_length, *new_length]);
                put_bytes(log, before);
            }
            Record::SyncBegun { file, number } => {
                log.push(3);
                put_numbers(log, &[*file, *number]);
            }
            Record::SyncEnded { file, number, is_ok } => {
                log.push(4);
                put_numbers(log, &[*file, *number, u64::from(*is_ok)]);
            }
            Record::Created { directory, name, is_directory } => {
                log.push(5);
                put_numbers(log, &[*directory, u64::from(*is_directory)]);
                put_bytes(log, name);
            }
            Record::Born { file } => {
                log.push(6);
                put_numbers(log, &[*file]);
            }
            Record::Removed { directory, name, file, is_directory } => {
                log.push(7);
                put_numbers(log, &[*directory, *file, u64::from(*is_directory)]);
                put_bytes(log, name);
            }
            Record::Renamed { from, to, file, replaced } => {
                log.push(8);
                put_numbers(log, &[from.0, to.0, *file, *replaced]);
                put_bytes(log, &from.1);
                put_bytes(log, &to.1);
            }
            Record::Linked { directory, name, file } => {
                log.push(9);
                put_numbers(log, &[*directory, *file]);
                put_bytes(log, name);
            }
        }
        let length = (log.len() - start - 4) as u32;
        log[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// The first record of what is left of a log, which moves on behind it. `Ok(None)` = nothing complete is left.
    ///
    /// # Errors
    /// The bytes are no record.
    pub fn decode(log: &mut &[u8]) -> Result<Option<Record>, &'static str> {
        let Some(length) = log.get(..4) else { return Ok(None) };
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if length > RECORD_BYTES_MAX {
            return Err("a record is longer than any");
        }
        let Some(body) = log.get(4..4 + length) else { return Ok(None) };
        let record = decode_body(body).ok_or("a record is not what its kind says")?;
        *log = &log[4 + length..];
        Ok(Some(record))
    }
}

fn decode_body(body: &[u8]) -> Option<Record> {
    let (kind, mut rest) = body.split_first()?;
    let rest = &mut rest;
    let record = match kind {
        1 => {
            let [file, offset, bytes, old_length] = numbers(rest)?;
            Record::Write { file, offset, bytes, old_length, before: bytes_of(rest)? }
        }
        2 => {
            let [file, old_length, new_length] = numbers(rest)?;
            Record::Length { file, old_length, new_length, before: bytes_of(rest)? }
        }
        3 => {
            let [file, number] = numbers(rest)?;
            Record::SyncBegun { file, number }
        }
        4 => {
            let [file, number, is_ok] = numbers(rest)?;
            Record::SyncEnded { file, number, is_ok: flag(is_ok)? }
        }
        5 => {
            let [directory, is_directory] = numbers(rest)?;
            Record::Created { directory, name: bytes_of(rest)?, is_directory: flag(is_directory)? }
        }
        6 => {
            let [file] = numbers(rest)?;
            Record::Born { file }
        }
        7 => {
            let [directory, file, is_directory] = numbers(rest)?;
            Record::Removed { directory, name: bytes_of(rest)?, file, is_directory: flag(is_directory)? }
        }
        8 => {
            let [from, to, file, replaced] = numbers(rest)?;
            Record::Renamed { from: (from, bytes_of(rest)?), to: (to, bytes_of(rest)?), file, replaced }
        }
        9 => {
            let [directory, file] = numbers(rest)?;
            Record::Linked { directory, name: bytes_of(rest)?, file }
        }
        _ => return None,
    };
    rest.is_empty().then_some(record)
}

fn put_numbers(log: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| log.extend(number.to_be_bytes()));
}

fn put_bytes(log: &mut Vec<u8>, bytes: &[u8]) {
    log.extend((bytes.len() as u32).to_be_bytes());
    log.extend(bytes);
}

fn numbers<const N: usize>(rest: &mut &[u8]) -> Option<[u64; N]> {
    let mut found = [0; N];
    for number in &mut found {
        let (bytes, after) = rest.split_first_chunk::<8>()?;
        *number = u64::from_be_bytes(*bytes);
        *rest = after;
    }
    Some(found)
}

fn bytes_of(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (bytes, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    Some(bytes.to_vec())
}

fn flag(number: u64) -> Option<bool> {
    match number {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}
