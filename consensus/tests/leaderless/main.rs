//! A model of leaderless replication: every order of steps of a small world, explored to the end.
//!
//! ```text
//!   state   three replicas of one key, a fourth that may come; messages that may be late, repeated or lost
//!   rules   the protocol, each rule a switch
//!   steps   what may happen next: write, deliver, replay, hand over, walk, crash, wipe, floor, move
//!   check   what must hold in every state
//! ```
//!
//! **Invariant.** With all rules nothing goes wrong, in any order; without any one of them something does, in a world
//! no larger. `docs/adr/004-leaderless.md` says what the rules mean and why.

mod check;
mod explore;
mod rules;
mod state;
mod steps;
