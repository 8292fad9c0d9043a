//! Musher: a Matrix bot that runs a team of coding agents on its owner's machines.
//!
//! Modules stand in rows, and a module imports only from rows below its own
//! (`tests/architecture.rs` reads every `crate::` path). Down goes a call on a handle; up goes a
//! row in a log, and a hint that it is there.

// row 1: builds everything, joins tasks, shuts down in order
pub mod app;
// row 2: hears and answers
pub mod cli;
pub mod dispatcher;
// row 3: what people and models can ask for
pub mod commands;
pub mod coordinator;
pub mod tools;
// row 4: the handles that row 3 acts through
pub mod doctor;
pub mod services;
// row 5: the only writer of an item's stage
pub mod work;
// row 6: services
pub mod agents;
pub mod chat;
pub mod mail;
pub mod merge;
pub mod timers;
pub mod upgrade;
// row 7: repositories
pub mod project;
// row 8: one door each to the database and to models
pub mod llm;
pub mod store;
// rows 9 and 10: pure, or nearly so
pub mod clock;
pub mod config;
pub mod failpoint;
pub mod model;
pub mod redact;
pub mod version;
