//! Columns: arrays from files, as chunks, and two plain loops over them that say what the machine can do.

use super::Failure;
use kvorum_analytics::{
    chunk::{Chunk, Column, Selection},
    limits::CHUNK_ROWS,
    schema::Schema,
    value::Kind,
};
use std::{path::Path, sync::Arc};

/// The columns of the benchmark: name, kind, and how they lie in the file.
const NAMES: [(&str, Kind); 13] = [
    ("k", Kind::I64),
    ("v", Kind::F64),
    ("key", Kind::I64),
    ("raw", Kind::I64),
    ("a4", Kind::I64),
    ("b4", Kind::I64),
    ("a8", Kind::I64),
    ("b8", Kind::I64),
    ("a16", Kind::I64),
    ("b16", Kind::I64),
    ("g16", Kind::I64),
    ("g10000", Kind::I64),
    ("sparse", Kind::I64),
];

/// All of them in memory.
pub struct Columns {
    schema: Schema,
    chunks: Vec<Arc<Chunk>>,
    keys: Vec<i32>,
    values: Vec<f64>,
}

impl Columns {
    /// Reads `NAME.bin` for every column: 64-bit patterns, little-endian.
    pub fn read(directory: &Path) -> Result<Columns, Failure> {
        let schema = Schema::of(NAMES)?;
        let mut by_chunk: Vec<Vec<Column>> = Vec::new();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (name, kind) in NAMES {
            let bytes = std::fs::read(directory.join(format!("{name}.bin")))?;
            let patterns: Vec<u64> =
                bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect();
            match name {
                "k" => keys = patterns.iter().map(|pattern| *pattern as i32).collect(),
                "v" => values = patterns.iter().map(|pattern| f64::from_bits(*pattern)).collect(),
                _ => {}
            }
            for (index, part) in patterns.chunks(CHUNK_ROWS).enumerate() {
                let column = Column::of_patterns(kind, part.to_vec(), Selection::all(part.len()));
                match by_chunk.get_mut(index) {
                    Some(columns) => columns.push(column),
                    None => by_chunk.push(vec![column]),
                }
            }
        }
        let chunk = |(id, columns): (u64, Vec<Column>)| Arc::new(Chunk::new(id, columns[0].rows(), columns));
        let chunks = (0..).zip(by_chunk).map(chunk).collect();
        Ok(Columns { schema, chunks, keys, values })
    }

    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    pub fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// Reads every byte of the values, and does as little as possible with them.
    pub fn read_all(&self, threads: usize) -> u64 {
        let part = self.values.len().div_ceil(threads);
        std::thread::scope(|scope| {
            let workers: Vec<_> = self.values.chunks(part).map(|part| scope.spawn(|| sum_bits(part))).collect();
            workers.into_iter().map(|worker| worker.join().expect("it only adds")).fold(0, u64::wrapping_add)
        })
    }

    /// What a plain loop over arrays takes for the filter at 50 %.
    pub fn plain_loop(&self, below: i32) -> f64 {
        let mut lanes = [0.0_f64; 16];
        for (keys, values) in self.keys.chunks_exact(16).zip(self.values.chunks_exact(16)) {
            for lane in 0..16 {
                lanes[lane] += if keys[lane] < below { values[lane] } else { 0.0 };
            }
        }
        lanes.iter().sum()
    }
}

fn sum_bits(values: &[f64]) -> u64 {
    let mut lanes = [0_u64; 32];
    for block in values.chunks_exact(32) {
        for lane in 0..32 {
            lanes[lane] = lanes[lane].wrapping_add(block[lane].to_bits());
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}
