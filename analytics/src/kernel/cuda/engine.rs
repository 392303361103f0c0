//! Engine: what the thread that owns the device does with a request.
//!
//! ```text
//!   chunks ─▶ those with the same layouts together ─▶ batches
//!     batch: move the columns that are not resident ─▶ table of addresses ─▶ launch    the next one moves meanwhile
//!   all launches add into the same words; they are read once, at the end
//! ```
//!
//! **Invariant.** Columns stay resident within a budget; the least recently used go first, never one of the query under
//! way. Room is given back whatever happens.

use super::{
    Device,
    layout::{Signature, table_words},
    shape::{ROWS_MAX, Shape},
    source::Writer,
};
use crate::{
    aggregate::{Group, Partial, check_groups},
    chunk::{Chunk, Encoding},
    kernel::{
        Cost, ScanError,
        cpu::groups::{KeyColumn, Keys},
        pruned,
    },
    limits::{CHUNK_ROWS, Limits},
    query::{Expr, Query, QueryError},
};
use std::{collections::BTreeMap, sync::Arc};

/// Chunks of one launch.
const BATCH_CHUNKS: usize = 256;

/// Words beyond the end that a load may touch.
const PADDING: usize = 8;

/// Words of one column of one chunk on the device.
struct Resident {
    address: u64,
    words: usize,
    /// Where its parts begin: presence, list of values.
    present: u64,
    values: u64,
    used: u64,
    /// Keeps the column where it is, so that its place in memory stays its name.
    _chunk: Arc<Chunk>,
}

/// A column of a chunk, by where it lies in memory: chunks share columns when rows are deleted.
type Name = (usize, usize);

/// The device, and what is on it.
pub struct Engine {
    device: Box<dyn Device>,
    resident: BTreeMap<Name, Resident>,
    resident_words: u64,
    turn: u64,
}

impl Engine {
    pub fn new(device: Box<dyn Device>) -> Engine {
        Engine { device, resident: BTreeMap::new(), resident_words: 0, turn: 0 }
    }

    pub fn scan(
        &mut self,
        query: &Query,
        chunks: &[Arc<Chunk>],
        limits: &Limits,
    ) -> Result<(Partial, Cost), ScanError> {
        self.turn += 1;
        let (read, cost) = pruned(query, chunks);
        let chunks: Vec<&Arc<Chunk>> = read.iter().map(|(chunk, _)| *chunk).collect();
        if chunks.is_empty() {
            return Ok((Partial::new(query), cost));
        }
        let shape = Shape::new(query, &chunks).map_err(ScanError::Unable)?;
        if cost.rows > ROWS_MAX {
            return Err(ScanError::Unable(format!("more than {ROWS_MAX} rows in one scan")));
        }
        let keys = Keys::new(query, chunks.iter().copied());
        let groups = if keys.is_whole() { None } else { Some(dense(&keys, &shape, self.device.words_max())?) };
        let count = groups.unwrap_or(1);
        let mut borrowed = Vec::new();
        let outcome = self.run(query, &chunks, (&shape, &keys, groups), &mut borrowed);
        for address in borrowed {
            self.device.free(address);
        }
        let words = outcome?;
        let mut found = Vec::new();
        for group in 0..count {
            let words = &words[group * shape.words()..(group + 1) * shape.words()];
            if words[0] > 0 || keys.is_whole() {
                found.push(Group { key: keys.key(group as u32, &[]), states: shape.states(query, words) });
            }
        }
        check_groups(found.len(), limits)?;
        Ok((Partial::of_groups(found), cost))
    }

    /// Launches over everything; gives the words of all groups.
    fn run(
        &mut self,
        query: &Query,
        chunks: &[&Arc<Chunk>],
        (shape, keys, groups): (&Shape, &Keys, Option<usize>),
        borrowed: &mut Vec<u64>,
    ) -> Result<Vec<u64>, ScanError> {
        let columns = query.columns();
        let start: Vec<u64> = shape.empty().repeat(groups.unwrap_or(1));
        let out = self.borrow(&start, borrowed)?;
        let error = self.borrow(&[i64::MAX.cast_unsigned()], borrowed)?;
        let key_columns = keys.dense_columns();
        let mut alike: BTreeMap<Signature, Vec<&Arc<Chunk>>> = BTreeMap::new();
        for chunk in chunks {
            alike.entry(Signature::new(chunk, &columns)).or_default().push(chunk);
        }
        let mut places = Vec::new();
        for (signature, chunks) in &alike {
            let mut writer = Writer::new(query, shape, (&columns, signature), (&key_columns, groups));
            let source = writer.write().map_err(ScanError::Unable)?;
            for batch in chunks.chunks(BATCH_CHUNKS) {
                let table = self.table(batch, &columns, (&writer.tests, keys, &key_columns), borrowed)?;
                self.device.launch(&source, table, batch.len() as u64, out, error).map_err(ScanError::Unable)?;
            }
            // The same query names the same places in the same order, whatever the layouts.
            places = writer.places;
        }
        let overflow = self.device.read(error, 1).map_err(ScanError::Unable)?[0];
        if let Some(place) = usize::try_from(overflow).ok().and_then(|number| places.get(number)) {
            return Err(QueryError::Overflow { place: place.clone() }.into());
        }
        self.device.read(out, start.len()).map_err(ScanError::Unable)
    }

    /// Room with these words in it, until the query is over.
    fn borrow(&mut self, words: &[u64], borrowed: &mut Vec<u64>) -> Result<u64, ScanError> {
        let address = self.device.allocate(words.len().max(1)).map_err(ScanError::Unable)?;
        borrowed.push(address);
        self.device.write(address, words).map_err(ScanError::Unable)?;
        Ok(address)
    }

    /// The table of a batch: for each chunk its rows, and where everything is.
    fn table(
        &mut self,
        batch: &[&Arc<Chunk>],
        columns: &[usize],
        (tests, keys, key_columns): (&[Expr], &Keys, &[KeyColumn]),
        borrowed: &mut Vec<u64>,
    ) -> Result<u64, ScanError> {
        let stride = table_words(columns.len(), tests.len(), key_columns.len());
        let mut table = vec![0; stride * batch.len()];
        // What is needed for this query alone lies behind the table; where that is, is known once there is room.
        let (mut extra, mut relative) = (Vec::new(), Vec::new());
        for (chunk, entry) in batch.iter().zip(table.chunks_mut(stride)) {
            entry[0] = chunk.rows() as u64;
            let mut behind = |at: usize, words: Vec<u64>| {
                relative.push((at, extra.len()));
                extra.extend(words);
                extra.resize(extra.len().next_multiple_of(2), 0);
            };
            if let Some(deleted) = chunk.deleted() {
                behind(1, padded(deleted.words()));
            }
            for (place, index) in columns.iter().enumerate() {
                let column = self.column(chunk, *index).map_err(ScanError::Unable)?;
                let at = 2 + place * 4;
                entry[at..at + 4].copy_from_slice(&column);
            }
            for (place, test) in tests.iter().enumerate() {
                behind(2 + columns.len() * 4 + place, answers(test, chunk));
            }
            for place in 0..key_columns.len() {
                behind(2 + columns.len() * 4 + tests.len() + place, translation(keys, place, chunk));
            }
            for (at, from) in relative.drain(..) {
                // Marked as relative: below any address, and put right below.
                entry[at] = (from as u64) << 1 | RELATIVE;
            }
        }
        let words = table.len().next_multiple_of(2) + extra.len() + PADDING;
        let address = self.device.allocate(words).map_err(ScanError::Unable)?;
        borrowed.push(address);
        let behind = address + table.len().next_multiple_of(2) as u64 * 8;
        fix(&mut table, stride, (columns.len(), tests.len() + key_columns.len()), behind);
        table.resize(table.len().next_multiple_of(2), 0);
        table.extend(extra);
        table.resize(words, 0);
        self.device.write(address, &table).map_err(ScanError::Unable)?;
        Ok(address)
    }

    /// Where a column is on the device: words, presence, base, list of values. It is moved there if it is not.
    fn column(&mut self, chunk: &Arc<Chunk>, index: usize) -> Result<[u64; 4], String> {
        let column = &chunk.columns()[index];
        let name = (std::ptr::from_ref(column) as usize, index);
        let base = if let Encoding::Packed { base, .. } = column.encoding() { base.cast_unsigned() } else { 0 };
        let turn = self.turn;
        if let Some(resident) = self.resident.get_mut(&name) {
            resident.used = turn;
            return Ok([resident.address, resident.present, base, resident.values]);
        }
        let mut words = match column.encoding() {
            Encoding::Words(words) => words.to_vec(),
            Encoding::Packed { numbers, .. } => numbers.words().to_vec(),
            Encoding::Distinct { codes, .. } | Encoding::Text { codes, .. } => codes.words().to_vec(),
            Encoding::Runs { .. } => {
                let mut patterns = vec![0; chunk.rows()];
                column.patterns(0, &mut patterns);
                patterns
            }
        };
        let mut append = |more: &[u64]| {
            words.resize((words.len() + PADDING).next_multiple_of(2), 0);
            let at = words.len() as u64 * 8;
            words.extend_from_slice(more);
            at
        };
        let present = column.present().map(|present| append(present.words()));
        let values =
            if let Encoding::Distinct { values, .. } = column.encoding() { Some(append(values)) } else { None };
        append(&[]);
        self.make_room(words.len() as u64)?;
        let address = self.device.allocate(words.len())?;
        let (present, values) = (present.map_or(0, |at| address + at), values.map_or(0, |at| address + at));
        let _chunk = chunk.clone();
        let resident = Resident { address, words: words.len(), present, values, used: turn, _chunk };
        self.resident_words += words.len() as u64;
        self.resident.insert(name, resident);
        self.device.write(address, &words)?;
        Ok([address, present, base, values])
    }

    /// Lets go of what was not used for longest, until `words` more fit.
    fn make_room(&mut self, words: u64) -> Result<(), String> {
        while self.resident_words + words > self.device.words_max() {
            let idle = self.resident.iter().filter(|(_, resident)| resident.used < self.turn);
            let oldest = idle.min_by_key(|(_, resident)| resident.used).map(|(name, _)| *name);
            let name = oldest.ok_or("the columns of this query do not fit into the device's memory")?;
            let resident = self.resident.remove(&name).expect("it was just found");
            self.resident_words -= resident.words as u64;
            self.device.free(resident.address);
        }
        Ok(())
    }
}

/// Set in table entries that are places behind the table, until the table's address is known. Addresses are even.
const RELATIVE: u64 = 1;

/// Turns places behind the table into addresses.
fn fix(table: &mut [u64], stride: usize, (columns, rest): (usize, usize), behind: u64) {
    for entry in table.chunks_mut(stride) {
        for at in std::iter::once(1).chain(2 + columns * 4..2 + columns * 4 + rest) {
            if entry[at] & RELATIVE != 0 {
                entry[at] = behind + (entry[at] >> 1) * 8;
            }
        }
    }
}

fn padded(words: &[u64]) -> Vec<u64> {
    let mut words = words.to_vec();
    words.resize(words.len() + PADDING, 0);
    words
}

/// A byte for each text of the chunk: whether it passes the test. A chunk without texts has one, which nobody looks at.
fn answers(test: &Expr, chunk: &Chunk) -> Vec<u64> {
    let Expr::Text { column, test } = test else { return vec![0] };
    let Some((dictionary, _)) = chunk.columns()[*column].dictionary() else { return vec![0] };
    let mut bytes: Vec<u8> = dictionary.iter().map(|text| u8::from(test.holds(text))).collect();
    bytes.resize((bytes.len() + 1).next_multiple_of(8), 0);
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}

/// The code among all texts of each text of the chunk, two a word.
fn translation(keys: &Keys, place: usize, chunk: &Chunk) -> Vec<u64> {
    let mut codes = keys.translation(place, chunk);
    codes.resize((codes.len() + 1).next_multiple_of(2), 0);
    codes.chunks_exact(2).map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32).collect()
}

/// How many groups there may be, if the device can hold them.
fn dense(keys: &Keys, shape: &Shape, words_max: u64) -> Result<usize, ScanError> {
    let groups = keys.dense().ok_or_else(|| ScanError::Unable("no kernel for groups that are not dense".to_owned()))?;
    let words = groups as u64 * shape.words() as u64;
    if words * 4 > words_max {
        return Err(ScanError::Unable("the groups do not fit into the device's memory".to_owned()));
    }
    Ok(groups)
}

// A tile is an eighth of a chunk.
const _: () = assert!(CHUNK_ROWS == 8 * 8_192, "the kernels cut chunks into eight slices");
