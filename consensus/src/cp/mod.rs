//! # cp: agree first, then act

pub mod group;
pub use group::{Group, GroupContext};
