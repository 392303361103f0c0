//! # analytics: arithmetic over columns
//!
//! ```text
//!   column     one column of a portion of rows: typed values, and which of them are there
//!   selection  which rows are still wanted
//!   kernel     filter and aggregate; a seam
//!     scalar     one row after the other: the specification
//!     suite      what every kernel must do
//! ```
//!
//! This is the seam on which faster arithmetic is going to stand, and the specification it will be held to: a kernel is
//! finished when it passes `kernel::suite`, which compares it with a plain reading of the rows. Today there is one
//! kernel, [`kernel::Scalar`], and nothing in `kvd` calls it: the columnar mirror that follows the diary, the query
//! plan, and the SIMD and CUDA kernels come with the analytics engine.
//!
//! **Invariant.** Integers are exact: a sum is 128 bits wide, so that no column that fits into memory can overflow it.
//! Which kernel answered never changes the answer.
//!
//! **Deliberately absent.** Other nodes, gRPC, and the bytes a value is made of: a column arrives typed.

pub mod column;
pub mod kernel;
pub mod selection;

pub use column::{Column, Values};
pub use kernel::{Aggregate, Kernel, Predicate, Scalar};
pub use selection::Selection;
