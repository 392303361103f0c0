//! # Experiments: a claim about a cluster under attack, and whether it holds
//!
//! ```text
//!   file ─▶ spec ─▶ run: start · prepare · warm up · faults · heal · quiet · last reads ─▶ histories
//!           (checked)            │ steady state?                │ steady state again?        │
//!                                └────────── probe ─────────────┘                            ▼
//!                                                          judge: checks, coverage, hypothesis ─▶ result, report
//! ```
//!
//! **Invariant.** What goes wrong in the harness is an error and never a verdict. What was not shown is never ok.

pub mod command;
mod judge;
pub mod library;
mod measure;
mod nemeses;
mod probe;
mod progress;
mod report;
mod result;
mod run;
mod spec;
mod svg;

pub use library::LIBRARY;
pub use spec::Experiment;
