//! What replicas and nodes promise when there are several of them: all in one process and one thread, over a network in
//! memory, on disks that lose power, in paused time, so that every test is exact and quick.
//!
//! ```text
//!   cp_group   one shard on three nodes, without the nodes
//!   node       three whole nodes with one shard
//!   groups     nodes that hold many shards, most of them closed
//!   metadata   nodes whose map is the metadata's own
//!   support    machines, and the wire between them
//! ```

mod cp_group;
mod groups;
mod metadata;
mod node;
mod support;
