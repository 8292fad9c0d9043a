//! The chat: what a transport must do, and how messages get out.
//!
//! A transport (Matrix, the console) journals what people do into the store's inbox and posts what
//! it is handed. It decides nothing: who may do what and what is answered is the dispatcher's.
//! Nobody but [`Sender`] posts; everyone else writes rows with [`crate::store::outbox::enqueue`].

pub mod console;
pub mod matrix;
pub mod render;
mod sender;
pub mod split;
mod text;
mod typing;

pub use sender::Sender;
pub use typing::{Typing, Typists};

use crate::model::chat::Weight;
use crate::model::ids::{MessageKey, PersonId, RoomKey, SessionKey};
use std::time::Duration;

/// One message as a room will see it: what is left when an outbox row was cut into pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A new message.
    Message {
        /// Its Markdown; the transport renders and sanitises it.
        markdown: String,
        /// How much attention it wants.
        weight: Weight,
        /// Whom it pings; empty: nobody, whatever names stand in the text.
        mentions: Vec<PersonId>,
        /// The message it answers.
        reply_to: Option<MessageKey>,
    },
    /// A new text for a message. Pings nobody.
    Edit {
        /// The message.
        of: MessageKey,
        /// The new Markdown.
        markdown: String,
        /// How much attention the original wanted.
        weight: Weight,
    },
    /// A reaction to a message.
    Reaction {
        /// The message.
        to: MessageKey,
        /// The emoji.
        key: String,
    },
    /// A file.
    File {
        /// Its name.
        name: String,
        /// Its media type.
        media_type: &'static str,
        /// What is in it.
        content: String,
    },
}

/// Why a message was not posted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Too many messages: the server names the time to wait.
    #[error("the server allows no more messages for {} s", .0.as_secs_f32())]
    RetryAfter(Duration),
    /// It may work later: the network, an overloaded server.
    #[error("{0}")]
    Temporary(String),
    /// It never will: not in the room, no right to post, too large.
    #[error("{0}")]
    Permanent(String),
}

/// A way to talk to people.
#[async_trait::async_trait]
pub trait Transport: Send + Sync {
    /// Posts one message and returns the transport's id of it.
    ///
    /// Safe to repeat with the same `txn_id`: the second time it returns the id of the first.
    async fn send(
        &self,
        txn_id: &str,
        session: &SessionKey,
        part: &Part,
    ) -> Result<MessageKey, SendError>;

    /// Shows or hides that the bot is typing. Fades by itself after some seconds; call it again
    /// while the work goes on, and with `false` at its end, also after an error.
    async fn typing(&self, room: &RoomKey, typing: bool);

    /// Shows that everything up to `key` was read.
    async fn receipt(&self, session: &SessionKey, key: &MessageKey);

    /// Whether `room` is one of this transport's. Rows for others wait for the transport that
    /// knows them: the console shares its database with the server.
    fn serves(&self, room: &RoomKey) -> bool;

    /// How many bytes of Markdown go into one message; longer texts are cut.
    fn part_limit(&self) -> usize {
        split::PART_LIMIT
    }
}
