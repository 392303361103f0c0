//! # analytics: arithmetic over columns
//!
//! ```text
//!   load ─────▶ store ─▶ chunk          rows become columns: 65,536 rows a chunk, each column in its smallest layout
//!                 │
//!   query ────────┼──▶ executor ─▶ kernel ─▶ aggregate ─▶ answer
//!    text → typed │      which one   │  scalar · cpu · cuda  table, JSON, CSV, Arrow
//!                 │                  └─ a seam, held together by `kernel::suite`
//!                 └──▶ correlate      how series over time move together
//! ```
//!
//! A library without a server: files go in, answers come out (`kvctl aggregate`, `kvctl correlate`). What a keyspace
//! needs besides is here too and used by nobody yet: rows from keys and values (`load::keyed`), deletion by row,
//! partials that merge.
//!
//! **Invariant.** Whole numbers are exact and never wrap; an f64 answer lies within a stated bound and has the same
//! bits again. Which kernel answered never changes the answer. What is stored carries a version and a checksum.
//!
//! **Deliberately absent.** Other nodes, gRPC, clocks: time is measured by whoever asks.

pub mod aggregate;
pub mod answer;
pub mod chunk;
pub mod correlate;
pub mod executor;
pub mod intern;
pub mod kernel;
pub mod limits;
pub mod load;
pub mod query;
pub mod schema;
pub mod store;
pub mod timestamp;
pub mod value;

pub use value::{Kind, Value};
