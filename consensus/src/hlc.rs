//! The hybrid logical clock, and whether this node's physical clock is to be trusted (rules T1, T4).
