//! # cp: agree first, then act
