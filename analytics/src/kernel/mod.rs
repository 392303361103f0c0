//! # Kernel: a query over chunks; a seam
//!
//! ```text
//!   Query + chunks ──scan──▶ Partial + Cost
//!
//!   scalar   one row after the other: the specification
//!   cpu      decode, filter and aggregate in one pass over pieces that stay in the cache, on every core
//!   cuda     the same on a GPU, in a kernel written for the query
//! ```
//!
//! **Invariant.** Which kernel answered never changes the answer: counts, whole sums, extremes and sketches are
//! equal, sums of f64 lie within the bound of [`crate::aggregate::FloatSum`]. The same kernel gives the same bits
//! again, however many threads it has. [`suite`] holds them to it.

pub mod cpu;
#[cfg(feature = "gpu")]
pub mod cuda;
pub mod scalar;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

pub use cpu::Cpu;
pub use scalar::Scalar;

use crate::{
    aggregate::Partial,
    chunk::Chunk,
    limits::Limits,
    query::{Query, QueryError, Verdict, verdict},
};
use std::sync::Arc;
use thiserror::Error;

/// What a scan touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Rows it looked at.
    pub rows: u64,
    /// Bytes of the columns it read.
    pub bytes: u64,
    /// Chunks whose zones said that no row passes.
    pub chunks_skipped: u64,
    /// Chunks it read.
    pub chunks_read: u64,
}

/// Why a kernel gave no answer.
#[derive(Clone, Debug, Error)]
pub enum ScanError {
    /// Nobody can answer this: the query itself is at fault.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// This kernel cannot, another one may: the device is missing, full or lost, or does not know the shape.
    #[error("{0}")]
    Unable(String),
}

/// Arithmetic over chunks.
pub trait Kernel: Send + Sync {
    /// Its name, as in `--executor`.
    fn name(&self) -> &'static str;

    /// How many of the bytes a scan would read have to be moved to the kernel's own memory first.
    fn bytes_to_move(&self, _query: &Query, _chunks: &[Arc<Chunk>]) -> u64 {
        0
    }

    /// What the rows of `chunks` add up to.
    ///
    /// # Errors
    /// [`ScanError::Query`] if the query has no answer over these rows, [`ScanError::Unable`] if another kernel must be
    /// asked.
    fn scan(&self, query: &Query, chunks: &[Arc<Chunk>], limits: &Limits) -> Result<(Partial, Cost), ScanError>;
}

/// The chunks a scan has to read, with what their zones say, and what that costs.
#[must_use]
pub fn pruned<'a>(query: &Query, chunks: &'a [Arc<Chunk>]) -> (Vec<(&'a Arc<Chunk>, bool)>, Cost) {
    let columns = query.columns();
    let mut cost = Cost::default();
    let mut read = Vec::new();
    for chunk in chunks.iter().filter(|chunk| chunk.rows_alive() > 0) {
        let verdict = query.filter.as_ref().map_or(Verdict::Always, |filter| verdict(filter, chunk));
        if verdict == Verdict::Never {
            cost.chunks_skipped += 1;
            continue;
        }
        cost.chunks_read += 1;
        cost.rows += chunk.rows() as u64;
        cost.bytes += columns.iter().map(|column| chunk.columns()[*column].bytes() as u64).sum::<u64>();
        read.push((chunk, verdict == Verdict::Always));
    }
    (read, cost)
}
