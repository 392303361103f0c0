//! Codec: chunks as bytes, and files of chunks.
//!
//! ```text
//!   file    "KVCHUNKS" │ version 1 │ schema │ crc │ (length u64 │ chunk)*  │ length 0
//!   chunk   version 1 │ id u64 │ rows u32 │ columns u16 │ deleted │ column* │ crc
//!   column  kind │ missing u32 │ nans u32 │ zone │ present │ layout
//! ```
//!
//! Numbers are big-endian; the words of a column lie as they do in memory, so that nothing is turned around between the
//! file and the GPU. A checksum is the CRC-32 of everything before it.
//!
//! **Invariant.** Whatever bytes are read, the outcome is a chunk every reader can walk, or an error.

use super::{Chunk, Column, Dictionary, Encoding, Packed, Selection, Zone};
use crate::{
    limits::CHUNK_ROWS,
    schema::{COLUMNS_MAX, Field, Origin, Schema, SchemaError},
    value::{Kind, Value},
};
use std::{
    io::{self, Read, Write},
    sync::Arc,
};
use thiserror::Error;

const MAGIC: &[u8; 8] = b"KVCHUNKS";
const VERSION: u8 = 1;

/// Larger than any chunk of [`COLUMNS_MAX`] reasonable columns.
const CHUNK_BYTES_MAX: u64 = 1 << 32;

/// Why bytes are no chunks.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// They are something else.
    #[error("not a chunk file: it does not begin with KVCHUNKS")]
    Foreign,
    /// Written by a later version.
    #[error("version {0} of the chunk format is not known here")]
    Version(u8),
    /// They end too early.
    #[error("the bytes end in the middle of {0}")]
    Truncated(&'static str),
    /// A checksum does not match: the bytes are not those that were written.
    #[error("the checksum of {0} does not match: its bytes have changed since they were written")]
    Checksum(String),
    /// The checksum matches and the content makes no sense.
    #[error("malformed chunk: {0}")]
    Malformed(&'static str),
    /// The schema makes no sense.
    #[error("malformed chunk file: {0}")]
    Schema(#[from] SchemaError),
    /// Reading failed.
    #[error("reading chunks: {0}")]
    Read(#[from] io::Error),
}

/// A chunk as bytes.
#[must_use]
pub fn encode_chunk(chunk: &Chunk) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend(chunk.id().to_be_bytes());
    out.extend((chunk.rows() as u32).to_be_bytes());
    out.extend((chunk.columns().len() as u16).to_be_bytes());
    put_selection(&mut out, chunk.deleted());
    for column in chunk.columns() {
        put_column(&mut out, column);
    }
    let sum = crc32fast::hash(&out);
    out.extend(sum.to_be_bytes());
    out
}

fn put_words(out: &mut Vec<u8>, words: &[u64]) {
    out.extend((words.len() as u32).to_be_bytes());
    out.extend_from_slice(bytemuck::cast_slice(words));
}

fn put_selection(out: &mut Vec<u8>, selection: Option<&Selection>) {
    match selection {
        None => out.push(0),
        Some(selection) => {
            out.push(1);
            put_words(out, selection.words());
        }
    }
}

fn put_packed(out: &mut Vec<u8>, packed: &Packed) {
    out.push(packed.bits());
    put_words(out, packed.words());
}

fn put_column(out: &mut Vec<u8>, column: &Column) {
    let kind = Kind::ALL.iter().position(|kind| *kind == column.kind).expect("every kind is listed");
    out.push(kind as u8);
    out.extend(column.zone.missing.to_be_bytes());
    out.extend(column.zone.nans.to_be_bytes());
    match (column.zone.min.pattern(), column.zone.max.pattern()) {
        (Some(min), Some(max)) => {
            out.push(1);
            out.extend(min.to_be_bytes());
            out.extend(max.to_be_bytes());
        }
        _ => out.push(0),
    }
    put_selection(out, column.present.as_ref());
    match &column.encoding {
        Encoding::Words(words) => {
            out.push(0);
            put_words(out, words);
        }
        Encoding::Packed { base, numbers } => {
            out.push(1);
            out.extend(base.to_be_bytes());
            put_packed(out, numbers);
        }
        Encoding::Distinct { values, codes } => {
            out.push(2);
            put_words(out, values);
            put_packed(out, codes);
        }
        Encoding::Runs { ends, values } => {
            out.push(3);
            put_words(out, values);
            ends.iter().for_each(|end| out.extend(end.to_be_bytes()));
        }
        Encoding::Text { dictionary, codes } => {
            out.push(4);
            out.extend((dictionary.len() as u32).to_be_bytes());
            for text in dictionary.iter() {
                out.extend((text.len() as u32).to_be_bytes());
                out.extend_from_slice(text.as_bytes());
            }
            put_packed(out, codes);
        }
    }
}

/// Reads what [`encode_chunk`] wrote.
///
/// # Errors
/// If the bytes are anything else.
pub fn decode_chunk(bytes: &[u8]) -> Result<Chunk, DecodeError> {
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(DecodeError::Truncated("a checksum"))?;
    let mut reader = Reader { bytes: body };
    let version = reader.byte()?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let id = reader.u64()?;
    if crc32fast::hash(body) != u32::from_be_bytes(*sum) {
        return Err(DecodeError::Checksum(format!("chunk {id}")));
    }
    let rows = reader.u32()? as usize;
    if rows > CHUNK_ROWS {
        return Err(DecodeError::Malformed("more rows than a chunk has"));
    }
    let columns = u16::from_be_bytes(reader.array()?);
    let deleted = reader.selection(rows)?;
    let columns: Vec<Column> = (0..columns).map(|_| reader.column(rows)).collect::<Result<_, _>>()?;
    if !reader.bytes.is_empty() {
        return Err(DecodeError::Malformed("bytes after the last column"));
    }
    let chunk = Chunk::new(id, rows, columns);
    Ok(Chunk { deleted: deleted.map(Arc::new), ..chunk })
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(DecodeError::Truncated("a chunk"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn words(&mut self) -> Result<Vec<u64>, DecodeError> {
        let count = self.u32()? as usize;
        let bytes = self.take(count.checked_mul(8).ok_or(DecodeError::Truncated("a column"))?)?;
        Ok(bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect())
    }

    fn selection(&mut self, rows: usize) -> Result<Option<Selection>, DecodeError> {
        match self.byte()? {
            0 => Ok(None),
            1 => {
                let words = self.words()?;
                Selection::of_words(words, rows).map(Some).ok_or(DecodeError::Malformed("rows of a selection"))
            }
            _ => Err(DecodeError::Malformed("mark of a selection")),
        }
    }

    fn packed(&mut self, rows: usize) -> Result<Packed, DecodeError> {
        let bits = self.byte()?;
        let words = self.words()?;
        Packed::of_words(bits, words.into(), rows).ok_or(DecodeError::Malformed("packed numbers"))
    }

    fn codes(&mut self, rows: usize, distinct: usize, present: Option<&Selection>) -> Result<Packed, DecodeError> {
        let codes = self.packed(rows)?;
        let is_there = |row: usize| present.is_none_or(|present| present.contains(row));
        // A code nobody may look up is harmless; a column of numbers is looked up in every row.
        let is_sound = |row: usize| (codes.get(row) as usize) < distinct || (distinct == 0 && !is_there(row));
        if (0..rows).all(is_sound) { Ok(codes) } else { Err(DecodeError::Malformed("a code without a value")) }
    }

    fn column(&mut self, rows: usize) -> Result<Column, DecodeError> {
        let kind = *Kind::ALL.get(usize::from(self.byte()?)).ok_or(DecodeError::Malformed("kind of a column"))?;
        let (missing, nans) = (self.u32()?, self.u32()?);
        let ends = match self.byte()? {
            0 => None,
            1 => Some((self.u64()?, self.u64()?)),
            _ => return Err(DecodeError::Malformed("mark of a zone")),
        };
        let present = self.selection(rows)?;
        let there = present.as_ref().map_or(rows as u64, Selection::count);
        if u64::from(missing) + there != rows as u64 || u64::from(nans) > there {
            return Err(DecodeError::Malformed("counts of a zone"));
        }
        let encoding = self.encoding(kind, rows, present.as_ref())?;
        let (min, max) = match (&encoding, ends) {
            (Encoding::Text { dictionary, .. }, None) => {
                let value = |text: Option<&str>| text.map_or(Value::Missing, |text| Value::Text(text.into()));
                (value(dictionary.iter().next()), value(dictionary.iter().next_back()))
            }
            (Encoding::Text { .. }, Some(_)) => return Err(DecodeError::Malformed("zone of a text")),
            (_, Some((min, max))) => (zone_end(kind, min)?, zone_end(kind, max)?),
            (_, None) if there == u64::from(nans) => (Value::Missing, Value::Missing),
            (_, None) => return Err(DecodeError::Malformed("a column without its zone")),
        };
        Ok(Column { kind, rows, encoding, present, zone: Zone { min, max, missing, nans } })
    }

    fn encoding(&mut self, kind: Kind, rows: usize, present: Option<&Selection>) -> Result<Encoding, DecodeError> {
        let tag = self.byte()?;
        if (tag == 4) != (kind == Kind::Text) || (tag == 1 && kind == Kind::F64) {
            return Err(DecodeError::Malformed("layout of a column"));
        }
        match tag {
            0 => {
                let words = self.words()?;
                let is_whole = words.len() == rows.next_multiple_of(2);
                if is_whole { Ok(Encoding::Words(words.into())) } else { Err(DecodeError::Malformed("words")) }
            }
            1 => {
                let base = i64::from_be_bytes(self.array()?);
                Ok(Encoding::Packed { base, numbers: self.packed(rows)? })
            }
            2 => {
                let values: Arc<[u64]> = self.words()?.into();
                let codes = self.codes(rows, values.len(), None)?;
                Ok(Encoding::Distinct { values, codes })
            }
            3 => self.runs(rows),
            4 => {
                let count = self.u32()?;
                let mut texts = Vec::new();
                for _ in 0..count {
                    let length = self.u32()? as usize;
                    let text = std::str::from_utf8(self.take(length)?);
                    texts.push(text.map_err(|_| DecodeError::Malformed("text that is not UTF-8"))?);
                }
                let dictionary =
                    Dictionary::of_sorted(texts).ok_or(DecodeError::Malformed("a dictionary out of order"))?;
                let codes = self.codes(rows, dictionary.len(), present)?;
                Ok(Encoding::Text { dictionary, codes })
            }
            _ => Err(DecodeError::Malformed("layout of a column")),
        }
    }

    fn runs(&mut self, rows: usize) -> Result<Encoding, DecodeError> {
        let values: Arc<[u64]> = self.words()?.into();
        let ends: Vec<u32> = values.iter().map(|_| self.u32()).collect::<Result<_, _>>()?;
        let ascends = ends.windows(2).all(|pair| pair[0] < pair[1]) && ends.first().is_none_or(|end| *end > 0);
        if ascends && ends.last().copied().unwrap_or(0) as usize == rows {
            Ok(Encoding::Runs { ends: ends.into(), values })
        } else {
            Err(DecodeError::Malformed("runs"))
        }
    }
}

/// One end of a zone: a pattern that a value of this kind has, NaN excepted.
fn zone_end(kind: Kind, pattern: u64) -> Result<Value, DecodeError> {
    let value = Value::of_pattern(kind, pattern);
    let is_sound = value.pattern() == Some(pattern) && !matches!(value, Value::F64(number) if number.is_nan());
    if is_sound { Ok(value) } else { Err(DecodeError::Malformed("end of a zone")) }
}

/// Writes a file of chunks.
///
/// # Errors
/// If writing fails.
pub fn write_chunks(out: &mut impl Write, schema: &Schema, chunks: &[Arc<Chunk>]) -> io::Result<()> {
    let mut head = MAGIC.to_vec();
    head.push(VERSION);
    head.extend((schema.len() as u16).to_be_bytes());
    for field in schema.fields() {
        let kind = Kind::ALL.iter().position(|kind| *kind == field.kind).expect("every kind is listed");
        head.push(kind as u8);
        let (tag, first, second) = match field.origin {
            Origin::Field => (0, 0, 0),
            Origin::KeyPart(part) => (1, u32::from(part), 0),
            Origin::Bytes { offset, width } => (2, offset, width),
        };
        head.push(tag);
        head.extend(first.to_be_bytes());
        head.extend(second.to_be_bytes());
        head.extend((field.name.len() as u32).to_be_bytes());
        head.extend_from_slice(field.name.as_bytes());
    }
    head.extend(crc32fast::hash(&head).to_be_bytes());
    out.write_all(&head)?;
    for chunk in chunks {
        let bytes = encode_chunk(chunk);
        out.write_all(&(bytes.len() as u64).to_be_bytes())?;
        out.write_all(&bytes)?;
    }
    out.write_all(&0_u64.to_be_bytes())
}

/// Reads a file of chunks.
///
/// # Errors
/// If it is none, or not whole, or its bytes have changed.
pub fn read_chunks(mut input: impl Read) -> Result<(Schema, Vec<Arc<Chunk>>), DecodeError> {
    let schema = read_head(&mut input)?;
    let mut chunks = Vec::new();
    loop {
        let mut length = [0; 8];
        read_whole(&mut input, &mut length, "the list of chunks")?;
        let length = u64::from_be_bytes(length);
        if length == 0 {
            return Ok((schema, chunks));
        }
        if length > CHUNK_BYTES_MAX {
            return Err(DecodeError::Checksum(format!("the length of chunk {}", chunks.len())));
        }
        // A length that lies must not cost memory before the bytes are there.
        let mut bytes = Vec::new();
        input.by_ref().take(length).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < length {
            return Err(DecodeError::Truncated("a chunk"));
        }
        let chunk = decode_chunk(&bytes)?;
        let kinds = chunk.columns().iter().map(Column::kind);
        if !kinds.eq(schema.fields().iter().map(|field| field.kind)) {
            return Err(DecodeError::Malformed("columns that are not those of the schema"));
        }
        chunks.push(Arc::new(chunk));
    }
}

fn read_whole(input: &mut impl Read, bytes: &mut [u8], what: &'static str) -> Result<(), DecodeError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => DecodeError::Truncated(what),
        _ => DecodeError::Read(error),
    })
}

fn read_head(input: &mut impl Read) -> Result<Schema, DecodeError> {
    let mut head = vec![0; 11];
    read_whole(input, &mut head, "the beginning").map_err(|_| DecodeError::Foreign)?;
    if &head[..8] != MAGIC {
        return Err(DecodeError::Foreign);
    }
    if head[8] != VERSION {
        return Err(DecodeError::Version(head[8]));
    }
    let mut fields = Vec::new();
    for _ in 0..u16::from_be_bytes([head[9], head[10]]) {
        let start = head.len();
        head.resize(start + 14, 0);
        read_whole(input, &mut head[start..], "the schema")?;
        let number = |at: usize| u32::from_be_bytes(head[start + at..start + at + 4].try_into().expect("four bytes"));
        let (kind, tag, first, second, length) = (head[start], head[start + 1], number(2), number(6), number(10));
        if length > 1 << 16 || fields.len() >= COLUMNS_MAX {
            return Err(DecodeError::Checksum("the schema".to_owned()));
        }
        let start = head.len();
        head.resize(start + length as usize, 0);
        read_whole(input, &mut head[start..], "the schema")?;
        fields.push((kind, tag, first, second, head[start..].to_vec()));
    }
    let mut sum = [0; 4];
    read_whole(input, &mut sum, "the schema")?;
    if crc32fast::hash(&head) != u32::from_be_bytes(sum) {
        return Err(DecodeError::Checksum("the schema".to_owned()));
    }
    let field = |(kind, tag, first, second, name): (u8, u8, u32, u32, Vec<u8>)| {
        let kind = *Kind::ALL.get(usize::from(kind)).ok_or(DecodeError::Malformed("kind of a column"))?;
        let origin = match tag {
            0 => Origin::Field,
            1 => Origin::KeyPart(u16::try_from(first).map_err(|_| DecodeError::Malformed("origin of a column"))?),
            2 => Origin::Bytes { offset: first, width: second },
            _ => return Err(DecodeError::Malformed("origin of a column")),
        };
        let name = String::from_utf8(name).map_err(|_| DecodeError::Malformed("name of a column"))?;
        Ok(Field { name, kind, origin })
    };
    Ok(Schema::new(fields.into_iter().map(field).collect::<Result<_, DecodeError>>()?)?)
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
