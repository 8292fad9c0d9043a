//! What of a sync response is to be journaled.
//!
//! A response may have gaps: the server sends at most so many events a room and says `limited`.
//! Then the room is paged back to the newest event that was journaled. Nothing from before the bot
//! came into a room, or before its very first start, is a request. After a loss of the SDK's store
//! the first sync knows no position; each room is then paged back in the same way, and what was
//! journaled before is known by its id.

use super::access::Access;
use super::address::localpart;
use super::event::{self, Event, Kind};
use super::journal::{Batch, RoomBatch};
use crate::clock::from_millis;
use crate::model::ids::{MessageKey, PersonId, RoomKey};
use crate::store::rooms::{self, Journaled};
use crate::store::{Store, StoreError};
use chrono::{DateTime, Utc};
use matrix_sdk::deserialized_responses::{TimelineEvent, VerificationLevel, VerificationState};
use matrix_sdk::room::MessagesOptions;
use matrix_sdk::ruma::events::StateEventType;
use matrix_sdk::ruma::{OwnedRoomId, UserId, uint};
use matrix_sdk::sync::{JoinedRoomUpdate, SyncResponse};
use matrix_sdk::{Client, Room};
use std::collections::HashMap;

/// How many pages of a room are read at most to close one gap.
const PAGES_MAX: usize = 500;

/// Why a response could not be worked through; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// The homeserver.
    #[error(transparent)]
    Matrix(#[from] matrix_sdk::Error),
    /// Our database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What it takes to read a response.
pub struct Gatherer<'a> {
    /// The account.
    pub client: &'a Client,
    /// Our database.
    pub store: &'a Store,
    /// Who is heard, and where.
    pub access: &'a Access,
    /// The bot's own id.
    pub own: &'a str,
    /// The position before this response; `None` at the very first start.
    pub position: Option<&'a str>,
}

impl Gatherer<'_> {
    /// Gathers what is to be journaled of a response; closes gaps by paging back.
    pub async fn gather(&self, response: &SyncResponse) -> Result<Batch, GatherError> {
        let mut batches = vec![];
        for (id, update) in &response.rooms.joined {
            if let Some(batch) = self.room(id, update).await? {
                batches.push(batch);
            }
        }
        Ok(Batch { token: response.next_batch.clone(), rooms: batches })
    }

    async fn room(
        &self,
        id: &OwnedRoomId,
        update: &JoinedRoomUpdate,
    ) -> Result<Option<RoomBatch>, GatherError> {
        let key = RoomKey::from(id.as_str());
        // A bar parts the two halves of a stored session key.
        if !self.access.allows_room(&key) || key.as_str().contains('|') {
            return Ok(None);
        }
        let Some(room) = self.client.get_room(id) else { return Ok(None) };
        let wanted = key.clone();
        let known = self.store.read(move |conn| rooms::journaled(conn, &wanted)).await?;
        let timeline = &update.timeline;
        if timeline.events.is_empty() && !timeline.limited && known.is_some() {
            return Ok(None);
        }
        let events: Vec<Event> = timeline.events.iter().filter_map(read).collect();
        let last_event = events.last().map(|event| event.key.clone());
        let gap = if timeline.limited { timeline.prev_batch.as_deref() } else { None };
        let (joined_at, events) = self.requests(&room, known, events, gap).await?;
        Ok(Some(RoomBatch {
            direct: is_direct(&room).await,
            encrypted: room.encryption_state().is_encrypted(),
            joined_at,
            last_event,
            events: self.heard(&room, events).await,
            room: key,
        }))
    }

    /// The events that may be requests, oldest first, with those of the gap before them; and when
    /// the bot came in, if it did so now.
    async fn requests(
        &self,
        room: &Room,
        known: Option<Journaled>,
        events: Vec<Event>,
        gap: Option<&str>,
    ) -> Result<(Option<DateTime<Utc>>, Vec<Event>), GatherError> {
        if known.is_none() && self.position.is_none() {
            // The very first start: all of it was said before.
            return Ok((Some(self.store.clock().now()), vec![]));
        }
        if let Some((at, rest)) = after_join(&events, self.own) {
            return Ok((Some(at), rest));
        }
        match known {
            Some(known) => {
                if let Some(rest) = after_key(&events, known.last_event.as_ref()) {
                    return Ok((None, rest));
                }
                let Some(from) = gap else { return Ok((None, events)) };
                let older = self.page_back(room, from, &known).await?;
                tracing::debug!(room = %room.room_id(), events = older.len(), "a gap was paged back");
                let all = [older, events].concat();
                Ok(match after_join(&all, self.own) {
                    Some((at, rest)) => (Some(at), rest),
                    None => (None, all),
                })
            }
            // The bot came in since, and not within these events.
            None => self.since_join(room, events, gap).await,
        }
    }

    /// For a room whose join is not among the events: pages back to it, or goes by its time.
    async fn since_join(
        &self,
        room: &Room,
        events: Vec<Event>,
        gap: Option<&str>,
    ) -> Result<(Option<DateTime<Utc>>, Vec<Event>), GatherError> {
        let joined_at = self.own_join(room).await.unwrap_or_else(|| self.store.clock().now());
        let is_later = |event: &Event| event.sent_at > joined_at;
        let known = Journaled { joined_at: Some(joined_at), last_event: None };
        let older = match gap {
            Some(from) if events.iter().all(is_later) => self.page_back(room, from, &known).await?,
            Some(_) | None => vec![],
        };
        let all = [older, events].concat();
        Ok(match after_join(&all, self.own) {
            Some((at, rest)) => (Some(at), rest),
            None => (Some(joined_at), all.into_iter().filter(is_later).collect()),
        })
    }

    /// When the bot came in, by the room's state.
    async fn own_join(&self, room: &Room) -> Option<DateTime<Utc>> {
        let state = room.get_state_event(StateEventType::RoomMember, self.own).await.ok()??;
        let json = serde_json::to_value(&state).ok()?;
        // The SDK wraps the event in the name of the sync that brought it.
        let event = json.as_object()?.values().find(|inner| inner.is_object()).unwrap_or(&json);
        event["origin_server_ts"].as_i64().map(from_millis)
    }

    /// The events before `from` that were not journaled yet, oldest first.
    async fn page_back(
        &self,
        room: &Room,
        from: &str,
        known: &Journaled,
    ) -> Result<Vec<Event>, GatherError> {
        let mut found = vec![];
        let mut from = from.to_owned();
        for _page in 0..PAGES_MAX {
            let mut options = MessagesOptions::backward().from(from.as_str());
            options.limit = uint!(100);
            options.to = self.position.map(str::to_owned);
            let page = room.messages(options).await?;
            let is_empty = page.chunk.is_empty();
            for event in page.chunk.iter().filter_map(read) {
                let is_known = known.last_event.as_ref() == Some(&event.key);
                let is_before = known.last_event.is_none()
                    && known.joined_at.is_some_and(|at| event.sent_at < at);
                if is_known || is_before {
                    found.reverse();
                    return Ok(found);
                }
                let is_join = is_own_join(&event, self.own);
                found.push(event);
                if is_join {
                    found.reverse();
                    return Ok(found);
                }
            }
            match page.end {
                Some(end) if !is_empty => from = end,
                Some(_) | None => {
                    found.reverse();
                    return Ok(found);
                }
            }
        }
        tracing::error!(
            room = %room.room_id(),
            events = found.len(),
            "the gap in this room is too long: older messages in it are not answered"
        );
        found.reverse();
        Ok(found)
    }

    /// Of all events, what persons who are heard did, with their display names.
    async fn heard(&self, room: &Room, events: Vec<Event>) -> Vec<(Event, String)> {
        let mut names: HashMap<PersonId, String> = HashMap::new();
        let mut heard = vec![];
        for event in events {
            let is_idle = matches!(event.kind, Kind::Membership { .. } | Kind::Other);
            let sender = event.sender.as_str();
            if is_idle || sender == self.own || !self.access.allows_user(sender) {
                continue;
            }
            let name = match names.get(&event.sender) {
                Some(name) => name.clone(),
                None => {
                    let name = self.display_name(room, sender).await;
                    names.insert(event.sender.clone(), name.clone());
                    name
                }
            };
            heard.push((event, name));
        }
        heard
    }

    async fn display_name(&self, room: &Room, user: &str) -> String {
        let Ok(id) = UserId::parse(user) else { return user.to_owned() };
        let profile = self.client.state_store().get_profile(room.room_id(), &id).await;
        profile
            .ok()
            .flatten()
            .and_then(|profile| profile.content.displayname)
            .unwrap_or_else(|| localpart(user).to_owned())
    }
}

/// Reads an event of a timeline.
fn read(event: &TimelineEvent) -> Option<Event> {
    let json = serde_json::from_str(event.raw().json().get()).ok()?;
    let mut read = event::read(&json)?;
    if event.kind.is_utd() {
        read.kind = Kind::Undecryptable;
    }
    // Encrypted by somebody other than it claims: a forgery of the homeserver.
    let forged = event.encryption_info().is_some_and(|info| {
        info.verification_state
            == VerificationState::Unverified(VerificationLevel::MismatchedSender)
    });
    if forged {
        tracing::warn!(event = %read.key, "ignored a message with a forged sender");
        read.kind = Kind::Other;
    }
    Some(read)
}

fn is_own_join(event: &Event, own: &str) -> bool {
    matches!(&event.kind, Kind::Membership { user, joined: true } if user == own)
}

/// The events after the bot's last coming in, and when that was.
fn after_join(events: &[Event], own: &str) -> Option<(DateTime<Utc>, Vec<Event>)> {
    let at = events.iter().rposition(|event| is_own_join(event, own))?;
    Some((events[at].sent_at, events[at + 1..].to_vec()))
}

/// The events after `key`, if it is among them.
fn after_key(events: &[Event], key: Option<&MessageKey>) -> Option<Vec<Event>> {
    let at = events.iter().rposition(|event| Some(&event.key) == key)?;
    Some(events[at + 1..].to_vec())
}

/// Whether a room is marked as direct, or has at most one person beside the bot in it.
async fn is_direct(room: &Room) -> bool {
    // None at all: the server has not told yet.
    (1..=2).contains(&room.active_members_count()) || room.is_direct().await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: &str, kind: Kind) -> Event {
        Event { key: key.into(), sender: "@ann:hs".into(), sent_at: from_millis(1), kind }
    }

    fn keys(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.key.as_str()).collect()
    }

    #[test]
    fn only_what_follows_the_last_coming_in_counts() {
        let member = |user: &str, joined| Kind::Membership { user: user.to_owned(), joined };
        let events = [
            event("$old", Kind::Other),
            event("$in", member("@bot:hs", true)),
            event("$other", member("@ann:hs", true)),
            event("$again", member("@bot:hs", true)),
            event("$renamed", member("@bot:hs", false)),
            event("$new", Kind::Other),
        ];
        let (_, rest) = after_join(&events, "@bot:hs").unwrap();
        assert_eq!(keys(&rest), ["$renamed", "$new"]);
        assert!(after_join(&events[..1], "@bot:hs").is_none());
        assert_eq!(keys(&after_key(&events, Some(&"$renamed".into())).unwrap()), ["$new"]);
        assert!(after_key(&events, None).is_none());
    }
}
