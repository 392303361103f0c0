//! Nodes that hold many groups, most of them closed: rules G1-G4, T3, C1, G8.

mod closing;
mod dropping;
mod losses;
mod moving;
mod opening;
mod town;
