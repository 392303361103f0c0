//! # Campaign: many seeds and many runs, and a ledger of all there were
//!
//! ```text
//!   seeds ─▶ sim, one process each ──┐
//!                                    ├─▶ one line of the ledger as soon as it is known ─▶ totals, by commit
//!   experiments in turn ─▶ run ──────┘
//! ```
//!
//! [`ledger`] is the file and what it adds up to, [`tally`] what one run on real nodes counts for, [`command`] the
//! rest.
//!
//! **Invariant.** What ran is written down, whatever came of it: a violation, no verdict, an interruption after it.
//!
//! **Deliberately absent.** Verdicts of its own: those are the simulation's and the experiments'.

pub mod command;
pub mod ledger;
pub mod tally;
