//! What a journaled act of a person is. Pure.

use crate::commands::{Command, Names, Parsed, Registry, unknown};
use crate::model::chat::{Incoming, IncomingBody};
use crate::model::ids::MessageKey;

/// Where an inbox row goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Route {
    /// To a command's handler, past every queue.
    Command(Command),
    /// Nowhere: it is answered with this sentence (a misused or unknown command).
    Answer(String),
    /// To the session's window, and then to the coordinator.
    Talk,
    /// Likewise, with this text (a prompt command) in place of what was typed.
    Prompt(String),
    /// Nowhere: said among people; the coordinator may read it as context.
    Context,
    /// To the message that it corrects, if that still waits.
    Edit {
        /// The message.
        of: MessageKey,
        /// Its new text.
        text: String,
    },
    /// To the message that it takes back, if that still waits.
    Redaction {
        /// The message.
        of: MessageKey,
    },
    /// To the question that the message asked, if it asked one.
    Reaction {
        /// The message.
        to: MessageKey,
        /// The emoji.
        key: String,
    },
}

/// Says where `incoming` goes.
pub fn route(incoming: &Incoming, registry: &Registry, prefix: &str, names: &Names) -> Route {
    match &incoming.body {
        IncomingBody::Edit { of, text } => Route::Edit { of: of.clone(), text: text.clone() },
        IncomingBody::Redaction { of } => Route::Redaction { of: of.clone() },
        IncomingBody::Reaction { to, key } => Route::Reaction { to: to.clone(), key: key.clone() },
        IncomingBody::Text { text, .. } => {
            match registry.parse(text, prefix, incoming.addressed, names) {
                Parsed::Command(command) => Route::Command(command),
                Parsed::Prompt { text } => Route::Prompt(text),
                Parsed::Misused { answer } => Route::Answer(answer),
                Parsed::Unknown { typed, nearest } => {
                    Route::Answer(unknown(&typed, nearest.as_deref(), prefix))
                }
                Parsed::Talk if incoming.addressed => Route::Talk,
                Parsed::Talk => Route::Context,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::command::{StatusOf, StopOf};
    use crate::model::ids::SessionKey;
    use chrono::Utc;

    fn routed(addressed: bool, body: IncomingBody) -> Route {
        let incoming = Incoming {
            key: "$1".into(),
            session: SessionKey::main("!r".into()),
            sender: "@ann:hs".into(),
            sender_name: "Ann".to_owned(),
            sent_at: Utc::now(),
            addressed,
            body,
        };
        route(&incoming, &Registry::builtin(), "!", &Names::default())
    }

    #[test]
    fn text_goes_by_what_it_says_and_whom_it_is_for() {
        let answer = |text: &str| Route::Answer(text.to_owned());
        for (addressed, text, expected) in [
            (true, "status", Route::Command(Command::Status(StatusOf::Here))),
            (false, "status", Route::Context),
            (false, "!status", Route::Command(Command::Status(StatusOf::Here))),
            (true, "stop", Route::Command(Command::Stop(StopOf::Session))),
            (true, "the status is odd", Route::Talk),
            (false, "the status is odd", Route::Context),
            (false, "!statsu", Route::Context),
            (true, "!statsu", answer("There is no command `statsu`. Did you mean `!status`?")),
            (
                true,
                "!stop x",
                answer(
                    "`stop`: `x` is not an item's number. Usage: `stop [N|all]`. \
                     For example `stop all`.",
                ),
            ),
        ] {
            let body = IncomingBody::Text { text: text.to_owned(), reply_to: None };
            assert_eq!(routed(addressed, body), expected, "{text} {addressed}");
        }
    }

    #[test]
    fn other_acts_go_to_the_message_that_they_are_about() {
        let of = MessageKey::from("$0");
        for (body, expected) in [
            (
                IncomingBody::Edit { of: of.clone(), text: "stop".to_owned() },
                Route::Edit { of: of.clone(), text: "stop".to_owned() },
            ),
            (IncomingBody::Redaction { of: of.clone() }, Route::Redaction { of: of.clone() }),
            (
                IncomingBody::Reaction { to: of.clone(), key: "👍".to_owned() },
                Route::Reaction { to: of, key: "👍".to_owned() },
            ),
        ] {
            assert_eq!(routed(false, body), expected);
        }
    }
}
