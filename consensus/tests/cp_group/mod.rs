//! One shard on three nodes in one thread: in-memory journals and engines that can lose power, a network that can be
//! cut, and tokio's paused time, so that every test is exact and quick.

#![expect(clippy::unwrap_used, reason = "the helpers of a test are a test")]

mod duties;
mod effects;
mod expiry;
mod failures;
mod pipeline;
mod reads;
mod reads_leases;
mod reads_levels;
mod snapshots;
mod world;
mod writes;
mod writes_many;
