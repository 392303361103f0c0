//! # Planted bugs: does the harness find what is there to be found?
//!
//! ```text
//!   catalogue  what each bug is
//!   hunt       one bug, one range of seeds: the first seed that fails with it and passes without it
//!   table      how many runs that took
//!   command    all of this, several hunts at a time
//! ```
//!
//! **Invariant.** A bug counts as found by a seed only if the same program passes the same seed when no bug acts.

pub mod catalogue;
pub mod command;
mod hunt;
mod table;
