//! What the journal promises about the loss of power, rot and full disks, tried on simulated sectors.
//!
//! `model` says what a journal must hold after each record; the other files break things and compare.

#![expect(clippy::unwrap_used, reason = "the helpers of a test are a test")]

mod damage;
mod disk;
mod model;
mod power;
