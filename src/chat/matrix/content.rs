//! The contents of the events that we post.

use crate::chat::render;
use crate::model::chat::Weight;
use crate::model::ids::{MessageKey, PersonId, SessionKey};
use serde_json::{Map, Value, json};

/// Above this many bytes of content the HTML is left out: encryption adds a third, and an event
/// may have 64 KiB.
const CONTENT_MAX: usize = 40 * 1024;

/// How much of an edit's text clients see that know no edits.
const FALLBACK_MAX: usize = 300;

/// An event to post.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its type.
    pub event_type: &'static str,
    /// Its content.
    pub content: Value,
}

/// A new message.
pub fn message(
    session: &SessionKey,
    markdown: &str,
    weight: Weight,
    mentions: &[PersonId],
    reply_to: Option<&MessageKey>,
) -> Event {
    let mut content = text(markdown, weight);
    content.insert("m.mentions".to_owned(), mentions_of(mentions));
    if let Some(relation) = relation(session, reply_to) {
        content.insert("m.relates_to".to_owned(), relation);
    }
    Event { event_type: "m.room.message", content: shrunk(content) }
}

/// A new text for the message `of`. Pings nobody.
pub fn edit(of: &MessageKey, markdown: &str, weight: Weight) -> Event {
    let mut new = text(markdown, weight);
    new.insert("m.mentions".to_owned(), json!({}));
    let mut fallback: String = plain(markdown).chars().take(FALLBACK_MAX).collect();
    if fallback.len() < markdown.len() {
        fallback.push('…');
    }
    let content = json!({
        "msgtype": msgtype(weight),
        "body": format!("* {fallback}"),
        "m.new_content": shrunk(new),
        "m.relates_to": {"rel_type": "m.replace", "event_id": of.as_str()},
        "m.mentions": {},
    });
    Event { event_type: "m.room.message", content }
}

/// A reaction to the message `to`.
pub fn reaction(to: &MessageKey, key: &str) -> Event {
    let relation = json!({"rel_type": "m.annotation", "event_id": to.as_str(), "key": key});
    Event { event_type: "m.reaction", content: json!({"m.relates_to": relation}) }
}

/// How an event stands to others: in a thread, a reply, or neither.
pub fn relation(session: &SessionKey, reply_to: Option<&MessageKey>) -> Option<Value> {
    match (&session.thread, reply_to) {
        (Some(root), Some(reply_to)) => Some(json!({
            "rel_type": "m.thread", "event_id": root.as_str(), "is_falling_back": false,
            "m.in_reply_to": {"event_id": reply_to.as_str()},
        })),
        // Clients without threads show it as a reply to the root.
        (Some(root), None) => Some(json!({
            "rel_type": "m.thread", "event_id": root.as_str(), "is_falling_back": true,
            "m.in_reply_to": {"event_id": root.as_str()},
        })),
        (None, Some(reply_to)) => Some(json!({"m.in_reply_to": {"event_id": reply_to.as_str()}})),
        (None, None) => None,
    }
}

fn text(markdown: &str, weight: Weight) -> Map<String, Value> {
    let body = plain(markdown);
    let mut content = Map::new();
    content.insert("msgtype".to_owned(), msgtype(weight).into());
    if let Some(html) = render::html(&body) {
        content.insert("format".to_owned(), "org.matrix.custom.html".into());
        content.insert("formatted_body".to_owned(), html.into());
    }
    content.insert("body".to_owned(), body.into());
    content
}

/// The Markdown as readable text: control characters have no place in it.
fn plain(markdown: &str) -> String {
    markdown.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

fn msgtype(weight: Weight) -> &'static str {
    match weight {
        Weight::Notice => "m.notice",
        Weight::Text => "m.text",
    }
}

/// Always explicit: without it, clients look for names in the text and ping whom they find.
fn mentions_of(persons: &[PersonId]) -> Value {
    if persons.is_empty() { json!({}) } else { json!({ "user_ids": persons }) }
}

/// Leaves the HTML out when the event would grow too large with it.
fn shrunk(mut content: Map<String, Value>) -> Value {
    let size = serde_json::to_string(&content).map_or(0, |json| json.len());
    if size > CONTENT_MAX {
        content.remove("format");
        content.remove("formatted_body");
    }
    Value::Object(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_pinged_but_those_who_are_meant() {
        let session = SessionKey::main("!a:hs".into());
        let hostile = "@room [you](https://matrix.to/#/@ann:hs) @ann:hs";
        let event = message(&session, hostile, Weight::Text, &[], None);
        assert_eq!(event.content["m.mentions"], json!({}));
        let event = message(&session, "done", Weight::Text, &["@ann:hs".into()], None);
        assert_eq!(event.content["m.mentions"], json!({"user_ids": ["@ann:hs"]}));
        let event = edit(&"$1".into(), hostile, Weight::Text);
        assert_eq!(event.content["m.mentions"], json!({}));
        assert_eq!(event.content["m.new_content"]["m.mentions"], json!({}));
    }

    #[test]
    fn an_answer_stays_in_its_thread_and_shows_as_a_reply_elsewhere() {
        let thread = SessionKey { room: "!a:hs".into(), thread: Some("$root".into()) };
        let event = message(&thread, "x", Weight::Notice, &[], None);
        assert_eq!(event.content["msgtype"], "m.notice");
        let relation = &event.content["m.relates_to"];
        assert_eq!(relation["rel_type"], "m.thread");
        assert_eq!(
            (&relation["event_id"], &relation["is_falling_back"]),
            (&json!("$root"), &json!(true))
        );
        let event = message(&thread, "x", Weight::Text, &[], Some(&"$q".into()));
        assert_eq!(event.content["m.relates_to"]["m.in_reply_to"]["event_id"], "$q");
        assert_eq!(event.content["m.relates_to"]["is_falling_back"], false);
        let main = SessionKey::main("!a:hs".into());
        let event = message(&main, "x", Weight::Text, &[], None);
        assert_eq!(event.content.get("m.relates_to"), None);
    }

    #[test]
    fn the_body_stays_markdown_and_html_is_there_only_when_it_adds_something() {
        let main = SessionKey::main("!a:hs".into());
        let event = message(&main, "**bold**\u{0}\u{7}", Weight::Text, &[], None);
        assert_eq!(event.content["body"], "**bold**");
        assert_eq!(event.content["formatted_body"], "<p><strong>bold</strong></p>");
        let event = message(&main, "plain", Weight::Text, &[], None);
        assert_eq!(event.content.get("formatted_body"), None);
    }

    #[test]
    fn the_worst_text_of_a_full_part_fits_into_an_encrypted_event() {
        let main = SessionKey::main("!a:hs".into());
        for worst in ["<", "\"", "\\", "&", "\n", "*a* ", "> > > x\n", "ä", "😀", "- "] {
            let markdown = worst.repeat(crate::chat::split::PART_LIMIT / worst.len());
            for event in [
                message(&main, &markdown, Weight::Text, &[], None),
                edit(&"$1".into(), &markdown, Weight::Text),
            ] {
                let size = event.content.to_string().len();
                assert!(size * 4 / 3 + 2048 < 65_536, "{worst:?}: {size}");
            }
        }
    }
}
