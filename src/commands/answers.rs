//! Answers to what was asked in a room: by a reaction, a reply, or a command.
//!
//! An answer counts for the request that its message asked (or whose number it names), in the room
//! where it was asked, from whoever may speak to Musher there.

use super::context::{Context, refused, sentence};
use super::execute::post;
use super::{CommandError, act, verdict};
use crate::agents::asks::{self, AnswerError, Permit};
use crate::model::ids::{ItemId, MessageKey, RequestId};
use crate::store::requests::{self, Request, RequestKind, RequestState};
use crate::store::{StoreError, Tx, inbox};
use crate::work::Verdict;

/// Words that allow, once or for the session, beside those of a verdict.
const ALLOW: [&str; 4] = ["allow", "allowed", "once", "allow once"];
const ALLOW_FOR_SESSION: [&str; 8] = [
    "session",
    "always",
    "allow always",
    "always allow",
    "allow session",
    "allow for session",
    "allow for this session",
    "for this session",
];
const DENY: [&str; 3] = ["deny", "denied", "forbid"];

impl From<AnswerError> for CommandError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Refused(why) => CommandError::Refused(sentence(&why)),
            AnswerError::Store(error) => error.into(),
        }
    }
}

/// `allow ID [session]`, `deny ID [WHY]`
pub fn permit(
    context: &Context,
    tx: &Tx<'_>,
    id: RequestId,
    permit: &Permit,
) -> Result<String, CommandError> {
    let request = of_this_room(context, tx, id)?;
    Ok(asks::decide(tx, &request, permit, &context.caller.person)?)
}

/// `answer ID TEXT`
pub fn answer(
    context: &Context,
    tx: &Tx<'_>,
    id: RequestId,
    text: &str,
) -> Result<String, CommandError> {
    let request = of_this_room(context, tx, id)?;
    Ok(asks::reply(tx, &request, text, &context.caller.person)?)
}

fn of_this_room(context: &Context, tx: &Tx<'_>, id: RequestId) -> Result<Request, CommandError> {
    match requests::find(tx, id)? {
        Some(request) if is_here(context, &request) => Ok(request),
        // Another room's requests are not this room's business.
        Some(_) | None => refused(format!("There is no request {id} in this room.")),
    }
}

fn is_here(context: &Context, request: &Request) -> bool {
    request.asked.session.room == context.caller.session.room
}

/// Takes a reaction as the answer to the question that a message asked, if it asked one that is
/// still open, in the same room. Every other reaction is only a reaction.
pub async fn react(context: Context, to: MessageKey, emoji: String) -> anyhow::Result<()> {
    let store = context.services.store.clone();
    let write = store.write(move |tx| {
        let caller = &context.caller;
        if inbox::is_open(tx, &caller.key)? {
            let said = tx
                .nested(|tx| reaction(&context, tx, &to, &emoji))
                .or_else(|error| error.words().map(Some))?;
            match said {
                Some(text) => post(tx, caller, text)?,
                None => {
                    inbox::mark_done(tx, std::slice::from_ref(&caller.key))?;
                }
            }
        }
        Ok::<_, anyhow::Error>(())
    });
    write.await
}

/// Takes a reply to a message that asks something as the answer, and says whether it was one. Words
/// that are none (a question, a remark) are left to the coordinator.
pub async fn answer_request(
    context: Context,
    to: MessageKey,
    text: String,
) -> anyhow::Result<bool> {
    let store = context.services.store.clone();
    let write = store.write(move |tx| {
        let caller = &context.caller;
        let Some(request) = asked_here(&context, tx, &to)? else { return Ok(false) };
        let Some(reply) = Reply::read(&request, &text) else { return Ok(false) };
        if !inbox::is_open(tx, &caller.key)? {
            return Ok(true);
        }
        let said = tx
            .nested(|tx| -> Result<String, CommandError> {
                match &reply {
                    Reply::Verdict(verdict) => act::decide(&context, tx, &request, verdict),
                    Reply::Permit(permit) => {
                        Ok(asks::decide(tx, &request, permit, &caller.person)?)
                    }
                    Reply::Words => Ok(asks::reply(tx, &request, &text, &caller.person)?),
                }
            })
            .or_else(CommandError::words)?;
        post(tx, caller, said)?;
        Ok::<_, anyhow::Error>(true)
    });
    write.await
}

/// What a reply to a request is.
enum Reply {
    Verdict(Verdict),
    Permit(Permit),
    Words,
}

impl Reply {
    fn read(request: &Request, text: &str) -> Option<Self> {
        match (request.asked.kind, request.asked.item) {
            (RequestKind::Approve, Some(item)) => verdict::read(text, item).map(Reply::Verdict),
            (RequestKind::Permission, _) => read_permit(text, request.id).map(Reply::Permit),
            (RequestKind::Question, _) => Some(Reply::Words),
            (RequestKind::Approve | RequestKind::Confirm, _) => None,
        }
    }
}

/// The decision that a reply is, if it plainly is one. Pure.
fn read_permit(text: &str, id: RequestId) -> Option<Permit> {
    let plain = text.trim().replace('\u{fe0f}', "").to_lowercase();
    let plain = plain.trim_end_matches(['.', '!']).trim();
    if plain == "🔁" || ALLOW_FOR_SESSION.contains(&plain) {
        return Some(Permit::Session);
    }
    if ALLOW.contains(&plain) {
        return Some(Permit::Once);
    }
    let separators = |c: char| c.is_whitespace() || matches!(c, ':' | ',' | '.' | '-');
    let first = text.trim().split(separators).next().unwrap_or_default();
    if DENY.contains(&first.to_lowercase().as_str()) {
        let why = text.trim()[first.len()..].trim_start_matches(separators).trim_end();
        return Some(Permit::Deny { why: why.to_owned() });
    }
    match verdict::read(text, ItemId(id.0))? {
        Verdict::Approve => Some(Permit::Once),
        Verdict::Reject(why) if why == "rejected by reply" => {
            Some(Permit::Deny { why: String::new() })
        }
        Verdict::Reject(why) => Some(Permit::Deny { why }),
    }
}

/// The request that a message asks, if it asks one in the caller's room.
fn asked_here(
    context: &Context,
    tx: &Tx<'_>,
    to: &MessageKey,
) -> Result<Option<Request>, StoreError> {
    let request = requests::find_by_message(tx, to)?;
    Ok(request.filter(|request| is_here(context, request)))
}

fn reaction(
    context: &Context,
    tx: &Tx<'_>,
    to: &MessageKey,
    emoji: &str,
) -> Result<Option<String>, CommandError> {
    let yes = match emoji {
        "👍" | "✅" | "✔" => Some(true),
        "👎" | "❌" | "✖" => Some(false),
        _ => None,
    };
    let Some(request) = asked_here(context, tx, to)? else { return Ok(None) };
    let person = &context.caller.person;
    let word = match (request.asked.kind, yes) {
        (RequestKind::Approve, Some(true)) => {
            return act::decide(context, tx, &request, &Verdict::Approve).map(Some);
        }
        (RequestKind::Approve, Some(false)) => {
            let verdict = Verdict::Reject("rejected by reaction".to_owned());
            return act::decide(context, tx, &request, &verdict).map(Some);
        }
        (RequestKind::Permission, yes) => {
            let permit = match yes {
                Some(true) => Permit::Once,
                Some(false) => Permit::Deny { why: String::new() },
                None if emoji == "🔁" => Permit::Session,
                None => return Ok(None),
            };
            // The message itself shows what came of it.
            asks::decide(tx, &request, &permit, person)?;
            return Ok(None);
        }
        (RequestKind::Question, _) => {
            // Its number; everything else wants words.
            if emoji.ends_with('\u{20e3}') {
                asks::reply(tx, &request, emoji, person)?;
            }
            return Ok(None);
        }
        (RequestKind::Confirm, Some(true)) => "yes",
        (RequestKind::Confirm, Some(false)) => "no",
        (RequestKind::Approve | RequestKind::Confirm, None) => return Ok(None),
    };
    if request.state == RequestState::Open && !requests::answer(tx, request.id, word, person)? {
        return Ok(Some(sentence("that question is closed by now")));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_words_decide_about_a_permission() {
        let deny = |why: &str| Some(Permit::Deny { why: why.to_owned() });
        for (text, expected) in [
            ("allow", Some(Permit::Once)),
            ("Allow!", Some(Permit::Once)),
            ("yes, go ahead", Some(Permit::Once)),
            ("✅", Some(Permit::Once)),
            ("session", Some(Permit::Session)),
            ("Allow for this session.", Some(Permit::Session)),
            ("always", Some(Permit::Session)),
            ("deny", deny("")),
            ("deny: use cargo instead", deny("use cargo instead")),
            ("Deny use cargo instead", deny("use cargo instead")),
            ("no", deny("")),
            ("no, use cargo", deny("use cargo")),
            ("allow it but only in src", None),
            ("why does it want that?", None),
            ("always has been slow", None),
            ("hm", None),
        ] {
            assert_eq!(read_permit(text, RequestId(7)), expected, "{text}");
        }
    }
}
