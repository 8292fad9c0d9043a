//! The vocabulary of the program: ids, items, stages, events, messages.
//!
//! Pure: no I/O, no clock, no database and no Matrix type. Everything above speaks in these
//! types, so a row written today can be read by a later version whatever library changes beneath.

pub mod agent;
pub mod chat;
pub mod event;
pub mod ids;
pub mod item;
pub mod llm;
pub mod mail;
pub mod stage;
