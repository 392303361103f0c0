//! Groups: which group a row belongs to, as a small number.
//!
//! ```text
//!   dense    every column has a range of codes that is known beforehand: text by dictionary, whole numbers
//!            by zone; the number is code + range × (code + range × …)
//!   chained  else: the number of (number so far, value), given at first sight
//! ```
//!
//! **Invariant.** Rows have the same number if and only if their group's columns are equal; a missing value equals a
//! missing one. Dense numbers mean the same in every span.

use super::{decode, eval::Piece, loops};
use crate::{
    aggregate::check_groups,
    chunk::{Chunk, Encoding},
    intern::{TextInterner, WordInterner},
    limits::Limits,
    query::{Query, QueryError},
    value::{Kind, Value},
};
use std::sync::Arc;

/// More groups than this are not worth a place each, seen or not.
const DENSE_MAX: u64 = 1 << 20;

/// What is known of one column of the key.
#[derive(Debug)]
enum Codes {
    /// Text: a code for every text of every chunk.
    Texts(TextInterner),
    /// Whole numbers: their distance from the smallest.
    Range { min: i64, values: u32 },
    /// Anything else: its pattern, numbered at first sight.
    Patterns,
}

/// One column of a dense key.
#[derive(Clone, Copy, Debug)]
pub struct KeyColumn {
    /// Which column.
    pub index: usize,
    /// What its codes are multiplied by.
    pub stride: u64,
    /// The code of a missing value.
    pub missing: u64,
    /// Subtracted from values to give codes; `None` = a text's code is translated.
    pub min: Option<i64>,
}

/// How rows are grouped; the same for all spans.
#[derive(Debug)]
pub struct Keys {
    columns: Vec<(usize, Kind, Codes)>,
    /// How many dense numbers there are; `None` = chained.
    dense: Option<usize>,
}

impl Keys {
    pub fn new<'a>(query: &Query, chunks: impl Iterator<Item = &'a Arc<Chunk>> + Clone) -> Keys {
        let mut columns = Vec::new();
        for index in &query.groups {
            let of_column = chunks.clone().map(|chunk| &chunk.columns()[*index]);
            let kind = of_column.clone().next().map_or(Kind::I64, crate::chunk::Column::kind);
            let codes = match kind {
                Kind::Text => {
                    let mut texts = TextInterner::default();
                    of_column.filter_map(|column| column.dictionary()).for_each(|(dictionary, _)| {
                        for text in dictionary.iter() {
                            texts.intern(text);
                        }
                    });
                    Codes::Texts(texts)
                }
                Kind::F64 => Codes::Patterns,
                Kind::I64 | Kind::Bool | Kind::Timestamp => {
                    let end = |value: &Value| value.pattern().map(u64::cast_signed);
                    let min = of_column.clone().filter_map(|column| end(&column.zone().min)).min();
                    let max = of_column.filter_map(|column| end(&column.zone().max)).max();
                    let (min, max) = (min.unwrap_or(0), max.unwrap_or(0));
                    let values = max.checked_sub(min).filter(|span| span.cast_unsigned() < DENSE_MAX);
                    values.map_or(Codes::Patterns, |span| Codes::Range { min, values: span as u32 + 1 })
                }
            };
            columns.push((*index, kind, codes));
        }
        let size = columns.iter().try_fold(1_u64, |size, (_, _, codes)| Some(size.saturating_mul(codes.size()?)));
        let dense = size.filter(|size| *size <= DENSE_MAX).map(|size| size as usize);
        Keys { columns, dense }
    }

    /// How many dense numbers there are.
    pub fn dense(&self) -> Option<usize> {
        self.dense
    }

    /// Whether there is one group, of all rows.
    pub fn is_whole(&self) -> bool {
        self.columns.is_empty()
    }

    /// If groups are made by one dense column of whole numbers: what its codes are counted from.
    pub fn only_range(&self) -> Option<i64> {
        match (&self.columns[..], self.dense) {
            ([(_, _, Codes::Range { min, .. })], Some(_)) => Some(*min),
            _ => None,
        }
    }

    /// The columns of a dense key, as a kernel elsewhere needs them.
    pub fn dense_columns(&self) -> Vec<KeyColumn> {
        let size = |codes: &Codes| codes.size().expect("dense columns have a size");
        let columns = self.columns.iter().enumerate().map(|(place, (index, _, codes))| KeyColumn {
            index: *index,
            stride: self.columns[place + 1..].iter().map(|(_, _, codes)| size(codes)).product(),
            missing: size(codes) - 1,
            min: if let Codes::Range { min, .. } = codes { Some(*min) } else { None },
        });
        columns.collect()
    }

    /// For a column of text: the code among all texts of each text of a chunk.
    pub fn translation(&self, place: usize, chunk: &Chunk) -> Vec<u32> {
        let (index, _, codes) = &self.columns[place];
        match (codes, chunk.columns()[*index].dictionary()) {
            (Codes::Texts(texts), Some((dictionary, _))) => {
                dictionary.iter().map(|text| texts.find(text).expect("every chunk's texts are known")).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The key of a number.
    pub fn key(&self, number: u32, chains: &[WordInterner]) -> Vec<Value> {
        let mut key = Vec::with_capacity(self.columns.len());
        if self.dense.is_some() {
            let mut rest = u64::from(number);
            for (_, kind, codes) in self.columns.iter().rev() {
                let size = codes.size().expect("dense columns have a size");
                key.push(codes.value(*kind, rest % size));
                rest /= size;
            }
        } else {
            let mut number = number;
            for ((_, kind, codes), chain) in self.columns.iter().zip(chains).rev() {
                let (value, marks) = chain.keys()[number as usize];
                let is_missing = marks & MISSING != 0;
                key.push(if is_missing { Value::Missing } else { codes.value(*kind, value) });
                number = (marks >> 1) as u32;
            }
        }
        key.reverse();
        key
    }
}

/// Beside the number so far, in the second word of a chained key.
const MISSING: u64 = 1;

impl Codes {
    /// How many codes, one of which stands for a missing value; `None` = unknown.
    fn size(&self) -> Option<u64> {
        match self {
            Codes::Texts(texts) => Some(texts.len() as u64 + 1),
            Codes::Range { values, .. } => Some(u64::from(*values) + 1),
            Codes::Patterns => None,
        }
    }

    fn value(&self, kind: Kind, code: u64) -> Value {
        match self {
            Codes::Texts(texts) if code == texts.len() as u64 => Value::Missing,
            Codes::Texts(texts) => Value::Text(texts.get(code as u32).into()),
            Codes::Range { values, .. } if code == u64::from(*values) => Value::Missing,
            Codes::Range { min, .. } => Value::of_pattern(kind, min.wrapping_add(code.cast_signed()).cast_unsigned()),
            Codes::Patterns => Value::of_pattern(kind, code),
        }
    }
}

/// What a span keeps to number its groups.
#[derive(Debug)]
pub struct Numbering<'a> {
    keys: &'a Keys,
    chains: Vec<WordInterner>,
    /// For each text column of the chunk under way: its codes among all texts.
    translations: Vec<Vec<u32>>,
}

impl<'a> Numbering<'a> {
    pub fn new(keys: &'a Keys) -> Numbering<'a> {
        let chains = keys.columns.iter().map(|_| WordInterner::new()).collect();
        Numbering { keys, chains, translations: Vec::new() }
    }

    pub fn chains(&self) -> &[WordInterner] {
        &self.chains
    }

    /// How many numbers have been given, or may be.
    pub fn count(&self) -> usize {
        self.keys.dense.unwrap_or_else(|| self.chains.last().map_or(1, WordInterner::len))
    }

    /// Gets ready for the pieces of one chunk.
    pub fn enter(&mut self, chunk: &Chunk) {
        self.translations.clear();
        self.translations.extend((0..self.keys.columns.len()).map(|place| self.keys.translation(place, chunk)));
    }

    /// The number of each row's group; what it is for rows that are not `wanted` means nothing.
    ///
    /// # Errors
    /// If there are more groups than a limit allows.
    pub fn numbers(
        &mut self,
        piece: &Piece<'_>,
        wanted: &[u8],
        limits: &Limits,
        out: &mut Vec<u32>,
    ) -> Result<(), QueryError> {
        out.clear();
        out.resize(piece.rows, 0);
        match self.keys.dense {
            Some(_) => self.dense_numbers(piece, out),
            None => self.chained_numbers(piece, wanted, limits, out)?,
        }
        Ok(())
    }

    fn dense_numbers(&self, piece: &Piece<'_>, out: &mut [u32]) {
        for (place, (index, _, codes)) in self.keys.columns.iter().enumerate() {
            let later = &self.keys.columns[place + 1..];
            let stride = later.iter().map(|(_, _, codes)| codes.size().expect("dense")).product::<u64>() as u32;
            let missing = codes.size().expect("dense") as u32 - 1;
            let column = piece.column(*index);
            // Where all values are there, packed numbers are added up as they lie; a loop less.
            if let (None, Encoding::Packed { base, numbers }, Codes::Range { min, .. }) =
                (column.present(), column.encoding(), codes)
            {
                let offset = base.wrapping_sub(*min) as u32;
                decode::add_packed(piece.level, (numbers, piece.first), (offset, stride), out);
                continue;
            }
            let codes = self.codes(piece, place, missing);
            loops::add_indices(piece.level, &codes, 0, stride, out);
        }
    }

    /// The code of each row in one column.
    fn codes(&self, piece: &Piece<'_>, place: usize, missing: u32) -> Vec<u32> {
        let (index, _, codes) = &self.keys.columns[place];
        let patterns = piece.patterns(*index);
        let mut out: Vec<u32> = match codes {
            Codes::Texts(_) => {
                let translation = &self.translations[place];
                patterns.iter().map(|code| translation.get(*code as usize).copied().unwrap_or(missing)).collect()
            }
            Codes::Range { min, .. } => {
                patterns.iter().map(|pattern| pattern.cast_signed().wrapping_sub(*min) as u32).collect()
            }
            Codes::Patterns => patterns.iter().map(|pattern| *pattern as u32).collect(),
        };
        if let Some(known) = piece.present(*index) {
            out.iter_mut().zip(known).for_each(|(code, known)| *code = if known == 0 { missing } else { *code });
        }
        out
    }

    fn chained_numbers(
        &mut self,
        piece: &Piece<'_>,
        wanted: &[u8],
        limits: &Limits,
        out: &mut [u32],
    ) -> Result<(), QueryError> {
        for place in 0..self.keys.columns.len() {
            let (index, _, codes) = &self.keys.columns[place];
            let values: Vec<u64> = match codes {
                Codes::Patterns => piece.patterns(*index).into_owned(),
                codes => {
                    let missing = codes.size().expect("listed codes have a size") as u32 - 1;
                    self.codes(piece, place, missing).iter().map(|code| u64::from(*code)).collect()
                }
            };
            // Listed codes have one for a missing value; patterns need a mark beside them.
            let known = if matches!(codes, Codes::Patterns) { piece.present(*index) } else { None };
            let chain = &mut self.chains[place];
            for (row, number) in out.iter_mut().enumerate().filter(|(row, _)| wanted[*row] != 0) {
                let is_missing = known.as_ref().is_some_and(|known| known[row] == 0);
                let value = if is_missing { 0 } else { values[row] };
                *number = chain.intern(value, u64::from(*number) << 1 | u64::from(is_missing));
            }
            check_groups(chain.len(), limits)?;
        }
        Ok(())
    }
}
