//! Column: the values of one column in one chunk, encoded, and what is known of them without reading them.
//!
//! ```text
//!   Words       64 bits a row
//!   Packed      base + number of 0 to 32 bits            frame of reference
//!   Distinct    place in a list of 64-bit values          few values, far apart
//!   Runs        (value, last row + 1), …                  sorted, or constant for long
//!   Text        place in a dictionary of texts
//! ```
//!
//! **Invariant.** Every row has a readable value; where the value is missing it means nothing. The zone holds: no value
//! that is there lies outside it.

use super::{Dictionary, Packed, Selection};
use crate::value::{Kind, Value};
use std::sync::Arc;

/// How the values are laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 64-bit patterns.
    Words(Arc<[u64]>),
    /// `base + number`, for kinds whose patterns are integers.
    Packed {
        /// What every number is relative to.
        base: i64,
        /// The numbers.
        numbers: Packed,
    },
    /// Codes into a short list of patterns.
    Distinct {
        /// The patterns.
        values: Arc<[u64]>,
        /// A code a row.
        codes: Packed,
    },
    /// Runs of equal patterns.
    Runs {
        /// Where each run ends (exclusive), ascending; the last is the number of rows.
        ends: Arc<[u32]>,
        /// The pattern of each run.
        values: Arc<[u64]>,
    },
    /// Codes into a dictionary of texts.
    Text {
        /// The texts.
        dictionary: Dictionary,
        /// A code a row.
        codes: Packed,
    },
}

/// What is known without reading the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// The smallest value that is there and not NaN; `Missing` = none.
    pub min: Value,
    /// The largest.
    pub max: Value,
    /// How many are missing.
    pub missing: u32,
    /// How many are NaN.
    pub nans: u32,
}

/// One column of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub(super) kind: Kind,
    pub(super) rows: usize,
    pub(super) encoding: Encoding,
    pub(super) present: Option<Selection>,
    pub(super) zone: Zone,
}

impl Column {
    /// What it holds.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Its layout.
    #[must_use]
    pub fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// Which rows have a value; `None` = all.
    #[must_use]
    pub fn present(&self) -> Option<&Selection> {
        self.present.as_ref()
    }

    /// What is known without reading it.
    #[must_use]
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The dictionary of a text column.
    #[must_use]
    pub fn dictionary(&self) -> Option<(&Dictionary, &Packed)> {
        match &self.encoding {
            Encoding::Text { dictionary, codes } => Some((dictionary, codes)),
            _ => None,
        }
    }

    /// The pattern of `row`; for text, its code.
    #[must_use]
    pub fn pattern(&self, row: usize) -> u64 {
        match &self.encoding {
            Encoding::Words(words) => words[row],
            Encoding::Packed { base, numbers } => base.wrapping_add(i64::from(numbers.get(row))).cast_unsigned(),
            Encoding::Distinct { values, codes } => values[codes.get(row) as usize],
            Encoding::Runs { ends, values } => values[ends.partition_point(|end| *end as usize <= row)],
            Encoding::Text { codes, .. } => u64::from(codes.get(row)),
        }
    }

    /// The value of `row`.
    #[must_use]
    pub fn get(&self, row: usize) -> Value {
        if self.present.as_ref().is_some_and(|present| !present.contains(row)) {
            return Value::Missing;
        }
        match &self.encoding {
            Encoding::Text { dictionary, codes } => Value::Text(dictionary.get(codes.get(row) as usize).into()),
            _ => Value::of_pattern(self.kind, self.pattern(row)),
        }
    }

    /// Writes the patterns of the rows from `first` on into `out`; for text, their codes. `first` is a multiple of 64.
    #[inline(always)]
    pub fn patterns(&self, first: usize, out: &mut [u64]) {
        match &self.encoding {
            Encoding::Words(words) => out.copy_from_slice(&words[first..first + out.len()]),
            Encoding::Packed { base, numbers } => {
                in_pieces(numbers, first, out, |number| base.wrapping_add(i64::from(number)).cast_unsigned());
            }
            Encoding::Distinct { values, codes } => in_pieces(codes, first, out, |code| values[code as usize]),
            Encoding::Runs { ends, values } => fill_runs(ends, values, first, out),
            Encoding::Text { codes, .. } => in_pieces(codes, first, out, u64::from),
        }
    }

    /// Bytes of memory the values take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let values = match &self.encoding {
            Encoding::Words(words) => words.len() * 8,
            Encoding::Packed { numbers, .. } => numbers.words().len() * 8,
            Encoding::Distinct { values, codes } => values.len() * 8 + codes.words().len() * 8,
            Encoding::Runs { ends, values } => ends.len() * 4 + values.len() * 8,
            Encoding::Text { dictionary, codes } => dictionary.bytes() + codes.words().len() * 8,
        };
        values + self.present.as_ref().map_or(0, |present| present.words().len() * 8)
    }
}

/// Unpacks a few numbers at a time, so that they are still in the cache when they are turned into patterns.
#[inline(always)]
fn in_pieces(numbers: &Packed, first: usize, out: &mut [u64], pattern: impl Fn(u32) -> u64) {
    let mut piece = [0_u32; 256];
    for (index, out) in out.chunks_mut(piece.len()).enumerate() {
        let piece = &mut piece[..out.len()];
        numbers.unpack(first + index * 256, piece);
        for (to, from) in out.iter_mut().zip(piece) {
            *to = pattern(*from);
        }
    }
}

fn fill_runs(ends: &[u32], values: &[u64], first: usize, out: &mut [u64]) {
    let mut run = ends.partition_point(|end| *end as usize <= first);
    let mut at = 0;
    while at < out.len() {
        let until = (ends[run] as usize - first).min(out.len());
        out[at..until].fill(values[run]);
        at = until;
        run += 1;
    }
}
