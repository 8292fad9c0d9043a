//! Writing down what people did, in one transaction with the position behind it.

use super::address::{self, Facts, Myself};
use super::event::{Event, Kind, Said};
use super::position;
use crate::chat::text;
use crate::model::chat::{Incoming, IncomingBody, Outgoing, OutgoingContent};
use crate::model::ids::{MessageKey, RoomKey, SessionKey};
use crate::store::{StoreError, Tx, inbox, meta, outbox, rooms};
use chrono::{DateTime, Utc};
use std::collections::HashMap;

/// The fact in `meta` that counts the messages which could not be decrypted; for `doctor`.
pub const UNDECRYPTABLE: &str = "matrix_undecryptable";

/// The reaction to a message that cannot be decrypted.
const CANNOT_READ: &str = "🔒";

/// What of one room is to be journaled.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomBatch {
    /// The room.
    pub room: RoomKey,
    /// Whether it is a direct room, or has only one person and the bot in it.
    pub direct: bool,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// When the bot came in or first saw the room, if it did so now.
    pub joined_at: Option<DateTime<Utc>>,
    /// The newest event of the room, if there is a new one.
    pub last_event: Option<MessageKey>,
    /// What persons who are heard did, in order, each with their display name.
    pub events: Vec<(Event, String)>,
}

/// What of one sync is to be journaled.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The position behind it.
    pub token: String,
    /// The rooms.
    pub rooms: Vec<RoomBatch>,
}

/// Journals a batch; returns the newest message for the bot of each session. Safe to repeat.
pub fn write(
    tx: &Tx<'_>,
    batch: &Batch,
    myself: &Myself,
) -> Result<HashMap<SessionKey, MessageKey>, StoreError> {
    let mut read = HashMap::new();
    for room in &batch.rooms {
        if let Some(at) = room.joined_at {
            rooms::set_joined(tx, &room.room, at)?;
            greet(tx, room, myself)?;
        }
        if room.encrypted {
            rooms::set_encrypted(tx, &room.room)?;
        }
        for (event, name) in &room.events {
            let Some(incoming) = incoming(tx, room, event, name, myself)? else { continue };
            let is_new = inbox::insert(tx, &incoming)?;
            if is_new && incoming.addressed && matches!(event.kind, Kind::Message(_)) {
                read.insert(incoming.session, incoming.key);
            }
        }
        if let Some(last) = &room.last_event {
            rooms::set_last_event(tx, &room.room, last)?;
        }
    }
    position::set(tx, &myself.user_id, &batch.token)?;
    Ok(read)
}

/// Says hello, once a room.
fn greet(tx: &Tx<'_>, room: &RoomBatch, myself: &Myself) -> Result<(), StoreError> {
    let hello = Outgoing::notice(
        SessionKey::main(room.room.clone()),
        text::hello(&myself.prefix, room.direct),
    );
    outbox::enqueue(tx, &hello, Some(&format!("hello:{}", room.room)))?;
    Ok(())
}

/// What an event is to the rest of the program, if anything.
fn incoming(
    tx: &Tx<'_>,
    room: &RoomBatch,
    event: &Event,
    name: &str,
    myself: &Myself,
) -> Result<Option<Incoming>, StoreError> {
    let (session, addressed, body) = match &event.kind {
        Kind::Message(said) => {
            let session = SessionKey { room: room.room.clone(), thread: said.thread.clone() };
            let verdict = judge(tx, room, &session, said, myself)?;
            let body = IncomingBody::Text { text: verdict.text, reply_to: said.reply_to.clone() };
            (session, verdict.addressed, body)
        }
        Kind::Edit { of, said } => {
            // What was never a message to us does not become one by being corrected.
            let Some(original) = inbox::find(tx, of)? else { return Ok(None) };
            let verdict = judge(tx, room, &original.session, said, myself)?;
            let body = IncomingBody::Edit { of: of.clone(), text: verdict.text };
            (original.session, original.addressed || verdict.addressed, body)
        }
        Kind::Redaction { of } => {
            let Some(original) = inbox::find(tx, of)? else { return Ok(None) };
            (original.session, original.addressed, IncomingBody::Redaction { of: of.clone() })
        }
        Kind::Reaction { to, key } => {
            let (session, addressed) = match outbox::row_of_key(tx, to)? {
                Some(row) => (outbox::session_of(tx, row)?, true),
                None => (inbox::find(tx, to)?.map(|original| original.session), false),
            };
            let Some(session) = session else { return Ok(None) };
            let body = IncomingBody::Reaction { to: to.clone(), key: key.clone() };
            (session, addressed, body)
        }
        Kind::Undecryptable => {
            mark_undecryptable(tx, &room.room, &event.key)?;
            return Ok(None);
        }
        Kind::Membership { .. } | Kind::Other => return Ok(None),
    };
    Ok(Some(Incoming {
        key: event.key.clone(),
        session,
        sender: event.sender.clone(),
        sender_name: name.to_owned(),
        sent_at: event.sent_at,
        addressed,
        body,
    }))
}

/// Whether what was said is for the bot, as the room stands now.
fn judge(
    tx: &Tx<'_>,
    room: &RoomBatch,
    session: &SessionKey,
    said: &Said,
    myself: &Myself,
) -> Result<address::Addressing, StoreError> {
    let is_ours = |key: &Option<MessageKey>| match key {
        Some(key) => outbox::row_of_key(tx, key).map(|row| row.is_some()),
        None => Ok(false),
    };
    let facts = Facts {
        direct: room.direct,
        ambient: rooms::settings(tx, &room.room)?.ambient,
        own_thread: outbox::has_spoken_in(tx, session)? || is_ours(&session.thread)?,
        reply_to_bot: is_ours(&said.reply_to)?,
        mentioned: said.mentions.contains(&myself.user_id),
        body: &said.body,
        formatted_body: said.formatted_body.as_deref(),
    };
    Ok(address::decide(&facts, myself))
}

/// Marks a message that cannot be decrypted with a reaction, and counts it.
fn mark_undecryptable(tx: &Tx<'_>, room: &RoomKey, message: &MessageKey) -> Result<(), StoreError> {
    let dedup = format!("undecryptable:{message}");
    if outbox::is_enqueued(tx, &dedup)? {
        return Ok(());
    }
    let mark = Outgoing {
        session: SessionKey::main(room.clone()),
        content: OutgoingContent::Reaction { to: message.clone(), key: CANNOT_READ.to_owned() },
        item: None,
    };
    outbox::enqueue(tx, &mark, Some(&dedup))?;
    let count: u64 =
        meta::find(tx, UNDECRYPTABLE)?.and_then(|count| count.parse().ok()).unwrap_or(0);
    meta::set(tx, UNDECRYPTABLE, &(count + 1).to_string())?;
    tracing::warn!(%room, %message, "a message cannot be decrypted");
    Ok(())
}

#[cfg(test)]
mod tests;
