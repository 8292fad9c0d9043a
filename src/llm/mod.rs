//! The one door to model APIs, and the shape of tools.
//!
//! The coordinator and the built-in agent runtime speak through it; which provider answers
//! is decided once, from the configuration.

pub mod tools;
