//! Identifiers, each a type of its own, so that one is never passed for another.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Defines a newtype over `String` with the conversions every name needs.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// Returns the text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    };
}

/// Defines a newtype over a row id.
macro_rules! row_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

row_id! {
    /// A work item's number: positive, unique per installation, never reused.
    ItemId
}
row_id! {
    /// One agent's work on one item in one worktree (`agent_sessions.id`).
    AgentSessionId
}
row_id! {
    /// One prompt given to a runtime and all it does until it yields (`turns.id`).
    TurnId
}
row_id! {
    /// A row of the durable outbox; a message's transaction id is derived from it.
    OutboxId
}
row_id! {
    /// A mail message.
    MailId
}
row_id! {
    /// A timer or reminder.
    TimerId
}
row_id! {
    /// A request put to a person.
    RequestId
}
name_type! {
    /// A project's name, `[a-z][a-z0-9-]{0,38}`.
    ProjectName
}
name_type! {
    /// A configured agent's name, such as `coder-1`.
    AgentName
}
name_type! {
    /// A person as the transport names them, such as `@you:example.org` or `@console:local`.
    PersonId
}
name_type! {
    /// A room as the transport names it, such as `!abc:example.org` or `console`.
    RoomKey
}
name_type! {
    /// A message as the transport names it (a Matrix event id).
    MessageKey
}

/// A conversation: a room's main timeline, or one thread in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionKey {
    /// The room.
    pub room: RoomKey,
    /// The thread's root message; `None` is the main timeline.
    pub thread: Option<MessageKey>,
}

impl SessionKey {
    /// The main timeline of `room`.
    pub fn main(room: RoomKey) -> Self {
        Self { room, thread: None }
    }
}

impl fmt::Display for SessionKey {
    /// The form in which sessions are stored: `room` or `room|thread`. Neither part of a Matrix
    /// id can hold a `|` as the transport checks, so the form is unambiguous.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.thread {
            Some(thread) => write!(f, "{}|{}", self.room, thread),
            None => write!(f, "{}", self.room),
        }
    }
}

impl std::str::FromStr for SessionKey {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('|') {
            Some((room, thread)) => Self { room: room.into(), thread: Some(thread.into()) },
            None => Self { room: text.into(), thread: None },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_key_survives_its_stored_form() {
        for key in [
            SessionKey::main("!a:hs".into()),
            SessionKey { room: "!a:hs".into(), thread: Some("$e:hs".into()) },
        ] {
            assert_eq!(key.to_string().parse::<SessionKey>(), Ok(key));
        }
    }
}
