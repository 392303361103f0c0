//! # jepsen: the inspector, with its own weather
//!
//! ```text
//!   sim    three nodes in one thread and one seed: crashes, losses, skewed clocks, power cut between two sectors
//! ```
//!
//! Start reading at [`sim`].
//!
//! **Invariant.** A verdict can be repeated: whatever fails prints the one command that shows it again.
//!
//! **Deliberately absent.** Private items of the house: what is inspected is what everybody else uses.

pub mod sim;
