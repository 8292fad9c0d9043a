//! What the dispatcher needs from the commands and from the coordinator, as traits, so that its
//! tests run with neither.

use crate::commands::{Caller, Command, FollowUp, Names};
use crate::model::chat::Incoming;
use crate::model::ids::{MessageKey, SessionKey};
use crate::store::{StoreError, Tx};
use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What a turn is run over.
#[derive(Debug)]
pub struct TurnRequest {
    /// The conversation.
    pub session: SessionKey,
    /// The messages, in order; empty when a turn of before a restart goes on.
    pub batch: Vec<Incoming>,
    /// Messages for the running turn. One that it takes is done with the turn; one that it leaves
    /// is asked next.
    pub steer: mpsc::Receiver<Incoming>,
}

/// How a turn was left that cannot end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    /// A person stopped it, and it did not listen.
    Cancelled,
    /// It broke.
    Failed,
}

/// Runs the coordinator's turns.
#[async_trait]
pub trait TurnRunner: Send + Sync + 'static {
    /// Runs one turn to its end. Its answer, the turn's end and "done" for its messages are one
    /// transaction; so is its end when `cancel` comes. Dropped midway, it can be resumed.
    async fn run(&self, request: TurnRequest, cancel: CancellationToken) -> anyhow::Result<()>;

    /// The sessions whose turn was cut off by the end of the program.
    async fn unfinished(&self) -> anyhow::Result<Vec<SessionKey>>;

    /// Ends the session's running turn in the store, with its messages.
    fn abandon(&self, tx: &Tx<'_>, session: &SessionKey, how: Abandoned) -> Result<(), StoreError>;

    /// Begins a new conversation.
    fn reset(&self, tx: &Tx<'_>, session: &SessionKey) -> Result<(), StoreError>;
}

/// Carries out commands.
#[async_trait]
pub trait CommandRunner: Send + Sync + 'static {
    /// Carries out a command and answers it. Whatever it comes to, the message is done after it;
    /// an error means that nothing could be written at all. What is left to do then holds up
    /// nobody and may be lost.
    async fn execute(&self, caller: Caller, command: Command) -> anyhow::Result<Option<FollowUp>>;

    /// Takes a reaction as an answer to the question that the message asked, if it asked one.
    async fn react(&self, caller: Caller, to: MessageKey, emoji: String) -> anyhow::Result<()>;

    /// Takes a reply to a message that asks for a verdict as the verdict, and says whether it was
    /// one; the message is done then.
    async fn answer_request(
        &self,
        caller: Caller,
        to: MessageKey,
        text: String,
    ) -> anyhow::Result<bool>;

    /// Takes a reply to a message that carried mail as the answer to the mail, and says whether it
    /// was one; the message is done then.
    async fn answer_mail(
        &self,
        caller: Caller,
        to: MessageKey,
        text: String,
    ) -> anyhow::Result<bool>;

    /// Ends the checks that were started in a conversation; returns what they were.
    fn stop_runs(&self, session: &SessionKey) -> Vec<String>;

    /// What exists, for the parser.
    fn names(&self) -> Names;
}
