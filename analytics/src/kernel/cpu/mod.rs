//! # Cpu: decode, filter and aggregate in one pass, on every core
//!
//! ```text
//!   chunks ─▶ spans, cut the same way whatever the number of threads
//!     span ─▶ pieces of 2,048 rows, which stay in the nearest cache:
//!               filter ─▶ mask ─▶ group numbers ─▶ sums      (eval ─▶ groups ─▶ accumulate, all over `loops`)
//!     spans merge in order
//! ```
//!
//! **Invariant.** Threads decide when a span is computed, never what it holds or where it is merged: the answer has the
//! same bits on one thread as on sixty.

mod accumulate;
mod decode;
pub mod dispatch;
mod eval;
mod fused;
pub(in crate::kernel) mod groups;
pub mod loops;

use super::{Cost, Kernel, ScanError, pruned};
use crate::{
    aggregate::Partial,
    chunk::Chunk,
    limits::Limits,
    query::{Query, QueryError},
};
use accumulate::Totals;
use dispatch::Level;
use eval::{PIECE_ROWS, Piece};
use groups::{Keys, Numbering};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

/// Spans of one scan: enough for many cores, few enough to merge.
const SPANS_MAX: usize = 64;

/// Spans of a scan whose groups are many: each holds a place for every group.
const SPANS_WIDE_MAX: usize = 4;

/// From so many dense groups on, groups are many.
const GROUPS_WIDE: usize = 65_536;

/// The kernel for processors.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    threads: usize,
    level: Level,
}

impl Default for Cpu {
    fn default() -> Self {
        Cpu::new(std::thread::available_parallelism().map_or(1, usize::from))
    }
}

impl Cpu {
    /// On so many threads, with the best instructions there are.
    #[must_use]
    pub fn new(threads: usize) -> Cpu {
        Cpu { threads: threads.max(1), level: Level::detect() }
    }

    /// The same with other instructions.
    #[must_use]
    pub fn with_level(self, level: Level) -> Cpu {
        Cpu { level, ..self }
    }

    /// On how many threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }
}

/// A chunk to be read, and whether its zones say that every row passes.
type Read<'a> = (&'a Arc<Chunk>, bool);

impl Kernel for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn scan(&self, query: &Query, chunks: &[Arc<Chunk>], limits: &Limits) -> Result<(Partial, Cost), ScanError> {
        let (read, cost) = pruned(query, chunks);
        let keys = Keys::new(query, read.iter().map(|(chunk, _)| *chunk));
        let is_wide = keys.dense().is_none_or(|groups| groups >= GROUPS_WIDE);
        let spans_max = if is_wide { SPANS_WIDE_MAX } else { SPANS_MAX };
        let spans: Vec<&[Read<'_>]> = read.chunks(read.len().div_ceil(spans_max).max(1)).collect();
        let scan = Scan { query, limits, keys: &keys, level: self.level };
        let parts = self.on_threads(&spans, |span| scan.span(span));
        let partial = scan.merge(parts)?;
        Ok((partial, cost))
    }
}

impl Cpu {
    /// Computes every span, each once, on as many threads as there are; the results are in the order of the spans.
    fn on_threads<'a, T: Send>(&self, spans: &[&[Read<'a>]], compute: impl Fn(&[Read<'a>]) -> T + Sync) -> Vec<T> {
        if self.threads == 1 || spans.len() <= 1 {
            return spans.iter().map(|span| compute(span)).collect();
        }
        let next = AtomicUsize::new(0);
        let done: Vec<Mutex<Option<T>>> = spans.iter().map(|_| Mutex::new(None)).collect();
        std::thread::scope(|scope| {
            for _ in 0..self.threads.min(spans.len()) {
                scope.spawn(|| {
                    loop {
                        let mine = next.fetch_add(1, Ordering::Relaxed);
                        let (Some(span), Some(place)) = (spans.get(mine), done.get(mine)) else { return };
                        *place.lock().expect("nobody panics while it is held") = Some(compute(span));
                    }
                });
            }
        });
        let taken =
            |place: Mutex<Option<T>>| place.into_inner().expect("nobody panicked").expect("every span was done");
        done.into_iter().map(taken).collect()
    }
}

/// One scan, as its spans see it.
#[derive(Clone, Copy)]
struct Scan<'a> {
    query: &'a Query,
    limits: &'a Limits,
    keys: &'a Keys,
    level: Level,
}

impl<'a> Scan<'a> {
    fn span(&self, chunks: &[Read<'_>]) -> Result<(Totals<'a>, Numbering<'a>), QueryError> {
        let mut numbering = Numbering::new(self.keys);
        let mut totals = Totals::new(self.query, self.limits, self.keys.dense());
        let (mut numbers, mut mask) = (Vec::new(), Vec::new());
        for (chunk, is_always) in chunks {
            if self.fused(&mut totals, chunk) {
                totals.end_chunk();
                continue;
            }
            numbering.enter(chunk);
            for first in (0..chunk.rows()).step_by(PIECE_ROWS) {
                let rows = PIECE_ROWS.min(chunk.rows() - first);
                let piece = Piece { chunk, first, rows, level: self.level };
                self.filter(&piece, *is_always, &mut mask)?;
                if self.keys.is_whole() {
                    totals.add_whole(&piece, &mask)?;
                    continue;
                }
                numbering.numbers(&piece, &mask, self.limits, &mut numbers)?;
                totals.grow(numbering.count());
                totals.add(&piece, &mut numbers, &mask)?;
            }
            totals.end_chunk();
        }
        Ok((totals, numbering))
    }

    /// Takes the short way through a chunk, if there is one. Whether it did.
    fn fused(&self, totals: &mut Totals<'_>, chunk: &Chunk) -> bool {
        if self.keys.is_whole() {
            let found = fused::filtered_sum(self.level, self.query, chunk);
            return found.map(|(rows, sum)| totals.add_fused(rows, sum)).is_some();
        }
        match (self.keys.only_range(), totals.fused_places()) {
            (Some(min), Some(places)) => fused::grouped_sum(self.query, chunk, min, places),
            _ => false,
        }
    }

    /// Which rows of a piece are wanted.
    fn filter(&self, piece: &Piece<'_>, is_always: bool, mask: &mut Vec<u8>) -> Result<(), QueryError> {
        mask.clear();
        mask.resize(piece.rows, 0xFF);
        piece.without_deleted(mask);
        if let (Some(filter), false) = (&self.query.filter, is_always) {
            let truth = piece.truth(filter, mask)?;
            loops::and(self.level, mask, &truth.holds);
        }
        Ok(())
    }

    /// Merges what the spans add up to, in their order. The first span that failed is the error.
    fn merge(&self, parts: Vec<Result<(Totals<'a>, Numbering<'a>), QueryError>>) -> Result<Partial, QueryError> {
        if self.keys.dense().is_some() {
            let mut whole: Option<(Totals<'_>, Numbering<'_>)> = None;
            for part in parts {
                let (totals, numbering) = part?;
                match &mut whole {
                    Some((sum, _)) => sum.merge(totals)?,
                    None => whole = Some((totals, numbering)),
                }
            }
            let Some((totals, numbering)) = whole else { return Ok(Partial::new(self.query)) };
            let partial = totals.finish(self.keys, &numbering);
            crate::aggregate::check_groups(partial.groups().len(), self.limits)?;
            return Ok(partial);
        }
        let mut partial = Partial::new(self.query);
        for part in parts {
            let (totals, numbering) = part?;
            partial.merge(totals.finish(self.keys, &numbering), self.limits)?;
        }
        Ok(partial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::suite;

    #[test]
    fn every_instruction_set_passes_the_suite() {
        for level in Level::all() {
            suite::check(&Cpu::new(1).with_level(level));
        }
    }

    #[test]
    fn threads_change_no_bit() {
        suite::check(&Cpu::new(3));
        suite::check_repeats(&Cpu::new(1), &Cpu::new(3));
    }
}
