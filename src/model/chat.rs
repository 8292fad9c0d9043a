//! Messages in and out, in no transport's terms.

use crate::model::ids::{ItemId, MessageKey, PersonId, RoomKey, SessionKey};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A message (or other act) of an allowed person, as journaled in the inbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incoming {
    /// The transport's id of it; the inbox's key, so that a repeat inserts nothing.
    pub key: MessageKey,
    /// The conversation.
    pub session: SessionKey,
    /// Who sent it.
    pub sender: PersonId,
    /// Their display name, for the model and for answers; never for a decision.
    pub sender_name: String,
    /// When they sent it, by the server's clock.
    pub sent_at: DateTime<Utc>,
    /// Whether it is for the bot (direct room, mention, reply, prefix, own thread, ambient).
    pub addressed: bool,
    /// What it is.
    pub body: IncomingBody,
}

/// What a person did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "body", rename_all = "snake_case")]
pub enum IncomingBody {
    /// They wrote something. The mention of the bot at its start, if any, is already cut off.
    Text {
        /// What they wrote.
        text: String,
        /// The message it replies to, if any.
        reply_to: Option<MessageKey>,
    },
    /// They corrected an earlier message. Replaces it if it was not yet processed.
    Edit {
        /// The earlier message.
        of: MessageKey,
        /// The new text.
        text: String,
    },
    /// They took an earlier message back. Removes it if it was not yet processed.
    Redaction {
        /// The earlier message.
        of: MessageKey,
    },
    /// They reacted to a message.
    Reaction {
        /// The message reacted to.
        to: MessageKey,
        /// The emoji, without variation selectors.
        key: String,
    },
}

/// How much an outgoing message wants attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Progress and acknowledgements; notifies nobody (`m.notice`).
    Notice,
    /// Results, questions and failures (`m.text`).
    Text,
}

/// Something to post, as a row of the outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Where.
    pub session: SessionKey,
    /// What.
    pub content: OutgoingContent,
    /// The item it is about, if any.
    pub item: Option<ItemId>,
}

/// What to post.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "content", rename_all = "snake_case")]
pub enum OutgoingContent {
    /// A message in Markdown. Rendered and sanitised by the transport at the time of sending.
    Message {
        /// The Markdown.
        markdown: String,
        /// How much attention it wants.
        weight: Weight,
        /// Whom it pings; usually nobody.
        mentions: Vec<PersonId>,
        /// The message it answers, if it should show as a reply.
        reply_to: Option<MessageKey>,
    },
    /// A new text for a message sent earlier, named by its outbox row.
    Edit {
        /// The outbox row that posted it.
        of: crate::model::ids::OutboxId,
        /// The new Markdown.
        markdown: String,
        /// How much attention the original wanted.
        weight: Weight,
    },
    /// A reaction to somebody's message.
    Reaction {
        /// The message.
        to: MessageKey,
        /// The emoji.
        key: String,
    },
}

impl Outgoing {
    /// A result, question or failure that pings nobody.
    pub fn text(session: SessionKey, markdown: impl Into<String>) -> Self {
        Self::message(session, markdown, Weight::Text)
    }

    /// Progress or an acknowledgement.
    pub fn notice(session: SessionKey, markdown: impl Into<String>) -> Self {
        Self::message(session, markdown, Weight::Notice)
    }

    fn message(session: SessionKey, markdown: impl Into<String>, weight: Weight) -> Self {
        Self {
            session,
            content: OutgoingContent::Message {
                markdown: markdown.into(),
                weight,
                mentions: vec![],
                reply_to: None,
            },
            item: None,
        }
    }

    /// The same, pinging `person`.
    #[must_use]
    pub fn mentioning(mut self, person: PersonId) -> Self {
        if let OutgoingContent::Message { mentions, .. } = &mut self.content {
            mentions.push(person);
        }
        self
    }

    /// The same, as being about `item`.
    #[must_use]
    pub fn about(mut self, item: ItemId) -> Self {
        self.item = Some(item);
        self
    }
}

/// What is remembered of a room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoomSettings {
    /// The room.
    pub room: RoomKey,
    /// The project that `switch` or a bound room chose.
    pub project: Option<crate::model::ids::ProjectName>,
    /// Whether everything said in it is for the bot.
    pub ambient: bool,
    /// What happens to messages during a turn; `None` is the configured default.
    pub queue_mode: Option<QueueMode>,
}

/// What happens to messages that arrive while a turn runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueMode {
    /// Kept for one follow-up batch.
    #[default]
    Collect,
    /// Given to the running turn at its next step.
    Steer,
    /// The turn is cancelled and the new message runs.
    Interrupt,
}
