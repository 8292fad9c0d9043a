//! Musher: a Matrix bot that runs a team of coding agents on its owner's machines.
//!
//! Modules stand in rows, and a module imports only from rows below its own
//! (`tests/architecture.rs` reads every `crate::` path). Down goes a call on a handle; up goes a
//! row in a log, and a hint that it is there.

// row 2: who acts on what people say
pub mod dispatcher;
// row 3: what people can ask for
pub mod commands;
pub mod coordinator;
// row 8: pure, or nearly so
pub mod clock;
pub mod config;
pub mod failpoint;
pub mod model;
pub mod redact;
// row 5
pub mod work;
// row 6: services
pub mod chat;
pub mod mail;
pub mod merge;
pub mod timers;
pub mod upgrade;
// row 7: one door each to the outside
pub mod llm;
pub mod project;
pub mod store;
// row 6
pub mod agents;
