//! What the metadata promises: whole nodes over a wire in memory, in paused time.

mod changes;
mod dropping;
mod follow;
mod house;
mod moves;
mod nodes;
