//! Limits: every number that bounds what one query or one load may take.
//!
//! **Invariant.** What would exceed a limit is refused with an error that names it.

/// Rows of a full chunk.
pub const CHUNK_ROWS: usize = 65_536;

/// What one query may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Groups of one answer.
    pub groups_max: usize,
    /// Distinct values that `top_k` counts, in one group.
    pub top_values_max: usize,
    /// Bins of a histogram.
    pub bins_max: usize,
    /// Columns of a correlation matrix.
    pub matrix_columns_max: usize,
    /// Bytes of one query's text.
    pub query_bytes_max: usize,
    /// How deep expressions may nest.
    pub depth_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            groups_max: 1_048_576,
            top_values_max: 1_048_576,
            bins_max: 4_096,
            matrix_columns_max: 64,
            query_bytes_max: 64 << 10,
            depth_max: 50,
        }
    }
}
