//! What an event of a room means to us.
//!
//! Reads the JSON itself, leniently: an event that a stricter reader would refuse must not vanish,
//! and anything unknown is [`Kind::Other`].

use crate::chat::text;
use crate::clock::from_millis;
use crate::model::ids::{MessageKey, PersonId};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// An event with what every event has.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its id.
    pub key: MessageKey,
    /// Who sent it.
    pub sender: PersonId,
    /// When, by the sender's server.
    pub sent_at: DateTime<Utc>,
    /// What it is.
    pub kind: Kind,
}

/// What an event is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A message.
    Message(Said),
    /// A correction of a message.
    Edit {
        /// The message.
        of: MessageKey,
        /// What it says now.
        said: Said,
    },
    /// A message is taken back.
    Redaction {
        /// The message.
        of: MessageKey,
    },
    /// A reaction.
    Reaction {
        /// The message reacted to.
        to: MessageKey,
        /// The emoji, without variation selectors.
        key: String,
    },
    /// A message whose key is missing.
    Undecryptable,
    /// Somebody's membership changed.
    Membership {
        /// Whose.
        user: String,
        /// Whether they came in with it (and not only changed their name).
        joined: bool,
    },
    /// Anything else: state, notices, calls, polls.
    Other,
}

/// The text of a message, with what decides whom it is for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said {
    /// The plain text, without quotes of what it replies to.
    pub body: String,
    /// The HTML.
    pub formatted_body: Option<String>,
    /// Whom `m.mentions` names.
    pub mentions: Vec<String>,
    /// The root of its thread.
    pub thread: Option<MessageKey>,
    /// The message that it replies to, other than as a fallback for clients without threads.
    pub reply_to: Option<MessageKey>,
}

/// Reads an event; `None` when it has no id or sender that could be worked with.
pub fn read(json: &Value) -> Option<Event> {
    let key = string(&json["event_id"])?;
    let sender = string(&json["sender"])?;
    // Both become parts of stored session keys, which are parted by a bar.
    if key.contains('|') {
        return None;
    }
    Some(Event {
        key: key.into(),
        sender: sender.into(),
        sent_at: from_millis(json["origin_server_ts"].as_i64().unwrap_or(0)),
        kind: kind(json),
    })
}

fn kind(json: &Value) -> Kind {
    let content = &json["content"];
    match json["type"].as_str().unwrap_or_default() {
        // A redacted message has lost its content and says nothing any more.
        "m.room.message" => message(content).unwrap_or(Kind::Other),
        "m.room.encrypted" if content["algorithm"].is_string() => Kind::Undecryptable,
        "m.room.redaction" => {
            match string(&json["redacts"]).or_else(|| string(&content["redacts"])) {
                Some(of) => Kind::Redaction { of: of.into() },
                None => Kind::Other,
            }
        }
        "m.reaction" => reaction(content).unwrap_or(Kind::Other),
        "m.room.member" => membership(json).unwrap_or(Kind::Other),
        _ => Kind::Other,
    }
}

fn message(content: &Value) -> Option<Kind> {
    let relation = &content["m.relates_to"];
    if relation["rel_type"] == "m.replace" {
        let of = string(&relation["event_id"])?.into();
        let mut said = said(&content["m.new_content"])?;
        if said.mentions.is_empty() {
            said.mentions = mentions(content);
        }
        return Some(Kind::Edit { of, said });
    }
    let mut said = said(content)?;
    if relation["rel_type"] == "m.thread" {
        said.thread =
            string(&relation["event_id"]).filter(|root| !root.contains('|')).map(Into::into);
    }
    let reply_to = string(&relation["m.in_reply_to"]["event_id"]);
    if reply_to.is_some() {
        strip_quote(&mut said);
    }
    if !relation["is_falling_back"].as_bool().unwrap_or(false) {
        said.reply_to = reply_to.map(Into::into);
    }
    Some(Kind::Message(said))
}

/// The text of a message, if it is one that people write.
fn said(content: &Value) -> Option<Said> {
    let body = string(&content["body"]).unwrap_or_default();
    let body = match content["msgtype"].as_str()? {
        "m.text" => body,
        "m.emote" => format!("* {body}"),
        "m.image" | "m.file" | "m.audio" | "m.video" => attachment(content, &body),
        "m.location" => format!("{body} ({})", string(&content["geo_uri"])?),
        // Notices are what bots say: answering them makes two bots talk for ever.
        _ => return None,
    };
    Some(Said {
        body,
        formatted_body: string(&content["formatted_body"]),
        mentions: mentions(content),
        thread: None,
        reply_to: None,
    })
}

/// A caption, and a word about the file that cannot be read yet.
fn attachment(content: &Value, body: &str) -> String {
    let name = string(&content["filename"]).unwrap_or_else(|| body.to_owned());
    let info = &content["info"];
    let media_type = info["mimetype"].as_str().unwrap_or("unknown type");
    let caption = if name == body { "" } else { body };
    let note = text::attachment(&name, media_type, info["size"].as_u64());
    format!("{caption}\n{note}").trim().to_owned()
}

fn mentions(content: &Value) -> Vec<String> {
    let users = content["m.mentions"]["user_ids"].as_array();
    users.into_iter().flatten().filter_map(string).collect()
}

fn reaction(content: &Value) -> Option<Kind> {
    let relation = &content["m.relates_to"];
    let key = string(&relation["key"])?.replace('\u{fe0f}', "");
    Some(Kind::Reaction { to: string(&relation["event_id"])?.into(), key })
}

fn membership(json: &Value) -> Option<Kind> {
    let is_in = |content: &Value| content["membership"] == "join";
    let before = [&json["unsigned"]["prev_content"], &json["prev_content"]];
    Some(Kind::Membership {
        user: string(&json["state_key"])?,
        joined: is_in(&json["content"]) && !before.into_iter().any(is_in),
    })
}

/// Takes the quote of the message replied to, which old clients add, off the text.
fn strip_quote(said: &mut Said) {
    if said.body.starts_with("> ") {
        let rest: Vec<&str> = said.body.lines().skip_while(|line| line.starts_with('>')).collect();
        // Only the form that the specification had: the quote, an empty line, the text.
        if rest.first().is_some_and(|line| line.is_empty()) {
            said.body = rest[1..].join("\n");
        }
    }
    if let Some(html) = &mut said.formatted_body
        && let Some(end) = html.find("</mx-reply>")
    {
        html.drain(..end + "</mx-reply>".len());
    }
}

fn string(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
