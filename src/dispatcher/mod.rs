//! The dispatcher.
pub mod sessions;
