//! The chat commands: their pages, their grammar, and what they do.
//!
//! A command that touches only the database ([`Lane::Store`]) has its effect, its answer in the
//! outbox and "done" in the inbox in one transaction: after a crash it has happened wholly, once,
//! or not at all. One that waits for something outside may be run again after a crash, so each is
//! safe to repeat, and its answer has the message's key, so that it is posted once.

mod act;
mod answers;
mod board;
mod checks;
pub mod command;
mod context;
mod execute;
mod help;
mod outside;
pub mod page;
mod parse;
mod project;
mod repo;
mod room;
mod see;
mod spec;
mod triage;
mod verdict;
mod worktrees;

pub use answers::{answer_request, react};
pub use command::{Command, Lane};
pub use context::Context;
pub use execute::{FollowUp, answer_mail, execute};
pub use help::unknown;
pub use parse::{Names, Parsed, Registry};
pub use spec::SPECS;

use crate::model::ids::{MessageKey, PersonId, SessionKey};

/// Who gave a command, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who; an allowed person.
    pub person: PersonId,
    /// Their display name.
    pub name: String,
    /// Where it is answered.
    pub session: SessionKey,
    /// Whether they may run administrative commands.
    pub admin: bool,
    /// The message: what the command's effects and answers are tied to.
    pub key: MessageKey,
}

/// Why a well-formed command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The sender's to put right; shown in the chat as it stands.
    #[error("{0}")]
    Refused(String),
    /// Ours to put right; the chat gets an incident number, the log the whole chain.
    #[error(transparent)]
    Internal(#[from] anyhow::Error),
}

impl CommandError {
    /// The sentence for the chat; what is ours to put right stays an error.
    fn words(self) -> Result<String, anyhow::Error> {
        match self {
            CommandError::Refused(text) => Ok(text),
            CommandError::Internal(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
