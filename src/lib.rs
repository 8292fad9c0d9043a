//! Musher.
