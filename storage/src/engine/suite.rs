//! The conformance suite of the engine seam.
