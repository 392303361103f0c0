//! # Shim: a disk and a clock that misbehave, for one process
//!
//! ```text
//!   kvd ──libc──▶ shim (LD_PRELOAD) ──system call──▶ kernel
//!                  │ ▲
//!                  │ └─ control   what to do wrong, written by the harness; counters, written here
//!                  └──▶ log       what would be needed to undo everything that is not synced
//!                       held/     files that were removed or replaced, until their directory is synced
//! ```
//!
//! Loaded into `kvd` by the harness, it interposes the calls that change files below the data directory, and those
//! that read the time of day. Two variables of the environment say where: [`layout::HOME_VARIABLE`] (with `control`,
//! `log`, `held`) and [`layout::DATA_VARIABLE`].
//!
//! **Invariant.** A record stands in the log before what it describes is done, in the order in which it is done: one
//! lock holds both together. What the shim cannot undo it counts ([`layout::Counter::Unmodelled`]), so that nobody
//! believes a rollback that is none. Without its variables it changes nothing.
//!
//! **Deliberately absent.** Rolling back: that is done when the process is gone, by the harness, in safe code. Reading
//! (nothing is lost by it). The monotonic clock, which no machine sets.
//!
//! **Unsafe.** It is what C calls, with C's pointers: each is used as the call's own contract allows, and no longer
//! than the call. Nothing here uses the input and output of the standard library, which would come back in by the
//! names that are exported; system calls are made directly.

pub mod layout;
pub mod record;

mod clock;
mod exports;
mod files;
mod names;
mod state;
mod system;
