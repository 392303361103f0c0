//! What a node promises: three whole nodes over a wire in memory, in paused time.

mod duties;
mod heartbeats;
mod house;
mod identity;
mod time;
