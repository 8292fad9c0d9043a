//! Events as a client sees them, messages as a person writes them, and the record of both.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Instant;

use serde_json::{Map, Value, json};

/// Something that happened in a room: a timeline or state event, a typing notice, a receipt.
#[derive(Debug, Clone)]
pub struct Event {
    pub room: String,
    /// The event's type, as `m.room.message`, `m.typing`, `m.receipt`.
    pub kind: String,
    pub sender: String,
    /// Empty for typing notices, receipts and invites.
    pub id: String,
    pub content: Value,
    pub state_key: Option<String>,
    /// When this client got it.
    pub seen: Instant,
    /// Whether it arrived encrypted and was decrypted.
    pub decrypted: bool,
    /// The event as the server sent it (decrypted, if it was encrypted).
    pub raw: Value,
}

impl Event {
    /// Reads an event of the client-server API.
    pub fn new(room: &str, raw: Value) -> Self {
        let text = |key: &str| raw[key].as_str().unwrap_or_default().to_owned();
        Self {
            room: room.to_owned(),
            kind: text("type"),
            sender: text("sender"),
            id: text("event_id"),
            content: raw["content"].clone(),
            state_key: raw["state_key"].as_str().map(str::to_owned),
            seen: Instant::now(),
            decrypted: false,
            raw,
        }
    }

    /// A message of any kind, edits included.
    pub fn is_message(&self) -> bool {
        self.kind == "m.room.message"
    }

    /// `m.text`, `m.notice`, `m.file` …; empty when it is not a message.
    pub fn msgtype(&self) -> &str {
        self.shown()["msgtype"].as_str().unwrap_or_default()
    }

    /// The plain text shown: of an edit, the new text.
    pub fn body(&self) -> &str {
        self.shown()["body"].as_str().unwrap_or_default()
    }

    /// The rich text shown: of an edit, the new one.
    pub fn html(&self) -> &str {
        self.shown()["formatted_body"].as_str().unwrap_or_default()
    }

    fn shown(&self) -> &Value {
        if self.edit_of().is_some() { &self.content["m.new_content"] } else { &self.content }
    }

    fn relation(&self, kind: &str) -> Option<&str> {
        let relation = &self.content["m.relates_to"];
        (relation["rel_type"] == kind).then(|| relation["event_id"].as_str()).flatten()
    }

    /// The id of the message that this one replaces.
    pub fn edit_of(&self) -> Option<&str> {
        self.relation("m.replace")
    }

    /// The root of the thread that this message is in.
    pub fn thread(&self) -> Option<&str> {
        self.relation("m.thread")
    }

    /// The message that this one answers (in a thread also the fallback for old clients).
    pub fn reply_to(&self) -> Option<&str> {
        self.content["m.relates_to"]["m.in_reply_to"]["event_id"].as_str()
    }

    /// Of a reaction: the message and the key.
    pub fn reaction(&self) -> Option<(&str, &str)> {
        let key = self.content["m.relates_to"]["key"].as_str()?;
        Some((self.relation("m.annotation")?, key))
    }

    /// Of a redaction: the event that it removes.
    pub fn redacts(&self) -> Option<&str> {
        self.content["redacts"].as_str().or(self.raw["redacts"].as_str())
    }

    /// Who is notified by name; top level only, as servers and clients read it.
    pub fn mentions(&self) -> Vec<&str> {
        let ids = self.content["m.mentions"]["user_ids"].as_array();
        ids.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Of a typing notice: who is typing.
    pub fn typing(&self) -> Vec<&str> {
        let ids = if self.kind == "m.typing" { self.content["user_ids"].as_array() } else { None };
        ids.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Of a receipt: whether `user` has read `event`.
    pub fn is_receipt_of(&self, user: &str, event: &str) -> bool {
        self.kind == "m.receipt"
            && ["m.read", "m.read.private"]
                .iter()
                .any(|kind| !self.content[event][kind][user].is_null())
    }

    /// A message of `sender` that is shown as something with `part` in it.
    pub fn says(&self, sender: &str, part: &str) -> bool {
        self.is_message() && self.sender == sender && self.body().contains(part)
    }
}

/// A message to send, with what it refers to.
#[derive(Debug, Clone)]
pub struct Message {
    content: Map<String, Value>,
    edit_of: Option<String>,
}

impl Message {
    /// Plain text, mentioning nobody.
    pub fn text(body: &str) -> Self {
        Self::of_type("m.text", body)
    }

    /// What bots say, and bots must not answer.
    pub fn notice(body: &str) -> Self {
        Self::of_type("m.notice", body)
    }

    /// Any `msgtype`.
    pub fn of_type(msgtype: &str, body: &str) -> Self {
        let mut content = Map::new();
        content.insert("msgtype".into(), json!(msgtype));
        content.insert("body".into(), json!(body));
        Self { content, edit_of: None }
    }

    /// Sets any key of the content.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.content.insert(key.to_owned(), value);
        self
    }

    /// Rich text beside the plain one.
    pub fn html(self, html: &str) -> Self {
        self.with("format", json!("org.matrix.custom.html")).with("formatted_body", json!(html))
    }

    /// Notifies `user` by name, as clients do for a pill.
    pub fn mention(self, user: &str) -> Self {
        let mut ids = match &self.content.get("m.mentions") {
            Some(mentions) => mentions["user_ids"].as_array().cloned().unwrap_or_default(),
            None => vec![],
        };
        ids.push(json!(user));
        self.with("m.mentions", json!({"user_ids": ids}))
    }

    /// Answers `event` (keeps a thread that was set).
    pub fn reply_to(mut self, event: &str) -> Self {
        let relation = self.content.entry("m.relates_to").or_insert_with(|| json!({}));
        relation["m.in_reply_to"] = json!({"event_id": event});
        if relation["rel_type"] == "m.thread" {
            relation["is_falling_back"] = json!(false);
        }
        self
    }

    /// Says it in the thread that begins with `root`.
    pub fn in_thread(self, root: &str) -> Self {
        let relation = json!({
            "rel_type": "m.thread",
            "event_id": root,
            "is_falling_back": true,
            "m.in_reply_to": {"event_id": root},
        });
        self.with("m.relates_to", relation)
    }

    /// Replaces the message `event`.
    pub fn edit_of(mut self, event: &str) -> Self {
        self.edit_of = Some(event.to_owned());
        self
    }

    /// The event's content.
    pub fn into_content(self) -> Value {
        let Some(edited) = self.edit_of else { return Value::Object(self.content) };
        let mut content = self.content.clone();
        let body = self.content["body"].as_str().unwrap_or_default();
        content.insert("body".into(), json!(format!("* {body}")));
        content.insert("m.new_content".into(), Value::Object(self.content));
        content.insert("m.relates_to".into(), json!({"rel_type": "m.replace", "event_id": edited}));
        Value::Object(content)
    }
}

impl From<&str> for Message {
    fn from(body: &str) -> Self {
        Self::text(body)
    }
}

impl From<String> for Message {
    fn from(body: String) -> Self {
        Self::text(&body)
    }
}

/// Everything one client has seen, in the order of arrival.
#[derive(Debug, Default)]
pub struct History {
    events: Vec<Event>,
    /// Places in `events` that an earlier wait has returned.
    taken: HashSet<usize>,
    known: HashSet<String>,
}

impl History {
    /// Adds an event, unless it is there; decrypted it counts as another.
    pub fn add(&mut self, event: Event) {
        if event.id.is_empty() || self.known.insert(format!("{} {}", event.id, event.kind)) {
            self.events.push(event);
        }
    }

    /// All events so far.
    pub fn all(&self) -> &[Event] {
        &self.events
    }

    /// The first event that fits and was not returned before; it will not be returned again.
    pub fn take(&mut self, fits: impl Fn(&Event) -> bool) -> Option<Event> {
        let fresh = |place: &usize| !self.taken.contains(place) && fits(&self.events[*place]);
        let place = (0..self.events.len()).find(fresh)?;
        self.taken.insert(place);
        Some(self.events[place].clone())
    }

    /// The text of a message after all its edits.
    pub fn latest_text(&self, id: &str) -> Option<&str> {
        let concerns = |event: &&Event| event.id == id || event.edit_of() == Some(id);
        self.events.iter().rev().find(concerns).map(Event::body)
    }

    /// A line an event, for a message about what went wrong.
    pub fn print(&self) -> String {
        let Some(first) = self.events.first() else { return "(nothing at all)".to_owned() };
        let mut text = String::new();
        for event in &self.events {
            let age = event.seen.duration_since(first.seen).as_secs_f32();
            let what = if event.is_message() {
                let body: String = event.body().chars().take(400).collect();
                let edit = event.edit_of().map(|id| format!(" (edit of {id})")).unwrap_or_default();
                let thread = event.thread().map(|id| format!(" (thread {id})")).unwrap_or_default();
                format!("{}{edit}{thread}: {body}", event.msgtype())
            } else {
                event.content.to_string().chars().take(400).collect()
            };
            let Event { room, kind, sender, id, .. } = event;
            writeln!(text, "{age:8.3} s {room} {kind} {id} <{sender}> {what}").unwrap();
        }
        text
    }
}
