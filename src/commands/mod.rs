//! The chat commands: their pages, their grammar, and what they do.

pub mod command;
mod help;
pub mod page;
mod parse;
mod spec;

pub use command::{Command, Lane};
pub use help::unknown;
pub use parse::{Names, Parsed, Registry};
pub use spec::SPECS;
