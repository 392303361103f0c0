//! # jepsen: the inspector, with its own weather
//!
//! ```text
//!   check     does a history keep the promise? one order per key, sets, counters, sessions, receipts …
//!   history   what clients asked and were told: our JSON Lines, Jepsen's EDN, Porcupine's logs
//!   model     what one register, counter, set or text does when operations happen one after another
//!   real      real nodes as processes, a network that can be broken, faults
//!   workload  what clients do meanwhile
//!   experiment  a claim about all of this, as a file; the verdict on it, and a report
//!   campaign  many seeds and many runs, and a ledger of all there were
//!   planted   bugs of our own making, which all of this must find
//!   sim       three or five nodes in one thread and one seed: crashes, losses, skewed clocks, power cut anywhere
//! ```
//!
//! Start reading at [`history`], [`check`] and [`sim`].
//!
//! **Invariant.** A verdict can be repeated: whatever fails prints the one command that shows it again.
//!
//! **Deliberately absent.** Private items of the house: what is inspected is what everybody else uses.

pub mod campaign;
pub mod check;
pub mod experiment;
pub mod history;
pub mod model;
pub mod planted;
pub mod real;
pub mod sim;
mod spelling;
pub mod workload;
