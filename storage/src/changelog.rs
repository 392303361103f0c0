//! The diary.
