//! Agents: sessions, turns, and the processes that carry them out.

pub mod permission;
pub mod process;
pub mod runtime;
